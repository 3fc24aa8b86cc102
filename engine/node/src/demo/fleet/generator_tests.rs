//! The generator's promises, checked by decoding what it says.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::*;

const START_MS: u64 = 1_700_000_000_000;

fn plan() -> Plan {
    Plan {
        seed: 7,
        prefix: "plant/a".into(),
        devices: 300,
        rate: 2_000,
        start_ms: START_MS,
        out_of_order_permille: 50,
        very_late_permille: 2,
        silent_after_ms: 4_000,
    }
}

/// The messages of the first `seconds`, with the time at which each is due.
fn run(generator: &Generator, seconds: u64) -> Vec<(u64, Message)> {
    let due = generator.due(seconds * 1_000);
    let rate = u64::from(generator.plan().rate);
    (0..due).map(|n| (START_MS + n * 1_000 / rate, generator.message(n))).collect()
}

fn of(messages: &[(u64, Message)], class: Class) -> Vec<&(u64, Message)> {
    messages.iter().filter(|(_, message)| message.class == class).collect()
}

/// How far `ts` is ahead of the time at which the message was due, in ms.
fn ahead_ms(due_ms: u64, message: &Message) -> i64 {
    let value: Value = serde_json::from_slice(&message.payload).unwrap();
    value["ts"].as_i64().unwrap() - due_ms as i64
}

#[test]
fn equal_plans_speak_equal_bytes_in_any_order_of_asking() {
    let (one, other) = (Generator::new(plan()), Generator::new(plan()));
    let forwards: Vec<_> = (0..5_000).map(|n| one.message(n)).collect();
    let mut backwards: Vec<_> = (0..5_000).rev().map(|n| other.message(n)).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards);

    let reseeded = Generator::new(Plan { seed: 8, ..plan() });
    assert_ne!(reseeded.roles(), one.roles());
    let differing = (0..5_000).filter(|n| reseeded.message(*n) != forwards[*n as usize]).count();
    assert!(differing > 4_900, "{differing}");
}

#[test]
fn proper_readings_are_json_of_the_promised_shape_and_range() {
    let generator = Generator::new(plan());
    let hot = generator.roles().hot;
    for (_, message) in run(&generator, 40) {
        if !matches!(message.class, Class::OnTime | Class::OutOfOrder | Class::VeryLate) {
            continue;
        }
        let text = std::str::from_utf8(&message.payload).unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 4, "{text}");
        let temp = value["temp"].as_f64().unwrap();
        let hottest = if hot.contains(&message.device) { 90.5 } else { 32.0 };
        assert!((14.0..=hottest).contains(&temp), "{text}");
        assert!((20.0..90.0).contains(&value["humidity"].as_f64().unwrap()), "{text}");
        assert!(["ok", "warn", "error"].contains(&value["status"].as_str().unwrap()), "{text}");
        assert_eq!(value["status"] == "error", temp > 70.0, "{text}");
        // Two decimals and one, as in {"ts":1700000000123,"temp":21.53,"humidity":40.1,...}
        let decimals = |key: &str| {
            let from = text.split_once(&format!("\"{key}\":")).unwrap().1;
            from.split(',').next().unwrap().split_once('.').unwrap().1.len()
        };
        assert_eq!((decimals("temp"), decimals("humidity")), (2, 1), "{text}");
        assert_eq!(message.topic, format!("plant/a/{}/temp", device_name(message.device)));
    }
}

#[test]
fn each_class_is_what_its_name_says() {
    let messages = run(&Generator::new(plan()), 30);
    for (due_ms, message) in &messages {
        let json = serde_json::from_slice::<Value>(&message.payload);
        match message.class {
            Class::OnTime => assert_eq!(ahead_ms(*due_ms, message), 0),
            Class::OutOfOrder => {
                assert!((-2_000..=-100).contains(&ahead_ms(*due_ms, message)));
            }
            Class::VeryLate => assert_eq!(ahead_ms(*due_ms, message), -30_000),
            Class::FastClock => assert_eq!(ahead_ms(*due_ms, message), 600_000),
            Class::SlowClock => assert_eq!(ahead_ms(*due_ms, message), -180_000),
            Class::Malformed => {
                assert!(std::str::from_utf8(&message.payload).is_ok());
                assert!(json.unwrap_err().is_eof());
            }
            Class::MissingField => {
                let json = json.unwrap();
                assert!(json.get("ts").is_none() && json["temp"].is_f64());
            }
            Class::WrongType => {
                let json = json.unwrap();
                assert!(json["temp"].is_string() && json["ts"].is_u64());
            }
            Class::InvalidUtf8 => {
                assert!(std::str::from_utf8(&message.payload).is_err());
                // Whoever does not look at UTF-8 at all still finds no `ts`.
                assert!(!String::from_utf8_lossy(&message.payload).contains("\"ts\""));
            }
            Class::NotANumber => {
                let healed =
                    String::from_utf8(message.payload.clone()).unwrap().replace("NaN", "1.0");
                assert!(json.is_err() && serde_json::from_str::<Value>(&healed).is_ok());
            }
            Class::TooDeep => {
                assert!(json.unwrap_err().to_string().contains("recursion limit"));
                let depth = message.payload.iter().filter(|byte| **byte == b'[').count();
                assert!(depth > 64 && message.payload.len() < 1_000);
            }
            Class::TooLarge => {
                // Nothing but its size is wrong with it.
                assert!(json.unwrap()["temp"].is_f64() && message.payload.len() > 256 << 10);
            }
        }
    }
    for class in Class::ALL {
        assert!(!of(&messages, class).is_empty(), "no message of class {class:?}");
    }
    assert_eq!(of(&messages, Class::TooLarge).len(), 1);
}

