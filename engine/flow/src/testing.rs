//! What the tests of several modules need.

use thalweg_kernel::Key;

/// A key whose hash has only the bits of a mask.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Weak(pub(crate) u64, pub(crate) u64);

impl Key for Weak {
    fn key_hash(&self) -> u64 {
        self.0.key_hash() & self.1
    }

    fn write_key(&self, out: &mut Vec<u8>) {
        (self.0, self.1).write_key(out);
    }

    fn read_key(bytes: &mut &[u8]) -> Option<Self> {
        <(u64, u64)>::read_key(bytes).map(|(number, mask)| Self(number, mask))
    }
}
