//! What the tests share.
#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

pub mod proxy;

use std::sync::Arc;

use thalweg_commits::model::table::{Table, bound};
use thalweg_postgres::testing::{Client, Server};
use thalweg_postgres::{PostgresConfig, PostgresServer, PostgresSink};

/// A database of its own on the server that the tests of a process share.
#[derive(Debug)]
pub struct Database {
    pub server: Arc<Server>,
    pub url: String,
    pub client: Client,
}

impl Database {
    /// None where there is no server.
    pub fn new(name: &str) -> Option<Self> {
        Some(Self::on(Server::shared()?, name))
    }

    pub fn on(server: Arc<Server>, name: &str) -> Self {
        let url = server.database(name);
        let client = Client::connect(&url);
        Self { server, url, client }
    }

    /// The rows of a query, their columns joined by `|`.
    pub fn lines(&self, sql: &str) -> Vec<String> {
        let text = |cell: Option<String>| cell.unwrap_or_else(|| "NULL".into());
        let line = |row: Vec<_>| row.into_iter().map(text).collect::<Vec<_>>().join("|");
        self.client.query(sql).into_iter().map(line).collect()
    }
}

impl Table for Database {
    type Server = PostgresServer;

    fn unbound<T>(&self) -> PostgresSink<T> {
        PostgresSink::new(config(&self.url), "results")
    }

    fn rows(&self) -> Vec<i64> {
        self.client.integers("SELECT n FROM results ORDER BY n")
    }
}

pub fn config(url: &str) -> PostgresConfig {
    url.parse().unwrap()
}

/// Appends records, or keeps the newest of each key.
pub fn sink(url: &str, keyed: bool) -> PostgresSink<u64> {
    bound(PostgresSink::new(config(url), "results"), keyed)
}
