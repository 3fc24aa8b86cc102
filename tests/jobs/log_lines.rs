//! Goal: each log line of a job's threads names the job; those of a shard name the shard too.
//!
//! Method: two jobs at the same time, whose user code and I/O threads log; one fails and is started again.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use thalweg::prelude::*;

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_line_names_its_job_and_its_shard() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let job = |name: &str, fails: bool| {
        let (name, failed) = (name.to_owned(), Arc::new(AtomicBool::new(!fails)));
        Job::new(&name.clone(), move |flow| {
            let (name, failed) = (name.clone(), Arc::clone(&failed));
            flow.source(Collection::new(0..10), Watermarks::monotonous())
                .inspect(move |_, n: &i64| {
                    tracing::info!("{name} has {n}");
                    assert!(*n < 5 || failed.swap(true, Ordering::SeqCst), "as the test wants it");
                })
                .discard();
        })
    };
    let delay = Duration::from_millis(1);
    let restart = RestartStrategy::FixedDelay { delay, restarts_max: 3 };
    let config = RuntimeConfig { shards: 1, restart, ..RuntimeConfig::default() };
    let runs = [job("first", false), job("second", true)].map(|job| job.start(&config).unwrap());
    runs.into_iter().for_each(|running| drop(running.wait().unwrap()));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for (name, count) in [("first", 10), ("second", 16)] {
        let lines: Vec<_> =
            log.lines().filter(|line| line.contains(&format!("{name} has"))).collect();
        let span = format!("job{{name={name:?}}}:shard{{shard=0}}:");
        assert_eq!(lines.len(), count, "{log}");
        assert!(lines.iter().all(|line| line.contains(&span)), "{log}");
        let started = log.lines().filter(|line| line.contains("job started"));
        assert!(
            started.clone().any(|line| line.contains(&format!("job{{name={name:?}}}:"))),
            "{log}"
        );
    }
    let failed = log.lines().find(|line| line.contains("the job has failed")).unwrap();
    assert!(failed.contains("job{name=\"second\"}:"), "{failed}");
}
