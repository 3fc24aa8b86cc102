//! The exchange of chunks by key. [`Divide`] gathers the rows for each shard in a chunk of their own, and a
//! [`ChunkInbox`] merges the chunks that come from several shards.

use std::marker::PhantomData;
use std::mem::replace;

use thalweg_kernel::{Batch, Collector, ConnectorError, KeyGroups, Mark, Timestamp};

use super::chunk::Chunk;
use super::column::DataType;
use super::rows::ColumnKey;
use super::{CHUNK_ROWS_MAX, ChunkPool, ColumnStream, KeyedColumns};
use crate::counters::Counter;
use crate::exchange::inbox::{Inbox, Passing};
use crate::exchange::lane::LaneSender;
use crate::exchange::ports::Ports;
use crate::exchange::route::Route;
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Operator, Then};
use crate::stream::Stream;

/// A chunk on its way to a shard.
pub struct Addressed {
    shard: usize,
    chunk: Chunk,
}

/// To the shard that a chunk is addressed to.
struct ToShard;

impl Route<Addressed> for ToShard {
    const EDGE: Edge = Edge::Hash;

    fn send(&mut self, time: Timestamp, addressed: Addressed, lanes: &mut [LaneSender<Addressed>]) {
        lanes[addressed.shard].record(time, addressed);
    }
}

impl<C: Chain<Out = Chunk>> ColumnStream<C> {
    /// Sends each row to the shard that owns its key, the value of the column called `key`. `K` is [`i64`] for whole
    /// numbers and [`Str`](thalweg_kernel::Str) for text; rows whose key is null are counted (`numNullKeysDropped`)
    /// and dropped. With an `Option` of these a null is a key like any other.
    pub fn exchange_by<K: ColumnKey>(self, key: &str) -> KeyedColumns<ChunkInbox, K> {
        let (index, types) = (self.index_of(key), self.types());
        let Self { stream, columns, pool } = self;
        let Stream { flow, chain, at } = stream;
        if columns.get(index).is_some_and(|&(_, of)| of != K::DATA_TYPE) {
            let what = format!(
                "column {key:?} is of another type than its key; name the type that it has"
            );
            flow.fail(ConnectorError::new("job", what));
        }
        let (groups, shards) = (flow.key_groups(), flow.shards());
        let dropped = Counter::default();
        let divide = Divide {
            key: index,
            open: (0..shards).map(|_| Chunk::new(&types)).collect(),
            rows: vec![Vec::new(); shards],
            hashes: Vec::new(),
            watermark: None,
            groups,
            owners: (0..groups.count()).map(|group| groups.owner(group, shards)).collect(),
            types,
            pool: pool.clone(),
            dropped: dropped.clone(),
            of: PhantomData::<K>,
        };
        let node = flow.add_node::<Chunk>("Exchange", shards, vec![(at.node, Edge::Hash)]);
        // Part of the exchange, not an operator that the user knows of: no node of its own.
        let divided = Stream { flow: flow.clone(), chain: Then::new(chain, divide), at };
        let sources = divided.send((node, 0), ToShard);
        flow.adopt_counter("numNullKeysDropped", node, &dropped);
        let chain: ChunkInbox = flow.counting_inbox(sources, node, "numRecordsIn");
        let stream = Stream { flow, chain, at: At { node, producers: shards } };
        KeyedColumns {
            columns: ColumnStream { stream, columns, pool },
            key: index,
            of: PhantomData,
        }
    }
}

/// See the module.
struct Divide<K> {
    key: usize,
    /// The rows and watermarks of each shard that have not gone yet.
    open: Vec<Chunk>,
    /// The rows of the chunk at hand for each shard, and the hash of each row's key.
    rows: Vec<Vec<u32>>,
    hashes: Vec<u64>,
    /// The latest watermark, if it has not been passed on as a mark.
    watermark: Option<Timestamp>,
    groups: KeyGroups,
    /// The shard of each group: looked up, not divided.
    owners: Box<[usize]>,
    types: std::rc::Rc<[DataType]>,
    pool: ChunkPool,
    dropped: Counter,
    of: PhantomData<K>,
}

