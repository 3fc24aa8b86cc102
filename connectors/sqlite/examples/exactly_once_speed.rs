//! How fast the exactly-once sinks are, by the interval of checkpoints. It counts rows a second from the first
//! write to the last row in place. It times how long a barrier holds up the shard (`seal`), and how long until
//! what was sealed would survive a crash (`sealed`). One shard, as fast as the sink is ready. `cargo run --profile
//! profiling -p thalweg-sqlite --example exactly_once_speed [SECONDS]`.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use thalweg_commits::model::{Engine, Random};
use thalweg_file::RollingFiles;
use thalweg_format::JsonLines;
use thalweg_kernel::{OpenContext, Sink, SinkSpec, Timestamp};
use thalweg_sqlite::SqliteSink;

/// Rows of a batch of the engine.
const BATCH_ROWS: u64 = 256;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[derive(Clone, serde::Serialize)]
struct Row {
    device: String,
    end: i64,
    avg: f64,
}

#[derive(Default)]
struct Figures {
    rows: u64,
    seal: Vec<Duration>,
    sealed: Vec<Duration>,
}

fn run<S: Sink<Row>>(
    open: impl Fn(&OpenContext) -> S,
    interval: Duration,
    length: Duration,
) -> (Figures, Duration) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut engine = Engine::default();
    let contexts = engine.contexts(1, &waker, &mut Random::new(1));
    let mut sink = open(&contexts[0]);
    let rows: Vec<_> = (0..1_000_i64)
        .map(|n| Row { device: format!("device-{n}"), end: n * 1_000, avg: n as f64 / 7.0 })
        .collect();
    let mut figures = Figures::default();
    let start = Instant::now();
    let mut begun = start;
    let mut under_way = None;
    loop {
        let mut idle = true;
        let over = start.elapsed() >= length;
        if !over && sink.ready().unwrap_or(false) {
            for n in figures.rows..figures.rows + BATCH_ROWS {
                let row = rows[(n % 1_000) as usize].clone();
                if let Err(error) = sink.write(Timestamp::default(), row) {
                    panic!("{error}");
                }
            }
            figures.rows += BATCH_ROWS;
            idle = false;
        }
        if let Err(error) = sink.flush() {
            panic!("{error}");
        }
        if under_way.is_none() && (over || begun.elapsed() >= interval) {
            begun = Instant::now();
            let epoch = engine.begin();
            if let Err(error) = engine.seal(epoch, 0, &mut sink) {
                panic!("{error}");
            }
            figures.seal.push(begun.elapsed());
            under_way = Some((epoch, over));
        }
        if let Some((epoch, last)) = under_way
            && sink.sealed(epoch).unwrap_or(false)
        {
            figures.sealed.push(begun.elapsed());
            engine.exists(epoch, figures.rows);
            if let Err(error) = sink.commit(epoch) {
                panic!("{error}");
            }
            under_way = None;
            idle = false;
            if last {
                break;
            }
        }
        if idle {
            thread::park_timeout(Duration::from_millis(1));
        }
    }
    while !sink.close().unwrap_or(false) {
        thread::park_timeout(Duration::from_millis(1));
    }
    (figures, start.elapsed())
}

fn show(name: &str, interval: Duration, (mut figures, took): (Figures, Duration)) {
    let at = |times: &mut Vec<Duration>, part: usize| {
        times.sort_unstable();
        times[(times.len() - 1) * part / 100].as_micros()
    };
    println!(
        "{name:24} {:5} ms | {:9.0} rows/s | seal p50 {:5} p99 {:6} us | sealed p50 {:6} p99 {:6} us",
        interval.as_millis(),
        figures.rows as f64 / took.as_secs_f64(),
        at(&mut figures.seal, 50),
        at(&mut figures.seal, 99),
        at(&mut figures.sealed, 50),
        at(&mut figures.sealed, 99),
    );
}

fn main() -> std::io::Result<()> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3);
    let length = Duration::from_secs(seconds);
    let directory = tempfile::tempdir_in(".")?;
    for (round, interval) in [10, 1_000].into_iter().map(Duration::from_millis).enumerate() {
        let appended = SqliteSink::new(directory.path().join(format!("{round}.db")), "results")
            .text("device", |row: &Row| row.device.as_str())
            .column("end", |row| row.end)
            .column("avg", |row| row.avg);
        let open = |cx: &OpenContext| match appended.open(cx) {
            Ok(sink) => sink,
            Err(error) => panic!("{error}"),
        };
        show("sqlite, appended", interval, run(open, interval, length));
        let replaced = SqliteSink::new(directory.path().join(format!("{round}k.db")), "results")
            .key_text("device", |row: &Row| row.device.as_str())
            .column("end", |row| row.end)
            .column("avg", |row| row.avg);
        let open = |cx: &OpenContext| match replaced.open(cx) {
            Ok(sink) => sink,
            Err(error) => panic!("{error}"),
        };
        show("sqlite, 1,000 keys", interval, run(open, interval, length));
        let files = RollingFiles::new(directory.path().join(format!("{round}")), JsonLines);
        let open = |cx: &OpenContext| match SinkSpec::<Row>::open(&files, cx) {
            Ok(sink) => sink,
            Err(error) => panic!("{error}"),
        };
        show("rolling files, JSON", interval, run(open, interval, length));
    }
    Ok(())
}
