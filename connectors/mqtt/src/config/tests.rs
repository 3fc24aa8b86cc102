//! Every setting, right and wrong, and what is said of the wrong ones.

use super::*;

fn parse(url: &str) -> MqttConfig {
    url.parse().unwrap_or_else(|error| panic!("{url}: {error}"))
}

#[test]
fn urls() {
    let cases: &[(&str, &dyn Fn(&MqttConfig) -> bool)] = &[
        ("mqtt://h", &|c| c.tcp_port() == 1883 && !c.tls && c.is_clean() && c.version.is_none()),
        ("mqtt://h/", &|c| c.host == "h"),
        ("mqtts://h", &|c| c.tcp_port() == 8883 && c.tls),
        ("mqtt://[::1]:1999", &|c| c.host == "[::1]" && c.tcp_port() == 1999),
        ("mqtt://127.0.0.1:1", &|c| c.to_string() == "mqtt://127.0.0.1:1"),
        ("mqtt://h?version=3.1.1", &|c| c.version == Some(Version::V311)),
        ("mqtt://h?version=5", &|c| c.version == Some(Version::V5)),
        ("mqtt://h?qos=0", &|c| c.qos == Qos::AtMostOnce),
        ("mqtt://h?qos=2", &|c| c.qos == Qos::ExactlyOnce),
        ("mqtt://h?client_id=gw-7", &|c| !c.is_clean() && c.expiry_s() == 86_400),
        ("mqtt://h?client_id=gw-7&clean_session=true", &|c| c.is_clean() && c.expiry_s() == 0),
        ("mqtt://h?client_id=g&session_expiry_s=60", &|c| c.expiry_s() == 60),
        ("mqtt://h?keep_alive_s=5", &|c| c.keep_alive() == Duration::from_secs(5)),
        ("mqtt://h?inflight=7", &|c| c.inflight == 7),
        ("mqtt://h?receive_max=8", &|c| c.inflight == 8),
        ("mqtt://h", &|c| c.durability.is_none()),
        ("mqtt://h?durability=none", &|c| c.durability == Some(Mode::None)),
        ("mqtt://h?durability=journal", &|c| c.durability == Some(Mode::Journal)),
        ("mqtt://h?durability=ack_on_checkpoint", &|c| c.durability == Some(Mode::AckOnCheckpoint)),
        ("mqtt://h", &|c| c.reconnect_max == Duration::from_secs(5) && !c.follow_redirects),
        ("mqtt://h?reconnect_max=30s", &|c| c.reconnect_max == Duration::from_secs(30)),
        ("mqtt://h?follow_redirects=true", &|c| c.follow_redirects),
        ("mqtt://h?packet_bytes_max=4096", &|c| c.packet_bytes_max == 4096),
        ("mqtt://h?status_topic=gw%2F7/status", &|c| {
            c.status_topic.as_deref() == Some("gw/7/status")
        }),
        ("mqtts://h?ca=/a/ca.pem&cert=c&key=k", &|c| {
            c.ca == Some("/a/ca.pem".into())
                && c.cert == Some("c".into())
                && c.key == Some("k".into())
        }),
        ("mqtt://u%40x:p%3A+w@h", &|c| {
            c.login_from(|_| None) == Ok(Some(("u@x".into(), Secret("p:+w".into()))))
        }),
        ("mqtt://h?user=u&password=p%26q", &|c| {
            c.login_from(|_| None) == Ok(Some(("u".into(), Secret("p&q".into()))))
        }),
        ("mqtt://u@h", &|c| c.login_from(|_| None) == Ok(Some(("u".into(), Secret("".into()))))),
        ("mqtt://u@h?password_env=PW", &|c| {
            c.login_from(|name| (name == "PW").then(|| "x".into()))
                == Ok(Some(("u".into(), Secret("x".into()))))
        }),
        ("mqtt://h", &|c| {
            c.login_from(|name| Some(format!("<{name}>")))
                == Ok(Some((
                    "<THALWEG_MQTT_USER>".into(),
                    Secret("<THALWEG_MQTT_PASSWORD>".into()),
                )))
        }),
        ("mqtt://h", &|c| c.login_from(|_| None) == Ok(None)),
        // A password in the environment alone is not a wrong setting of this broker.
        ("mqtt://h", &|c| c.login_from(|n| (n == PASSWORD_ENV).then(|| "x".into())) == Ok(None)),
    ];
    for (url, holds) in cases {
        let config = parse(url);
        assert!(holds(&config), "{url}: {config:?}");
    }
}

