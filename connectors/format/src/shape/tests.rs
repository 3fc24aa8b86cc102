//! What a shape takes out of payloads, and what it says of those that do not have it.

use serde::Deserialize;
use thalweg_kernel::{Cause, Decode, DecodeError, Field, Message, Str, Timestamp};
use thalweg_testing::Random;

use super::{Extractor, Payload, READINGS_MAX, REFUSALS_MAX, Shape, Shaped, TimeUnit};
use crate::Json;

/// When messages arrive.
const NOW: i64 = 1_800_000_000_000;

fn message<'a>(payload: &'a [u8], bindings: &'a [(Str, &'a str)]) -> Message<'a> {
    Message { bindings, ..Message::new("t", payload, Timestamp::from_millis(NOW)) }
}

/// Each row as `name=value name=value`, each refusal as `!cause: reason`.
fn rows_of(shape: Shape, payload: impl AsRef<[u8]>) -> Vec<String> {
    let bindings = [(Str::from("device"), "d7")];
    let mut extractor = Extractor::new(shape);
    let mut rows = Vec::new();
    // Twice: what a message leaves behind is nothing to the next.
    for _ in 0..2 {
        rows.clear();
        extractor.extract(&message(payload.as_ref(), &bindings), |row| rows.push(shown(row)));
    }
    rows
}

