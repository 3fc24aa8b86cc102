//! Topic filters with named levels.
//!
//! | filter | subscribes | binds |
//! |---|---|---|
//! | `sensors/{device}/temp` | `sensors/+/temp` | `device` |
//! | `plant/{line}/{path...}` | `plant/+/#` | `line`, and `path`: the rest of the topic |
//! | `$share/group/sensors/{device}` | `$share/group/sensors/+` | `device`; the broker deals the messages out to the group |
//!
//! Plain `+` and `#` work too and bind nothing.
//!
//! **Overlapping filters.** A message belongs to the first filter, in the order given, that matches its topic: that one names
//! its levels. It counts once, whether a broker sends one copy or one for each subscription: see module `source::copies`, and what
//! cannot be known there.

use thalweg_kernel::{ConfigError, Str};

/// The most named levels of one filter.
pub const BINDINGS_MAX: usize = 8;
/// The longest name of a level, in bytes: a longer one could not be cloned without allocating.
pub const NAME_BYTES_MAX: usize = 24;
/// The longest topic or filter, in bytes.
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// The values of a message's named levels.
pub(crate) type Bindings<'a> = Vec<(Str, &'a str)>;

/// The most levels of a topic. Mosquitto ends the connection on more of them.
pub const LEVELS_MAX: usize = 200;

/// Why `topic` cannot be published to, if it cannot. A broker need take none of these topics, and many end the connection
/// on one. (MQTT 5, 1.5.4, allows that for control characters and for code points that are no characters.)
pub(crate) fn check_topic(topic: &str) -> Result<(), String> {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'+' && byte != b'#';
    if topic.is_empty() {
        Err("it is empty".to_owned())
    } else if topic.len() > TOPIC_BYTES_MAX {
        Err(format!("it is longer than {TOPIC_BYTES_MAX} bytes"))
    } else if topic.len() >= LEVELS_MAX && topic.split('/').count() > LEVELS_MAX {
        Err(format!("it has more than {LEVELS_MAX} levels"))
    } else if topic.bytes().all(is_plain) {
        Ok(())
    } else if topic.contains(['+', '#']) {
        Err("it has a wildcard, '+' or '#'".to_owned())
    } else {
        topic.chars().try_for_each(check_char)
    }
}

/// Why a broker need not take a text with this character, if it need not.
pub(crate) fn check_char(char: char) -> Result<(), String> {
    let code = u32::from(char);
    if char.is_control() {
        Err(format!("it has the control character U+{code:04X}"))
    } else if code & 0xfffe == 0xfffe || (0xfdd0..=0xfdef).contains(&code) {
        Err(format!("it has U+{code:04X}, which is no character"))
    } else {
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Text(String),
    Any(Option<Str>),
}

/// What follows the levels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tail {
    Nothing,
    Rest(Option<Str>),
}

/// One topic filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFilter {
    subscription: String,
    levels: Vec<Level>,
    tail: Tail,
}

impl TopicFilter {
    /// Parses a filter.
    ///
    /// # Errors
    /// Names the level at fault, counted from 1.
    pub fn parse(filter: &str) -> Result<Self, ConfigError> {
        let wrong = |allowed: String| ConfigError::new("topic", filter, allowed);
        let is_text = filter.chars().all(|char| check_char(char).is_ok());
        if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX || !is_text {
            return Err(wrong("1 to 65535 bytes without NUL or other control characters".into()));
        }
        let mut subscription = String::with_capacity(filter.len());
        let (mut pattern, mut number) = (filter, 0);
        if let Some(shared) = filter.strip_prefix("$share/") {
            let (group, rest) = shared.split_once('/').unwrap_or((shared, ""));
            if group.is_empty() || group.contains(['+', '#', '{', '}']) || rest.is_empty() {
                return Err(wrong(
                    "$share/GROUP/FILTER with a group name without wildcards".into(),
                ));
            }
            subscription.push_str(&filter[..filter.len() - rest.len()]);
            (pattern, number) = (rest, 2);
        }
        let mut parsed = Self { subscription, levels: Vec::new(), tail: Tail::Nothing };
        let mut names: Vec<Str> = Vec::new();
        let mut parts = pattern.split('/').peekable();
        while let Some(part) = parts.next() {
            number += 1;
            let last = parts.peek().is_none();
            parsed
                .push(part, last, &mut names)
                .map_err(|reason| wrong(format!("{reason} (level {number}: {part:?})")))?;
        }
        Ok(parsed)
    }

