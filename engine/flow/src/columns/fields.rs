//! From rows to columns: [`Fields`], and the operator that gathers rows into chunks.
//!
//! Records are put aside, and one loop reads a field from all of them. So the call that cannot be inlined is one per
//! field and chunk. A chunk goes when it has [`CHUNK_ROWS_MAX`](super::CHUNK_ROWS_MAX) rows, with every mark but a watermark,
//! and with the step.

use thalweg_kernel::{Collector, Mark, Timestamp};

use super::chunk::Chunk;
use super::column::{Column, DataType};
use super::{CHUNK_ROWS_MAX, ChunkPool, ColumnStream};
use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// Reads one field of many records.
type ReadField<T> = Box<dyn Fn(&[T], &mut Column)>;

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
        let read = move |rows: &[T], out: &mut Column| out.extend_ints(rows.iter().map(&read));
        self.field(name, DataType::Int, Box::new(read))
    }

    /// A whole number that may be absent.
    pub fn int_or_null(self, name: &str, read: impl Fn(&T) -> Option<i64> + 'static) -> Self {
        let read = move |rows: &[T], out: &mut Column| {
            rows.iter().for_each(|row| out.push_int(read(row)));
        };
        self.field(name, DataType::Int, Box::new(read))
    }

    /// A number with a binary point.
    pub fn float(self, name: &str, read: impl Fn(&T) -> f64 + 'static) -> Self {
        let read = move |rows: &[T], out: &mut Column| out.extend_floats(rows.iter().map(&read));
        self.field(name, DataType::Float, Box::new(read))
    }

    /// A number with a binary point that may be absent.
    pub fn float_or_null(self, name: &str, read: impl Fn(&T) -> Option<f64> + 'static) -> Self {
        let read = move |rows: &[T], out: &mut Column| {
            rows.iter().for_each(|row| out.push_float(read(row)));
        };
        self.field(name, DataType::Float, Box::new(read))
    }

    /// A text.
    pub fn text(self, name: &str, read: impl Fn(&T) -> &str + 'static) -> Self {
        let read = move |rows: &[T], out: &mut Column| {
            rows.iter().for_each(|row| out.push_text(Some(read(row))));
        };
        self.field(name, DataType::Text, Box::new(read))
    }

    /// A text that may be absent.
    pub fn text_or_null(self, name: &str, read: impl Fn(&T) -> Option<&str> + 'static) -> Self {
        let read = move |rows: &[T], out: &mut Column| {
            rows.iter().for_each(|row| out.push_text(read(row)));
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
            rows: Vec::with_capacity(CHUNK_ROWS_MAX),
            times: Vec::with_capacity(CHUNK_ROWS_MAX),
            watermarks: Vec::new(),
            pool: pool.clone(),
        };
        ColumnStream { stream: self.then("Columns", operator), columns: columns.into(), pool }
    }
}

/// See [`Stream::to_columns`].
pub struct ToColumns<T> {
    reads: Vec<ReadField<T>>,
    types: Vec<DataType>,
    rows: Vec<T>,
    times: Vec<Timestamp>,
    watermarks: Vec<(u32, Timestamp)>,
    pool: ChunkPool,
}

impl<T> ToColumns<T> {
    #[inline(never)]
    fn flush(&mut self, out: &mut impl Collector<Chunk>) {
        let mut chunk = self.pool.take(&self.types);
        let mut from = 0;
        for (position, watermark) in self.watermarks.drain(..) {
            chunk.extend_times(&self.times[from..position as usize]);
            from = position as usize;
            chunk.watermark(watermark);
        }
        chunk.extend_times(&self.times[from..]);
        for (column, read) in chunk.columns_mut().iter_mut().zip(&self.reads) {
            read(&self.rows, column);
        }
        self.rows.clear();
        self.times.clear();
        if let Some(empty) = chunk.emit(out) {
            self.pool.give(empty);
        }
    }
}

impl<T: 'static> Operator<T> for ToColumns<T> {
    type Out = Chunk;

    #[inline]
    fn record(&mut self, time: Timestamp, value: T, out: &mut impl Collector<Chunk>) {
        self.rows.push(value);
        self.times.push(time);
        if self.rows.len() >= CHUNK_ROWS_MAX {
            self.flush(out);
        }
    }

    #[inline]
    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Chunk>) {
        let at = self.rows.len() as u32;
        if at == 0 {
            return out.mark(mark);
        }
        if let Mark::Watermark(watermark) = mark {
            match self.watermarks.last_mut() {
                Some((position, last)) if *position == at => *last = watermark,
                _ => self.watermarks.push((at, watermark)),
            }
            return;
        }
        self.flush(out);
        out.mark(mark);
    }

    fn settle(&mut self, out: &mut impl Collector<Chunk>) {
        if !self.rows.is_empty() {
            self.flush(out);
        }
    }
}
