//! SenML, the Sensor Measurement Lists of RFC 8428, as JSON. A list of records, of which each may set base values for itself
//! and for those behind it.
//!
//! A reading is a record with its name (`n`), time (`t`), value (`v`) and unit (`u`) resolved. Other fields of a record can
//! be asked for as they are. A record without a value sets base values alone. Times below 2^28 seconds count from now,
//! which is the arrival. A truth (`vb`) and a text (`vs`) stand for `v`; whether a text will do is the field's to say.

use thalweg_kernel::{Cause, DecodeError, Timestamp};

use super::path::Path;
use super::rows::{Raw, Rows, Slot};
use super::tree::Tree;

/// Where the fields of a record are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    name: Slot,
    time: Slot,
    value: Slot,
    unit: Slot,
    boolean: Slot,
    text: Slot,
    sum: Slot,
    data: Slot,
    base_name: Slot,
    base_time: Slot,
    base_value: Slot,
    base_unit: Slot,
}

/// Times below it count from now.
const RELATIVE_BELOW: f64 = (1_u32 << 28) as f64;

/// Nothing further away is a time.
const SECONDS_MAX: f64 = 9e12;

impl Slots {
    pub(super) fn of(tree: &mut Tree) -> Result<Self, String> {
        let mut slot = |name: &str| {
            let path: Path = name.parse()?;
            tree.insert(&path.of_each())
        };
        Ok(Self {
            name: slot("n")?,
            time: slot("t")?,
            value: slot("v")?,
            unit: slot("u")?,
            boolean: slot("vb")?,
            text: slot("vs")?,
            sum: slot("s")?,
            data: slot("vd")?,
            base_name: slot("bn")?,
            base_time: slot("bt")?,
            base_value: slot("bv")?,
            base_unit: slot("bu")?,
        })
    }

    /// Resolves the records that were read. One whose own time or value will not do is refused alone.
    ///
    /// # Errors
    /// If a base value is of another type: others depend on it.
    pub(super) fn resolve(
        &self,
        rows: &mut Rows,
        payload: &str,
        received: Timestamp,
        refuse: &mut dyn FnMut(DecodeError),
    ) -> Result<(), DecodeError> {
        let (mut base_name, mut base_unit) = (Raw::Absent, Raw::Absent);
        let (mut base_time, mut base_value) = (0.0, 0.0);
        for row in 0..rows.readings() {
            let set = |raw: Raw, base: &mut Raw| {
                if raw != Raw::Absent {
                    *base = raw;
                }
            };
            set(rows.value(row, self.base_name), &mut base_name);
            set(rows.value(row, self.base_unit), &mut base_unit);
            let number = |slot: Slot, name: &str, other: f64| {
                number(rows.value(row, slot), other).ok_or_else(|| no_number(row, name))
            };
            base_time = number(self.base_time, "bt", base_time)?;
            base_value = number(self.base_value, "bv", base_value)?;
            let (own_time, own_value) = (number(self.time, "t", 0.0), number(self.value, "v", 0.0));
            let mut value = rows.value(row, self.value);
            match value {
                Raw::Absent => {
                    let others = [self.boolean, self.text].map(|slot| rows.value(row, slot));
                    let other = others.into_iter().find(|raw| *raw != Raw::Absent);
                    value = other.unwrap_or(Raw::Absent);
                }
                _ if base_value != 0.0 => match own_value {
                    Ok(own) => value = Raw::Float(base_value + own),
                    Err(error) => {
                        rows.drop(row);
                        refuse(error);
                        continue;
                    }
                },
                _ => {}
            }
            let has = |slot: Slot| rows.value(row, slot) != Raw::Absent;
            if value == Raw::Absent && !has(self.sum) && !has(self.data) {
                rows.drop(row);
                continue;
            }
            let seconds = own_time.map(|own| base_time + own);
            let seconds = match seconds {
                Ok(seconds) if seconds.abs() <= SECONDS_MAX => seconds,
                Ok(_) => {
                    rows.drop(row);
                    refuse(no_number(row, "t"));
                    continue;
                }
                Err(error) => {
                    rows.drop(row);
                    refuse(error);
                    continue;
                }
            };
            let ms = (seconds * 1e3).round() as i64;
            let is_relative = seconds < RELATIVE_BELOW;
            let ms = if is_relative { received.plus_ms(ms).as_millis() } else { ms };
            if base_name != Raw::Absent && rows.value(row, self.name) != Raw::Twice {
                let name = rows.join(base_name, rows.value(row, self.name), payload);
                rows.replace(row, self.name, name);
            }
            if rows.value(row, self.unit) == Raw::Absent {
                rows.replace(row, self.unit, base_unit);
            }
            rows.replace(row, self.time, Raw::Time(ms));
            rows.replace(row, self.value, value);
        }
        Ok(())
    }
}

/// A number, or `other` where nothing stands.
fn number(raw: Raw, other: f64) -> Option<f64> {
    match raw {
        Raw::Absent => Some(other),
        Raw::Float(value) => Some(value),
        Raw::Unsigned(value) => Some(value as f64),
        Raw::Signed(value) => Some(value as f64),
        _ => None,
    }
}

#[cold]
fn no_number(row: usize, name: &str) -> DecodeError {
    let what = format!("field `[{row}].{name}`: expected a number, as SenML has it");
    DecodeError::new(Cause::WrongType, what, None)
}
