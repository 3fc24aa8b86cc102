//! What the fleet says, as a pure function: message number → device, payload, class.
//!
//! Message `n` is due `n / rate` seconds after the start and belongs to device `n mod devices`. All
//! chance comes from a hash of the seed and `n` (SplitMix64). So equal plans speak equal bytes, in
//! any order of asking, and a test can foretell every message.
//!
//! Devices that misbehave join [`WARM_UP_MS`] after the start, when the proper ones have moved the
//! watermark to the present. What is meant to be late then is late from its first message. When a
//! device is absent or has gone silent, the next ordinary one speaks in its place, which keeps the
//! rate even.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::class::Class;

/// Only proper, ordered readings during the first second.
pub const WARM_UP_MS: u64 = 1_000;
/// The fewest devices that can play all roles and leave ordinary ones.
pub const DEVICES_MIN: u32 = 16;
/// Devices that overheat now and then.
pub const HOT_DEVICES: usize = 4;

const OUT_OF_ORDER_MS_MIN: u64 = 100;
const OUT_OF_ORDER_MS_MAX: u64 = 2_000;
const VERY_LATE_MS: i64 = -30_000;
const FAST_CLOCK_MS: i64 = 600_000;
const SLOW_CLOCK_MS: i64 = -180_000;

/// Deeper than the 128 levels of `serde_json`, which already reads more than most.
const NESTING_LEVELS: usize = 200;
/// More than 256 KiB whatever surrounds it.
pub(super) const OVERSIZED_BYTES: usize = 257 << 10;
/// Which message of the garbage device is the oversized one.
const OVERSIZED_AT: u64 = 2;
/// What the garbage device goes through, over and over.
const GARBAGE: [Class; 6] = [
    Class::Malformed,
    Class::MissingField,
    Class::WrongType,
    Class::InvalidUtf8,
    Class::NotANumber,
    Class::TooDeep,
];

/// An overheating device is hot for 25 s of each minute; long enough for a full 10 s window.
const HEAT_CYCLE_MS: i64 = 60_000;
const HEAT_MS: i64 = 25_000;
const HEAT_RAMP_MS: i64 = 1_000;
const HEAT_FIRST_MS: i64 = 1_000;
const HEAT_CENTI_DEGREES: f64 = 9_000.0;
/// Devices that overheat take turns.
const HEAT_STAGGER_MS: i64 = 15_000;
const WAVE_MS: f64 = 60_000.0;

/// Everything that the content of a fleet depends on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Chooses the devices' roles and all that looks random.
    pub seed: u64,
    /// First level(s) of the topics `{prefix}/{device}/temp`.
    pub prefix: String,
    /// How many devices, at least [`DEVICES_MIN`].
    pub devices: u32,
    /// Messages per second, of all devices together; at least 1.
    pub rate: u32,
    /// When message 0 is due, in milliseconds since the epoch.
    pub start_ms: u64,
    /// Of 1,000 messages of well-behaved devices, how many are up to 2 s old.
    pub out_of_order_permille: u32,
    /// Of 1,000 messages of well-behaved devices, how many are 30 s old.
    pub very_late_permille: u32,
    /// When the silent device falls silent, in milliseconds after the start.
    pub silent_after_ms: u64,
}

/// Which devices do not behave like the others. Numbers of devices; [`device_name`] names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Its clock is 10 minutes ahead.
    pub fast_clock: u32,
    /// Its clock is 3 minutes behind.
    pub slow_clock: u32,
    /// Falls silent after a few seconds.
    pub silent: u32,
    /// Sends what is not a reading.
    pub garbage: u32,
    /// Well-behaved, but hot (about 90 °C) for 25 s of each minute, one after another.
    pub hot: [u32; HOT_DEVICES],
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sends it.
    pub device: u32,
    /// What is wrong with it, if anything.
    pub class: Class,
    /// `{prefix}/{device}/temp`.
    pub topic: String,
    /// `{"ts":1700000000123,"temp":21.53,"humidity":40.1,"status":"ok"}` if all is well.
    pub payload: Vec<u8>,
}

/// The name of a device: `d00042`.
#[must_use]
pub fn device_name(device: u32) -> String {
    format!("d{device:05}")
}

/// Says what each message of a [`Plan`] is.
#[derive(Clone, Debug)]
pub struct Generator {
    plan: Plan,
    roles: Roles,
    /// The round (`n / devices`) in which the garbage device first speaks.
    garbage_from_round: u64,
}

