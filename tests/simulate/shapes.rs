//! The parts of a job that are about the shape of its streams. Records are columns, are dealt out or brought together; a
//! stream changes a table on every shard; keys have clocks of their own.

use thalweg_flow::{
    BroadcastState, Chain, Chunk, CoProcess, Context, DataType, Fields, MapState, NoKey,
    OperatorListState, OperatorStates, Process, States, Stream, Sum, ValueState, Watermarks,
    Windowed,
};
use thalweg_kernel::Collector;

use super::broker::Message;
use super::marks::Counting;
use super::plan::{JobPlan, RAW_MS, ms};
use super::process::AT_THE_END;
use super::sinks::Table;

/// Windows of columns, of records that were dealt out, and by the clocks of keys.
pub(crate) const SHAPE_MS: i64 = 30;

/// The records of a key may be so far out of order for its own clock: less than they are, so that some are late.
pub(crate) const OWN_MS: i64 = 6;

/// The operator of [`Only`], and its list.
pub(crate) const ONLY: (&str, &str) = ("only one", "count");

/// The operator of [`Ruled`], and its broadcast state.
pub(crate) const RULED: (&str, &str) = ("ruled", "rules");

/// The operator of [`OwnClock`], and the state that the engine keeps for it.
pub(crate) const OWN: (&str, &str) = ("own clock", "clock of the key");

/// Puts the parts on `messages`, of which none comes twice.
pub(crate) fn shapes<C: Chain<Out = Message>>(plan: JobPlan, messages: Stream<C>, table: &Table) {
    let [columns, dealt, only, ruled, own] = messages.split();
    if plan.columns {
        window_columns(columns, table);
    } else {
        columns.discard();
    }
    if plan.dealt {
        deal_out(plan, dealt, table);
    } else {
        dealt.discard();
    }
    if plan.only {
        only.global().process(Only::new).uid(ONLY.0).sink_as("only rows", table.clone());
    } else {
        only.discard();
    }
    if plan.ruled {
        let [left, right] = ruled.split();
        left.key_by(|message| message.device)
            .connect_broadcast(right.filter(makes_rule))
            .process(Ruled::new)
            .uid(RULED.0)
            .sink_as("ruled rows", table.clone());
    } else {
        ruled.discard();
    }
    if let Some(every) = plan.own {
        own.key_by(|message| message.device)
            .clock_per_key(Watermarks::generated_by(Counting::new(every, OWN_MS)))
            .process(OwnClock::new)
            .uid(OWN.0)
            .sink_as("own rows", table.clone());
    } else {
        own.discard();
    }
}

/// The name of a device, some of which are longer than what a text holds inline.
fn name(device: u32) -> String {
    let long = if device.is_multiple_of(3) { "a device with a long name, number " } else { "d" };
    format!("{long}{device}")
}

/// Which rows of columns are kept.
pub(crate) fn is_kept(value: i64) -> bool {
    value % 5 != 4
}

/// The key of a row: that of the first device is absent, which is a key like any other.
pub(crate) fn column_key(device: u32) -> Option<i64> {
    (device != 0).then(|| i64::from(device))
}

/// Rows become columns, some are left out, others are computed; they are divided by a key that may be absent.
fn window_columns<C: Chain<Out = Message>>(messages: Stream<C>, table: &Table) {
    messages
        .map(|message| (message, name(message.device)))
        .to_columns(
            Fields::new()
                .int("value", |row: &(Message, String)| row.0.value)
                .int_or_null("device", |row: &(Message, String)| column_key(row.0.device))
                .text("name", |row: &(Message, String)| &row.1),
        )
        .keep(keep)
        .project(
            &[("device", DataType::Int), ("name", DataType::Text), ("doubled", DataType::Int)],
            |chunk, out| {
                let [value, device, name] = chunk.columns() else { panic!("three columns") };
                for row in 0..chunk.len() {
                    out[0].push_int((!device.is_null(row)).then(|| device.ints()[row]));
                    out[1].push_text(name.text_at(row).as_deref());
                    out[2].push_int(Some(value.ints()[row] * 2));
                }
            },
        )
        .exchange_by::<Option<i64>>("device")
        .to_keyed(|chunk, row| {
            let [device, called, doubled] = chunk.columns() else { panic!("three columns") };
            let device = if device.is_null(row) { 0 } else { device.ints()[row] as u32 };
            assert_eq!(called.text_at(row).as_deref(), Some(name(device).as_str()));
            doubled.ints()[row]
        })
        .window(ms(SHAPE_MS))
        .aggregate(Sum::of(|doubled: &i64| *doubled))
        .uid("columns")
        .map(|row: Windowed<Option<i64>, i64>| (row.key, row.value))
        .sink_as("column rows", table.clone());
}

/// The first column is the value.
fn keep(chunk: &Chunk, rows: &mut Vec<u32>) {
    let values = chunk.columns()[0].ints();
    rows.extend((0..chunk.len() as u32).filter(|&row| is_kept(values[row as usize])));
}