    fn push(&mut self, part: &str, last: bool, names: &mut Vec<Str>) -> Result<(), String> {
        let mut name = |text: &str| {
            let good = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && text.starts_with(|c: char| !c.is_ascii_digit())
                && text.len() <= NAME_BYTES_MAX;
            if !good {
                return Err(format!(
                    "names of letters, digits and '_', not beginning with a digit, of at most \
                     {NAME_BYTES_MAX} bytes"
                ));
            }
            let text = Str::from(text);
            if names.contains(&text) {
                return Err("each name once".to_owned());
            }
            if names.len() == BINDINGS_MAX {
                return Err(format!("at most {BINDINGS_MAX} names"));
            }
            names.push(text.clone());
            Ok(text)
        };
        if !self.levels.is_empty() {
            self.subscription.push('/');
        }
        let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
        let rest = inner.and_then(|inner| inner.strip_suffix("..."));
        if part == "#" || rest.is_some() {
            if !last {
                return Err("'#' and {name...} only as the last level".to_owned());
            }
            self.tail = Tail::Rest(rest.map(&mut name).transpose()?);
            self.subscription.push('#');
        } else if part == "+" || inner.is_some() {
            self.levels.push(Level::Any(inner.map(&mut name).transpose()?));
            self.subscription.push('+');
        } else if part.contains(['+', '#', '{', '}']) {
            return Err("text, '+', '#', {name} or {name...}, each as a whole level".to_owned());
        } else {
            self.levels.push(Level::Text(part.to_owned()));
            self.subscription.push_str(part);
        }
        Ok(())
    }

    /// What the broker is asked for.
    pub fn subscription(&self) -> &str {
        &self.subscription
    }

    /// Whether the broker deals its messages out to a group.
    pub(crate) fn is_shared(&self) -> bool {
        self.subscription.starts_with("$share/")
    }

    /// Whether the first level of `other` is a text that no wildcard means, such as `$SYS`, and ours is a wildcard.
    fn leaves_out(&self, other: &Self) -> bool {
        let is_wild = !matches!(self.levels.first(), Some(Level::Text(_)));
        let first = other.levels.first();
        is_wild && matches!(first, Some(Level::Text(text)) if text.starts_with('$'))
    }

