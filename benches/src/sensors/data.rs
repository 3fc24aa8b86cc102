//! The input: JSON lines of 1,000 devices, ten for each millisecond of event time, up to two seconds out of order.
//! Made by arithmetic alone, so that every machine and every peer in another language has equal bytes.
//!
//! Line `i`, with `h = mix(i ^ 0x5E50_0000_0000)` (SplitMix64) and `h2 = mix(h)`:
//!
//! | field | value |
//! |---|---|
//! | `device` | `dev = ((h & 0xffff_ffff) * 1000) >> 32`, as `d%05d` |
//! | `ts` | `T0 + i / 10 - late`; `late` is `(h >> 34) % 2000` where `h >> 32 & 3` is 0, else `(h >> 34) % 50` |
//! | `temp` | `(1500 + (dev % 100) * 10 + h2 % 1000) / 100`, two decimals |
//! | `humidity` | `(200 + (h2 >> 20) % 700) / 10`, one decimal |
//! | `status` | by `(h2 >> 40) % 100`: 0 `error`, 1 to 4 `warn`, else `ok` |
//!
//! Over several files line `i` is in file `i % n`, so that their event times stay side by side.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use thalweg_testing::mix;

/// The event time around which the first line lies.
pub const T0: i64 = 1_700_000_000_000;

/// A sensor's reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The device's number.
    pub device: u64,
    /// How far `ts` lies before its place, in milliseconds.
    pub late_ms: u64,
    /// In hundredths of a degree.
    pub temp: u64,
    /// In tenths of a percent.
    pub humidity: u64,
    /// `ok`, `warn` or `error`.
    pub status: &'static str,
}

impl Sample {
    /// The reading of line `i`, from one of `devices` devices.
    pub const fn new(i: u64, devices: u64) -> Self {
        let h = mix(i ^ 0x5E50_0000_0000);
        let device = ((h & 0xffff_ffff) * devices) >> 32;
        let late_ms = (h >> 34) % if (h >> 32) & 3 == 0 { 2_000 } else { 50 };
        let h2 = mix(h);
        let status = match (h2 >> 40) % 100 {
            0 => "error",
            1..=4 => "warn",
            _ => "ok",
        };
        let temp = 1_500 + (device % 100) * 10 + h2 % 1_000;
        Self { device, late_ms, temp, humidity: 200 + (h2 >> 20) % 700, status }
    }

    /// Appends the reading as JSON, without a line feed.
    pub fn write(&self, ts: i64, out: &mut Vec<u8>) {
        let Self { device, temp, humidity, status, .. } = self;
        let (temp, cents) = (temp / 100, temp % 100);
        let (humidity, tenths) = (humidity / 10, humidity % 10);
        // A vector takes everything.
        let _written = write!(
            out,
            r#"{{"device":"d{device:05}","ts":{ts},"temp":{temp}.{cents:02},"humidity":{humidity}.{tenths},"status":"{status}"}}"#
        );
    }
}

/// Appends line `i`, with its line feed.
pub fn write_line(i: u64, out: &mut Vec<u8>) {
    let sample = Sample::new(i, 1_000);
    sample.write(T0 + (i / 10) as i64 - sample.late_ms as i64, out);
    out.push(b'\n');
}

/// `lines` lines over `files` files in `dir`; those that are there already are used again.
///
/// # Errors
/// If they cannot be written.
pub fn files(dir: &Path, lines: u64, files: u64) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let make = |file| -> anyhow::Result<PathBuf> {
        let path = dir.join(format!("sensors-{lines}-{file}-of-{files}.jsonl"));
        if !path.exists() {
            // Under another name until it is complete.
            let part = path.with_extension("part");
            generate(&part, (file..lines).step_by(files as usize))
                .and_then(|()| fs::rename(&part, &path))
                .with_context(|| format!("cannot write {}", part.display()))?;
        }
        Ok(path)
    };
    (0..files).map(make).collect()
}

fn generate(path: &Path, lines: impl Iterator<Item = u64>) -> io::Result<()> {
    const BUFFER_BYTES: usize = 1 << 20;
    let mut file = File::create(path)?;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES + 256);
    for i in lines {
        write_line(i, &mut buffer);
        if buffer.len() >= BUFFER_BYTES {
            file.write_all(&buffer)?;
            buffer.clear();
        }
    }
    file.write_all(&buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(i: u64) -> String {
        let mut out = Vec::new();
        write_line(i, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_what_the_arithmetic_says() {
        // SplitMix64 seeded with zero begins with this value.
        assert_eq!(mix(0), 0xE220_A839_7B1D_CDAF);
        for i in [0, 1, 999, 123_456] {
            let value: serde_json::Value = serde_json::from_str(&line(i)).unwrap();
            let (h, place) = (mix(i ^ 0x5E50_0000_0000), T0 + (i / 10) as i64);
            let device = (u128::from(h & 0xffff_ffff) * 1_000) >> 32;
            assert_eq!(value["device"], format!("d{device:05}"));
            let ts = value["ts"].as_i64().unwrap();
            assert!(ts <= place && place - ts < 2_000, "{value}");
            let temp = 1_500 + (device as u64 % 100) * 10 + mix(h) % 1_000;
            assert_eq!((value["temp"].as_f64().unwrap() * 100.0).round() as u64, temp);
        }
    }

    #[test]
    fn files_are_made_once_and_deal_the_lines_out() {
        let dir = tempfile::tempdir().unwrap();
        let paths = files(dir.path(), 5, 2).unwrap();
        let read = |path: &PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(&paths[0]), line(0) + &line(2) + &line(4));
        assert_eq!(read(&paths[1]), line(1) + &line(3));
        fs::write(&paths[0], "kept").unwrap();
        assert_eq!(read(&files(dir.path(), 5, 2).unwrap()[0]), "kept");
    }
}
