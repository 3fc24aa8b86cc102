//! MQTT 5.

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, ConnectReturnCode as Code, Disconnect,
    DisconnectReasonCode, Filter, LastWill, Login, Packet, PingReq, PubAck, PubComp, PubRec,
    PubRel, Publish, PublishProperties, RetainForwardRule, Subscribe, SubscribeProperties,
    SubscribeReasonCode, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::manner::Terms;
use super::{
    Accepted, ID_HELP, Incoming, LOGIN_HELP, OFFLINE, Outgoing, Plan, Trouble, because, message,
    not_now, refused,
};
use crate::config::{Qos, Secret, Version};

pub(super) fn connect(plan: &Plan, terms: &Terms, into: &mut BytesMut) -> Result<(), Trouble> {
    let config = &plan.config;
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval = Some(if plan.clean { 0 } else { config.expiry_s() });
    properties.receive_maximum = Some(config.inflight);
    // Our limit is not told: a broker would leave out what is over it, and nobody would hear of that message.
    let connect = Connect {
        keep_alive: config.keep_alive_s,
        client_id: plan.client_id.clone(),
        clean_start: plan.clean,
        properties: Some(properties),
    };
    let will = |topic| LastWill::new(topic, OFFLINE, terms.will_qos.v5(), terms.will_retain, None);
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
    match from[..] {
        [first, ..] if first >> 4 == 3 => return message::read(from, Version::V5, bytes_max),
        // An answer to a publish with more than its packet id: there are more reasons than the codec knows.
        [0x40 | 0x50 | 0x70, length @ 3..=127, ..] => {
            return Ok((from.len() >= 2 + usize::from(length)).then(|| answer(from)));
        }
        // A reason may be all there is, or not even that; the codec wants properties behind it.
        [0xe0, 0, ..] => return Err(ended(DisconnectReasonCode::NormalDisconnection, None, None)),
        [0xe0, 1, reason, ..] => {
            return Err(DisconnectReasonCode::try_from(reason).map_or_else(
                |_| Trouble::weather("protocol", "a DISCONNECT with a reason that there is not"),
                |reason| ended(reason, None, None),
            ));
        }
        // A CONNACK of MQTT 3.1.1.
        [0x20, 2, ..] => {
            let text = "the broker answers in MQTT 3.1.1".to_owned();
            return Err(Trouble::Version { told: true, text });
        }
        _ => {}
    }
    let bytes = from.len();
    let packet = match Packet::read(from, Some(bytes_max)) {
        Ok(packet) => packet,
        // Otherwise it is all there, and the codec has taken it: it is too short within.
        Err(Error::InsufficientBytes(more)) if from.len() == bytes => {
            from.reserve(more);
            return Ok(None);
        }
        Err(Error::PayloadSizeLimitExceeded { .. }) => return Ok(Some(Incoming::TooLarge)),
        Err(cause) => return Err(Trouble::weather("protocol", cause)),
    };
    Ok(Some(match packet {
        Packet::PubAck(ack) => Incoming::Acked { packet_id: ack.pkid, refused: None },
        Packet::PubRec(ack) => Incoming::Received(ack.pkid),
        Packet::PubComp(ack) => Incoming::Acked { packet_id: ack.pkid, refused: None },
        Packet::PubRel(release) => Incoming::Released(release.pkid),
        Packet::SubAck(ack) => Incoming::Subscribed {
            packet_id: ack.pkid,
            grants: ack
                .return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(QoS::AtMostOnce) => Ok(Qos::AtMostOnce),
                    SubscribeReasonCode::Success(QoS::AtLeastOnce) => Ok(Qos::AtLeastOnce),
                    SubscribeReasonCode::Success(QoS::ExactlyOnce) => Ok(Qos::ExactlyOnce),
                    reason => {
                        let said =
                            ack.properties.as_ref().and_then(|it| it.reason_string.as_deref());
                        Err(format!("the broker refused it ({})", because(reason, said)))
                    }
                })
                .collect(),
        },
        Packet::UnsubAck(ack) => Incoming::Unsubscribed(ack.pkid),
        Packet::PingResp(_) => Incoming::Pong,
        Packet::ConnAck(ConnAck { session_present, code: Code::Success, properties }) => {
            Incoming::Accepted(Box::new(accepted(session_present, properties)))
        }
        Packet::ConnAck(ConnAck { code, properties, .. }) => {
            let said = properties.as_ref().and_then(|it| it.reason_string.as_deref());
            let to = properties.as_ref().and_then(|it| it.server_reference.clone());
            return Err(refusal(code, &because(&code, said), to));
        }
        Packet::Disconnect(end) => {
            let (said, to) = end
                .properties
                .map(|it| (it.reason_string, it.server_reference))
                .unwrap_or_default();
            return Err(ended(end.reason_code, said.as_deref(), to));
        }
        other => {
            return Err(Trouble::weather("protocol", format!("no broker sends this: {other:?}")));
        }
    }))
}

