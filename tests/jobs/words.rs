//! Goal: a word count over a file equals a naive one on every driver and any number of shards. It is written with
//! nothing but the public crate.
//!
//! Method: a generated text with what texts have. It has empty lines, repeated blanks, carriage returns,
//! letters of several bytes, and words longer than a key stays inline. It has no line feed at its end.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod everywhere;

use std::collections::BTreeMap;

use thalweg::prelude::*;

fn text() -> String {
    let words = ["the", "Fluß", "runs", "along", "its", "thalweg", "河流", "é", "a-b_c", "don't"];
    let long = "unconscionably-long-word-".repeat(4);
    let mut text = String::new();
    let mut state = 7_u64;
    for line in 0..4_000_u64 {
        for _ in 0..line % 13 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match (state >> 33) % 12 {
                10 => text += &long,
                11 => text += &format!("w{}", (state >> 40) % 500),
                word => text += words[word as usize],
            }
            text += if line % 7 == 0 { "  " } else { " " };
        }
        text += if line % 5 == 0 { "\r\n" } else { "\n" };
    }
    text + "the last line has no end"
}

#[test]
fn a_word_count_equals_a_naive_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    let text = text();
    std::fs::write(&path, &text).unwrap();
    let mut expected = BTreeMap::<String, u64>::new();
    for word in text.split_whitespace() {
        *expected.entry(word.to_owned()).or_default() += 1;
    }
    for config in everywhere::configs(3) {
        let (out, path) = (Collected::new(), path.clone());
        let sink = out.sink();
        let job = Job::new("words", move |flow| {
            // All in one window: a text has no time.
            flow.source(
                FileSource::new(&path, Text::new()),
                Watermarks::monotonous().timestamps(|_| 0),
            )
            .flat_map(|line| line.split_whitespace().map(Str::from).collect::<Vec<_>>())
            .key_by(|word| word.clone())
            .window(Tumbling::of(secs(1)))
            .aggregate(Count)
            .sink(sink.clone());
        });
        let what = format!("{}, {} shards", config.driver, config.shards);
        job.run_with(&config).unwrap_or_else(|error| panic!("{what}: {error}"));
        let rows = out.take();
        let number = rows.len();
        let counts: BTreeMap<_, _> =
            rows.into_iter().map(|row| (row.key.to_string(), row.value)).collect();
        assert_eq!(counts, expected, "{what}");
        assert_eq!(number, counts.len(), "{what}: one row for a word");
    }
}
