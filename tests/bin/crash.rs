//! The crash proof kills a real process again and again under load through a real broker. In the end it
//! holds what its sinks have against a ledger of what the broker had acknowledged. Repetitions are told by the publishers' numbers,
//! or by the source alone, at QoS 1 or 2 (`--once`).
//!
//! ```text
//!  fleet (QoS 1, numbered) ──> mosquitto ──> the job, a child process ──> readings, sums per second, a changelog
//!     └── ledger: what was PUBACKed           └── kill -9, again and again      │
//!          └───────────────── compared, exactly ────────────────────────────────┘
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | `fleet` | publishers that lose connections and send again |
//! | `ledger` | what was published, and what was acknowledged |
//! | `job` | the job, and its process |
//! | `lives`, `moments` | starts and kills it: after a time, or at named points |
//! | `sinks` | what the sinks hold |
//! | `standings` | the table whose changelog goes into the third sink |
//! | `uplink`, `receiver` | for MQTT: a way to the broker that breaks, and who receives what is published |
//! | `judge` | the comparison |
//!
//! What may be claimed: every acknowledged message is in the sink once, and every sum is that of these messages. The
//! table that follows the changelog is what these messages come to. A message that was sent and never acknowledged
//! may be there once or not at all, in all sinks alike.
//!
//! The outbox publishes at least once, so with MQTT "in the sink" means: received, each id counted once. One id
//! must always mean one result, and one result must have one id. Repetitions under an id are counted and printed.
//!
//! The broker itself is never killed: mosquitto's own promises end at its memory.

#[path = "../crash/fleet.rs"]
mod fleet;
#[path = "../crash/job.rs"]
mod job;
#[path = "../crash/judge.rs"]
mod judge;
#[path = "../crash/ledger.rs"]
mod ledger;
#[path = "../crash/lives.rs"]
mod lives;
#[path = "../crash/moments.rs"]
mod moments;
#[path = "../crash/reading.rs"]
mod reading;
#[path = "../crash/receiver.rs"]
mod receiver;
#[path = "../crash/sinks.rs"]
mod sinks;
#[path = "../crash/standings.rs"]
mod standings;
#[path = "../crash/uplink.rs"]
mod uplink;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use thalweg::runtime::{DriverKind, StateDirectory};
use thalweg_mqtt::Mode;
use thalweg_mqtt::testing::Mosquitto;
use thalweg_store::Inspector;

use crate::fleet::Fleet;
use crate::ledger::Ledger;
use crate::lives::Lives;
use crate::receiver::Receiver;
use crate::sinks::SinkKind;
use crate::uplink::Uplink;

/// When nothing new has come out for this long, nothing more will.
const STILL: Duration = Duration::from_secs(10);
/// Violations that are printed; the others are counted.
const SHOWN_MAX: usize = 20;
/// The exit code where there is no mosquitto, or no PostgreSQL.
const SKIPPED: u8 = 77;