impl Generator {
    /// Casts the roles. Raises `devices` and `rate` to their minimum if they are below it.
    #[must_use]
    pub fn new(mut plan: Plan) -> Self {
        plan.devices = plan.devices.max(DEVICES_MIN);
        plan.rate = plan.rate.max(1);
        let roles = cast(plan.seed, plan.devices);
        let first = (WARM_UP_MS * u64::from(plan.rate)).div_ceil(1_000);
        let devices = u64::from(plan.devices);
        let garbage_from_round = first.saturating_sub(u64::from(roles.garbage)).div_ceil(devices);
        Self { plan, roles, garbage_from_round }
    }

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Who plays which role.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// How many messages are due within the first `elapsed_ms` milliseconds.
    #[must_use]
    pub fn due(&self, elapsed_ms: u64) -> u64 {
        (u128::from(elapsed_ms) * u128::from(self.plan.rate) / 1_000) as u64
    }

    /// Message `n`.
    #[must_use]
    pub fn message(&self, n: u64) -> Message {
        let due_ms = (u128::from(n) * 1_000 / u128::from(self.plan.rate)) as u64;
        let device = self.speaker(n, due_ms);
        let mut dice = Dice(mix(self.plan.seed ^ mix(n)));
        let class = self.class(n, device, due_ms, &mut dice);

        // A wrong clock changes what is written on a reading, an old reading also what it says.
        let (age_ms, clock_ms) = match class {
            Class::OutOfOrder => {
                (-(dice.between(OUT_OF_ORDER_MS_MIN, OUT_OF_ORDER_MS_MAX) as i64), 0)
            }
            Class::VeryLate => (VERY_LATE_MS, 0),
            Class::FastClock => (0, FAST_CLOCK_MS),
            Class::SlowClock => (0, SLOW_CLOCK_MS),
            _ => (0, 0),
        };
        let measured_ms = due_ms as i64 + age_ms;
        let reading = Reading {
            ts: self.plan.start_ms.saturating_add_signed(measured_ms + clock_ms),
            centi_degrees: self.centi_degrees(device, measured_ms, &mut dice),
            deci_percent: dice.between(200, 899),
            unwell: dice.chance(50),
        };
        Message {
            device,
            class,
            topic: format!("{}/{}/temp", self.plan.prefix, device_name(device)),
            payload: reading.payload(class),
        }
    }

    /// Who speaks: the device whose turn it is, or the next ordinary one if that is absent.
    fn speaker(&self, n: u64, due_ms: u64) -> u32 {
        let turn = (n % u64::from(self.plan.devices)) as u32;
        let Roles { fast_clock, slow_clock, silent, garbage, .. } = self.roles;
        let absent = if turn == silent {
            due_ms >= self.plan.silent_after_ms
        } else {
            due_ms < WARM_UP_MS && [fast_clock, slow_clock, garbage].contains(&turn)
        };
        if !absent {
            return turn;
        }
        let extraordinary = [fast_clock, slow_clock, silent, garbage];
        (1..self.plan.devices)
            .map(|step| (turn + step) % self.plan.devices)
            .find(|device| !extraordinary.contains(device))
            .unwrap_or(turn)
    }

    fn class(&self, n: u64, device: u32, due_ms: u64, dice: &mut Dice) -> Class {
        let Roles { fast_clock, slow_clock, garbage, .. } = self.roles;
        if device == fast_clock {
            Class::FastClock
        } else if device == slow_clock {
            Class::SlowClock
        } else if device == garbage {
            let nth = n / u64::from(self.plan.devices) - self.garbage_from_round;
            if nth == OVERSIZED_AT { Class::TooLarge } else { GARBAGE[(nth % 6) as usize] }
        } else if due_ms < WARM_UP_MS {
            Class::OnTime
        } else if dice.chance(self.plan.very_late_permille) {
            Class::VeryLate
        } else if dice.chance(self.plan.out_of_order_permille) {
            Class::OutOfOrder
        } else {
            Class::OnTime
        }
    }

    /// A slow wave with a phase of each device's own, a little noise, and heat for those it befalls.
    fn centi_degrees(&self, device: u32, measured_ms: i64, dice: &mut Dice) -> u64 {
        let phase = Dice(mix(self.plan.seed ^ (u64::from(device) << 32))).fraction();
        let wave = (TAU * (measured_ms as f64 / WAVE_MS + phase)).sin();
        let base = f64::from(1_800 + device % 100 * 10);
        let normal = base + 300.0 * wave;
        let heat = self.heat(device, measured_ms);
        let noise = 100.0 * dice.fraction() - 50.0;
        (normal + heat * (HEAT_CENTI_DEGREES - normal) + noise).round() as u64
    }

