//! The report: a row for each rate and contender, and below it the bars.

use std::collections::BTreeMap;

use super::bars::{self, Bar};
use super::options::Options;
use super::order::{Cell, Contender};
use super::series::{Run, Series, Setting, cells, contenders};
use crate::quantiles::Quantiles;
use crate::report::{Table, median};

/// Prints it.
pub fn print(series: &Series, options: &Options, setting: &Setting<'_>) {
    let (cells, contenders) = (cells(options), contenders(options));
    for &task in &options.jobs {
        for &state in &options.state {
            let of_both = |cell: &&Cell| cell.task == task && cell.state == state;
            let rows: Vec<&Cell> = cells.iter().filter(of_both).collect();
            let (name, qos) = (task.name(), state.qos());
            println!("\n{name}, state {state}, QoS {qos}, medians (rounds: {}):", setting.rounds);
            print!("{}", figures(series, &rows, &contenders));
            print_calls(series, &rows);
            if options.by_thread {
                print!("\n{}", threads(series, &rows, &contenders));
            }
        }
    }
    println!("\nthe bars, which hold for two shards and the default driver:");
    print!("{}", verdicts(series, &cells, &contenders));
    println!(
        "\nover loop and over rumqttc: medians of what neighbours of one round compare to. seen: how old a \
         message is where the contender sees it. back: until its result is back at the sender (averages: since the \
         reading was due that closes the window)."
    );
}

fn shown(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| "-".into(), |figure| format!("{figure:.decimals$}"))
}

fn cpu(run: &Run) -> f64 {
    run.cpu_us_per_message
}

fn bar(bar: Option<Bar>) -> String {
    bar.map_or_else(|| "-".into(), |bar| format!("{} ({})", bar.most, shown(bar.stretch, 1)))
}

fn figures(series: &Series, cells: &[&Cell], contenders: &[Contender]) -> Table {
    let mut table = Table::new([
        "msg/s, who",
        "CPU us/msg",
        "over loop",
        "bar",
        "switches/msg",
        "syscalls/msg",
        "seen p50 us",
        "p99",
        "p99.9",
        "back p50 us",
        "p99",
        "p99.9",
        "lost",
        "sender p99 us",
    ]);
    for cell in cells {
        for who in contenders {
            let driver = series.of(cell, who).find_map(|run| run.report.driver.clone());
            let driver = driver.filter(|driver| !who.to_string().ends_with(driver.as_str()));
            let driver = driver.map_or_else(String::new, |driver| format!(" ({driver})"));
            let calls = series
                .counted
                .iter()
                .find(|counted| counted.cell == **cell && counted.contender == who.to_string());
            let over_loop = match who {
                Contender::Handloop => None,
                _ => series
                    .against(cell, who, &Contender::Handloop, |run, beside| cpu(run) / cpu(beside)),
            };
            let seen = |what: fn(&Quantiles) -> f64| {
                let figures: Vec<f64> = series
                    .of(cell, who)
                    .filter_map(|run| run.report.seen.as_ref().map(what))
                    .collect();
                shown((!figures.is_empty()).then(|| median(figures)), 0)
            };
            let back = |what: fn(&Quantiles) -> f64| {
                shown(series.median(cell, who, |run| what(&run.outcome.back)), 0)
            };
            table.row([
                format!("{} {who}{driver}", cell.rate),
                shown(series.median(cell, who, cpu), 2),
                shown(over_loop, 2),
                if matches!(who, Contender::Thalweg { .. }) {
                    bar(bars::cpu_over_loop(cell))
                } else {
                    "-".into()
                },
                shown(series.median(cell, who, |run| run.switches_per_message), 2),
                shown(calls.map(|counted| counted.per_message), 2),
                seen(|q| q.p50_us),
                seen(|q| q.p99_us),
                seen(|q| q.p999_us),
                back(|q| q.p50_us),
                back(|q| q.p99_us),
                back(|q| q.p999_us),
                shown(series.median(cell, who, |run| run.outcome.lost as f64), 0),
                shown(series.median(cell, who, |run| run.outcome.sender.p99_us), 0),
            ]);
        }
    }
    table
}

/// Which system calls a message takes.
fn print_calls(series: &Series, cells: &[&Cell]) {
    for counted in series.counted.iter().filter(|counted| cells.contains(&&counted.cell)) {
        let names: Vec<String> =
            counted.by_name.iter().map(|(name, calls)| format!("{name} {calls:.2}")).collect();
        if !names.is_empty() {
            println!("{} {}: {}", counted.cell.rate, counted.contender, names.join(", "));
        }
    }
}

fn threads(series: &Series, cells: &[&Cell], contenders: &[Contender]) -> Table {
    let mut table = Table::new(["msg/s, who, thread", "CPU us/msg", "switches/msg"]);
    for cell in cells {
        for who in contenders {
            let mut by_name: BTreeMap<&str, Vec<[f64; 2]>> = BTreeMap::new();
            for run in series.of(cell, who) {
                let messages = run.outcome.measured.max(1) as f64;
                for thread in &run.report.cost.threads {
                    let figures = [thread.cpu_us / messages, thread.switches as f64 / messages];
                    by_name.entry(&thread.name).or_default().push(figures);
                }
            }
            for (name, figures) in by_name {
                let at = |place: usize| median(figures.iter().map(|figures| figures[place]));
                let cells = [at(0), at(1)].map(|figure| format!("{figure:.2}"));
                table.row([format!("{} {who} {name}", cell.rate)].into_iter().chain(cells));
            }
        }
    }
    table
}

