//! What comes out of each operator for a few records, late ones among them, on any number of shards and with steps of any
//! size.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Said, check, ms};
use thalweg_flow::*;
use thalweg_kernel::{Collector, Str};

/// A record of a script as it comes out.
fn row(said: Said) -> (Str, i64) {
    (said.key, said.value)
}

fn window<V>(row: Windowed<Str, V>) -> (Str, V) {
    (row.key, row.value)
}

#[test]
fn each_record_is_mapped_where_it_is() {
    let tenfold = |said: Said| (said.key, said.value * 10);
    check(|all| all.map(tenfold).boxed(), "a=1@3 b=2@5 |9 a=4@2", "a=10@3 a=40@2 b=20@5");
}

#[test]
fn records_that_a_filter_keeps_stay_in_order() {
    let odd = |said: &Said| said.value % 2 == 1;
    check(
        |all| all.filter(odd).map(row).boxed(),
        "a=1@3 a=2@4 |5 a=3@1 a=5@9",
        "a=1@3 a=3@1 a=5@9",
    );
}

#[test]
fn a_flat_map_gives_as_many_as_it_says_at_the_time_of_the_record() {
    let counted = |said: Said| (0..said.value).map(move |n| (said.key.clone(), n));
    check(|all| all.flat_map(counted).boxed(), "a=2@3 b=0@4 |4 a=1@1", "a=0@3 a=1@3 a=0@1");
}

#[test]
fn what_is_split_and_joined_again_is_there_once() {
    let halves = |all: BoxedStream<Said>| {
        let [even, odd] = all.split();
        let even = even.filter(|said| said.value % 2 == 0);
        even.union(odd.filter(|said| said.value % 2 == 1)).map(row).boxed()
    };
    check(halves, "a=1@3 b=2@5 |9 c=4@2 d=3@7", "a=1@3 b=2@5 c=4@2 d=3@7");
}

#[test]
fn a_side_output_takes_what_it_is_given() {
    let side = |all: BoxedStream<Said>| {
        let (main, side) = all.side_output(|said, side: &mut Side<'_, Said>| {
            if said.value > 9 {
                side.emit(said);
                return None;
            }
            Some(said)
        });
        let aside = side.map(|said| (Str::from("aside"), said.value));
        main.map(row).union(aside).boxed()
    };
    check(side, "a=1@3 a=10@5 |9 a=2@2 b=11@7", "a=1@3 a=2@2 aside=10@5 aside=11@7");
}

#[test]
fn numbers_that_come_again_are_dropped_for_each_key() {
    let once = |all: BoxedStream<Said>| {
        all.key_by(|said| said.key.clone())
            .deduplicate(|said| said.value as u64)
            .values()
            .map(row)
            .boxed()
    };
    check(once, "a=1@3 b=1@3 a=2@4 |9 a=1@5 a=3@2 b=1@9", "a=1@3 a=2@4 a=3@2 b=1@3");
}

/// The count began anew at 4, on a later record; `2` and `3` behind it are of the numbers before, and of those after.
#[test]
fn numbers_that_begin_anew_are_news_for_each_key() {
    let once = |all: BoxedStream<Said>| {
        let numbers = Numbers::new().restarts_by_time(true);
        all.key_by(|said| said.key.clone())
            .deduplicate_by(numbers, |said| said.value as u64, |_, _| {})
            .values()
            .map(row)
            .boxed()
    };
    check(
        once,
        "a=1@1 a=2@2 a=1@4 a=2@2 b=1@4 a=2@5 a=3@3 a=3@6 b=1@3",
        "a=1@1 a=2@2 a=1@4 a=2@5 a=3@3 a=3@6 b=1@4",
    );
}

fn tumbling_sum(all: BoxedStream<Said>) -> BoxedStream<(Str, i64)> {
    let windows = all.key_by(|said| said.key.clone()).window(Tumbling::of(ms(10)));
    windows.aggregate(Sum::of(|said: &Said| said.value)).map(window).boxed()
}

