//! The proofs: how each is run, and what of its output says that it has failed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use thalweg_kernel::defects::{Defect, VARIABLE};

use crate::binaries::Binary;
use crate::process::{End, run};

/// Seeds of the simulator.
const SEEDS: u64 = 400;
/// Crash images of a journal and of a store; a tenth of a job.
const IMAGES: u64 = 600;
/// Kills of the real process.
const KILLS: u64 = 30;
/// A test that has failed is run again, so often at most, until it fails once more.
const AGAIN_MAX: usize = 3;
/// The exit code of a program that lacks what it needs.
const SKIPPED: i32 = 77;
/// What was not made for this: they measure.
const NO_PROOFS: [&str; 3] = ["latency", "throughput", "allocations"];

/// What a proof is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Simulated jobs.
    Seeds,
    /// Crash images of one workload.
    Images,
    /// A test binary.
    Tests,
    /// Kills of the real process, with one sink.
    Crash,
}

/// A proof, and how long it takes.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) kind: Kind,
    /// `simulate`, `images journal`, `thalweg-store model`.
    pub(crate) name: String,
    /// The package that it tests; none if it tests more than one.
    package: Option<String>,
    binary: Binary,
    arguments: Vec<String>,
    /// Without a defect, so far as it is known; and the names of its tests.
    pub(crate) takes: Duration,
    tests: BTreeSet<String>,
}

/// What came of a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// It lacks what it needs.
    Skipped,
    /// What failed, and what it says.
    Failed(String),
}

/// One run of a proof.
struct Run {
    outcome: Outcome,
    /// The tests that have failed, or hang; none of a proof that is none of tests.
    failed: Vec<String>,
    passed: BTreeSet<String>,
}

/// All proofs.
pub(crate) fn all(binaries: &[Binary]) -> Vec<Proof> {
    let mut proofs = Vec::new();
    let mut add =
        |kind, name: String, package: Option<&str>, binary: &Binary, arguments: &[&str]| {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let (package, binary) = (package.map(str::to_owned), binary.clone());
            let (takes, tests) = (Duration::ZERO, BTreeSet::new());
            proofs.push(Proof { kind, name, package, binary, arguments, takes, tests });
        };
    let (seeds, images, kills) = (format!("0..{SEEDS}"), IMAGES.to_string(), KILLS.to_string());
    for binary in binaries {
        let (package, name) = (binary.package.as_str(), binary.name.as_str());
        match name {
            _ if binary.is_test && package != "thalweg-tests" && !NO_PROOFS.contains(&name) => {
                let unit = name.replace('_', "-") == package;
                let name = format!("{package} {}", if unit { "(unit)" } else { name });
                add(Kind::Tests, name, Some(package), binary, &[]);
            }
            _ if binary.is_test => {}
            "simulate" => {
                let arguments = ["--threads", "1", "--failures-max", "1", "--seeds", &seeds];
                add(Kind::Seeds, name.to_owned(), None, binary, &arguments);
            }
            "images" => {
                for workload in ["journal", "store", "job"] {
                    let arguments = ["--workload", workload, "--images", &images, "--steps", "40"];
                    add(Kind::Images, format!("images {workload}"), None, binary, &arguments);
                }
            }
            "crash" => {
                for sink in ["sqlite", "files"] {
                    let arguments =
                        ["--kills", &kills, "--rate", "800", "--seed", "1", "--sink", sink];
                    add(Kind::Crash, format!("crash {sink}"), None, binary, &arguments);
                }
            }
            _ => {}
        }
    }
    proofs
}

/// The package in which a defect sits: its name begins with it.
fn package_of(defect: Defect) -> &'static str {
    const PACKAGES: [(&str, &str); 8] = [
        ("Journal", "thalweg-journal"),
        ("Store", "thalweg-store"),
        ("Flow", "thalweg-flow"),
        ("Runtime", "thalweg-runtime"),
        ("Mqtt", "thalweg-mqtt"),
        ("File", "thalweg-file"),
        ("Datagen", "thalweg-datagen"),
        ("Sqlite", "thalweg-sqlite"),
    ];
    let found = PACKAGES.iter().find(|(prefix, _)| defect.name().starts_with(prefix));
    found.map_or("", |(_, package)| package)
}

impl Proof {
    /// Whether code runs in it in which this defect may sit.
    pub(crate) fn reaches(&self, defect: Defect) -> bool {
        let home = package_of(defect);
        match self.kind {
            // Its own source and sinks, and a store of its own but for few seeds; and no threads.
            Kind::Seeds => ["thalweg-journal", "thalweg-flow", "thalweg-runtime"].contains(&home),
            Kind::Images => match self.name.as_str() {
                "images journal" => home == "thalweg-journal",
                "images store" => home == "thalweg-store",
                _ => !["thalweg-mqtt", "thalweg-sqlite", "thalweg-datagen"].contains(&home),
            },
            // The runtime's tests run whole jobs.
            Kind::Tests => {
                let package = self.package.as_deref().unwrap_or_default();
                package == home
                    || package == "thalweg-runtime"
                        && ["thalweg-flow", "thalweg-store", "thalweg-journal"].contains(&home)
            }
            Kind::Crash if home == "thalweg-datagen" => false,
            Kind::Crash => match self.name.as_str() {
                "crash files" => home != "thalweg-sqlite",
                _ => home != "thalweg-file",
            },
        }
    }

