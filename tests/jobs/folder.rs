//! Goal: each line of the files of a folder counts once, whenever its file appears or grows. The number of shards
//! does not matter, nor whether the job is suspended or dies.
//!
//! Method: a job with stored state lives several times on other numbers of shards. Files appear before it
//! starts and while it runs, and one file grows. Its results go to files that show each result exactly once.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use thalweg::prelude::*;
use thalweg::runtime::Running;

/// A look, and so the time for which a file must be at rest.
const LOOK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// The lines of a file that appears at once, and their place in `expected`.
fn appear(folder: &Path, name: &str, lines: usize, expected: &mut Vec<String>) {
    let lines: Vec<_> = (0..lines).map(|n| format!("{name}-{n}")).collect();
    let hidden = folder.join(format!(".{name}"));
    fs::write(&hidden, lines.join("\n")).unwrap();
    fs::rename(&hidden, folder.join(format!("{name}.txt"))).unwrap();
    expected.extend(lines);
}

/// Whole lines at the end of a file.
fn grow(folder: &Path, from: usize, expected: &mut Vec<String>) {
    let mut file =
        OpenOptions::new().create(true).append(true).open(folder.join("grows.txt")).unwrap();
    let lines: Vec<_> = (from..from + 40).map(|n| format!("grows-{n}")).collect();
    writeln!(file, "{}", lines.join("\n")).unwrap();
    expected.extend(lines);
}

/// All that can be seen of the results, in order.
fn results(out: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for part in fs::read_dir(out).into_iter().flatten() {
        let part = part.unwrap();
        if !part.file_name().to_string_lossy().starts_with('.') {
            let text = fs::read_to_string(part.path()).unwrap();
            lines.extend(text.lines().map(|line| line.trim_matches('"').to_owned()));
        }
    }
    lines.sort();
    lines
}

fn wait_for(running: &Running, out: &Path, lines: usize) {
    let begun = Instant::now();
    while results(out).len() < lines {
        assert!(!running.is_finished(), "the job has ended");
        assert!(begun.elapsed() < PATIENCE, "{} of {lines} lines", results(out).len());
        std::thread::sleep(LOOK);
    }
}

#[test]
fn files_that_appear_and_grow_are_read_once_from_life_to_life() {
    let dir = tempfile::tempdir().unwrap();
    let [folder, out, state] = ["in", "out", "state"].map(|name| dir.path().join(name));
    fs::create_dir(&folder).unwrap();
    let (pattern, rows) = (folder.join("*.txt"), out.clone());
    let job = Job::new("folder", move |flow| {
        let files = FileSource::matching(&pattern, Text::new()).look_every(LOOK).files_open_max(2);
        flow.source_as("files", files, Watermarks::monotonous())
            .sink_as("rows", RollingFiles::new(&rows, JsonLines).roll_at_checkpoints());
    });
    let mut expected = Vec::new();
    for (life, shards) in [1, 2, 3, 8, 2].into_iter().enumerate() {
        let mut stored = StateConfig::new(StateDirectory::new(&state).backend());
        stored.checkpoints.interval = Duration::from_millis(30);
        let driver = DriverKind::Threads;
        let config =
            RuntimeConfig { driver, shards, state: Some(stored), ..RuntimeConfig::default() };
        (0..3).for_each(|n| appear(&folder, &format!("before-{life}-{n}"), 900, &mut expected));
        let running = job.start(&config).unwrap();
        grow(&folder, life * 40, &mut expected);
        (0..3).for_each(|n| appear(&folder, &format!("during-{life}-{n}"), 300, &mut expected));
        match life {
            // Wherever it is.
            0 | 2 => running.stopper().abort(),
            3 => assert!(running.stopper().suspend()),
            _ => {
                wait_for(&running, &out, expected.len());
                running.suspend();
            }
        }
        let _aborted = running.wait();
    }
    expected.sort();
    let found = results(&out);
    let lost: Vec<_> = expected.iter().filter(|line| found.binary_search(line).is_err()).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
    assert!(found == expected, "{} lines instead of {}", found.len(), expected.len());
}
