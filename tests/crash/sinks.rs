//! What the sinks hold, read back as any other program would read it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use thalweg::kernel::{Str, Timestamp};
use thalweg_postgres::testing::Client;

use crate::reading::Reading;
use crate::standings::Standing;

/// Where the results go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SinkKind {
    /// Tables of a SQLite file: two without keys, and one that follows a changelog.
    Sqlite,
    /// Tables of a PostgreSQL database, as of SQLite.
    Postgres,
    /// Directories of rolling files; one has a changelog.
    Files,
    /// Published through the outbox, and received by a subscriber that writes a file. The rows of the changelog's
    /// table are topics.
    Mqtt,
}

impl SinkKind {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Files => "files",
            Self::Mqtt => "mqtt",
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
    /// The table of the changelog.
    pub(crate) standings: Vec<Standing>,
    /// What was received once more under the id that it had before. Publishing is at least once: that is allowed.
    pub(crate) published_again: u64,
    /// What no sink may show, in words.
    pub(crate) faults: Vec<String>,
}

/// Where the results of the job are.
pub(crate) fn out_dir(dir: &Path) -> PathBuf {
    dir.join("out")
}

/// Reads what is to be seen now.
pub(crate) fn read(kind: SinkKind, dir: &Path) -> Result<Results> {
    let out = out_dir(dir);
    match kind {
        SinkKind::Sqlite => from_sqlite(&out.join("results.db")),
        SinkKind::Postgres => from_postgres(&postgres_url(dir)?),
        SinkKind::Files => from_files(&out),
        SinkKind::Mqtt => from_received(&received_file(&out)),
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
    if there("standings")? {
        let mut rows = db.prepare("SELECT device, grade, count, sum FROM standings")?;
        let rows = rows.query_map([], |row| {
            let device = Str::from(row.get::<_, String>(0)?);
            let (grade, count) = (row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64);
            Ok(Standing { device, grade, count, sum: row.get(3)? })
        })?;
        results.standings = rows.collect::<Result<_, _>>()?;
    }
    Ok(results)
}

/// Where the server is: this program starts one, and tells the job in a file.
pub(crate) fn postgres_url(dir: &Path) -> Result<String> {
    fs::read_to_string(postgres_url_file(dir)).context("cannot find out where the server is")
}

/// That file.
pub(crate) fn postgres_url_file(dir: &Path) -> PathBuf {
    dir.join("postgres-url")
}

fn from_postgres(url: &str) -> Result<Results> {
    let client = Client::connect(url);
    let rows = |table: &str, columns: &str| -> Result<Vec<Vec<String>>> {
        let there =
            client.try_query(&format!("SELECT 1 WHERE to_regclass('{table}') IS NOT NULL"))?;
        if there.is_empty() {
            return Ok(Vec::new());
        }
        let rows = client.try_query(&format!("SELECT {columns} FROM {table}"))?;
        Ok(rows.into_iter().map(|row| row.into_iter().flatten().collect()).collect())
    };
    let mut results = Results::default();
    for row in rows("readings", "device, sequence, time_ms, value")? {
        let [device, sequence, time_ms, value] = &row[..] else { bail!("no reading: {row:?}") };
        let (sequence, time_ms, value) = (sequence.parse()?, time_ms.parse()?, value.parse()?);
        results.readings.push(Reading { device: device.into(), sequence, time_ms, value });
    }
    for row in rows("sums", "device, start, count, sum")? {
        let [device, start, count, sum] = &row[..] else { bail!("no sum: {row:?}") };
        let (start_ms, count, sum) = (start.parse()?, count.parse()?, sum.parse()?);
        results.sums.push(SumRow { device: device.clone(), start_ms, count, sum });
    }
    for row in rows("standings", "device, grade, count, sum")? {
        let [device, grade, count, sum] = &row[..] else { bail!("no standing: {row:?}") };
        let (grade, count, sum) = (grade.parse()?, count.parse()?, sum.parse()?);
        results.standings.push(Standing { device: device.into(), grade, count, sum });
    }
    Ok(results)
}

/// A sum as JSON.
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
        results.sums.push(sum_row(line)?);
        Ok(())
    })?;
    let mut table = Follower::default();
    each_line(&out.join("standings"), |line| table.follow(serde_json::from_str(line)?))?;
    results.standings = table.rows.into_values().collect();
    results.faults.extend(table.faults);
    Ok(results)
}

