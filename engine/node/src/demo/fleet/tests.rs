//! The fleet against a real broker: its account must agree with what a plain subscriber received.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use rumqttc::{Client, Event, Packet, QoS};

use super::super::broker::{Broker, BrokerConfig};
use super::*;

type Bag = HashMap<(String, Vec<u8>), u64>;

/// A plain QoS 1 subscriber in a thread of its own.
struct Subscriber {
    client: Client,
    received: mpsc::Receiver<(String, Vec<u8>)>,
}

impl Subscriber {
    fn new(broker: SocketAddr, filter: &str) -> Self {
        Self::dozing(broker, filter, Duration::ZERO)
    }

    /// Falls asleep over its first message, and acknowledges nothing in that time.
    fn dozing(broker: SocketAddr, filter: &str, mut nap: Duration) -> Self {
        let id = format!("plain-{}", broker.port());
        let mut options = MqttOptions::new(id, broker.ip().to_string(), broker.port());
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut connection) = Client::new(options, 10);
        client.subscribe(filter, QoS::AtLeastOnce).unwrap();
        let (subscribed, is_subscribed) = mpsc::channel();
        let (sender, received) = mpsc::channel();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::SubAck(_))) => subscribed.send(()).unwrap(),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        thread::sleep(std::mem::take(&mut nap));
                        let _ = sender.send((publish.topic, publish.payload.to_vec()));
                    }
                    Ok(_) => {}
                    Err(_) => return,
                }
            }
        });
        is_subscribed.recv_timeout(Duration::from_secs(5)).unwrap();
        Self { client, received }
    }

    /// Everything, once nothing has come for half a second after at least `expected` messages.
    fn finish(self, expected: u64) -> Bag {
        let (mut bag, mut count) = (Bag::new(), 0);
        loop {
            let patience = if count < expected { 2_500 } else { 500 };
            match self.received.recv_timeout(Duration::from_millis(patience)) {
                Ok(message) => {
                    *bag.entry(message).or_default() += 1;
                    count += 1;
                }
                Err(_) => break,
            }
        }
        let _ = self.client.disconnect();
        bag
    }
}

/// The first `count` messages, and how many of each class they are.
fn foretold(generator: &Generator, count: u64) -> (Bag, [u64; Class::COUNT]) {
    let (mut bag, mut by_class) = (Bag::new(), [0; Class::COUNT]);
    for n in 0..count {
        let message = generator.message(n);
        by_class[message.class as usize] += 1;
        *bag.entry((message.topic, message.payload)).or_default() += 1;
    }
    (bag, by_class)
}

fn size(bag: &Bag) -> u64 {
    bag.values().sum()
}

#[test]
fn every_message_arrives_exactly_once_and_as_foretold() {
    let broker = Broker::start().unwrap();
    let subscriber = Subscriber::new(broker.address(), "plant/#");
    let config = FleetConfig {
        url: broker.url(),
        prefix: "plant/north".into(),
        silent_after_ms: 2_000,
        very_late_permille: 5,
        ..FleetConfig::default()
    };
    let started = Instant::now();
    let fleet = Fleet::start(config).unwrap();
    let generator = fleet.generator().clone();
    thread::sleep(Duration::from_millis(5_000));
    let live = fleet.sent().total();
    let elapsed = started.elapsed();
    let sent = fleet.stop().unwrap();

    let rate = live as f64 / elapsed.as_secs_f64();
    assert!((1_500.0..=2_000.0).contains(&rate), "{rate} messages per second");
    assert_eq!(sent.resent, 0);
    assert!(sent.total() >= live);
    for class in Class::ALL {
        assert!(sent.of(class) > 0, "no message of class {class:?}");
    }
    let (expected, by_class) = foretold(&generator, sent.total());
    assert_eq!(sent.by_class, by_class);
    let received = subscriber.finish(sent.total());
    assert_eq!(size(&received), sent.total());
    assert!(received == expected, "the messages received are not those foretold");
}

