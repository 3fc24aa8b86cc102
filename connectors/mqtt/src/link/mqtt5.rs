//! MQTT 5.

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode as Code, Disconnect, DisconnectReasonCode,
    Filter, LastWill, Login, Packet, PingReq, PubAck, PubAckReason, PubComp, PubRec, PubRecReason,
    PubRel, Publish, PublishProperties, RetainForwardRule, Subscribe, SubscribeProperties,
    SubscribeReasonCode, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::{
    Accepted, Delivery, ID_HELP, Incoming, LOGIN_HELP, OFFLINE, Outgoing, Plan, Trouble, not_now,
    refused,
};
use crate::config::{Qos, Secret};

pub(super) fn connect(plan: &Plan, into: &mut BytesMut) -> Result<(), Trouble> {
    let config = &plan.config;
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(if plan.clean { 0 } else { config.expiry_s() });
    properties.receive_maximum = Some(config.inflight);
    properties.max_packet_size = Some(config.packet_bytes_max);
    let connect = Connect {
        keep_alive: config.keep_alive_s,
        client_id: plan.client_id.clone(),
        clean_start: plan.clean,
        properties: Some(properties),
    };
    let will = |topic| LastWill::new(topic, OFFLINE, QoS::AtLeastOnce, true, None);
    let will = config.status_topic.as_ref().map(will);
    let login = plan.login.as_ref().map(|(user, Secret(password))| Login::new(user, password));
    let written = connect.write(&will, &login, into);
    written.map(|_| ()).map_err(|cause| Trouble::Fatal(format!("CONNECT: {cause}")))
}

/// Appends a packet; false if it cannot be one.
pub(super) fn write(packet: Outgoing<'_>, into: &mut BytesMut) -> bool {
    let written = match packet {
        Outgoing::Ack(id, Qos::ExactlyOnce) => PubRec::new(id, None).write(into),
        Outgoing::Ack(id, _) => PubAck::new(id, None).write(into),
        Outgoing::Release(id) => PubRel::new(id, None).write(into),
        Outgoing::Complete(id) => PubComp::new(id, None).write(into),
        Outgoing::Publish(pkid, publish) => {
            let properties = |(name, value): (&str, &str)| PublishProperties {
                user_properties: vec![(name.to_owned(), value.to_owned())],
                ..PublishProperties::default()
            };
            Publish {
                dup: false,
                qos: publish.qos.v5(),
                retain: publish.retain,
                topic: Bytes::copy_from_slice(publish.topic.as_bytes()),
                pkid,
                payload: publish.payload,
                properties: publish.user_property.map(properties),
            }
            .write(into)
        }
        Outgoing::Subscribe { packet_id, filters, qos, identifier } => {
            let filter = |path: &str| {
                let mut filter = Filter::new(path, qos.v5());
                // We subscribe again on every connection; that is no reason to see the retained messages again.
                // (Shared subscriptions never carry them.)
                if !path.starts_with("$share/") {
                    filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
                }
                filter
            };
            let filters = filters.into_iter().map(filter).collect();
            let properties = identifier.map(|id| SubscribeProperties {
                id: Some(id as usize),
                user_properties: Vec::new(),
            });
            Subscribe { pkid: packet_id, filters, properties }.write(into)
        }
        Outgoing::Unsubscribe { packet_id, filters } => {
            Unsubscribe { pkid: packet_id, filters, properties: None }.write(into)
        }
        Outgoing::Ping => PingReq::write(into),
        Outgoing::Disconnect => {
            Disconnect::new(DisconnectReasonCode::NormalDisconnection).write(into)
        }
    };
    written.is_ok()
}

