//! What an error means for the job.
//!
//! | trouble | |
//! |---|---|
//! | no connection, one that broke; the server stops, starts, or is a standby | waits |
//! | a lock, a deadlock, a statement that somebody canceled | waits |
//! | no room, no memory, too many connections | waits |
//! | a row that the table refuses (a constraint, a range, a form, a trigger) | left out, logged, counted |
//! | wrong user, password or database, no rights, no such column, one that needs a value and is none of ours, TLS that does not verify | final |
//!
//! Waiting is harmless: whatever became of the transaction is read from the table of commits.

use std::error::Error as _;

use thalweg_commits::{Column, Trouble};
use tokio_postgres::Error;
use tokio_rustls::rustls;

/// Whether the table does not want a row for what it holds in `columns`, or a statement for one of its rows. What
/// another column lacks is no row's fault: the table has changed, and would refuse all of them.
pub(crate) fn refuses(error: &Error, columns: &[Column]) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    let code = db.code().code();
    let bound = |name| columns.iter().any(|column| column.name == name);
    if code == "23502" && !db.column().is_none_or(bound) {
        return false;
    }
    // Data, constraints, size; what a trigger raises; a view's check; two rows of one key in a statement.
    ["22", "23", "54", "P0", "44", "21"].contains(&&code[..2])
}

/// Whether the session can be used no more.
pub(crate) fn is_lost(error: &Error) -> bool {
    error.as_db_error().is_none_or(|db| matches!(db.severity(), "FATAL" | "PANIC"))
}

/// What an error means for the job.
#[cold]
pub(crate) fn trouble(error: &Error) -> Trouble {
    let text = text(error);
    let Some(code) = error.code().map(|code| code.code()) else {
        return unanswered(error, &text);
    };
    let wait = |advice: &str| Trouble::Wait(format!("{text}: {advice}"));
    let advice = match (&code[..2], code) {
        (_, "53100") => return wait("make room on the server; nothing is lost meanwhile"),
        (_, "53300") => return wait("raise its max_connections, or close others"),
        ("53", _) => return wait("the server lacks what it needs"),
        ("08", _) | (_, "57P01" | "57P02" | "57P03") => return wait("the server is not there"),
        (_, "25006") => return wait("the server takes no writes: is it a standby?"),
        ("40", _) | (_, "55P03" | "55006") => return wait("another transaction is in the way"),
        (_, "57014") => return wait("somebody canceled it, or a statement_timeout is too short"),
        ("58", _) | (_, "25P03" | "57P05") => return wait("see the server's log"),
        (_, "28P01" | "28000") => "see the URL, THALWEG_POSTGRES_PASSWORD, and pg_hba.conf",
        (_, "3D000") => "create the database, or name another in the URL",
        (_, "42501") => "GRANT what is missing",
        (_, "23502") => "the column is none of ours: give it a default, or bind it too",
        ("3F", _) => "create the schema, or set another search_path",
        ("XX", _) => "see the server's log",
        _ => "the job cannot go on",
    };
    Trouble::Final(format!("{text}: {advice}"))
}

/// The server has not said what is wrong.
fn unanswered(error: &Error, text: &str) -> Trouble {
    let mut cause = error.source();
    while let Some(inner) = cause {
        let tls = inner.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        if tls.is_some_and(|tls| tls.is::<rustls::Error>()) || inner.is::<rustls::Error>() {
            return Trouble::Final(format!(
                "{text}: name the authority that signed the server's certificate with sslrootcert="
            ));
        }
        cause = inner.source();
    }
    if text.contains("does not support TLS") {
        return Trouble::Final(format!(
            "{text}: set it up there; or, where nobody listens, add sslmode=disable to the URL"
        ));
    }
    if text.contains("password missing") {
        return Trouble::Final(format!("{text}: set THALWEG_POSTGRES_PASSWORD or password_file="));
    }
    Trouble::Wait(format!("{text}: is the server there?"))
}

/// The error with its cause, in one line.
pub(crate) fn text(error: &Error) -> String {
    if let Some(db) = error.as_db_error() {
        let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail} [{}]", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}