/// What reads the one partition in its order, as columns: a row is late by the watermarks within its chunk.
pub(crate) fn raw_columns<C: Chain<Out = Message>>(raw: Stream<C>, table: &Table) {
    let (windows, late) = raw
        .to_columns(
            Fields::new()
                .int("value", |message: &Message| message.value)
                .int("device", |message: &Message| i64::from(message.device))
                .int("sequence", |message: &Message| message.sequence as i64),
        )
        .exchange_by::<i64>("device")
        .keep(keep)
        .to_keyed(|chunk, row| {
            let number = |column: usize| chunk.columns()[column].ints()[row];
            (number(1), number(2), number(0))
        })
        .window(ms(RAW_MS))
        .late_output();
    windows
        .aggregate(Sum::of(|row: &(i64, i64, i64)| row.2))
        .uid("raw columns")
        .map(|row| (row.key, row.value))
        .sink_as("raw column rows", table.clone());
    late.map(|(device, sequence, _)| (device, sequence)).sink_as("late columns", table.clone());
}

/// One shard after the other has a record; those of a key come together again.
fn deal_out<C: Chain<Out = Message>>(plan: JobPlan, messages: Stream<C>, table: &Table) {
    let [echo, windows] = messages.rebalance().split();
    echo.map(|message| (message.device, message.sequence)).sink_as("dealt", table.clone());
    if plan.is_on_time() {
        windows
            .key_by(|message| message.device)
            .window(ms(SHAPE_MS))
            .aggregate(Sum::of(|message: &Message| message.value))
            .uid("dealt windows")
            .map(|row| (row.key, row.value))
            .sink_as("dealt rows", table.clone());
    } else {
        windows.discard();
    }
}

/// Gives each record a number, on the one shard that has them all.
struct Only(OperatorListState<u64>);

impl Only {
    fn new(states: &mut OperatorStates<'_>) -> Self {
        assert_eq!(states.instances(), 1);
        Self(states.list(ONLY.1))
    }
}

impl Process<NoKey, Message> for Only {
    type Out = u64;

    fn record(&mut self, _: Message, _: &mut Context<'_, NoKey>, out: &mut impl Collector<u64>) {
        let number = self.0.take().into_iter().sum::<u64>() + 1;
        assert!(self.0.push(number).is_ok(), "a list of one item is full");
        out.record(0.into(), number);
    }
}

/// Whether a message changes the rules.
pub(crate) fn makes_rule(message: &Message) -> bool {
    message.value % 3 == 0
}

/// Whether a message that changes the rules takes that of its device away.
pub(crate) fn ends_rule(message: &Message) -> bool {
    message.value % 4 == 0
}

/// A device's last rule: the value, and the sequence of the message.
pub(crate) type Rule = (u32, (i64, u64));

/// What a device has said, and at the end all rules as its shard has them.
struct Ruled {
    rules: BroadcastState<u32, (i64, u64)>,
    said: ValueState<u32, (i64, u64)>,
}

impl Ruled {
    fn new(states: &mut States<'_, u32>) -> Self {
        Self { rules: states.operator().broadcast(RULED.1), said: states.value("said") }
    }
}

impl CoProcess<u32, Message, Message, NoKey> for Ruled {
    type Out = (u32, (i64, u64), Vec<Rule>);

    fn left(
        &mut self,
        message: Message,
        cx: &mut Context<'_, u32>,
        _: &mut impl Collector<Self::Out>,
    ) {
        let (sum, count) = self.said.get(cx).unwrap_or_default();
        self.said.set(cx, (sum + message.value, count + 1));
        cx.event_timer(AT_THE_END.into());
    }

    fn right(
        &mut self,
        message: Message,
        cx: &mut Context<'_, NoKey>,
        _: &mut impl Collector<Self::Out>,
    ) {
        if ends_rule(&message) {
            self.rules.remove(cx, &message.device);
        } else {
            let put = self.rules.put(cx, message.device, (message.value, message.sequence));
            assert!(put.is_ok(), "a table of a few rules is full");
        }
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<Self::Out>) {
        let rules = self.rules.with(|rules| rules.iter().map(|(of, rule)| (*of, *rule)).collect());
        out.record(0.into(), (*cx.key(), self.said.get(cx).unwrap_or_default(), rules));
        self.said.clear(cx);
    }
}

/// Sums of a device in windows by the device's own clock. What comes too late for its window is given as it is.
struct OwnClock {
    sums: MapState<u32, i64, i64>,
}

impl OwnClock {
    fn new(states: &mut States<'_, u32>) -> Self {
        Self { sums: states.map("sums") }
    }
}

/// A device; the start of a window and a sum, or the sequence of a late message and its value.
pub(crate) type OwnRow = (u32, Result<(i64, i64), (u64, i64)>);

impl Process<u32, Message> for OwnClock {
    type Out = OwnRow;

    fn record(
        &mut self,
        Message { device, sequence, time, value }: Message,
        cx: &mut Context<'_, u32>,
        out: &mut impl Collector<OwnRow>,
    ) {
        let start = time / SHAPE_MS * SHAPE_MS;
        let last = start + SHAPE_MS - 1;
        if last <= cx.watermark().as_millis() {
            return out.record(cx.time(), (device, Err((sequence, value))));
        }
        let sum = self.sums.get(cx, &start).unwrap_or_default();
        self.sums.put(cx, start, sum + value);
        cx.event_timer(last.into());
    }

    fn timer(&mut self, cx: &mut Context<'_, u32>, out: &mut impl Collector<OwnRow>) {
        let start = cx.time().as_millis() + 1 - SHAPE_MS;
        let sum = self.sums.get(cx, &start);
        out.record(cx.time(), (*cx.key(), Ok((start, sum.unwrap_or_default()))));
        self.sums.remove(cx, &start);
    }
}
