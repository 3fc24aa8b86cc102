//! [`Manner`]: how a broker is spoken to, as far as that is learnt from its answers. Pure.
//!
//! - **Version.** Where none is given, 5 is tried. A broker that says that it does not speak it is tried with 3.1.1 at
//!   once, and is spoken to so from then on. One that ends the connection without an answer, as some old ones do, may
//!   also be one that is starting: it is asked in 5 once more before 3.1.1 is tried, and again after each connection.
//!   What fails before CONNECT says nothing of versions. Nor does a connection without an answer where 5 was accepted before: such
//!   a broker is away. Only one that refuses 5 by words is spoken to in 3.1.1 then.
//!   For a job that reads a user property 3.1.1 is never tried: it has none.
//! - **Will.** A broker that refuses the last will for its quality of service, or since it is retained, gets one without.
//! - **Server.** A broker may send us elsewhere, for now or for good. That is followed where the configuration allows it,
//!   a few times in a row.

use super::Trouble;
use crate::config::{MqttConfig, Qos, Version};

/// The servers to which brokers may send us one after the other before one must accept us.
const HOPS_MAX: u8 = 5;
/// The connections that end without an answer before we look for the reason.
const SILENT_MAX: u8 = 2;

/// Where and how to connect next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) version: Version,
    pub(super) will_qos: Qos,
    pub(super) will_retain: bool,
    /// Whether to find out if TLS is what the other side expects, or is not, where it does not answer.
    pub(super) looks: bool,
}

/// See the module.
pub(super) struct Manner {
    given: Option<Version>,
    /// It is 5 since the job needs user properties.
    needs_properties: bool,
    follows: bool,
    has_will: bool,
    home: (String, u16),
    /// What the next CONNECT is like.
    terms: Terms,
    /// The broker has said that it does not speak the other version.
    is_told: bool,
    /// Both versions were refused, by words.
    other_told: bool,
    /// Connections in a row that ended without an answer to CONNECT.
    silent: u8,
    /// The server that the terms name is for good.
    is_moved: bool,
    hops: u8,
    /// That MQTT 3.1.1 is spoken has been told.
    has_told_version: bool,
    /// MQTT 5 was accepted, and was not refused since.
    speaks_5: bool,
    has_run: bool,
}

/// What follows from a failure.
#[derive(Debug)]
pub(super) enum Verdict {
    /// To be tried again at once, on other terms.
    Again,
    Tell(Trouble),
}

impl Manner {
    pub(super) fn new(config: &MqttConfig, needs_properties: bool) -> Self {
        let needs_properties = needs_properties && config.version.is_none();
        let home = (config.host.clone(), config.tcp_port());
        Self {
            given: config.version.or(needs_properties.then_some(Version::V5)),
            needs_properties,
            follows: config.follow_redirects,
            has_will: config.status_topic.is_some(),
            terms: Terms {
                host: home.0.clone(),
                port: home.1,
                version: config.version.unwrap_or_default(),
                will_qos: Qos::AtLeastOnce,
                will_retain: true,
                looks: false,
            },
            home,
            is_told: false,
            other_told: false,
            silent: 0,
            is_moved: false,
            hops: 0,
            has_told_version: false,
            speaks_5: false,
            has_run: false,
        }
    }

    /// Results whose ids would go without a word are sent in 3.1.1 only to a broker that says that it speaks no other.
    pub(super) fn giving_ids(self, gives_ids: bool) -> Self {
        Self { speaks_5: gives_ids, ..self }
    }

    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// A broker has accepted us; what is worth a line.
    pub(super) fn accepted(&mut self) -> Option<String> {
        (self.has_run, self.other_told, self.terms.looks) = (true, false, false);
        (self.silent, self.hops) = (0, 0);
        self.speaks_5 |= self.terms.version == Version::V5;
        let older = self.given.is_none() && self.terms.version == Version::V311;
        (older && !std::mem::replace(&mut self.has_told_version, true)).then(|| {
            "the broker speaks MQTT 3.1.1, and 5 not: messages have no user properties, results no ids, and refusals \
             no reasons"
                .to_owned()
        })
    }

