//! The peer: a loop that someone wrote for this one question, with equal results. No engine, no operators, no
//! metrics, no dead letters, no bound on anything.
//!
//! A file is read in blocks, cut at line feeds by `memchr` and decoded by sonic-rs into borrowed fields. Readings
//! are added up in an array per window, whose index a hash map knows by the device's name. Several files are read
//! by a thread each, and merged at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, anyhow};
use hashbrown::HashMap;

use super::sums::{Reading, Sum};

const WINDOW_MS: i64 = 10_000;
const DISORDER_MS: i64 = 5_000;
const BLOCK_BYTES: usize = 256 * 1024;

/// Where the sums of a window go when it fires.
trait Fired {
    fn window(&mut self, start: i64, names: &[Box<str>], sums: &[Sum]) -> io::Result<()>;
}

/// Writes them: for one file.
struct Rows(BufWriter<File>);

impl Fired for Rows {
    fn window(&mut self, start: i64, names: &[Box<str>], sums: &[Sum]) -> io::Result<()> {
        for (key, sum) in names.iter().zip(sums).filter(|(_, sum)| sum.count > 0) {
            serde_json::to_writer(&mut self.0, &sum.row(key, start, start + WINDOW_MS))?;
            self.0.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// Keeps them to be merged with the sums of other files.
#[derive(Default)]
struct Kept(BTreeMap<i64, HashMap<Box<str>, Sum>>);

impl Fired for Kept {
    fn window(&mut self, start: i64, names: &[Box<str>], sums: &[Sum]) -> io::Result<()> {
        let window = self.0.entry(start).or_default();
        for (name, sum) in names.iter().zip(sums).filter(|(_, sum)| sum.count > 0) {
            window.entry(name.clone()).or_insert(Sum::NOTHING).merge(sum);
        }
        Ok(())
    }
}

/// What is known of one file so far.
struct Windows {
    indices: HashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
    /// The sums of the open windows by device, from the window that begins at `first` on.
    open: std::collections::VecDeque<Vec<Sum>>,
    first: i64,
    latest: i64,
    late: u64,
}

impl Windows {
    fn add(&mut self, reading: &Reading<'_>, fired: &mut impl Fired) -> io::Result<()> {
        let index = match self.indices.get(reading.device) {
            Some(index) => *index as usize,
            None => {
                let index = self.names.len();
                self.names.push(reading.device.into());
                self.indices.insert(reading.device.into(), index as u32);
                index
            }
        };
        let start = reading.ts - reading.ts.rem_euclid(WINDOW_MS);
        if self.latest == i64::MIN {
            // The window before too: the first reading need not be the earliest.
            self.first = start - WINDOW_MS;
        }
        if start < self.first {
            self.late += 1;
        } else {
            let place = ((start - self.first) / WINDOW_MS) as usize;
            while self.open.len() <= place {
                self.open.push_back(Vec::new());
            }
            let sums = &mut self.open[place];
            if sums.len() <= index {
                sums.resize(self.names.len().next_power_of_two(), Sum::NOTHING);
            }
            sums[index].add(reading.temp);
        }
        if reading.ts > self.latest {
            self.latest = reading.ts;
            while self.latest - DISORDER_MS >= self.first + WINDOW_MS && !self.open.is_empty() {
                self.fire(fired)?;
            }
        }
        Ok(())
    }

    fn fire(&mut self, fired: &mut impl Fired) -> io::Result<()> {
        if let Some(sums) = self.open.pop_front() {
            fired.window(self.first, &self.names, &sums)?;
        }
        self.first += WINDOW_MS;
        Ok(())
    }
}

/// Reads a file; returns how many readings were late.
fn read(path: &Path, fired: &mut impl Fired) -> anyhow::Result<u64> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut windows = Windows {
        indices: HashMap::new(),
        names: Vec::new(),
        open: Default::default(),
        first: 0,
        latest: i64::MIN,
        late: 0,
    };
    let mut block = vec![0; BLOCK_BYTES];
    let mut filled = 0;
    loop {
        let fresh = file.read(&mut block[filled..])?;
        if fresh == 0 {
            break;
        }
        filled += fresh;
        let mut at = 0;
        while let Some(length) = memchr::memchr(b'\n', &block[at..filled]) {
            let reading = sonic_rs::from_slice(&block[at..at + length])?;
            windows.add(&reading, fired)?;
            at += length + 1;
        }
        block.copy_within(at..filled, 0);
        filled -= at;
    }
    while !windows.open.is_empty() {
        windows.fire(fired)?;
    }
    Ok(windows.late)
}

/// The whole loop; returns how many readings were late.
///
/// # Errors
/// If a file cannot be read or written, or a line is not a reading.
pub fn run(inputs: &[PathBuf], output: &Path) -> anyhow::Result<u64> {
    let mut rows = Rows(BufWriter::new(File::create(output)?));
    if let [input] = inputs {
        let late = read(input, &mut rows)?;
        rows.0.flush()?;
        return Ok(late);
    }
    let parts: Vec<_> = thread::scope(|scope| {
        let one = |input| {
            move || -> anyhow::Result<_> {
                let mut kept = Kept::default();
                let late = read(input, &mut kept)?;
                Ok((late, kept))
            }
        };
        let threads: Vec<_> = inputs.iter().map(|input| scope.spawn(one(input))).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a thread panicked"))?).collect()
    });
    let (mut merged, mut late) = (Kept::default(), 0);
    for part in parts {
        let (part_late, part) = part?;
        late += part_late;
        for (start, sums) in part.0 {
            let (names, sums): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
            merged.window(start, &names, &sums)?;
        }
    }
    for (start, sums) in merged.0 {
        let (names, sums): (Vec<_>, Vec<_>) = sums.into_iter().unzip();
        rows.window(start, &names, &sums)?;
    }
    rows.0.flush()?;
    Ok(late)
}
