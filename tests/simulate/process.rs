//! The process functions of simulated jobs: every kind of state, both kinds of timers, side outputs, time
//! to live; lists of operators.

use std::time::Duration;

use thalweg_flow::{
    AggregatingState, CoProcess, Context, Count, ListState, MapState, NoKey, OperatorListState,
    OperatorStates, Process, ReducingState, SideTag, StateOptions, States, Ttl, ValueState,
};
use thalweg_kernel::{Collector, Timestamp};

use super::broker::Message;
use super::faults::Defect;

/// Removes duplicates by (device, sequence): keyed by device, it remembers the highest sequence and which of
/// the 64 below were there.
pub(crate) struct Numbered {
    seen: ValueState<u32, (u64, u64)>,
    defect: Option<Defect>,
}

impl Numbered {
    pub(crate) fn new(states: &mut States<'_, u32>, defect: Option<Defect>) -> Self {
        Self { seen: states.value("seen"), defect }
    }
}

impl Process<u32, Message> for Numbered {
    type Out = Message;

    fn record(
        &mut self,
        message: Message,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Message>,
    ) {
        let (highest, below) = self.seen.get(cx).unwrap_or_default();
        let (seen, new) = remember(highest, below, message.sequence);
        if new {
            self.seen.set(cx, seen);
        }
        if new || self.defect == Some(Defect::NoDedup) {
            out.record(cx.time(), message);
        }
    }
}

/// Adds a sequence to a window of 64 below the highest; whether it was not there. What is below the window
/// counts as seen.
fn remember(highest: u64, below: u64, sequence: u64) -> ((u64, u64), bool) {
    if sequence > highest {
        let by = sequence - highest;
        let shifted = if by < 64 { below << by | 1 << (by - 1) } else { u64::from(by == 64) << 63 };
        return ((sequence, shifted), true);
    }
    match highest - sequence {
        0 => ((highest, below), false),
        back if back > 64 || below >> (back - 1) & 1 == 1 => ((highest, below), false),
        back => ((highest, below | 1 << (back - 1)), true),
    }
}

/// A device and a window of 50 ms.
pub(crate) type Cell = (u32, i64);

/// A window of 50 ms by hand, with every kind of state. Timers are set, taken back and set again, and a side output has
/// all values that end in 0.
pub(crate) struct ByHand<F> {
    due: ValueState<Cell, i64>,
    values: ListState<Cell, i64>,
    thirds: MapState<Cell, u8, u32>,
    sum: ReducingState<Cell, i64, F>,
    count: AggregatingState<Cell, i64, Count>,
    side: SideTag<(u32, u64)>,
}

/// Of messages, keyed by [`cell`].
pub(crate) fn by_hand(
    states: &mut States<'_, Cell>,
    side: SideTag<(u32, u64)>,
) -> ByHand<impl Fn(i64, i64) -> i64 + use<>> {
    ByHand {
        due: states.value("due"),
        values: states.list("values"),
        thirds: states.map("thirds"),
        sum: states.reducing("sum", |a, b| a + b),
        count: states.aggregating("count", Count),
        side,
    }
}

pub(crate) fn cell(message: &Message) -> Cell {
    (message.device, message.time / 50)
}

impl<F: Fn(i64, i64) -> i64 + 'static> Process<Cell, Message> for ByHand<F> {
    type Out = String;

    fn record(
        &mut self,
        message: Message,
        cx: &mut Context<'_, Cell>,
        _: &mut impl Collector<String>,
    ) {
        assert_eq!((*cx.key(), cx.time()), (cell(&message), message.time.into()));
        let value = message.value;
        if value % 10 == 0 {
            self.side.emit(cx.time(), (message.device, message.sequence));
        }
        let end = (cx.key().1 + 1) * 50;
        cx.event_timer((end + 1).into());
        cx.delete_event_timer((end + 1).into());
        cx.event_timer(end.into());
        self.due.set(cx, end);
        self.values.push(cx, value);
        let third = value as u8 % 3;
        let thirds = self.thirds.get(cx, &third).unwrap_or_default();
        self.thirds.put(cx, third, thirds + 1);
        self.sum.add(cx, value);
        self.count.add(cx, value);
    }

    fn timer(&mut self, cx: &mut Context<'_, Cell>, out: &mut impl Collector<String>) {
        assert_eq!(self.due.get(cx), Some(cx.time().as_millis()), "a timer that is not due");
        let mut values = self.values.get(cx);
        values.sort_unstable();
        let thirds: Vec<_> =
            self.thirds.with(cx, |thirds| thirds.map(|(third, count)| (*third, *count)).collect());
        let (sum, count) = (self.sum.get(cx), self.count.get(cx));
        out.record(cx.time(), by_hand_row(*cx.key(), &values, &thirds, sum, count));
        self.due.clear(cx);
        self.values.clear(cx);
        self.thirds.clear(cx);
        self.sum.clear(cx);
        self.count.clear(cx);
    }
}

