//! TLS against a real mosquitto, with an authority made for the test.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod common;

use std::fs;

use common::{Line, PATIENCE, Shard, Text, Writer, numbers, wait_for_log};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use thalweg_mqtt::testing::Mosquitto;
use thalweg_mqtt::{MqttConfig, MqttSink, MqttSource, Qos, Version};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        // OpenSSL takes a certificate that has its issuer's name for its own issuer.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for `name` and its key.
    fn issue(&self, name: &str, until: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        (cert.pem(), key.serialize_pem())
    }
}

/// A broker behind TLS whose certificate is for `name`; one that asks for ours, if `mutual`.
fn broker(authority: &Authority, name: &str, until: i32, mutual: bool) -> Option<Mosquitto> {
    let (cert, key) = authority.issue(name, until);
    let mut options = Mosquitto::options()
        .file("ca.pem", authority.pem())
        .file("cert.pem", cert)
        .file("key.pem", key)
        .line("cafile {dir}/ca.pem")
        .line("certfile {dir}/cert.pem")
        .line("keyfile {dir}/key.pem");
    if mutual {
        options = options.line("require_certificate true");
    }
    options.start()
}

fn config(broker: &Mosquitto, host: &str) -> MqttConfig {
    MqttConfig::tls(host).port(broker.port()).ca(broker.dir().join("ca.pem"))
}

fn round_trip(broker: &Mosquitto, config: &MqttConfig, count: usize) {
    let before = broker.log().matches("Sending SUBACK").count();
    let mut shard = Shard::open(&MqttSource::new(config.clone(), Line).topic("a"));
    wait_for_log(broker, "Sending SUBACK", before + 1);
    let mut writer = Writer::open(&MqttSink::new(config.clone(), "a", Text));
    writer.write(numbers(0..count).lines().map(str::to_owned));
    assert!(writer.close_within(PATIENCE));
    shard.run_until(count);
    shard.stop();
    let expected: Vec<_> = (0..count).map(|n| format!("a {n}")).collect();
    assert!(shard.seen.lines == expected);
}

fn refused(config: &MqttConfig) -> String {
    Shard::open(&MqttSource::new(config.clone(), Line).topic("a")).fail()
}

#[test]
fn messages_travel_over_tls_and_a_dropped_connection_comes_back() {
    let authority = Authority::new();
    let Some(mut broker) = broker(&authority, "localhost", 2100, false) else { return };
    for version in [Version::V311, Version::V5] {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            round_trip(&broker, &config(&broker, "localhost").version(version).qos(qos), 1_000);
        }
    }
    let mut shard = Shard::open(&MqttSource::new(config(&broker, "localhost"), Line).topic("a"));
    wait_for_log(&broker, "Sending SUBACK", 7);
    broker.restart();
    wait_for_log(&broker, "Sending SUBACK", 8);
    shard.stop();
}

#[test]
fn an_unknown_authority_is_refused() {
    let Some(broker) = broker(&Authority::new(), "localhost", 2100, false) else { return };
    fs::write(broker.dir().join("other.pem"), Authority::new().pem()).expect("write");
    let error = refused(&config(&broker, "localhost").ca(broker.dir().join("other.pem")));
    assert!(
        error.contains("not signed by an authority that we trust") && error.contains("ca="),
        "{error}"
    );
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let Some(broker) = broker(&Authority::new(), "broker.example", 2100, false) else { return };
    for host in ["localhost", "127.0.0.1"] {
        let error = refused(&config(&broker, host));
        assert!(error.contains("for another host") && error.contains("broker.example"), "{error}");
    }
}

#[test]
fn an_ip_address_will_do_where_the_certificate_names_it() {
    let Some(broker) = broker(&Authority::new(), "127.0.0.1", 2100, false) else { return };
    round_trip(&broker, &config(&broker, "127.0.0.1"), 10);
}

/// Goal: an expired certificate is not accepted, and does not end the job either. A gateway whose clock is wrong
/// at boot must come up once it is right.
#[test]
fn an_expired_certificate_is_waited_for() {
    let Some(broker) = broker(&Authority::new(), "localhost", 2021, false) else { return };
    let mut shard = Shard::open(&MqttSource::new(config(&broker, "localhost"), Line).topic("a"));
    shard.run_for(std::time::Duration::from_millis(500));
    assert!(!broker.log().contains("New client connected from"), "no connection");
    shard.stop();
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let authority = Authority::new();
    let Some(broker) = broker(&authority, "localhost", 2100, true) else { return };
    let dir = broker.dir();
    let other = Authority::new();
    for (name, authority) in [("ours", &authority), ("other", &other)] {
        let (cert, key) = authority.issue("gateway", 2100);
        fs::write(dir.join(format!("{name}.pem")), cert).expect("write");
        fs::write(dir.join(format!("{name}.key")), key).expect("write");
    }
    let config = config(&broker, "localhost");
    round_trip(
        &broker,
        &config.clone().client_cert(dir.join("ours.pem"), dir.join("ours.key")),
        100,
    );
    let error = refused(&config);
    assert!(error.contains("cert="), "{error}");
    let error = refused(&config.clone().client_cert(dir.join("other.pem"), dir.join("other.key")));
    assert!(error.contains("refused our certificate"), "{error}");
    let mixed = config.client_cert(dir.join("ours.pem"), dir.join("other.key"));
    assert_eq!(mixed.check().map_err(|error| error.key), Err("cert".to_owned()));
}

/// Goal: who forgets an `s`, or writes one too many, is told so.
#[test]
fn tls_where_there_is_none_and_none_where_there_is_are_recognised() {
    let authority = Authority::new();
    let (Some(tls), Some(plain)) =
        (broker(&authority, "localhost", 2100, false), Mosquitto::start())
    else {
        return;
    };
    for version in [None, Some(Version::V311)] {
        let given = |config| version.into_iter().fold(config, MqttConfig::version);
        let error = refused(&given(MqttConfig::new("localhost").port(tls.port())));
        assert!(error.contains("write mqtts://"), "{error}");
        let config = config(&tls, "localhost").port(plain.port());
        let error = refused(&given(config));
        assert!(error.contains("write mqtt://"), "{error}");
    }
}