    /// A connection was not made.
    pub(super) fn failed(&mut self, trouble: Trouble) -> Verdict {
        match trouble {
            Trouble::Version { told, text } => self.version_failed(told, text),
            Trouble::Will { retain, text } => {
                let humbler = self.has_will
                    && match retain {
                        true => std::mem::replace(&mut self.terms.will_retain, false),
                        false => {
                            std::mem::replace(&mut self.terms.will_qos, Qos::AtMostOnce)
                                != Qos::AtMostOnce
                        }
                    };
                if humbler { Verdict::Again } else { self.tell(Trouble::Fatal(text)) }
            }
            Trouble::Moved { to, for_good, text } => {
                let trouble = self.moved(to.as_deref(), for_good, text);
                trouble.map_or(Verdict::Again, |trouble| self.tell(trouble))
            }
            trouble => {
                // A server that we were sent to and that is away is left for the one that sent us.
                self.is_moved = false;
                self.begin_anew();
                self.tell(trouble)
            }
        }
    }

    /// A connection that stood has ended.
    pub(super) fn ended(&mut self, trouble: Trouble) -> Trouble {
        self.begin_anew();
        match trouble {
            Trouble::Moved { to, for_good, text } => {
                let weather = Trouble::weather("moved", &text);
                self.moved(to.as_deref(), for_good, text).map_or(weather, |it| self.mild(it))
            }
            Trouble::Version { text, .. } | Trouble::Will { text, .. } => {
                Trouble::weather("protocol", text)
            }
            trouble => self.mild(trouble),
        }
    }

    /// The next attempt is the first of its kind.
    fn begin_anew(&mut self) {
        self.other_told = false;
        if self.given.is_none() && !self.is_told {
            self.terms.version = Version::default();
        }
        if !self.is_moved {
            (self.terms.host, self.terms.port) = self.home.clone();
        }
    }

    fn version_failed(&mut self, told: bool, text: String) -> Verdict {
        let (spoken, other) = (self.terms.version, self.terms.version.other());
        if self.given.is_some() {
            let hint = match self.needs_properties {
                true => "this job reads a user property, and only MQTT 5 has those: take another broker, or \
                         have the publisher write it into the payload"
                    .to_owned(),
                false => format!("try version={}", other.name()),
            };
            self.silent = self.silent.saturating_add(u8::from(!told));
            self.terms.looks = self.silent >= SILENT_MAX && !self.has_run;
            return self.tell(match told {
                true => Trouble::Fatal(format!(
                    "unsupported protocol version: the broker does not speak MQTT {}; {hint}",
                    spoken.name()
                )),
                false if self.silent < SILENT_MAX => Trouble::weather("closed", text),
                false => Trouble::weather(
                    "silent",
                    format!("{text}; it may not speak MQTT {}: {hint}", spoken.name()),
                ),
            });
        }
        if told {
            if std::mem::replace(&mut self.other_told, true) {
                let text = "unsupported protocol version: the broker has refused MQTT 5 and 3.1.1; it may speak 3.1, \
                            which we do not";
                self.begin_anew();
                return self.tell(Trouble::Fatal(text.to_owned()));
            }
            (self.is_told, self.terms.version) = (true, other);
            return Verdict::Again;
        }
        self.silent = self.silent.saturating_add(1);
        if self.silent >= SILENT_MAX && spoken == Version::V5 && !self.speaks_5 {
            self.terms.version = other;
            return Verdict::Again;
        }
        self.terms.looks = self.silent >= SILENT_MAX && !self.has_run;
        self.begin_anew();
        self.tell(Trouble::weather("closed", text))
    }

    /// Goes where the broker sends us; otherwise, what is to be said.
    fn moved(&mut self, to: Option<&str>, for_good: bool, text: String) -> Option<Trouble> {
        let server = to.and_then(|to| first_server(to, self.home.1));
        if let (true, Some((host, port))) = (self.follows, &server) {
            self.hops += 1;
            if self.hops <= HOPS_MAX {
                (self.terms.host, self.terms.port) = (host.clone(), *port);
                self.is_moved = for_good;
                return None;
            }
            self.is_moved = false;
            self.begin_anew();
            self.hops = 0;
            let text = format!("{text}; that makes {HOPS_MAX} servers in a row");
            return Some(Trouble::weather("moved", text));
        }
        self.begin_anew();
        let text = match server {
            Some((host, port)) => {
                format!("{text}: write {host}:{port}, or follow_redirects=true")
            }
            None => text,
        };
        Some(if for_good { Trouble::Fatal(text) } else { Trouble::weather("moved", text) })
    }

