//! Looking at what a job has stored, from outside: `thalweg journal`, `thalweg state`, `thalweg savepoint`.
//! The job may be running meanwhile: looking locks and changes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use thalweg_journal::inspect;
use thalweg_kernel::{JournalReader, StateId, StateKind, Timestamp};
use thalweg_runtime::StateDirectory;
use thalweg_store::{Inspector, Resume, Savepoint, StateSummary, Store, StoreError, StoreOptions};

use crate::asking::ask_for_savepoint;

/// Prints a line. A reader that has seen enough is no error.
fn say(line: std::fmt::Arguments<'_>) {
    let _gone = writeln!(io::stdout(), "{line}");
}

/// What can be done with journals.
#[derive(Subcommand)]
pub(crate) enum JournalCommand {
    /// List the journals of a state directory, with their segments
    Ls {
        /// The state directory of a job
        #[arg(value_name = "STATE_DIR")]
        dir: PathBuf,
    },
    /// Print records: position, time of arrival and bytes, escaped
    Cat(CatArgs),
    /// Read every record and check it; exit code 1 if any is damaged
    Verify {
        /// The state directory of a job
        #[arg(value_name = "STATE_DIR")]
        dir: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct CatArgs {
    /// The state directory of a job
    #[arg(value_name = "STATE_DIR")]
    dir: PathBuf,
    /// The journal; may be left out where there is one
    #[arg(long, value_name = "NAME")]
    journal: Option<String>,
    /// The first position; the oldest kept by default
    #[arg(long, value_name = "POSITION", conflicts_with = "since")]
    from: Option<u64>,
    /// The first time of arrival, in milliseconds since 1970
    #[arg(long, value_name = "MS")]
    since: Option<i64>,
    /// Stop after this many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// What can be done with state.
#[derive(Subcommand)]
pub(crate) enum StateCommand {
    /// List the states of a state directory, or of a savepoint, with their sizes
    Ls {
        /// The state directory of a job, or a savepoint
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Print the entries of a state: key group, key (with the own key of an entry, or an item's number) and value, escaped
    Get(GetArgs),
}

#[derive(Args)]
pub(crate) struct GetArgs {
    /// The state directory of a job, or a savepoint
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The operator's stable name
    operator: String,
    /// The state's name
    state: String,
    /// Only entries whose own stored key begins with this text
    #[arg(long, default_value = "", value_name = "TEXT")]
    prefix: String,
    /// Stop after this many
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: u64,
}

/// Writes a savepoint.
#[derive(Args)]
pub(crate) struct SavepointArgs {
    /// The state directory of a job, which may be running
    #[arg(value_name = "STATE_DIR")]
    dir: PathBuf,
    /// The file to write
    #[arg(value_name = "FILE")]
    to: PathBuf,
    /// Suspend the job with it
    #[arg(long)]
    stop: bool,
}

pub(crate) fn journal(command: JournalCommand) -> anyhow::Result<()> {
    match command {
        JournalCommand::Ls { dir } => list_journals(&dir),
        JournalCommand::Cat(args) => cat(&args),
        JournalCommand::Verify { dir } => verify(&dir),
    }
}

fn list_journals(dir: &Path) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for journal in inspect::list(&StateDirectory::journals_in(dir))? {
        let (first, end, bytes) = (journal.first(), journal.end(), journal.bytes());
        writeln!(out, "{}  positions {first}..{end}  {bytes} bytes", journal.name)?;
        for segment in &journal.segments {
            let times = segment.times.map_or_else(String::new, |(earliest, latest)| {
                format!("  received {earliest}..{latest}")
            });
            writeln!(
                out,
                "  {}  {}..{}  {} of {} bytes{times}{}",
                segment.file,
                segment.first,
                segment.end,
                segment.used_bytes,
                segment.bytes,
                segment
                    .damage
                    .as_ref()
                    .map_or_else(String::new, |what| format!("  DAMAGED: {what}"))
            )?;
        }
    }
    Ok(())
}

fn cat(args: &CatArgs) -> anyhow::Result<()> {
    let place = StateDirectory::journals_in(&args.dir);
    let name = match &args.journal {
        Some(name) => name.clone(),
        None => {
            let mut names = inspect::names(&place)?;
            match (names.pop(), names.is_empty()) {
                (Some(only), true) => only,
                (None, _) => bail!("there is no journal in {}", place.display()),
                (Some(last), false) => {
                    let all = [names, vec![last]].concat().join(", ");
                    bail!("which journal? --journal NAME, one of: {all}")
                }
            }
        }
    };
    let mut reader = match args.since {
        Some(since) => inspect::read_from_time(&place, &name, Timestamp::from_millis(since))?,
        None => inspect::read(&place, &name, args.from)?,
    };
    let mut out = io::stdout().lock();
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some(record) = reader.next()?
    {
        let bytes = record.bytes.escape_ascii();
        if writeln!(out, "{}\t{}\t{bytes}", record.position, record.received).is_err() {
            // A reader that has seen enough is no error.
            return Ok(());
        }
        left -= 1;
    }
    Ok(())
}

fn verify(dir: &Path) -> anyhow::Result<()> {
    let place = StateDirectory::journals_in(dir);
    let mut damaged = 0;
    for name in inspect::names(&place)? {
        let found = inspect::verify(&place, &name)?;
        say(format_args!(
            "{name}  {} records  positions {}..{}",
            found.records, found.first, found.end
        ));
        if found.torn_bytes > 0 {
            say(format_args!(
                "  {} bytes of a torn group at the end, to be cut at the next start",
                found.torn_bytes
            ));
        }
        if let Some(damage) = found.damage {
            say(format_args!("  DAMAGED: {damage}"));
            damaged += 1;
        }
    }
    if damaged > 0 {
        bail!("{damaged} journals are damaged");
    }
    Ok(())
}

/// Stored state, from wherever it is read.
enum Stored {
    Directory(Inspector),
    Savepoint(Savepoint),
}

impl Stored {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            let epochs = StateDirectory::epochs_in(path);
            return Ok(Self::Directory(Inspector::open(&epochs)?));
        }
        Ok(Self::Savepoint(Savepoint::open(path)?))
    }

    fn states(&self) -> Result<Vec<StateSummary>, StoreError> {
        match self {
            Self::Directory(directory) => directory.states(),
            Self::Savepoint(savepoint) => Ok(savepoint.states()),
        }
    }

    fn entries(
        &mut self,
        state: StateId,
        prefix: &[u8],
        each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => directory.entries(state, prefix, each),
            Self::Savepoint(savepoint) => savepoint.entries(state, prefix, each),
        }
    }
}

pub(crate) fn state(command: StateCommand) -> anyhow::Result<()> {
    match command {
        StateCommand::Ls { path } => list_states(&path),
        StateCommand::Get(args) => get(&args),
    }
}

fn list_states(path: &Path) -> anyhow::Result<()> {
    let stored = Stored::open(path)?;
    let record = match &stored {
        Stored::Directory(directory) => directory.record(),
        Stored::Savepoint(savepoint) => savepoint.record(),
    };
    say(format_args!(
        "job {}  epoch {}  written at {} on {} shards  {} key groups",
        record.job, record.epoch, record.at, record.shards, record.key_groups
    ));
    for state in stored.states()? {
        let StateSummary { id, info, entries, bytes } = state;
        let name = info.as_ref().map_or_else(
            || format!("unknown state {:016x}", id.number()),
            |info| format!("{:?} {:?}", info.operator.as_str(), info.name.as_str()),
        );
        let kind = info.map_or_else(String::new, |info| {
            format!("  {:?}, schema {}, {}", info.kind, info.schema, info.types)
        });
        say(format_args!("{name}  {entries} entries  {bytes} bytes{kind}"));
    }
    Ok(())
}

fn get(args: &GetArgs) -> anyhow::Result<()> {
    let mut stored = Stored::open(&args.path)?;
    let states = stored.states()?;
    let named = |state: &&StateSummary| {
        state.info.as_ref().is_some_and(|info| {
            info.operator == args.operator.as_str() && info.name == args.state.as_str()
        })
    };
    let Some(state) = states.iter().find(named) else {
        bail!("there is no such state; `thalweg state ls` lists them");
    };
    let kind = state.info.as_ref().map(|info| info.kind);
    let (mut out, mut left) = (io::stdout().lock(), args.limit);
    let mut gone = false;
    stored.entries(state.id, args.prefix.as_bytes(), |key, value| {
        if left > 0 && !gone {
            left -= 1;
            let (group, own) = StateId::split_key(key).unwrap_or((0, key));
            let (own, value) = (own_key(kind, own), value.escape_ascii());
            gone = writeln!(out, "{group}\t{own}\t{value}").is_err();
        }
        Ok(())
    })?;
    Ok(())
}

/// An entry's own part of the stored key, for people.
fn own_key(kind: Option<StateKind>, own: &[u8]) -> String {
    match (kind, own.try_into()) {
        (Some(StateKind::Operator), Ok(number)) => {
            format!("item {}", u64::from_be_bytes(number))
        }
        (Some(StateKind::List), Err(_)) if own.len() > 8 => {
            let (key, number) = own.split_at(own.len() - 8);
            let number = number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            format!("{} item {number}", key.escape_ascii())
        }
        _ => own.escape_ascii().to_string(),
    }
}

pub(crate) fn savepoint(args: &SavepointArgs) -> anyhow::Result<()> {
    if let Some(epoch) = ask_for_savepoint(&args.dir, &args.to, args.stop)? {
        say(format_args!("epoch {epoch} written to {}", args.to.display()));
        return Ok(());
    }
    // Nobody runs there: the newest epoch is as good.
    let epochs = StateDirectory::epochs_in(&args.dir);
    if !epochs.is_dir() {
        bail!("{} is no state directory", args.dir.display());
    }
    let store = Store::open(&epochs, StoreOptions::default(), Resume::Newest)
        .with_context(|| format!("cannot open {}", args.dir.display()))?;
    let Some(record) = store.recovered() else { bail!("there is no checkpoint yet") };
    store.export(record.epoch, &args.to)?;
    say(format_args!(
        "epoch {} written to {} (the job is not running)",
        record.epoch,
        args.to.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_lists_have_numbers_and_other_keys_are_text() {
        let number = 300_u64.to_be_bytes();
        assert_eq!(own_key(Some(StateKind::Operator), &number), "item 300");
        assert_eq!(own_key(Some(StateKind::List), b"d1\0\0\0\0\0\0\x01\x02"), "d1 item 258");
        assert_eq!(own_key(Some(StateKind::Keyed), b"d1\0"), "d1\\x00");
        assert_eq!(own_key(None, &number), number.escape_ascii().to_string());
    }
}