/// Takes the next packet out of `from`, if it is all there.
#[inline]
pub(super) fn read(from: &mut BytesMut, bytes_max: u32) -> Result<Option<Incoming>, Trouble> {
    // A reason may be all there is; the codec wants properties behind it.
    if let [0xe0, 1, reason, ..] = from[..] {
        let reason = DisconnectReasonCode::try_from(reason);
        return Err(
            reason.map_or_else(|cause| Trouble::weather("protocol", cause), |r| ended(r, None))
        );
    }
    let bytes = from.len();
    let packet = match Packet::read(from, Some(bytes_max)) {
        Ok(packet) => packet,
        // Otherwise it is all there, and the codec has taken it: it is too short within.
        Err(Error::InsufficientBytes(more)) if from.len() == bytes => {
            from.reserve(more);
            return Ok(None);
        }
        Err(cause @ Error::PayloadSizeLimitExceeded { .. }) => {
            return Err(Trouble::TooLarge(cause.to_string()));
        }
        Err(cause) => return Err(Trouble::weather("protocol", cause)),
    };
    Ok(Some(match packet {
        Packet::Publish(publish) => {
            let (user_properties, subscriptions) = publish
                .properties
                .map(|p| (p.user_properties, p.subscription_identifiers))
                .unwrap_or_default();
            Incoming::Delivery(Delivery {
                topic: publish.topic,
                payload: publish.payload,
                qos: match publish.qos {
                    QoS::AtMostOnce => Qos::AtMostOnce,
                    QoS::AtLeastOnce => Qos::AtLeastOnce,
                    QoS::ExactlyOnce => Qos::ExactlyOnce,
                },
                packet_id: publish.pkid,
                dup: publish.dup,
                retained: publish.retain,
                user_properties,
                subscriptions,
                is_copy: false,
            })
        }
        Packet::PubAck(ack) => Incoming::Acked {
            packet_id: ack.pkid,
            refused: match ack.reason {
                PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
                reason => Some(format!("{reason:?}")),
            },
        },
        Packet::PubRec(ack) => match ack.reason {
            PubRecReason::Success | PubRecReason::NoMatchingSubscribers => {
                Incoming::Received(ack.pkid)
            }
            reason => Incoming::Acked { packet_id: ack.pkid, refused: Some(format!("{reason:?}")) },
        },
        Packet::PubComp(ack) => Incoming::Acked { packet_id: ack.pkid, refused: None },
        Packet::PubRel(release) => Incoming::Released(release.pkid),
        Packet::SubAck(ack) => Incoming::Subscribed {
            packet_id: ack.pkid,
            refusals: ack
                .return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(_) => None,
                    reason => Some(format!("the broker refused it ({reason:?})")),
                })
                .collect(),
        },
        Packet::UnsubAck(ack) => Incoming::Unsubscribed(ack.pkid),
        Packet::PingResp(_) => Incoming::Pong,
        Packet::ConnAck(ack) => match ack.code {
            Code::Success => {
                let properties = ack.properties.as_ref();
                Incoming::Accepted(Accepted {
                    session_present: ack.session_present,
                    packet_bytes_max: properties.and_then(|p| p.max_packet_size),
                    receive_max: properties.and_then(|p| p.receive_max),
                    keep_alive_s: properties.and_then(|p| p.server_keep_alive),
                    subscription_ids: properties
                        .and_then(|p| p.subscription_identifiers_available)
                        .is_none_or(|available| available != 0),
                })
            }
            code => return Err(refusal(code)),
        },
        Packet::Disconnect(end) => {
            return Err(ended(end.reason_code, end.properties.and_then(|p| p.reason_string)));
        }
        other => {
            return Err(Trouble::weather("protocol", format!("no broker sends this: {other:?}")));
        }
    }))
}

fn ended(reason: DisconnectReasonCode, why: Option<String>) -> Trouble {
    if reason == DisconnectReasonCode::SessionTakenOver {
        return Trouble::weather("taken over", "another client connected with the same client_id");
    }
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Trouble::weather("disconnect", format!("the broker ended it ({reason:?}{why})"))
}

fn refusal(code: Code) -> Trouble {
    match code {
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
        _ => not_now(&code),
    }
}

impl Qos {
    fn v5(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce => QoS::AtLeastOnce,
            Self::ExactlyOnce => QoS::ExactlyOnce,
        }
    }
}