/// What [`ByHand`] says of a window.
pub(crate) fn by_hand_row(
    cell: Cell,
    values: &[i64],
    thirds: &[(u8, u32)],
    sum: Option<i64>,
    count: Option<u64>,
) -> String {
    format!("{cell:?} {values:?} {thirds:?} {sum:?} {count:?}")
}

/// An event time that only the end of a stream reaches.
pub(crate) const AT_THE_END: i64 = 1 << 60;

/// Emits a device's sum and count whenever a processing-time timer fires, and what is left at the end. How a total is
/// divided depends on the clock, the total does not.
pub(crate) struct Bursts {
    sum: ValueState<u32, (i64, u64)>,
    due: ValueState<u32, i64>,
    /// Written and read, and forgotten soon, by this machine's clock.
    lately: ValueState<u32, u64>,
}

impl Bursts {
    pub(crate) fn new(states: &mut States<'_, u32>) -> Self {
        let ttl = Ttl::processing_time(Duration::from_millis(10));
        Self {
            sum: states.value("sum"),
            due: states.value("due"),
            lately: states.value_with("lately", StateOptions::new().ttl(ttl)),
        }
    }
}

impl Process<u32, Message> for Bursts {
    type Out = (u32, i64, u64);

    fn record(
        &mut self,
        message: Message,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<Self::Out>,
    ) {
        let (sum, count) = self.sum.get(cx).unwrap_or_default();
        self.sum.set(cx, (sum + message.value, count + 1));
        let lately = self.lately.get(cx).unwrap_or_default();
        self.lately.set(cx, lately + 1);
        if self.due.get(cx).is_none() {
            let due = cx.processing_time().plus_ms(message.value % 30);
            self.due.set(cx, due.as_millis());
            cx.processing_timer(due);
        }
        cx.event_timer(AT_THE_END.into());
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Self::Out>) {
        if cx.time() == Timestamp::from(AT_THE_END)
            && let Some(due) = self.due.get(cx)
        {
            cx.delete_processing_timer(due.into());
        }
        if let Some((sum, count)) = self.sum.get(cx) {
            out.record(cx.time(), (*cx.key(), sum, count));
        }
        self.sum.clear(cx);
        self.due.clear(cx);
        self.lately.clear(cx);
    }
}

/// How many records of each input a device has had, and what they add up to, at the end of both.
pub(crate) struct Paired {
    left: ValueState<u32, (i64, u64)>,
    right: ValueState<u32, (i64, u64)>,
}

impl Paired {
    pub(crate) fn new(states: &mut States<'_, u32>) -> Self {
        Self { left: states.value("left"), right: states.value("right") }
    }
}

impl CoProcess<u32, Message, (u32, i64)> for Paired {
    type Out = PairedRow;

    fn left(
        &mut self,
        message: Message,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<PairedRow>,
    ) {
        let (sum, count) = self.left.get(cx).unwrap_or_default();
        self.left.set(cx, (sum + message.value, count + 1));
        cx.event_timer(AT_THE_END.into());
    }

    fn right(
        &mut self,
        (_, value): (u32, i64),
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<PairedRow>,
    ) {
        let (sum, count) = self.right.get(cx).unwrap_or_default();
        self.right.set(cx, (sum + value, count + 1));
        cx.event_timer(AT_THE_END.into());
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<PairedRow>) {
        let (left, right) = (self.left.get(cx), self.right.get(cx));
        out.record(0.into(), (*cx.key(), left.unwrap_or_default(), right.unwrap_or_default()));
        self.left.clear(cx);
        self.right.clear(cx);
    }
}