    /// Whether each topic that `other` matches is one of ours. Shared subscriptions cover nothing and are not covered.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let has_rest = |filter: &Self| filter.tail != Tail::Nothing;
        if self.is_shared() || other.is_shared() || self.leaves_out(other) {
            return false;
        }
        let ends_alike = self.levels.len() == other.levels.len() && !has_rest(other);
        // `#` alone is as `+/#`: each topic has a level.
        let begins_alike = has_rest(self) && self.levels.len() <= other.levels.len().max(1);
        let theirs = other.levels.iter().map(Some).chain([None]);
        (begins_alike || ends_alike)
            && self.levels.iter().zip(theirs).all(|(ours, theirs)| match (ours, theirs) {
                (Level::Any(_), _) => true,
                (Level::Text(ours), Some(Level::Text(theirs))) => ours == theirs,
                (Level::Text(_), _) => false,
            })
    }

    /// Whether there is a topic that both match.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let reaches = |shorter: &Self, longer: &Self| {
            shorter.levels.len() == longer.levels.len() || shorter.tail != Tail::Nothing
        };
        let (shorter, longer) =
            if self.levels.len() <= other.levels.len() { (self, other) } else { (other, self) };
        reaches(shorter, longer)
            && !self.leaves_out(other)
            && !other.leaves_out(self)
            && self.levels.iter().zip(&other.levels).all(|(ours, theirs)| match (ours, theirs) {
                (Level::Text(ours), Level::Text(theirs)) => ours == theirs,
                _ => true,
            })
    }

    /// Whether `topic` matches; if so, `bindings` holds the values of the named levels.
    /// Allocates only to grow `bindings`.
    pub(crate) fn matches<'a>(&self, topic: &'a str, bindings: &mut Bindings<'a>) -> bool {
        bindings.clear();
        // Topics like `$SYS/...` are not meant by a filter that begins with a wildcard.
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Text(_))) {
            return false;
        }
        let mut rest = Some(topic);
        for level in &self.levels {
            let Some(text) = rest else { return false };
            let value;
            (value, rest) = match text.split_once('/') {
                Some((value, after)) => (value, Some(after)),
                None => (text, None),
            };
            match level {
                Level::Text(wanted) if wanted == value => {}
                Level::Text(_) => return false,
                Level::Any(None) => {}
                Level::Any(Some(name)) => bindings.push((name.clone(), value)),
            }
        }
        match &self.tail {
            Tail::Nothing => rest.is_none(),
            Tail::Rest(name) => {
                // `a/#` matches `a` too; its rest is empty then.
                if let Some(name) = name {
                    bindings.push((name.clone(), rest.unwrap_or_default()));
                }
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(filter: &str, topic: &str) -> Option<String> {
        let filter = TopicFilter::parse(filter).unwrap_or_else(|error| panic!("{error}"));
        let mut bindings = vec![("stale".into(), "stale")];
        filter.matches(topic, &mut bindings).then(|| {
            let shown: Vec<_> =
                bindings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            shown.join(" ")
        })
    }

    #[test]
    fn topics_that_a_broker_need_not_take_are_known() {
        let long = "x".repeat(TOPIC_BYTES_MAX + 1);
        let deep = "/".repeat(LEVELS_MAX);
        for (topic, expected) in [
            ("", "empty"),
            (&*long, "longer than 65535 bytes"),
            (&*deep, "more than 200 levels"),
            ("a/+", "wildcard"),
            ("a#", "wildcard"),
            ("a\0", "U+0000"),
            ("d\u{7}", "the control character U+0007"),
            ("\u{1f}", "U+001F"),
            ("a\u{7f}", "U+007F"),
            ("a\u{85}", "U+0085"),
            ("a\u{9f}", "U+009F"),
            ("a\u{fdd0}", "U+FDD0, which is no character"),
            ("a\u{fdef}", "U+FDEF"),
            ("a\u{fffe}", "U+FFFE"),
            ("a\u{1ffff}", "U+1FFFF"),
            ("a\u{10fffe}", "U+10FFFE"),
        ] {
            let why = check_topic(topic).expect_err(topic);
            assert!(why.contains(expected), "{topic:?}: {why}");
        }
        let edges = "a/ ~\u{a0}\u{ad}\u{fdcf}\u{fdf0}\u{feff}\u{fffd}\u{10fffd}";
        for topic in ["a", "/", "$SYS/x", "größe/1", edges, &deep[1..], &long[1..]] {
            assert_eq!(check_topic(topic), Ok(()), "{topic:?}");
        }
    }

    #[test]
    fn filters_subscribe_and_bind() {
        let cases = [
            ("sensors/{device}/temp", "sensors/+/temp", "sensors/d7/temp", Some("device=d7")),
            ("sensors/{device}/temp", "sensors/+/temp", "sensors//temp", Some("device=")),
            ("sensors/{device}/temp", "sensors/+/temp", "sensors/d7/hum", None),
            ("sensors/{device}/temp", "sensors/+/temp", "sensors/d7", None),
            ("sensors/{device}/temp", "sensors/+/temp", "sensors/d7/temp/x", None),
            ("sensors/{device}/temp", "sensors/+/temp", "sensors/d7/temp/", None),
            ("{a}/{b}", "+/+", "/", Some("a= b=")),
            ("{a}", "+", "x", Some("a=x")),
            ("{a}", "+", "x/y", None),
            ("+/x", "+/x", "q/x", Some("")),
            ("a", "a", "a", Some("")),
            ("a", "a", "A", None),
            ("#", "#", "a/b/c", Some("")),
            ("#", "#", "$SYS/x", None),
            ("+/x", "+/x", "$SYS/x", None),
            ("$SYS/{what...}", "$SYS/#", "$SYS/broker/load", Some("what=broker/load")),
            ("a/{rest...}", "a/#", "a/b/c", Some("rest=b/c")),
            ("a/{rest...}", "a/#", "a/", Some("rest=")),
            ("a/{rest...}", "a/#", "a", Some("rest=")),
            ("a/{rest...}", "a/#", "ab", None),
            ("{rest...}", "#", "a/b", Some("rest=a/b")),
            ("$share/g/s/{d}", "$share/g/s/+", "s/1", Some("d=1")),
            ("$share/g/s/{d}", "$share/g/s/+", "$share/g/s/1", None),
            ("a//{b}", "a//+", "a//c", Some("b=c")),
            ("straße/{ort}", "straße/+", "straße/köln", Some("ort=köln")),
        ];
        for (filter, subscription, topic, expected) in cases {
            let parsed = TopicFilter::parse(filter).expect(filter);
            assert_eq!(parsed.subscription(), subscription, "{filter}");
            assert_eq!(bind(filter, topic).as_deref(), expected, "{filter} on {topic}");
        }
    }

    #[test]
    fn wrong_filters_name_their_level() {
        let long = format!("{{{}}}", "x".repeat(25));
        let nine = (0..9).map(|i| format!("{{n{i}}}")).collect::<Vec<_>>().join("/");
        let cases = [
            ("", "1 to 65535 bytes"),
            ("a\0b", "without NUL"),
            ("a/\u{7}", "other control characters"),
            ("a/b+/c", "level 2: \"b+\""),
            ("a/#/c", "level 2: \"#\""),
            ("a/{b...}/c", "level 2"),
            ("a/b#", "level 2: \"b#\""),
            ("a/t{x}", "level 2: \"t{x}\""),
            ("{x", "level 1: \"{x\""),
            ("{}", "not beginning with a digit"),
            ("{1x}", "not beginning with a digit"),
            ("{a-b}", "letters, digits and '_'"),
            ("{a b}/c", "level 1"),
            ("{...}", "level 1"),
            ("{a}/{b}/{a}", "each name once (level 3"),
            (long.as_str(), "at most 24 bytes"),
            (nine.as_str(), "at most 8 names (level 9"),
            ("$share/g", "$share/GROUP/FILTER"),
            ("$share//a", "$share/GROUP/FILTER"),
            ("$share/g+/a", "$share/GROUP/FILTER"),
            ("$share/g/a/b+", "level 4: \"b+\""),
        ];
        for (filter, allowed) in cases {
            let error = TopicFilter::parse(filter).expect_err(filter);
            assert_eq!((error.key.as_str(), error.value.as_str()), ("topic", filter));
            assert!(error.allowed.contains(allowed), "{filter}: {error}");
        }
    }

    /// Goal: the matcher agrees with the standard's rules.
    /// Method: every filter and topic of up to three levels over a small alphabet, against a
    /// recursive model.
    #[test]
    fn matching_agrees_with_a_plain_model() {
        fn model(filter: &[&str], topic: &[&str]) -> bool {
            match (filter, topic) {
                (["#"], _) => true,
                ([], []) => true,
                (["+", filter @ ..], [_, topic @ ..]) => model(filter, topic),
                ([f, filter @ ..], [t, topic @ ..]) if f == t => model(filter, topic),
                _ => false,
            }
        }
        fn all(alphabet: &[&'static str]) -> Vec<Vec<&'static str>> {
            let mut out: Vec<Vec<&str>> = vec![vec![]];
            let mut from = 0;
            for _ in 0..3 {
                let to = out.len();
                for i in from..to {
                    for part in alphabet {
                        let mut longer = out[i].clone();
                        longer.push(part);
                        out.push(longer);
                    }
                }
                from = to;
            }
            out.retain(|parts| !parts.is_empty() && *parts != [""]);
            out
        }
        for filter in all(&["a", "", "+", "#"]) {
            let Ok(parsed) = TopicFilter::parse(&filter.join("/")) else { continue };
            for topic in all(&["a", "b", ""]) {
                let joined = topic.join("/");
                let found = parsed.matches(&joined, &mut Vec::new());
                assert_eq!(found, model(&filter, &topic), "{filter:?} on {topic:?}");
            }
        }
    }

    /// Goal: what covers and overlaps does so on topics. Method: every two filters, and every topic, of up to three levels over a
    /// small alphabet.
    #[test]
    fn filters_cover_and_overlap_as_their_topics_do() {
        fn all(alphabet: &[&'static str]) -> Vec<String> {
            let mut out: Vec<Vec<&str>> = vec![vec![]];
            let mut from = 0;
            for _ in 0..3 {
                let to = out.len();
                for i in from..to {
                    out.extend(
                        alphabet
                            .iter()
                            .map(|part| [&out[i][..], &[*part]].concat())
                            .collect::<Vec<_>>(),
                    );
                }
                from = to;
            }
            out.into_iter().map(|parts| parts.join("/")).filter(|topic| !topic.is_empty()).collect()
        }
        let parsed = |filter: &String| TopicFilter::parse(filter).ok();
        let filters: Vec<_> = all(&["a", "$b", "+", "#"]).iter().filter_map(parsed).collect();
        let topics = all(&["a", "$b", "c"]);
        // One more level than any filter has, for those with a rest.
        let topics: Vec<_> = topics.iter().flat_map(|t| [t.clone(), format!("{t}/c")]).collect();
        let matched: Vec<Vec<bool>> = filters
            .iter()
            .map(|f| topics.iter().map(|topic| f.matches(topic, &mut Vec::new())).collect())
            .collect();
        for (a, in_a) in filters.iter().zip(&matched) {
            for (b, in_b) in filters.iter().zip(&matched) {
                let both = || in_a.iter().zip(in_b);
                let covers = both().all(|(a, b)| *a || !*b);
                let overlaps = both().any(|(a, b)| *a && *b);
                let names = (a.subscription(), b.subscription());
                assert_eq!((a.covers(b), a.overlaps(b)), (covers, overlaps), "{names:?}");
            }
        }
    }
}
