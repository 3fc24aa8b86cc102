//! The whole of this folder on a directory in memory that loses power and is full at times, and on real
//! ones.

mod memory;
mod real;

use std::collections::BTreeMap;

use thalweg_kernel::Encode;
use thalweg_kernel::format::EncodeError;

use super::*;

/// A line per number, and a header.
#[derive(Clone)]
pub(super) struct Numbers;

impl Encode<u64> for Numbers {
    fn header(&mut self, _first: &u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(b"number");
        Ok(())
    }

    fn encode(&mut self, value: &u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.extend_from_slice(value.to_string().as_bytes());
        Ok(())
    }
}

/// What a reader of the directory sees.
#[derive(Default)]
pub(super) struct Reader {
    seen: BTreeMap<String, Vec<u8>>,
    /// What it has taken away.
    taken: BTreeMap<String, Vec<u8>>,
}

impl Reader {
    /// Looks at all that is there: a part never changes, and no record is there twice, or of an epoch that
    /// does not exist.
    pub(super) fn look(&mut self, found: Vec<(String, Vec<u8>)>, newest: u64, all: bool) {
        let mut numbers = Vec::new();
        let parts = found.iter().map(|(name, content)| (name, content)).chain(&self.taken);
        for (name, content) in parts {
            if Name::parse(name).is_none() {
                let lock = name.ends_with(".lock");
                assert!(lock || name.starts_with('.') && !all, "left behind: {name}");
                continue;
            }
            let before = self.seen.entry(name.clone()).or_insert_with(|| content.clone());
            assert_eq!(before, content, "{name} has changed");
            let text = str::from_utf8(content).unwrap();
            assert!(text.ends_with('\n'), "{name}: {text:?}");
            let mut lines = text.lines();
            assert_eq!(lines.next(), Some("number"), "{name}");
            let before = numbers.len();
            numbers.extend(lines.map(|line| line.parse::<u64>().unwrap()));
            assert!(before < numbers.len(), "{name} has no records");
        }
        numbers.sort_unstable();
        assert!(numbers.is_sorted_by(|a, b| a < b), "repeated: {numbers:?}");
        assert!(numbers.last().is_none_or(|&n| n < newest), "of no epoch: {numbers:?} at {newest}");
        if all {
            assert!(numbers.iter().copied().eq(0..newest), "lost: {numbers:?}");
        }
    }
}
