//! MQTT 3.1.1.

use bytes::Bytes;
use rumqttc::{QoS, Transport, mqttbytes as codec4};

use super::{
    Delivery, Event, ID_HELP, LOGIN_HELP, Loop, OFFLINE, Plan, REQUESTS_MAX, Requests, Trouble,
    aborted, network, no_pong, refused, sent,
};
use crate::config::{Qos, Secret};

/// QoS 2 publishes in flight on MQTT 3.1.1, whose brokers cannot tell their limit: mosquitto ends
/// the connection at the 21st, unless configured otherwise.
const BLIND_WINDOW_MAX: u16 = 20;
pub(super) fn client(plan: &Plan, host: String, transport: Transport) -> (Loop, Requests) {
    let config = &plan.config;
    let mut options = rumqttc::MqttOptions::new(&plan.client_id, host, config.port);
    options
        .set_transport(transport)
        .set_keep_alive(config.keep_alive())
        .set_clean_session(plan.clean)
        .set_manual_acks(true)
        .set_inflight(match config.qos {
            Qos::ExactlyOnce => config.inflight.min(BLIND_WINDOW_MAX),
            _ => config.inflight,
        })
        // The sink checks what it sends, by packet; rumqttc would fail the connection.
        .set_max_packet_size(config.packet_bytes_max as usize, usize::MAX);
    if let Some((user, Secret(password))) = &plan.login {
        options.set_credentials(user, password);
    }
    if let Some(topic) = &config.status_topic {
        options.set_last_will(rumqttc::LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true));
    }
    let (client, mut event_loop) = rumqttc::AsyncClient::new(options, REQUESTS_MAX);
    event_loop.set_network_options(network());
    (Loop::V4(Box::new(event_loop)), Requests::V4(client))
}

pub(super) fn event(event: rumqttc::Event) -> Event {
    use rumqttc::{Packet, SubscribeReasonCode};

    let packet = match event {
        rumqttc::Event::Outgoing(outgoing) => return sent(&outgoing),
        rumqttc::Event::Incoming(packet) => packet,
    };
    match packet {
        Packet::ConnAck(ack) => Event::Connected {
            session_present: ack.session_present,
            packet_bytes_max: None,
            receive_max: None,
        },
        Packet::Publish(publish) => Event::Delivery(Delivery {
            topic: Bytes::from(publish.topic),
            payload: publish.payload,
            qos: match publish.qos {
                QoS::AtMostOnce => Qos::AtMostOnce,
                QoS::AtLeastOnce => Qos::AtLeastOnce,
                QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            packet_id: publish.pkid,
            retained: publish.retain,
            user_properties: Vec::new(),
        }),
        Packet::PubRel(release) => Event::Released(release.pkid),
        Packet::SubAck(ack) => Event::Subscribed(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(_) => None,
                    SubscribeReasonCode::Failure => Some("the broker refused it (0x80)".to_owned()),
                })
                .collect(),
        ),
        Packet::PubAck(ack) => Event::Acked { packet_id: ack.pkid, refused: None },
        Packet::PubComp(ack) => Event::Acked { packet_id: ack.pkid, refused: None },
        _ => Event::Other,
    }
}

pub(super) fn trouble(error: rumqttc::ConnectionError) -> Trouble {
    use rumqttc::{ConnectReturnCode as Code, ConnectionError as E, StateError};

    match error {
        E::ConnectionRefused(code) => match code {
            Code::BadUserNamePassword | Code::NotAuthorized => refused(&code, LOGIN_HELP),
            Code::BadClientId => refused(&code, ID_HELP),
            Code::RefusedProtocolVersion => refused(&code, "try version=5"),
            _ => {
                Trouble::weather("refused", format!("the broker refused the connection ({code:?})"))
            }
        },
        E::MqttState(StateError::Deserialization(
            cause @ codec4::Error::PayloadSizeLimitExceeded(_),
        )) => Trouble::TooLarge(cause.to_string()),
        E::MqttState(StateError::ConnectionAborted) => aborted(),
        E::MqttState(StateError::AwaitPingResp) => no_pong(),
        E::Io(cause) => Trouble::weather("connect", cause),
        E::NetworkTimeout => Trouble::weather("timeout", "no connection within 5 s"),
        other => Trouble::weather("protocol", other),
    }
}
