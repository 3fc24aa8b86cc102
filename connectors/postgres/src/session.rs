//! [`Session`]: a connection to the server, made and prepared.
//!
//! A session that meets an error it cannot go on with, such as a connection that broke, is dropped. The next
//! transaction makes another one.

use std::future::Future;

use thalweg_commits::Trouble;
use thalweg_commits::sink::{COMMITS, Target};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

use crate::config::PostgresConfig;
use crate::statements::{self, quoted};
use crate::table::{Found, Shape};
use crate::trouble::{text, trouble};

/// How long to wait for the lock of a sink before the transaction is tried again from its beginning.
pub(crate) const LOCK_MS_MAX: u64 = 250;
/// How long to wait for a row that another program has locked.
pub(crate) const ROW_LOCK_MS_MAX: u64 = 10_000;

/// See the [module](self).
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The table as it was when the session began.
    pub(crate) shape: Shape,
    connection: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // The socket is closed, and the server gives up what was under way.
        self.connection.abort();
    }
}

impl Session {
    /// Connects, and has the tables be there.
    pub(crate) async fn open(target: &Target<PostgresConfig>) -> Result<Self, Trouble> {
        let config = &target.address;
        let wrong = |error: thalweg_kernel::ConfigError| Trouble::Final(error.to_string());
        let server = config.complete().map_err(wrong)?;
        let encryption = config.is_encrypted().then(|| config.tls()).transpose();
        let encryption = encryption.map_err(wrong)?;
        let connected = async {
            match encryption {
                Some(tls) => {
                    let tls = MakeRustlsConnect::new(tls);
                    server.connect(tls).await.map(|(c, way)| (c, drive(config, way)))
                }
                None => server.connect(NoTls).await.map(|(c, way)| (c, drive(config, way))),
            }
        };
        let limit = config.login_max(&server);
        let Ok(connected) = timeout(limit, connected).await else {
            return Err(Trouble::Wait(format!(
                "whoever listens there has not let us in within {limit:?}: is it PostgreSQL?"
            )));
        };
        let (client, connection) = connected.map_err(|error| trouble(&error))?;
        let mut session = Self { client, shape: Shape::default(), connection };
        session.prepare(target).await?;
        Ok(session)
    }

    async fn prepare(&mut self, target: &Target<PostgresConfig>) -> Result<(), Trouble> {
        let client = &self.client;
        let failed = |error| trouble(&error);
        client.batch_execute(&statements::settings()).await.map_err(failed)?;
        let table = quoted(&target.table);
        let names: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&COMMITS, Type::TEXT), (&table, Type::TEXT)];
        let row = client.query_typed_one(statements::LOOK, &names).await.map_err(failed)?;
        let (standby, durable): (bool, bool) = (row.get(0), row.get(1));
        let (commits, there): (bool, bool) = (row.get(2), row.get(3));
        if standby {
            return Err(Trouble::Wait("the server is a standby and takes no writes".into()));
        }
        if !durable {
            warn!(
                "postgres {}: fsync is off there: what it has committed may be gone after a power cut",
                target.address
            );
        }
        if !(commits && there) {
            // Others may do the same at this moment, which `IF NOT EXISTS` alone does not stand.
            let lock = statements::lock(&["thalweg"]);
            let begin = statements::begin(lock, LOCK_MS_MAX, ROW_LOCK_MS_MAX);
            client.batch_execute(&begin).await.map_err(failed)?;
            if !commits {
                client.batch_execute(statements::CREATE_COMMITS).await.map_err(failed)?;
            }
            if !there {
                let create = statements::create(&target.table, &target.columns);
                client.batch_execute(&create).await.map_err(failed)?;
            }
            client.batch_execute("COMMIT").await.map_err(failed)?;
        }
        let rows = client.query_typed(statements::COLUMNS, &names[1..]).await.map_err(failed)?;
        let found = rows.iter().map(|row| Found {
            name: row.get(0),
            written: row.get(1),
            base: row.get(2),
            category: row.get(3),
            needed: row.get(4),
            loose: row.get(5),
        });
        self.shape = Shape(found.collect());
        self.check(target).await
    }

    /// Checks that the table takes the rows.
    async fn check(&self, target: &Target<PostgresConfig>) -> Result<(), Trouble> {
        let Target { table, columns, .. } = target;
        let wrong = |why: String| Trouble::Final(format!("table {table} {why}"));
        self.shape.check(columns).map_err(wrong)?;
        let insert = statements::insert(table, columns, &self.shape, true).map_err(wrong)?;
        match self.client.batch_execute(&format!("EXPLAIN {insert}")).await {
            Ok(()) => {}
            Err(error) if error.code().is_some_and(|code| code.code() == "42P10") => {
                let keys: Vec<_> =
                    columns.iter().filter(|column| column.key).map(|c| c.name.as_str()).collect();
                let keys = keys.join(", ");
                return Err(wrong(format!(
                    "has no primary key or unique index on exactly ({keys}): create one, or bind \
                     those columns that are its key with `key`"
                )));
            }
            Err(error) => return Err(trouble(&error)),
        }
        let delete = statements::delete(table, columns, &self.shape, true).map_err(wrong)?;
        let Some(delete) = delete.filter(|_| target.deletes) else { return Ok(()) };
        let explained = self.client.batch_execute(&format!("EXPLAIN {delete}")).await;
        explained.map_err(|error| trouble(&error))
    }
}

/// Lets a connection be driven whenever its owner waits for an answer.
fn drive<S>(config: &PostgresConfig, connection: Connection<Socket, S>) -> JoinHandle<()>
where
    Connection<Socket, S>: Future<Output = Result<(), tokio_postgres::Error>>,
    S: Send + 'static,
{
    let name = config.to_string();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            warn!("postgres {name}: the connection broke: {}", text(&error));
        }
    })
}

/// What waits for answers.
pub(crate) fn runtime() -> Result<Runtime, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Trouble::Final(format!("cannot wait for a network: {error}")))
}