/// A device, and of each input the sum and the count.
pub(crate) type PairedRow = (u32, (i64, u64), (i64, u64));

/// Passes on what comes to every shard, on one of them.
pub(crate) struct OnOne {
    instance: usize,
    instances: usize,
}

impl OnOne {
    pub(crate) fn new(states: &mut OperatorStates<'_>) -> Self {
        Self { instance: states.instance(), instances: states.instances() }
    }
}

impl Process<NoKey, Echo> for OnOne {
    type Out = Echo;

    fn record(&mut self, echo: Echo, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<Echo>) {
        if echo.1 as usize % self.instances == self.instance {
            out.record(cx.time(), echo);
        }
    }
}

/// How long [`Runs`] remembers, in event time.
pub(crate) const RUN_MS: i64 = 15;

/// Counts a device's messages since it was silent for [`RUN_MS`].
pub(crate) struct Runs(ValueState<u32, u64>);

impl Runs {
    pub(crate) fn new(states: &mut States<'_, u32>) -> Self {
        let ttl = Ttl::event_time(Duration::from_millis(RUN_MS as u64));
        Self(states.value_with("run", StateOptions::new().ttl(ttl)))
    }
}

impl Process<u32, Message> for Runs {
    type Out = (u32, u64, u64);

    fn record(
        &mut self,
        message: Message,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<Self::Out>,
    ) {
        let run = self.0.get(cx).unwrap_or_default() + 1;
        self.0.set(cx, run);
        out.record(cx.time(), (message.device, message.sequence, run));
    }
}

/// Holds what it gets back, in a list, until the watermark has passed it or more has come. How many it has passed
/// on is in a union list: with each start the first instance goes on with the sum of all.
pub(crate) struct Held {
    held: OperatorListState<(i64, Echo)>,
    passed: OperatorListState<u64>,
    first: bool,
}

/// Of a message, its device and sequence.
pub(crate) type Echo = (u32, u64);

/// The operator of [`Held`], and its list of how many it has passed on.
pub(crate) const HELD: (&str, &str) = ("held", "passed");

/// The most records that wait.
const HELD_MAX: usize = 5;

impl Held {
    pub(crate) fn new(states: &mut OperatorStates<'_>) -> Self {
        let first = states.instance() == 0;
        Self { held: states.list("held"), passed: states.union_list(HELD.1), first }
    }

    fn pass(&mut self, (time, echo): (i64, Echo), out: &mut impl Collector<Echo>) {
        let passed = self.passed.take().into_iter().sum::<u64>();
        self.add(passed + 1);
        out.record(time.into(), echo);
    }

    fn add(&mut self, passed: u64) {
        assert!(self.passed.push(passed).is_ok(), "a list of one item is full");
    }
}

impl Process<NoKey, Echo> for Held {
    type Out = Echo;

    fn open(&mut self) {
        let passed = self.passed.take().into_iter().sum::<u64>();
        if self.first && passed > 0 {
            self.add(passed);
        }
    }

    fn record(&mut self, echo: Echo, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<Echo>) {
        assert!(self.held.push((cx.time().as_millis(), echo)).is_ok(), "a list of a few is full");
        if self.held.len() > HELD_MAX
            && let Some(first) = self.held.pop_front()
        {
            self.pass(first, out);
        }
    }

    fn watermark(&mut self, cx: &mut Context<'_, NoKey>, out: &mut impl Collector<Echo>) {
        let due = |(time, _): &(i64, Echo)| *time <= cx.watermark().as_millis();
        let ready: Vec<_> = self.held.with(|all| all.copied().filter(due).collect());
        self.held.retain(|held| !due(held));
        ready.into_iter().for_each(|held| self.pass(held, out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_new_once() {
        let (mut seen, mut taken) = ((0, 0), Vec::new());
        for sequence in [1, 2, 2, 5, 3, 3, 5, 4, 80, 16, 15, 79, 79, 80] {
            let (after, new) = remember(seen.0, seen.1, sequence);
            seen = after;
            if new {
                taken.push(sequence);
            }
        }
        assert_eq!(taken, [1, 2, 5, 3, 4, 80, 16, 79], "15 is below the window");
    }
}
