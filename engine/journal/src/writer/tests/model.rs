//! A writer on a failing disk, against a plain list of records. The steps come from a seed; which of them finds the thread
//! at work does not.

use thalweg_testing::Random;

use super::*;

/// What happened, over all seeds: a test in which no power fails proves nothing about crashes.
#[derive(Debug, Default)]
struct Seen {
    records: u64,
    crashes: u64,
    lost: u64,
    full: u64,
    failed: u64,
    trimmed: u64,
    on_their_way: u64,
}

struct Model {
    seed: u64,
    random: Random,
    disk: SimDisk,
    writer: Option<Writer<SimDisk>>,
    truth: Vec<Vec<u8>>,
    reported: u64,
    seen: Seen,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let disk = SimDisk::new(random.next_u64());
        let writer = Some(open(&disk, &config()).0);
        let (truth, seen) = (Vec::new(), Seen::default());
        Self { seed, random, disk, writer, truth, reported: 0, seen }
    }

    fn writer(&mut self) -> &mut Writer<SimDisk> {
        self.writer.as_mut().unwrap()
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..14 => self.append(),
            14..20 => {
                self.writer().flush();
                let on_its_way = self.writer().shared.lock().is_in_flight();
                self.seen.on_their_way += u64::from(on_its_way);
            }
            20..30 => turn(),
            30 => std::thread::yield_now(),
            31 => {
                let to = self.random.below(self.reported + 1);
                self.writer().trim(to);
                self.seen.trimmed += u64::from(to > 0);
            }
            32 => self.disk.power_fails_in(self.random.below(12)),
            33 => self.disk.sync_fails_in(self.random.below(6)),
            34 => self.disk.refuse_writes(self.random.below(3)),
            35 => self.disk.write_short(self.random.below(3)),
            36 => {
                let holds = self.random.below(2) == 0;
                self.disk.hold_submitted(holds);
            }
            37 => self.restart(),
            _ => {}
        }
        match self.writer().durable() {
            Ok(durable) => {
                assert!(durable >= self.reported, "seed {}", self.seed);
                self.reported = durable;
            }
            Err(JournalError::Failed(_)) => {
                self.seen.failed += 1;
                self.restart();
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    fn append(&mut self) {
        let length = self.random.below(400) as usize;
        let content = vec![self.random.next_u64() as u8; length];
        match self.writer().append(NOW, &[&content]) {
            Ok(position) => {
                assert_eq!(position, self.truth.len() as u64, "seed {}: no gaps", self.seed);
                self.seen.records += 1;
                self.truth.push(content);
            }
            Err(JournalError::Full(_) | JournalError::Busy(_)) => {
                self.seen.full += 1;
                turn();
            }
            // It shows in `durable`, too.
            Err(JournalError::Failed(_)) => {}
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// The machine ends, at once or with the last operations of the writer, and starts again.
    fn restart(&mut self) {
        self.disk.power_fails_in(self.random.below(4));
        if let Some(writer) = self.writer.take() {
            see_off(writer);
        }
        for refused in 0.. {
            self.disk.power_on();
            self.disk.refuse_writes(0);
            self.disk.write_short(0);
            let (waker, tasks) = (Waker::noop().clone(), tasks());
            let opened =
                Writer::open(self.disk.clone(), NAME, &config(), (5, 0), waker, tasks.as_ref());
            match opened {
                Ok((writer, _)) => {
                    self.writer = Some(writer);
                    break;
                }
                Err(error) => assert!(refused < 3, "seed {}: {error}", self.seed),
            }
        }
        self.seen.crashes += 1;
        let end = self.writer().end();
        assert!(end >= self.reported, "seed {}: {end} of {}", self.seed, self.reported);
        assert!(end <= self.truth.len() as u64, "seed {}: {end} were invented", self.seed);
        self.seen.lost += self.truth.len() as u64 - end;
        self.truth.truncate(end as usize);
        self.reported = end;
        self.read_back();
    }

    fn read_back(&self) {
        let first = crate::segments::firsts(&mut self.disk.clone(), NAME).unwrap();
        let (first, end) = (first.first().copied().unwrap_or(self.reported), self.reported);
        let mut reader = Reader::new(self.disk.clone(), NAME, first, end).unwrap();
        for position in first..end {
            let record = reader.next().unwrap().unwrap();
            let content = &self.truth[position as usize];
            assert!(record.position == position && record.bytes == content, "seed {}", self.seed);
        }
    }

    /// Without faults, all that was appended becomes durable.
    fn finish(mut self) -> Seen {
        self.restart();
        self.disk.hold_submitted(false);
        for _ in 0..20 {
            let content = vec![3; 100];
            append(self.writer(), &content);
            self.truth.push(content);
            let end = self.truth.len() as u64;
            self.writer().flush();
            until("it is durable", || self.writer().durable() == Ok(end));
            self.writer().trim(end - 1);
            self.reported = end;
        }
        self.restart();
        self.seen
    }
}

fn run() {
    const SEEDS: u64 = 150;
    let mut all = Seen::default();
    for seed in 0..SEEDS {
        let mut model = Model::new(seed);
        (0..150).for_each(|_| model.step());
        let seen = model.finish();
        all.records += seen.records;
        all.crashes += seen.crashes;
        all.lost += seen.lost;
        all.full += seen.full;
        all.failed += seen.failed;
        all.trimmed += seen.trimmed;
        all.on_their_way += seen.on_their_way;
    }
    println!("{SEEDS} seeds: {all:?}");
    let often = [all.records, all.crashes, all.lost, all.full, all.failed, all.trimmed];
    assert!(often.iter().all(|&count| count >= SEEDS / 20), "hardly happened: {all:?}");
    assert!(all.on_their_way >= SEEDS / 5 || tasks().is_none(), "hardly happened: {all:?}");
}

/// Goal: what was reported as durable is there after anything, in order, once; nothing is invented.
/// Method: random steps and faults from a seed; after each restart the journal is read and compared.
#[test]
fn nothing_reported_is_lost_and_nothing_is_invented() {
    run();
}

#[test]
fn on_a_shard_nothing_reported_is_lost_and_nothing_is_invented() {
    on_shard(run);
}
