//! `kill -9` of a real process that writes rolling files, at random moments.

use std::fs;
use std::time::Duration;

use thalweg_commits::model::killed;
use thalweg_file::RollingFiles;
use thalweg_format::JsonLines;
use thalweg_kernel::SinkSpec;

#[test]
fn a_killed_process_loses_and_repeats_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let test = "a_killed_process_loses_and_repeats_nothing";
    let records = killed(test, directory.path(), 50, 60, |directory, contexts| {
        let sink = RollingFiles::new(directory.join("out"), JsonLines)
            .roll_bytes(3_000)
            .roll_after(Duration::from_millis(20));
        contexts.iter().map(|cx| SinkSpec::<u64>::open(&sink, cx).unwrap()).collect()
    });
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory.path().join("out")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(name.starts_with("part-") || name.ends_with(".lock"), "left behind: {name}");
        let text = fs::read_to_string(entry.path()).unwrap();
        numbers.extend(text.lines().map(|line| line.parse::<u64>().unwrap()));
    }
    numbers.sort_unstable();
    assert!(numbers.iter().copied().eq(0..records), "lost or repeated");
}
