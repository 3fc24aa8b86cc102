//! From rows to columns: [`Fields`], and the operator that gathers rows into chunks.
//!
//! Records are put aside, and one loop reads a field from all of them. So the call that cannot be inlined is one per
//! field and [`GATHERED_MAX`] records. A chunk goes when it might not have room for as many more (see
//! [`CHUNK_ROWS_MAX`](super::CHUNK_ROWS_MAX)), with every mark but a watermark, and with the step.

use thalweg_kernel::{Collector, Mark, Timestamp};

use super::chunk::Chunk;
use super::column::{Column, DataType};
use super::{CHUNK_ROWS_MAX, ChunkPool, ColumnStream};
use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// Records that are put aside together: they stay in the first-level cache. (A whole chunk of them does not, and costs a
/// tenth of the time of the Yahoo benchmark's plan.)
const GATHERED_MAX: usize = 128;

/// Reads one field of many records.
type ReadField<T> = Box<dyn Fn(&[(Timestamp, T)], &mut Column)>;

/// Which fields of a record become columns, and what they are called.
pub struct Fields<T>(Vec<(String, DataType, ReadField<T>)>);

impl<T> Default for Fields<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: 'static> Fields<T> {
    /// No field yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn field(mut self, name: &str, data_type: DataType, read: ReadField<T>) -> Self {
        self.0.push((name.to_owned(), data_type, read));
        self
    }

    /// A whole number.
    pub fn int(self, name: &str, read: impl Fn(&T) -> i64 + 'static) -> Self {
        let read = move |rows: &[(Timestamp, T)], out: &mut Column| {
            out.extend_ints(rows.iter().map(|(_, row)| read(row)));
        };
        self.field(name, DataType::Int, Box::new(read))
    }

    /// A whole number that may be absent.
    pub fn int_or_null(self, name: &str, read: impl Fn(&T) -> Option<i64> + 'static) -> Self {
        let read = move |rows: &[(Timestamp, T)], out: &mut Column| {
            rows.iter().for_each(|(_, row)| out.push_int(read(row)));
        };
        self.field(name, DataType::Int, Box::new(read))
    }

    /// A number with a binary point.
    pub fn float(self, name: &str, read: impl Fn(&T) -> f64 + 'static) -> Self {
        let read = move |rows: &[(Timestamp, T)], out: &mut Column| {
            out.extend_floats(rows.iter().map(|(_, row)| read(row)));
        };
        self.field(name, DataType::Float, Box::new(read))
    }

    /// A number with a binary point that may be absent.
    pub fn float_or_null(self, name: &str, read: impl Fn(&T) -> Option<f64> + 'static) -> Self {
        let read = move |rows: &[(Timestamp, T)], out: &mut Column| {
            rows.iter().for_each(|(_, row)| out.push_float(read(row)));
        };
        self.field(name, DataType::Float, Box::new(read))
    }

    /// A text.
    pub fn text(self, name: &str, read: impl Fn(&T) -> &str + 'static) -> Self {
        let read = move |rows: &[(Timestamp, T)], out: &mut Column| {
            rows.iter().for_each(|(_, row)| out.push_text(Some(read(row))));
        };
        self.field(name, DataType::Text, Box::new(read))
    }

    /// A text that may be absent.
    pub fn text_or_null(self, name: &str, read: impl Fn(&T) -> Option<&str> + 'static) -> Self {
        let read = move |rows: &[(Timestamp, T)], out: &mut Column| {
            rows.iter().for_each(|(_, row)| out.push_text(read(row)));
        };
        self.field(name, DataType::Text, Box::new(read))
    }
}

