//! The check: both outputs hold equal rows.
//!
//! Rows are compared as integers: the mean in billionths of a degree, minimum and maximum in hundredths. Engines
//! add up in different orders, and so their means differ in the last bit or two. Rounding to billionths hides that
//! and nothing else. The mean of `n` < 256 readings of two decimals is at least `1e-9 / 2n` away from where it
//! would round the other way. That is a thousand times the error.
//!
//! `checksum` is the wrapping sum over the rows of `h`. `h` begins as 0 and becomes `mix(h ^ word)` for each of
//! device number, `(start - T0) / 10_000`, count, mean, minimum, maximum, in this order.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use thalweg_testing::mix;

use super::data::T0;

#[derive(Deserialize)]
struct Row {
    key: String,
    start: i64,
    end: i64,
    value: Value,
}

#[derive(Deserialize)]
struct Value {
    count: u64,
    avg: f64,
    min: f64,
    max: f64,
}

/// A row in integers: device, window, count, mean, minimum, maximum.
type Words = [u64; 6];

impl Row {
    fn words(&self) -> anyhow::Result<Words> {
        let wrong =
            || format!("no device or no window of ten seconds: {} {}", self.key, self.start);
        let device = self.key.strip_prefix('d').and_then(|digits| digits.parse().ok());
        let device = device.filter(|_| self.end - self.start == 10_000).with_context(wrong)?;
        let Value { count, avg, min, max } = self.value;
        let scaled = |value: f64, by: f64| (value * by).round() as i64 as u64;
        let window = (self.start - T0).div_euclid(10_000) as u64;
        Ok([device, window, count, scaled(avg, 1e9), scaled(min, 100.0), scaled(max, 100.0)])
    }
}

/// The rows of an output, sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows(Vec<Words>);

impl Rows {
    /// Reads an output.
    ///
    /// # Errors
    /// If it cannot be read, or has a line that is no row.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("no output {}", path.display()))?;
        let mut rows = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line?;
            let row: Row = serde_json::from_str(&line).with_context(|| line.clone())?;
            rows.push(row.words()?);
        }
        rows.sort_unstable();
        Ok(Self(rows))
    }

    /// How many there are.
    pub fn results(&self) -> u64 {
        self.0.len() as u64
    }

    /// The sum of their counts.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|row| row[2]).sum()
    }

    /// See the [module](self).
    pub fn checksum(&self) -> u64 {
        let hash = |row: &Words| row.iter().fold(0, |hash, word| mix(hash ^ word));
        self.0.iter().map(hash).fold(0, u64::wrapping_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(lines: &str) -> anyhow::Result<Rows> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("rows");
        std::fs::write(&path, lines)?;
        Rows::read(&path)
    }

    fn line(device: u32, start: i64, avg: f64) -> String {
        format!(
            "{{\"key\":\"d{device:05}\",\"start\":{start},\"end\":{},\"value\":{{\"count\":3,\
             \"avg\":{avg},\"min\":20.01,\"max\":29.5}}}}\n",
            start + 10_000
        )
    }

    #[test]
    fn order_and_the_last_bit_of_a_mean_do_not_matter_and_all_else_does() {
        let (one, two) = (line(7, T0, 20.1), line(7, T0 - 10_000, 20.1));
        let both = rows(&format!("{one}{two}")).unwrap();
        assert_eq!((both.results(), both.total()), (2, 6));
        assert_eq!(both.0[0], [7, 0, 3, 20_100_000_000, 2_001, 2_950]);
        let bit = line(7, T0, f64::from_bits(20.1_f64.to_bits() + 1));
        assert_eq!(rows(&format!("{two}{bit}")).unwrap().checksum(), both.checksum());
        for other in [line(8, T0, 20.1), line(7, T0 + 10_000, 20.1), line(7, T0, 20.100_000_1)] {
            assert_ne!(rows(&format!("{two}{other}")).unwrap().checksum(), both.checksum());
        }
    }

    #[test]
    fn what_is_no_row_is_an_error() {
        assert!(rows("{}\n").is_err());
        assert!(rows(&line(7, T0, 20.1).replace("\"d", "\"e")).is_err());
    }
}
