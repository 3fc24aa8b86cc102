//! What the job is given, and what must come of it.

use thalweg_testing::mix;

/// The bytes of a value.
pub(crate) const VALUE_BYTES: usize = 1_024;
/// Keys that are used again and again.
pub(crate) const HOT_KEYS: u64 = 1_000;

/// The parts of a run, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Every key is written for the first time, in order.
    Fill,
    /// Keys are read and changed at random: most of them are in the store alone.
    Cold,
    /// A few keys are read and changed again and again.
    Hot,
    /// Every key is read and changed once more.
    Last,
}

pub(crate) const PHASES: [Phase; 4] = [Phase::Fill, Phase::Cold, Phase::Hot, Phase::Last];

impl Phase {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Cold => "cold keys at random",
            Self::Hot => "hot keys",
            Self::Last => "every key once more",
        }
    }
}

/// All keys that the job is given, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) keys: u64,
    pub(crate) cold: u64,
    pub(crate) hot: u64,
    pub(crate) seed: u64,
}

impl Plan {
    /// How many steps a phase has.
    pub(crate) fn steps(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Fill | Phase::Last => self.keys,
            Phase::Cold => self.cold,
            Phase::Hot => self.hot,
        }
    }

    /// All steps.
    pub(crate) fn len(&self) -> u64 {
        PHASES.iter().map(|&phase| self.steps(phase)).sum()
    }

    /// The key of a step, and its phase; `None` behind the last.
    pub(crate) fn key(&self, mut step: u64) -> Option<(Phase, u64)> {
        for phase in PHASES {
            if step < self.steps(phase) {
                let key = match phase {
                    Phase::Fill | Phase::Last => step,
                    Phase::Cold => mix(self.seed ^ step) % self.keys,
                    Phase::Hot => mix(step % HOT_KEYS.min(self.keys)) % self.keys,
                };
                return Some((phase, key));
            }
            step -= self.steps(phase);
        }
        None
    }
}

/// The value of a key that was changed so often: nothing that another key or another version has.
pub(crate) fn value(key: u64, version: u64) -> Vec<u64> {
    let words = 1..(VALUE_BYTES / size_of::<u64>()) as u64;
    let seed = mix(key.wrapping_mul(0xd134_2543_de82_ef95) ^ mix(version));
    std::iter::once(version).chain(words.map(|word| mix(seed ^ word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_that_of_its_key_and_version_alone() {
        assert_eq!(value(7, 3).len() * size_of::<u64>(), VALUE_BYTES);
        assert_eq!(value(7, 3), value(7, 3));
        for other in [value(7, 4), value(8, 3), value(3, 7)] {
            assert!(other[1..].iter().zip(&value(7, 3)[1..]).all(|(a, b)| a != b));
        }
    }

    #[test]
    fn phases_have_their_steps_and_their_keys() {
        let plan = Plan { keys: 50, cold: 200, hot: 30, seed: 1 };
        let steps: Vec<_> = (0..plan.len()).map(|step| plan.key(step).unwrap()).collect();
        for phase in PHASES {
            let of = steps.iter().filter(|(of, _)| *of == phase).count();
            assert_eq!(of as u64, plan.steps(phase), "{phase:?}");
        }
        assert!(steps.iter().all(|&(_, key)| key < 50));
        assert_eq!((plan.len(), plan.key(plan.len())), (330, None));
    }
}
