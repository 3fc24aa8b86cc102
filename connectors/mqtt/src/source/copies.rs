//! Filters that overlap: what is asked of the broker, and which copies of a message count. Pure.
//!
//! A message that several of our filters match may come once, or once for each subscription: the standard lets brokers
//! choose. Mosquitto sends one copy on MQTT 3.1.1 and one per subscription on MQTT 5. A message counts once whatever
//! a broker does:
//!
//! 1. A filter that another one of ours covers is not subscribed to. `sensors/#` brings what `sensors/+/temp` does. (In a session that
//!    is kept it may have been; then the subscription is taken back.) After that most sources have no filters that overlap.
//! 2. Filters that overlap and cover each other in part (`a/+/c` and `a/b/+`) are subscribed to with *identifiers*, on MQTT 5.
//!    A copy names the subscriptions that it came for. It counts if the first of our filters that matches its topic is among them.
//!    So of several copies one counts, and the only copy does. No copy needs to be remembered for that.
//! 3. On MQTT 3.1.1, and with brokers that have no identifiers, copies are told by coming one behind the other: an equal message that
//!    comes at once is a copy, up to the number of filters that match. The first message that comes alone shows that this broker
//!    sends one copy. From then on each counts.
//!
//! Identifiers are made of all filters together. What was routed under other filters, and waits in the session, names none of
//! ours. It counts: nothing is lost where a job has changed its filters.
//!
//! A shared subscription deals a message to one of its group. So its copies count where no other filter of ours matches, and no
//! filter covers it.
//!
//! # What cannot be known
//! - In case 3, whether two equal messages in a row are copies, until one has come alone. The second of two equal readings may be lost,
//!   once in the life of a source. A broker that mixes copies of several messages counts them all.
//! - Which of two groups' shared subscriptions, which overlap, would have brought a message.
//! - What a subscription that a job before has left in the session will bring. Give another `client_id` then.

use xxhash_rust::xxh3::xxh3_64;

use crate::link::Delivery;
use crate::topic::TopicFilter;

/// The largest subscription identifier of MQTT 5.
const IDENTIFIER_MAX: u64 = 268_435_455;

/// A filter that is subscribed to.
#[derive(Debug)]
pub(crate) struct Asked {
    filter: TopicFilter,
    identifier: u32,
}

impl Asked {
    /// What the broker is asked for.
    pub(crate) fn subscription(&self) -> &str {
        self.filter.subscription()
    }
}

/// How the broker delivers what several filters match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Unknown,
    /// Once.
    Once,
    /// Once for each filter.
    Each,
}

/// The last message, while copies of it may come.
#[derive(Clone, Copy, Debug)]
struct Last {
    fingerprint: u64,
    copies: usize,
    filters: usize,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Copies {
    asked: Vec<Asked>,
    covered: Vec<String>,
    /// Two that overlap, if there are two.
    overlap: Option<(usize, usize)>,
    /// The broker knows identifiers.
    identified: bool,
    manner: Manner,
    last: Option<Last>,
}

impl Copies {
    /// What is asked for these filters.
    pub(crate) fn of(filters: &[TopicFilter]) -> Self {
        let is_covered = |at: usize| {
            filters.iter().enumerate().any(|(other, by)| {
                other != at
                    && by.covers(&filters[at])
                    // Of two that are equal the first stays.
                    && (other < at || !filters[at].covers(by))
            })
        };
        let (mut asked, mut covered) = (Vec::<TopicFilter>::new(), Vec::new());
        for (at, filter) in filters.iter().enumerate() {
            match is_covered(at) {
                // An equal one stays.
                true if filters[..at].iter().any(|f| f.subscription() == filter.subscription()) => {
                }
                true => covered.push(filter.subscription().to_owned()),
                false => asked.push(filter.clone()),
            }
        }
        let mut pairs = (0..asked.len()).flat_map(|at| (0..at).map(move |before| (before, at)));
        let overlap = pairs.find(|(a, b)| asked[*a].overlaps(&asked[*b]));
        let all: String = asked.iter().flat_map(|filter| [filter.subscription(), "\n"]).collect();
        let mut identifiers: Vec<u32> = Vec::new();
        for at in 0..asked.len() {
            let mut identifier = xxh3_64(format!("{at} {all}").as_bytes()) % IDENTIFIER_MAX + 1;
            while identifiers.contains(&(identifier as u32)) {
                identifier = identifier % IDENTIFIER_MAX + 1;
            }
            identifiers.push(identifier as u32);
        }
        let asked = asked.into_iter().zip(identifiers);
        Self {
            asked: asked.map(|(filter, identifier)| Asked { filter, identifier }).collect(),
            covered,
            overlap,
            identified: false,
            manner: Manner::Unknown,
            last: None,
        }
    }

