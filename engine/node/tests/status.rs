//! How a running job is doing, as its operator sees it: `thalweg status` and SIGUSR1.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, Program, file, run, thalweg};

#[test]
fn a_running_job_says_how_it_is_doing_and_one_that_has_ended_that_it_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state").display().to_string();
    let toml = format!(
        "name = 'asked'\n[source.datagen]\nrows_per_second = 1000\n[window]\nsize = '100ms'\n[sink.blackhole]\n\
         [state]\ndir = '{state}'\ninterval = '50ms'\n[metrics]\nlog_every = '500ms'\naddress = '127.0.0.1:0'\n"
    );
    let config = file(dir.path(), "job.toml", &toml);
    let mut job = Program::start(&mut thalweg(&["run", &config]));
    job.says("records/s in, ");
    let deadline = Instant::now() + PATIENCE;
    let text = loop {
        let outcome = run(&["status", &state]);
        // The socket is there a moment after the log begins.
        if outcome.code == Some(0) {
            break outcome.ok();
        }
        assert!(Instant::now() < deadline, "{outcome:#?}");
        thread::sleep(Duration::from_millis(20));
    };
    let number = |text: &str, name: &str, at: usize| -> f64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().nth(at).unwrap().parse().unwrap()
    };
    let rate = number(&text, "in ", 1);
    assert!((500.0..2_000.0).contains(&rate), "{text}");
    assert!(number(&text, "out ", 3) > 0.0 && number(&text, "checkpoints", 1) > 0.0, "{text}");
    assert_eq!(number(&text, "late", 1), 0.0, "{text}");
    let err = job.err();
    let address = err.split("http://").nth(1).unwrap().split_whitespace().next().unwrap();
    let served = run(&["status", address]).ok();
    assert!(number(&served, "in ", 3) >= number(&text, "in ", 3), "{served}, {text}");
    job.signal("USR1");
    job.says("  restarts     0");
    job.signal("TERM");
    job.finish().ok();
    let error = run(&["status", &state]).failed(1);
    assert!(error.contains("no job runs in"), "{error}");
    let error = run(&["status", "nowhere"]).failed(1);
    assert!(error.contains("neither a state directory nor an address"), "{error}");
}
