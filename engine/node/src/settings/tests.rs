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

fn read_over(toml: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
    let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let variables = written::variables(variables).map_err(|error| error.to_string())?;
    let table =
        written::toml(toml, "job.toml").map_err(|(_, what)| format!("valid TOML: {what}"))?;
    Settings::of(table, variables).map_err(|error| error.to_string())
}

fn read(toml: &str) -> Result<Settings, String> {
    read_over(toml, &[])
}

#[test]
fn defaults_fill_what_is_not_said() {
    let settings = read(GOOD).unwrap();
    assert_eq!(settings.window.size, Duration::from_secs(10));
    assert_eq!(settings.window.clock_guard, Duration::from_secs(300));
    assert!(settings.input.has_user_properties && settings.outputs[0].paths.is_empty());
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
        (GOOD.replace("10s", "0s"), r#"window.size = "0s" is not allowed; allowed: 1ms to 366d"#),
        (
            GOOD.replace("10s", "1w"),
            r#"job.toml:6: window.size = "1w" is not allowed; allowed: days or less"#,
        ),
        (GOOD.replace("10s", "1month"), "1970-01-01, a Thursday"),
        (
            GOOD.replace("\"10s\"", "5"),
            r#"job.toml:6: window.size = "5" is not allowed; allowed: 1ms to 366d; write 5s or 5ms, with its unit"#,
        ),
        (GOOD.replace("10s", "1.5s"), "1ms to 366d; write 1s 500ms or 1500ms"),
        (
            GOOD.replace("size =", "at_end = 'suspend'\nsize ="),
            r#"window.at_end = "suspend" is not allowed; allowed: finish; without [state]"#,
        ),
        (
            GOOD.replace("10s", "400days"),
            r#"window.size = "400days" is not allowed; allowed: 1ms to 366d"#,
        ),
        (format!("name = ''\n{GOOD}"), r#"name = "" is not allowed; allowed: a name for the job"#),
        (format!("{GOOD}\n[fields]\nvalue = ''"), r#"fields.value = "" is not allowed"#),
        (
            format!("{GOOD}\n[fields]\nvalue = 'a..b'"),
            r#"job.toml:10: fields.value = "a..b" is not allowed; allowed: a path with a key at its character 3, where '.' stands"#,
        ),
        (
            format!("{GOOD}\n[fields]\nvalue = 'a'\nvalues = ['b']"),
            r#"fields.value = "a" is not allowed; allowed: either `value` or `values`"#,
        ),
        (format!("{GOOD}\n[fields]\nvalues = []"), "at least one path"),
        (
            format!("{GOOD}\n[fields]\nvalues = ['a.t', 'b.t']"),
            r#"job.toml:10: fields.values = "b.t" is not allowed; allowed: a measurement with a name"#,
        ),
        (
            format!("{GOOD}\n[fields]\ntime_unit = 'seconds'"),
            r#"job.toml:10: fields.time_unit = "seconds" is not allowed; allowed: s, ms, us, ns or auto"#,
        ),
        (format!("{GOOD}\n[fields]\ntime_zone = 'Mars'"), "allowed: an offset such as"),
        (
            format!("{GOOD}\n[fields]\nformat = 'jsn'"),
            "allowed: json, text, senml or influx; did you mean json?",
        ),
        (format!("{GOOD}\n[fields]\nfromat = 'json'"), "did you mean format?"),
        (
            format!("{GOOD}\n[fields]\nkey = '{{a'"),
            r#"fields.key = "{a" is not allowed; allowed: a `}` behind each `{`"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'a['"),
            r#"job.toml:10: deduplicate.field = "a[" is not allowed; allowed: a path with"#,
        ),
        (
            format!("name = 'own'\n{GOOD}\n[state]\ndir = ''"),
            r#"state.dir = "" is not allowed; allowed: a directory"#,
        ),
        (
            GOOD.replace("size", "sise"),
            "job.toml:6: window.sise is not known; known: size, out_of_orderness, idle_after, close_after, clock_guard, clock_wait, at_end; did you mean size?",
        ),
        (
            GOOD.replace("mqtt://", "http://"),
            r#"job.toml:3: source.mqtt.url = "http://localhost" is not allowed"#,
        ),
        (
            GOOD.replace("localhost", "localhost?qos=3"),
            r#"job.toml:3: source.mqtt.qos = "3" is not allowed; allowed: 0, 1 or 2"#,
        ),
        (
            GOOD.replace("[sink.stdout]", ""),
            "sink is missing; needed: one of [sink.file], [sink.files], [sink.stdout]",
        ),
        (
            GOOD.replace("stdout", "stdot"),
            "job.toml:7: sink.stdot is not known; known: file, files, stdout",
        ),
        (GOOD.replace("stdout", "stdot"), "did you mean stdout?"),
        (
            GOOD.replace("stdout", "datagen"),
            r#"sink = "datagen" is not allowed; allowed: file, files, stdout"#,
        ),
        (
            format!("{GOOD}\n[sink.more]\npath = 'x'"),
            r#"job.toml:9: sink.more is not known; known: file, files, stdout"#,
        ),
        (
            format!("{GOOD}\n[sink.more]\nconnector = 'fiel'"),
            r#"job.toml:10: sink.more.connector = "fiel" is not allowed; allowed: one of file, files"#,
        ),
        (format!("{GOOD}\n[sink.more]\nconnector = 'fiel'"), "did you mean file?"),
        (
            format!("{GOOD}\n[sink.more]\nconnector = 'datagen'"),
            r#"sink.more.connector = "datagen" is not allowed; allowed: file, files, stdout"#,
        ),
        (
            format!("{GOOD}\n[sink.more]\nconnector = 'file'"),
            "job.toml:9: sink.more.path is missing",
        ),
        (
            format!("{GOOD}\n[[sink.file]]\npath = 'x'\n[[sink.file]]\npath = 'y'"),
            r#"a second one of the kind has a name of its own: [sink.NAME] with connector = "file""#,
        ),
        (
            format!("{GOOD}\n[sink.file]\npath = 'x'\n[sink.more]\nconnector = 'file'\npath = 'x'"),
            r#"job.toml:13: sink.more.path = "x" is not allowed; allowed: a file other than that of sink.file.path"#,
        ),
        (
            format!(
                "{GOOD}\n[sink.files]\ndir = 'x'\n[sink.more]\nconnector = 'files'\ndir = 'x/y'"
            ),
            r#"sink.more.dir = "x/y" is not allowed; allowed: a directory apart from that of sink.files.dir"#,
        ),
        (
            GOOD.replace("[sink.stdout]", "[sink]\nstdout = 'mqtt://u:hunter2@h'"),
            r#"sink.stdout = "***" is not"#,
        ),
        (format!("{GOOD}\n[restart.fixed]\ndelay = '1s'"), "restart.fixed.restarts_max is missing"),
        (format!("{GOOD}\n[restart.fixd]"), "did you mean fixed?"),
        (
            format!("{GOOD}\n[restart.never]\n[restart.rate]"),
            r#"restart = "never and rate" is not allowed"#,
        ),
        (
            format!("{GOOD}\n[engine]\nshards = 0"),
            r#"engine.shards = "0" is not allowed; allowed: 1 to 128"#,
        ),
        (
            format!("{GOOD}\n[engine]\nshards = \"two\""),
            r#"engine.shards = "two" is not allowed; allowed: 1 to 128"#,
        ),
        (
            format!("{GOOD}\n[engine]\ndriver = \"fibers\""),
            r#"engine.driver = "fibers" is not allowed; allowed: auto, glommio, threads"#,
        ),
        (
            format!("{GOOD}\n[engine]\nlatency_budget = \"2s\""),
            r#"engine.latency_budget = "2s" is not allowed"#,
        ),
        (
            GOOD.replace("mqtt =", "files = ['a']\nmqtt ="),
            r#"source = "mqtt and file" is not allowed; allowed: one source"#,
        ),
        (GOOD.replace("mqtt =", "payload_bytes_max = 0\nmqtt ="), "1 or more bytes"),
        (
            format!("sorce = 1\n{GOOD}"),
            "job.toml:1: sorce is not known; known: name, engine, source",
        ),
        (format!("{GOOD}\n[metrics]\naddress = \"here\""), r#"metrics.address = "here""#),
        (
            format!("{GOOD}\n[deduplicate]"),
            "deduplicate.field is missing; needed: either `field` or `property`",
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\nproperty = 'n'"),
            r#"deduplicate.field = "n" is not allowed; allowed: either `field` or `property`"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nproperty = 'n'")
                .replace("localhost", "localhost?version=3.1.1"),
            r#"deduplicate.property = "n" is not allowed; allowed: only with source.mqtt and version=5"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\nwindow = 0"),
            r#"deduplicate.window = "0" is not allowed; allowed: 1 to 1048576 numbers"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\nmodulus = 256\nwindow = 129"),
            r#"deduplicate.window = "129" is not allowed; allowed: 1 to 128: with modulus = 256"#,
        ),
        (
            format!(
                "{GOOD}\n[deduplicate]\nfield = 'n'\nrestarts_by_time = true\n[fields]\ntime = 'arrival'"
            ),
            r#"deduplicate.restarts_by_time = "true" is not allowed; allowed: only false where"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\n[fields]\nvalue = 'r[].v'"),
            r#"deduplicate.field = "n" is not allowed; allowed: a number that each reading has"#,
        ),
        (
            format!("{GOOD}\n[deduplicate]\nfield = 'n'\nmodulus = 1"),
            r#"deduplicate.modulus = "1" is not allowed; allowed: 2 to "#,
        ),
        (
            format!("{GOOD}\n[state]\ndir = 'd'\npending_bytes_max = 4096")
                .replace("[source]", "name = 'own'\n[source]"),
            r#"state.pending_bytes_max = "4096" is not allowed; allowed: 1048576 or more bytes"#,
        ),
        (
            format!("name = 'own'\n{GOOD}\n[state]\ndir = 'd'")
                .replace("[sink.stdout]", "[sink.files]\ndir = 'd/out'"),
            r#"sink.files.dir = "d/out" is not allowed; allowed: a directory apart from state.dir"#,
        ),
        ("window = ".to_owned(), "valid TOML"),
    ];
    for (toml, expected) in cases {
        let error = read(&toml).err().unwrap();
        assert!(error.contains(expected), "{toml}\nexpected: {expected}\ngot:      {error}");
    }
}

#[test]
fn all_sinks_that_are_named_get_results() {
    let toml = format!("{GOOD}\n[sink.blackhole]\n[sink.mine]\nconnector = 'file'\npath = 'x'");
    let settings = read(&toml).unwrap();
    let sections: Vec<_> = settings.outputs.iter().map(|output| &*output.section).collect();
    assert_eq!(sections, ["sink.blackhole", "sink.mine", "sink.stdout"]);
    // What each has stored stays its own, whichever stands first.
    let uids: Vec<_> = settings.outputs.iter().map(|output| &*output.uid).collect();
    assert_eq!(uids, sections);
    assert_eq!(read(GOOD).unwrap().outputs[0].uid, "sink");
}

#[test]
fn a_source_may_be_written_in_short_or_whole() {
    let whole = GOOD.replace("[source]", "[source.mqtt]").replace("mqtt = ", "url = ");
    let split = whole.replace("url = \"mqtt://localhost\"", "host = 'localhost'\nqos = 2");
    for toml in [GOOD, &whole, &split] {
        read(toml).unwrap();
    }
    let error =
        read(&GOOD.replace("[window]", "[source.mqtt]\nurl = 'mqtt://h'\n[window]")).err().unwrap();
    assert!(error.contains("valid TOML"), "{error}");
}

#[test]
fn a_variable_overrides_and_is_named_where_it_is_wrong() {
    let url = ("THALWEG_SOURCE__MQTT", "mqtt://other?version=3.1.1");
    assert!(!read_over(GOOD, &[url]).unwrap().input.has_user_properties);
    let url = ("THALWEG_SOURCE__MQTT__URL", "mqtt://other?version=3.1.1");
    assert!(!read_over(GOOD, &[url]).unwrap().input.has_user_properties);
    for (name, text, expected) in [
        (
            "THALWEG_SOURCE__MQTT__QOS",
            "3",
            "variable THALWEG_SOURCE__MQTT__QOS: source.mqtt.qos = \"3\"",
        ),
        (
            "THALWEG_ENGINE__SHARDS",
            "none",
            "variable THALWEG_ENGINE__SHARDS: engine.shards = \"none\"",
        ),
        ("THALWEG_ENGIN__SHARDS", "1", "variable THALWEG_ENGIN__SHARDS: engin is not known"),
        (
            "THALWEG_SINK__STDOUT__X",
            "1",
            "variable THALWEG_SINK__STDOUT__X: sink.stdout.x is not known",
        ),
    ] {
        let error = read_over(GOOD, &[(name, text)]).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}