fn shown(row: Result<&[(Str, Field<'_>)], DecodeError>) -> String {
    match row {
        Ok(fields) => {
            let fields: Vec<_> =
                fields.iter().map(|(name, field)| format!("{name}={field}")).collect();
            fields.join(" ")
        }
        Err(error) => format!("!{}: {}", error.cause, error.reason),
    }
}

fn json() -> Shape {
    Shape::new(Payload::Json)
}

/// The number at one path.
fn number(path: &str, payload: &str) -> String {
    rows_of(json().number("v", path).unwrap(), payload).join(" | ")
}

#[test]
fn a_path_finds_its_field_wherever_it_lies() {
    for (path, payload, row) in [
        ("a", r#"{"a":1}"#, "v=1"),
        ("a.b.c", r#"{"x":{"b":9},"a":{"b":{"c":1.5},"c":2}}"#, "v=1.5"),
        ("a[1].v", r#"{"a":[{"v":1},{"v":2},{"v":3}]}"#, "v=2"),
        ("[0][1]", "[[1,2],[3]]", "v=2"),
        ("object.\"temp.1\"", r#"{"object":{"temp.1":-4,"temp":{"1":7}}}"#, "v=-4"),
        ("io.66", r#"{"io":{"66":12345,"21":5}}"#, "v=12345"),
        ("a b.c", r#"{"a b":{"c":3}}"#, "v=3"),
        ("temp", r#"{"t\u0065mp":3}"#, "v=3"),
        ("$", "21.5", "v=21.5"),
        ("$", "\"21.5\"", "v=21.5"),
        ("$", "true", "v=1"),
        (
            "device",
            r#"{"device":3}"#,
            "!wrong_type: field `device`: expected a number, found the text \"d7\"",
        ),
        ("a.device", r#"{"a":{"device":3}}"#, "v=3"),
        ("=1", r#"{"a":0}"#, "v=1"),
    ] {
        assert_eq!(number(path, payload), row, "{path}");
    }
}

#[test]
fn what_devices_leave_around_json_is_nothing() {
    for payload in ["{\"a\":1}\0", "{\"a\":1}\r\n\0\0 \n", "\u{feff}{\"a\":1}", " {\"a\":1}  "] {
        assert_eq!(number("a", payload), "v=1", "{payload:?}");
    }
    for payload in ["", "\0", "{\"a\":1}\0{", "{\"a\":1}x"] {
        assert!(number("a", payload).starts_with("!malformed"), "{payload:?}");
    }
}

/// Goal: who reads a dead letter knows which path failed, and what stands there instead.
#[test]
fn a_refusal_names_the_path_and_what_was_found() {
    for (path, payload, refusal) in [
        (
            "ENERGY.Powr",
            r#"{"ENERGY":{"Total":3,"Power":5}}"#,
            "!missing_field: field `ENERGY.Powr`: missing: `ENERGY` has `Power`, `Total`",
        ),
        (
            "ENERGY.Power",
            r#"{"ENERGY":5}"#,
            "!missing_field: field `ENERGY.Power`: missing: `ENERGY` is the number 5, and not an object",
        ),
        ("a", r#"{"b":1}"#, "!missing_field: field `a`: missing: the message has `b`"),
        ("a", "{}", "!missing_field: field `a`: missing: the message has no fields"),
        (
            "a",
            "[1]",
            "!missing_field: field `a`: missing: the message is an array, and not an object",
        ),
        ("a[2]", r#"{"a":[1,2]}"#, "!missing_field: field `a[2]`: missing: `a` has 2 elements"),
        (
            "a[2]",
            r#"{"a":"x"}"#,
            "!missing_field: field `a[2]`: missing: `a` is the text \"x\", and not an array",
        ),
        ("a", r#"{"a":null}"#, "!wrong_type: field `a`: expected a number, found null"),
        ("a", r#"{"a":{"b":1}}"#, "!wrong_type: field `a`: expected a number, found an object"),
        ("a", r#"{"a":[1]}"#, "!wrong_type: field `a`: expected a number, found an array"),
        (
            "a",
            r#"{"a":"hot"}"#,
            "!wrong_type: field `a`: expected a number, found the text \"hot\"",
        ),
        ("a.b", r#"{"a":{"b":1,"b":2}}"#, "!malformed: field `a.b`: given twice"),
        (
            "a",
            r#"{"a":1e999}"#,
            "!not_a_number: field `a`: expected a number, found a number beyond the range of f64",
        ),
        (
            "r[].v",
            r#"{"r":{}}"#,
            "!missing_field: field `r[]`: missing: `r` is an object, and not an array",
        ),
        ("r[].v", r#"{"q":[]}"#, "!missing_field: field `r[]`: missing: the message has `q`"),
        ("r[].v", r#"{"r":[{"v":1}],"r":[{"v":2}]}"#, "!malformed: field `r`: given twice"),
    ] {
        assert_eq!(number(path, payload), refusal);
    }
    let many =
        format!("{{{}}}", (0..20).map(|n| format!("\"k{n:02}\":1")).collect::<Vec<_>>().join(","));
    assert!(number("a", &many).ends_with("`k07` and 12 more"), "{}", number("a", &many));
    assert!(number("a", r#"{"a":"#).starts_with("!malformed: field `a`: expected a value"));
}

#[test]
fn an_array_is_taken_apart_with_what_stands_around_it() {
    let shape = || {
        json()
            .text("key", "imei")
            .unwrap()
            .number("v", "records[].io.66")
            .unwrap()
            .time("at", "records[].ts")
            .unwrap()
    };
    // The name may follow the records.
    let payload = r#"{"records":[{"ts":1,"io":{"66":10}},{"io":{"66":11},"ts":2}],"imei":"356"}"#;
    assert_eq!(rows_of(shape(), payload), ["key=356 v=10 at=1", "key=356 v=11 at=2"]);
    // One that is wrong leaves the others as they are.
    let payload =
        r#"{"imei":"356","records":[{"ts":1,"io":{"66":"x"}},{"ts":2},{"io":{"66":12},"ts":3},7]}"#;
    assert_eq!(
        rows_of(shape(), payload),
        [
            "!wrong_type: field `records[0].io.66`: expected a number, found the text \"x\"",
            "!missing_field: field `records[1].io.66`: missing: `records[1]` has `ts`",
            "key=356 v=12 at=3",
            "!missing_field: field `records[3].io.66`: missing: `records[3]` is the number 7, and not an object",
        ]
    );
    assert_eq!(rows_of(shape(), r#"{"imei":"356","records":[]}"#), [""; 0]);
    assert_eq!(number("[]", "[1,\"2\",true]"), "v=1 | v=2 | v=1");
}

#[test]
fn arrays_within_arrays_and_entries_of_objects() {
    let shape = json()
        .text("key", "{site}/{plcs[].name}/{plcs[].tags[].n}")
        .unwrap()
        .number("v", "plcs[].tags[].v")
        .unwrap();
    let payload = r#"{"plcs":[{"tags":[{"n":"a","v":1},{"v":2,"n":"b"}],"name":"p"},
                      {"name":"q","tags":[{"n":"a","v":3}]},{"name":"r"}],"site":"s"}"#;
    assert_eq!(
        rows_of(shape, payload),
        [
            "!missing_field: field `plcs[2].tags[]`: missing: `plcs[2]` has `name`",
            "key=s/p/a v=1",
            "key=s/p/b v=2",
            "key=s/q/a v=3"
        ]
    );
    let shape = json().text("key", "tags.*.@name").unwrap().number("v", "tags.*.rssi").unwrap();
    let payload = r#"{"tags":{"AA:01":{"rssi":-60},"B\u0042:02":{"rssi":-70}}}"#;
    assert_eq!(rows_of(shape, payload), ["key=AA:01 v=-60", "key=BB:02 v=-70"]);
}

#[test]
fn each_measurement_is_a_row_of_its_own() {
    let shape = |skips| {
        json()
            .skips_missing(skips)
            .text("key", "device")
            .unwrap()
            .measurements("what", "v", ["sn.temp", "hum = sn.\"h=1\"", "'a.b'"])
            .unwrap()
    };
    let payload = r#"{"sn":{"temp":21.5,"h=1":"40"},"a.b":true}"#;
    let rows = ["key=d7 what=temp v=21.5", "key=d7 what=hum v=40", "key=d7 what=a.b v=1"];
    assert_eq!(rows_of(shape(false), payload), rows);
    // One that is missing is none; one that is wrong is a letter, and leaves the others as they are.
    let payload = r#"{"sn":{"temp":"hot","h=1":null},"a.b":2}"#;
    assert_eq!(
        rows_of(shape(false), payload),
        [
            "!wrong_type: field `sn.temp`: expected a number, found the text \"hot\"",
            "key=d7 what=a.b v=2"
        ]
    );
    assert_eq!(
        rows_of(shape(false), r#"{"sn":{}}"#),
        [
            "!missing_field: field `sn.temp`: missing: `sn` has no fields; nor is there any of `sn.\"h=1\"`, `\"a.b\"`"
        ]
    );
    assert_eq!(rows_of(shape(true), r#"{"sn":{}}"#), [""; 0]);
    let twice = json().measurements("n", "v", ["a.t", "b.t"]).unwrap_err();
    assert!(twice.to_string().contains("another is `t`: \"NAME = PATH\""), "{twice}");
    assert!(json().measurements("n", "v", ["[0]"]).unwrap_err().allowed.contains("NAME = PATH"));
}

#[test]
fn text_is_put_together_of_constants_levels_and_numbers() {
    for (from, row) in [
        ("device", "k=d7"),
        ("{device}", "k=d7"),
        ("plant/{model}-{id}!", "k=plant/Acurite-1234!"),
        ("id", "k=1234"),
        ("ok", "k=true"),
        ("=boiler", "k=boiler"),
        ("load", "k=0.5"),
        (
            "{nothing}",
            "!missing_field: field `nothing`: missing: the message has `id`, `load`, `model`, `ok`",
        ),
    ] {
        let payload = r#"{"model":"Acurite","id":1234,"ok":true,"load":0.5}"#;
        assert_eq!(rows_of(json().text("k", from).unwrap(), payload), [row], "{from}");
    }
    for (from, allowed) in
        [("{a", "a `}` behind"), ("{a..b}", "a key at its character 3"), ("", "a key")]
    {
        let error = json().text("k", from).unwrap_err();
        assert!(error.allowed.contains(allowed), "{error}");
    }
}

#[test]
fn a_number_that_is_missing_may_be_left_out() {
    let shape =
        || json().skips_missing(true).number("v", "a.v").unwrap().text("k", "name").unwrap();
    for payload in [r#"{"b":1}"#, r#"{"a":{}}"#, r#"{"a":{"v":null}}"#, r#"{"a":5}"#] {
        assert_eq!(rows_of(shape(), payload), [""; 0], "{payload}");
    }
    assert_eq!(rows_of(shape(), r#"{"a":{"v":1},"name":"n"}"#), ["v=1 k=n"]);
    // What is there and wrong is still refused.
    let wrong = rows_of(shape(), r#"{"a":{"v":"x"},"name":"n"}"#);
    assert!(wrong[0].starts_with("!wrong_type"), "{wrong:?}");
    let no_key = rows_of(shape(), r#"{"a":{"v":1}}"#);
    assert!(no_key[0].starts_with("!missing_field: field `name`"), "{no_key:?}");
    let array = json().skips_missing(true).number("v", "r[].v").unwrap();
    assert_eq!(rows_of(array, "{}"), [""; 0]);
}

#[test]
fn times_are_those_of_the_shape_or_of_the_arrival() {
    let time = |shape: Shape, from: &str, payload: &str| {
        rows_of(shape.time("at", from).unwrap(), payload).join("")
    };
    let seconds = || json().unit(TimeUnit::Seconds);
    assert_eq!(time(seconds(), "t", r#"{"t":1736603810.49}"#), "at=1736603810490");
    assert_eq!(time(seconds(), "t", r#"{"t":"1.7e9"}"#), "at=1700000000000");
    let zoned = seconds().zone("+02:00").unwrap();
    assert_eq!(time(zoned, "t", r#"{"t":"2023-11-15 00:13:20"}"#), "at=1700000000000");
    assert_eq!(time(json(), "arrival", "{}"), format!("at={NOW}"));
    assert_eq!(time(json(), "\"arrival\"", r#"{"arrival":5}"#), "at=5");
    let or_arrival = || json().or_arrival(true);
    for (payload, at) in [("{}", NOW), (r#"{"t":null}"#, NOW), (r#"{"t":5}"#, 5)] {
        assert_eq!(time(or_arrival(), "t", payload), format!("at={at}"));
    }
    assert!(time(or_arrival(), "t", r#"{"t":"soon"}"#).starts_with("!wrong_type"));
    assert!(time(json(), "t", "{}").starts_with("!missing_field"));
    let refused = time(json(), "t", r#"{"t":"soon"}"#);
    assert!(refused.starts_with("!wrong_type: field `t`: expected a time in ms, or as ISO 8601"));
    assert!(json().time("at", "=5").unwrap_err().allowed.contains("arrival"));
    assert!(json().zone("here").is_err());
}

#[test]
fn text_is_its_own_only_field() {
    let shape = || {
        Shape::new(Payload::Text)
            .units(["°C"])
            .on_off(true)
            .text("k", "device")
            .unwrap()
            .number("v", "$")
            .unwrap()
    };
    for (payload, row) in [
        ("21.5", "k=d7 v=21.5"),
        ("21.5 °C\n\0", "k=d7 v=21.5"),
        ("on", "k=d7 v=1"),
        (
            "unavailable",
            "!wrong_type: field `$`: expected a number, found the text \"unavailable\"",
        ),
        ("", "!wrong_type: field `$`: expected a number, found the text \"\""),
    ] {
        assert_eq!(rows_of(shape(), payload), [row], "{payload}");
    }
    assert!(Shape::new(Payload::Text).number("v", "a.b").unwrap_err().allowed.contains('$'));
    assert!(rows_of(shape(), b"\xff").concat().starts_with("!invalid_utf8"));
}

fn senml(payload: &str) -> Vec<String> {
    let shape = Shape::new(Payload::Senml).text("k", "n").unwrap().number("v", "v").unwrap();
    rows_of(shape.time("at", "t").unwrap(), payload)
}

#[test]
fn senml_records_have_their_base_values() {
    // RFC 8428, section 5.1.2 and 5.1.3, shortened.
    let payload = r#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,
        "n":"voltage","u":"V","v":120.1},{"n":"current","t":-5,"v":1.2},{"n":"current","v":1.7}]"#;
    assert_eq!(
        senml(payload),
        [
            "k=urn:dev:ow:10e2073a0108006:voltage v=120.1 at=1276020076001",
            "k=urn:dev:ow:10e2073a0108006:current v=1.2 at=1276020071001",
            "k=urn:dev:ow:10e2073a0108006:current v=1.7 at=1276020076001",
        ]
    );
    // Times count from now; a base value is added; a record may set bases alone, and a name may be whole.
    let payload = r#"[{"bn":"d/","bv":20},{"n":"t","v":1.5,"t":-10},{"n":"t","v":2},{"bn":"e","v":0,"bv":3},
        {"bv":0,"n":":on","vb":true},{"n":":l","vs":"room"}]"#;
    assert_eq!(
        senml(payload),
        [
            "k=d/t v=21.5 at=1799999990000",
            "k=d/t v=22 at=1800000000000",
            "k=e v=3 at=1800000000000",
            "k=e:on v=1 at=1800000000000",
            "!wrong_type: field `[5].v`: expected a number, found the text \"room\"",
        ]
    );
    assert_eq!(
        senml(r#"[{"bt":"x","v":1}]"#),
        ["!wrong_type: field `[0].bt`: expected a number, as SenML has it"]
    );
    assert_eq!(
        senml(r#"[{"n":"a","s":5}]"#).len(),
        1,
        "a sum alone is no value, and is said to be none"
    );
    assert_eq!(
        senml("{}"),
        ["!missing_field: field `[]`: missing: the message is an object, and not an array"]
    );
    assert_eq!(senml("[]"), [""; 0]);
}

fn influx(payload: &str) -> Vec<String> {
    let shape = Shape::new(Payload::Influx)
        .text("k", "{_measurement}/{place}")
        .unwrap()
        .number("v", "temp")
        .unwrap();
    rows_of(shape.time("at", "_time").unwrap(), payload)
}

#[test]
fn lines_of_line_protocol_are_readings() {
    let payload = "weather,place=roof,x=y temp=21.5,hum=40i 1700000000123456789\n\
                   # a comment\n\n\
                   weather,place=a\\ \\=\\,b text=\"a \\\"b\\\", c=\\\\ \n d\",temp=7u\r\n\
                   m\\ n,place=c temp=t,n=-3i 1700000000000000000\n";
    assert_eq!(
        influx(payload),
        [
            "k=weather/roof v=21.5 at=1700000000123",
            "k=weather/a =,b v=7 at=1800000000000",
            "k=m n/c v=1 at=1700000000000",
        ]
    );
}

#[test]
fn a_line_that_is_wrong_is_refused_alone() {
    for (line, refusal) in [
        (
            "w,place=a",
            "!malformed: line 2: expected a blank and fields behind the measurement and its tags",
        ),
        ("w,place temp=1", "!malformed: line 2: expected `=` behind \"place\""),
        (
            "w temp=1x",
            "!malformed: line 2: expected a number, a truth or a text in quotes, found \"1x\"",
        ),
        ("w temp=", "!malformed: line 2: expected a name or a value"),
        ("w temp=1 soon", "!malformed: line 2: expected a time behind the fields, found \"soon\""),
        ("w temp=1 1 2", "!malformed: line 2: expected the end of the line behind its time"),
        ("w temp=1,temp=2", "!malformed: line 2: \"temp\" is given twice"),
        (",a=b c=1", "!malformed: line 2: expected a name or a value"),
    ] {
        let payload = format!("w,place=a temp=1 1000000\n{line}\nw,place=b temp=2 2000000");
        let rows = influx(&payload);
        assert_eq!(rows, [refusal, "k=w/a v=1 at=1", "k=w/b v=2 at=2"], "{line}");
    }
    let other = influx("w,place=a hum=1 1000000");
    assert_eq!(other, ["!missing_field: field `temp`: missing (reading 1)"]);
    for broken in
        ["w a=\"x", "w a=\"x\\", "w a=\"é\\é", "\\", "w", "w a", "w,", "=", "\"", "w \\ü=\\"]
    {
        let rows = influx(broken);
        assert!(rows.len() == 1 && rows[0].starts_with("!malformed"), "{broken:?} {rows:?}");
    }
    assert!(Shape::new(Payload::Influx).number("v", "a.b").is_err());
}

#[test]
fn shapes_that_say_two_things_are_refused() {
    let apart = json().number("v", "a[].v").unwrap();
    let beside = apart.clone().number("w", "b[].v").unwrap_err();
    assert!(beside.allowed.contains("`b[]` beside `a[]`"), "{beside}");
    assert!(apart.clone().number("w", "a[].b[].v").is_ok());
    assert!(apart.clone().number("w", "a[0].v").is_err());
    assert!(apart.number("w", "a.*.v").is_err());
    assert!(json().whole("n", "=x").is_err() && json().number("n", "=x").is_err());
}

#[test]
fn a_message_holds_a_bounded_number_of_readings() {
    let shape = || json().number("v", "[]").unwrap();
    let of = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    assert_eq!(rows_of(shape(), of(READINGS_MAX)).len(), READINGS_MAX);
    let refused = rows_of(shape(), of(READINGS_MAX + 1));
    assert_eq!(refused, ["!too_large: the message holds more than 10000 readings"]);
    let deep = "[".repeat(100);
    assert!(rows_of(shape(), &deep).concat().starts_with("!too_deep"));
    let large = Extractor::new(shape()).payload_bytes_max(8);
    let mut rows = Vec::new();
    large.clone().extract(&message(b"[1,2,3,4,5]", &[]), |row| rows.push(shown(row)));
    assert!(rows.concat().starts_with("!too_large"), "{rows:?}");
}

/// Goal: a hostile payload makes neither a letter for each of its elements nor a look at the whole of it for each.
#[test]
fn a_message_makes_a_bounded_number_of_errors() {
    let shape = || json().number("v", "[].v").unwrap();
    let of = |bad: usize| format!("[{{\"v\":1}},{}{{\"v\":2}}]", "{\"w\":1},".repeat(bad));
    let rows = rows_of(shape(), of(REFUSALS_MAX));
    assert_eq!(rows.iter().filter(|row| row.starts_with('!')).count(), REFUSALS_MAX);
    assert!(rows[REFUSALS_MAX].ends_with("`[16]` has `w`"), "{rows:?}");
    let rows = rows_of(shape(), of(9_000));
    assert_eq!(rows.iter().filter(|row| !row.starts_with('!')).count(), 2);
    assert_eq!(rows.len(), 2 + REFUSALS_MAX + 1);
    assert_eq!(
        rows.last().unwrap(),
        "!missing_field: field `[17].v`: missing; 8983 more readings of the message are refused"
    );
    let hollow = json().number("v", "[].r[].v").unwrap();
    assert_eq!(rows_of(hollow, format!("[{}{{}}]", "{},".repeat(9_000))).len(), REFUSALS_MAX + 1);
    let lines = Shape::new(Payload::Influx).number("v", "v").unwrap();
    assert_eq!(rows_of(lines, "x\n".repeat(9_000)).len(), REFUSALS_MAX + 1);
}

/// Goal: no payload makes a panic, and each is either read or refused.
/// Method: payloads of all formats with bytes changed by chance, and texts of their words.
#[test]
fn no_payload_makes_a_panic() {
    const WORDS: [&str; 24] = [
        "{", "}", "[", "]", ":", ",", "\"a\"", "\"r\"", "\"v\"", "1.5", "\"2\"", "null", "true",
        "w", " ", "=", "\n", "\\", "\"", "é", "i", "-", "\0", "\"bn\"",
    ];
    let shapes: Vec<Shape> = [Payload::Json, Payload::Senml, Payload::Influx, Payload::Text]
        .into_iter()
        .map(|payload| {
            let paths: &[&str] = match payload {
                Payload::Json => &["a", "r[].v", "w = r[].a.*.v"],
                Payload::Senml => &["v", "u", "n"],
                Payload::Influx => &["a", "v", "_time"],
                Payload::Text => &["v = $"],
            };
            let shape = Shape::new(payload).units(["é"]).on_off(true).time("t", "arrival").unwrap();
            shape.measurements("name", "value", paths.iter().copied()).unwrap()
        })
        .collect();
    let good = [
        r#"{"a":1,"r":[{"v":"2","a":{"x":{"v":3}}}]}"#,
        r#"[{"bn":"x","bt":1e9,"v":1},{"n":"a","vb":true}]"#,
        "w,a=b v=1.5,x=\"y\" 17\nw a=2i",
    ];
    let mut random = Random::new(11);
    let mut read = 0;
    for round in 0..20_000_u32 {
        let mut payload = if round % 2 == 0 {
            good[random.below(3) as usize].as_bytes().to_vec()
        } else {
            let words = (0..random.below(30)).map(|_| WORDS[random.below(24) as usize]);
            words.collect::<String>().into_bytes()
        };
        for _ in 0..random.below(3) {
            if !payload.is_empty() {
                let place = random.below(payload.len() as u64) as usize;
                payload[place] = random.below(256) as u8;
            }
        }
        let shape = shapes[random.below(4) as usize].clone();
        Extractor::new(shape)
            .extract(&message(&payload, &[]), |row| read += usize::from(row.is_ok()));
    }
    assert!(read > 1_000, "{read}");
}

/// Goal: one bad element of a message costs no reading but its own.
#[test]
fn one_bad_element_is_refused_alone() {
    let shape = || json().number("v", "r[].v").unwrap();
    assert_eq!(
        rows_of(shape(), r#"{"r":[{"v":1},{"v":1e999},{"v":2,"v":3},{"v":4}]}"#),
        [
            "v=1",
            "!not_a_number: field `r[1].v`: expected a number, found a number beyond the range of f64",
            "!malformed: field `r[2].v`: given twice",
            "v=4",
        ]
    );
    assert_eq!(
        senml(
            r#"[{"n":"a","v":1},{"n":"b","v":2,"t":"x"},{"n":"c","v":3,"t":1e18},{"n":"d","v":4}]"#
        ),
        [
            "!wrong_type: field `[1].t`: expected a number, as SenML has it",
            "!wrong_type: field `[2].t`: expected a number, as SenML has it",
            "k=a v=1 at=1800000000000",
            "k=d v=4 at=1800000000000",
        ]
    );
    let mut positions = Vec::new();
    for payload in ["{\"v\" 1}", "\u{feff}{\"v\" 1}"] {
        let mut extractor = Extractor::new(json().number("v", "v").unwrap());
        extractor.extract(&message(payload.as_bytes(), &[]), |row| {
            positions.push(row.unwrap_err().position.unwrap());
        });
    }
    assert_eq!(positions[1], positions[0] + 3, "a position counts the bytes of the payload");
}

/// Goal: the numbers of two SIM cards are two keys, or none.
#[test]
fn a_number_that_would_become_another_is_no_text() {
    let key = |payload: &str| rows_of(json().text("k", "iccid").unwrap(), payload).concat();
    assert_eq!(key(r#"{"iccid":18446744073709551615}"#), "k=18446744073709551615");
    assert_eq!(key(r#"{"iccid":"89882110000000000001"}"#), "k=89882110000000000001");
    assert_eq!(key(r#"{"iccid":21.5}"#), "k=21.5");
    for long in ["89882110000000000001", "-89882110000000000002", "1e300"] {
        let refused = key(&format!(r#"{{"iccid":{long}}}"#));
        assert!(
            refused.starts_with("!wrong_type: field `iccid`: expected a text, or"),
            "{refused}"
        );
    }
}

#[test]
fn a_field_outside_of_the_array_tells_no_readings_apart() {
    let shape = json().text("key", "{site}/{r[].id}").unwrap().whole("n", "seq").unwrap();
    let shape = shape.number("v", "r[].v").unwrap();
    let tells = ["key", "n", "v"].map(|name| shape.tells_readings_apart(name));
    assert_eq!((tells, shape.takes_apart()), ([true, false, true], true));
    assert!(!json().number("v", "v").unwrap().takes_apart());
}
#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    key: Str,
    v: f64,
    at: i64,
    n: u64,
}

#[test]
fn rows_become_records_of_any_type() {
    let shape = json()
        .text("key", "k")
        .unwrap()
        .number("v", "r[].v")
        .unwrap()
        .time("at", "r[].t")
        .unwrap()
        .whole("n", "n")
        .unwrap();
    let mut decoder = Shaped::new(shape, Json::<Point>::new()).payload_bytes_max(100);
    let payload = br#"{"k":"a","n":"7","r":[{"v":1,"t":5},{"v":2,"t":6}]}"#;
    let mut records = Vec::new();
    decoder.decode_each(&message(payload, &[]), |record| records.push(record.unwrap()));
    let point = |v, at| Point { key: "a".into(), v, at, n: 7 };
    assert_eq!(records, [point(1.0, 5), point(2.0, 6)]);
    let several = decoder.decode(&message(payload, &[])).unwrap_err();
    assert_eq!(several.reason, "the message holds 2 readings where one is due");
    let one = br#"{"k":"a","n":7.0,"r":[{"v":1,"t":5}]}"#;
    assert_eq!(decoder.clone().decode(&message(one, &[])), Ok(point(1.0, 5)));
    let none = decoder.decode(&message(br#"{"k":"a","n":7,"r":[]}"#, &[])).unwrap_err();
    assert_eq!(none.cause, Cause::WrongType);
}
