//! The size of the `thalweg` binary, the time it takes to be ready, and what it costs when nothing
//! happens. What is measured and how: `thalweg_benches::footprint`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use serde::Serialize;
use thalweg_benches::broker::{Broker, Choice};
use thalweg_benches::footprint::{Idle, Starts, Subject};

/// Size, start and idle cost of the `thalweg` binary
#[derive(Parser)]
#[command(after_help = "The last line of the output is JSON.")]
struct Args {
    /// The binary to measure; by default the `thalweg` beside this one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,

    /// Starts of each kind
    #[arg(long, default_value_t = 20, value_name = "N")]
    starts: usize,

    /// How long to let it idle in all; the CPU counts in the last three quarters
    #[arg(long, default_value_t = 20.0, value_name = "S")]
    idle_seconds: f64,

    /// The drivers to compare
    #[arg(long, value_delimiter = ',', default_value = "glommio,threads", value_name = "DRIVERS")]
    drivers: Vec<String>,

    /// auto (a private mosquitto, or else the embedded broker), embedded, or mqtt://HOST[:PORT]
    #[arg(long, default_value = "auto", value_name = "BROKER")]
    broker: Choice,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    binary: PathBuf,
    bytes: u64,
    stripped_bytes: Option<u64>,
    broker: String,
    drivers: Vec<Driver>,
}

#[derive(Serialize)]
struct Driver {
    driver: String,
    mqtt_start: Starts,
    file_run: Starts,
    idle: Idle,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let binary = match args.binary {
        Some(binary) => binary,
        None => std::env::current_exe()?.with_file_name("thalweg"),
    };
    let subject = Subject::new(&binary)?;
    let (bytes, stripped_bytes) = subject.sizes()?;
    println!("{}", binary.display());
    let mb = |bytes: u64| bytes as f64 / 1e6;
    print!("size {:.2} MB", mb(bytes));
    println!(
        "{}",
        stripped_bytes.map_or(String::new(), |bytes| format!(", stripped {:.2} MB", mb(bytes)))
    );

    let broker = Broker::start(&args.broker)?;
    println!("broker: {broker}");
    let idle = Duration::try_from_secs_f64(args.idle_seconds).context("--idle-seconds")?;
    let mut drivers = Vec::new();
    for driver in args.drivers {
        let with = || format!("with the driver {driver}");
        let mqtt_start = subject.mqtt_starts(&broker, &driver, args.starts).with_context(with)?;
        let file_run = subject.file_runs(&driver, args.starts).with_context(with)?;
        let idle = subject.idle(&broker, &driver, idle / 4, idle * 3 / 4).with_context(with)?;
        println!("driver {driver}");
        for (what, times) in [("subscribed", mqtt_start), ("file of 1,000 lines done", file_run)] {
            let Starts { min_ms, median_ms, max_ms } = times;
            println!(
                "  {what:<26} after {median_ms} ms ({min_ms} to {max_ms}; {} starts)",
                args.starts
            );
        }
        println!(
            "  idle: RSS {:.1} MiB, of which {:.1} anonymous; CPU {:.2} % of a core; {} threads",
            idle.rss_mib, idle.rss_anon_mib, idle.cpu_percent, idle.threads
        );
        drivers.push(Driver { driver, mqtt_start, file_run, idle });
    }
    let broker = broker.to_string();
    let report = Report { bench: "footprint", binary, bytes, stripped_bytes, broker, drivers };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
