//! Goal: every mistake in a configuration ends the program with code 2 and a message that names the
//! key, the value and what is allowed. The sample configuration has no mistake.
//!
//! Method: the real program on files with one mistake each, before it opens anything: `thalweg run`
//! must say the same as `thalweg graph`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Program, file, run, thalweg};

const FILES: &str = "[source]\nfiles = ['in']\n[window]\nsize = '10s'\n[sink.stdout]\n";
const MQTT: &str =
    "[source]\nmqtt = 'mqtt://h'\ntopics = ['a/{device}']\n[window]\nsize = '10s'\n[sink.stdout]\n";

#[test]
fn each_mistake_is_code_2_and_names_key_value_and_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(65_536);
    let to_topic = |topic: &str| {
        FILES.replace("stdout]", &format!("mqtt]\nurl = 'mqtt://h'\ntopic = '{topic}'"))
    };
    let cases: [(String, &[&str]); 35] = [
        ("a = [".into(), &["wrong.toml:1: ", "valid TOML"]),
        ("".into(), &["source is missing", "[source.file]"]),
        (
            FILES.replace("files", "flies"),
            &["wrong.toml:2: source.flies", "known: file, mqtt, datagen"],
        ),
        (format!("shards = 1\n{FILES}"), &["shards", "name, engine"]),
        (FILES.replace("10s", "soon"), &["window.size", "soon"]),
        (FILES.replace("10s", "1.5s"), &["window.size", "1.5s", "write 1s 500ms or 1500ms"]),
        (FILES.replace("'10s'", "10"), &["window.size", "write 10s or 10ms"]),
        (
            format!("{FILES}[state]\ndir = 's'"),
            &["name is missing; needed: a name of the job's own", "name = \"gateway\""],
        ),
        (format!("{FILES}[engine]\nspin_us = 9000000"), &["spin_us", "0 to 100000 microseconds"]),
        (
            FILES.replace("stdout]", "blackhole]\ncolour = 'red'"),
            &["wrong.toml:6: sink.blackhole.colour is not known: there is nothing to set there"],
        ),
        (
            MQTT.replace(
                "[source]\nmqtt = 'mqtt://h'",
                "[source.mqtt]\nurl = 'mqtt://h?qos=1'\nqos = 2",
            ),
            &["wrong.toml:2: source.mqtt.qos is given twice"],
        ),
        (FILES.replace("10s", "0s"), &["window.size", "0s", "1ms to 366d"]),
        (FILES.replace("size", "out_of_orderness"), &["window.size", "no default"]),
        (format!("{FILES}[engine]\nshards = 0"), &["shards", "\"0\"", "1 to 128"]),
        (format!("{FILES}[engine]\nshards = 129"), &["shards", "129", "1 to 128"]),
        (format!("{FILES}[engine]\nshards = -1"), &["engine.shards", "-1", "1 to 128"]),
        (format!("{FILES}[engine]\ndriver = 'glomio'"), &["driver", "glomio", "auto, glommio"]),
        (FILES.replace("['in']", "[]"), &["wrong.toml:2: source.file.paths", "at least one file"]),
        (FILES.replace("['in']", "'in'"), &["source.file.paths", "in", "a list"]),
        (
            FILES.replace("stdout", "printer"),
            &[
                "wrong.toml:5: sink.printer",
                "file, files, stdout, mqtt, sqlite, postgres, blackhole",
            ],
        ),
        (
            FILES.replace("files", "topics = ['a']\nfiles"),
            &["source", "mqtt and file", "one source"],
        ),
        (FILES.replace("files", "payload_bytes_max = 0\nfiles"), &["payload_bytes_max", "1 or"]),
        (to_topic("out/#"), &["sink.mqtt.topic", "out/#", "without wildcards"]),
        (to_topic(""), &["sink.mqtt.topic", "\"\"", "1 to 65535 bytes"]),
        (to_topic("out/{kee}"), &["sink.mqtt.topic", "out/{kee}", "{key}, {start}"]),
        (to_topic("a").replace("//h", "//h?qos=3"), &["sink.mqtt.qos", "0, 1 or 2"]),
        (MQTT.replace("mqtt://h", "h"), &["source.mqtt", "\"h\"", "mqtt://host[:port]"]),
        (MQTT.replace("mqtt://h", "mqtt://h?qos=3"), &["source.mqtt", "qos", "3", "0, 1 or 2"]),
        (MQTT.replace("mqtt://h", "mqtt://h?qos=1&quos=1"), &["source.mqtt", "quos", "version"]),
        (MQTT.replace("mqtt://h", "mqtt://h:70000"), &["source.mqtt", "70000", "port"]),
        (MQTT.replace("a/{device}", "a/#/b"), &["source", "topic", "a/#/b", "last level"]),
        (MQTT.replace("a/{device}", "a/b+"), &["topic", "a/b+", "level 2"]),
        (MQTT.replace("a/{device}", &long), &["topic", "1 to 65535 bytes"]),
        (MQTT.replace("topics = ['a/{device}']", ""), &["source.mqtt.topics is missing", "a list"]),
        (
            MQTT.replace("mqtt://h'", "mqtt://me:secret@h'\nfiles = ['in']"),
            &["source", "mqtt and file", "one source"],
        ),
    ];
    for (toml, expected) in cases {
        let path = file(dir.path(), "wrong.toml", &toml);
        let err = run(&["graph", &path]).failed(2);
        for part in expected {
            assert!(err.contains(part), "{toml}\nlacks {part:?}:\n{err}");
        }
        let said = [
            "is not allowed; allowed: ",
            "is not known; known: ",
            "is not known: there is nothing to set there",
            "is missing; needed: ",
            "is given twice",
        ];
        assert!(said.iter().any(|said| err.contains(said)) && !err.contains("secret"), "{err}");
        assert_eq!(run(&["run", &path]).failed(2), err);
    }
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let binary = file(dir.path(), "binary.toml", b"\xff\xfe\x00");
    let missing = dir.path().join("missing.toml").to_str().unwrap().to_owned();
    let folder = dir.path().to_str().unwrap().to_owned();
    for path in [&binary, &missing, &folder] {
        let err = run(&["run", path]).failed(2);
        assert!(err.contains("FILE") && err.contains(path.as_str()), "{err}");
    }
}