#[test]
fn wrong_urls_name_key_value_and_what_is_allowed() {
    let cases = [
        ("broker:1883", "url", "broker:1883", "mqtt://host"),
        ("http://h", "url", "http://h", "mqtt://host"),
        ("mqtt://", "url", "mqtt://", "mqtt://host"),
        ("mqtt://h:99999", "url", "mqtt://h:99999", "invalid port"),
        ("mqtt://h/topic", "url", "mqtt://h/topic", "no path"),
        ("mqtt://h?status_topic=a/#", "url", "mqtt://h?status_topic=a/#", "%23"),
        ("mqtt://h:0", "port", "0", "1 to 65535"),
        ("mqtt://h?version=4", "version", "4", "5 or 3.1.1"),
        ("mqtt://h?qos=3", "qos", "3", "0, 1 or 2"),
        ("mqtt://h?durability=yes", "durability", "yes", "none, ack_on_checkpoint or journal"),
        ("mqtt://h?qos", "qos", "", "0, 1 or 2"),
        ("mqtt://h?clean_session=yes", "clean_session", "yes", "true or false"),
        ("mqtt://h?clean_session=false", "clean_session", "false", "client_id"),
        ("mqtt://h?client_id=", "client_id", "", "1 to 65535 bytes"),
        ("mqtt://h?client_id=a%07", "client_id", "a\\u{7}", "without control characters"),
        ("mqtt://h?reconnect_max=10ms", "reconnect_max", "10ms", "100ms to 1h"),
        ("mqtt://h?keep_alive_s=4", "keep_alive_s", "4", "5 to 65535"),
        ("mqtt://h?keep_alive_s=-1", "keep_alive_s", "-1", "5 to 65535"),
        ("mqtt://h?inflight=0", "inflight", "0", "1 to 65535"),
        ("mqtt://h?inflight=65536", "inflight", "65536", "1 to 65535"),
        ("mqtt://h?packet_bytes_max=1", "packet_bytes_max", "1", "128 to 268435460"),
        ("mqtt://h?session_expiry_s=9", "session_expiry_s", "9", "clean_session=false"),
        ("mqtt://h?client_id=a&session_expiry_s=0", "session_expiry_s", "0", "clean_session=true"),
        (
            "mqtt://h?version=3.1.1&client_id=a&session_expiry_s=9",
            "session_expiry_s",
            "9",
            "version=5",
        ),
        ("mqtt://h?status_topic=a/%2B", "status_topic", "a/+", "wildcard"),
        ("mqtt://h?status_topic=a/%23", "status_topic", "a/#", "wildcard"),
        ("mqtt://h?ca=x", "ca", "x", "mqtts"),
        ("mqtts://h?cert=x", "key", "", "PEM file"),
        ("mqtts://h?key=x", "cert", "", "PEM file"),
        ("mqtt://h?colour=red", "colour", "", "keep_alive_s"),
        ("mqtt://u:hun/ter2@h", "url", "mqtt://***@h", "write '/' as %2F"),
        ("mqtt://u:1/2@h", "url", "mqtt://***@h", "write '/' as %2F"),
        ("mqtt://u:1#2@h", "url", "mqtt://***@h", "write '#' as %23"),
        ("mqtt://h?host=other", "host", "", "given twice"),
        ("mqtt://h?qos=1&qos=1", "qos", "", "given twice"),
        ("mqtt://h?password=x&password_env=Y", "password_env", "***", "there is password, too"),
        ("mqtt://h?client_id=%ff", "client_id", "%ff", "UTF-8"),
        ("mqtt://h?password=%ff", "password", "***", "UTF-8"),
    ];
    for (url, key, value, allowed) in cases {
        let error = url.parse::<MqttConfig>().expect_err(url);
        assert_eq!((error.key.as_str(), error.value.as_str()), (key, value), "{url}: {error}");
        assert!(error.allowed.contains(allowed), "{url}: {error}");
    }
}

#[test]
fn no_text_shows_the_password() {
    for url in ["mqtt://u:hunter2@h", "mqtt://h?user=u&password=hunter2"] {
        let config = parse(url);
        assert!(!format!("{config} {config:?}").contains("hunter2"), "{url}");
    }
    for url in [
        "mqtt://u:hunter2@h:bad",
        "mqtt://u:hun@ter2@h:bad",
        "mqtt://u:hunter2@h/path",
        "mqtt://h:bad?user=u&password=hunter2",
        "mqtt://h:bad?password=hun&ter2",
    ] {
        let text = url.parse::<MqttConfig>().expect_err(url).to_string();
        assert!(!text.contains("hun") && !text.contains("ter2"), "{url}: {text}");
    }
}

#[test]
fn a_password_file_loses_its_line_break_and_must_exist() {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), "pa ss\n").expect("write");
    let config = MqttConfig::new("h").user("u").password_file(file.path());
    assert_eq!(config.login(), Ok(Some(("u".into(), Secret("pa ss".into())))));
    let error =
        MqttConfig::new("h").user("u").password_file("/no/such").check().expect_err("absent");
    assert_eq!((error.key.as_str(), error.value.as_str()), ("password_file", "/no/such"));
    let error = MqttConfig::new("h").password_env("NO_SUCH_VARIABLE").check().expect_err("unset");
    assert_eq!(error.key, "password_env");
}

#[test]
fn a_password_needs_a_user() {
    let error = parse("mqtt://h?password=x").login_from(|_| None).expect_err("no user");
    assert_eq!((error.key.as_str(), error.value.as_str()), ("password", "***"));
}
