//! A journal on a failing disk, against a plain list of records.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use thalweg_journal::sim::SimDisk;
use thalweg_journal::{JournalConfig, Log, Reader, inspect};
use thalweg_kernel::{JournalError, JournalReader, Timestamp};
use thalweg_testing::Random;

const NAME: &str = "model";

/// What happened, over all seeds: a test that never tears a tail proves nothing about torn tails.
#[derive(Debug, Default)]
struct Seen {
    records: u64,
    crashes: u64,
    kills: u64,
    torn: u64,
    unreported_kept: u64,
    unreported_lost: u64,
    full: u64,
    failed: u64,
    trimmed: u64,
    large: u64,
}

struct Model {
    seed: u64,
    random: Random,
    config: JournalConfig,
    disk: SimDisk,
    log: Log<SimDisk>,
    /// All records ever appended that may still exist, by position.
    truth: Vec<(Timestamp, Vec<u8>)>,
    /// Everything below was reported as durable.
    reported: u64,
    trimmed_to: u64,
    /// No new faults.
    calm: bool,
    seen: Seen,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let config = JournalConfig {
            segment_bytes: 4096 << random.below(3),
            cap_bytes: 64 << 10,
            group_bytes_max: 512 << random.below(4),
            record_bytes_max: 9000,
            ..JournalConfig::default()
        };
        config.check().unwrap();
        let disk = SimDisk::new(random.next_u64());
        let log = Log::open(disk.clone(), NAME, &config, random.next_u64()).unwrap();
        let seen = Seen::default();
        let truth = Vec::new();
        let (reported, trimmed_to, calm) = (0, 0, false);
        Self { seed, random, config, disk, log, truth, reported, trimmed_to, calm, seen }
    }

    fn content(&mut self) -> Vec<u8> {
        let length = match self.random.below(20) {
            0 => self.random.below(9000),
            1..4 => self.random.below(1500),
            _ => self.random.below(120),
        };
        let fill = match self.random.below(4) {
            // Sectors of zeros within a record look like sectors that never arrived.
            0 => 0,
            _ => self.random.next_u64() as u8,
        };
        let mut content = vec![fill; length as usize];
        for _ in 0..self.random.below(4) {
            if !content.is_empty() {
                let at = self.random.below(length) as usize;
                content[at] = self.random.next_u64() as u8;
            }
        }
        content
    }

    /// Notes a result. After a final error there is nothing left to do but to start again.
    fn check<T>(&mut self, result: Result<T, JournalError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(JournalError::Full(_) | JournalError::Busy(_)) => {
                self.seen.full += 1;
                None
            }
            Err(JournalError::Failed(_)) => {
                self.seen.failed += 1;
                assert!(self.log.durable().is_err(), "seed {}: failed, and goes on", self.seed);
                assert!(self.log.append(Timestamp::default(), &[]).is_err());
                self.restart();
                None
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..14 => self.append(),
            14..22 => {
                let begun = self.log.begin_group();
                self.check(begun);
            }
            22..30 => {
                let completed = self.log.complete_group();
                if self.check(completed).is_some() {
                    self.reported = self.log.durable().unwrap();
                }
            }
            30..32 => {
                self.trimmed_to = self.trimmed_to.max(self.random.below(self.reported + 1));
                let before = self.log.first();
                let trimmed = self.log.trim(self.trimmed_to);
                self.check(trimmed);
                self.seen.trimmed += u64::from(self.log.first() != before);
            }
            32 => {
                let prepared = self.log.prepare();
                self.check(prepared);
            }
            33 => self.disk.power_fails_in(self.random.below(8)),
            34 => self.disk.sync_fails_in(self.random.below(4)),
            35 => {
                let budget = self.disk.used_bytes() + self.random.below(9000);
                self.disk.set_budget(self.random.below(2).eq(&0).then_some(budget));
            }
            36 => self.disk.refuse_writes(self.random.below(3)),
            37 => self.restart(),
            _ => self.read_back(),
        }
    }

    fn append(&mut self) {
        for _ in 0..=self.random.below(6) {
            let content = self.content();
            let received = Timestamp::from_millis(self.random.below(1000) as i64);
            let (head, tail) = content.split_at(content.len() / 3);
            let result = self.log.append(received, &[head, tail]);
            let Some(position) = self.check(result) else { return };
            assert_eq!(position, self.truth.len() as u64, "seed {}: no gaps", self.seed);
            self.seen.records += 1;
            self.seen.large += u64::from(content.len() as u64 > self.config.segment_bytes);
            self.truth.push((received, content));
        }
    }

    /// The process ends, with or without the machine, and starts again; that may fail on the way too.
    fn restart(&mut self) {
        let crash = self.disk.is_off() || self.random.below(2) == 0;
        if crash {
            self.disk.power_on();
            self.seen.crashes += 1;
        } else {
            self.seen.kills += 1;
        }
        if !self.calm && self.random.below(6) == 0 {
            self.disk.power_fails_in(self.random.below(5));
        }
        self.log = loop {
            match Log::open(self.disk.clone(), NAME, &self.config, self.random.next_u64()) {
                Ok(log) => break log,
                // Recovery was itself hit: by the power, by a failing sync, by a write that found no room.
                Err(JournalError::Failed(_)) if self.disk.is_off() => self.disk.power_on(),
                Err(JournalError::Failed(_) | JournalError::Full(_)) => {}
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        };
        let end = self.log.end();
        assert_eq!(self.log.durable(), Ok(end));
        let lost = self.reported.saturating_sub(end);
        assert_eq!(lost, 0, "seed {}: of {} reported", self.seed, self.reported);
        let invented = end.saturating_sub(self.truth.len() as u64);
        assert_eq!(invented, 0, "seed {}", self.seed);
        self.seen.unreported_kept += end - self.reported;
        self.seen.unreported_lost += self.truth.len() as u64 - end;
        self.seen.torn += u64::from(self.log.recovery().cut_bytes > 0);
        self.truth.truncate(end as usize);
        self.reported = end;
        self.read_back();
    }

    /// What is kept and durable is the truth, from the oldest record and from anywhere else.
    fn read_back(&mut self) {
        let (first, end) = (self.log.first(), self.reported);
        assert!(first <= self.trimmed_to, "seed {}: trimmed too far", self.seed);
        for from in [first, first + self.random.below(end - first + 1)] {
            let mut reader = Reader::new(self.disk.clone(), NAME, from, end).unwrap();
            for position in from..end {
                let record = reader.next().unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
                let record = record.unwrap();
                let (received, content) = &self.truth[position as usize];
                assert_eq!((record.position, record.received), (position, *received));
                assert!(record.bytes == content, "seed {}: record {position}", self.seed);
            }
            assert_eq!(reader.next(), Ok(None));
        }
        if first > 0 {
            let error = Reader::new(self.disk.clone(), NAME, first - 1, end).err().unwrap();
            assert!(matches!(error, JournalError::Position(_)), "{error}");
        }
    }

    /// With all faults gone everything that is appended becomes durable.
    fn finish(mut self) -> Seen {
        self.disk.set_budget(None);
        self.disk.refuse_writes(0);
        self.disk.power_on();
        self.calm = true;
        self.restart();
        self.trimmed_to = self.reported;
        for _ in 0..40 {
            self.append();
            while self.log.has_work() {
                self.log.begin_group().unwrap();
                self.log.complete_group().unwrap();
            }
            self.reported = self.log.durable().unwrap();
            assert_eq!(self.reported, self.log.end());
            self.trimmed_to = self.reported.saturating_sub(5);
            self.log.trim(self.trimmed_to).unwrap();
        }
        self.restart();
        let verified = inspect::verify_disk(&mut self.disk, NAME).unwrap();
        assert_eq!(verified.damage, None, "seed {}", self.seed);
        assert_eq!((verified.first, verified.end), (self.log.first(), self.reported));
        self.seen
    }
}

/// Goal: what was reported as durable is there after anything, in order, once; nothing is invented.
/// Method: random steps and faults from a seed; after each restart the journal is read and compared.
#[test]
fn nothing_reported_is_lost_and_nothing_is_invented() {
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000);
    let mut all = Seen::default();
    for seed in 0..seeds {
        let mut model = Model::new(seed);
        for _ in 0..120 {
            model.step();
        }
        let seen = model.finish();
        all.records += seen.records;
        all.crashes += seen.crashes;
        all.kills += seen.kills;
        all.torn += seen.torn;
        all.unreported_kept += seen.unreported_kept;
        all.unreported_lost += seen.unreported_lost;
        all.full += seen.full;
        all.failed += seen.failed;
        all.trimmed += seen.trimmed;
        all.large += seen.large;
    }
    println!("{seeds} seeds: {all:?}");
    let each = [
        all.records,
        all.crashes,
        all.kills,
        all.torn,
        all.unreported_kept,
        all.unreported_lost,
        all.full,
        all.failed,
        all.trimmed,
        all.large,
    ];
    assert!(each.iter().all(|&count| count >= seeds / 20), "something hardly happened: {all:?}");
}
