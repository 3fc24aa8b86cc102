//! Functions of the user's that fail: what becomes of their records, of what they left behind, and of the job.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{build, metric, refusal};
use thalweg_flow::*;
use thalweg_kernel::{
    Cause, Collector, ConnectorError, DeadLetter, Key, Str, Timestamp, message_of_panic,
};

/// What came of a job.
struct Came {
    out: Vec<String>,
    letters: Vec<DeadLetter>,
    errors: i64,
    ended: Result<(), ConnectorError>,
}

fn numbers(flow: &Flow, count: u64) -> Stream<impl Chain<Out = u64> + use<>> {
    let by_value = Watermarks::monotonous().timestamps(|&n: &u64| n as i64);
    flow.source(Collection::new((0..count).collect::<Vec<_>>()), by_value.without_clock_guard())
}

/// Runs a job on this number of shards to its end, or to its failure.
fn run_on<C: Chain<Out = String>>(shards: usize, job: impl Fn(&Flow) -> Stream<C>) -> Came {
    let (out, letters) = (Collected::new(), Collected::new());
    let (sink, letters_sink) = (out.sink(), letters.sink());
    let described = |flow: &Flow| {
        flow.dead_letters().sink(letters_sink.clone());
        job(flow).sink(sink.clone());
    };
    let mut shards = build(shards, Tuning::default(), &described);
    let now = Now { wall: Timestamp::from(1_000_000), ..Now::default() };
    let mut done = vec![false; shards.len()];
    let mut step_all = || {
        for (shard, done) in shards.iter_mut().zip(&mut done) {
            if !*done {
                *done = shard.step(now)? == Step::Done;
            }
        }
        Ok(done.iter().all(|&done| done))
    };
    let ended = loop {
        match step_all() {
            Ok(true) => break Ok(()),
            Ok(false) => {}
            Err(error) => break Err(error),
        }
    };
    let errors = metric(&shards, "numFunctionErrors");
    Came { out: out.take(), letters: letters.take(), errors, ended }
}

fn run<C: Chain<Out = String>>(job: impl Fn(&Flow) -> Stream<C>) -> Came {
    run_on(1, job)
}

/// Of 0 to 9 without those that are thrown out.
fn without(out: &[u64]) -> Vec<String> {
    (0..10).filter(|n| !out.contains(n)).map(|n| n.to_string()).collect()
}

/// Fails for two numbers, in both ways.
fn fussy(n: u64) -> Result<u64, String> {
    assert_ne!(n, 3, "three is not to be had");
    if n == 7 { Err("seven is no good".into()) } else { Ok(n) }
}

/// Goal: after a failure that is skipped, by an error or a panic, a function gets the very next record, whatever operator calls
/// it.
#[test]
fn those_that_fail_are_skipped_and_no_others() {
    fn check(what: &str, came: Came) {
        assert_eq!(came.out, without(&[3, 7]), "{what}");
        assert_eq!((came.errors, came.letters.len(), came.ended.is_ok()), (2, 0, true), "{what}");
    }
    let skip = OnError::Skip;
    check("map", run(|f| numbers(f, 10).try_map(fussy).on_error(skip).map(|n| n.to_string())));
    check("filter", {
        let fussy = |n: &u64| fussy(*n).map(|_| true);
        run(move |f| numbers(f, 10).try_filter(fussy).on_error(skip).map(|n| n.to_string()))
    });
    check("flat map", {
        let fussy = |n| fussy(n).map(Some);
        run(move |f| numbers(f, 10).try_flat_map(fussy).on_error(skip).map(|n| n.to_string()))
    });
    check("inspect", {
        let fussy = |_, n: &u64| assert!(fussy(*n).is_ok());
        run(move |f| numbers(f, 10).inspect(fussy).on_error(skip).map(|n| n.to_string()))
    });
    check("side output", {
        run(|flow| {
            let fussy = |n, _: &mut Side<'_, u64>| Some(fussy(n).unwrap());
            let (main, side) = numbers(flow, 10).side_output(fussy);
            side.discard();
            main.on_error(skip).map(|n| n.to_string())
        })
    });
}

