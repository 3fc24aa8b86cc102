//! A set of packet ids.

/// Eight kilobytes, allocated with the first member.
#[derive(Default)]
pub(crate) struct PacketIds(Vec<u64>);

impl PacketIds {
    /// Adds `id`; false if it was there.
    pub(crate) fn insert(&mut self, id: u16) -> bool {
        if self.0.is_empty() {
            self.0.resize(1024, 0);
        }
        let (word, bit) = place(id);
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    pub(crate) fn remove(&mut self, id: u16) {
        let (word, bit) = place(id);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }
}

fn place(id: u16) -> (usize, u64) {
    (usize::from(id >> 6), 1 << (id & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set() {
        let mut ids = PacketIds::default();
        ids.remove(9);
        for id in [0, 1, 63, 64, 65, u16::MAX] {
            assert!(ids.insert(id) && !ids.insert(id), "{id}");
            ids.remove(id);
            assert!(ids.insert(id), "{id}");
        }
    }
}
