//! The exchange of chunks by key: [`Divide`] gathers each shard's rows in a chunk of its own, and a [`ChunkInbox`] merges
//! what comes from several shards.

use std::marker::PhantomData;
use std::mem::replace;

use thalweg_kernel::{Batch, Collector, ConnectorError, Epoch, KeyGroups, Mark, Timestamp};

use super::chunk::Chunk;
use super::column::DataType;
use super::rows::ColumnKey;
use super::{CHUNK_ROWS_MAX, ChunkPool, ColumnStream, KeyedColumns};
use crate::counters::{Counter, WatermarkGauge};
use crate::exchange::inbox::Port;
use crate::exchange::lane::LaneSender;
use crate::exchange::ports::Ports;
use crate::exchange::route::Route;
use crate::graph::{At, Edge};
use crate::pipeline::{Chain, Head, Operator, Progress, StepContext, Then};
use crate::stream::Stream;

/// A chunk on its way to a shard.
pub(crate) struct Addressed {
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
        let together = flow.wakes_together(node);
        let chain = ChunkInbox {
            ports: Ports::one(sources.len(), together),
            sources,
            batch: Batch::default(),
            first: 0,
            records_in: flow.counter("numRecordsIn", node),
            watermark: flow.watermark("currentInputWatermark", node),
        };
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
    /// Of the chunk at hand: the rows of each shard, and the hash of each row's key.
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
}

/// The head of a pipeline that is fed with chunks: an [inbox](crate::exchange::inbox) that also merges the watermarks
/// within them.
pub struct ChunkInbox {
    sources: Vec<Port<Addressed>>,
    ports: Ports,
    batch: Batch<Addressed>,
    /// The port to begin with, so that none is favoured.
    first: usize,
    /// Counts rows.
    records_in: Counter,
    watermark: WatermarkGauge,
}

#[allow(private_interfaces, reason = "sealed: see the trait")]
impl Chain for ChunkInbox {
    type Out = Chunk;

    fn step<C: Collector<Chunk>>(
        &mut self,
        _cx: &StepContext,
        mut out: C,
    ) -> Result<Progress, ConnectorError> {
        let count = self.sources.len();
        let mut busy = false;
        for n in 0..count {
            let port = (self.first + n) % count;
            if self.ports.is_blocked(port) || !self.sources[port].take(&mut self.batch) {
                continue;
            }
            busy = true;
            let Self { ports, batch, records_in, .. } = self;
            batch.drain_into(&mut Merging { port, ports, records_in, out: &mut out });
        }
        self.first = (self.first + 1) % count.max(1);
        if busy {
            self.watermark.set(self.ports.watermark());
        }
        Ok(if self.ports.ended() {
            Progress::Done
        } else if busy {
            Progress::Busy
        } else {
            Progress::Idle(None)
        })
    }

    fn ready(&self) -> bool {
        true
    }

    fn barrier(&mut self, epoch: Epoch, mut out: impl Collector<Chunk>) {
        out.mark(Mark::Barrier(epoch));
    }

    fn tick(&mut self, _cx: &StepContext, _out: impl Collector<Chunk>) -> Option<Timestamp> {
        None
    }

    fn settle(&mut self, _out: impl Collector<Chunk>) {}

    fn source(&mut self) -> Option<&mut dyn Head> {
        None
    }
}

/// Passes one port's chunks on, with the watermarks that all ports make of its own.
struct Merging<'a, C> {
    port: usize,
    ports: &'a mut Ports,
    records_in: &'a Counter,
    out: &'a mut C,
}

impl<C: Collector<Chunk>> Collector<Addressed> for Merging<'_, C> {
    fn record(&mut self, time: Timestamp, Addressed { mut chunk, .. }: Addressed) {
        debug_assert!(self.ports.may_send_records(self.port), "a chunk after idle, end or barrier");
        self.records_in.add(chunk.len());
        chunk.merge_watermarks(|watermark| {
            let mut merged = None;
            self.ports.mark(self.port, Mark::Watermark(watermark), |_, mark| {
                if let Mark::Watermark(watermark) = mark {
                    merged = Some(watermark);
                }
            });
            merged
        });
        self.out.record(time, chunk);
    }

    fn mark(&mut self, mark: Mark) {
        self.ports.mark(self.port, mark, |_, mark| self.out.mark(mark));
    }
}