/// A change as JSON.
#[derive(Debug, Deserialize)]
struct ChangeLine {
    op: String,
    #[serde(flatten)]
    row: Standing,
}

/// A table that follows a changelog, and holds every change against what it has.
#[derive(Debug, Default)]
struct Follower {
    rows: BTreeMap<(Str, u64), Standing>,
    faults: Vec<String>,
}

impl Follower {
    fn follow(&mut self, change: ChangeLine) -> Result<()> {
        let key = (change.row.device.clone(), change.row.grade);
        let (before, due) = match &*change.op {
            "+I" | "+U" => (self.rows.insert(key, change.row.clone()), None),
            "-U" | "-D" => (self.rows.remove(&key), Some(&change.row)),
            other => bail!("an unknown kind of change: {other}"),
        };
        if before.as_ref() != due {
            self.faults.push(format!("{change:?} came when the table had {before:?}"));
        }
        Ok(())
    }
}

fn sum_row(line: &str) -> Result<SumRow> {
    let SumLine { key, start, value: (count, sum) } = serde_json::from_str(line)?;
    Ok(SumRow { device: key, start_ms: start.as_millis(), count, sum })
}

/// The place of a part among those of one directory: the changes of a key are in this order, by run and number.
fn place(name: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = name.strip_prefix("part-")?.split(['-', '.']).map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (instance, run, number) = (next()?, next()?, next()?);
    Some((run, instance, number))
}

/// Calls `each` with the lines of all finished parts, in their order.
fn each_line(dir: &Path, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let mut parts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.starts_with('.') {
            let place = place(&name).with_context(|| format!("{name} is no part"))?;
            parts.push((place, path));
        }
    }
    parts.sort();
    for (_, path) in parts {
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

/// Where readings are published, and the device's name behind it.
pub(crate) const READINGS: &str = "out/readings/";
/// Where sums are published.
pub(crate) const SUMS: &str = "out/sums";
/// Where the rows of the changelog's table are, and device and grade behind it.
pub(crate) const STANDINGS: &str = "out/standings/";

/// What was received of a publish: a line of the receiver's file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) id: Option<String>,
    pub(crate) payload: String,
}

/// The receiver's file.
pub(crate) fn received_file(out: &Path) -> PathBuf {
    out.join("received.jsonl")
}

fn from_received(path: &Path) -> Result<Results> {
    let mut inbox = Inbox::default();
    // The receiver may be writing the last line.
    let text = fs::read_to_string(path)?;
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let received = serde_json::from_str(line);
        inbox.take(received.with_context(|| format!("{}: {line:?}", path.display()))?)?;
    }
    for (topic, payload) in inbox.rows {
        inbox.results.standings.push(serde_json::from_str(&payload).context(topic)?);
    }
    Ok(inbox.results)
}

/// A receiver that keeps each id once, as the outbox asks of those that want no repetition.
#[derive(Debug, Default)]
struct Inbox {
    by_id: HashMap<String, (String, String)>,
    /// The number of the next message of each note that was not received before.
    next: HashMap<String, u64>,
    /// What was last received on each topic that holds a row; nothing of those that were emptied.
    rows: BTreeMap<String, String>,
    results: Results,
}