impl<C: Chain> Stream<C> {
    /// Turns records into columns. What no field reads is not kept.
    ///
    /// ```
    /// # use thalweg_flow::*;
    /// # let out = Collected::new();
    /// # let sink = out.sink();
    /// # let job = move |flow: &Flow| {
    /// let readings = flow.source(Collection::new([(1, 20.5), (2, -3.0), (1, 21.5)]), Watermarks::monotonous());
    /// readings
    ///     .to_columns(Fields::new().int("device", |r: &(i64, f64)| r.0).float("degrees", |r| r.1))
    ///     .keep(|chunk, rows| {
    ///         let degrees = chunk.columns()[1].floats();
    ///         rows.extend((0..chunk.len() as u32).filter(|&row| degrees[row as usize] > 0.0));
    ///     })
    ///     .exchange_by::<i64>("device")
    ///     .to_rows(|chunk, row| (chunk.columns()[0].ints()[row], chunk.columns()[1].floats()[row]))
    /// #   .sink(sink.clone());
    /// # };
    /// # let mut shard = Shard::build(&job, &BuildContext::single("columns")).unwrap();
    /// # while shard.step(Now::default()).unwrap() != Step::Done {}
    /// # assert_eq!(out.take(), [(1, 20.5), (1, 21.5)]);
    /// ```
    pub fn to_columns(self, fields: Fields<C::Out>) -> ColumnStream<Then<C, ToColumns<C::Out>>> {
        let (mut columns, mut reads, mut types) = (Vec::new(), Vec::new(), Vec::new());
        for (name, data_type, read) in fields.0 {
            columns.push((name, data_type));
            types.push(data_type);
            reads.push(read);
        }
        let pool = ChunkPool::default();
        let operator = ToColumns {
            reads,
            types,
            rows: Vec::with_capacity(GATHERED_MAX),
            watermarks: Vec::new(),
            chunk: None,
            pool: pool.clone(),
        };
        ColumnStream { stream: self.then("Columns", operator), columns: columns.into(), pool }
    }
}

/// See [`Stream::to_columns`].
pub struct ToColumns<T> {
    reads: Vec<ReadField<T>>,
    types: Vec<DataType>,
    /// Records whose fields were not read yet.
    rows: Vec<(Timestamp, T)>,
    /// Watermarks among them, each before the record with its number.
    watermarks: Vec<(usize, Timestamp)>,
    /// The columns of the records before them.
    chunk: Option<Chunk>,
    pool: ChunkPool,
}

fn times<T>(rows: &[(Timestamp, T)]) -> impl Iterator<Item = Timestamp> {
    rows.iter().map(|&(time, _)| time)
}

impl<T> ToColumns<T> {
    /// Makes columns of the records at hand.
    #[inline(never)]
    fn read(&mut self, out: &mut impl Collector<Chunk>) {
        let chunk = self.chunk.get_or_insert_with(|| self.pool.take(&self.types));
        let mut from = 0;
        for (before, watermark) in self.watermarks.drain(..) {
            chunk.extend_times(times(&self.rows[from..before]));
            from = before;
            chunk.watermark(watermark);
        }
        chunk.extend_times(times(&self.rows[from..]));
        for (column, read) in chunk.columns_mut().iter_mut().zip(&self.reads) {
            read(&self.rows, column);
        }
        self.rows.clear();
        if chunk.len() > CHUNK_ROWS_MAX - GATHERED_MAX {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut impl Collector<Chunk>) {
        if let Some(chunk) = self.chunk.take()
            && let Some(empty) = chunk.emit(out)
        {
            self.pool.give(empty);
        }
    }
}

impl<T: 'static> Operator<T> for ToColumns<T> {
    type Out = Chunk;

    #[inline]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Chunk>) {
        if self.rows.len() == self.rows.capacity() {
            self.read(out);
        }
        self.rows.push((time, value));
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Chunk>) {
        let at = self.rows.len();
        match mark {
            Mark::Watermark(watermark) if at > 0 => match self.watermarks.last_mut() {
                Some((before, last)) if *before == at => *last = watermark,
                _ => self.watermarks.push((at, watermark)),
            },
            _ => {
                self.settle(out);
                out.mark(mark);
            }
        }
    }

    fn settle(&mut self, out: &mut impl Collector<Chunk>) {
        if !self.rows.is_empty() {
            self.read(out);
        }
        self.flush(out);
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}