#[test]
fn variables_override_and_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "good.toml", FILES);
    let graph = |name: &str, value: &str| {
        Program::start(thalweg(&["graph", &path]).env(name, value)).finish()
    };
    let text = graph("THALWEG_WINDOW__SIZE", "7s").ok();
    assert!(text.contains("Tumbling window of 7s"), "{text}");
    let text = graph("THALWEG_ENGINE__SHARDS", "5").ok();
    assert!(text.contains("5 shards"), "{text}");
    let err = graph("THALWEG_ENGINE__SHARDS", "0").failed(2);
    assert!(err.contains("shards") && err.contains("1 to 128"), "{err}");
    let err = graph("THALWEG_ENGINE__SHARDS", "two").failed(2);
    assert!(err.contains("engine.shards = \"two\"") && err.contains("THALWEG_"), "{err}");
    let err = graph("THALWEG_ENGIN__SHARDS", "2").failed(2);
    assert!(err.contains("engin is not known") && err.contains("name, engine"), "{err}");
    // Credentials are for the broker, not for the file.
    graph("THALWEG_MQTT_PASSWORD", "secret").ok();
}

#[test]
fn the_sample_configuration_is_right_and_its_defaults_are_the_defaults() {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/gateway.toml");
    let graph = run(&["graph", sample]).ok();
    assert!(graph.contains("Tumbling window of 10s") && graph.contains("mqtt://"), "{graph}");

    // What is commented out must be right, too: keys one by one, sections whole.
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(sample).unwrap();
    let (mut tried, mut section) = (0, None::<String>);
    let mut try_it = |toml: &str| {
        run(&["graph", &file(dir.path(), "one.toml", toml)]).ok();
        tried += 1;
    };
    for line in text.lines().chain([""]) {
        let commented = line.strip_prefix("# ").filter(|line| {
            line.starts_with('[')
                || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
        });
        match (&mut section, commented) {
            (Some(keys), Some(line)) if !line.starts_with('[') => *keys += &format!("{line}\n"),
            (None, Some(line)) if !line.starts_with('[') => {
                let (key, _) = line.split_once(" = ").unwrap();
                // A key that is set is not set twice.
                if !text.contains(&format!("\n{key} = ")) {
                    try_it(&text.replace(&format!("\n# {line}"), &format!("\n{line}")));
                }
            }
            (section, commented) => {
                if let Some(mut whole) = section.take() {
                    let mut text = text.clone();
                    // There is one source; and the sink is tried alone.
                    for kind in ["source", "sink"] {
                        if whole.starts_with(&format!("[{kind}.")) {
                            let set = text.find(&format!("[{kind}.mqtt]")).unwrap();
                            let end = set + text[set..].find("\n\n").unwrap();
                            text.replace_range(set..end, "");
                        }
                    }
                    whole.insert_str(0, &format!("{text}\n"));
                    try_it(&whole);
                }
                *section = commented.map(|line| format!("{line}\n"));
            }
        }
    }
    assert!(tried > 15, "{tried}");
}
