//! What a broker says of itself when it accepts us, and what follows for a job. Pure.
//!
//! | what it says | what follows |
//! |---|---|
//! | maximum QoS | results of QoS 2 go out with QoS 1: to a sink that promises as much. With QoS 0 they could be lost, so a job that did not ask for that ends. The status message takes what there is |
//! | retain available | results that are to be retained cannot be: the job ends. The status message goes without |
//! | maximum packet size | a larger result is a dead letter |
//! | receive maximum | the most publishes that it has not acknowledged |
//! | server keep alive | the time between pings |
//! | wildcard, shared subscriptions available | a filter that needs what there is not ends the job, with words |
//! | subscription identifiers available | filters that overlap have one each: see `source::copies` |
//! | session expiry, assigned client id, reason string | said |
//! | topic alias maximum | not used. An alias spares the bytes of a topic and costs a table on both sides that begins anew with each connection. What a publish costs here is the wake-up, not its bytes |

use crate::config::{MqttConfig, Qos, Version};

/// The most characters of a broker's reason that are told.
const REASON_CHARS_MAX: usize = 200;

/// The broker has accepted our CONNECT. What MQTT 3.1.1 cannot say is as the standard presumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) session_present: bool,
    /// The version that is spoken.
    pub(crate) version: Version,
    /// The largest packet the broker takes.
    pub(crate) packet_bytes_max: Option<u32>,
    /// The most unacknowledged publishes the broker takes.
    pub(crate) receive_max: Option<u16>,
    /// A keep-alive other than ours that the broker wants, in seconds.
    pub(super) keep_alive_s: Option<u16>,
    pub(crate) qos_max: Qos,
    pub(crate) retains: bool,
    pub(super) wildcards: bool,
    pub(super) shares: bool,
    /// Whether subscriptions may have identifiers.
    pub(crate) subscription_ids: bool,
    /// Another client id than ours.
    pub(super) client_id: Option<String>,
    pub(super) session_expiry_s: Option<u32>,
    pub(super) reason: Option<String>,
    /// What a user should know of it, in sentences.
    pub(crate) remarks: Vec<String>,
}

impl Accepted {
    /// By a broker that says nothing of itself.
    pub(super) fn plainly(version: Version, session_present: bool) -> Self {
        Self {
            session_present,
            version,
            packet_bytes_max: None,
            receive_max: None,
            keep_alive_s: None,
            qos_max: Qos::ExactlyOnce,
            retains: true,
            wildcards: true,
            shares: true,
            subscription_ids: version == Version::V5,
            client_id: None,
            session_expiry_s: None,
            reason: None,
            remarks: Vec::new(),
        }
    }

    /// With which quality of service results go out that are to have `asked`.
    ///
    /// # Errors
    /// Why the job cannot keep what it promises, and what can be done.
    pub(crate) fn publishing(&self, asked: Qos, retain: bool) -> Result<Qos, String> {
        if retain && !self.retains {
            return Err(
                "the results are to be retained, and this broker retains nothing (its CONNACK says so): take \
                 another broker, or set retain=false"
                    .to_owned(),
            );
        }
        if asked > Qos::AtMostOnce && self.qos_max == Qos::AtMostOnce {
            return Err(format!(
                "qos={}: this broker takes QoS 0 at most, and what is sent so may be lost. Write qos=0 to accept \
                 that, or take another broker",
                asked as u8
            ));
        }
        Ok(asked.min(self.qos_max))
    }

