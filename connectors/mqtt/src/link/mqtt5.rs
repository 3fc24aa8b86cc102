//! MQTT 5.

use rumqttc::{Transport, v5};
use v5::mqttbytes as codec5;

use super::{
    CONNECT_S_MAX, Delivery, Event, ID_HELP, LOGIN_HELP, Loop, OFFLINE, Plan, REQUESTS_MAX,
    Requests, Trouble, aborted, network, no_pong, refused, sent,
};
use crate::config::{Qos, Secret};

pub(super) fn client(plan: &Plan, host: String, transport: Transport) -> (Loop, Requests) {
    let config = &plan.config;
    let mut options = v5::MqttOptions::new(&plan.client_id, host, config.port);
    options
        .set_transport(transport)
        .set_keep_alive(config.keep_alive())
        .set_clean_start(plan.clean)
        .set_session_expiry_interval(Some(if plan.clean { 0 } else { config.expiry_s() }))
        .set_receive_maximum(Some(config.inflight))
        .set_outgoing_inflight_upper_limit(config.inflight)
        .set_max_packet_size(Some(config.packet_bytes_max))
        .set_connection_timeout(CONNECT_S_MAX)
        .set_manual_acks(true)
        .set_network_options(network());
    if let Some((user, Secret(password))) = &plan.login {
        options.set_credentials(user, password);
    }
    if let Some(topic) = &config.status_topic {
        let qos = codec5::QoS::AtLeastOnce;
        options.set_last_will(codec5::v5::LastWill::new(topic, OFFLINE, qos, true, None));
    }
    let (client, event_loop) = v5::AsyncClient::new(options, REQUESTS_MAX);
    (Loop::V5(Box::new(event_loop)), Requests::V5(client))
}

pub(super) fn event(event: v5::Event) -> Event {
    use codec5::v5::{Packet, PubAckReason, PubRecReason, SubscribeReasonCode};

    let packet = match event {
        v5::Event::Outgoing(outgoing) => return sent(&outgoing),
        v5::Event::Incoming(packet) => packet,
    };
    match packet {
        Packet::ConnAck(ack) => Event::Connected {
            session_present: ack.session_present,
            packet_bytes_max: ack.properties.as_ref().and_then(|p| p.max_packet_size),
            receive_max: ack.properties.as_ref().and_then(|p| p.receive_max),
        },
        Packet::Publish(publish) => Event::Delivery(Delivery {
            topic: publish.topic,
            payload: publish.payload,
            qos: match publish.qos {
                codec5::QoS::AtMostOnce => Qos::AtMostOnce,
                codec5::QoS::AtLeastOnce => Qos::AtLeastOnce,
                codec5::QoS::ExactlyOnce => Qos::ExactlyOnce,
            },
            packet_id: publish.pkid,
            retained: publish.retain,
            user_properties: publish.properties.map(|p| p.user_properties).unwrap_or_default(),
        }),
        Packet::PubRel(release) => Event::Released(release.pkid),
        Packet::SubAck(ack) => Event::Subscribed(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(_) => None,
                    refused => Some(format!("the broker refused it ({refused:?})")),
                })
                .collect(),
        ),
        Packet::PubAck(ack) => Event::Acked {
            packet_id: ack.pkid,
            refused: match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                refused => Some(format!("{refused:?}")),
            },
        },
        Packet::PubRec(ack) => match ack.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => Event::Other,
            refused => Event::Acked { packet_id: ack.pkid, refused: Some(format!("{refused:?}")) },
        },
        Packet::PubComp(ack) => Event::Acked { packet_id: ack.pkid, refused: None },
        _ => Event::Other,
    }
}

pub(super) fn trouble(error: v5::ConnectionError) -> Trouble {
    use codec5::v5::{ConnectReturnCode as Code, DisconnectReasonCode as Reason};
    use v5::{ConnectionError as E, StateError};

    match error {
        E::ConnectionRefused(code) => match code {
            Code::BadUserNamePassword
            | Code::NotAuthorized
            | Code::Banned
            | Code::BadAuthenticationMethod => refused(&code, LOGIN_HELP),
            Code::BadClientId | Code::ClientIdentifierNotValid => refused(&code, ID_HELP),
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
                refused(&code, "try version=3.1.1")
            }
            Code::RetainNotSupported | Code::QoSNotSupported | Code::TopicNameInvalid => {
                refused(&code, "check qos and status_topic")
            }
            _ => {
                Trouble::weather("refused", format!("the broker refused the connection ({code:?})"))
            }
        },
        E::MqttState(StateError::Deserialization(
            cause @ codec5::Error::PayloadSizeLimitExceeded { .. },
        )) => Trouble::TooLarge(cause.to_string()),
        E::MqttState(StateError::ServerDisconnect {
            reason_code: Reason::SessionTakenOver,
            ..
        }) => Trouble::weather("taken over", "another client connected with the same client_id"),
        E::MqttState(StateError::ServerDisconnect { reason_code, reason_string }) => {
            let why = reason_string.map(|why| format!(": {why}")).unwrap_or_default();
            Trouble::weather("disconnect", format!("the broker ended it ({reason_code:?}{why})"))
        }
        E::MqttState(StateError::ConnectionAborted) => aborted(),
        E::MqttState(StateError::AwaitPingResp) => no_pong(),
        E::Io(cause) => Trouble::weather("connect", cause),
        E::Timeout(_) => Trouble::weather("timeout", "no connection within 5 s"),
        other => Trouble::weather("protocol", other),
    }
}
