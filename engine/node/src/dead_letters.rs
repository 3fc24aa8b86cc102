//! `thalweg dead-letters`: what a file of dead letters holds, and how its letters are sent again.
//!
//! A letter is sent again as it came: its payload byte by byte, to its topic, with its user properties. A letter whose payload was
//! cut, or is of an earlier release and was no text, cannot be. Nor can a result that a sink refused, which no source
//! would understand, or what an operator says of a key. Each is counted with its reason.
//!
//! A job that is killed may write a letter twice, and a message may have a letter for each of its readings. What is equal in topic,
//! place, time of arrival and payload is sent once. A replay that fails says with which `--skip` it goes on.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use thalweg_kernel::{Cause, ConfigError, base64};

/// What can be done with dead letters.
#[derive(Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Count letters by cause and topic, with their first and last time
    #[command(after_help = LS_EXAMPLES)]
    Ls(Which),
    /// Print letters for reading: time, cause, topic, reason and payload
    #[command(after_help = CAT_EXAMPLES)]
    Cat(CatArgs),
    /// Send letters again: to a broker, or as lines into a file or standard output
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
}

const LS_EXAMPLES: &str = "Examples:
  thalweg dead-letters ls dead-letters.jsonl
  thalweg dead-letters ls dead-letters.jsonl.1 dead-letters.jsonl --cause wrong_type";

const CAT_EXAMPLES: &str = "Examples:
  thalweg dead-letters cat dead-letters.jsonl --limit 10
  thalweg dead-letters cat dead-letters.jsonl --topic sensors/d7/temp";

const REPLAY_EXAMPLES: &str = "Examples:
  thalweg dead-letters replay dead-letters.jsonl --to mqtt://localhost --dry-run
  thalweg dead-letters replay dead-letters.jsonl --to mqtt://localhost --cause clock_ahead
  thalweg dead-letters replay dead-letters.jsonl --to mqtt://localhost --topic-to sensors/repaired
  thalweg dead-letters replay dead-letters.jsonl --to again.jsonl      (lines for [source] files)
  thalweg dead-letters replay dead-letters.jsonl --to - | jq .

Letters stay in their file: move it away when they have been sent, or they will be sent twice.
The broker's user and password stand in its URL, or in THALWEG_MQTT_USER and THALWEG_MQTT_PASSWORD.";

/// Which letters.
#[derive(Args)]
pub(crate) struct Which {
    /// Files of dead letters, the oldest first
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Only those of this cause
    #[arg(long, value_name = "CAUSE")]
    cause: Option<String>,
    /// Only those of this topic, or file
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
}

#[derive(Args)]
pub(crate) struct CatArgs {
    #[command(flatten)]
    which: Which,
    /// Stop after this many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    which: Which,
    /// A broker (mqtt://host, mqtts://host), a file that is appended to, or - for standard output
    #[arg(long, value_name = "TO")]
    to: String,
    /// Publish all of them to this topic, instead of their own
    #[arg(long, value_name = "TOPIC")]
    topic_to: Option<String>,
    /// Publish those retained that were retained
    #[arg(long)]
    retain: bool,
    /// Pass over the first N that would be sent, as a replay says that was cut short
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

/// A letter as it is written. What a release did not know yet is absent.
#[derive(Deserialize)]
struct Letter {
    topic: String,
    cause: String,
    reason: String,
    #[serde(default)]
    partition: Option<String>,
    offset: Option<u64>,
    line: Option<u64>,
    received: i64,
    #[serde(default)]
    retained: bool,
    #[serde(default)]
    properties: Vec<(String, String)>,
    payload_bytes: u64,
    payload: String,
    payload_base64: Option<String>,
}

impl Letter {
    /// The payload, if all of it is there.
    fn whole(&self) -> Result<Vec<u8>, &'static str> {
        let bytes = match &self.payload_base64 {
            Some(text) => base64::decode(text).ok_or("its payload is not base64")?,
            None => self.payload.clone().into_bytes(),
        };
        if bytes.len() as u64 == self.payload_bytes {
            return Ok(bytes);
        }
        Err("its payload was cut, or was no text in an earlier release")
    }

    /// What is sent again of it.
    fn again(&self) -> Result<Vec<u8>, &'static str> {
        if self.cause == Cause::ResultRefused.name() {
            return Err("it is a result that a sink refused");
        }
        if [Cause::StateFull, Cause::FunctionFailed].iter().any(|of| of.name() == self.cause) {
            return Err("it is of an operator, which names a key and has no message");
        }
        self.whole()
    }

    /// What tells its message from others: 128 bits of hash.
    fn message(&self, payload: &[u8]) -> (u64, u64) {
        let Self { topic, partition, offset, received, .. } = self;
        let of = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, topic, partition, offset, received, payload).hash(&mut hasher);
            hasher.finish()
        };
        (of(0), of(1))
    }
}

