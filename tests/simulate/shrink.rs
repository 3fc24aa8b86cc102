//! The same failure with less: fewer faults, fewer messages.

use thalweg_testing::Random;

use super::faults::plan;
use super::{Choice, Chosen, Options, Report, simulate};

/// A seed is run so often at most.
const RUNS_MAX: usize = 400;

/// A failure that was made smaller.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// With these options.
    pub options: Options,
    /// What came of it.
    pub report: Report,
    /// The faults that are left, as `--faults` takes them.
    pub faults: String,
}

impl Shrunk {
    /// The command line that shows it.
    pub fn command(&self) -> String {
        let messages = self.options.messages.map(|messages| format!(" --messages {messages}"));
        let defect = self.options.defect.map(|defect| format!(" --defect {}", defect.name()));
        format!(
            "cargo run --release -p thalweg-tests --bin simulate -- --seed {}{}{} --faults {} --trace",
            self.report.seed,
            messages.unwrap_or_default(),
            defect.unwrap_or_default(),
            self.faults
        )
    }
}

/// Makes the failure of `report` smaller.
pub fn shrink(report: &Report, options: &Options) -> Shrunk {
    let seed = report.seed;
    let plan = plan(&mut Random::of(seed, 3));
    let includes = |place: &usize| {
        options.faults.includes(*place, plan[*place].fault)
            && !options.without.contains(&plan[*place].fault)
    };
    let mut places: Vec<usize> = (0..plan.len()).filter(includes).collect();
    let mut messages = options.messages;
    let mut found = report.clone();
    let mut runs = 0;
    let mut fails = |places: &[usize], messages: Option<usize>| {
        runs += 1;
        let only = places.iter().map(|place| Choice::Place(*place)).collect();
        let tried = Options { faults: Chosen::Only(only), messages, ..quiet(options) };
        let report = simulate(seed, &tried);
        (runs <= RUNS_MAX && !report.violations.is_empty()).then_some(report)
    };
    loop {
        let before = (places.len(), messages);
        let mut size = places.len();
        while size > 0 {
            let mut at = 0;
            while at < places.len() {
                let mut fewer = places.clone();
                fewer.drain(at..(at + size).min(places.len()));
                match fails(&fewer, messages) {
                    Some(report) => (places, found) = (fewer, report),
                    None => at += size,
                }
            }
            size /= 2;
        }
        let now = found.messages as usize;
        for fewer in [now / 8, now / 4, now / 2, now * 3 / 4, now.saturating_sub(1)] {
            if fewer > 0
                && fewer < messages.unwrap_or(usize::MAX)
                && let Some(report) = fails(&places, Some(fewer))
            {
                (messages, found) = (Some(fewer), report);
                break;
            }
        }
        if (places.len(), messages) == before {
            break;
        }
    }
    let names: Vec<_> =
        places.iter().map(|place| format!("{place}:{}", plan[*place].fault)).collect();
    let faults = if names.is_empty() { "none".to_owned() } else { names.join(",") };
    let only = places.into_iter().map(Choice::Place).collect();
    let options = Options { faults: Chosen::Only(only), messages, ..quiet(options) };
    Shrunk { options, report: found, faults }
}

fn quiet(options: &Options) -> Options {
    Options { trace: false, ..options.clone() }
}