/// A bar, and who was measured against it.
fn verdicts(series: &Series, cells: &[Cell], contenders: &[Contender]) -> Table {
    let mut table = Table::new(["bar", "measured", "at most", "stretch", ""]);
    let mut row = |what: String, bar: Option<Bar>, figure: Option<f64>| {
        if let (Some(bar), Some(figure)) = (bar, figure) {
            let verdict = bar.verdict(figure).to_owned();
            let stretch = shown(bar.stretch, 1);
            table.row([what, format!("{figure:.2}"), bar.most.to_string(), stretch, verdict]);
        }
    };
    for cell in cells {
        for who in contenders.iter().filter(|who| matches!(who, Contender::Thalweg { .. })) {
            let at = format!("{who}, {} msg/s, state {}", cell.rate, cell.state);
            let over_loop = series
                .against(cell, who, &Contender::Handloop, |run, beside| cpu(run) / cpu(beside));
            row(format!("{at}: CPU over the loop"), bars::cpu_over_loop(cell), over_loop);
            let switches = series.median(cell, who, |run| run.switches_per_message);
            row(format!("{at}: context switches of a message"), bars::switches(cell), switches);
            for (place, name) in ["p50", "p99"].into_iter().enumerate() {
                let bar = bars::seen_over_bare_us(cell).map(|bars| bars[place]);
                let of = |run: &Run| {
                    let seen = run.report.seen.unwrap_or_default();
                    [seen.p50_us, seen.p99_us][place]
                };
                let over = series
                    .against(cell, who, &Contender::Rumqttc, |run, beside| of(run) - of(beside));
                row(format!("{at}: seen after rumqttc, us, {name}"), bar, over);
            }
            let outbox = series.median(cell, who, |run| run.outcome.back.p99_us / 1e3);
            row(format!("{at}: back from the outbox, ms, p99"), bars::outbox_ms(cell), outbox);
        }
    }
    table
}

/// The bars of a process that nobody publishes to.
pub fn print_idle(rows: &[(String, [f64; 3])]) {
    let mut table = Table::new(["idle", "measured", "at most", ""]);
    let bars = [
        ("wake-ups per second, all threads", bars::IDLE_SWITCHES_PER_S),
        ("CPU, % of a core", bars::IDLE_CPU_PERCENT),
        ("written in 10 minutes, KiB", bars::IDLE_WRITTEN_KIB),
    ];
    for (who, figures) in rows {
        for ((what, bar), figure) in bars.into_iter().zip(figures) {
            let verdict = bar.verdict(*figure).to_owned();
            table.row([
                format!("{who}: {what}"),
                format!("{figure:.3}"),
                bar.most.to_string(),
                verdict,
            ]);
        }
    }
    print!("{table}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg::runtime::DriverKind;

    use crate::rates::contender::Report;
    use crate::rates::cost::Cost;
    use crate::rates::load::Outcome;
    use crate::rates::order::Task;

    fn run(who: &Contender, cell: Cell, round: u32, cpu_us: f64) -> Run {
        let threads = Vec::new();
        let cost =
            Cost { secs: 1.0, cpu_us, switches: 9, written_bytes: 0, peak_rss_mib: 1.0, threads };
        let quantiles = Quantiles { p50_us: cpu_us, ..Quantiles::default() };
        let (back, sender) = (quantiles, quantiles);
        Run {
            mode: "rates",
            contender: who.to_string(),
            cell,
            round,
            shards: 2,
            cpu_us_per_message: cpu_us,
            switches_per_message: 1.1,
            written_bytes_per_message: 0.0,
            outcome: Outcome { sent: 10, measured: 10, lost: 0, back, sender },
            report: Report { cost, seen: Some(quantiles), driver: Some("threads".into()) },
        }
    }

    #[test]
    fn ratios_are_those_of_neighbours_and_judged() {
        let cell = |task| Cell { task, state: "none".parse().unwrap(), rate: 1_000 };
        let (averages, through) = (cell(Task::Averages), cell(Task::Through));
        let (hand, bare) = (Contender::Handloop, Contender::Rumqttc);
        let thalweg = Contender::thalweg(DriverKind::Auto);
        let mut series = Series { runs: Vec::new(), counted: Vec::new(), failed: 0 };
        // The machine was twice as slow in the second round.
        for (round, slow) in [(0, 1.0), (1, 2.0), (2, 1.0)] {
            series.runs.push(run(&hand, averages, round, 10.0 * slow));
            series.runs.push(run(&thalweg, averages, round, 15.0 * slow));
            series.runs.push(run(&bare, through, round, 50.0));
            series.runs.push(run(&thalweg, through, round, 52.0));
        }
        let contenders = [hand, bare, thalweg];
        let said = figures(&series, &[&averages], &contenders).to_string();
        let row = said.lines().find(|line| line.contains("thalweg auto (threads)")).unwrap();
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[4..8], ["15.00", "1.50", "2", "(1.3)"], "{said}");
        let said = verdicts(&series, &[averages, through], &contenders).to_string();
        let verdict = |what: &str| {
            let line = said.lines().find(|line| line.contains(what)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(verdict("CPU over the loop"), "met", "{said}");
        assert_eq!(verdict("context switches"), "met", "{said}");
        assert_eq!(verdict("us, p50"), "better", "{said}");
    }
}