/// Takes out an answer to a publish that has a reason, PUBACK, PUBREC or PUBCOMP, and is all there.
#[cold]
fn answer(from: &mut BytesMut) -> Incoming {
    let packet = from.split_to(2 + usize::from(from[1]));
    let (kind, packet_id, reason) =
        (packet[0], u16::from_be_bytes([packet[2], packet[3]]), packet[4]);
    // PUBCOMP has no reason but that it knows nothing of the id.
    if reason < 0x80 || kind == 0x70 {
        return match kind {
            0x50 => Incoming::Received(packet_id),
            _ => Incoming::Acked { packet_id, refused: None },
        };
    }
    let why = match reason {
        0x80 => "unspecified error".to_owned(),
        0x83 => "implementation specific error".to_owned(),
        0x87 => "not authorized".to_owned(),
        0x90 => "topic name invalid".to_owned(),
        0x91 => "packet identifier in use".to_owned(),
        0x95 => "packet too large".to_owned(),
        0x97 => "quota exceeded".to_owned(),
        0x99 => "payload format invalid".to_owned(),
        other => format!("reason 0x{other:02x}"),
    };
    let refused = Some(match said(&packet[5..]) {
        Some(said) => format!("{why}: {said}"),
        None => why,
    });
    Incoming::Acked { packet_id, refused }
}

/// The reason string, where it comes first of the properties.
fn said(properties: &[u8]) -> Option<String> {
    let (length, _) = message::variable(properties)?;
    let [0x1f, high, low, rest @ ..] = properties.get(length..)? else { return None };
    let text = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What the broker says of itself. What it leaves out is as the standard presumes.
fn accepted(session_present: bool, properties: Option<ConnAckProperties>) -> Accepted {
    let plainly = Accepted::plainly(Version::V5, session_present);
    let Some(said) = properties else { return plainly };
    let is = |there: Option<u8>| there != Some(0);
    Accepted {
        packet_bytes_max: said.max_packet_size,
        receive_max: said.receive_max,
        keep_alive_s: said.server_keep_alive,
        qos_max: match said.max_qos {
            Some(0) => Qos::AtMostOnce,
            Some(1) => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        },
        retains: is(said.retain_available),
        wildcards: is(said.wildcard_subscription_available),
        shares: is(said.shared_subscription_available),
        subscription_ids: is(said.subscription_identifiers_available),
        client_id: said.assigned_client_identifier,
        session_expiry_s: said.session_expiry_interval,
        reason: said.reason_string,
        ..plainly
    }
}

fn ended(reason: DisconnectReasonCode, said: Option<&str>, to: Option<String>) -> Trouble {
    use DisconnectReasonCode as Reason;

    let text = format!("the broker ended it ({})", because(&reason, said));
    match reason {
        Reason::SessionTakenOver => {
            Trouble::weather("taken over", "another client connected with our client_id")
        }
        Reason::UseAnotherServer | Reason::ServerMoved => {
            Trouble::Moved { to, for_good: reason == Reason::ServerMoved, text }
        }
        _ => Trouble::weather("disconnect", text),
    }
}

fn refusal(code: Code, why: &str, to: Option<String>) -> Trouble {
    match code {
        Code::BadUserNamePassword
        | Code::NotAuthorized
        | Code::Banned
        | Code::BadAuthenticationMethod => refused(why, LOGIN_HELP),
        Code::BadClientId | Code::ClientIdentifierNotValid => refused(why, ID_HELP),
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
            Trouble::Version { told: true, text: why.to_owned() }
        }
        Code::RetainNotSupported | Code::QoSNotSupported => {
            let text =
                format!("the broker refused the connection ({why}): check qos and status_topic");
            Trouble::Will { retain: code == Code::RetainNotSupported, text }
        }
        Code::TopicNameInvalid => refused(why, "check status_topic"),
        Code::UseAnotherServer | Code::ServerMoved => Trouble::Moved {
            to,
            for_good: code == Code::ServerMoved,
            text: format!("the broker refused the connection ({why})"),
        },
        _ => not_now(why),
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
