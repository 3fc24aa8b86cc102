//! The command line. It is parsed, logs are set up, and the command runs. Its outcome becomes an
//! exit code: 0 for success, 1 for a job that failed, 2 for a wrong setting.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use thalweg_kernel::ConfigError;
use thalweg_runtime::JobError;

use crate::connectors::ConnectorsArgs;
use crate::dead_letters::{self, DeadLettersCommand};
use crate::inspect::{self, JournalCommand, SavepointArgs, StateCommand};
use crate::logging;
use crate::program::serve_metrics_at;
use crate::settings::Settings;
use crate::statistics;
use crate::status_command::{StatusArgs, status};

#[derive(Parser)]
#[command(name = "thalweg", version, about = "A stream engine for the gateways at the edge", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `warn,thalweg_mqtt=debug`
    #[arg(long, global = true, env = "THALWEG_LOG", value_name = "FILTER")]
    log: Option<String>,
}

const EXAMPLES: &str = "Examples:
  thalweg demo                       a broker, 300 devices and live averages, all in this process
  thalweg demo --for 10s             the same for ten seconds, then a summary
  thalweg demo --broker mqtt://localhost:1883
  thalweg run gateway.toml           the windowed statistics that the file describes
  thalweg graph gateway.toml         the job's graph, without running it
  thalweg connectors mqtt            what [source.mqtt] and [sink.mqtt] can be told
  thalweg savepoint DIR FILE --stop  writes the job's state to a file, and suspends the job
  thalweg status DIR                 how the job that keeps its state in DIR is doing; so does kill -USR1
  thalweg state ls DIR               what the job that keeps its state in DIR remembers
  thalweg journal cat DIR            the messages that it can still read again
  thalweg dead-letters ls FILE       the messages that could not be read, by cause and topic";

#[derive(Subcommand)]
enum Command {
    /// Show the engine at work: embedded broker, simulated devices, live results
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoArgs),
    /// Run the windowed statistics that a configuration file describes, until Ctrl-C
    Run(JobArgs),
    /// Print the graph of the job that a configuration file describes
    Graph(JobArgs),
    /// List the connectors, or what one of them can be told
    Connectors(ConnectorsArgs),
    /// Write the state of a job, running or not, to a file from which it can be started elsewhere
    Savepoint(SavepointArgs),
    /// Print how a running job is doing: rates, late records, dead letters, lag, checkpoints
    Status(StatusArgs),
    /// Look into stored state
    #[command(subcommand)]
    State(StateCommand),
    /// Look into journals: received messages that can be read again
    #[command(subcommand)]
    Journal(JournalCommand),
    /// Look into files of dead letters, and send letters again
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
}

#[derive(Args)]
struct JobArgs {
    /// The configuration, in TOML; THALWEG_ variables override it: THALWEG_ENGINE__SHARDS=1
    #[arg(value_name = "FILE")]
    config: PathBuf,
}

/// Runs the program and returns its exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = cli.log.clone().unwrap_or_else(|| cli.command.default_log());
    if let Err(error) = logging::begin("--log", &filter) {
        return report(&error.into());
    }
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Tells the user what went wrong.
fn report(error: &anyhow::Error) -> ExitCode {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Errors of connectors tell their cause themselves.
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("thalweg: {text}");
    let wrong_setting = error.chain().any(|cause| {
        cause.is::<ConfigError>() || matches!(cause.downcast_ref(), Some(JobError::Config(_)))
    });
    ExitCode::from(if wrong_setting { 2 } else { 1 })
}

impl Command {
    fn default_log(&self) -> String {
        match self {
            #[cfg(feature = "demo")]
            Self::Demo(_) => crate::demo::default_log(),
            Self::Run(_) | Self::Graph(_) => "info".into(),
            Self::Connectors(_)
            | Self::Savepoint(_)
            | Self::Status(_)
            | Self::State(_)
            | Self::Journal(_)
            | Self::DeadLetters(_) => "warn".into(),
        }
    }

    fn run(self) -> anyhow::Result<()> {
        match self {
            #[cfg(feature = "demo")]
            Self::Demo(args) => crate::demo::run(&args),
            Self::Run(args) => {
                let settings = Settings::read(&args.config)?;
                if let Some(address) = settings.metrics.address {
                    serve_metrics_at(address)?;
                }
                statistics::run(settings)
            }
            Self::Graph(args) => {
                let settings = Settings::read(&args.config)?;
                let runtime = settings.runtime()?;
                let graph = statistics::job(settings).graph(runtime.shards)?;
                // A reader that has seen enough is no error.
                let _gone = write!(std::io::stdout(), "{graph}");
                Ok(())
            }
            Self::Connectors(args) => {
                // A reader that has seen enough is no error.
                let _gone = write!(std::io::stdout(), "{}", args.text()?);
                Ok(())
            }
            Self::Savepoint(args) => inspect::savepoint(&args),
            Self::Status(args) => status(&args),
            Self::State(command) => inspect::state(command),
            Self::Journal(command) => inspect::journal(command),
            Self::DeadLetters(command) => dead_letters::run(command),
        }
    }
}