    fn tell(&self, trouble: Trouble) -> Verdict {
        Verdict::Tell(self.mild(trouble))
    }

    /// What ends a job at its start does not end one that has run: it may be mended at the broker meanwhile.
    pub(super) fn mild(&self, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::Fatal(text) if self.has_run => Trouble::weather("refused", text),
            trouble => trouble,
        }
    }
}

/// The first of the servers in a server reference: `host`, `host:port`, `[address]:port`, with blanks between them.
fn first_server(reference: &str, port: u16) -> Option<(String, u16)> {
    let first = reference.split_whitespace().next()?;
    let (host, port) = match first.rsplit_once(':') {
        Some((host, number)) if !host.contains(':') || host.ends_with(']') => {
            (host, number.parse().ok()?)
        }
        _ => (first, port),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(url: &str) -> Manner {
        Manner::new(&url.parse().unwrap(), false)
    }

    fn told() -> Trouble {
        Trouble::Version { told: true, text: "no".into() }
    }

    fn silent() -> Trouble {
        Trouble::Version { told: false, text: "it closed".into() }
    }

    /// Fails with each of these, and says what followed: `again` with its version, `fatal` or `weather`.
    fn play(manner: &mut Manner, troubles: impl IntoIterator<Item = Trouble>) -> String {
        let all: Vec<_> = troubles
            .into_iter()
            .map(|trouble| match manner.failed(trouble) {
                Verdict::Again => format!("again {}", manner.terms().version.name()),
                Verdict::Tell(Trouble::Fatal(_)) => "fatal".to_owned(),
                Verdict::Tell(_) => format!("weather {}", manner.terms().version.name()),
            })
            .collect();
        all.join(", ")
    }

    #[test]
    fn a_broker_that_refuses_5_by_words_is_spoken_to_in_3_1_1_for_good() {
        let mut it = manner("mqtt://h");
        assert_eq!(play(&mut it, [told()]), "again 3.1.1");
        assert!(it.accepted().is_some_and(|line| line.contains("3.1.1")));
        let away = || Trouble::weather("connect", "refused");
        it.ended(away());
        assert_eq!(play(&mut it, [away(), away()]), "weather 3.1.1, weather 3.1.1");
        assert_eq!(it.accepted(), None, "one line says so");
        // The broker is a newer one now.
        it.ended(away());
        assert_eq!(play(&mut it, [told()]), "again 5");
        assert_eq!(it.accepted(), None);
    }

    #[test]
    fn a_broker_that_refuses_both_ends_the_job_and_so_does_a_version_that_is_given() {
        assert_eq!(play(&mut manner("mqtt://h"), [told(), told()]), "again 3.1.1, fatal");
        for (url, hint) in [
            ("mqtt://h?version=5", "try version=3.1.1"),
            ("mqtt://h?version=3.1.1", "try version=5"),
        ] {
            match manner(url).failed(told()) {
                Verdict::Tell(Trouble::Fatal(text)) => assert!(text.ends_with(hint), "{text}"),
                other => panic!("{other:?}"),
            }
            assert!(!play(&mut manner(url), [silent(), silent(), silent()]).contains("again"));
        }
    }

    #[test]
    fn a_job_that_needs_user_properties_ends_where_only_3_1_1_is_spoken() {
        let mut it = Manner::new(&"mqtt://h".parse().unwrap(), true);
        match it.failed(told()) {
            Verdict::Tell(Trouble::Fatal(text)) => {
                assert!(text.contains("reads a user property"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let mut it = Manner::new(&"mqtt://h".parse().unwrap(), true);
        assert_eq!(play(&mut it, [silent(), silent()]), "weather 5, weather 5");
        // Who names the version knows.
        let it = Manner::new(&"mqtt://h?version=3.1.1".parse().unwrap(), true);
        assert_eq!((it.terms().version, it.needs_properties), (Version::V311, false));
    }

    #[test]
    fn a_broker_that_is_down_or_starting_changes_nothing_for_good() {
        let mut it = manner("mqtt://h");
        let away = || Trouble::weather("connect", "refused");
        assert_eq!(play(&mut it, [away(), away(), away()]), "weather 5, weather 5, weather 5");
        assert_eq!(play(&mut it, [silent(), silent()]), "weather 5, again 3.1.1");
        assert!(!it.terms().looks);
        assert_eq!(play(&mut it, [silent()]), "weather 5");
        assert!(it.terms().looks, "neither is answered: TLS may be what it waits for");
        assert_eq!(play(&mut it, [silent()]), "again 3.1.1");
        assert!(it.accepted().is_some());
        it.ended(away());
        assert_eq!((it.terms().version, it.terms().looks), (Version::V5, false));
    }

    #[test]
    fn a_broker_that_has_accepted_5_is_asked_in_5_until_it_refuses_that_by_words() {
        let mut it = manner("mqtt://h");
        assert_eq!(it.accepted(), None);
        it.ended(Trouble::weather("closed", ""));
        let met = play(&mut it, [silent(), silent(), silent(), silent()]);
        assert_eq!(met, "weather 5, weather 5, weather 5, weather 5");
        assert_eq!(it.accepted(), None);
        it.ended(Trouble::weather("closed", ""));
        assert_eq!(play(&mut it, [silent(), told()]), "weather 5, again 3.1.1");
        assert!(it.accepted().is_some());
    }

    #[test]
    fn what_ends_a_start_is_weather_for_a_job_that_has_run() {
        let mut it = manner("mqtt://h");
        let fatal = || Trouble::Fatal("wrong password".into());
        assert_eq!(play(&mut it, [fatal()]), "fatal");
        it.accepted();
        assert_eq!(play(&mut it, [fatal()]), "weather 5");
    }

    #[test]
    fn a_will_becomes_humbler_if_there_is_one() {
        let will = |retain| Trouble::Will { retain, text: "no".into() };
        assert_eq!(play(&mut manner("mqtt://h"), [will(true)]), "fatal");
        let mut it = manner("mqtt://h?status_topic=s");
        assert_eq!(play(&mut it, [will(false), will(true)]), "again 5, again 5");
        assert_eq!((it.terms().will_qos, it.terms().will_retain), (Qos::AtMostOnce, false));
        assert_eq!(play(&mut it, [will(false)]), "fatal");
    }

    #[test]
    fn other_servers_are_named_and_followed_if_that_is_allowed() {
        let moved = |to: &str, for_good| Trouble::Moved {
            to: Some(to.into()),
            for_good,
            text: "the broker sends us away".into(),
        };
        let mut it = manner("mqtt://h:1999");
        match it.failed(moved("other:7 third", true)) {
            Verdict::Tell(Trouble::Fatal(text)) => {
                assert!(text.contains("write other:7, or follow_redirects=true"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(play(&mut it, [moved("other", false)]), "weather 5");
        assert_eq!((&*it.terms().host, it.terms().port), ("h", 1999));

        let mut it = manner("mqtt://h:1999?follow_redirects=true");
        assert_eq!(play(&mut it, [moved("other:7", false)]), "again 5");
        assert_eq!((&*it.terms().host, it.terms().port), ("other", 7));
        it.accepted();
        it.ended(Trouble::weather("closed", ""));
        assert_eq!(it.terms().host, "h", "it was for a while");
        it.ended(moved("[::1]", true));
        assert_eq!((&*it.terms().host, it.terms().port), ("[::1]", 1999));
        it.accepted();
        it.ended(Trouble::weather("closed", ""));
        assert_eq!(it.terms().host, "[::1]", "it was for good");
        let mut it = manner("mqtt://h?follow_redirects=true");
        let round = std::iter::repeat_with(|| moved("other", false)).take(6);
        let met = play(&mut it, round);
        assert!(met.starts_with("again") && met.ends_with("weather 5"), "{met}");
        assert_eq!(it.terms().host, "h");
    }

    #[test]
    fn server_references_are_read() {
        for (text, expected) in [
            ("a", Some(("a", 9))),
            ("a:7 b", Some(("a", 7))),
            ("[::1]:7", Some(("[::1]", 7))),
            ("::1", Some(("::1", 9))),
            ("", None),
            (":7", None),
            ("a:x", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(first_server(text, 9), expected, "{text:?}");
        }
    }
}
