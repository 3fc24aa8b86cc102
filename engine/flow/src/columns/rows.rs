//! From columns to rows: each row becomes a record of its own, and each watermark a mark between records. What follows is
//! fused, so a row costs no call.

use std::marker::PhantomData;

use thalweg_kernel::{Collector, Key, Mark, Str, Timestamp};

use super::chunk::Chunk;
use super::column::{Column, DataType};
use super::operators::Keep;
use super::{ChunkPool, ColumnStream};
use crate::Boxed;
use crate::exchange::key_by::{Keyed, KeyedStream, Placed};
use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

impl<C: Chain<Out = Chunk>> ColumnStream<C> {
    /// Turns each row into a record.
    pub fn to_rows<T: 'static, F: FnMut(&Chunk, usize) -> T + 'static>(
        self,
        read: F,
    ) -> Stream<Then<C, ToRows<F>>> {
        let Self { stream, pool, .. } = self;
        stream.then("Rows", ToRows { read, pool })
    }
}

/// See [`ColumnStream::to_rows`].
pub struct ToRows<F> {
    read: F,
    pool: ChunkPool,
}

/// Emits a record for each row, and the watermarks between them.
#[inline(always)]
fn pour<T>(chunk: &Chunk, out: &mut impl Collector<T>, mut read: impl FnMut(usize) -> T) {
    let mut row = 0;
    for &(position, watermark) in chunk.watermarks() {
        let times = &chunk.times()[row..position as usize];
        for &time in times {
            out.record(time, read(row));
            row += 1;
        }
        out.mark(Mark::Watermark(watermark));
    }
    for &time in &chunk.times()[row..] {
        out.record(time, read(row));
        row += 1;
    }
}

impl<T: 'static, F: FnMut(&Chunk, usize) -> T + 'static> Operator<Chunk> for ToRows<F> {
    type Out = T;

    fn record(&mut self, _time: Timestamp, chunk: Chunk, out: &mut impl Collector<T>) {
        pour(&chunk, out, |row| (self.read)(&chunk, row));
        self.pool.give(chunk);
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}

/// What a key column holds, as a key.
pub trait ColumnKey: Key {
    /// The type of the column.
    const DATA_TYPE: DataType;

    /// The key of row `row`, which is null only where that is a key.
    fn read(column: &Column, row: usize) -> Self;

    /// The fixed hash of the key of row `row`; `None` for a null that is no key.
    fn hash(column: &Column, row: usize) -> Option<u64>;
}

impl ColumnKey for i64 {
    const DATA_TYPE: DataType = DataType::Int;

    #[inline]
    fn read(column: &Column, row: usize) -> Self {
        column.ints()[row]
    }

    #[inline]
    fn hash(column: &Column, row: usize) -> Option<u64> {
        (!column.is_null(row)).then(|| column.ints()[row].key_hash())
    }
}

impl ColumnKey for Str {
    const DATA_TYPE: DataType = DataType::Text;

    #[inline]
    fn read(column: &Column, row: usize) -> Self {
        column.texts().map_or_else(Self::default, |texts| texts.get(row).into())
    }

    #[inline]
    fn hash(column: &Column, row: usize) -> Option<u64> {
        (!column.is_null(row)).then(|| Self::read(column, row).key_hash())
    }
}

impl<K: ColumnKey> ColumnKey for Option<K> {
    const DATA_TYPE: DataType = K::DATA_TYPE;

    #[inline]
    fn read(column: &Column, row: usize) -> Self {
        (!column.is_null(row)).then(|| K::read(column, row))
    }

    #[inline]
    fn hash(column: &Column, row: usize) -> Option<u64> {
        Some(Self::read(column, row).key_hash())
    }
}

/// A stream of chunks whose rows are on the shards that own their keys, which are in one of the columns.
#[must_use = "a stream runs only when it ends in a sink"]
pub struct KeyedColumns<C: Chain<Out = Chunk>, K> {
    pub(super) columns: ColumnStream<C>,
    /// The column of the key.
    pub(super) key: usize,
    pub(super) of: PhantomData<K>,
}

impl<C: Chain<Out = Chunk>, K: ColumnKey> KeyedColumns<C, K> {
    /// The chunks, of which nobody knows any more where they are.
    pub fn columns(self) -> ColumnStream<C> {
        self.columns
    }

    /// Keeps some rows: see [`ColumnStream::keep`].
    pub fn keep(
        self,
        choose: impl FnMut(&Chunk, &mut Vec<u32>) + 'static,
    ) -> KeyedColumns<Then<C, Keep>, K> {
        let Self { columns, key, of } = self;
        KeyedColumns { columns: columns.keep(choose), key, of }
    }

    /// This stream as a type that can be named: see [`Stream::boxed`].
    pub fn boxed(self) -> KeyedColumns<Boxed<Chunk>, K> {
        let Self { columns, key, of } = self;
        KeyedColumns { columns: columns.boxed(), key, of }
    }

    /// Turns each row into a record with its key. Windows and process functions by this key are fused to it, and nothing
    /// is exchanged again.
    pub fn to_keyed<T: 'static, F: FnMut(&Chunk, usize) -> T + 'static>(
        self,
        read: F,
    ) -> KeyedStream<Then<C, KeyedRows<K, F>>, Placed> {
        let Self { columns: ColumnStream { stream, pool, .. }, key, of } = self;
        KeyedStream::placed(stream.then("Rows", KeyedRows { read, key, pool, of }))
    }

    /// Turns each row into a record: see [`ColumnStream::to_rows`].
    pub fn to_rows<T: 'static, F: FnMut(&Chunk, usize) -> T + 'static>(
        self,
        read: F,
    ) -> Stream<Then<C, ToRows<F>>> {
        self.columns.to_rows(read)
    }
}

/// See [`KeyedColumns::to_keyed`].
pub struct KeyedRows<K, F> {
    read: F,
    key: usize,
    pool: ChunkPool,
    of: PhantomData<K>,
}

impl<K: ColumnKey, T: 'static, F: FnMut(&Chunk, usize) -> T + 'static> Operator<Chunk>
    for KeyedRows<K, F>
{
    type Out = Keyed<K, T>;

    fn record(&mut self, _time: Timestamp, chunk: Chunk, out: &mut impl Collector<Keyed<K, T>>) {
        let column = &chunk.columns()[self.key];
        pour(&chunk, out, |row| {
            let key = K::read(column, row);
            let hash = chunk.hash(row).unwrap_or_else(|| key.key_hash());
            Keyed { hash, key, value: (self.read)(&chunk, row) }
        });
        self.pool.give(chunk);
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}
