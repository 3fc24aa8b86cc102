//! What stands in a row: each field is a function of the seed, the row's number and the field's place. So any partition
//! can make any row at any time, and makes it equal each time.

use thalweg_kernel::options::Named;
use thalweg_kernel::{ConfigError, Field, Str, Timestamp, choices, options};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRule {
    /// `start`, `start + step`, and so on.
    Sequence,
    /// A whole number from `min` to `max`, by chance.
    Integer,
    /// A number from `min` up to `max`, by chance.
    Float,
    /// One of `words`, by chance.
    Choice,
    /// The name of one of `count` devices, by chance: `prefix` and a number.
    Device,
    /// An event time: `step` after that of the row before, and up to `disorder` earlier, by chance.
    Time,
}

choices! {
    FieldRule:
    "sequence" => FieldRule::Sequence,
    "integer" => FieldRule::Integer,
    "float" => FieldRule::Float,
    "choice" => FieldRule::Choice,
    "device" => FieldRule::Device,
    "time" => FieldRule::Time,
}

options! {
    /// A field of the rows. An option that its kind does not use is an error.
    #[derive(Clone, Debug, PartialEq)]
    pub struct FieldOptions {
        /// What the field holds: a running number, a number by chance, a word by chance, a device's name by chance, or
        /// an event time.
        kind: FieldRule,
        /// Of `sequence`: the first number. Of `time`: the first time, in milliseconds since 1970.
        #[absent = "of `sequence` 0; of `time` when the job first started"]
        start: Option<i64>,
        /// Of `sequence`: what is added for each row.
        #[absent = "1"]
        step: Option<i64>,
        /// Of `integer` and `float`: the least.
        #[absent = "0"]
        min: Option<f64>,
        /// Of `integer` and `float`: the most.
        #[absent = "100"]
        max: Option<f64>,
        /// Of `choice`: the words.
        #[example = "[\"on\", \"off\"]"]
        words: Option<Vec<String>>,
        /// Of `device`: how many there are.
        #[unit = "devices"]
        #[range(1, 1_000_000)]
        #[absent = "100"]
        count: Option<u64>,
        /// Of `device`: what the names begin with.
        #[absent = "d"]
        prefix: Option<String>,
        /// Of `time`: from row to row.
        #[absent = "what `rows_per_second` gives, else 1ms"]
        #[example = "10ms"]
        every: Option<std::time::Duration>,
        /// Of `time`: how far behind its place in line a time may be.
        #[absent = "0s"]
        #[example = "2s"]
        disorder: Option<std::time::Duration>,
    }
}

/// Whole numbers between these are exact as numbers with a fraction, too.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// How one field is made.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Sequence { start: i64, step: i64 },
    Integer { min: i64, span: u64 },
    Float { min: f64, max: f64 },
    Choice(Vec<Str>),
    Time { start: Option<i64>, every_ns: u64, disorder_ms: u64 },
}

/// The fields of a row, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    seed: u64,
    fields: Vec<(Str, Rule)>,
}

impl FieldOptions {
    const fn of(kind: FieldRule) -> Self {
        Self {
            kind,
            start: None,
            step: None,
            min: None,
            max: None,
            words: None,
            count: None,
            prefix: None,
            every: None,
            disorder: None,
        }
    }

    /// An option that is given and that the kind does not use is unknown there.
    fn check_used(&self) -> Result<(), ConfigError> {
        use FieldRule::{Choice, Device, Float, Integer, Sequence, Time};
        let given: [(&str, bool, &[FieldRule]); 9] = [
            ("start", self.start.is_some(), &[Sequence, Time]),
            ("step", self.step.is_some(), &[Sequence]),
            ("min", self.min.is_some(), &[Integer, Float]),
            ("max", self.max.is_some(), &[Integer, Float]),
            ("words", self.words.is_some(), &[Choice]),
            ("count", self.count.is_some(), &[Device]),
            ("prefix", self.prefix.is_some(), &[Device]),
            ("every", self.every.is_some(), &[Time]),
            ("disorder", self.disorder.is_some(), &[Time]),
        ];
        let is_used = |of: &[FieldRule]| of.contains(&self.kind);
        match given.iter().find(|(_, given, of)| *given && !is_used(of)) {
            None => Ok(()),
            Some((key, ..)) => {
                let used = given.iter().filter(|(.., of)| is_used(of)).map(|(key, ..)| *key);
                Err(ConfigError::unknown(*key, std::iter::once("kind").chain(used)))
            }
        }
    }

