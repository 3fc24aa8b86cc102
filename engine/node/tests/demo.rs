//! Goal: `thalweg demo` ends well and its account balances, however it is ended and whatever broker
//! it uses; and it says clearly when it cannot.
//!
//! Method: the real program as a process, with its embedded broker and with a real mosquitto; the
//! account that it prints is read back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Outcome, Program, run, thalweg};
use thalweg_mqtt::testing::Mosquitto;

/// The account balances, line by line and in all; returns the number of messages.
#[track_caller]
fn balanced(outcome: Outcome) -> u64 {
    let out = outcome.ok();
    let mut lines = out.lines().skip_while(|line| !line.contains("arrived")).skip(1);
    let mut row = |what: &str| {
        let line = lines.next().unwrap_or_default();
        let numbers = line.trim().strip_prefix(what).unwrap_or_else(|| panic!("{what}:\n{out}"));
        let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 2, "{line}");
        (numbers[0], numbers[1])
    };
    let parts = [
        row("counted in windows"),
        row("late"),
        row("refused: clock ahead"),
        row("refused: bad payload"),
    ];
    let (sent, arrived) = row("total");
    assert_eq!(parts.iter().map(|part| part.0).sum::<u64>(), sent, "{out}");
    assert_eq!(parts.iter().map(|part| part.1).sum::<u64>(), arrived, "{out}");
    assert_eq!(sent, arrived, "{out}");
    assert_eq!(parts[3].0, parts[3].1, "every bad payload is refused: {out}");
    arrived
}

#[test]
fn help_has_examples() {
    for args in [&["--help"][..], &["demo", "--help"]] {
        let help = run(args).ok();
        assert!(help.contains("Examples:") && help.contains("thalweg demo --for 10s"), "{help}");
    }
}

#[test]
fn a_demo_for_some_seconds_balances() {
    assert!(balanced(run(&["demo", "--for", "3s"])) > 2_000);
}

#[test]
fn a_demo_on_one_shard_and_threads_balances() {
    let outcome = run(&["demo", "--driver", "threads", "--shards", "1", "--for", "3s"]);
    assert!(outcome.out.contains("1 shard on threads"), "{}", outcome.out);
    assert!(balanced(outcome) > 2_000);
}

#[test]
fn extremes_balance() {
    assert_eq!(balanced(run(&["demo", "--for", "0s", "--rate", "1"])) / 10, 0);
    assert!(balanced(run(&["demo", "--for", "2s", "--devices", "16", "--rate", "5000"])) > 1_000);
}

#[test]
fn control_c_drains_and_balances() {
    let mut demo = Program::start(&mut thalweg(&["demo"]));
    demo.says("watermark lag");
    demo.signal("INT");
    assert!(balanced(demo.finish()) > 100);
}

/// Goal: `timeout` and shells that pass Ctrl-C on send a signal twice at once; that still drains.
#[test]
fn a_signal_that_comes_twice_at_once_drains() {
    let mut demo = Program::start(&mut thalweg(&["demo"]));
    demo.says("watermark lag");
    demo.signal("TERM");
    demo.signal("INT");
    assert!(balanced(demo.finish()) > 100);
}

/// Goal: `thalweg demo | head -1` ends, and without a panic.
#[test]
fn a_demo_that_nobody_watches_ends() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let demo = thalweg(&["demo"]).stdout(writer).output().unwrap();
    let err = String::from_utf8_lossy(&demo.stderr);
    assert!(demo.status.success() && !err.contains("panicked"), "{err}");
}

#[test]
fn a_demo_through_mosquitto_balances() {
    let Some(broker) = Mosquitto::start() else { return };
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    assert!(balanced(run(&["demo", "--broker", &url, "--for", "3s"])) > 2_000);
}

#[test]
fn a_demo_without_its_broker_ends_with_a_clear_error() {
    let err = run(&["demo", "--broker", "mqtt://127.0.0.1:1", "--for", "1s"]).failed(1);
    assert!(err.contains("127.0.0.1:1") && err.contains("refused"), "{err}");
    assert!(err.contains("is the broker running?"), "{err}");
    assert!(!err.contains('\u{1b}'), "no colours in a pipe: {err}");
}

#[test]
fn wrong_options_name_themselves() {
    for (args, expected) in [
        (["--devices", "1"], r#"--devices = "1" is not allowed; allowed: 16 to 100000"#),
        (["--rate", "0"], r#"--rate = "0" is not allowed; allowed: 1 to 1000000"#),
        (["--shards", "0"], r#"shards = "0" is not allowed; allowed: 1 to 128"#),
        (["--driver", "fibers"], r#"driver = "fibers" is not allowed; allowed: auto, glommio"#),
        (["--broker", "http://x"], r#""http://x" is not allowed; allowed: mqtt://host"#),
        (["--for", "soon"], "invalid value 'soon' for '--for <TIME>'"),
    ] {
        let mut all = vec!["demo"];
        all.extend(args);
        let err = run(&all).failed(2);
        assert!(err.contains(expected), "{args:?}: {err}");
    }
}

/// Goal: the program has no need of io_uring; asked for glommio, it refuses and says what to do.
/// Method: a limit on locked memory too low for glommio stands for a container that blocks io_uring.
#[test]
fn without_io_uring_it_runs_but_not_on_glommio() {
    let demo = |more: &[&str]| {
        let program = env!("CARGO_BIN_EXE_thalweg");
        let mut command = std::process::Command::new("prlimit");
        command.args(["--memlock=65536:65536", "--", program, "demo", "--for", "1s"]).args(more);
        Program::start(&mut command).finish()
    };
    let outcome = demo(&[]);
    assert!(outcome.out.contains("on threads"), "{}", outcome.out);
    balanced(outcome);

    let err = demo(&["--driver", "glommio"]).failed(1);
    assert!(err.contains("the glommio driver is not available"), "{err}");
    assert!(err.contains("use `auto` or `threads` instead"), "{err}");
}