/// Goal: a panic in the middle of an iterator leaves what it has yielded, and takes the rest of its record.
#[test]
fn what_an_iterator_has_yielded_stays() {
    let came = run(|flow| {
        let yields = |n: u64| (0..n).inspect(|&m| assert_ne!(m, 2, "as the test wants it"));
        numbers(flow, 5).flat_map(yields).on_error(OnError::Skip).map(|n| n.to_string())
    });
    assert_eq!(came.out, ["0", "0", "1", "0", "1", "0", "1"]);
    assert_eq!(came.errors, 2);
}

/// Counts in its state, and sets a timer, before it fails for one record; its timer fails for one key.
struct Fragile(ValueState<Str, u64>);

impl Process<Str, u64> for Fragile {
    type Out = String;

    fn record(&mut self, n: u64, cx: &mut Context<'_, Str>, out: &mut impl Collector<String>) {
        let count = self.0.update(cx, |count| {
            *count += 1;
            *count
        });
        cx.event_timer(Timestamp::from(1_000));
        if n == 4 {
            out.record(cx.time(), "half of four".into());
            panic!("four is too much");
        }
        if n == 6 {
            self.0.update(cx, |count| {
                *count += 100;
                assert_ne!(n, 6, "six, while its state is borrowed");
            });
        }
        out.record(cx.time(), format!("{n} of {} as {count}", cx.key()));
    }

    fn timer(&mut self, cx: &mut Context<'_, Str>, out: &mut impl Collector<String>) {
        assert_ne!(cx.key().as_str(), "odd", "no timers of odd ones");
        out.record(cx.time(), format!("{} ends at {:?}", cx.key(), self.0.get(cx)));
    }
}

fn fragile(flow: &Flow, policy: OnError) -> Stream<impl Chain<Out = String> + use<>> {
    numbers(flow, 10)
        .key_by(|n| Str::from(if n % 2 == 0 { "even" } else { "odd" }))
        .process(|states| Fragile(states.value("count")))
        .name("Fragile")
        .on_error(policy)
}

/// Goal: what a process function has done when it fails stays as it was at that moment, also within a state that was being
/// changed. The function goes on, on any number of shards.
#[test]
fn what_a_function_has_done_until_it_fails_stays() {
    let mut expected = [
        "0 of even as 1",
        "1 of odd as 1",
        "2 of even as 2",
        "3 of odd as 2",
        "half of four",
        "5 of odd as 3",
        "7 of odd as 4",
        "8 of even as 105",
        "9 of odd as 5",
        "even ends at Some(105)",
    ];
    expected.sort_unstable();
    for shards in [1, 2, 3, 8] {
        let mut came = run_on(shards, |flow| fragile(flow, OnError::Skip));
        came.out.sort();
        assert_eq!(came.out, expected, "{shards} shards");
        assert_eq!((came.errors, came.ended.is_ok()), (3, true), "{shards} shards");
    }
}

/// Goal: a dead letter says which operator, when, which key and why, and carries the key.
#[test]
fn a_dead_letter_names_operator_time_key_and_reason() {
    let came = run(|flow| fragile(flow, OnError::DeadLetter));
    let letters: Vec<_> = came
        .letters
        .iter()
        .map(|letter| (letter.topic.as_str(), letter.cause, letter.reason.as_str()))
        .collect();
    let of = |at: u64, key: &str, message: &str| {
        format!(
            "its function panicked at event time {} of key {key:?}: {message}",
            Timestamp::from(at as i64)
        )
    };
    let reasons = [
        of(4, "even", "four is too much"),
        of(
            6,
            "even",
            "assertion `left != right` failed: six, while its state is borrowed\n  left: 6\n right: 6",
        ),
        of(
            1_000,
            "odd",
            "assertion `left != right` failed: no timers of odd ones\n  left: \"odd\"\n right: \"odd\"",
        ),
    ];
    let expected: Vec<_> =
        reasons.iter().map(|reason| ("Fragile", Cause::FunctionFailed, reason.as_str())).collect();
    assert_eq!(letters, expected);
    let mut key = Vec::new();
    Str::from("even").write_key(&mut key);
    assert_eq!(came.letters[0].payload, key);
    let came =
        run(|f| numbers(f, 10).try_map(fussy).on_error(OnError::DeadLetter).map(|n| n.to_string()));
    assert_eq!((came.out, came.letters.len(), came.errors), (without(&[3, 7]), 2, 2));
    assert_eq!(
        came.letters[1].reason,
        format!("its function failed at event time {}: seven is no good", Timestamp::from(7))
    );
}

