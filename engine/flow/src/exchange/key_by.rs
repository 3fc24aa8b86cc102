//! `key_by`: partitions a stream by key. Every record goes to the shard that owns its key, so that
//! all records of a key meet in one place, in the order each sender had them.

use thalweg_kernel::{Collector, ConnectorError, Key, KeyGroups, Mark, Timestamp};

use super::inbox::{Inbox, Port};
use super::lane::LaneSender;
use crate::graph::Edge;
use crate::pipeline::{Chain, Terminal};
use crate::process::side::Sides;
use crate::state::bounds::Bounds;
use crate::stream::{At, Stream};
use crate::window::WindowedStream;
use crate::window::tumbling::Tumbling;

/// A stream partitioned by key: what windows and keyed state work on.
#[must_use = "a keyed stream does nothing until an operator uses it"]
pub struct KeyedStream<C: Chain, F> {
    pub(crate) stream: Stream<C>,
    pub(crate) key: F,
    /// For a process function.
    pub(crate) bounds: Bounds,
    pub(crate) sides: Sides,
}

impl<C: Chain> Stream<C> {
    /// Partitions the stream by what `key` returns. It is called up to twice for a record, on the
    /// shard that has it and on the one that owns the key; only the hash travels. Short strings
    /// should be [`Str`](thalweg_kernel::Str), whose clones up to 24 bytes do not allocate.
    pub fn key_by<K: Key, F: Fn(&C::Out) -> K + 'static>(self, key: F) -> KeyedStream<C, F> {
        KeyedStream { stream: self, key, bounds: Bounds::default(), sides: Sides::default() }
    }
}

impl<C: Chain, K: Key, F: Fn(&C::Out) -> K + 'static> KeyedStream<C, F> {
    /// Groups each key's records into windows of event time.
    pub fn window(self, windows: Tumbling) -> WindowedStream<C, F> {
        WindowedStream::new(self, windows)
    }
}

impl<C: Chain> Stream<C>
where
    C::Out: Routed + Send,
{
    /// Sends every record to the shard that owns its hash, and begins a new chain there for an
    /// operator called `name`, where they are counted as `count`.
    pub(crate) fn exchange(self, name: &str, count: &'static str) -> Stream<Inbox<C::Out>> {
        let (flow, at) = (self.flow.clone(), self.at);
        let shards = flow.shards();
        let node = flow.add_node::<C::Out>(name, shards, vec![(at.node, Edge::Hash)]);
        flow.used(at.node);
        let mut ports = Vec::new();
        if let Some(mesh) = flow.mesh::<C::Out>(node, at.producers) {
            let shard = flow.shard();
            let lanes = mesh.take_senders(shard);
            ports = mesh.take_receivers(shard).into_iter().map(Port::Lane).collect();
            let groups = flow.key_groups();
            let owners = (0..groups.count()).map(|group| groups.owner(group, shards)).collect();
            self.close(HashExchange { lanes, groups, owners });
        }
        let inbox = flow.counting_inbox(ports, node, count);
        Stream { flow, chain: inbox, at: At { node, producers: shards } }
    }
}

/// What can be sent to the shard that owns its key: it carries the key's hash, so that a key is
/// hashed once.
pub trait Routed: 'static {
    /// The fixed hash of the key.
    fn hash(&self) -> u64;
}

/// The end of a pipeline that partitions by key.
struct HashExchange<T> {
    lanes: Vec<LaneSender<T>>,
    groups: KeyGroups,
    /// The shard of each group: looked up, not divided.
    owners: Box<[usize]>,
}

impl<T: Routed> Collector<T> for HashExchange<T> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        let group = self.groups.group_of(value.hash());
        self.lanes[self.owners[usize::from(group)]].record(time, value);
    }

    fn mark(&mut self, mark: Mark) {
        self.lanes.iter_mut().for_each(|lane| lane.mark(mark));
    }
}

impl<T: Routed> Terminal<T> for HashExchange<T> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.finish()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.finish().map(|_| ())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        let blocked =
            self.lanes.iter_mut().filter_map(|lane| (!lane.flush()).then_some(())).count();
        Ok(blocked == 0)
    }
}
