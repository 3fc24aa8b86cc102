//! `kill -9` of a real process at random moments. The process is the test's own program, started again with
//! a variable that makes it the job.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::task::Waker;
use std::thread;
use std::time::Duration;

use thalweg_kernel::{OpenContext, Sink, Timestamp};

use super::{Engine, KEYS, Random};

/// Set in the process that is to be killed.
pub const KILL_DIRECTORY: &str = "THALWEG_KILL_DIRECTORY";
/// The records of one epoch, at most.
const EPOCH_RECORDS_MAX: u64 = 400;
/// The last life goes on until there are this many in all: on a busy machine those before may have got
/// nowhere.
const RECORDS_MIN: u64 = 1_000;

/// Plays a job that is killed `kills` times, each time within `life_ms_max` milliseconds, and then ends in
/// good order; how many records it had then. `test` is the name of the test that calls this, and
/// nothing else; `open` opens the sink's instances for a directory. In the process that is to be
/// killed it does not return.
pub fn killed<S: Sink<u64>>(
    test: &str,
    directory: &Path,
    kills: u64,
    life_ms_max: u64,
    open: impl Fn(&Path, &[OpenContext]) -> Vec<S>,
) -> u64 {
    if let Some(directory) = env::var_os(KILL_DIRECTORY) {
        let directory = Path::new(&directory);
        job(directory, |contexts| open(directory, contexts));
        std::process::exit(0);
    }
    let mut random = Random::new(0x5eed);
    for kill in 0..=kills {
        let last = kill == kills;
        if last {
            fs::write(directory.join("stop"), "").unwrap();
        }
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test])
            .env(KILL_DIRECTORY, directory)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        if !last {
            thread::sleep(Duration::from_millis(5 + random.below(life_ms_max)));
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        assert!(status.success() == last, "{status}");
    }
    Engine::load(&directory.join("engine")).position
}

/// An epoch every few hundred records, with commits behind it, until it is killed or told to stop.
fn job<S: Sink<u64>>(directory: &Path, open: impl Fn(&[OpenContext]) -> Vec<S>) {
    let (stored, stop) = (directory.join("engine"), directory.join("stop"));
    let mut engine = Engine::load(&stored);
    let mut random = Random::new(u64::from(std::process::id()));
    let shards = 1 + random.below(3);
    let contexts = engine.contexts(shards, Waker::noop(), &mut random);
    let mut sinks = open(&contexts);
    let pause = || thread::sleep(Duration::from_micros(100));
    let mut position = engine.position;
    loop {
        let last = stop.exists() && position >= RECORDS_MIN;
        for _ in 0..random.below(EPOCH_RECORDS_MAX) {
            let sink = &mut sinks[(position % KEYS) as usize % shards];
            if !sink.ready().unwrap() {
                break;
            }
            sink.write(Timestamp::default(), position).unwrap();
            position += 1;
        }
        let epoch = engine.begin();
        for (instance, sink) in sinks.iter_mut().enumerate() {
            engine.seal(epoch, instance, sink).unwrap();
        }
        while !sinks.iter_mut().all(|sink| sink.sealed(epoch).unwrap()) {
            pause();
        }
        engine.exists(epoch, position);
        engine.save(&stored).unwrap();
        sinks.iter_mut().for_each(|sink| sink.commit(epoch).unwrap());
        if last {
            break;
        }
    }
    let mut closing: Vec<_> = sinks.iter_mut().collect();
    while !closing.is_empty() {
        closing.retain_mut(|sink| !sink.close().unwrap());
        pause();
    }
}
