//! [`Publication`]: what is published of a record.
//!
//! | | of each record |
//! |---|---|
//! | [`Records`] | its payload, to its topic |
//! | [`Rows`] | of a changelog: a topic holds the row of one key. What puts a row publishes its payload; what takes it away publishes an empty payload, on which the broker forgets what it retained of the topic |

use thalweg_kernel::format::EncodeError;
use thalweg_kernel::{Changed, Encode, RowKind};

use crate::sink::Topic;

/// What is published of a record.
pub trait Publication<T> {
    /// Whether a topic holds a row, so that an empty payload takes the row away.
    const KEEPS_ROWS: bool;

    /// Appends the record's topic to `out`, which is empty.
    fn topic(&self, record: &T, out: &mut String);

    /// What the record does to the row of its topic.
    fn kind(&self, record: &T) -> RowKind;

    /// Appends the payload of a record that [puts](RowKind::puts) its row.
    ///
    /// # Errors
    /// If the format cannot express the record.
    fn payload(&mut self, record: &T, out: &mut Vec<u8>) -> Result<(), EncodeError>;
}

/// Each record as it is.
#[derive(Clone, Debug)]
pub struct Records<E, F> {
    pub(crate) topic: F,
    pub(crate) encoder: E,
}

impl<T, E: Encode<T>, F: Topic<T>> Publication<T> for Records<E, F> {
    const KEEPS_ROWS: bool = false;

    #[inline]
    fn topic(&self, record: &T, out: &mut String) {
        self.topic.write(record, out);
    }

    #[inline]
    fn kind(&self, _record: &T) -> RowKind {
        RowKind::Insert
    }

    #[inline]
    fn payload(&mut self, record: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encoder.encode(record, out)
    }
}

/// The rows of a changelog, each in the topic of its key.
#[derive(Clone, Debug)]
pub struct Rows<E, F>(pub(crate) Records<E, F>);

impl<T, E: Encode<T>, F: Topic<T>> Publication<Changed<T>> for Rows<E, F> {
    const KEEPS_ROWS: bool = true;

    fn topic(&self, change: &Changed<T>, out: &mut String) {
        self.0.topic(&change.row, out);
    }

    fn kind(&self, change: &Changed<T>) -> RowKind {
        change.kind
    }

    fn payload(&mut self, change: &Changed<T>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.0.payload(&change.row, out)
    }
}
