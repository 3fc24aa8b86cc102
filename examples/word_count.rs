//! Files and pipes, and one record into many: counts the words of a text.
//!
//! ```sh
//! cargo run -p thalweg-examples --example word_count README.md   # counts at the end of the file
//! journalctl -f | cargo run -p thalweg-examples --example word_count - 5    # counts every 5 s
//! ```
//!
//! Lines carry no timestamp, so event time is their time of arrival. Without a window size there is
//! one window for all time; it fires when the input ends, as every open window does then. With
//! one, a window fires once a later line has come.

use std::time::Duration;

use thalweg::prelude::*;

fn main() -> Result<(), JobError> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or("-".into());
    let size = match arguments.next().map(|seconds| seconds.parse()) {
        Some(Ok(seconds)) => secs(seconds),
        Some(Err(_)) => {
            eprintln!("usage: word_count [FILE|-] [SECONDS]");
            std::process::exit(2);
        }
        None => Duration::MAX,
    };
    thalweg::run(&Job::new("word count", move |flow| {
        flow.source(FileSource::new(&path, Text::new()), Watermarks::monotonous())
            .flat_map(|line| words(&line))
            .key_by(Str::clone)
            .window(Tumbling::of(size))
            .aggregate(Count)
            .map(|word| (word.key, word.value))
            .sink(StdoutSink::new());
    }))
}

/// The words of a line, in lower case.
fn words(line: &str) -> Vec<Str> {
    line.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().into())
        .collect()
}
