//! What is read, and what each mistake says.

use super::*;

const GOOD: &str = r#"
        [source]
        mqtt = "mqtt://localhost"
        topics = ["sensors/{device}/temp"]
        [window]
        size = "10s"
        [sink.stdout]
    "#;

fn read(toml: &str) -> Result<Settings, String> {
    Settings::from(Figment::from(Toml::string(toml))).map_err(|error| error.to_string())
}

#[test]
fn defaults_fill_what_is_not_said() {
    let settings = read(GOOD).unwrap();
    assert_eq!(settings.fields.key, "device");
    assert_eq!(settings.window.size, Duration::from_secs(10));
    assert_eq!(settings.window.clock_guard, Duration::from_secs(300));
    assert!(matches!(settings.sink, Sink::Stdout {}));
}

#[test]
fn memory_for_state_is_a_setting() {
    let toml = format!(
        "name = 'own'\n{GOOD}\n[state]\ndir = 'd'\nmemory_bytes_max = 0\npending_bytes_max = 2097152"
    );
    let tuning = read(&toml).unwrap().runtime().unwrap().tuning;
    assert_eq!((tuning.state_memory_bytes_max, tuning.state_pending_bytes_max), (0, 2_097_152));
}

#[test]
fn each_mistake_names_the_key_the_value_and_what_is_allowed() {
    let cases = [
        (GOOD.replace("10s", "soon"), r#"window.size = "soon" is not allowed; allowed: "#),
        (
            GOOD.replace("10s", "0s"),
            r#"window.size = "0s" is not allowed; allowed: 1ms to 366days"#,
        ),
        (GOOD.replace("10s", "400days"), r#"window.size = "1year 1month 4days"#),
        (format!("name = ''\n{GOOD}"), r#"name = "" is not allowed; allowed: a name for the job"#),
        (format!("{GOOD}\n[fields]\nvalue = ''"), r#"fields.value = "" is not allowed"#),
        (
            format!("name = 'own'\n{GOOD}\n[state]\ndir = ''"),
            r#"state.dir = "" is not allowed; allowed: a directory"#,
        ),
        (GOOD.replace("size", "sise"), r#"window.sise = "" is not allowed; allowed: size"#),
        (GOOD.replace("mqtt://", "http://"), r#"source.mqtt: "#),
        (
            GOOD.replace("localhost", "localhost?qos=3"),
            r#"source.mqtt: qos = "3" is not allowed; allowed: 0, 1 or 2"#,
        ),
        (GOOD.replace("[sink.stdout]", ""), r#"sink = "" is not allowed; allowed: a value"#),
        (GOOD.replace("stdout", "printer"), r#"sink"#),
        (
            format!("{GOOD}\n[engine]\nshards = 0"),
            r#"engine: shards = "0" is not allowed; allowed: 1 to 128"#,
        ),
        (
            format!("{GOOD}\n[engine]\nshards = \"two\""),
            r#"engine.shards = "two" is not allowed; allowed: a whole number"#,
        ),
        (
            format!("{GOOD}\n[engine]\ndriver = \"fibers\""),
            r#"engine: driver = "fibers" is not allowed; allowed: auto, glommio, threads"#,
        ),
        (GOOD.replace("mqtt =", "files = ['a']\nmqtt ="), "either `mqtt` or `files`, not both"),
        (GOOD.replace("mqtt =", "payload_bytes_max = 0\nmqtt ="), "1 or more bytes"),
        (format!("sorce = 1\n{GOOD}"), r#"sorce = "" is not allowed; allowed: name, engine"#),
        (format!("{GOOD}\n[metrics]\naddress = \"here\""), r#"metrics.address = "here""#),
        (format!("{GOOD}\n[deduplicate]"), r#"allowed: either `field` or `property`"#),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\nproperty = 'n'"),
            r#"deduplicate: field = "" is not allowed; allowed: either `field` or `property`"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nproperty = 'n'")
                .replace("localhost", "localhost?version=3.1.1"),
            r#"deduplicate: property = "n" is not allowed; allowed: only with source.mqtt and version=5"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\nwindow = 0"),
            r#"deduplicate: window = "0" is not allowed; allowed: 1 to 1048576 numbers"#,
        ),
        (
            format!("{GOOD}\n[state]\ndir = 'd'\npending_bytes_max = 4096")
                .replace("[source]", "name = 'own'\n[source]"),
            r#"state.pending_bytes_max = "4096" is not allowed; allowed: 1048576 or more (bytes)"#,
        ),
        (
            format!("name = 'own'\n{GOOD}\n[state]\ndir = 'd'")
                .replace("[sink.stdout]", "[sink.files]\ndir = 'd/out'"),
            r#"sink.files.dir = "d/out" is not allowed; allowed: a directory apart from state.dir"#,
        ),
        ("window = ".to_owned(), "valid TOML"),
    ];
    for (toml, expected) in cases {
        let error = read(&toml).unwrap_err();
        assert!(error.contains(expected), "{toml}\nexpected: {expected}\ngot:      {error}");
    }
}
