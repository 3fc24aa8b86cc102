//! Against a simpler truth: a decoder that has read thousands of messages expects more of their kind. It decides
//! about each as a parser does that remembers nothing. Both give one value, or one refusal with its cause,
//! position and words.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use thalweg_kernel::{Cause, Decode, DecodeError, Message, Str, Timestamp};

use super::super::memory::{Memory, Place};
use super::super::{DEPTH_MAX, Error, Parser};
use super::model::Random;
use crate::{Json, quoted};

type Bindings<'a> = &'a [(Str, &'a str)];

/// As [`Json`] decodes, but with no memory.
fn forgetful<T: DeserializeOwned>(
    payload: &[u8],
    bindings: Bindings<'_>,
) -> Result<T, DecodeError> {
    let text = crate::payload::checked(payload, usize::MAX)?;
    let mut scratch = String::new();
    let mut parser = Parser::new(text, DEPTH_MAX, &mut scratch);
    parser.bindings = bindings;
    let value = T::deserialize(&mut parser).map_err(|error| error.or_at(parser.at));
    value.and_then(|value| parser.end().map(|()| value)).map_err(Error::into_decode_error)
}

/// Reads `messages` with one decoder; returns how many it took.
fn check<T: DeserializeOwned + Debug>(messages: &[Vec<u8>], bindings: Bindings<'_>) -> usize {
    let mut json = Json::<T>::new();
    let mut taken = 0;
    for payload in messages {
        let mut message = Message::new("t", payload, Timestamp::default());
        message.bindings = bindings;
        let ours = json.decode(&message);
        let truth = forgetful::<T>(payload, bindings);
        taken += usize::from(ours.is_ok());
        // Debug tells NaN and minus zero apart, and there is no need for PartialEq.
        let (ours, truth) = (format!("{ours:?}"), format!("{truth:?}"));
        assert_eq!(ours, truth, "{}", String::from_utf8_lossy(payload));
    }
    taken
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Plain {
    device: Str,
    ts: i64,
    temp: Option<f64>,
    #[serde(default)]
    inner: Option<Inner>,
    #[serde(default)]
    list: Vec<Inner>,
}

/// Shares names with the type around it, some of which it ignores.
#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Inner {
    #[serde(alias = "celsius")]
    temp: f64,
    status: Option<Str>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Strict {
    device: Str,
    ts: i64,
    temp: f64,
    status: Option<Kind>,
    humidity: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ok,
    Warn,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Flat {
    device: Str,
    #[serde(flatten)]
    strict: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Skipping {
    ts: IgnoredAny,
    #[serde(skip)]
    temp: f64,
    #[serde(rename = "d", alias = "device")]
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
#[allow(dead_code)]
enum Tagged {
    Ok { temp: f64 },
    Warn { device: Str },
}

#[derive(Debug, Deserialize)]
#[allow(dead_code)]
struct Quoted {
    #[serde(deserialize_with = "quoted::decimal")]
    ts: u64,
    #[serde(deserialize_with = "quoted::hex")]
    id: u64,
}

/// A source with habits: it writes keys in its own order and with its own white space, and sometimes it errs.
struct Device {
    random: Random,
    order: Vec<usize>,
    spaces: [&'static str; 3],
}

const KEYS: [&str; 9] = [
    "device",
    "ts",
    "temp",
    "humidity",
    "status",
    "inner",
    "list",
    "id",
    "a_key_too_long_to_remember_it",
];

impl Device {
    fn new(seed: u64) -> Self {
        Self { random: Random(seed), order: (0..KEYS.len()).collect(), spaces: ["", "", ""] }
    }

    fn message(&mut self) -> Vec<u8> {
        // Habits change now and then, or with every message.
        if self.random.below(12) == 0 {
            for i in 0..self.order.len() {
                let other = self.random.below(self.order.len());
                self.order.swap(i, other);
            }
        }
        if self.random.below(30) == 0 {
            let space = |random: &mut Random| random.pick(&["", "", " ", "\n\t", "  "]);
            self.spaces = std::array::from_fn(|_| space(&mut self.random));
        }
        let mut text = self.object(2);
        if self.random.below(8) == 0 {
            text.push_str(self.random.pick(&[" ", "\n", "}", ",", "{}", "x"]));
        }
        let mut bytes = text.into_bytes();
        if self.random.below(3) == 0 {
            self.random.mutilate(&mut bytes);
        }
        bytes
    }

    fn object(&mut self, depth: usize) -> String {
        let mut text = String::from("{");
        let [before, behind, comma] = self.spaces;
        let mut first = true;
        for i in self.order.clone() {
            let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][self.random.below(10)];
            for _ in 0..times {
                if !first {
                    text.push(',');
                }
                text.push_str(if first { before } else { comma });
                first = false;
                let key = KEYS[i];
                let key = match self.random.below(40) {
                    0 => format!("\\u{:04x}{}", u32::from(key.as_bytes()[0]), &key[1..]),
                    1 => format!("{key}2"),
                    2 => "celsius".to_owned(),
                    _ => key.to_owned(),
                };
                text.push_str(&format!("\"{key}\"{before}:{behind}"));
                text.push_str(&self.value(i, depth));
                text.push_str(behind);
            }
        }
        text.push('}');
        text
    }

    fn value(&mut self, key: usize, depth: usize) -> String {
        if self.random.below(25) == 0 {
            let odd =
                ["null", "true", "[]", "{\"a\":[1]}", "1e5", "-0", "\"\\n\"", "01", "\"é\"", "-7"];
            return self.random.pick(&odd).to_owned();
        }
        match key {
            0 => format!("\"d{:05}\"", self.random.below(1000)),
            1 if self.random.below(2) == 0 => {
                format!("\"{}\"", 1_700_000_000_000 + self.random.below(9999))
            }
            1 => (1_700_000_000_000 + self.random.below(99_999)).to_string(),
            2 | 3 => self.random.number(),
            4 => self.random.pick(&["\"ok\"", "\"warn\"", "\"out of order\""]).to_owned(),
            5 if depth > 0 => self.object(depth - 1),
            6 if depth > 0 => {
                let elements: Vec<_> =
                    (0..self.random.below(4)).map(|_| self.object(depth - 1)).collect();
                format!("[{}]", elements.join(","))
            }
            7 => format!("\"{:016x}\"", self.random.below(usize::MAX >> 33)),
            _ => "[1,{\"device\":2}]".to_owned(),
        }
    }
}

#[test]
fn a_memory_changes_nothing() {
    let bindings: [(Str, &str); 2] = [("ts".into(), "17"), ("unread".into(), "x")];
    for seed in 1..=2 {
        let mut device = Device::new(seed);
        let messages: Vec<_> = (0..900).map(|_| device.message()).collect();
        let taken = [
            check::<Plain>(&messages, &[]),
            check::<Plain>(&messages, &bindings),
            check::<Strict>(&messages, &[]),
            check::<Strict>(&messages, &bindings),
            check::<Flat>(&messages, &[]),
            check::<Skipping>(&messages, &[]),
            check::<Tagged>(&messages, &[]),
            check::<Quoted>(&messages, &[]),
            check::<BTreeMap<String, serde_json::Value>>(&messages, &[]),
            check::<BTreeMap<Str, IgnoredAny>>(&messages, &bindings),
            check::<IgnoredAny>(&messages, &[]),
        ];
        let all = taken.iter().sum::<usize>();
        assert!(taken[0] > 20 && taken[6] > 20 && taken[7] > 20, "{taken:?}");
        assert!(all > 1200 && all < 9_000, "{taken:?}");
    }
}

/// Goal: no byte of a message whose like was read before is taken on trust.
/// Method: change each byte of one to many others, and read it after the original.
#[test]
fn every_change_of_one_byte_is_seen_through() {
    let original = br#"{"device":"d1","ts": 17, "skipped":[1],"temp":21.5,"status":"ok"}"#;
    let mut messages = vec![original.to_vec(); 3];
    for place in 0..original.len() {
        for byte in
            (0..=255u8).filter(|byte| byte % 5 == 0 || b"\t\n\r \"\\,:{}[]019-.en/".contains(byte))
        {
            let mut changed = original.to_vec();
            changed[place] = byte;
            messages.push(changed);
            messages.push(original.to_vec());
        }
        messages.push(original[..place].to_vec());
        let mut cut = original.to_vec();
        cut.remove(place);
        messages.push(cut);
        let mut doubled = original.to_vec();
        doubled.insert(place, original[place]);
        messages.push(doubled);
    }
    assert!(check::<Plain>(&messages, &[]) > messages.len() / 2);
    check::<Quoted>(&messages, &[]);
    check::<BTreeMap<String, serde_json::Value>>(&messages, &[]);
}

#[test]
fn the_same_bytes_elsewhere_are_another_matter() {
    let plain = |text: &str| text.as_bytes().to_vec();
    let messages = [
        r#"{"device":"d","ts":1}"#,
        r#"{"device":"d","ts":1}"#,
        // A later key's text at the place of a first one, and the other way round.
        r#"{,"ts":1,"device":"d"}"#,
        r#"{"ts":1"device":"d"}"#,
        r#"{"device":"d","ts":1{"device":"d"}"#,
        // Within a string, and behind an escaped quote.
        r#"{"device":",\"ts\":1","ts":1}"#,
        r#"{"x\"device":"d","device":"d","ts":1}"#,
        r#"{"x\"device":"d","device":"d","ts":1}"#,
        // Ignored here, wanted there.
        r#"{"device":"d","ts":1,"status":"ok","inner":{"device":1,"temp":1,"status":"warn"}}"#,
        r#"{"device":"d","ts":1,"status":"ok","inner":{"device":1,"temp":1,"status":"warn"}}"#,
        r#"{"device":"d","ts":1,"status":"ok","inner":{"device":1,"temp":1,"status":7}}"#,
        r#"{"device":"d","ts":1,"status":[1,],"inner":{"device":1,"temp":1}}"#,
        r#"{"device":"d","ts":1,"celsius":2,"inner":{"celsius":1}}"#,
        r#"{"device":"d","ts":1,"celsius":2,"inner":{"celsius":1}}"#,
        r#"{"device":"d","ts":1"#,
        r#"{"device":"d","ts":1,"#,
        r#"{"device":"d","ts":"#,
    ]
    .map(plain);
    assert_eq!(check::<Plain>(&messages, &[]), 9);
}

#[test]
fn a_key_is_expected_where_it_was_and_with_its_bytes_only() {
    let gap = b", \"temp\": ";
    let mut memory = Memory::new();
    let memory_of_message = memory.begin().unwrap();
    assert!(memory_of_message.expect(gap, Place::Later).is_none());
    memory_of_message.learn(gap, (3, 7), Place::Later);
    let memory_of_message = memory.begin().unwrap();
    for text in [&b", \"temp\":"[..], b", \"tenp\": 1", b",\"temp\": 1", b", \"temp\":\t1", b""] {
        assert!(memory_of_message.expect(text, Place::Later).is_none());
    }
    assert!(memory_of_message.expect(gap, Place::First).is_none());
    let known = memory_of_message.expect(b", \"temp\": 1", Place::Later).unwrap();
    assert_eq!((known.key, known.value), ((3, 7), gap.len()));
    // Nothing is known of what follows.
    assert!(memory_of_message.expect(gap, Place::Later).is_none());
}

#[test]
fn gaps_of_every_length_are_told_apart() {
    for length in 4..=32 {
        let gap = [b"\"".repeat(length - 1), b":".to_vec()].concat();
        let mut memory = Memory::new();
        memory.begin().unwrap().learn(&gap, (1, length - 2), Place::First);
        for place in 0..length {
            let mut other = gap.clone();
            other[place] ^= 1;
            assert!(memory.begin().unwrap().expect(&other, Place::First).is_none());
        }
        assert!(memory.begin().unwrap().expect(&gap, Place::First).is_some(), "{length}");
    }
    for length in [0, 3, 33] {
        let mut memory = Memory::new();
        let gap = vec![b'"'; length];
        memory.begin().unwrap().learn(&gap, (1, 2), Place::First);
        assert!(memory.begin().unwrap().expect(&gap, Place::First).is_none());
    }
}

#[test]
fn a_source_without_habits_is_read_without_memory_for_a_while() {
    let mut memory = Memory::new();
    let mut rests = 0;
    for round in 0..1000u32 {
        let Some(memory) = memory.begin() else {
            rests += 1;
            continue;
        };
        for key in 0..5 {
            memory.learn(format!(",\"{round}_{key}\":").as_bytes(), (2, 5), Place::Later);
        }
    }
    assert!(rests > 900, "{rests}");
}

#[test]
fn a_decoder_forgets_nothing_but_the_message_after_a_refusal() {
    let mut json = Json::<Plain>::new();
    let mut decode = |text: &str| {
        json.decode(&Message::new("t", text.as_bytes(), Timestamp::default()))
            .map_err(|refused| (refused.cause, refused.position))
            .map(|plain| plain.ts)
    };
    for _ in 0..10 {
        assert_eq!(decode(r#"{"device":"d","ts":1,"temp":1.5}"#), Ok(1));
        assert_eq!(decode(r#"{"device":"d","ts":1.5}"#), Err((Cause::WrongType, Some(19))));
        assert_eq!(decode(r#"{"device":"d","ts":1,"ts":1}"#), Err((Cause::Malformed, Some(21))));
        assert_eq!(decode(r#"{"device":"d","temp":1.5}"#), Err((Cause::MissingField, Some(24))));
        assert_eq!(decode(r#"{"device":"d"#), Err((Cause::Malformed, Some(12))));
    }
}
