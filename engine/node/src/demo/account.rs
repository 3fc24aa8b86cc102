//! The account at the end of a demonstration. Every message that a device sent was counted in a
//! window, or was late, or is a dead letter.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::bail;
use thalweg_runtime::Snapshot;

use super::fleet::{Class, Fate, SentCounts};
use super::pipeline::Counts;

/// What was sent beside what became of it.
pub(super) struct Account {
    sent: SentCounts,
    in_windows: u64,
    late: u64,
    dead: Vec<(&'static str, u64)>,
    rows: u64,
    alerts: u64,
}

impl Account {
    pub(super) fn new(sent: &SentCounts, counts: &Counts, metrics: &Snapshot) -> Self {
        Self {
            sent: *sent,
            in_windows: counts.in_windows.load(Relaxed),
            late: counts.late.load(Relaxed),
            dead: metrics.dead_letters(),
            rows: counts.rows.load(Relaxed),
            alerts: counts.alerts.load(Relaxed),
        }
    }

    fn dead_letters(&self, ahead: bool) -> u64 {
        let cause = |name: &str| (name == "clock_ahead") == ahead;
        self.dead.iter().filter(|(name, _)| cause(name)).map(|(_, count)| count).sum()
    }

    /// (what, sent, arrived) for each way a message can end.
    fn lines(&self) -> [(&'static str, u64, u64); 4] {
        let sent = |fate| self.sent.with_fate(fate);
        [
            ("counted in windows", sent(Fate::Counted), self.in_windows),
            ("late", sent(Fate::Late), self.late),
            ("refused: clock ahead", sent(Fate::AheadOfClock), self.dead_letters(true)),
            ("refused: bad payload", sent(Fate::DeadLetter), self.dead_letters(false)),
        ]
    }

    fn arrived(&self) -> u64 {
        self.lines().iter().map(|(_, _, arrived)| arrived).sum()
    }

    /// Whether everything that was sent arrived, once.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let (sent, arrived, resent) = (self.sent.total(), self.arrived(), self.sent.resent);
        // A device that lost its connection repeats what was not acknowledged: at least once.
        if (sent..=sent + resent).contains(&arrived) {
            return Ok(());
        }
        bail!("{sent} messages were sent ({resent} of them twice) and {arrived} arrived")
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n                            sent     arrived")?;
        for (what, sent, arrived) in self.lines() {
            writeln!(f, "  {what:<22}{sent:>8}  {arrived:>10}")?;
        }
        writeln!(f, "  {:<22}{:>8}  {:>10}", "total", self.sent.total(), self.arrived())?;
        if self.sent.resent > 0 {
            writeln!(f, "  {} messages were sent again after a lost connection", self.sent.resent)?;
        }
        writeln!(f, "\n  {} window results, {} alerts published", self.rows, self.alerts)?;
        let sent: Vec<_> = Class::ALL
            .into_iter()
            .filter(|class| class.fate() == Fate::DeadLetter && self.sent.of(*class) > 0)
            .map(|class| format!("{} {}", class.name(), self.sent.of(class)))
            .collect();
        let dead = self.dead.iter().map(|(cause, count)| format!("{cause} {count}"));
        writeln!(f, "  bad payloads sent:     {}", sent.join(", "))?;
        writeln!(f, "  dead letters by cause: {}", dead.collect::<Vec<_>>().join(", "))
    }
}
