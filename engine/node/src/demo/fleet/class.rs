//! What can be wrong with a message of the fleet, and what an engine must make of it.

use std::fmt;

/// The one class that a message belongs to. Classes partition the messages, so their counts add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// A proper reading, stamped when it was due.
    OnTime,
    /// A proper reading that is 0.1 to 2 s old.
    OutOfOrder,
    /// A proper reading that is 30 s old.
    VeryLate,
    /// From the device whose clock is 10 minutes ahead.
    FastClock,
    /// From the device whose clock is 3 minutes behind.
    SlowClock,
    /// JSON that breaks off.
    Malformed,
    /// JSON without its `ts`.
    MissingField,
    /// A word where `temp` should be a number.
    WrongType,
    /// A byte that UTF-8 never contains, within the name of `ts`.
    InvalidUtf8,
    /// `NaN`, which JSON does not know, as `temp`.
    NotANumber,
    /// Brackets nested deeper than anybody reads.
    TooDeep,
    /// A reading of more than 256 KiB. There is one.
    TooLarge,
}

/// What an engine has to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It takes part in the results, given an out-of-orderness of 2 s and a little more.
    Counted,
    /// It is late and reported as such. It is not if windows, out-of-orderness and allowed lateness
    /// together reach 30 s back, or if each device has a watermark of its own.
    Late,
    /// The clock guard refuses it, unless it tolerates 10 minutes.
    AheadOfClock,
    /// It cannot be decoded and goes to the dead letters.
    DeadLetter,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 12;

    /// All of them, proper readings first.
    pub const ALL: [Self; Self::COUNT] = [
        Self::OnTime,
        Self::OutOfOrder,
        Self::VeryLate,
        Self::FastClock,
        Self::SlowClock,
        Self::Malformed,
        Self::MissingField,
        Self::WrongType,
        Self::InvalidUtf8,
        Self::NotANumber,
        Self::TooDeep,
        Self::TooLarge,
    ];

    /// In words, for a report: "3 minutes behind".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OnTime => "on time",
            Self::OutOfOrder => "out of order, up to 2 s",
            Self::VeryLate => "30 s old",
            Self::FastClock => "clock 10 min ahead",
            Self::SlowClock => "clock 3 min behind",
            Self::Malformed => "malformed JSON",
            Self::MissingField => "missing field",
            Self::WrongType => "wrong type",
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::NotANumber => "NaN",
            Self::TooDeep => "nested too deep",
            Self::TooLarge => "over 256 KiB",
        }
    }

    /// What an engine has to do with messages of this class.
    #[must_use]
    pub fn fate(self) -> Fate {
        match self {
            Self::OnTime | Self::OutOfOrder => Fate::Counted,
            Self::VeryLate | Self::SlowClock => Fate::Late,
            Self::FastClock => Fate::AheadOfClock,
            Self::Malformed
            | Self::MissingField
            | Self::WrongType
            | Self::InvalidUtf8
            | Self::NotANumber
            | Self::TooDeep
            | Self::TooLarge => Fate::DeadLetter,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many messages the broker has acknowledged, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentCounts {
    pub(super) by_class: [u64; Class::COUNT],
    /// Publishes repeated because a connection broke before their PUBACK came. Each may have reached
    /// the subscribers twice; 0 means that every message reached them exactly once.
    pub resent: u64,
}

impl SentCounts {
    /// Acknowledged messages of one class.
    #[must_use]
    pub fn of(&self, class: Class) -> u64 {
        self.by_class[class as usize]
    }

    /// Acknowledged messages that share a fate.
    #[must_use]
    pub fn with_fate(&self, fate: Fate) -> u64 {
        Class::ALL
            .into_iter()
            .filter(|class| class.fate() == fate)
            .map(|class| self.of(class))
            .sum()
    }

    /// Acknowledged messages of all classes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_class.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_stands_at_its_own_index() {
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }

    #[test]
    fn fates_partition_the_counts() {
        let mut counts = SentCounts::default();
        for (index, count) in counts.by_class.iter_mut().enumerate() {
            *count = 1 << index;
        }
        let fates = [Fate::Counted, Fate::Late, Fate::AheadOfClock, Fate::DeadLetter];
        assert_eq!(fates.iter().map(|fate| counts.with_fate(*fate)).sum::<u64>(), counts.total());
        assert_eq!(counts.with_fate(Fate::Counted), 0b11);
        assert_eq!(counts.with_fate(Fate::Late), 0b10100);
        assert_eq!(counts.with_fate(Fate::AheadOfClock), 0b1000);
    }
}