/// Kills a job under load, and proves that nothing was lost or repeated.
///
/// There are a private mosquitto, a fleet that publishes at QoS 1 and cuts its connections, and a job. The job is
/// killed with SIGKILL at random moments and at named points (a new journal segment, a write to the state, a
/// rename, ...). It is started again at once, on one to three shards and either driver. In the end the sinks must hold
/// every message that was acknowledged exactly once, and the right sums of them.
///
/// Prints `kills N lost 0 repeated 0` and exits with 0; otherwise says what is wrong, keeps the directory, and
/// exits with 1. Exits with 77 where mosquitto is not installed, or the database is not.
#[derive(Parser)]
#[command(
    name = "crash",
    after_help = "Examples:
  crash --kills 300                        SQLite, 300 kills, a minute or two
  crash --kills 2000 --sink files --seed 7
  crash --kills 300 --sink mqtt            through the outbox, over connections that break
  crash --kills 300 --once qos2            without numbers of the publishers
  crash --kills 20 --rate 500 --keep       a small run whose directory is kept"
)]
struct Options {
    /// How often the job is killed.
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Where its results go.
    #[arg(long, value_enum, default_value_t = SinkKind::Sqlite)]
    sink: SinkKind,
    /// The broker between the fleet and the job.
    #[arg(long, value_enum, default_value_t = Broker::Mosquitto)]
    broker: Broker,
    /// Decides when and where the job is killed, and what the fleet does.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Messages a second, all devices together.
    #[arg(long, default_value_t = 2_000)]
    rate: u64,
    /// What tells repetitions from news. Without numbers publishers lose no connections: what they sent again would be another message.
    #[arg(long, value_enum, default_value_t = Once::Numbers)]
    once: Once,
    /// When the job's source acknowledges: with `none` the proof must fail.
    #[arg(long, default_value = "journal", value_name = "MODE")]
    durability: Mode,
    /// Keeps the directory also when all is well.
    #[arg(long)]
    keep: bool,
    /// For the program itself: be the job, in this directory.
    #[arg(long, hide = true)]
    life: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    port: u16,
    #[arg(long, hide = true, default_value_t = 0)]
    uplink: u16,
    #[arg(long, hide = true, default_value_t = 1)]
    shards: usize,
    #[arg(long, hide = true, default_value = "auto")]
    driver: DriverKind,
    #[arg(long, hide = true, default_value_t = 20)]
    checkpoint_ms: u64,
}

/// What tells repetitions from news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Once {
    /// The publishers' numbers, in the job; QoS 1.
    Numbers,
    /// The source alone, at QoS 1: readings carry their time.
    Qos1,
    /// The source alone, at QoS 2.
    Qos2,
}