#[test]
fn an_mqtt_5_subscriber_on_the_other_port_hears_the_same() {
    use rumqttc::v5;
    let broker = Broker::start().unwrap();
    let mut options = v5::MqttOptions::new("plain-5", "127.0.0.1", broker.address_v5().port());
    options.set_keep_alive(Duration::from_secs(5));
    let (client, mut connection) = v5::Client::new(options, 10);
    client.subscribe("demo/+/temp", v5::mqttbytes::QoS::AtLeastOnce).unwrap();
    let config = FleetConfig { url: broker.url(), rate: 500, ..FleetConfig::default() };
    let (mut fleet, mut expected, mut received) = (None, Bag::new(), Bag::new());
    for event in connection.iter() {
        match event.unwrap() {
            v5::Event::Incoming(v5::mqttbytes::v5::Packet::SubAck(_)) => {
                let started = Fleet::start(config.clone()).unwrap();
                expected = foretold(started.generator(), 300).0;
                fleet = Some(started);
            }
            v5::Event::Incoming(v5::mqttbytes::v5::Packet::Publish(publish)) => {
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                let message = (topic, publish.payload.to_vec());
                let foretold = expected.contains_key(&message);
                *received.entry(message).or_default() += u64::from(foretold);
                if received == expected {
                    break;
                }
                received.retain(|_, count| *count > 0);
            }
            _ => {}
        }
        // Checked at each ping at the latest.
        let sent = fleet.as_ref().map_or(0, |fleet| fleet.sent().total());
        assert!(
            sent < 5_000,
            "{} of {} never came",
            expected.len() - received.len(),
            expected.len()
        );
    }
    assert_eq!(received, expected);
}

/// Goal: the account stays true over broken connections. Method: lead the fleet through a proxy
/// that cuts a connection after a given number of bytes, while PUBACKs are under way. Whatever a
/// subscriber then has twice must have been announced as resent.
#[test]
fn broken_connections_lose_nothing_and_every_repeat_is_counted() {
    let broker = Broker::start().unwrap();
    let subscriber = Subscriber::new(broker.address(), "demo/#");
    let proxy = cutting_proxy(broker.address(), 6, 40_000);
    let config = FleetConfig {
        url: format!("mqtt://{proxy}/"),
        rate: 10_000,
        connections: 2,
        ..FleetConfig::default()
    };
    let fleet = Fleet::start(config).unwrap();
    let generator = fleet.generator().clone();
    thread::sleep(Duration::from_millis(2_500));
    assert!(fleet.last_error().is_some());
    let sent = fleet.stop().unwrap();

    let (expected, by_class) = foretold(&generator, sent.total());
    assert_eq!(sent.by_class, by_class);
    let received = subscriber.finish(sent.total());
    for (message, count) in &expected {
        let got = received.get(message).copied().unwrap_or_default();
        assert!(got >= *count, "{} was lost", message.0);
    }
    assert_eq!(received.len(), expected.len(), "a message came from nowhere");
    let repeats = size(&received) - sent.total();
    assert!(repeats <= sent.resent, "{repeats} repeats, {} announced", sent.resent);
    assert!(sent.resent > 0 && sent.total() > 20_000, "{sent:?}");
}

