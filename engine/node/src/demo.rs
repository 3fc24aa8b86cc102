//! `thalweg demo`: an MQTT broker and a fleet of devices inside the process, a job that averages
//! readings and raises alerts, and a live view. So one command shows the engine at work on a
//! machine that has nothing else.
//!
//! | module | what it is |
//! |---|---|
//! | [`broker`] | an MQTT broker on free ports of 127.0.0.1 |
//! | `door` | one port of it for clients of any version |
//! | [`fleet`] | simulated devices, some of which misbehave in ways that are counted |
//! | `pipeline` | the job: what a user would write |
//! | `view` | the live table |
//! | `account` | whether what arrived agrees with what was sent, to the message |

mod account;
pub mod broker;
mod door;
pub mod fleet;
mod pipeline;
mod view;

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{process, thread};

use anyhow::{Context, bail};
use clap::Args;
use thalweg_kernel::ConfigError;
use thalweg_kernel::options::units;
use thalweg_mqtt::MqttConfig;

use self::account::Account;
use self::broker::Broker;
use self::fleet::{Fleet, FleetConfig};
use self::pipeline::Counts;
use self::view::View;
use crate::engine::EngineArgs;
use crate::program::serve_metrics_at;
use crate::shutdown::Shutdown;

/// The view tells what matters; the log speaks only when something is wrong.
pub(crate) fn default_log() -> String {
    format!("warn,thalweg_runtime::metrics=error,{}", broker::LOG_FILTER)
}

/// How long the source may take to subscribe, and the pipeline to receive what was sent last.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a broker may take to answer that seems to have gone away.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "Examples:
  thalweg demo                              until Ctrl-C, then a summary of what was sent and arrived
  thalweg demo --for 10s --rate 20000       ten seconds of more messages
  thalweg demo --shards 1                   on one core
  thalweg demo --broker mqtt://localhost    through a broker of your own";

/// See `thalweg demo --help`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// End after this long, with a summary: 10s, 2m. Without it, run until Ctrl-C
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,

    /// Use this broker instead of the embedded one: mqtt://[user:password@]host[:port]
    #[arg(long, value_name = "URL")]
    broker: Option<String>,

    /// Simulated devices, 16 or more
    #[arg(long, default_value_t = 300, value_name = "N")]
    devices: u32,

    /// Messages per second from all devices together
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    rate: u32,

    /// Chooses the devices' values and which of them misbehave
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// Serve Prometheus metrics here; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    metrics: std::net::SocketAddr,

    #[command(flatten)]
    engine: EngineArgs,
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).ok_or_else(|| "allowed: a duration: 250ms, 10s, 5m, 1h 30m".to_owned())
}

