//! Results of floating-point sums have the same bits on any number of shards, through any crashes and with any checkpoints.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::*;
use thalweg_flow::*;

/// Key, time and value.
type Reading = (u32, i64, f64);

fn job(source: &Scripted<Reading>, table: &Table) -> impl Fn(&Flow) + use<> {
    let (source, sink) = (source.clone(), table.sink());
    move |flow| {
        let watermarks = Watermarks::bounded_out_of_orderness(ms(1_000_000))
            .timestamps(|reading: &Reading| reading.1)
            .without_clock_guard();
        let [sums, stats, spreads] = flow.source_as("source", source.clone(), watermarks).split();
        let sums = sums.key_by(|reading| reading.0).window(Tumbling::of(ms(500)));
        let sums = sums.aggregate(Sum::of(|reading: &Reading| reading.2)).uid("sums");
        let stats = stats.key_by(|reading| reading.0).window(Sliding::of(ms(600), ms(200)));
        let stats = stats.aggregate(Stats::of(|reading: &Reading| reading.2)).uid("stats");
        let spreads = spreads.key_by(|reading| reading.0).window(Session::gap(ms(20)));
        let spreads = spreads.aggregate(Variance::of(|reading: &Reading| reading.2)).uid("spreads");
        let bits = |row: Windowed<u32, f64>| (row.key, row.start, row.end, row.value.to_bits());
        sums.map(move |row| ("sum", bits(row))).sink_as("1", sink.clone());
        let mean = |row: Windowed<u32, StatsValue>| Windowed {
            key: row.key,
            start: row.start,
            end: row.end,
            value: row.value.avg,
        };
        stats.map(move |row| ("stats", bits(mean(row)))).sink_as("2", sink.clone());
        spreads.map(move |row| ("spread", bits(row))).sink_as("3", sink.clone());
    }
}

#[test]
fn bits_depend_on_no_order() {
    for seed in 0..20 {
        let random = &mut Random::new(seed);
        let keys = [1, 5, 40][random.below(3)];
        let readings: Vec<Reading> = (0..400 + random.below(400_i64))
            .map(|n| {
                let value = random.below(4_000) as f64 / 10.0 - 60.0;
                let scale = if random.one_in(10) { 1e7 } else { 1.0 };
                (random.below(keys), n * 3, value * scale)
            })
            .collect();
        let rows = |partitions: usize, crashes: Option<Crashes<'_>>, random: &mut Random| {
            let mut parts = vec![Vec::new(); partitions];
            readings.iter().for_each(|&reading| parts[random.below(partitions)].push(reading));
            let (store, table) = (Store::default(), Table::default());
            let job = job(&Scripted::of_records(parts), &table);
            match crashes {
                None => undisturbed(&store, &job),
                Some(crashes) => drop(crashes.until_done(random, &store, &job)),
            }
            table.rows()
        };
        let expected = rows(1, None, random);
        assert!(expected.len() >= 10, "{} rows", expected.len());
        for partitions in [1, 3] {
            assert_eq!(rows(partitions, Some(Crashes::none(2)), random), expected, "seed {seed}");
            assert_eq!(rows(partitions, Some(Crashes::default()), random), expected, "seed {seed}");
        }
    }
}
