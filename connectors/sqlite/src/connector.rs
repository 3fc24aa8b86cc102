//! What SQLite is as a connector.

use std::path::PathBuf;

use thalweg_kernel::connector::{
    Access, Connector, Encoder, Guarantee, Side, SinkConnector, UsedPath,
};
use thalweg_kernel::{Column, ConfigError, Record, options};

use crate::sink::SqliteSink;

/// What it is.
pub static CONNECTOR: Connector = Connector {
    name: "sqlite",
    about: "A table of a SQLite file: a row for each record, which replaces the one with its key.",
    source: None,
    sink: Some(Side::new::<SqliteOptions>(&[
        (Guarantee::ExactlyOnce, "in a job with a state directory"),
        (Guarantee::AtLeastOnce, "without one, and with `at_least_once`"),
    ])),
};

/// The connector, for a registry.
#[derive(Debug)]
pub struct SqliteConnector(());

options! {
    /// Which table is written.
    #[derive(Clone, Debug)]
    pub struct SqliteOptions {
        /// The file; it is made if it is not there.
        #[example = "averages.db"]
        path: PathBuf,
        /// The table; it is made if it is not there.
        #[example = "averages"]
        table: String,
        /// Whether rows are written as they come, also in a job with a state directory.
        at_least_once: bool = false,
    }
}

impl SinkConnector for SqliteConnector {
    const CONNECTOR: &'static Connector = &CONNECTOR;
    type Options = SqliteOptions;
    type Sink<T: Record, E: Encoder<T>> = SqliteSink<T>;

    fn sink<T: Record, E: Encoder<T>>(
        options: SqliteOptions,
        columns: &[Column],
    ) -> Result<SqliteSink<T>, ConfigError> {
        let sink = SqliteSink::new(options.path, options.table).columns(columns);
        let sink = if options.at_least_once { sink.at_least_once() } else { sink };
        sink.check()?;
        Ok(sink)
    }

    fn paths(options: &SqliteOptions) -> Vec<UsedPath> {
        vec![UsedPath { key: "path", path: options.path.clone(), access: Access::Writes }]
    }
}
