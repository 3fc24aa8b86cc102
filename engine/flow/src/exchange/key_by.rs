//! `key_by`: partitions a stream by key. Every record goes to the shard that owns its key, so that
//! all records of a key meet in one place, in the order each sender had them.

use std::rc::Rc;

use thalweg_kernel::{Collector, ConnectorError, Key, KeyGroups, Mark, Timestamp};

use super::inbox::{Inbox, Port};
use super::lane::LaneSender;
use crate::flow::Flow;
use crate::graph::Edge;
use crate::pipeline::{Chain, Terminal};
use crate::stream::{At, Stream};
use crate::window::WindowedStream;
use crate::window::tumbling::Tumbling;

/// A stream partitioned by key: what windows and keyed state work on.
#[must_use = "a keyed stream does nothing until an operator uses it"]
pub struct KeyedStream<C: Chain, F> {
    stream: Stream<C>,
    key: F,
}

impl<C: Chain> Stream<C> {
    /// Partitions the stream by what `key` returns. Short strings should be
    /// [`Str`](thalweg_kernel::Str), whose clones do not allocate.
    pub fn key_by<K: Key, F: Fn(&C::Out) -> K + 'static>(self, key: F) -> KeyedStream<C, F> {
        KeyedStream { stream: self, key }
    }
}

impl<C: Chain, K: Key, F: Fn(&C::Out) -> K + 'static> KeyedStream<C, F>
where
    C::Out: Send,
{
    /// Groups each key's records into windows of event time.
    pub fn window(self, windows: Tumbling) -> WindowedStream<C, F> {
        WindowedStream::new(self, windows)
    }

    /// Sends every record to the shard of its key, and begins a new chain there for an operator
    /// called `name`.
    pub(crate) fn exchange(self, name: &str) -> (Stream<Inbox<Hashed<C::Out>>>, Rc<F>) {
        let Self { stream, key } = self;
        let key = Rc::new(key);
        let (flow, at) = (stream.flow.clone(), stream.at);
        let shards = flow.shards();
        let node = flow.add_node(name, shards, vec![(at.node, Edge::Hash)]);
        let mut ports = Vec::new();
        if let Some(mesh) = flow.mesh::<Hashed<C::Out>>(node, at.producers) {
            let shard = flow.shard();
            let lanes = mesh.take_senders(shard);
            let groups = flow.key_groups();
            ports = mesh.take_receivers(shard).into_iter().map(Port::Lane).collect();
            stream.close(HashExchange { lanes, groups, key: Rc::clone(&key) });
        }
        let inbox = flow.inbox(ports, node);
        (Stream { flow, chain: inbox, at: At { node, producers: shards } }, key)
    }
}

impl<C: Chain, F> KeyedStream<C, F> {
    pub(crate) fn flow(&self) -> &Flow {
        &self.stream.flow
    }
}

/// A record with the hash of its key, which is computed once, at the sender.
pub struct Hashed<T> {
    pub(crate) hash: u64,
    pub(crate) value: T,
}

/// The end of a pipeline that partitions by key.
struct HashExchange<T, F> {
    lanes: Vec<LaneSender<Hashed<T>>>,
    groups: KeyGroups,
    key: Rc<F>,
}

impl<T, K: Key, F: Fn(&T) -> K> Collector<T> for HashExchange<T, F> {
    #[inline]
    fn record(&mut self, time: Timestamp, value: T) {
        let hash = (self.key)(&value).key_hash();
        let shard = self.groups.shard_of(hash, self.lanes.len());
        self.lanes[shard].record(time, Hashed { hash, value });
    }

    fn mark(&mut self, mark: Mark) {
        self.lanes.iter_mut().for_each(|lane| lane.mark(mark));
    }
}

impl<T: 'static, K: Key, F: Fn(&T) -> K + 'static> Terminal<T> for HashExchange<T, F> {
    fn ready(&mut self) -> Result<bool, ConnectorError> {
        self.flush()?;
        self.finish()
    }

    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.lanes.iter_mut().for_each(|lane| {
            lane.flush();
        });
        Ok(())
    }

    fn finish(&mut self) -> Result<bool, ConnectorError> {
        let blocked =
            self.lanes.iter_mut().filter_map(|lane| (!lane.flush()).then_some(())).count();
        Ok(blocked == 0)
    }
}
