//! What an epoch changes in stored state, as one flat block of bytes: puts, deletes and deletions of
//! whole ranges, in order. A shard fills one at a barrier; the store keeps it as it is until it folds it.
//!
//! ```text
//! block  = change*
//! change = 1 u16:key-length u32:value-length key value     put
//!        | 2 u16:key-length key                            delete
//!        | 3 u16:from-length u16:to-length from to         delete from (included) to (excluded)
//! ```
//! Numbers are little-endian. The block carries no checksum: whoever stores it adds one.

/// A key has at most this many bytes.
pub const STATE_KEY_BYTES_MAX: usize = u16::MAX as usize;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;

/// One change of stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The key has this value from now on.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// All keys of a range are gone.
    DeleteRange {
        /// The first key that is gone.
        from: &'a [u8],
        /// The first key that stays.
        to: &'a [u8],
    },
}

/// A block of changes under construction. Cleared, it keeps its buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    bytes: Vec<u8>,
    count: usize,
    too_long: bool,
}

impl Changes {
    /// No changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of changes.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The block.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The block, taken out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Forgets all changes and keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.too_long = false;
    }

    /// Adds the changes of `other` behind these, and empties it.
    pub fn append(&mut self, other: &mut Self) {
        self.bytes.append(&mut other.bytes);
        self.too_long |= std::mem::take(&mut other.too_long);
        self.count += std::mem::take(&mut other.count);
    }

    /// Whether a key was over [`STATE_KEY_BYTES_MAX`] or a value over 4 GiB: the block must not be stored.
    pub fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Puts a value. What is [too long](Self::is_too_long) spoils the block.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_with(
            |out| out.extend_from_slice(key),
            |mut out| {
                out.extend_from_slice(value);
                out
            },
        );
    }

    /// Puts a value, with key and value written straight into the block. `value` gets the block and
    /// returns it with the value behind what was there.
    pub fn put_with(
        &mut self,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(Vec<u8>) -> Vec<u8>,
    ) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[PUT, 0, 0, 0, 0, 0, 0]);
        key(&mut self.bytes);
        let key_length = self.end_key(at + 7);
        let value_at = self.bytes.len();
        self.bytes = value(std::mem::take(&mut self.bytes));
        let value_length = u32::try_from(self.bytes.len() - value_at).unwrap_or(u32::MAX);
        self.too_long |= value_length == u32::MAX;
        self.bytes.truncate(value_at + value_length as usize);
        self.bytes[at + 1..at + 3].copy_from_slice(&key_length.to_le_bytes());
        self.bytes[at + 3..at + 7].copy_from_slice(&value_length.to_le_bytes());
        self.count += 1;
    }

    /// Deletes the key that `key` writes.
    pub fn delete_with(&mut self, key: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[DELETE, 0, 0]);
        key(&mut self.bytes);
        let length = self.end_key(at + 3);
        self.bytes[at + 1..at + 3].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.delete_with(|out| out.extend_from_slice(key));
    }

    /// Deletes all keys from `from` on that are below `to`.
    pub fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[DELETE_RANGE, 0, 0, 0, 0]);
        self.bytes.extend_from_slice(from);
        let from_length = self.end_key(at + 5);
        let to_at = self.bytes.len();
        self.bytes.extend_from_slice(to);
        let to_length = self.end_key(to_at);
        self.bytes[at + 1..at + 3].copy_from_slice(&from_length.to_le_bytes());
        self.bytes[at + 3..at + 5].copy_from_slice(&to_length.to_le_bytes());
        self.count += 1;
    }

    /// Ends a key that began at `from`; its length.
    fn end_key(&mut self, from: usize) -> u16 {
        self.too_long |= self.bytes.len() - from > STATE_KEY_BYTES_MAX;
        let length = u16::try_from(self.bytes.len() - from).unwrap_or(u16::MAX);
        self.bytes.truncate(from + usize::from(length));
        length
    }

    /// The changes of a block, in order.
    pub fn read(block: &[u8]) -> impl Iterator<Item = Result<Change<'_>, ChangesDamaged>> {
        let mut rest = block;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let position = block.len() - rest.len();
            let change = next_change(&mut rest).ok_or(ChangesDamaged { position });
            if change.is_err() {
                rest = &[];
            }
            Some(change)
        })
    }
}