/// Gives `each` the letters of the files until it has enough.
fn read(which: &Which, mut each: impl FnMut(Letter) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    if let Some(cause) = &which.cause
        && !Cause::ALL.iter().any(|known| known.name() == cause)
    {
        let known = Cause::ALL.map(Cause::name);
        let error = ConfigError::new("--cause", cause, format!("one of {}", known.join(", ")));
        return Err(error.near(known).into());
    }
    for path in &which.files {
        let file = File::open(path).with_context(|| {
            format!("cannot read {}: is it the path of [dead_letters]?", path.display())
        })?;
        for (number, line) in BufReader::new(file).split(b'\n').enumerate() {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = || format!("{}:{}", path.display(), number + 1);
            let Ok(letter) = serde_json::from_slice::<Letter>(&line) else {
                // The last line of a file that is being written, or another file.
                eprintln!("thalweg: {}: this line is no dead letter, and is passed over", place());
                continue;
            };
            let is_wanted = which.cause.as_ref().is_none_or(|cause| *cause == letter.cause)
                && which.topic.as_ref().is_none_or(|topic| *topic == letter.topic);
            if is_wanted && !each(letter)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Prints a line. A reader that has seen enough is no error.
fn say(line: std::fmt::Arguments<'_>) {
    let _gone = writeln!(io::stdout(), "{line}");
}

/// A time of arrival, as log lines have it.
fn time(ms: i64) -> String {
    let days = ms.div_euclid(86_400_000);
    let within = ms.rem_euclid(86_400_000);
    let (year, month, day) = date(days);
    let (seconds, ms) = (within / 1_000, within % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date of a day after 1970-01-01 (by H. Hinnant's algorithm).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

pub(crate) fn run(command: DeadLettersCommand) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::Ls(which) => list(&which),
        DeadLettersCommand::Cat(args) => cat(&args),
        DeadLettersCommand::Replay(args) => replay(&args),
    }
}

/// Letters of one cause and topic.
#[derive(Default)]
struct Count {
    letters: u64,
    first: i64,
    last: i64,
    /// They cannot be sent again.
    lost: u64,
}

fn list(which: &Which) -> anyhow::Result<()> {
    let mut counts = BTreeMap::<(String, String), Count>::new();
    read(which, |letter| {
        let lost = u64::from(letter.again().is_err());
        let first = Count { first: i64::MAX, last: i64::MIN, ..Count::default() };
        let count = counts.entry((letter.cause, letter.topic)).or_insert(first);
        count.letters += 1;
        count.lost += lost;
        (count.first, count.last) =
            (count.first.min(letter.received), count.last.max(letter.received));
        Ok(true)
    })?;
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(count.letters));
    for ((cause, topic), Count { letters, first, last, lost }) in &counts {
        let lost = if *lost > 0 { format!(", {lost} cannot be sent again") } else { String::new() };
        let (first, last) = (time(*first), time(*last));
        say(format_args!("{letters:>8}  {cause:<15} {topic}  {first} to {last}{lost}"));
    }
    let letters: u64 = counts.iter().map(|(_, count)| count.letters).sum();
    say(format_args!("{letters:>8}  in all"));
    Ok(())
}

fn cat(args: &CatArgs) -> anyhow::Result<()> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    read(&args.which, |letter| {
        if left == 0 {
            return Ok(false);
        }
        left -= 1;
        let Letter { topic, cause, reason, received, payload_bytes, .. } = &letter;
        let place = match (letter.line, letter.offset) {
            (Some(line), _) => format!(" line {line}"),
            (None, Some(offset)) => format!(" byte {offset}"),
            (None, None) => String::new(),
        };
        say(format_args!("{}  {cause}  {topic}{place}: {reason}", time(*received)));
        for (name, value) in &letter.properties {
            say(format_args!("    {}: {}", name.escape_debug(), value.escape_debug()));
        }
        let shown = match letter.whole() {
            Ok(bytes) => bytes.escape_ascii().to_string(),
            Err(_) => format!("{}... ({payload_bytes} bytes)", letter.payload.escape_debug()),
        };
        // Text stays readable; what is none is escaped.
        let is_text = letter.payload_base64.is_none() && !letter.payload.contains(char::is_control);
        let is_whole = letter.payload.len() as u64 == *payload_bytes;
        let shown = if is_text && is_whole { &letter.payload } else { &shown };
        say(format_args!("    {shown}"));
        Ok(true)
    })
}

/// What came of a replay.
#[derive(Default)]
struct Account {
    sent: u64,
    /// Those that were not, by reason.
    kept: BTreeMap<String, u64>,
}

impl Account {
    fn keep(&mut self, why: impl Into<String>) {
        *self.kept.entry(why.into()).or_default() += 1;
    }
}

/// A replay remembers this many messages, to send each once: 16 MiB of hashes and their table.
const MESSAGES_KNOWN_MAX: usize = 1 << 20;

/// The messages that were sent.
#[derive(Default)]
struct Known(HashSet<(u64, u64)>);

impl Known {
    /// Whether it is the first of its message. Beyond the bound, only repetitions that are near are known.
    fn is_first(&mut self, message: (u64, u64)) -> bool {
        if self.0.len() >= MESSAGES_KNOWN_MAX {
            self.0.clear();
        }
        self.0.insert(message)
    }
}

fn replay(args: &ReplayArgs) -> anyhow::Result<()> {
    let mut target = Target::open(args)?;
    let (mut account, mut known, mut passed) = (Account::default(), Known::default(), 0);
    let sent = read(&args.which, |letter| {
        let payload = match letter.again() {
            Err(why) => {
                account.keep(why);
                return Ok(true);
            }
            Ok(payload) => payload,
        };
        if !known.is_first(letter.message(&payload)) {
            account.keep("it is of a message that was sent already");
            return Ok(true);
        }
        if passed < args.skip {
            passed += 1;
            return Ok(true);
        }
        match target.send(args, &letter, &payload)? {
            Ok(()) => account.sent += 1,
            Err(why) => account.keep(why),
        }
        passed += 1;
        Ok(true)
    });
    let closed = target.close();
    let verb = if args.dry_run { "would be sent" } else { "sent" };
    eprintln!("thalweg: {} dead letters {verb} to {}", account.sent, shown(&args.to));
    for (why, letters) in &account.kept {
        eprintln!("thalweg: {letters} not sent: {why}");
    }
    if sent.is_err() && passed > 0 {
        eprintln!("thalweg: the rest is sent by this command with --skip {passed}");
    }
    sent.and(closed)
}

/// A URL may hold a password.
fn shown(to: &str) -> String {
    match (to.find("://"), to.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://***{}", &to[..scheme], &to[at..]),
        _ => to.to_owned(),
    }
}

/// Where letters go.
enum Target {
    Nowhere,
    Lines(Box<dyn Write>),
    #[cfg(feature = "mqtt")]
    Broker(Box<thalweg_mqtt::resend::Sender>),
}

impl Target {
    fn open(args: &ReplayArgs) -> anyhow::Result<Self> {
        let to = args.to.as_str();
        if to.starts_with("mqtt://") || to.starts_with("mqtts://") {
            return Self::broker(to, args.dry_run);
        }
        if to.contains("://") {
            let allowed = "mqtt://host, mqtts://host, the path of a file, or - for standard output";
            return Err(ConfigError::new("--to", shown(to), allowed).into());
        }
        if args.topic_to.is_some() || args.retain {
            let allowed = "only with a broker: --to mqtt://host";
            let key = if args.retain { "--retain" } else { "--topic-to" };
            return Err(
                ConfigError::new(key, args.topic_to.as_deref().unwrap_or("true"), allowed).into()
            );
        }
        if args.dry_run {
            return Ok(Self::Nowhere);
        }
        if to == "-" {
            return Ok(Self::Lines(Box::new(io::stdout())));
        }
        if args.which.files.iter().any(|file| same_file(file, Path::new(to))) {
            bail!("{to} is the file of dead letters itself: name another");
        }
        let file = OpenOptions::new().create(true).append(true).open(to);
        let file = file.with_context(|| format!("cannot write {to}"))?;
        Ok(Self::Lines(Box::new(io::BufWriter::new(file))))
    }

    #[cfg(feature = "mqtt")]
    fn broker(url: &str, dry_run: bool) -> anyhow::Result<Self> {
        let config: thalweg_mqtt::MqttConfig = url
            .parse()
            .map_err(|error: ConfigError| ConfigError { key: "--to".into(), ..error })?;
        config.check().map_err(|error| ConfigError { key: "--to".into(), ..error })?;
        if dry_run {
            return Ok(Self::Nowhere);
        }
        Ok(Self::Broker(Box::new(thalweg_mqtt::resend::Sender::connect(&config)?)))
    }

    #[cfg(not(feature = "mqtt"))]
    fn broker(url: &str, _: bool) -> anyhow::Result<Self> {
        let allowed = "a file or -; this build lacks MQTT: take one with the cargo feature `mqtt`";
        Err(ConfigError::new("--to", shown(url), allowed).into())
    }

    /// Sends one. The inner error says why this one cannot be; others may.
    fn send(
        &mut self,
        args: &ReplayArgs,
        letter: &Letter,
        payload: &[u8],
    ) -> anyhow::Result<Result<(), String>> {
        match self {
            Self::Nowhere => {}
            Self::Lines(out) => {
                if payload.contains(&b'\n') {
                    return Ok(
                        Err("its payload has several lines: send it to a broker".to_owned()),
                    );
                }
                out.write_all(payload)
                    .and_then(|()| out.write_all(b"\n"))
                    .context("cannot write")?;
            }
            #[cfg(feature = "mqtt")]
            Self::Broker(sender) => {
                use thalweg_mqtt::resend::{Message, Refusal};
                if args.topic_to.is_none() && letter.line.is_some() {
                    return Ok(Err("it came from a file: name a topic with --topic-to".to_owned()));
                }
                let topic = args.topic_to.as_ref().unwrap_or(&letter.topic);
                let retain = args.retain && letter.retained;
                let message = Message { topic, payload, retain, properties: &letter.properties };
                match sender.send(&message) {
                    Ok(()) => {}
                    Err(Refusal::Message(why)) => return Ok(Err(why)),
                    Err(Refusal::Connection(error)) => return Err(error.into()),
                }
            }
        }
        #[cfg(not(feature = "mqtt"))]
        let _unused = (args, letter.retained, &letter.properties);
        Ok(Ok(()))
    }

    fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Lines(mut out) => out.flush().context("cannot write"),
            #[cfg(feature = "mqtt")]
            Self::Broker(sender) => {
                sender.close();
                Ok(())
            }
        }
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(json: &str) -> Letter {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_is_whole_is_sent_as_it_was() {
        let letter = |rest: &str| {
            letter(&format!(
                r#"{{"topic":"t","cause":"malformed","reason":"r","received":1,{rest}}}"#
            ))
        };
        assert_eq!(letter(r#""payload_bytes":2,"payload":"ab""#).again().unwrap(), b"ab");
        let bytes = letter(r#""payload_bytes":2,"payload":"a\ufffd","payload_base64":"Yf8=""#);
        assert_eq!(bytes.again().unwrap(), b"a\xff");
        let old = letter(r#""payload_bytes":2,"payload":"a\ufffd""#);
        assert!(old.again().unwrap_err().contains("earlier release"));
        let cut = letter(r#""payload_bytes":9,"payload":"ab""#);
        assert!(cut.again().is_err());
        let mut result = letter(r#""payload_bytes":2,"payload":"ab""#);
        result.cause = "result_refused".into();
        assert!(result.again().unwrap_err().contains("a sink refused"));
    }

    /// Goal: what stands there twice, after a crash or for two readings of a message, is sent once.
    #[test]
    fn a_message_is_sent_once_and_a_replay_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (dead, to) = (dir.path().join("dead.jsonl"), dir.path().join("again.jsonl"));
        let line = |topic: &str, received: i64, cause: &str, payload: &str| {
            format!(
                r#"{{"topic":"{topic}","cause":"{cause}","reason":"r{received}","received":{received},"payload_bytes":{},"payload":"{payload}"}}"#,
                payload.len()
            )
        };
        let lines = [
            line("t", 1, "malformed", "a"),
            line("t", 1, "wrong_type", "a"),
            line("t", 2, "malformed", "a"),
            line("u", 1, "malformed", "a"),
            line("window", 1, "state_full", "key"),
            line("t", 3, "malformed", "b"),
        ];
        std::fs::write(&dead, lines.join("\n")).unwrap();
        let again = |skip| {
            let _first = std::fs::remove_file(&to);
            let args = ReplayArgs {
                which: Which { files: vec![dead.clone()], cause: None, topic: None },
                to: to.display().to_string(),
                topic_to: None,
                retain: false,
                skip,
                dry_run: false,
            };
            replay(&args).unwrap();
            std::fs::read_to_string(&to).unwrap()
        };
        assert_eq!(again(0), "a\na\na\nb\n");
        assert_eq!(again(2), "a\nb\n");
    }

    #[test]
    fn times_are_shown_as_log_lines_have_them() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (951_827_696_000, "2000-02-29T12:34:56.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(time(ms), expected);
        }
    }

    #[test]
    fn no_password_is_shown() {
        assert_eq!(shown("mqtt://u:hunter2@h:1"), "mqtt://***@h:1");
        assert_eq!(shown("a@b.jsonl"), "a@b.jsonl");
    }
}
