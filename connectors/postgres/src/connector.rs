//! What PostgreSQL is as a connector.

use thalweg_kernel::connector::{Connector, Encoder, Guarantee, Side, SinkConnector};
use thalweg_kernel::options::{Options, Table};
use thalweg_kernel::{Column, ConfigError, Record, options};

use crate::config::{PostgresConfig, PostgresServerOptions, expand};
use crate::sink::PostgresSink;

/// What it is.
pub static CONNECTOR: Connector = Connector {
    name: "postgres",
    about: "A table of a PostgreSQL database: a row for each record, which replaces the one with its key.",
    source: None,
    sink: Some(Side::new::<(PostgresServerOptions, PostgresSinkOptions)>(&[
        (Guarantee::ExactlyOnce, "in a job with a state directory"),
        (Guarantee::AtLeastOnce, "without one, and with `at_least_once`"),
    ])),
};

/// The connector, for a registry.
#[derive(Debug)]
pub struct PostgresConnector(());

options! {
    /// Which table is written.
    #[derive(Clone, Debug)]
    pub struct PostgresSinkOptions {
        /// The table; it is made if it is not there.
        #[example = "averages"]
        table: String,
        /// Whether rows are written as they come, also in a job with a state directory.
        at_least_once: bool = false,
    }
}

impl SinkConnector for PostgresConnector {
    const CONNECTOR: &'static Connector = &CONNECTOR;
    type Options = (PostgresServerOptions, PostgresSinkOptions);
    type Sink<T: Record, E: Encoder<T>> = PostgresSink<T>;

    fn options(table: &Table) -> Result<Self::Options, ConfigError> {
        Options::read(&expand(table)?)
    }

    fn sink<T: Record, E: Encoder<T>>(
        (server, options): Self::Options,
        columns: &[Column],
    ) -> Result<PostgresSink<T>, ConfigError> {
        let server = PostgresConfig::new(server)?;
        let sink = PostgresSink::new(server, options.table).columns(columns);
        let sink = if options.at_least_once { sink.at_least_once() } else { sink };
        sink.check()?;
        Ok(sink)
    }
}
