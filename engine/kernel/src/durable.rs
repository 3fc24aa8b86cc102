//! [`Durable`]: what can be kept in state. Everything that rkyv archives is.
//!
//! ```
//! use rkyv::{Archive, Deserialize, Serialize};
//! use thalweg_kernel::{Durable, StateWriter};
//!
//! #[derive(Archive, Serialize, Deserialize, Debug, PartialEq)]
//! struct Seen {
//!     count: u64,
//!     last: Option<String>,
//! }
//!
//! let seen = Seen { count: 3, last: Some("d7".into()) };
//! let bytes = StateWriter::default().write(Vec::new(), &seen)?;
//! assert_eq!(Seen::read(&bytes)?, seen);
//! # Ok::<(), thalweg_kernel::ValueDamaged>(())
//! ```
//!
//! The format is rkyv's, little-endian, with 32-bit offsets and *unaligned*, so that a value can be read
//! in place wherever it lies. The bytes say nothing of their type: the catalogue holds that beside each state
//! ([`Layout`](crate::Layout)).

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::{Archive, Deserialize, Serialize};

/// What can be kept in state: implemented for everything that derives rkyv's `Archive`, `Serialize` and
/// `Deserialize`.
pub trait Durable: Sized + 'static {
    /// Appends the value to `out`, which is returned; `arena` is scratch memory.
    ///
    /// # Errors
    /// If the value cannot be archived: it is larger than 2 GiB.
    fn write(&self, out: Vec<u8>, arena: &mut Arena) -> Result<Vec<u8>, ValueDamaged>;

    /// The value that was written as these bytes.
    ///
    /// # Errors
    /// If they are no such value: of another type, or damaged.
    fn read(bytes: &[u8]) -> Result<Self, ValueDamaged>;

    /// What a [`Layout`](crate::Layout) knows of a value: the name of its archived type, and its size in bytes without
    /// what it points to.
    fn archived() -> (&'static str, usize);
}

impl<T> Durable for T
where
    T: Archive + 'static,
    T: for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Error>>,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>>,
    T::Archived: Deserialize<T, HighDeserializer<Error>>,
{
    #[inline]
    fn write(&self, out: Vec<u8>, arena: &mut Arena) -> Result<Vec<u8>, ValueDamaged> {
        let written = rkyv::api::high::to_bytes_in_with_alloc(self, out, arena.acquire());
        written.map_err(|error: Error| ValueDamaged::new::<T>("cannot be written", &error))
    }

    #[inline]
    fn read(bytes: &[u8]) -> Result<Self, ValueDamaged> {
        let read = rkyv::from_bytes::<T, Error>(bytes);
        read.map_err(|error| ValueDamaged::new::<T>("cannot be read", &error))
    }

    fn archived() -> (&'static str, usize) {
        (std::any::type_name::<T::Archived>(), size_of::<T::Archived>())
    }
}

/// A value that cannot be written, or bytes that are no such value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {of} {what}: {why}")]
pub struct ValueDamaged {
    of: &'static str,
    what: &'static str,
    why: String,
}

impl ValueDamaged {
    #[cold]
    fn new<T>(what: &'static str, error: &Error) -> Self {
        // Only the first line: what follows is a trace.
        let why = error.to_string().lines().next().unwrap_or_default().to_owned();
        Self { of: std::any::type_name::<T>(), what, why }
    }

    /// A key that cannot be read.
    #[cold]
    pub fn key<K>() -> Self {
        let why = "the bytes are no such key; has the key's type changed?".to_owned();
        Self { of: std::any::type_name::<K>(), what: "cannot be read", why }
    }
}

/// Writes values one after the other with the same scratch memory.
#[derive(Default)]
pub struct StateWriter(Arena);

impl StateWriter {
    /// Appends `value` to `out`, which is returned.
    ///
    /// # Errors
    /// As for [`Durable::write`].
    #[inline]
    pub fn write(&mut self, out: Vec<u8>, value: &impl Durable) -> Result<Vec<u8>, ValueDamaged> {
        value.write(out, &mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Str, Timestamp};

    #[test]
    fn values_come_back_wherever_they_lie() {
        let value = (Str::from("a device with quite a long name"), Timestamp::MAX, vec![1.5, 2.5]);
        for offset in 0..9 {
            let out = StateWriter::default().write(vec![7; offset], &value).unwrap();
            assert_eq!(<(Str, Timestamp, Vec<f64>)>::read(&out[offset..]).unwrap(), value);
        }
    }

    #[test]
    fn what_is_too_short_is_damaged() {
        let bytes = StateWriter::default().write(Vec::new(), &7_u64).unwrap();
        let error = u64::read(&bytes[..7]).unwrap_err();
        assert!(error.to_string().contains("u64 cannot be read"), "{error}");
        assert_eq!(StateWriter::default().write(Vec::new(), &7_u64).unwrap(), 7_u64.to_le_bytes());
    }
}