    fn rule(&self, rows_per_second: Option<u64>) -> Result<Rule, ConfigError> {
        self.check_used()?;
        let (min, max) = (self.min.unwrap_or(0.0), self.max.unwrap_or(100.0));
        if min > max {
            return Err(ConfigError::new("min", min, format!("at most max, {max}")));
        }
        Ok(match self.kind {
            FieldRule::Sequence => {
                Rule::Sequence { start: self.start.unwrap_or(0), step: self.step.unwrap_or(1) }
            }
            FieldRule::Integer => {
                for (key, bound) in [("min", min), ("max", max)] {
                    if bound.fract() != 0.0 || bound.abs() > EXACT_MAX {
                        let allowed = "a whole number of at most 2^53, or kind = \"float\"";
                        return Err(ConfigError::new(key, bound, allowed));
                    }
                }
                Rule::Integer { min: min as i64, span: (max - min) as u64 + 1 }
            }
            FieldRule::Float => Rule::Float { min, max },
            FieldRule::Choice => {
                let words = self.words.as_deref().unwrap_or_default();
                if words.is_empty() {
                    return Err(ConfigError::missing("words", "at least one word"));
                }
                Rule::Choice(words.iter().map(Str::from).collect())
            }
            // Names are made once; a row borrows one.
            FieldRule::Device => {
                let prefix = self.prefix.as_deref().unwrap_or("d");
                let names = 0..self.count.unwrap_or(100);
                Rule::Choice(names.map(|number| Str::from(format!("{prefix}{number}"))).collect())
            }
            FieldRule::Time => {
                let every_ns = match (self.every, rows_per_second) {
                    (Some(every), _) => u64::try_from(every.as_nanos()).unwrap_or(u64::MAX),
                    (None, Some(rate)) => 1_000_000_000 / rate.max(1),
                    (None, None) => 1_000_000,
                };
                let disorder = self.disorder.unwrap_or_default().as_millis();
                let disorder_ms = u64::try_from(disorder).unwrap_or(u64::MAX);
                Rule::Time { start: self.start, every_ns, disorder_ms }
            }
        })
    }
}

/// A device, a value and a time, as `thalweg run` reads them by default.
pub(crate) fn usual() -> Named<FieldOptions> {
    let value =
        FieldOptions { min: Some(-20.0), max: Some(80.0), ..FieldOptions::of(FieldRule::Float) };
    let fields = [
        ("device", FieldOptions::of(FieldRule::Device)),
        ("value", value),
        ("ts", FieldOptions::of(FieldRule::Time)),
    ];
    Named(fields.map(|(name, field)| (name.into(), field)).into())
}

impl Rows {
    /// The rows that these options describe.
    ///
    /// # Errors
    /// Names the option that will not do.
    pub(crate) fn new(
        fields: &Named<FieldOptions>,
        seed: u64,
        rows_per_second: Option<u64>,
    ) -> Result<Self, ConfigError> {
        if fields.0.is_empty() {
            return Err(ConfigError::missing("fields", "at least one field"));
        }
        let rule = |(name, field): &(Str, FieldOptions)| {
            let rule = field.rule(rows_per_second);
            Ok((name.clone(), rule.map_err(|error| error.within(&format!("fields.{name}")))?))
        };
        Ok(Self { seed, fields: fields.0.iter().map(rule).collect::<Result<_, ConfigError>>()? })
    }

    /// The fields' names, without values.
    pub(crate) fn empty(&self) -> Vec<(Str, Field<'static>)> {
        self.fields.iter().map(|(name, _)| (name.clone(), Field::Null)).collect()
    }

