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

/// Numbers from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
