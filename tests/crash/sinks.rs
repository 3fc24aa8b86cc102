//! What the sinks hold, read back as any other program would read it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rusqlite::{Connection, OpenFlags};
use serde::Deserialize;
use thalweg::kernel::{Str, Timestamp};

use crate::job::{Reading, out_dir};

/// Where the results go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SinkKind {
    /// Two tables of a SQLite file, without keys.
    Sqlite,
    /// Two directories of rolling files.
    Files,
}

impl SinkKind {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Files => "files",
        }
    }
}

/// A row of sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SumRow {
    pub(crate) device: String,
    pub(crate) start_ms: i64,
    pub(crate) count: u64,
    pub(crate) sum: i64,
}

/// All that is to be seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    pub(crate) readings: Vec<Reading>,
    pub(crate) sums: Vec<SumRow>,
}

/// Reads what is to be seen now.
pub(crate) fn read(kind: SinkKind, dir: &Path) -> Result<Results> {
    let out = out_dir(dir);
    match kind {
        SinkKind::Sqlite => from_sqlite(&out.join("results.db")),
        SinkKind::Files => from_files(&out),
    }
}

fn from_sqlite(path: &Path) -> Result<Results> {
    if !path.exists() {
        return Ok(Results::default());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).context("cannot open the results")?;
    db.busy_timeout(std::time::Duration::from_secs(10))?;
    let there = |table: &str| -> Result<bool> {
        let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1";
        Ok(db.query_row(sql, [table], |row| row.get::<_, i64>(0))? == 1)
    };
    let mut results = Results::default();
    if there("readings")? {
        let mut rows = db.prepare("SELECT device, sequence, time_ms, value FROM readings")?;
        let rows = rows.query_map([], |row| {
            let device = Str::from(row.get::<_, String>(0)?);
            let sequence = row.get::<_, i64>(1)? as u64;
            Ok(Reading { device, sequence, time_ms: row.get(2)?, value: row.get(3)? })
        })?;
        results.readings = rows.collect::<Result<_, _>>()?;
    }
    if there("sums")? {
        let mut rows = db.prepare("SELECT device, start, count, sum FROM sums")?;
        let rows = rows.query_map([], |row| {
            let (device, count) = (row.get(0)?, row.get::<_, i64>(2)? as u64);
            Ok(SumRow { device, start_ms: row.get(1)?, count, sum: row.get(3)? })
        })?;
        results.sums = rows.collect::<Result<_, _>>()?;
    }
    Ok(results)
}

/// A line of the second directory.
#[derive(Deserialize)]
struct SumLine {
    key: String,
    start: Timestamp,
    value: (u64, i64),
}

fn from_files(out: &Path) -> Result<Results> {
    let mut results = Results::default();
    each_line(&out.join("readings"), |line| {
        results.readings.push(serde_json::from_str(line)?);
        Ok(())
    })?;
    each_line(&out.join("sums"), |line| {
        let SumLine { key, start, value: (count, sum) } = serde_json::from_str(line)?;
        results.sums.push(SumRow { device: key, start_ms: start.as_millis(), count, sum });
        Ok(())
    })?;
    Ok(results)
}

/// Calls `each` with the lines of all finished parts.
fn each_line(dir: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            bail!("{} can be seen and does not end with a line feed", path.display());
        }
        for line in text.lines() {
            each(line).with_context(|| format!("{}: {line:?}", path.display()))?;
        }
    }
    Ok(())
}