/// Goal: without a policy an error ends the job in the user's words, and so does a panic.
#[test]
fn a_job_fails_in_the_words_of_its_function() {
    let fails = |n: u64| if n == 5 { Err("five is no good") } else { Ok(n) };
    let came = run(|f| numbers(f, 10).try_map(fails).name("Check").map(|n| n.to_string()));
    let error = came.ended.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("Check: its function failed at event time "), "{text}");
    assert!(text.contains(": five is no good; "), "{text}");
    assert!(!error.lasting, "a restart may mend it");
    let panics = || run(|flow| fragile(flow, OnError::Fail));
    let panic = catch_unwind(AssertUnwindSafe(panics)).err().unwrap();
    let text = message_of_panic(&*panic);
    assert!(text.starts_with("Fragile: its function panicked at event time "), "{text}");
    assert!(text.ends_with(" of key \"even\": four is too much"), "{text}");
}

/// Goal: a function is not blamed for what fails behind it, and cannot have it skipped.
#[test]
fn what_fails_behind_a_function_is_not_its_failure() {
    let job = |flow: &Flow| {
        fragile(flow, OnError::Skip).map(|text| {
            assert!(!text.starts_with("3 of"), "behind it");
            text
        })
    };
    let panic = catch_unwind(AssertUnwindSafe(|| run(job))).err().unwrap();
    let text = message_of_panic(&*panic);
    assert!(text.starts_with("Map: its function panicked at event time "), "{text}");
    let job = |flow: &Flow| {
        let refuse =
            |text: String| if text.starts_with("3 of") { Err("no threes") } else { Ok(text) };
        fragile(flow, OnError::Skip).try_map(refuse)
    };
    let text = run(job).ended.unwrap_err().to_string();
    assert!(text.starts_with("Map: its function failed at "), "{text}");
    // And where the one behind it skips, it is the one behind it that does.
    let came = run(|flow| job(flow).on_error(OnError::Skip));
    assert_eq!((came.errors, came.ended.is_ok()), (4, true));
}

#[test]
fn a_policy_without_a_function_is_refused() {
    let job = |flow: &Flow| {
        numbers(flow, 1).union(numbers(flow, 1)).on_error(OnError::Skip).discard();
    };
    let error = refusal(&job);
    assert!(error.contains("on_error() belongs directly behind"), "{error}");
}

/// Passes letters on, and to the side.
struct Aside(SideTag<DeadLetter>);

impl Process<NoKey, DeadLetter> for Aside {
    type Out = ();

    fn record(
        &mut self,
        letter: DeadLetter,
        cx: &mut Context<'_, NoKey>,
        _: &mut impl Collector<()>,
    ) {
        self.0.emit(cx.time(), letter);
    }
}

/// Goal: what reads a side output of the dead letters does not wait for itself, in whatever order both are described.
#[test]
fn a_side_output_of_dead_letters_comes_to_an_end() {
    let job = |flow: &Flow| {
        let (letters, tag, side) = flow.dead_letters().side_tag("aside");
        // Its reader may fail, and so write dead letters, before anybody writes to the side.
        side.try_map(|letter: DeadLetter| if false { Err("no") } else { Ok(letter) })
            .on_error(OnError::DeadLetter)
            .discard();
        letters.process(|_| Aside(tag)).discard();
        flow.source(Collection::new([1, 2]), Watermarks::monotonous()).discard();
    };
    common::run(1, Tuning::default(), &job);
}