    /// A connection to a broker that has identifiers, or none.
    pub(crate) fn connected(&mut self, identifiers: bool) {
        self.identified = identifiers;
        self.last = None;
    }

    /// What is subscribed to, one part after the other, each with its identifier.
    pub(crate) fn part(&self, part: usize) -> Option<(Option<u32>, &[Asked])> {
        if self.overlap.is_some() && self.identified {
            let asked = self.asked.get(part..=part)?;
            return Some((asked.first().map(|asked| asked.identifier), asked));
        }
        (part == 0).then_some((None, &self.asked[..]))
    }

    /// Filters that need no subscription, and may have one in a session that is kept.
    pub(crate) fn covered(&self) -> &[String] {
        &self.covered
    }

    /// Two filters that overlap, where their copies can only be guessed.
    pub(crate) fn doubt(&self) -> Option<(&str, &str)> {
        let (a, b) = self.overlap.filter(|_| !self.identified)?;
        Some((self.asked[a].subscription(), self.asked[b].subscription()))
    }

    /// Whether this is a further copy of a message, which does not count.
    #[inline]
    pub(crate) fn is_copy(&mut self, delivery: &Delivery) -> bool {
        self.overlap.is_some() && self.judge(delivery)
    }

    fn judge(&mut self, delivery: &Delivery) -> bool {
        let topic = String::from_utf8_lossy(&delivery.topic);
        let mut bindings = Vec::new();
        let plain = |asked: &&Asked| !asked.filter.is_shared();
        let mut matching =
            self.asked.iter().filter(plain).filter(|it| it.filter.matches(&topic, &mut bindings));
        if self.identified {
            let ours =
                |asked: &Asked| delivery.subscriptions.contains(&(asked.identifier as usize));
            return matching.next().is_some_and(|first| {
                // One that names none of ours was routed before we asked like this.
                !ours(first) && self.asked.iter().any(ours)
            });
        }
        let filters = matching.count();
        let fingerprint = {
            let Delivery { qos, retained, payload, .. } = delivery;
            let seed = xxh3_64(topic.as_bytes()) ^ (*qos as u64) ^ (u64::from(*retained) << 8);
            xxhash_rust::xxh3::xxh3_64_with_seed(payload, seed)
        };
        if let Some(last) = &mut self.last
            && last.fingerprint == fingerprint
            && last.copies < last.filters
            && self.manner != Manner::Once
        {
            last.copies += 1;
            if last.copies == last.filters {
                self.manner = Manner::Each;
            }
            return true;
        }
        if self.last.is_some_and(|last| last.filters > 1 && last.copies == 1) {
            self.manner = Manner::Once;
        }
        self.last = Some(Last { fingerprint, copies: 1, filters });
        false
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::Qos;

    fn copies(filters: &[&str]) -> Copies {
        let parse = |filter: &&str| TopicFilter::parse(filter).unwrap();
        Copies::of(&filters.iter().map(parse).collect::<Vec<_>>())
    }

    fn asked(copies: &Copies) -> Vec<&str> {
        copies.asked.iter().map(Asked::subscription).collect()
    }

    fn delivery(topic: &'static str, payload: &'static str, subscriptions: &[u32]) -> Delivery {
        Delivery {
            topic: Bytes::from_static(topic.as_bytes()),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: Qos::AtLeastOnce,
            packet_id: 1,
            dup: false,
            is_copy: false,
            is_cut: false,
            left_out: 0,
            retained: false,
            subscriptions: subscriptions.iter().map(|id| *id as usize).collect(),
            user_properties: Vec::new(),
        }
    }

    #[test]
    fn what_another_filter_covers_is_not_asked_for() {
        for (filters, expected, covered) in [
            (
                &["sensors/{device}/temp", "sensors/#"][..],
                &["sensors/#"][..],
                &["sensors/+/temp"][..],
            ),
            (&["a/{x}", "a/{y}"], &["a/+"], &[]),
            (&["a/{x}", "a/b", "a/{y}"], &["a/+"], &["a/b"]),
            (&["#", "$SYS/#", "a"], &["#", "$SYS/#"], &["a"]),
            (&["$share/g/a/b", "a/#"], &["$share/g/a/b", "a/#"], &[]),
            (&["a/+/c", "a/b/+"], &["a/+/c", "a/b/+"], &[]),
        ] {
            let copies = copies(filters);
            assert_eq!(
                (asked(&copies), &copies.covered[..]),
                (
                    expected.to_vec(),
                    covered.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>().as_slice()
                ),
                "{filters:?}"
            );
        }
        let of = copies(&["a", "b/#", "c/+"]);
        assert!(of.overlap.is_none() && of.doubt().is_none());
        let (identifier, all) = of.part(0).unwrap();
        assert_eq!((identifier, all.len(), of.part(1).is_none()), (None, 3, true));
    }

    /// Goal: with identifiers each message counts once, for any filters, topics, and manner of delivery.
    #[test]
    fn with_identifiers_one_copy_counts_whichever_way_they_come() {
        let filters = ["a/+/c", "a/b/+", "+/b/c", "x", "$share/g/a/#"];
        let mut of = copies(&filters);
        of.connected(true);
        let ids: Vec<u32> = (0..).map_while(|part| of.part(part)?.0).collect();
        assert_eq!(ids.len(), filters.len());
        for (topic, matching) in [
            ("a/b/c", &[0, 1, 2, 4][..]),
            ("a/x/c", &[0, 4]),
            ("a/b/x", &[1, 4]),
            ("x", &[3]),
            ("z/b/c", &[2]),
        ] {
            let all: Vec<u32> = matching.iter().map(|at: &usize| ids[*at]).collect();
            assert!(!of.is_copy(&delivery(topic, "1", &all)), "one copy on {topic}");
            for order in [all.clone(), all.iter().rev().copied().collect()] {
                let count =
                    order.iter().filter(|id| !of.is_copy(&delivery(topic, "1", &[**id]))).count();
                assert_eq!(count, 1, "a copy for each on {topic}");
            }
            assert!(!of.is_copy(&delivery(topic, "1", &[])), "a broker that names nothing");
            assert!(!of.is_copy(&delivery(topic, "1", &[7])), "routed under other filters");
        }
        // Dealt to us by the group, and matched by no other filter.
        assert!(!of.is_copy(&delivery("a/q", "1", &[ids[4]])));
    }

    #[test]
    fn identifiers_are_those_of_the_whole_list() {
        let ids = |filters: &[&str]| {
            let mut of = copies(filters);
            of.connected(true);
            (0..).map_while(|part| of.part(part)?.0).collect::<Vec<_>>()
        };
        let (one, other) = (ids(&["a/+/c", "a/b/+"]), ids(&["a/b/+", "a/+/c"]));
        assert_eq!(one, ids(&["a/{x}/c", "a/b/{y}"]));
        assert!(one.iter().all(|id| !other.contains(id)) && one[0] != one[1]);
        assert!(one.iter().all(|id| (1..=IDENTIFIER_MAX).contains(&u64::from(*id))));
    }

    /// Which of these payloads count, all on a topic of two filters but those that begin with `x`.
    fn counted(of: &mut Copies, payloads: &[&'static str]) -> String {
        let topic = |payload: &str| if payload.starts_with('x') { "x" } else { "a/b/c" };
        let count = |payload: &&&'static str| !of.is_copy(&delivery(topic(payload), payload, &[]));
        payloads.iter().filter(count).copied().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn without_identifiers_equal_messages_in_a_row_are_copies_until_one_comes_alone() {
        let filters = ["a/+/c", "a/b/+", "x"];
        let mut each = copies(&filters);
        each.connected(false);
        assert_eq!(each.doubt(), Some(("a/+/c", "a/b/+")));
        assert_eq!(counted(&mut each, &["1", "1", "2", "2", "x", "x", "3", "3"]), "1 2 x x 3");
        assert_eq!(counted(&mut each, &["4", "4", "4", "4"]), "4 4", "two equal ones, twice each");
        let mut once = copies(&filters);
        once.connected(false);
        assert_eq!(counted(&mut once, &["1", "2", "2", "x1", "2"]), "1 2 2 x1 2");
        // What cannot be known: this broker has not shown how it delivers.
        let mut unlucky = copies(&filters);
        unlucky.connected(false);
        assert_eq!(counted(&mut unlucky, &["1", "1", "2", "3", "3"]), "1 2 3 3");
    }
}
