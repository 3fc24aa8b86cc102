//! What a process of its own is told to do: [`Order`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thalweg::runtime::DriverKind;

/// Results wait for a checkpoint. Those of `averages` come every second.
const AVERAGES_CHECKPOINT_MS: u64 = 1_000;
/// Those of `through` come with each message.
const THROUGH_CHECKPOINT_MS: u64 = 10;

/// Who receives the messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contender {
    /// A loop on a raw socket.
    Handloop,
    /// An MQTT client library without an engine.
    Rumqttc,
    /// A job.
    Thalweg {
        /// On the driver of this name.
        driver: String,
        /// With this latency budget.
        budget: Duration,
    },
}

impl Contender {
    /// A job on a driver, without a latency budget.
    pub fn thalweg(driver: DriverKind) -> Self {
        Self::Thalweg { driver: driver.to_string(), budget: Duration::ZERO }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handloop => f.write_str("handloop"),
            Self::Rumqttc => f.write_str("rumqttc"),
            Self::Thalweg { driver, budget } if budget.is_zero() => write!(f, "thalweg {driver}"),
            Self::Thalweg { driver, budget } => write!(f, "thalweg {driver} {budget:?}"),
        }
    }
}

/// What is done with the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Each device's averages of a second
    Averages,
    /// Each message is passed on
    Through,
}

impl Task {
    /// Its name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Averages => "averages",
            Self::Through => "through",
        }
    }
}

/// What survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum State {
    /// Nothing, at QoS 0.
    None,
    /// Everything, at QoS 1.
    Journal {
        /// The time between two checkpoints, if it was given.
        checkpoint_ms: Option<u64>,
    },
}

impl State {
    /// The quality of service of subscriptions and publishes.
    pub const fn qos(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Journal { .. } => 1,
        }
    }

    /// The time between two checkpoints; none without state.
    pub fn interval(self, task: Task) -> Option<Duration> {
        let usual_ms = match task {
            Task::Averages => AVERAGES_CHECKPOINT_MS,
            Task::Through => THROUGH_CHECKPOINT_MS,
        };
        match self {
            Self::None => None,
            Self::Journal { checkpoint_ms } => {
                Some(Duration::from_millis(checkpoint_ms.unwrap_or(usual_ms)))
            }
        }
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not allowed; allowed: none, journal, journal:TIME");
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "journal" => Ok(Self::Journal { checkpoint_ms: None }),
            Some(("journal", time)) => {
                let time = humantime::parse_duration(time).map_err(|_| wrong())?;
                let ms = time.as_millis() as u64;
                (ms > 0).then_some(Self::Journal { checkpoint_ms: Some(ms) }).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Journal { checkpoint_ms: None } => f.write_str("journal"),
            Self::Journal { checkpoint_ms: Some(ms) } => write!(f, "journal:{ms}ms"),
        }
    }
}

impl TryFrom<String> for State {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<State> for String {
    fn from(state: State) -> Self {
        state.to_string()
    }
}

/// One row of the report, for each contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// The job.
    pub task: Task,
    /// What survives.
    pub state: State,
    /// Messages a second.
    pub rate: u64,
}

/// What a process is told to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Host and port of the broker.
    pub broker: (String, u16),
    /// Whom to be; the devices without.
    pub contender: Option<Contender>,
    /// Which row this is for.
    pub cell: Cell,
    /// Of a job.
    pub shards: usize,
    /// How long to send, after the warm-up.
    pub seconds: f64,
    /// Of how many devices.
    pub devices: u64,
    /// Where state directories are made.
    pub state_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_and_written_and_mistakes_named() {
        for text in ["none", "journal", "journal:10ms"] {
            assert_eq!(text.parse::<State>().unwrap().to_string(), text);
        }
        for wrong in ["", "some", "none:1s", "journal:", "journal:0ms"] {
            assert!(wrong.parse::<State>().unwrap_err().contains("journal:TIME"), "{wrong}");
        }
    }

    #[test]
    fn checkpoints_are_as_often_as_asked() {
        let every = |text: &str, task| text.parse::<State>().unwrap().interval(task);
        assert_eq!(every("none", Task::Through), None);
        assert_eq!(every("journal", Task::Averages), Some(Duration::from_secs(1)));
        assert_eq!(every("journal", Task::Through), Some(Duration::from_millis(10)));
        assert_eq!(every("journal:2s", Task::Through), Some(Duration::from_secs(2)));
    }
}