/// Runs the demonstration.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let runtime = args.engine.runtime()?;
    let metrics = serve_metrics_at(args.metrics)?;
    let embedded = if args.broker.is_none() { Some(Broker::start()?) } else { None };
    let address = match (&args.broker, &embedded) {
        (Some(url), _) => url.clone(),
        (None, Some(broker)) => broker.url(),
        (None, None) => bail!("there is no broker"),
    };
    // The source and the sink speak MQTT 5 where they can; the fleet 3.1.1.
    let url = embedded.as_ref().map_or_else(|| address.clone(), Broker::url_v5);
    let broker: MqttConfig = url.parse()?;
    // A prefix of its own keeps a shared broker's other messages out of the account.
    let prefix = format!("thalweg-demo/{:x}", process::id());
    let fleet = FleetConfig {
        url: address.clone(),
        prefix: prefix.clone(),
        devices: args.devices,
        rate: args.rate,
        seed: args.seed,
        ..FleetConfig::default()
    };
    fleet.check().map_err(as_option)?;
    let counts = Arc::new(Counts::default());
    let (mut view, rows) = View::new();
    let subscribed = Arc::new(AtomicBool::new(false));
    let job = pipeline::job(&broker, &prefix, &counts, &rows, &subscribed);
    drop(rows);

    let running = job.start(&runtime)?;
    let driver = running.driver();
    wait_for("the source to subscribe", || {
        subscribed.load(Ordering::Acquire) || running.is_finished()
    })?;
    if running.is_finished() {
        running.wait()?;
        bail!("the job ended before it began");
    }
    let fleet = Fleet::start(fleet)?;
    view.introduce(&view::Facts {
        broker: &embedded.as_ref().map_or_else(|| broker.to_string(), Broker::url_of_any),
        embedded: embedded.is_some(),
        devices: args.devices,
        rate: args.rate,
        shards: runtime.shards,
        driver: &driver.to_string(),
        metrics: &format!("http://{metrics}/metrics"),
        watch: &watch_line(&embedded.as_ref().map_or(address, Broker::url_of_any), &prefix),
    });

    let interrupts = Arc::new(AtomicU64::new(0));
    let (count, stopper) = (Arc::clone(&interrupts), running.stopper());
    let end = move |nth| {
        count.store(nth as u64, Ordering::Release);
        if nth > 1 {
            stopper.abort();
        }
    };
    // The view shows it all the time.
    let _watch = Shutdown::watch().each(end, || {});
    let begun = Instant::now();
    let over = || args.duration.is_some_and(|duration| begun.elapsed() >= duration);
    let interrupted = || interrupts.load(Ordering::Acquire) > 0;
    while !over() && !view.unwatched() && !interrupted() && !running.is_finished() {
        view.refresh(&running.snapshot(), &fleet.sent(), &counts);
    }
    view.draining();
    let sent = fleet.stop()?;
    // Everything was acknowledged by the broker; the source may still be receiving it.
    let arrived = || counts.received(&running.snapshot()) >= sent.total() + sent.resent;
    let patience = Instant::now() + if sent.resent > 0 { Duration::from_secs(3) } else { PATIENCE };
    while !arrived() && Instant::now() < patience && !running.is_finished() {
        thread::sleep(Duration::from_millis(20));
    }
    running.stop();
    let metrics = running.wait()?;
    view.close();
    let account = Account::new(&sent, &counts, &metrics);
    view.say(&account.to_string());
    account.check().with_context(|| match &args.broker {
        Some(url) if !answers(url) => {
            let (host, port) = host_and_port(url);
            format!("the broker at {host}:{port} has gone away: what it held did not arrive")
        }
        _ => "the account does not balance".to_owned(),
    })
}

/// Whether somebody listens where a broker was.
fn answers(url: &str) -> bool {
    let (host, port) = host_and_port(url);
    let addresses = (host, port.parse().unwrap_or(1883)).to_socket_addrs();
    let answers = |address| TcpStream::connect_timeout(&address, ANSWER_WAIT).is_ok();
    addresses.is_ok_and(|mut addresses| addresses.any(answers))
}

fn wait_for(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > PATIENCE {
            bail!("gave up waiting for {what} after {PATIENCE:?}; is the broker running?");
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// A wrong setting of the fleet, by the name of the option that set it.
fn as_option(error: ConfigError) -> ConfigError {
    let key = error.key.strip_prefix("fleet.").map(|key| match key {
        "url" => "--broker".to_owned(),
        key => format!("--{key}"),
    });
    ConfigError { key: key.unwrap_or_else(|| error.key.clone()), ..error }
}

/// The host and the port of a broker's URL.
fn host_and_port(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.rsplit_once(':').unwrap_or((host, "1883"))
}

/// The command that shows the alerts as they are published.
fn watch_line(url: &str, prefix: &str) -> String {
    let (host, port) = host_and_port(url);
    format!("mosquitto_sub -h {host} -p {port} -v -t '{prefix}/alerts/#'")
}

#[cfg(test)]
mod tests {
    use super::watch_line;

    #[test]
    fn the_watch_line_names_host_and_port_and_no_password() {
        let line = watch_line("mqtt://me:secret@broker:1884?qos=1", "p");
        assert_eq!(line, "mosquitto_sub -h broker -p 1884 -v -t 'p/alerts/#'");
        assert_eq!(watch_line("mqtt://b", "p"), "mosquitto_sub -h b -p 1883 -v -t 'p/alerts/#'");
    }
}