    /// Runs it with a defect, or without, in `scratch`.
    pub(crate) fn run(&self, defect: Option<Defect>, scratch: &Path) -> Result<Outcome> {
        let first = self.run_with(defect, scratch, &self.arguments)?;
        if first.failed.is_empty() {
            return Ok(first.outcome);
        }
        // A test is to fail by the defect and not by chance, so it fails twice.
        let only: Vec<_> = ["--exact".to_owned()].into_iter().chain(first.failed).collect();
        for _ in 0..AGAIN_MAX {
            if let Outcome::Failed(_) = self.run_with(defect, scratch, &only)?.outcome {
                return Ok(first.outcome);
            }
        }
        Ok(Outcome::Passed)
    }

    /// Runs it without a defect, and remembers how that went.
    pub(crate) fn calibrate(&mut self, scratch: &Path) -> Result<Outcome> {
        let begun = Instant::now();
        let Run { outcome, passed, .. } = self.run_with(None, scratch, &self.arguments)?;
        (self.takes, self.tests) = (begun.elapsed(), passed);
        Ok(outcome)
    }

    fn run_with(
        &self,
        defect: Option<Defect>,
        scratch: &Path,
        arguments: &[String],
    ) -> Result<Run> {
        let scratch = tempfile::tempdir_in(scratch)?;
        let mut command = Command::new(&self.binary.path);
        command.args(arguments).current_dir(&self.binary.dir).env("TMPDIR", scratch.path());
        command.env_remove("THALWEG_REQUIRE_MOSQUITTO").env_remove(VARIABLE);
        if let Some(defect) = defect {
            command.env(VARIABLE, defect.name());
        }
        let mut reading = Reading::new(self.kind);
        let end = run(&mut command, self.limit(), |line| reading.line(line))?;
        let Reading { failed: what, passed, .. } = reading;
        let mut failed = Vec::new();
        let outcome = match (end, what) {
            (End::Exit(Some(0)), _) => Outcome::Passed,
            (End::Exit(Some(SKIPPED)), _) => Outcome::Skipped,
            (_, Some(what)) => {
                failed.extend(self.tests.get(&what).cloned());
                Outcome::Failed(what)
            }
            (End::Late, None) => {
                failed.extend(self.tests.difference(&passed).cloned());
                Outcome::Failed(format!("hangs: {}", failed.join(", ")))
            }
            (end, None) => Outcome::Failed(format!("ends with {end:?}")),
        };
        Ok(Run { outcome, failed, passed })
    }

    /// Where it takes longer, it hangs. (The machine may be far busier than a moment ago.)
    fn limit(&self) -> Duration {
        if self.takes.is_zero() {
            Duration::from_secs(300)
        } else {
            self.takes * 4 + Duration::from_secs(15)
        }
    }
}

/// Reads the output of a proof.
struct Reading {
    kind: Kind,
    failed: Option<String>,
    passed: BTreeSet<String>,
}

impl Reading {
    fn new(kind: Kind) -> Self {
        Self { kind, failed: None, passed: BTreeSet::new() }
    }

    /// Takes a line; whether it is enough.
    fn line(&mut self, line: &str) -> bool {
        match self.kind {
            Kind::Seeds => match (&mut self.failed, line.strip_prefix("seed ")) {
                (Some(seed), _) => {
                    // What follows is the first violation.
                    seed.push_str(&format!(": {}", line.trim()));
                    return true;
                }
                (None, Some(rest)) => {
                    let seed = rest.split(' ').next().unwrap_or_default();
                    self.failed = Some(format!("--seed {seed}"));
                }
                (None, None) => {}
            },
            Kind::Images => {
                if let Some((_, why)) = line.split_once("FAILED: ") {
                    let why = why.split_once("}: ").map_or(why, |(_, why)| why);
                    self.failed = Some(why.to_owned());
                }
            }
            Kind::Crash => {
                if let Some(what) =
                    line.strip_prefix("  lost: ").or(line.strip_prefix("  repeated: "))
                {
                    self.failed = Some(what.to_owned());
                }
            }
            Kind::Tests => {
                let Some((name, how)) =
                    line.strip_prefix("test ").and_then(|l| l.rsplit_once(" ... "))
                else {
                    return false;
                };
                match how {
                    "ok" => drop(self.passed.insert(name.to_owned())),
                    "FAILED" => self.failed = Some(name.to_owned()),
                    _ => {}
                }
            }
        }
        self.failed.is_some() && self.kind != Kind::Seeds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: Kind, lines: &str) -> Option<String> {
        let mut reading = Reading::new(kind);
        let enough = lines.lines().any(|line| reading.line(line));
        assert_eq!(enough, reading.failed.is_some());
        reading.failed
    }

    #[test]
    fn every_proof_says_what_has_failed() {
        let seeds =
            "seeds 10 ..\nseed 17 after fault 3:crash at move 9:\n  rows: lost 1 [a]\n  more";
        assert_eq!(failed(Kind::Seeds, seeds).unwrap(), "--seed 17: rows: lost 1 [a]");
        let images = "store: writes 3\n  FAILED: line 7 of the trace, 2 changes not durable, Mixed; \
                      Promises { durable: 1 }: epoch 5 was lost\n  the image: /tmp";
        assert_eq!(failed(Kind::Images, images).unwrap(), "epoch 5 was lost");
        let tests = "running 2 tests\ntest a::b ... ok\ntest a::c ... FAILED";
        assert_eq!(failed(Kind::Tests, tests).unwrap(), "a::c");
        assert_eq!(failed(Kind::Tests, "test a ... ok\ntest b ... ignored"), None);
    }

    #[test]
    fn every_defect_sits_somewhere() {
        for &defect in Defect::ALL {
            assert!(!package_of(defect).is_empty(), "{defect:?} begins with no package's name");
            assert!(!defect.what().is_empty() && defect.what().ends_with('.'), "{defect:?}");
        }
    }
}
