//! Goal: what sixteen kinds of devices and gateways publish becomes readings, by the files of `deploy/devices` as they are.
//!
//! Method: a private mosquitto. For each file the real program, payloads as the kind's documentation or users show them,
//! and SIGTERM, which makes the open windows come out. Keys, counts and averages must be right, and windows where the
//! payload says the time. The page `docs/payloads.md` shows these payloads and these files.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::{PATIENCE, Program, file, run, thalweg, wait_for_acks};
use serde_json::Value;
use thalweg_mqtt::testing::Mosquitto;

/// What a kind of device sends, and what becomes of it.
struct Device {
    /// The file in `deploy/devices`.
    file: &'static str,
    /// Topic and payload.
    messages: &'static [(&'static str, &'static str)],
    /// Key, beginning of the window in seconds since 1970 (0 where it is that of the arrival), count and average.
    rows: &'static [(&'static str, u64, u64, f64)],
    /// Messages that are dead letters.
    dead_letters: usize,
}

const DEVICES: [Device; 16] = [
    Device {
        file: "tasmota-sensor",
        messages: &[(
            "tele/plug/SENSOR",
            r#"{"Time":"2024-02-24T22:20:38","ENERGY":{"TotalStartTime":"2023-01-07T11:05:12","Total":12.345,"Yesterday":0.523,"Today":0.123,"Period":4,"Power":52,"ApparentPower":60,"ReactivePower":30,"Factor":0.87,"Voltage":231,"Current":0.226},"DS18B20":{"Id":"01193A7B2C4D","Temperature":21.5},"TempUnit":"C"}"#,
        )],
        rows: &[
            ("plug/Power", 1_708_809_600, 1, 52.0),
            ("plug/Temperature", 1_708_809_600, 1, 21.5),
        ],
        dead_letters: 0,
    },
    Device {
        file: "tasmota-state",
        messages: &[(
            "tele/tasmota_9CF9D1/STATE",
            r#"{"Time":"2024-02-24T22:20:38","Uptime":"0T00:10:11","UptimeSec":611,"Heap":24,"SleepMode":"Dynamic","Sleep":50,"LoadAvg":19,"MqttCount":1,"POWER":"OFF","Wifi":{"AP":1,"SSId":"ESP-Network","BSSId":"E6:8D:8C:4B:BE:F7","Channel":3,"Mode":"11n","RSSI":44,"Signal":-78,"LinkCount":1,"Downtime":"0T00:00:05"}}"#,
        )],
        rows: &[
            ("tasmota_9CF9D1/POWER", 1_708_809_600, 1, 0.0),
            ("tasmota_9CF9D1/Signal", 1_708_809_600, 1, -78.0),
        ],
        dead_letters: 0,
    },
    Device {
        file: "shelly-gen1",
        messages: &[
            ("shellies/shelly1pm-B1E5AA/relay/0/power", "52.31"),
            ("shellies/shelly1pm-B1E5AA/relay/0/power", "50.31"),
        ],
        rows: &[("shelly1pm-B1E5AA/0", 0, 2, 51.31)],
        dead_letters: 0,
    },
    Device {
        file: "shelly-gen2",
        messages: &[
            (
                "shellyplus1pm-4417939341dc/events/rpc",
                r#"{"src":"shellyplus1pm-4417939341dc","dst":"shellyplus1pm-4417939341dc/events","method":"NotifyStatus","params":{"ts":1661517385.44,"switch:0":{"id":0,"apower":42.5,"voltage":232.1}}}"#,
            ),
            (
                "shellyplus1pm-4417939341dc/events/rpc",
                r#"{"src":"shellyplus1pm-4417939341dc","dst":"shellyplus1pm-4417939341dc/events","method":"NotifyStatus","params":{"ts":1661517391.30,"switch:0":{"id":0,"temperature":{"tC":37.67,"tF":99.81}}}}"#,
            ),
        ],
        rows: &[("shellyplus1pm-4417939341dc", 1_661_517_360, 1, 42.5)],
        dead_letters: 0,
    },
    Device {
        file: "esphome",
        messages: &[
            ("greenhouse/sensor/air_temperature/state", "21.5"),
            ("greenhouse/sensor/air_temperature/state", "22.5 °C"),
        ],
        rows: &[("greenhouse/air_temperature", 0, 2, 22.0)],
        dead_letters: 0,
    },
    Device {
        file: "zigbee2mqtt",
        messages: &[
            (
                "zigbee2mqtt/kitchen",
                r#"{"battery":100,"humidity":45.2,"linkquality":102,"last_seen":"2019-12-14T15:38:56.796Z","temperature":21.5,"voltage":3005}"#,
            ),
            (
                "zigbee2mqtt/kitchen",
                r#"{"last_seen":"2019-12-14T15:38:59.292Z","temperature":22.5,"humidity":null}"#,
            ),
        ],
        rows: &[
            ("kitchen/humidity", 1_576_337_880, 1, 45.2),
            ("kitchen/temperature", 1_576_337_880, 2, 22.0),
        ],
        dead_letters: 0,
    },
    Device {
        file: "rtl_433",
        messages: &[
            (
                "rtl_433/pi/events",
                r#"{"time" : "2023-07-15 18:11:41.005624", "protocol" : 40, "model" : "Acurite-Tower", "id" : 10327, "channel" : "A", "battery_ok" : 1, "temperature_C" : 26.500, "humidity" : 72, "mic" : "CHECKSUM"}"#,
            ),
            (
                "rtl_433/pi/events",
                r#"{"time" : "1689444711", "protocol" : 40, "model" : "Acurite-Tower", "id" : 10327, "channel" : "A", "temperature_C" : 27.500, "humidity" : 70, "mod" : "ASK", "rssi" : -0.101}"#,
            ),
        ],
        rows: &[
            ("Acurite-Tower/10327/humidity", 1_689_444_660, 2, 71.0),
            ("Acurite-Tower/10327/temperature_C", 1_689_444_660, 2, 27.0),
        ],
        dead_letters: 0,
    },
    Device {
        file: "chirpstack",
        messages: &[(
            "application/5bb92de6-49b3-49af-a366-34667f2230be/device/a8404187d187106e/event/up",
            r#"{"deduplicationId":"9ffbc7be-916a-4597-9d64-0713a3d5e030","time":"2024-06-20T08:48:38.863512+00:00","deviceInfo":{"tenantId":"52f14cd4-c6f1-4fbd-8f87-4025e1d49242","tenantName":"City","applicationId":"5bb92de6-49b3-49af-a366-34667f2230be","applicationName":"Soil","deviceProfileName":"LSE01","deviceName":"soil-7","devEui":"a8404187d187106e","tags":{}},"devAddr":"00189440","adr":true,"dr":5,"fCnt":1234,"fPort":2,"confirmed":false,"data":"DTQA4Q==","object":{"BatV":3.38,"temperature":14.25,"humidity":61.0},"rxInfo":[{"gatewayId":"0016c001f153a14c","rssi":-48,"snr":9.0}]}"#,
        )],
        rows: &[
            ("soil-7/humidity", 1_718_873_280, 1, 61.0),
            ("soil-7/temperature", 1_718_873_280, 1, 14.25),
        ],
        dead_letters: 0,
    },
    Device {
        file: "the-things-stack",
        messages: &[(
            "v3/app1@ttn/devices/dev1/up",
            r#"{"end_device_ids":{"device_id":"dev1","application_ids":{"application_id":"app1"},"dev_eui":"0004A30B001C0530","dev_addr":"00BCB929"},"correlation_ids":["as:up:01"],"received_at":"2020-02-12T15:15:46.123456789Z","uplink_message":{"session_key_id":"AXA50","f_port":1,"f_cnt":1,"frm_payload":"gkHe","decoded_payload":{"temperature":1.5,"luminosity":0.49},"rx_metadata":[{"rssi":-35,"snr":5.2}],"received_at":"2020-02-12T15:15:45.787123456Z"}}"#,
        )],
        rows: &[("dev1", 1_581_520_500, 1, 1.5)],
        dead_letters: 0,
    },
    Device {
        file: "weewx",
        messages: &[(
            "weather/loop",
            r#"{"usUnits": "16.0", "dateTime": "1614247878.0", "rainRate_mm_per_hour": "0.0", "pressure_mbar": "1013.6402446382689", "outTemp_C": "10.763443571329116", "outHumidity": "100.0", "windDir": "226.7133395738949"}"#,
        )],
        rows: &[
            ("roof/outHumidity", 1_614_247_860, 1, 100.0),
            ("roof/outTemp_C", 1_614_247_860, 1, 10.763_443_571_329_116),
        ],
        dead_letters: 0,
    },
    Device {
        file: "homeassistant-statestream",
        messages: &[
            ("homeassistant/sensor/boiler_temperature/state", "61.5"),
            ("homeassistant/binary_sensor/front_door/state", "on"),
            ("homeassistant/sensor/boiler_temperature/state", "unavailable"),
        ],
        rows: &[("binary_sensor.front_door", 0, 1, 1.0), ("sensor.boiler_temperature", 0, 1, 61.5)],
        dead_letters: 1,
    },
    Device {
        file: "teltonika",
        messages: &[(
            "teltonika/356307042441013/records",
            r#"{"imei":"356307042441013","records":[{"timestamp":"2019-06-10T10:04:46.000Z","priority":1,"gps":{"longitude":25.2570,"latitude":54.6671,"altitude":111,"angle":214,"satellites":4,"speed":52},"io":{"21":3,"66":24079,"239":1}},{"timestamp":"2019-06-10T10:06:56.000Z","priority":1,"gps":{"longitude":25.2601,"latitude":54.6690,"altitude":110,"angle":200,"satellites":5,"speed":48},"io":{"21":4,"66":24103}}]}"#,
        )],
        rows: &[
            ("356307042441013/speed", 1_560_161_040, 1, 52.0),
            ("356307042441013/speed", 1_560_161_160, 1, 48.0),
            ("356307042441013/volts", 1_560_161_040, 1, 24_079.0),
            ("356307042441013/volts", 1_560_161_160, 1, 24_103.0),
        ],
        dead_letters: 0,
    },
    Device {
        file: "ruuvi-gateway",
        messages: &[
            (
                "ruuvi/DE:AD:BE:EF:00:00/C8:25:2D:8E:9C:2C",
                r#"{"gw_mac":"DE:AD:BE:EF:00:00","rssi":-82,"aoa":[],"gwts":"1659365432","ts":"1659365222","data":"0201061BFF99040512FC5394C37C0004FFFC040CAC364200CDCBB8334C884F","coords":""}"#,
            ),
            (
                "ruuvi/DE:AD:BE:EF:00:00/C8:25:2D:8E:9C:2C",
                r#"{"gw_mac":"DE:AD:BE:EF:00:00","rssi":-80,"aoa":[],"gwts":1659365442,"ts":1659365232,"data":"0201061BFF9904","dataFormat":5,"temperature":24.3,"humidity":53.49,"pressure":100044,"coords":""}"#,
            ),
        ],
        rows: &[
            ("C8:25:2D:8E:9C:2C/humidity", 1_659_365_220, 1, 53.49),
            ("C8:25:2D:8E:9C:2C/rssi", 1_659_365_220, 2, -81.0),
            ("C8:25:2D:8E:9C:2C/temperature", 1_659_365_220, 1, 24.3),
        ],
        dead_letters: 0,
    },
    Device {
        file: "senml",
        messages: &[(
            "senml/meter",
            r#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},{"n":"current","t":-5,"v":1.2},{"n":"current","v":1.7}]"#,
        )],
        rows: &[
            ("urn:dev:ow:10e2073a0108006:current", 1_276_020_060, 2, 1.45),
            ("urn:dev:ow:10e2073a0108006:voltage", 1_276_020_060, 1, 120.1),
        ],
        dead_letters: 0,
    },
    Device {
        file: "influx",
        messages: &[(
            "telegraf/gw/cpu",
            "cpu,cpu=cpu-total,host=gw usage_idle=97.5,usage_user=1.25 1700000000000000000\n\
             mem,host=gw available=1204756480i 1700000000000000000\n\
             cpu,cpu=cpu-total,host=gw usage_idle=96.5,usage_user=1.75 1700000010000000000\n",
        )],
        rows: &[
            ("gw/cpu-total/usage_idle", 1_699_999_980, 2, 97.0),
            ("gw/cpu-total/usage_user", 1_699_999_980, 2, 1.5),
        ],
        dead_letters: 0,
    },
    Device {
        file: "plc-tags",
        messages: &[(
            "plc/line1/tags",
            r#"{"timestamp":1700000001000,"values":[{"id":"Press.Temp","v":71.5,"q":true,"t":1700000000123},{"id":"Press.Running","v":true,"q":true,"t":1700000000124},{"id":"Press.Temp","v":72.5,"q":true,"t":1700000000623}]}"#,
        )],
        rows: &[
            ("line1/Press.Running", 1_699_999_980, 1, 1.0),
            ("line1/Press.Temp", 1_699_999_980, 2, 72.0),
        ],
        dead_letters: 0,
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn toml_of(device: &Device) -> PathBuf {
    root().join("deploy/devices").join(device.file).with_extension("toml")
}

fn publish(broker: &Mosquitto, topic: &str, payload: &str) {
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &broker.port().to_string(), "-q", "1", "-t", topic, "-s"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Count and average by key and beginning of the window in seconds.
fn rows_of(out: &str) -> BTreeMap<(String, u64), (u64, f64)> {
    let rows = out.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let key = (row["key"].as_str().unwrap().to_owned(), row["start"].as_u64().unwrap() / 1_000);
        (key, (row["count"].as_u64().unwrap(), row["avg"].as_f64().unwrap()))
    });
    rows.collect()
}

#[test]
fn what_sixteen_kinds_of_devices_send_becomes_readings() {
    let Some(broker) = Mosquitto::start() else { return };
    for device in &DEVICES {
        let dir = tempfile::tempdir().unwrap();
        let letters = dir.path().join("letters.jsonl");
        let url = format!("mqtt://127.0.0.1:{}?client_id={}", broker.port(), device.file);
        let mut command = thalweg(&["run", toml_of(device).to_str().unwrap()]);
        command.env("THALWEG_SOURCE__MQTT", url).env("THALWEG_DEAD_LETTERS__PATH", &letters);
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut program = Program::start(&mut command);
        program.says("subscribed to");
        for (topic, payload) in device.messages {
            publish(&broker, topic, payload);
        }
        wait_for_acks(&broker, device.file, device.messages.len());
        program.signal("TERM");
        let outcome = program.finish();
        assert!(!outcome.err.contains("time_unit"), "{}: {}", device.file, outcome.err);
        let found = rows_of(&outcome.ok());
        assert_eq!(found.len(), device.rows.len(), "{}: {found:?}", device.file);
        let letters = fs::read_to_string(letters).unwrap_or_default();
        assert_eq!(letters.lines().count(), device.dead_letters, "{}: {letters}", device.file);
        for (key, start, count, average) in device.rows {
            let mut of_key = found.iter().filter(|((of, at), _)| {
                // An arrival is not before the program began, nor is its window by more than its length.
                of == key && (at == start || (*start == 0 && *at + 60 > begun))
            });
            let (_, (counted, averaged)) =
                of_key.next().unwrap_or_else(|| panic!("{}: no {key} in {found:?}", device.file));
            assert_eq!(counted, count, "{}: {found:?}", device.file);
            assert!((averaged - average).abs() < 1e-9, "{}: {found:?}", device.file);
        }
    }
}

/// Goal: the examples are what they promise to be, and the page shows them as they are.
#[test]
fn each_example_has_at_most_ten_lines_and_stands_on_the_page() {
    let page = fs::read_to_string(root().join("docs/payloads.md")).unwrap();
    let mut files: Vec<_> = fs::read_dir(root().join("deploy/devices"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut known: Vec<_> = DEVICES.iter().map(|device| device.file.to_owned()).collect();
    known.sort();
    assert_eq!(files, known);
    for device in &DEVICES {
        let toml = fs::read_to_string(toml_of(device)).unwrap();
        assert!(toml.lines().count() <= 10, "{}", device.file);
        assert!(
            page.contains(&format!("```toml\n{toml}```")),
            "the page lacks {}.toml as it is",
            device.file
        );
        for (topic, payload) in device.messages {
            assert!(page.contains(topic), "the page lacks the topic {topic}");
            assert!(page.contains(payload.trim_end()), "the page lacks {payload}");
        }
    }
}

const SECONDS: &str = r#"{"device": "a", "ts": 1700000000, "temp": 1}
{"device": "a", "ts": 1700000007, "temp": 1}
{"device": "a", "ts": 1700000021, "temp": 1}
{"device": "a", "ts": 1700000033, "temp": 1}
{"device": "a", "ts": 1700000600, "temp": 1}
{"device": "a", "ts": 1700004000, "temp": 1}
"#;

/// Goal: a time in seconds is never taken for milliseconds without a word, and the word is one that can be followed.
#[test]
fn a_time_in_seconds_is_told_once_and_then_right() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", SECONDS);
    let job = |fields: &str| {
        format!(
            "[source]\nfiles = ['{input}']\n[fields]\nvalue = 'temp'\n{fields}\n[window]\nsize = '10s'\n[sink.stdout]\n"
        )
    };
    let outcome = run(&["run", &file(dir.path(), "wrong.toml", job(""))]);
    let said = "WARN time field `ts`: as ms the first time is 1970-01-20T16:13:20Z; as s it is 2023-11-14T22:13:20Z: set \
                time_unit = \"s\"";
    assert_eq!(outcome.err.matches("set time_unit").count(), 1, "{}", outcome.err);
    assert!(
        outcome.err.replace("  ", " ").contains(said.trim_start_matches("WARN ")),
        "{}",
        outcome.err
    );
    assert!(outcome.err.contains("WARN"), "{}", outcome.err);
    for fields in ["time_unit = 's'", "time_unit = 'auto'"] {
        let outcome = run(&["run", &file(dir.path(), "right.toml", job(fields))]);
        assert!(!outcome.err.contains("WARN"), "{}", outcome.err);
        let rows: Vec<_> = rows_of(&outcome.ok())
            .into_iter()
            .map(|((_, start), (count, _))| (start, count))
            .collect();
        let right = [
            (1_700_000_000, 2),
            (1_700_000_020, 1),
            (1_700_000_030, 1),
            (1_700_000_600, 1),
            (1_700_004_000, 1),
        ];
        assert_eq!(rows, right, "{fields}");
    }
}

/// Readings of each message.
const READINGS: usize = 5;
/// Messages of each life of the program.
const MESSAGES: usize = 40;

/// Goal: a message that holds several readings counts with all of them, and once, across `kill -9`.
///
/// Method: readings with numbers, in a job with state that writes each result once. After each batch of messages the program is
/// killed; the last life gets a reading that closes every window.
#[test]
fn all_readings_of_a_message_count_once_across_kills() {
    let Some(broker) = Mosquitto::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (state, out) = (dir.path().join("state"), dir.path().join("out.db"));
    let job = format!(
        "name = 'batches'\n[source]\nmqtt = 'mqtt://127.0.0.1:{}?client_id=batches'\ntopics = ['b/{{device}}']\n\
         [fields]\nvalue = 'r[].v'\ntime = 'r[].t'\ntime_unit = 's'\n[deduplicate]\nfield = 'r[].n'\n\
         [window]\nsize = '10s'\nout_of_orderness = '1h'\n[state]\ndir = '{}'\ninterval = '20ms'\n\
         [sink.sqlite]\npath = '{}'\ntable = 'averages'\n",
        broker.port(),
        state.display(),
        out.display()
    );
    let job = file(dir.path(), "job.toml", job);
    let message = |number: usize| {
        let readings = (0..READINGS).map(|place| {
            let n = number * READINGS + place;
            format!("{{\"n\":{n},\"t\":{},\"v\":\"{n}\"}}", 1_700_000_000 + n)
        });
        format!("{{\"r\":[{}]}}", readings.collect::<Vec<_>>().join(","))
    };
    const LIVES: usize = 3;
    let mut acknowledged = 0;
    for life in 0..LIVES {
        let mut program = Program::start(&mut thalweg(&["run", &job]));
        program.says("subscribed to");
        for number in life * MESSAGES..(life + 1) * MESSAGES {
            publish(&broker, "b/d1", &message(number));
        }
        acknowledged += MESSAGES;
        wait_for_acks(&broker, "batches", acknowledged);
        program.signal("KILL");
        assert_eq!(program.finish().code, None);
    }
    let mut program = Program::start(&mut thalweg(&["run", &job]));
    program.says("subscribed to");
    let last = LIVES * MESSAGES * READINGS;
    publish(&broker, "b/d1", &format!("{{\"r\":[{{\"n\":{last},\"t\":1700100000,\"v\":0}}]}}"));
    let rows = || {
        let database = rusqlite::Connection::open(&out).unwrap();
        let Ok(mut select) = database.prepare("SELECT window_start, count, avg FROM averages")
        else {
            return Vec::new();
        };
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map_while(Result::ok).collect::<Vec<(i64, i64, f64)>>()
    };
    let count =
        |rows: &[(i64, i64, f64)]| rows.iter().map(|(_, count, _)| count).sum::<i64>() as usize;
    let deadline = Instant::now() + PATIENCE;
    while count(&rows()) < last {
        assert!(Instant::now() < deadline, "{} of {last}: {}", count(&rows()), program.err());
        thread::sleep(Duration::from_millis(10));
    }
    program.signal("TERM");
    program.finish().ok();
    for (start, count, average) in rows() {
        let first = start / 1_000 - 1_700_000_000;
        assert_eq!((count, average), (10, first as f64 + 4.5), "{start}");
    }
}
