//! [`Connector`]: what a connector is, can do, promises and can be told, described once.
//!
//! A connector's crate has one `static CONNECTOR`, and implements [`SourceConnector`], [`SinkConnector`] or both for a
//! type that stands for it. The registry of `engine/node` names that type in one line; the configuration, the command
//! line and the page of docs follow from the description.
//!
//! The traits are generic over what makes records of bytes and bytes of records: a connector knows neither formats nor
//! records. So whoever builds a job compiles each connector once for its own kind of record.

use std::path::PathBuf;

use crate::options::{OptionInfo, Options, Table};
use crate::{Column, ConfigError, Decode, DecodeFields, Encode, Record, SinkSpec, SourceSpec};

/// The description of a connector.
#[derive(Clone, Copy, Debug)]
pub struct Connector {
    /// Its name, as in `[source.NAME]`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// What it does as a source, if it is one.
    pub source: Option<Side>,
    /// What it does as a sink, if it is one.
    pub sink: Option<Side>,
}

/// A connector as a source, or as a sink.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    /// What it promises, and when.
    pub guarantees: &'static [(Guarantee, &'static str)],
    /// What it can be told.
    pub options: &'static [&'static [OptionInfo]],
    /// Of a source: fields that its records have beside those of their payload.
    pub metadata: &'static [Metadata],
}

impl Side {
    /// A side with the options `O`.
    pub const fn new<O: Options>(guarantees: &'static [(Guarantee, &'static str)]) -> Self {
        Self { guarantees, options: O::TABLES, metadata: &[] }
    }

    /// The side with these metadata.
    #[must_use]
    pub const fn with_metadata(mut self, metadata: &'static [Metadata]) -> Self {
        self.metadata = metadata;
        self
    }
}

/// A field that a source adds.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// Its name, or the form of its names.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
}

/// How often a record has its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarantee {
    /// Once, whatever fails.
    ExactlyOnce,
    /// Once, or several times after a failure.
    AtLeastOnce,
    /// Once, or not at all after a failure.
    AtMostOnce,
}

impl Guarantee {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly once",
            Self::AtLeastOnce => "at least once",
            Self::AtMostOnce => "at most once",
        }
    }
}

/// A path that a connector uses, so that no two uses meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedPath {
    /// The key of the option that names it.
    pub key: &'static str,
    /// The path.
    pub path: PathBuf,
    /// What is done with it.
    pub access: Access,
}

/// What is done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The file is read.
    Reads,
    /// The file is written, and may be emptied first.
    Writes,
    /// Files are made in the directory.
    Fills,
}

/// Makes records of what a source reads, whether bytes or fields.
pub trait Decoder: Decode<Item: 'static> + DecodeFields + Clone + Send + Sync + 'static {}

impl<D: Decode<Item: 'static> + DecodeFields + Clone + Send + Sync + 'static> Decoder for D {}

/// A format in which records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON text for each record.
    Json,
    /// Comma-separated values.
    Csv,
}

crate::choices! { Format: "json" => Format::Json, "csv" => Format::Csv }

/// Makes bytes of records, in any of the formats.
pub trait Encoder<T>: Encode<T> + Clone + Send + Sync + 'static {
    /// The encoder of a format.
    fn of(format: Format) -> Self;
}

/// A connector that records can be read from.
pub trait SourceConnector {
    /// Its description.
    const CONNECTOR: &'static Connector;
    /// Its options: those of the description.
    type Options: Options;
    /// The source, for records that `D` makes.
    type Source<D: Decoder>: SourceSpec<Item = D::Item> + Clone + Send + Sync + 'static;

    /// Reads its options.
    ///
    /// # Errors
    /// Names the first that will not do, with its place.
    fn options(table: &Table) -> Result<Self::Options, ConfigError> {
        Self::Options::read(table)
    }

    /// Makes the source, and checks what can be checked without connecting to anything.
    ///
    /// # Errors
    /// Names the option that will not do, by its key here.
    fn source<D: Decoder>(
        options: Self::Options,
        decoder: D,
    ) -> Result<Self::Source<D>, ConfigError>;

    /// The paths that it uses.
    fn paths(_options: &Self::Options) -> Vec<UsedPath> {
        Vec::new()
    }

    /// Whether its messages have user properties.
    fn has_user_properties(_options: &Self::Options) -> bool {
        false
    }
}

/// A connector that records can be written to.
pub trait SinkConnector {
    /// Its description.
    const CONNECTOR: &'static Connector;
    /// Its options: those of the description.
    type Options: Options;
    /// The sink of records of type `T`, which `E` makes bytes of.
    type Sink<T: Record, E: Encoder<T>>: SinkSpec<T> + Clone + Send + Sync + 'static;

    /// Reads its options.
    ///
    /// # Errors
    /// Names the first that will not do, with its place.
    fn options(table: &Table) -> Result<Self::Options, ConfigError> {
        Self::Options::read(table)
    }

    /// Makes the sink of records with these columns, and checks what can be checked without connecting to anything.
    ///
    /// # Errors
    /// Names the option that will not do, by its key here.
    fn sink<T: Record, E: Encoder<T>>(
        options: Self::Options,
        columns: &[Column],
    ) -> Result<Self::Sink<T, E>, ConfigError>;

    /// The paths that it uses.
    fn paths(_options: &Self::Options) -> Vec<UsedPath> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_has_what_was_declared() {
        const TOPIC: Metadata = Metadata { name: "topic", doc: "where it was sent" };
        let side = Side::new::<()>(&[(Guarantee::AtLeastOnce, "with QoS 1")]);
        let side = side.with_metadata(&[TOPIC]);
        assert_eq!((side.metadata[0].name, side.options.len()), ("topic", 0));
        use Guarantee::{AtLeastOnce, AtMostOnce, ExactlyOnce};
        let words = [ExactlyOnce, AtLeastOnce, AtMostOnce].map(Guarantee::words);
        assert_eq!(words, ["exactly once", "at least once", "at most once"]);
    }
}