#[test]
fn shares_are_near_what_was_asked_for() {
    let messages = run(&Generator::new(plan()), 60);
    let share = |class| of(&messages, class).len() as f64 / messages.len() as f64;
    assert!((share(Class::OutOfOrder) - 0.050).abs() < 0.005, "{}", share(Class::OutOfOrder));
    assert!((share(Class::VeryLate) - 0.002).abs() < 0.000_7, "{}", share(Class::VeryLate));
    let garbage = messages.iter().filter(|(_, m)| m.class.fate() == super::super::Fate::DeadLetter);
    // One device of 300, absent for the first of 60 seconds.
    assert!((390..=394).contains(&garbage.count()));
}

#[test]
fn wrong_clocks_and_garbage_have_one_device_each_and_no_others() {
    let generator = Generator::new(plan());
    let roles = generator.roles();
    for (_, message) in run(&generator, 30) {
        assert_eq!(message.class == Class::FastClock, message.device == roles.fast_clock);
        assert_eq!(message.class == Class::SlowClock, message.device == roles.slow_clock);
        let garbage = message.class.fate() == super::super::Fate::DeadLetter;
        assert_eq!(garbage, message.device == roles.garbage);
    }
    let mut all = roles.hot.to_vec();
    all.extend([roles.fast_clock, roles.slow_clock, roles.silent, roles.garbage]);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{roles:?}");
}

#[test]
fn the_first_second_is_flawless_and_one_device_falls_silent_at_its_time() {
    let generator = Generator::new(plan());
    let silent = generator.roles().silent;
    let messages = run(&generator, 20);
    assert!(messages[..2_000].iter().all(|(_, message)| message.class == Class::OnTime));
    let heard = |from_s: usize, to_s: usize| {
        let span = &messages[from_s * 2_000..to_s * 2_000];
        span.iter().filter(|(_, message)| message.device == silent).count()
    };
    assert!(heard(0, 4) >= 26 && heard(4, 20) == 0);
    // Everybody else is still there.
    let last = messages[36_000..].iter().map(|(_, m)| m.device).collect::<HashSet<_>>();
    assert_eq!(last.len(), 299);
}

#[test]
fn some_ten_second_averages_exceed_80_degrees_and_only_those_of_hot_devices() {
    let generator = Generator::new(plan());
    let mut windows: HashMap<(u32, u64), (f64, u32)> = HashMap::new();
    for (_, message) in run(&generator, 80) {
        if message.class == Class::OnTime {
            let value: Value = serde_json::from_slice(&message.payload).unwrap();
            let window = value["ts"].as_u64().unwrap() / 10_000;
            let (sum, count) = windows.entry((message.device, window)).or_default();
            *sum += value["temp"].as_f64().unwrap();
            *count += 1;
        }
    }
    let alarmed: HashSet<u32> = windows
        .into_iter()
        .filter(|(_, (sum, count))| sum / f64::from(*count) > 80.0)
        .map(|((device, _), _)| device)
        .collect();
    assert_eq!(alarmed, generator.roles().hot.into_iter().collect::<HashSet<_>>());
}

#[test]
fn odd_plans_work_too() {
    for (devices, rate) in [(0, 0), (16, 1), (16, 100_000), (17, 3), (5_000, 777)] {
        for seed in 0..20 {
            let generator = Generator::new(Plan { devices, rate, seed, ..plan() });
            let plan = generator.plan().clone();
            assert!(plan.devices >= DEVICES_MIN && plan.rate >= 1);
            let mut oversized = 0;
            for n in 0..2_000 {
                let message = generator.message(n);
                assert!(message.device < plan.devices);
                oversized += u32::from(message.class == Class::TooLarge);
            }
            assert!(oversized <= 1);
            assert_eq!(generator.due(1_000), u64::from(plan.rate));
        }
    }
}