    /// Fills in the values of row `row`. Times without a start of their own begin at `begun`.
    #[inline]
    pub(crate) fn fill<'a>(&'a self, row: u64, begun: Timestamp, out: &mut [(Str, Field<'a>)]) {
        for (place, ((_, rule), (_, field))) in self.fields.iter().zip(out).enumerate() {
            let chance = || mixed(self.seed ^ mixed(row ^ mixed(place as u64 + 1)));
            *field = match rule {
                Rule::Sequence { start, step } => {
                    Field::Integer(start.wrapping_add(step.wrapping_mul(row as i64)))
                }
                Rule::Integer { min, span } => Field::Integer(min + below(chance(), *span) as i64),
                Rule::Float { min, max } => {
                    // 53 bits by chance: all that a number with a fraction has.
                    let share = (chance() >> 11) as f64 / EXACT_MAX;
                    Field::Float((max - min).mul_add(share, *min).min(*max))
                }
                Rule::Choice(words) => {
                    let place = below(chance(), words.len() as u64) as usize;
                    words.get(place).map_or(Field::Null, |word| Field::Text(word))
                }
                Rule::Time { start, every_ns, disorder_ms } => {
                    let start = start.unwrap_or(begun.as_millis());
                    let along = u128::from(row) * u128::from(*every_ns) / 1_000_000;
                    let back = if *disorder_ms == 0 {
                        0
                    } else {
                        below(chance(), disorder_ms.saturating_add(1))
                    };
                    let along = i64::try_from(along).unwrap_or(i64::MAX);
                    let back = i64::try_from(back).unwrap_or(i64::MAX);
                    let time = start.saturating_add(along).saturating_sub(back);
                    Field::Time(Timestamp::from_millis(time))
                }
            };
        }
    }
}

/// SplitMix64's finish: each bit of the number has its say in each bit of the result.
#[inline]
const fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound`, each about as likely as the others.
#[inline]
fn below(chance: u64, bound: u64) -> u64 {
    ((u128::from(chance) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rows(fields: &[(&str, FieldOptions)], seed: u64) -> Rows {
        let fields = fields.iter().map(|(name, field)| ((*name).into(), field.clone()));
        Rows::new(&Named(fields.collect()), seed, Some(1_000)).unwrap()
    }

    fn filled(rows: &Rows, row: u64) -> Vec<String> {
        let mut out = rows.empty();
        rows.fill(row, Timestamp::from_millis(1_000), &mut out);
        out.iter().map(|(_, field)| field.to_string()).collect()
    }

    #[test]
    fn each_kind_keeps_to_its_range() {
        let of = FieldOptions::of;
        let words = Some(vec!["on".to_owned(), "off".to_owned()]);
        let rows = rows(
            &[
                ("n", FieldOptions { start: Some(5), step: Some(-2), ..of(FieldRule::Sequence) }),
                ("i", FieldOptions { min: Some(-3.0), max: Some(3.0), ..of(FieldRule::Integer) }),
                ("f", FieldOptions { min: Some(1.0), max: Some(1.5), ..of(FieldRule::Float) }),
                ("c", FieldOptions { words, ..of(FieldRule::Choice) }),
                (
                    "d",
                    FieldOptions {
                        count: Some(3),
                        prefix: Some("pump-".into()),
                        ..of(FieldRule::Device)
                    },
                ),
                (
                    "t",
                    FieldOptions {
                        disorder: Some(Duration::from_millis(4)),
                        ..of(FieldRule::Time)
                    },
                ),
            ],
            7,
        );
        let mut seen = vec![std::collections::BTreeSet::new(); 6];
        for row in 0..1_000_u64 {
            let fields = filled(&rows, row);
            assert_eq!(fields[0], (5 - 2 * row as i64).to_string());
            let float: f64 = fields[2].parse().unwrap();
            assert!((1.0..=1.5).contains(&float), "{float}");
            let back = 1_000 + row as i64 - fields[5].parse::<i64>().unwrap();
            assert!((0..=4).contains(&back), "{back}");
            seen[5].insert(back.to_string());
            for place in [1, 3, 4] {
                seen[place].insert(fields[place].clone());
            }
        }
        let list = |place: usize| seen[place].iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(list(1), "-1 -2 -3 0 1 2 3");
        assert_eq!(list(3), "off on");
        assert_eq!(list(4), "pump-0 pump-1 pump-2");
        assert_eq!(list(5), "0 1 2 3 4");
    }

    #[test]
    fn a_row_is_the_same_whenever_it_is_made_and_another_with_another_seed() {
        let one = Rows::new(&usual(), 1, None).unwrap();
        let other = Rows::new(&usual(), 2, None).unwrap();
        let forwards: Vec<_> = (0..100).map(|row| filled(&one, row)).collect();
        let backwards: Vec<_> = (0..100).rev().map(|row| filled(&one.clone(), row)).collect();
        assert!(forwards.iter().eq(backwards.iter().rev()));
        assert_ne!(forwards[0], filled(&other, 0));
        assert_ne!(forwards[0], forwards[1]);
    }

    #[test]
    fn what_a_field_cannot_be_is_refused_by_its_name() {
        let of = FieldOptions::of;
        for (field, expected) in [
            (
                FieldOptions { min: Some(1.0), ..of(FieldRule::Time) },
                "fields.x.min is not known; known: kind, start, every, ",
            ),
            (FieldOptions { min: Some(0.5), ..of(FieldRule::Integer) }, "a whole number"),
            (FieldOptions { min: Some(101.0), ..of(FieldRule::Float) }, "at most max, 100"),
            (of(FieldRule::Choice), "fields.x.words is missing"),
        ] {
            let error =
                Rows::new(&Named(vec![("x".into(), field)]), 0, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = Rows::new(&Named(Vec::new()), 0, None).unwrap_err().to_string();
        assert!(error.contains("at least one field"), "{error}");
    }
}