#[test]
fn a_late_record_is_dropped_once_its_window_has_closed() {
    check(tumbling_sum, "a=1@3 a=2@9 |9 a=5@4 a=7@10 |20 b=1@19 b=2@20", "a=3@9 a=7@19 b=2@29");
    // One millisecond before, nothing is late.
    check(tumbling_sum, "a=1@3 a=2@9 |8 a=5@4", "a=8@9");
}

#[test]
fn windows_without_records_yield_nothing() {
    check(tumbling_sum, "", "");
    check(tumbling_sum, "a=1@5 |1000 a=2@1001", "a=1@9 a=2@1009");
}

#[test]
fn a_late_record_goes_to_the_side_where_there_is_one() {
    let late = |all: BoxedStream<Said>| {
        let windows = all.key_by(|said| said.key.clone()).window(Tumbling::of(ms(10)));
        let (windows, late) = windows.late_output();
        let sums = windows.aggregate(Sum::of(|said: &Said| said.value)).map(window);
        sums.union(late.map(|said| (Str::from("late"), said.value))).boxed()
    };
    check(late, "a=1@3 |9 a=5@4 a=6@9 |12 b=1@10", "a=1@9 b=1@19 late=5@4 late=6@9");
}

#[test]
fn a_record_is_in_each_window_that_slides_over_it() {
    let counts = |all: BoxedStream<Said>| {
        let windows = all.key_by(|said| said.key.clone()).window(Sliding::of(ms(10), ms(5)));
        windows.aggregate(Count).map(window).boxed()
    };
    check(counts, "a=1@3 a=1@7 |8 a=1@4", "a=1@4 a=3@9 a=1@14");
    // What ended at 9 has closed: a record that is late for it counts in the window that has not.
    check(counts, "a=1@7 |8 a=1@4 |9 a=1@4 a=1@9", "a=2@9 a=2@14");
}

#[test]
fn sessions_end_where_a_key_is_silent() {
    let sums = |all: BoxedStream<Said>| {
        let sessions = all.key_by(|said| said.key.clone()).window(Session::gap(ms(5)));
        sessions.aggregate(Sum::of(|said: &Said| said.value)).map(window).boxed()
    };
    // The third record joins what were two sessions.
    check(sums, "a=1@1 a=2@9 a=4@5 |20 b=1@21", "a=7@13 b=1@25");
    check(sums, "a=1@1 a=2@9 |6 a=4@5 a=8@3", "a=1@5 a=14@13");
    // A record exactly a gap later joins a session that is still open, in whichever order the two come.
    check(sums, "a=1@1 |4 a=2@6 |5 a=4@7", "a=7@11");
    check(sums, "a=2@6 |0 a=1@1", "a=3@10");
    // The record is ahead of the watermark nevertheless where the session has just ended.
    check(sums, "a=1@1 |5 a=2@6", "a=1@5 a=2@10");
}

/// Says five milliseconds after each record how many records its key has had until then.
struct Soon(ValueState<Str, u64>);

impl Process<Str, Said> for Soon {
    type Out = (Str, u64);

    fn record(&mut self, _: Said, cx: &mut Context<'_, Str>, _: &mut impl Collector<(Str, u64)>) {
        self.0.update(cx, |count| *count += 1);
        cx.event_timer(cx.time().plus_ms(5));
    }

    fn timer(&mut self, cx: &mut Context<'_, Str>, out: &mut impl Collector<(Str, u64)>) {
        out.record(cx.time(), (cx.key().clone(), self.0.get(cx).unwrap_or_default()));
    }
}

#[test]
fn a_timer_fires_once_the_watermark_has_passed_it() {
    let soon = |all: BoxedStream<Said>| {
        let keyed = all.key_by(|said| said.key.clone());
        keyed.process(|states| Soon(states.value("count"))).boxed()
    };
    check(soon, "a=0@1 a=0@2 |6 b=0@3 a=0@9", "a=2@6 a=3@7 a=3@14 b=1@8");
}
