//! A set of packet ids.

/// Packet ids from 1 to a largest. Up to eight kilobytes, allocated with the first member.
pub(crate) struct PacketIds {
    words: Vec<u64>,
    len: usize,
    max: u16,
    last: u16,
}

impl Default for PacketIds {
    fn default() -> Self {
        Self::new(u16::MAX)
    }
}

impl PacketIds {
    /// An empty set of ids up to this.
    pub(crate) const fn new(max: u16) -> Self {
        Self { words: Vec::new(), len: 0, max, last: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds `id`; false if it was there.
    pub(crate) fn insert(&mut self, id: u16) -> bool {
        if self.words.is_empty() {
            self.words.resize(usize::from(self.max >> 6) + 1, 0);
        }
        let (word, bit) = place(id);
        let Some(word) = self.words.get_mut(word) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        self.len += usize::from(fresh);
        fresh
    }

    /// Adds the next id that is free, if there is one. As late as can be an id is used again.
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.len >= usize::from(self.max) {
            return None;
        }
        loop {
            self.last = if self.last >= self.max { 1 } else { self.last + 1 };
            if self.insert(self.last) {
                return Some(self.last);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u16) {
        let (word, bit) = place(id);
        if let Some(word) = self.words.get_mut(word) {
            self.len -= usize::from(*word & bit != 0);
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
        for id in [1, 63, 64, 65, u16::MAX] {
            assert!(ids.insert(id) && !ids.insert(id), "{id}");
            assert_eq!(ids.len(), 1);
            ids.remove(id);
            assert!(ids.len() == 0 && ids.insert(id), "{id}");
            ids.remove(id);
        }
    }

    #[test]
    fn ids_are_taken_in_turn_while_there_are_any() {
        let mut ids = PacketIds::new(3);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(1), Some(2), Some(3), None]
        );
        ids.remove(2);
        ids.remove(3);
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(2), Some(3), None]);
        ids.remove(1);
        ids.remove(70);
        assert_eq!([ids.take(), ids.take()], [Some(1), None]);
    }
}
