//! What is read of each type, and what each mistake says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Quality {
    Low,
    High,
}

crate::choices! { Quality: "0" | "low" => Quality::Low, "1" => Quality::High }

crate::options! {
    /// One option of each type.
    #[derive(Debug, PartialEq)]
    struct All: Default {
        /// Text.
        /// In two lines.
        #[example = "a"]
        text: String = String::new(),
        path: Option<PathBuf>,
        #[alias = "level"]
        quality: Quality = Quality::High,
        #[unit = "bytes"]
        #[range(16, u64::MAX)]
        size: usize = 1_024,
        #[range(1, 86_400_000)]
        wait: Duration = Duration::from_secs(1),
        #[unit = "records"]
        count: Option<u32>,
        below: i64 = 0,
        share: f64 = 0.5,
        on: bool = false,
        list: Vec<String> = vec!["a".into(), "b".into()],
        #[absent = "the variable's"]
        password: Option<Secret>,
        address: Option<SocketAddr>,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hand {
    Left,
    Right,
}

crate::choices! { Hand: "left" => Hand::Left, "right" => Hand::Right }

crate::options! {
    #[derive(Debug, PartialEq)]
    struct Inner { least: i64 = 0 }
}

crate::options! {
    #[derive(Debug, PartialEq)]
    struct Outer { must: String, hand: Hand = Hand::Left, fields: Named<Inner> = Named(Vec::new()) }
}

fn line(line: usize) -> Origin {
    Origin::File { path: "job.toml".into(), line }
}

fn table(entries: &[(&str, Raw)]) -> Table {
    let mut table = Table::new("s", line(1));
    for (place, (key, raw)) in entries.iter().enumerate() {
        table.insert(key, Value { raw: raw.clone(), origin: line(place + 2) }).unwrap();
    }
    table
}

fn text(text: &str) -> Raw {
    Raw::Text(text.into())
}

fn written(text: &str) -> Raw {
    Raw::Written(text.into())
}

fn error(entries: &[(&str, Raw)]) -> String {
    <(All, Outer)>::read(&table(entries)).unwrap_err().to_string()
}

#[test]
fn what_is_not_given_has_its_default() {
    let read = All::read(&Table::default()).unwrap();
    assert_eq!(read, All::default());
    assert_eq!((read.size, read.count, read.list.len()), (1_024, None, 2));
}

#[test]
fn typed_and_written_values_mean_the_same() {
    let list = [text("x"), text("y;z")].map(|raw| Value { raw, origin: Origin::Here });
    let typed = table(&[
        ("text", text("7")),
        ("path", text("/a")),
        ("quality", Raw::Integer(0)),
        ("size", Raw::Integer(65_536)),
        ("wait", text("2m")),
        ("count", Raw::Integer(7)),
        ("below", Raw::Integer(-1)),
        ("share", Raw::Integer(2)),
        ("on", Raw::Bool(true)),
        ("list", Raw::List(list.to_vec())),
        ("password", text("p")),
        ("address", text("[::1]:80")),
    ]);
    let read = All::read(&typed).unwrap();
    assert_eq!(read.list, ["x", "y;z"]);
    let as_written = table(&[
        ("text", written("7")),
        ("path", written("/a")),
        ("level", written("low")),
        ("size", written("64KiB")),
        ("wait", written("120s")),
        ("count", written(" 7")),
        ("below", written("-1")),
        ("share", written("2")),
        ("on", written("true")),
        ("list", written("x; y")),
        ("password", written("p")),
        ("address", written("[::1]:80")),
    ]);
    let list = vec!["x".to_owned(), "y".to_owned()];
    assert_eq!(All::read(&as_written).unwrap(), All { list, ..read });
}

#[test]
fn each_mistake_says_where_it_stands_and_what_is_allowed() {
    let must = ("must", text("m"));
    for (entries, expected) in [
        (
            vec![("text", Raw::Integer(1))],
            "job.toml:2: s.text = \"1\" is not allowed; allowed: text",
        ),
        (
            vec![must.clone(), ("hand", text("rihgt"))],
            "s.hand = \"rihgt\" is not allowed; allowed: left or right; did you mean right?",
        ),
        (vec![("quality", text("hihg"))], "s.quality = \"hihg\" is not allowed; allowed: 0 or 1"),
        (
            vec![("size", Raw::Integer(-1))],
            "s.size = \"-1\" is not allowed; allowed: 16 or more bytes",
        ),
        (vec![("size", text("1MB 5"))], "allowed: 16 or more bytes"),
        (
            vec![("size", Raw::Integer(15))],
            "s.size = \"15\" is not allowed; allowed: 16 or more bytes",
        ),
        (vec![("wait", text("0s"))], "s.wait = \"0s\" is not allowed; allowed: 1ms to 1d"),
        (vec![("wait", Raw::Integer(5))], "s.wait = \"5\" is not allowed; allowed: 1ms to 1d"),
        (vec![("count", text("7"))], "allowed: a whole number, 0 or more (records)"),
        (
            vec![("below", Raw::Float(1.5))],
            "s.below = \"1.5\" is not allowed; allowed: a whole number",
        ),
        (vec![("share", written("NaN"))], "s.share = \"NaN\" is not allowed; allowed: a number"),
        (vec![("on", Raw::Integer(1))], "s.on = \"1\" is not allowed; allowed: true or false"),
        (
            vec![("list", text("a"))],
            "s.list = \"a\" is not allowed; allowed: a list: [\"a\", \"b\"]",
        ),
        (vec![("password", Raw::Integer(7))], "s.password = \"***\" is not allowed; allowed: text"),
        (vec![("address", text("here"))], "allowed: an address and a port"),
        (
            vec![("qualty", text("1"))],
            "job.toml:2: s.qualty is not known; known: text, path, quality, ",
        ),
        (vec![("qualty", text("1"))], "fields; did you mean quality?"),
        (
            vec![("quality", written("1")), ("level", written("1"))],
            "job.toml:2: s.quality = \"beside level\" is not allowed; allowed: one of them: both are quality",
        ),
        (vec![], "job.toml:1: s.must is missing; needed: text; it has no default"),
        (vec![must.clone(), ("fields", text("x"))], "allowed: a table for each name"),
        (
            vec![must.clone(), ("fields.a", text("x"))],
            "s.fields.a = \"x\" is not allowed; allowed: a table",
        ),
        (
            vec![must.clone(), ("fields.a.leest", Raw::Integer(1))],
            "job.toml:3: s.fields.a.leest is not known; known: least; did you mean least?",
        ),
        (vec![must, ("fields.a.least", text("x"))], "s.fields.a.least = \"x\" is not allowed"),
    ] {
        let error = error(&entries);
        assert!(error.contains(expected), "{entries:?}\nexpected: {expected}\ngot:      {error}");
    }
}

#[test]
fn the_table_tells_what_the_declaration_says() {
    let info = |key: &str| *All::OPTIONS.iter().find(|info| info.key == key).unwrap();
    let said = |key: &str| (info(key).allowed(), info(key).default_text());
    assert_eq!(said("size"), ("16 or more bytes".into(), Some("1KiB".into())));
    assert_eq!(said("wait"), ("1ms to 1d".into(), Some("1s".into())));
    assert_eq!(said("quality"), ("0 or 1".into(), Some("1".into())));
    assert_eq!(said("list").1, Some(r#"["a", "b"]"#.into()));
    assert_eq!(info("text").doc, [" Text.", " In two lines."]);
    assert!(matches!(info("password").fallback, Fallback::Absent("the variable's")));
    assert!(info("password").secret && !info("text").secret);
    assert!(matches!(info("path").fallback, Fallback::Absent("none")));
    assert!(matches!(Outer::OPTIONS[0].fallback, Fallback::Required));
    assert!(matches!(Outer::OPTIONS[2].kind, Kind::Named([[inner]]) if inner.key == "least"));
}

#[test]
fn no_text_shows_a_secret() {
    let read = All::read(&table(&[("password", text("hunter2"))])).unwrap();
    assert_eq!(read.password, Some(Secret("hunter2".into())));
    assert!(!format!("{read:?}").contains("hunter2"));
}

#[test]
fn what_a_program_sets_has_the_same_ranges() {
    assert_eq!(All::default().check_ranges(), Ok(()));
    let least = All { size: 16, wait: Duration::from_millis(1), ..All::default() };
    assert_eq!(least.check_ranges(), Ok(()));
    for (wrong, expected) in [
        (
            All { size: 15, ..All::default() },
            "size = \"15\" is not allowed; allowed: 16 or more bytes",
        ),
        (
            All { wait: Duration::from_micros(999), ..All::default() },
            "wait = \"999us\" is not allowed; allowed: 1ms to 1d",
        ),
    ] {
        assert_eq!(wrong.check_ranges().unwrap_err().to_string(), expected);
    }
    assert_eq!((true.magnitude(), "text".to_owned().magnitude()), (None, None));
    assert_eq!((Some(7_u32).magnitude(), None::<u32>.magnitude()), (Some(7), None));
}

#[test]
fn a_setting_is_shown_as_it_would_be_written() {
    let address: SocketAddr = "[::1]:80".parse().unwrap();
    let named = Named(vec![("a".into(), Inner { least: 1 }), ("b".into(), Inner { least: 2 })]);
    let shown = [
        Secret("hunter2".into()).show(),
        0.25.show(),
        true.show(),
        address.show(),
        Some(7_u16).show(),
        None::<u16>.show(),
        named.show(),
        vec!["a".to_owned(), "b\"".into()].show(),
    ];
    assert_eq!(shown, ["***", "0.25", "true", "[::1]:80", "7", "", "a, b", r#"["a", "b\""]"#]);
    let read = All::read(&table(&[("share", Raw::Float(0.25))])).unwrap();
    assert_eq!(read.share, 0.25);
}

#[test]
fn each_kind_has_a_name() {
    let names: Vec<_> = All::OPTIONS.iter().map(|info| info.kind.name()).collect();
    let expected =
        "text path choice integer duration integer integer number bool list of text text address";
    assert_eq!(names.join(" "), expected);
    assert_eq!((Kind::Url.name(), Kind::Named(&[]).name()), ("URL".into(), "tables".into()));
}
