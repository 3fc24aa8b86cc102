//! What goes wrong, and when: a list of faults drawn from the seed, of which any can be left out without
//! moving the others.

use std::fmt;
use std::str::FromStr;

use thalweg_testing::Random;

macro_rules! faults {
    ($($name:ident $text:literal $what:literal,)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $what] $name,)+
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What happens.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)+ }
            }
        }
    };
}

faults! {
    Crash "crash" "the process is gone; the machine is not",
    Power "power" "the power goes: what was not synced is lost or torn",
    Torn "torn" "the power goes in the middle of one of the next writes or syncs of a journal",
    Sync "sync" "one of the next syncs of a journal fails: the process must end",
    DiskFull "disk-full" "the journal's disk is full for a while",
    StoreFull "store-full" "epochs find no room in the store for a while",
    CommitCrash "commit-crash" "the process is gone just before or just after the next epoch is stored",
    TellCrash "tell-crash" "the process is gone when some shards know of the next epoch and others do not",
    SinkCrash "sink-crash" "the process is gone between the commits of two sinks",
    LateTell "late-tell" "shards are told of epochs late, for a while",
    Broker "broker" "the broker restarts: it delivers again what was not acknowledged",
    Link "link" "a source's connection is lost and found again",
    Devices "devices" "devices reconnect and publish again what was not acknowledged",
    SlowSink "slow-sink" "sinks take nothing for a while",
    SlowSeal "slow-seal" "what sinks have sealed is not durable for a while: the checkpoint takes long",
    LateFold "late-fold" "the store folds no epochs for a while",
    EarlyFold "early-fold" "the store folds all epochs at once",
    Clock "clock" "the machine's clock jumps, either way",
    Suspend "suspend" "the job is suspended with one more epoch, as a savepoint or not, and resumed",
    Savepoint "savepoint" "a savepoint is asked for",
    Failure "failure" "a shard fails: the job is started again in the same process",
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault of a seed's list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    /// The move at which it happens.
    pub(crate) at: u64,
    /// How long, how far, after how many: whatever the fault needs.
    pub(crate) size: usize,
}

/// The faults of a seed: 24 to 55 of them.
pub(crate) fn plan(random: &mut Random) -> Vec<Planned> {
    let count = 24 + random.below(32);
    let gap = random.one_of([15, 40, 120]);
    // Some seeds are about few kinds only.
    let kinds: Vec<Fault> = if random.one_in(3) {
        (0..3).map(|_| Fault::ALL[random.below(Fault::ALL.len())]).collect()
    } else {
        Fault::ALL.to_vec()
    };
    let mut at = 0;
    (0..count)
        .map(|_| {
            at += 1 + random.below(2 * gap) as u64;
            Planned { fault: kinds[random.below(kinds.len())], at, size: random.below(1_000) }
        })
        .collect()
}

/// Which faults of a seed's list happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Chosen {
    /// All.
    #[default]
    All,
    /// Those of these kinds, and those with these places in the list.
    Only(Vec<Choice>),
}

/// A part of a seed's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All of a kind.
    Kind(Fault),
    /// The one at this place.
    Place(usize),
}

impl Chosen {
    pub(crate) fn includes(&self, place: usize, fault: Fault) -> bool {
        match self {
            Self::All => true,
            Self::Only(choices) => choices.iter().any(|choice| match choice {
                Choice::Kind(kind) => *kind == fault,
                Choice::Place(at) => *at == place,
            }),
        }
    }
}

impl FromStr for Chosen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::All),
            "none" => return Ok(Self::Only(Vec::new())),
            _ => {}
        }
        let choice = |part: &str| {
            // `17:crash` is place 17; the name is for people.
            let place = part.split(':').next().unwrap_or(part);
            let kind = Fault::ALL.iter().find(|fault| fault.name() == part);
            match (place.parse(), kind) {
                (Ok(place), _) => Ok(Choice::Place(place)),
                (_, Some(kind)) => Ok(Choice::Kind(*kind)),
                _ => {
                    let names: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
                    Err(format!(
                        "--faults {part}: allowed: all, none, the place of a fault, or {}",
                        names.join(", ")
                    ))
                }
            }
        };
        text.split(',').map(choice).collect::<Result<_, _>>().map(Self::Only)
    }
}

macro_rules! defects {
    ($($name:ident $text:literal $what:literal,)+) => {
        /// A deliberate defect of the simulator's own source, sinks and store, to show that it would be seen. (Those
        /// of the engine are in [`thalweg_kernel::defects`].)
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $(#[doc = $what] $name,)+
        }

        impl Defect {
            /// Every defect.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What is wrong.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)+ }
            }
        }
    };
}

defects! {
    AckEarly "ack-early" "the source acknowledges what it has appended, durable or not",
    AckOrder "ack-order" "the source acknowledges the newest durable message first",
    AckGeneration "ack-generation" "the source acknowledges on whatever connection there is",
    DropWhenFull "drop-when-full" "the source drops what a full journal refuses",
    TrimFar "trim-far" "the source trims up to where it reads",
    ReplaySkips "replay-skips" "the source goes on one record behind the stored position",
    NoDedup "no-dedup" "duplicates are not removed",
    SinkKeepsNotes "sink-keeps-notes" "the sink commits pending notes under new numbers",
    SinkSleeps "sink-sleeps" "a sink that is ready again wakes nobody",
    StaleEpoch "stale-epoch" "the store opens at the epoch before the newest",
    HalfEpoch "half-epoch" "the store keeps only the first shard's block when the process ends while it commits",
}

impl FromStr for Defect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|defect| defect.name() == text).copied();
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|defect| defect.name()).collect();
            format!("--defect {text}: allowed: {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_chosen_by_kind_and_by_place() {
        let chosen: Chosen = "crash,17:power".parse().unwrap();
        assert!(chosen.includes(3, Fault::Crash) && chosen.includes(17, Fault::Power));
        assert!(!chosen.includes(16, Fault::Power));
        assert!("all".parse::<Chosen>().unwrap().includes(9, Fault::Clock));
        assert!(!"none".parse::<Chosen>().unwrap().includes(9, Fault::Clock));
        assert!("fire".parse::<Chosen>().unwrap_err().contains("disk-full"));
    }
}