    /// How hot a device is: 0 normal, 1 as hot as it gets.
    fn heat(&self, device: u32, measured_ms: i64) -> f64 {
        let Some(nth) = self.roles.hot.iter().position(|hot| *hot == device) else {
            return 0.0;
        };
        let since_ms = measured_ms - HEAT_FIRST_MS - nth as i64 * HEAT_STAGGER_MS;
        if since_ms < 0 {
            return 0.0;
        }
        let at_ms = since_ms % HEAT_CYCLE_MS;
        let ramp_ms = at_ms.min(HEAT_MS - at_ms).clamp(0, HEAT_RAMP_MS);
        ramp_ms as f64 / HEAT_RAMP_MS as f64
    }
}

struct Reading {
    ts: u64,
    centi_degrees: u64,
    deci_percent: u64,
    unwell: bool,
}

impl Reading {
    fn payload(&self, class: Class) -> Vec<u8> {
        let Self { ts, centi_degrees, deci_percent, unwell } = *self;
        let status = match unwell {
            _ if centi_degrees > 7_000 => "error",
            true => "warn",
            false => "ok",
        };
        let temp = format!("{}.{:02}", centi_degrees / 100, centi_degrees % 100);
        let humidity = format!("{}.{}", deci_percent / 10, deci_percent % 10);
        let rest = format!(r#""humidity":{humidity},"status":"{status}""#);
        let text = match class {
            Class::OnTime
            | Class::OutOfOrder
            | Class::VeryLate
            | Class::FastClock
            | Class::SlowClock => format!(r#"{{"ts":{ts},"temp":{temp},{rest}}}"#),
            Class::Malformed => format!(r#"{{"ts":{ts},"temp":{temp},"humi"#),
            Class::MissingField => format!(r#"{{"temp":{temp},{rest}}}"#),
            Class::WrongType => format!(r#"{{"ts":{ts},"temp":"hot",{rest}}}"#),
            Class::NotANumber => format!(r#"{{"ts":{ts},"temp":NaN,{rest}}}"#),
            Class::InvalidUtf8 => {
                let mut bytes = b"{\"t\xff\":".to_vec();
                bytes.extend_from_slice(format!(r#"{ts},"temp":{temp},{rest}}}"#).as_bytes());
                return bytes;
            }
            Class::TooDeep => {
                let mut text = format!(r#"{{"ts":{ts},"temp":{temp},{rest},"deep":"#);
                text.extend(std::iter::repeat_n('[', NESTING_LEVELS));
                text.extend(std::iter::repeat_n(']', NESTING_LEVELS));
                text.push('}');
                text
            }
            Class::TooLarge => {
                let mut text = String::with_capacity(OVERSIZED_BYTES + 128);
                let _ = write!(text, r#"{{"ts":{ts},"temp":{temp},{rest},"pad":""#);
                text.extend(std::iter::repeat_n('x', OVERSIZED_BYTES));
                text.push_str("\"}");
                text
            }
        };
        text.into_bytes()
    }
}

/// Distinct devices for the roles, by the first steps of a shuffle.
fn cast(seed: u64, devices: u32) -> Roles {
    let mut dice = Dice(mix(seed));
    let mut deck: Vec<u32> = (0..devices).collect();
    for at in 0..4 + HOT_DEVICES {
        let other = dice.between(at as u64, u64::from(devices) - 1);
        deck.swap(at, other as usize);
    }
    Roles {
        fast_clock: deck[0],
        slow_clock: deck[1],
        silent: deck[2],
        garbage: deck[3],
        hot: [deck[4], deck[5], deck[6], deck[7]],
    }
}

/// SplitMix64's step and finish.
fn mix(i: u64) -> u64 {
    let z = i.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// As many throws as wanted from one hash.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// Uniform in `low..=high`; the bias of the modulo is far below what anybody could see here.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.throw() % (high - low + 1)
    }

    /// True `permille` times in 1,000.
    fn chance(&mut self, permille: u32) -> bool {
        self.throw() % 1_000 < u64::from(permille)
    }

    /// Uniform in 0..1.
    fn fraction(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
#[path = "generator_tests.rs"]
mod tests;