impl Inbox {
    fn take(&mut self, received: Received) -> Result<()> {
        let Received { topic, id, payload } = received;
        let Some(id) = id else {
            self.results.faults.push(format!("{payload} on {topic} has no id"));
            return Ok(());
        };
        if topic.starts_with(STANDINGS) {
            // Also what comes again: it begins further back, and ends where it was.
            match &*payload {
                "" => drop(self.rows.remove(&topic)),
                row => drop(self.rows.insert(topic.clone(), row.to_owned())),
            }
        }
        if let Some(before) = self.by_id.get(&id) {
            self.results.published_again += 1;
            if *before != (topic.clone(), payload.clone()) {
                let fault = format!("{id} is {before:?}, and then {payload} on {topic}");
                self.results.faults.push(fault);
            }
            return Ok(());
        }
        let (note, number) = id.rsplit_once('-').context("an id without a number")?;
        let number: u64 = number.parse().with_context(|| format!("the id {id}"))?;
        let next = self.next.entry(note.to_owned()).or_default();
        if number != *next {
            self.results.faults.push(format!("{id} came when {next} of this note was next"));
        }
        *next = number + 1;
        if let Some(device) = topic.strip_prefix(READINGS) {
            let reading: Reading = serde_json::from_str(&payload)?;
            if reading.device.as_str() != device {
                self.results.faults.push(format!("{reading:?} was published on {topic}"));
            }
            self.results.readings.push(reading);
        } else if topic == SUMS {
            self.results.sums.push(sum_row(&payload)?);
        }
        self.by_id.insert(id, (topic, payload));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(id: &str, sequence: u64) -> Received {
        let payload =
            format!("{{\"device\":\"d1\",\"sequence\":{sequence},\"time_ms\":1,\"value\":2}}");
        let id = (!id.is_empty()).then(|| id.to_owned());
        Received { topic: format!("{READINGS}d1"), id, payload }
    }

    #[track_caller]
    fn check(all: &[(&str, u64)], readings: usize, published_again: u64, faults: usize) {
        let mut inbox = Inbox::default();
        for &(id, sequence) in all {
            inbox.take(received(id, sequence)).unwrap();
        }
        let results = inbox.results;
        assert_eq!(
            (results.readings.len(), results.published_again, results.faults.len()),
            (readings, published_again, faults),
            "{results:?}"
        );
    }

    #[test]
    fn an_id_counts_once_and_must_always_mean_the_same() {
        check(&[("a-1-0-0-0", 1), ("a-1-0-0-1", 2)], 2, 0, 0);
        check(&[("a-1-0-0-0", 1), ("a-1-0-0-1", 2), ("a-1-0-0-0", 1)], 2, 1, 0);
        check(&[("a-1-0-0-0", 1), ("a-1-0-0-0", 2)], 1, 1, 1);
        // The judge sees this one: two readings.
        check(&[("a-1-0-0-0", 1), ("a-2-0-0-0", 1)], 2, 0, 0);
    }

    #[test]
    fn a_topic_has_its_newest_row_and_an_emptied_one_has_none() {
        let mut inbox = Inbox::default();
        let rows = [("a/0", "one"), ("a/1", "two"), ("a/0", ""), ("a/1", "three")];
        for (number, (topic, payload)) in rows.into_iter().enumerate() {
            let (topic, payload) = (format!("{STANDINGS}{topic}"), payload.to_owned());
            let id = Some(format!("a-1-0-0-{number}"));
            inbox.take(Received { topic, id, payload }).unwrap();
        }
        let rows: Vec<_> = inbox.rows.into_iter().collect();
        assert_eq!(rows, [(format!("{STANDINGS}a/1"), "three".to_owned())]);
        assert_eq!(inbox.results.faults.len(), 0);
    }

    #[test]
    fn a_change_must_follow_from_the_table() {
        let faults = |changes: &[(&str, u64)]| {
            let mut table = Follower::default();
            for &(op, count) in changes {
                let row = Standing { device: "d".into(), grade: 0, count, sum: 0 };
                table.follow(ChangeLine { op: op.into(), row }).unwrap();
            }
            (table.faults.len(), table.rows.len())
        };
        assert_eq!(faults(&[("+I", 1), ("-U", 1), ("+U", 2), ("-D", 2)]), (0, 0));
        assert_eq!(faults(&[("+I", 1), ("+U", 2)]), (1, 1));
        assert_eq!(faults(&[("+I", 1), ("-D", 2)]), (1, 0));
        assert_eq!(faults(&[("-D", 1)]), (1, 0));
        assert_eq!(place("part-1-40-7.jsonl"), Some((40, 1, 7)));
    }

    #[test]
    fn what_is_missing_before_a_message_and_a_missing_id_are_faults() {
        check(&[("a-1-0-0-1", 1)], 1, 0, 1);
        check(&[("", 1)], 0, 0, 1);
    }
}
