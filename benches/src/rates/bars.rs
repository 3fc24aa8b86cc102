//! What the figures should come to, on two shards and the default driver.

use super::order::{Cell, State, Task};

/// The most that a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// What it must not exceed.
    pub most: f64,
    /// What it would be good not to exceed.
    pub stretch: Option<f64>,
}

impl Bar {
    const fn new(most: f64, stretch: f64) -> Self {
        Self { most, stretch: Some(stretch) }
    }

    const fn without_stretch(most: f64) -> Self {
        Self { most, stretch: None }
    }

    /// Where a figure lies.
    pub fn verdict(&self, figure: f64) -> &'static str {
        if self.stretch.is_some_and(|stretch| figure <= stretch) {
            "better"
        } else if figure <= self.most {
            "met"
        } else {
            "MISSED"
        }
    }
}

/// Wake-ups a second of an idle process, whole process.
pub const IDLE_SWITCHES_PER_S: Bar = Bar::without_stretch(2.0);
/// CPU time of an idle process, in percent of a core.
pub const IDLE_CPU_PERCENT: Bar = Bar::without_stretch(0.05);
/// What an idle process writes in ten minutes, in KiB.
pub const IDLE_WRITTEN_KIB: Bar = Bar::without_stretch(64.0);

/// CPU time of a message, over that of the loop in that round.
pub fn cpu_over_loop(cell: &Cell) -> Option<Bar> {
    match (cell.task, cell.state, cell.rate) {
        (Task::Averages, State::None, 100 | 1_000 | 5_000) => Some(Bar::new(2.0, 1.3)),
        (Task::Averages, State::None, 20_000 | 50_000) => Some(Bar::new(1.2, 0.7)),
        (Task::Averages, State::Journal { .. }, 1_000 | 5_000) => Some(Bar::new(4.0, 2.5)),
        _ => None,
    }
}

/// Context switches of a message, whole process.
pub fn switches(cell: &Cell) -> Option<Bar> {
    is(cell, Task::Averages, 0, 1_000).then_some(Bar::new(1.2, 1.0))
}

/// How much later than a bare client a contender sees a message, in microseconds: p50 and p99.
pub fn seen_over_bare_us(cell: &Cell) -> Option<[Bar; 2]> {
    let bars = [Bar::new(10.0, 3.0), Bar::without_stretch(50.0)];
    is(cell, Task::Through, 0, 1_000).then_some(bars)
}

/// From when a message was due until its result is back from an outbox, in milliseconds: p99.
pub fn outbox_ms(cell: &Cell) -> Option<Bar> {
    let every_ms = cell.state.interval(cell.task).map(|interval| interval.as_millis());
    let holds = is(cell, Task::Through, 1, 1_000) && every_ms == Some(10);
    holds.then_some(Bar::new(11.0, 5.0))
}

fn is(cell: &Cell, task: Task, qos: u8, rate: u64) -> bool {
    cell.task == task && cell.state.qos() == qos && cell.rate == rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_better_met_or_missed() {
        let bar = Bar::new(2.0, 1.3);
        assert_eq!(
            [1.3, 1.31, 2.0, 2.01].map(|x| bar.verdict(x)),
            ["better", "met", "met", "MISSED"]
        );
        assert_eq!(Bar::without_stretch(2.0).verdict(0.0), "met");
    }

    #[test]
    fn bars_stand_at_their_rate_and_job() {
        let cell = |task, state: &str, rate| Cell { task, state: state.parse().unwrap(), rate };
        let most = |bar: Option<Bar>| bar.map(|bar| bar.most);
        assert_eq!(most(cpu_over_loop(&cell(Task::Averages, "none", 5_000))), Some(2.0));
        assert_eq!(most(cpu_over_loop(&cell(Task::Averages, "none", 20_000))), Some(1.2));
        assert_eq!(most(cpu_over_loop(&cell(Task::Averages, "journal", 1_000))), Some(4.0));
        assert_eq!(most(cpu_over_loop(&cell(Task::Averages, "journal", 100))), None);
        assert_eq!(most(switches(&cell(Task::Averages, "none", 1_000))), Some(1.2));
        assert_eq!(most(outbox_ms(&cell(Task::Through, "journal", 1_000))), Some(11.0));
        assert_eq!(most(outbox_ms(&cell(Task::Through, "journal:1s", 1_000))), None);
        assert_eq!(seen_over_bare_us(&cell(Task::Through, "journal", 1_000)), None);
    }
}