impl Once {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Numbers => "numbers",
            Self::Qos1 => "qos1",
            Self::Qos2 => "qos2",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Broker {
    /// A private one on 127.0.0.1.
    Mosquitto,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("crash: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if let Some(dir) = options.life.clone() {
        let Options { port, uplink, sink, once, durability, .. } = *options;
        let Options { shards, driver, checkpoint_ms, .. } = *options;
        let life =
            job::Life { dir, port, uplink, sink, once, durability, shards, driver, checkpoint_ms };
        job::live(&life)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Broker::Mosquitto = options.broker;
    // It logs every packet otherwise. The receive window is the source's own.
    let broker = Mosquitto::options().line("log_dest none").line("max_inflight_messages 0").start();
    let Some(broker) = broker else { return Ok(ExitCode::from(SKIPPED)) };
    let dir = tempfile::Builder::new().prefix("thalweg-crash-").tempdir()?;
    let path = dir.path().to_owned();
    // Nothing but our own process is killed, so it need not wait for the disk.
    let database =
        (options.sink == SinkKind::Postgres).then(thalweg_postgres::testing::Server::start);
    match &database {
        Some(None) => return Ok(ExitCode::from(SKIPPED)),
        Some(Some(server)) => {
            std::fs::write(sinks::postgres_url_file(&path), server.url("postgres"))?;
        }
        None => {}
    }
    let proof = prove(options, broker.port(), path.clone());
    let good = matches!(proof, Ok(true));
    if options.keep || !good {
        println!("kept: {}", dir.keep().display());
    }
    match proof {
        Ok(_) => Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Err(error) => Err(error.context(format!("seed {}", options.seed))),
    }
}

/// The whole run; whether all is well.
fn prove(options: &Options, port: u16, dir: PathBuf) -> Result<bool> {
    let begun = Instant::now();
    let sink = options.sink;
    let away = match sink {
        SinkKind::Mqtt => Some(Away::start(port, &dir, options.seed)?),
        _ => None,
    };
    let ports = (port, away.as_ref().map_or(0, |away| away.uplink.port()));
    let mut lives =
        Lives::new(dir.clone(), ports, sink, (options.once, options.durability), options.seed);
    lives.begin()?;
    lives.wait_for_subscription()?;
    let fleet = Fleet::start(port, options.rate, options.once, options.seed)?;
    while lives.figures.kills < options.kills {
        lives.kill()?;
        lives.begin()?;
        if lives.figures.kills.is_multiple_of(100) {
            println!(
                "{} kills, {} messages, {:.0} s",
                lives.figures.kills,
                fleet.acknowledged(),
                begun.elapsed().as_secs_f64()
            );
        }
    }
    let (ledger, cuts) = fleet.finish()?;
    drain(&ledger, sink, &dir, &mut lives, away.as_ref())?;
    lives.suspend()?;
    let results = sinks::read(sink, &dir)?;
    let verdict = judge::judge(&ledger, &results);

    let took = begun.elapsed().as_secs_f64();
    let (acknowledged, published) = (ledger.acknowledged(), ledger.len());
    let once = options.once.name();
    println!("sink {}, once by {once}, seed {}, {took:.1} s", sink.name(), options.seed);
    println!(
        "messages {published}, acknowledged {acknowledged}, connections of publishers cut {cuts}, sums {}",
        results.sums.len()
    );
    let by_shards = lives.figures.by_shards.iter();
    let by_shards: Vec<_> = by_shards.map(|(n, lives)| format!("{n}: {lives}")).collect();
    let by_point = lives.figures.by_point.iter();
    let by_point: Vec<_> = by_point
        .map(|(point, kills)| match point {
            Some(point) => format!("{point}: {kills}"),
            None => format!("by time: {kills}"),
        })
        .collect();
    println!("lives by shards {}; kills {}", by_shards.join(", "), by_point.join(", "));
    let by_driver = lives.figures.by_driver.iter();
    let by_driver: Vec<_> = by_driver.map(|(name, lives)| format!("{name}: {lives}")).collect();
    println!("lives by driver {}", by_driver.join(", "));
    println!("epochs {}", newest_epoch(&dir)?);
    if let Some(Away { uplink, .. }) = &away {
        let again = results.published_again;
        println!(
            "published again under the same id {again}, connections of the outbox cut {}",
            uplink.cuts()
        );
    }
    for violation in verdict.violations.iter().take(SHOWN_MAX) {
        println!("  {violation}");
    }
    let more = verdict.violations.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        println!("  and {more} more");
    }
    if verdict.wrong > 0 {
        println!("wrong {}", verdict.wrong);
    }
    println!("kills {} lost {} repeated {}", lives.figures.kills, verdict.lost, verdict.repeated);
    Ok(verdict.violations.is_empty())
}

/// What is beyond the broker, where results are published.
struct Away {
    uplink: Uplink,
    receiver: Receiver,
}

impl Away {
    fn start(port: u16, dir: &Path, seed: u64) -> Result<Self> {
        let receiver = Receiver::start(port, &sinks::out_dir(dir))?;
        Ok(Self { uplink: Uplink::start(port, seed)?, receiver })
    }
}

/// Waits until the sinks hold all they should, or nothing moves any more.
fn drain(
    ledger: &Ledger,
    sink: SinkKind,
    dir: &Path,
    lives: &mut Lives,
    away: Option<&Away>,
) -> Result<()> {
    if let Some(away) = away {
        away.uplink.calm();
    }
    let (readings, sums) = judge::expected_rows(ledger);
    let (mut seen, mut since) = ((0, 0), Instant::now());
    while since.elapsed() < STILL {
        thread::sleep(Duration::from_millis(300));
        lives.check()?;
        away.map_or(Ok(()), |away| away.receiver.check())?;
        // Files may be renamed or removed while they are read.
        let Ok(results) = sinks::read(sink, dir) else { continue };
        let now = (results.readings.len(), results.sums.len());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if now.0 >= readings && now.1 >= sums && since.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    Ok(())
}

fn newest_epoch(dir: &Path) -> Result<u64> {
    let epochs = StateDirectory::epochs_in(&job::state_dir(dir));
    let inspector = Inspector::open(&epochs).context("cannot look into the state")?;
    Ok(inspector.record().epoch.number())
}