/// Cuts the first `cuts` connections after `bytes` from the client, then lets all pass.
fn cutting_proxy(target: SocketAddr, cuts: usize, bytes: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (nth, inbound) in listener.incoming().enumerate() {
            let (inbound, outbound) = (inbound.unwrap(), TcpStream::connect(target).unwrap());
            inbound.set_nodelay(true).unwrap();
            outbound.set_nodelay(true).unwrap();
            let allowance = if nth < cuts { bytes } else { usize::MAX };
            let (back_from, back_to) =
                (outbound.try_clone().unwrap(), inbound.try_clone().unwrap());
            thread::spawn(move || relay(inbound, outbound, allowance));
            thread::spawn(move || relay(back_from, back_to, usize::MAX));
        }
    });
    address
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut allowance: usize) {
    let mut buffer = [0; 4_096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let pass = read.min(allowance);
        allowance -= pass;
        if to.write_all(&buffer[..pass]).is_err() || allowance == 0 {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn a_subscriber_that_lags_loses_nothing_within_the_brokers_bound_and_something_beyond() {
    let lag = |log_bytes_max| {
        let broker =
            Broker::with(&BrokerConfig { log_bytes_max, ..BrokerConfig::default() }).unwrap();
        let nap = Duration::from_millis(1_500);
        let subscriber = Subscriber::dozing(broker.address(), "demo/#", nap);
        let config = FleetConfig { url: broker.url(), rate: 10_000, ..FleetConfig::default() };
        let fleet = Fleet::start(config).unwrap();
        let generator = fleet.generator().clone();
        thread::sleep(Duration::from_millis(1_000));
        let sent = fleet.stop().unwrap().total();
        assert!(sent > 5_000, "{sent}");
        (subscriber.finish(sent), foretold(&generator, sent).0)
    };
    let (received, expected) = lag(BrokerConfig::default().log_bytes_max);
    assert!(received == expected, "{} of {}", size(&received), size(&expected));
    // 100 KiB are some 1,200 messages; the documented, silent loss beyond it is real.
    let (received, expected) = lag(100 << 10);
    assert!(size(&received) < size(&expected) / 2, "{} of {}", size(&received), size(&expected));
}

#[test]
fn a_broker_that_never_acknowledges_is_named_with_what_is_missing() {
    // Listens, accepts nothing.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap();
    let config = FleetConfig {
        url: format!("mqtt://me:secret@{address}"),
        drain_ms_max: 50,
        ..FleetConfig::default()
    };
    let fleet = Fleet::start(config).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert!(fleet.outstanding() > 0);
    assert_eq!(fleet.sent(), SentCounts::default());
    let error = fleet.stop().unwrap_err();
    let FleetError::Unacknowledged { missing, made, .. } = error else { panic!("{error}") };
    assert!(missing == made && made >= 100, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("{missing} of {made}")) && text.contains("50 ms"), "{text}");
    assert!(text.contains(&address.to_string()) && !text.contains("secret"), "{text}");
}

#[test]
fn dropping_a_fleet_does_not_wait_for_its_broker() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = FleetConfig { url: format!("mqtt://{nobody}"), ..FleetConfig::default() };
    let fleet = Fleet::start(config).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(fleet.last_error().unwrap().contains("refused"), "{:?}", fleet.last_error());
    let started = Instant::now();
    drop(fleet);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_owner_may_adjust_a_connection_but_not_what_the_account_depends_on() {
    let adjust: Adjust = Arc::new(|options| {
        options.set_credentials("ada", "lovelace").set_inflight(1).set_clean_session(false);
    });
    let config = FleetConfig { adjust: Some(adjust), connections: 3, ..FleetConfig::default() };
    let broker = Address::parse("mqtt://bob:x@127.0.0.1").unwrap();
    let all = options(&config, &broker).unwrap();
    assert_eq!(all.len(), 3);
    for options in &all {
        assert_eq!(options.credentials().unwrap().username, "ada");
        assert!(options.clean_session() && options.inflight() > 64);
        assert!(options.max_packet_size() > 256 << 10);
        assert!(!options.keep_alive().is_zero());
    }
    let ids: std::collections::HashSet<_> = all.iter().map(MqttOptions::client_id).collect();
    assert_eq!(ids.len(), 3);
}

#[test]
fn urls_are_taken_apart_or_refused_without_showing_a_password() {
    let parsed = |url: &str| {
        let address = Address::parse(url).unwrap();
        (address.tls, address.host, address.port, address.credentials)
    };
    let login = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
    assert_eq!(parsed("mqtt://h"), (false, "h".into(), 1883, None));
    assert_eq!(parsed("tcp://h:2/"), (false, "h".into(), 2, None));
    assert_eq!(parsed("mqtts://u@h"), (true, "h".into(), 8883, login("u", "")));
    assert_eq!(parsed("mqtt://u:p:@@[::1]:9"), (false, "[::1]".into(), 9, login("u", "p:@")));
    assert_eq!(parsed("mqtt://[::1]"), (false, "[::1]".into(), 1883, None));
    for url in ["", "h:1", "http://h", "mqtt://", "mqtt://h:0", "mqtt://h:70000", "mqtt://h/a"] {
        assert_eq!(Address::parse(url).unwrap_err().value, url);
    }
    for url in ["mqtt://u:secret@", "u:secret@h", "mqtt://u:secret@h:x"] {
        let error = Address::parse(url).unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("fleet.url"), "{error}");
    }
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let cases: [(&str, fn(&mut FleetConfig)); 7] = [
        ("fleet.devices", |config| config.devices = 3),
        ("fleet.rate", |config| config.rate = 0),
        ("fleet.connections", |config| config.connections = 65),
        ("fleet.out_of_order_permille", |config| config.out_of_order_permille = 1_001),
        ("fleet.very_late_permille", |config| config.very_late_permille = 1_001),
        ("fleet.prefix", |config| config.prefix = "a/#".into()),
        ("fleet.url", |config| config.url = "mqtts://127.0.0.1".into()),
    ];
    for (key, spoil) in cases {
        let mut config = FleetConfig::default();
        spoil(&mut config);
        match Fleet::start(config) {
            Err(FleetError::Config(error)) => assert_eq!(error.key, key),
            Err(error) => panic!("{key}: {error}"),
            Ok(_) => panic!("{key} was accepted"),
        }
    }
}
