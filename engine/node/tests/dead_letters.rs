//! Goal: dead letters keep what their message had, and `thalweg dead-letters` counts them, shows them and sends them
//! again, to a broker and as lines. Two runs over a file that grows count each line once.
//!
//! Method: the real program on files, and Mosquitto where it is installed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{PATIENCE, file, run};
use serde_json::Value;
use thalweg_mqtt::testing::Mosquitto;

const GOOD: &str = r#"{"device":"a","ts":1700000000000,"temp":1}"#;

fn job(dir: &Path, rest: &str) -> String {
    let at = dir.display();
    let toml = format!(
        "name = 'case'\n[source]\nfiles = ['{at}/in.jsonl']\n[fields]\nvalue = 'temp'\n[window]\nsize = '10s'\n\
         [sink.stdout]\n[dead_letters]\npath = '{at}/dead.jsonl'\n{rest}"
    );
    file(dir, "job.toml", toml)
}

#[test]
fn letters_are_counted_shown_and_written_again_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.jsonl");
    let broken: [&[u8]; 3] =
        [br#"{"device":"a","ts":1700000000000}"#, b"{\"device\":\"\xff\",\"temp\":1}", b"no JSON"];
    let lines = [&[GOOD.as_bytes()][..], &broken[..], &[GOOD.as_bytes()][..]].concat();
    fs::write(&input, lines.join(&b'\n')).unwrap();
    let outcome = run(&["run", &job(dir.path(), "")]);
    // The log speaks of them, though they have a file.
    assert!(
        outcome.err.contains("dead letters new=") && outcome.err.contains(" line "),
        "{}",
        outcome.err
    );
    outcome.ok();
    let dead = dir.path().join("dead.jsonl").display().to_string();
    let letters: Vec<Value> = fs::read_to_string(&dead)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_lines: Vec<_> = letters.iter().map(|letter| letter["line"].as_u64().unwrap()).collect();
    assert_eq!(of_lines, [2, 3, 4]);
    assert_eq!(letters[1]["cause"], "invalid_utf8");

    let listed = run(&["dead-letters", "ls", &dead]).ok();
    assert!(listed.contains("1  missing_field") && listed.ends_with("3  in all\n"), "{listed}");
    let shown = run(&["dead-letters", "cat", &dead, "--cause", "malformed"]).ok();
    assert!(shown.contains("line 4: ") && shown.ends_with("    no JSON\n"), "{shown}");
    assert_eq!(run(&["dead-letters", "cat", &dead, "--limit", "1"]).ok().lines().count(), 2);
    let error = run(&["dead-letters", "ls", &dead, "--cause", "malformd"]).failed(2);
    assert!(error.contains("did you mean malformed?"), "{error}");

    let again = dir.path().join("again.jsonl").display().to_string();
    let dry = run(&["dead-letters", "replay", &dead, "--to", &again, "--dry-run"]);
    assert!(dry.err.contains("3 dead letters would be sent"), "{}", dry.err);
    assert!(!Path::new(&again).exists());
    run(&["dead-letters", "replay", &dead, "--to", &again]).ok();
    let expected = [&broken.join(&b'\n')[..], b"\n"].concat();
    assert_eq!(fs::read(&again).unwrap(), expected);
    let error = run(&["dead-letters", "replay", &dead, "--to", &dead]).failed(1);
    assert!(error.contains("name another"), "{error}");
    let error = run(&["dead-letters", "replay", &dead, "--to", "http://u:hunter2@h"]).failed(2);
    assert!(error.contains("mqtt://host") && !error.contains("hunter2"), "{error}");
}

/// The case of a last line that was half written when the job came to it.
#[test]
fn a_last_line_without_its_line_feed_is_left_for_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.jsonl");
    fs::write(&input, format!("{GOOD}\n{}", &GOOD[..27])).unwrap();
    let at = dir.path().display();
    let job = job(dir.path(), &format!("[state]\ndir = '{at}/state'\ninterval = '200ms'\n"));
    let first = run(&["run", &job]);
    assert!(first.err.contains("records=1 late=0 dead_letters=0"), "{}", first.err);
    assert!(first.err.contains("has no line feed"), "{}", first.err);
    let mut grown = fs::OpenOptions::new().append(true).open(&input).unwrap();
    writeln!(grown, "{}", &GOOD[27..]).unwrap();
    let second = run(&["run", &job]);
    assert!(second.err.contains("records=1 "), "{}", second.err);
    assert!(second.err.contains("dead_letters=0"), "{}", second.err);
}

/// Method: a file of letters as an MQTT source leaves them; Mosquitto's own client says what has come.
#[test]
fn letters_are_sent_to_a_broker_again_with_topic_bytes_and_properties() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let letter = |topic: &str, rest: &str| {
        format!(
            "{{\"topic\":\"{topic}\",\"cause\":\"malformed\",\"reason\":\"r\",\"received\":1700000000000,{rest}}}\n"
        )
    };
    let letters = [
        letter("a/b", r#""payload_bytes":2,"payload":"a\ufffd","payload_base64":"Yf8=""#),
        letter(
            "a/c",
            r#""payload_bytes":2,"payload":"xy","properties":[["seq","7"],["seq","8"]],"retained":true"#,
        ),
        letter("a/d", r#""payload_bytes":9,"payload":"cut""#),
        letter("a/#", r#""payload_bytes":2,"payload":"xy""#),
        letter("in.jsonl", r#""line":3,"payload_bytes":2,"payload":"xy""#),
    ];
    let dead = file(dir.path(), "dead.jsonl", letters.concat());
    let port = broker.port().to_string();
    let subscriber = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "5", "-q", "1", "-t", "a/+", "-C", "2"])
        .args(["-F", "%t %x %P"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !broker.log().contains("SUBSCRIBE") {
        assert!(Instant::now() < deadline, "nobody has subscribed");
        thread::sleep(Duration::from_millis(5));
    }
    let url = format!("mqtt://127.0.0.1:{port}");
    let outcome = run(&["dead-letters", "replay", &dead, "--to", &url]);
    for part in [
        "2 dead letters sent to mqtt://",
        "1 not sent: its payload was cut",
        "name a topic with --topic-to",
        "no topic",
    ] {
        assert!(outcome.err.contains(part), "{part}: {}", outcome.err);
    }
    outcome.ok();
    let came = subscriber.wait_with_output().unwrap();
    let came = String::from_utf8(came.stdout).unwrap();
    let lines: Vec<_> = came.lines().map(str::trim_end).collect();
    assert_eq!(lines, ["a/b 61ff", "a/c 7879 seq:7 seq:8"], "{came}");
    let nobody = run(&["dead-letters", "replay", &dead, "--to", "mqtt://127.0.0.1:1"]).failed(1);
    assert!(nobody.contains("is the broker there?"), "{nobody}");
}
