//! MQTT 3.1.1.

use bytes::BytesMut;
use rumqttc::QoS;
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode as Code, Disconnect, LastWill, Login, Packet, PingReq, PubAck,
    PubComp, PubRec, PubRel, Publish, Subscribe, SubscribeFilter, SubscribeReasonCode, Unsubscribe,
};

use super::manner::Terms;
use super::{
    Accepted, ID_HELP, Incoming, LOGIN_HELP, OFFLINE, Outgoing, Plan, Trouble, message, not_now,
    refused, words,
};
use crate::config::{Qos, Secret, Version};

/// QoS 2 publishes in flight: the broker cannot tell its limit, and mosquitto ends the connection at the 21st, unless
/// configured otherwise.
const BLIND_WINDOW_MAX: u16 = 20;

pub(super) fn connect(plan: &Plan, terms: &Terms, into: &mut BytesMut) -> Result<(), Trouble> {
    let config = &plan.config;
    let mut connect = Connect::new(&plan.client_id);
    connect.keep_alive = config.keep_alive_s;
    connect.clean_session = plan.clean;
    connect.login = plan.login.as_ref().map(|(user, Secret(password))| Login::new(user, password));
    let will = |topic| LastWill::new(topic, OFFLINE, terms.will_qos.v4(), terms.will_retain);
    connect.last_will = config.status_topic.as_ref().map(will);
    connect.write(into).map(|_| ()).map_err(|cause| Trouble::Fatal(format!("CONNECT: {cause}")))
}

/// Appends a packet; false if it cannot be one.
pub(super) fn write(packet: Outgoing<'_>, into: &mut BytesMut) -> bool {
    let written = match packet {
        Outgoing::Ack(id, Qos::ExactlyOnce) => PubRec::new(id).write(into),
        Outgoing::Ack(id, _) => PubAck::new(id).write(into),
        Outgoing::Release(id) => PubRel::new(id).write(into),
        Outgoing::Complete(id) => PubComp::new(id).write(into),
        Outgoing::Publish(pkid, publish) => Publish {
            dup: false,
            qos: publish.qos.v4(),
            retain: publish.retain,
            topic: publish.topic.to_owned(),
            pkid,
            payload: publish.payload,
        }
        .write(into),
        Outgoing::Subscribe { packet_id, filters, qos, .. } => {
            let filter = |path: &str| SubscribeFilter::new(path.to_owned(), qos.v4());
            let filters = filters.into_iter().map(filter).collect();
            Subscribe { pkid: packet_id, filters }.write(into)
        }
        Outgoing::Unsubscribe { packet_id, filters } => {
            Unsubscribe { pkid: packet_id, topics: filters }.write(into)
        }
        Outgoing::Ping => PingReq.write(into),
        Outgoing::Disconnect => Disconnect.write(into),
    };
    written.is_ok()
}

/// Takes the next packet out of `from`, if it is all there.
#[inline]
pub(super) fn read(from: &mut BytesMut, bytes_max: u32) -> Result<Option<Incoming>, Trouble> {
    if from[0] >> 4 == 3 {
        return message::read(from, Version::V311, bytes_max);
    }
    // A CONNACK of MQTT 5, or its code in one of MQTT 3.1.1.
    if let [0x20, 3..=127, ..] | [0x20, 2, _, 0x84, ..] = from[..] {
        let text = "the broker answers in MQTT 5".to_owned();
        return Err(Trouble::Version { told: true, text });
    }
    let packet = match Packet::read(from, bytes_max as usize) {
        Ok(packet) => packet,
        Err(Error::InsufficientBytes(more)) => {
            from.reserve(more);
            return Ok(None);
        }
        Err(Error::PayloadSizeLimitExceeded(_)) => return Ok(Some(Incoming::TooLarge)),
        Err(cause) => return Err(Trouble::weather("protocol", cause)),
    };
    Ok(Some(match packet {
        Packet::PubAck(PubAck { pkid }) | Packet::PubComp(PubComp { pkid }) => {
            Incoming::Acked { packet_id: pkid, refused: None }
        }
        Packet::PubRec(received) => Incoming::Received(received.pkid),
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
                    SubscribeReasonCode::Failure => Err("the broker refused it (0x80)".to_owned()),
                })
                .collect(),
        },
        Packet::UnsubAck(ack) => Incoming::Unsubscribed(ack.pkid),
        Packet::PingResp => Incoming::Pong,
        Packet::ConnAck(ack) => match ack.code {
            Code::Success => {
                Incoming::Accepted(Box::new(Accepted::plainly(Version::V311, ack.session_present)))
            }
            code @ (Code::BadUserNamePassword | Code::NotAuthorized) => {
                return Err(refused(&words(&code), LOGIN_HELP));
            }
            code @ Code::BadClientId => return Err(refused(&words(&code), ID_HELP)),
            code @ Code::RefusedProtocolVersion => {
                return Err(Trouble::Version { told: true, text: words(&code) });
            }
            code @ Code::ServiceUnavailable => return Err(not_now(&words(&code))),
        },
        other => {
            return Err(Trouble::weather("protocol", format!("no broker sends this: {other:?}")));
        }
    }))
}

/// The most unacknowledged publishes of this quality that a broker of any configuration takes.
pub(super) fn window(qos: Qos) -> Option<u16> {
    (qos == Qos::ExactlyOnce).then_some(BLIND_WINDOW_MAX)
}

impl Qos {
    fn v4(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce => QoS::AtLeastOnce,
            Self::ExactlyOnce => QoS::ExactlyOnce,
        }
    }
}
