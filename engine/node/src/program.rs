//! What a program of a user's own shares with `thalweg run`: a log, metrics, and answers to signals, `thalweg status` and
//! `thalweg savepoint`.

use std::env;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thalweg_kernel::ConfigError;
use thalweg_runtime::{Job, JobError, PrometheusError, RuntimeConfig, serve_prometheus};

use crate::control;
use crate::shutdown::Shutdown;
use crate::status::Reporter;

/// How often the log tells how the job is doing.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Names the address that metrics are served at.
const METRICS_VARIABLE: &str = "THALWEG_METRICS__ADDRESS";

/// Runs a job to its end with the default configuration: one shard per core. Ctrl-C and SIGTERM
/// drain it; a second one ends it at once. SIGUSR1 prints how it is doing.
///
/// It logs to standard error, unless the program has set up `tracing` for itself or was built without the feature `log`.
/// `THALWEG_LOG` says what: `warn`, say; `info` by default. With `THALWEG_METRICS__ADDRESS=127.0.0.1:9464` it serves metrics there.
///
/// # Errors
/// If the job does not start, or a source or sink fails for good.
pub fn run(job: &Job) -> Result<(), JobError> {
    run_with(job, &RuntimeConfig::default())
}

/// Runs a job to its end, or to the signal that ends it. A job with stored state is suspended by it, and
/// goes on with the next start. `thalweg status` and `thalweg savepoint` find it by its state directory.
///
/// # Errors
/// As for [`run`].
pub fn run_with(job: &Job, config: &RuntimeConfig) -> Result<(), JobError> {
    #[cfg(feature = "log")]
    crate::logging::begin(
        crate::logging::VARIABLE,
        &env::var(crate::logging::VARIABLE).unwrap_or_else(|_| "info".into()),
    )?;
    serve_metrics()?;
    let shutdown = Shutdown::watch();
    let running = Arc::new(job.start(config)?);
    let reporter = Reporter::start(&running, LOG_EVERY);
    let _watch = shutdown.ends_and_prints(&running, reporter);
    let directory = config.state.as_ref().and_then(|state| state.backend.directory());
    let _control = control::beside(directory, &running);
    running.join().map(|_| ())
}

/// Serves metrics where the environment says.
fn serve_metrics() -> Result<(), JobError> {
    static SERVES: Mutex<bool> = Mutex::new(false);
    let Ok(wanted) = env::var(METRICS_VARIABLE) else { return Ok(()) };
    // One endpoint serves all jobs of the process.
    let mut serves = SERVES.lock().unwrap_or_else(PoisonError::into_inner);
    if *serves {
        return Ok(());
    }
    let wrong = |why: String| ConfigError::new(METRICS_VARIABLE, &wanted, why);
    let address: SocketAddr =
        wanted.parse().map_err(|_| wrong("an address with a port: 127.0.0.1:9464".into()))?;
    serve_metrics_at(address).map_err(|error| wrong(error.to_string()))?;
    *serves = true;
    Ok(())
}

/// Serves metrics there, and logs where that is.
pub(crate) fn serve_metrics_at(address: SocketAddr) -> Result<SocketAddr, PrometheusError> {
    let bound = serve_prometheus(address)?;
    tracing::info!("metrics at http://{bound}/metrics");
    Ok(bound)
}