/// A block that is not what [`Changes`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block of changes is damaged at byte {position}")]
pub struct ChangesDamaged {
    /// Where the change begins that cannot be read.
    pub position: usize,
}

fn next_change<'a>(rest: &mut &'a [u8]) -> Option<Change<'a>> {
    let [kind] = take_array(rest)?;
    match kind {
        PUT => {
            let key_length = u16::from_le_bytes(take_array(rest)?);
            let value_length = u32::from_le_bytes(take_array(rest)?);
            let key = take(rest, key_length.into())?;
            Some(Change::Put { key, value: take(rest, value_length as usize)? })
        }
        DELETE => {
            let length = u16::from_le_bytes(take_array(rest)?);
            Some(Change::Delete { key: take(rest, length.into())? })
        }
        DELETE_RANGE => {
            let from_length = u16::from_le_bytes(take_array(rest)?);
            let to_length = u16::from_le_bytes(take_array(rest)?);
            let from = take(rest, from_length.into())?;
            Some(Change::DeleteRange { from, to: take(rest, to_length.into())? })
        }
        _ => None,
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order() {
        let mut changes = Changes::new();
        changes.put(b"a", b"1");
        changes.delete(b"b");
        changes.delete_range(b"c", b"d");
        changes.put(b"", b"");
        let read: Vec<_> = Changes::read(changes.as_bytes()).collect::<Result<_, _>>().unwrap();
        let expected = [
            Change::Put { key: b"a", value: b"1" },
            Change::Delete { key: b"b" },
            Change::DeleteRange { from: b"c", to: b"d" },
            Change::Put { key: b"", value: b"" },
        ];
        assert_eq!((read.as_slice(), changes.len()), (&expected[..], 4));
    }

    #[test]
    fn a_block_cut_anywhere_but_between_changes_is_damaged() {
        let mut changes = Changes::new();
        changes.put(b"key", b"value");
        let first = changes.as_bytes().len();
        changes.delete_range(b"from", b"to");
        let whole = changes.as_bytes();
        for end in 0..=whole.len() {
            let damaged = Changes::read(&whole[..end]).any(|change| change.is_err());
            assert_eq!(damaged, ![0, first, whole.len()].contains(&end), "cut at {end}");
        }
        assert!(Changes::read(&[9]).any(|change| change == Err(ChangesDamaged { position: 0 })));
    }

    #[test]
    fn a_block_that_is_cleared_or_appended_has_nothing_left() {
        let mut changes = Changes::new();
        assert!(changes.is_empty());
        changes.put(b"a", b"1");
        changes.delete(b"b");
        let mut more = Changes::new();
        more.delete_range(b"c", b"d");
        more.put(b"e", b"");
        more.put(&[0; STATE_KEY_BYTES_MAX + 1], b"");
        changes.append(&mut more);
        assert_eq!((changes.len(), changes.is_empty(), changes.is_too_long()), (5, false, true));
        assert_eq!(more, Changes::new());
        changes.append(&mut more);
        assert!(changes.is_too_long(), "what is appended does not mend it");
        let bytes = changes.as_bytes().to_vec();
        assert_eq!(Changes::read(&bytes).filter(Result::is_ok).count(), 5);
        assert_eq!(changes.clone().into_bytes(), bytes);
        changes.clear();
        assert_eq!(changes, Changes::new());
    }

    /// A key that is too long is cut, so that the block can still be read; whoever stores it sees that it is spoilt.
    #[test]
    fn what_is_too_long_spoils_the_block() {
        let longest = [7; STATE_KEY_BYTES_MAX];
        let longer = [7; STATE_KEY_BYTES_MAX + 1];
        type Add = fn(&mut Changes, &[u8]);
        let adds: [Add; 4] = [
            |changes, key| changes.put(key, b"value"),
            |changes, key| changes.delete(key),
            |changes, key| changes.delete_range(key, b"z"),
            |changes, key| changes.delete_range(b"a", key),
        ];
        for add in adds {
            let mut changes = Changes::new();
            add(&mut changes, &longest);
            assert!(!changes.is_too_long());
            let fits = changes.clone();
            changes.clear();
            add(&mut changes, &longer);
            assert!(changes.is_too_long());
            assert_eq!(changes.as_bytes(), fits.as_bytes());
            changes.put(b"key", b"value");
            assert!(changes.is_too_long());
        }
    }
}