    /// Whether the broker takes subscriptions like these.
    ///
    /// # Errors
    /// Names the first that it does not, and why.
    pub(crate) fn subscribing<'a>(
        &self,
        mut filters: impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        filters.try_for_each(|filter| {
            let shared = filter.starts_with("$share/");
            if shared && !self.shares {
                return Err(format!(
                    "the filter {filter:?} is a shared subscription, and this broker has none (its CONNACK says so): \
                     leave out $share/GROUP/"
                ));
            }
            if filter.contains(['+', '#']) && !self.wildcards {
                return Err(format!(
                    "the filter {filter:?} has a wildcard (a level in braces is one, too), and this broker takes none \
                     (its CONNACK says so): name each topic in full"
                ));
            }
            Ok(())
        })
    }

    /// Notes what is worth a line.
    pub(super) fn remark(&mut self, config: &MqttConfig, clean: bool) {
        let mut remarks = std::mem::take(&mut self.remarks);
        if let Some(reason) = &self.reason {
            let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
            remarks.push(format!("the broker says: {reason:?}"));
        }
        if let Some(id) = &self.client_id {
            remarks.push(format!("the broker calls us {id:?}"));
        }
        if let Some(seconds) = self.session_expiry_s
            && !clean
            && seconds < config.expiry_s()
        {
            remarks.push(format!(
                "the broker keeps the session for {seconds} s only, not for {} s: what comes in while the job is away \
                 longer is lost",
                config.expiry_s()
            ));
        }
        if config.status_topic.is_some() && !self.retains {
            remarks.push(
                "this broker retains nothing: the status topic tells only who listens when it changes".to_owned(),
            );
        }
        self.remarks = remarks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Accepted {
        Accepted::plainly(Version::V5, false)
    }

    #[test]
    fn results_go_out_as_the_broker_takes_them_or_the_job_ends() {
        use Qos::{AtLeastOnce as One, AtMostOnce as Zero, ExactlyOnce as Two};
        for (qos_max, asked, expected) in [
            (Two, Two, Ok(Two)),
            (One, Two, Ok(One)),
            (One, One, Ok(One)),
            (Zero, Zero, Ok(Zero)),
            (Zero, One, Err("qos=1: this broker takes QoS 0 at most")),
            (Zero, Two, Err("qos=2: this broker takes QoS 0 at most")),
        ] {
            let met = Accepted { qos_max, ..plain() }.publishing(asked, true);
            match (met, expected) {
                (Ok(met), Ok(expected)) => assert_eq!(met, expected, "{qos_max:?} {asked:?}"),
                (Err(met), Err(expected)) => assert!(met.contains(expected), "{met}"),
                (met, _) => panic!("{qos_max:?} {asked:?}: {met:?}"),
            }
        }
        let broker = Accepted { retains: false, ..plain() };
        assert_eq!(broker.publishing(One, false), Ok(One));
        assert!(broker.publishing(One, true).unwrap_err().contains("retain=false"));
    }

    #[test]
    fn filters_that_need_what_there_is_not_are_named() {
        let (simple, any, shared) = ["a/b", "a/+", "$share/g/a"].map(|it| [it].into_iter()).into();
        let broker = Accepted { wildcards: false, ..plain() };
        assert_eq!(broker.subscribing(simple.clone().chain(shared.clone())), Ok(()));
        let why = broker.subscribing(simple.clone().chain(any.clone())).unwrap_err();
        assert!(why.contains("\"a/+\" has a wildcard"), "{why}");
        let broker = Accepted { shares: false, ..plain() };
        assert_eq!(broker.subscribing(simple.chain(any)), Ok(()));
        let why = broker.subscribing(shared).unwrap_err();
        assert!(why.contains("\"$share/g/a\" is a shared subscription"), "{why}");
    }

    #[test]
    fn what_a_broker_shortens_or_says_is_told() {
        let config = MqttConfig::new("h").client_id("gw").status_topic("s");
        let mut broker = plain();
        broker.remark(&config, false);
        assert_eq!(broker.remarks, [""; 0]);
        let mut broker = Accepted {
            retains: false,
            client_id: Some("x".into()),
            session_expiry_s: Some(60),
            reason: Some("hello\n".into()),
            ..plain()
        };
        broker.remark(&config, false);
        let text = broker.remarks.join("\n");
        for part in [
            "says: \"hello\\n\"",
            "calls us \"x\"",
            "for 60 s only, not for 86400 s",
            "retains nothing",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