impl<K: ColumnKey> Divide<K> {
    /// Sends the open chunk of a shard, and begins the next one with the watermark behind its last row.
    fn send(&mut self, shard: usize, out: &mut impl Collector<Addressed>) {
        let mut chunk = replace(&mut self.open[shard], self.pool.take(&self.types));
        if let Some(behind) = chunk.take_behind() {
            self.open[shard].watermark(behind);
        }
        if let Some(&time) = chunk.times().last() {
            out.record(time, Addressed { shard, chunk });
        } else {
            self.pool.give(chunk);
        }
    }

    /// Sends all that is open, and behind it the watermark.
    fn flush(&mut self, out: &mut impl Collector<Addressed>) {
        for shard in 0..self.open.len() {
            if !self.open[shard].is_empty() {
                self.send(shard, out);
            }
            // The mark says it to all of them.
            self.open[shard].clear();
        }
        if let Some(watermark) = self.watermark.take() {
            out.mark(Mark::Watermark(watermark));
        }
    }
}

impl<K: ColumnKey> Operator<Chunk> for Divide<K> {
    type Out = Addressed;

    fn record(&mut self, time: Timestamp, chunk: Chunk, out: &mut impl Collector<Addressed>) {
        if self.open.len() == 1 && !chunk.columns()[self.key].has_nulls() {
            // Nothing to divide.
            self.flush(out);
            return out.record(time, Addressed { shard: 0, chunk });
        }
        let column = &chunk.columns()[self.key];
        self.rows.iter_mut().for_each(Vec::clear);
        self.hashes.clear();
        for row in 0..chunk.len() {
            let Some(hash) = K::hash(column, row) else {
                self.dropped.add(1);
                self.hashes.push(0);
                continue;
            };
            let shard = self.owners[usize::from(self.groups.group_of(hash))];
            self.hashes.push(hash);
            self.rows[shard].push(row as u32);
        }
        for (open, rows) in self.open.iter_mut().zip(&self.rows) {
            open.gather(&chunk, &self.hashes, rows);
        }
        if let Some(&(_, watermark)) = chunk.watermarks().last() {
            self.watermark = Some(watermark);
        }
        self.pool.give(chunk);
        for shard in 0..self.open.len() {
            if self.open[shard].len() >= CHUNK_ROWS_MAX {
                self.send(shard, out);
            }
        }
    }

    fn mark(&mut self, mark: Mark, out: &mut impl Collector<Addressed>) {
        if let Mark::Watermark(watermark) = mark {
            self.watermark = Some(watermark);
            return self.open.iter_mut().for_each(|open| open.watermark(watermark));
        }
        self.flush(out);
        out.mark(mark);
    }

    fn settle(&mut self, out: &mut impl Collector<Addressed>) {
        self.flush(out);
    }

    #[inline]
    fn due_at(&self) -> Timestamp {
        Timestamp::MAX
    }
}

/// The head of a pipeline that is fed with chunks: an [inbox](Inbox) that also merges the watermarks within them.
pub type ChunkInbox = Inbox<Addressed, WithWatermarks>;

/// Passes each chunk on with merged watermarks in place of its own: what those of all ports come to.
pub struct WithWatermarks(());

impl Passing<Addressed> for WithWatermarks {
    type Out = Chunk;

    /// Counts rows.
    fn records(batch: &Batch<Addressed>) -> usize {
        batch.values().iter().map(|addressed| addressed.chunk.len()).sum()
    }

    #[allow(private_interfaces, reason = "see the trait")]
    fn pass(ports: &mut Ports, port: usize, Addressed { mut chunk, .. }: Addressed) -> Chunk {
        chunk.merge_watermarks(|watermark| {
            let mut merged = None;
            ports.mark(port, Mark::Watermark(watermark), |_, mark| {
                if let Mark::Watermark(watermark) = mark {
                    merged = Some(watermark);
                }
            });
            merged
        });
        chunk
    }
}
