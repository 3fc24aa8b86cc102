//! The job graph: what the user described, for people, the dashboard and EXPLAIN.

use std::any::type_name;
use std::collections::BTreeSet;
use std::fmt;

use thalweg_kernel::Str;

/// How records travel along an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// By an inlined call: the two operators are fused.
    Chained,
    /// Through a queue within the shard.
    Local,
    /// To the shard that owns the record's key.
    Hash,
    /// To every shard.
    Broadcast,
    /// To one shard after the other.
    Rebalance,
    /// To shard 0.
    Global,
}

impl Edge {
    /// Whether it leads to other shards.
    fn exchanges(self) -> bool {
        !matches!(self, Self::Chained | Self::Local)
    }

    /// On how many of `shards` shards an operator runs that has it in front.
    pub(crate) fn shards(self, shards: usize) -> usize {
        if self == Self::Global { 1 } else { shards }
    }
}

/// One operator of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphNode {
    /// Its number, in the order of description; the same on every shard and at every start.
    pub id: u32,
    /// Its name, as labelled in metrics.
    pub name: Str,
    /// What it is, whatever it is called: kind and address.
    pub description: Str,
    /// The Rust type of the records it emits, or takes if it is a sink.
    pub records: &'static str,
    /// On how many shards it runs.
    pub parallelism: usize,
    /// Where its records come from.
    pub inputs: Vec<(u32, Edge)>,
}

/// Where in the job a stream is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// The graph node that the stream comes out of.
    pub(crate) node: u32,
    /// It runs on shards `0..producers`.
    pub(crate) producers: usize,
}

/// An input of an operator: the graph node and which of its inputs it is.
pub(crate) type InputId = (u32, u32);

/// The operators of a job and how they are connected. Its `Display` is the text form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The operators in the order of description.
    pub nodes: Vec<GraphNode>,
}

/// A node in each of two graphs, where they have one.
pub(crate) type Difference<'a> = (Option<&'a GraphNode>, Option<&'a GraphNode>);

impl Graph {
    pub(crate) fn add<T>(
        &mut self,
        name: &str,
        parallelism: usize,
        inputs: Vec<(u32, Edge)>,
    ) -> u32 {
        let id = self.nodes.len() as u32;
        let records = type_name::<T>();
        let (name, description) = (Str::from(name), Str::from(name));
        self.nodes.push(GraphNode { id, name, description, records, parallelism, inputs });
        id
    }

    /// Whether what comes into `node` from several sides falls idle and wakes up together: whatever makes one of them do
    /// so will reach the others.
    pub(crate) fn wakes_together(&self, node: u32) -> bool {
        let inputs = 0..self.nodes[node as usize].inputs.len();
        inputs.clone().all(|n| self.input_wakes_together(node, n))
            && self.inputs_wake_together(node)
    }

    /// Whether what comes into `node` by its input number `n` falls idle and wakes up together.
    pub(crate) fn input_wakes_together(&self, node: u32, n: usize) -> bool {
        let (input, edge) = self.nodes[node as usize].inputs[n];
        // What has not been exchanged before is another on each shard that it comes from.
        !self.spreads(input, edge) || self.origins(input).iter().all(|&(_, exchanged)| exchanged)
    }

    /// Whether the inputs of `node`, each taken as one, fall idle and wake up together.
    pub(crate) fn inputs_wake_together(&self, node: u32) -> bool {
        let mut inputs = self.nodes[node as usize].inputs.iter().map(|&(input, edge)| {
            let spreads = self.spreads(input, edge);
            let origins = self.origins(input).into_iter();
            origins.map(|(node, exchanged)| (node, exchanged || spreads)).collect::<BTreeSet<_>>()
        });
        let first = inputs.next();
        inputs.all(|other| Some(&other) == first.as_ref())
    }

    /// Whether an edge brings what several shards have.
    fn spreads(&self, input: u32, edge: Edge) -> bool {
        edge.exchanges() && self.nodes[input as usize].parallelism > 1
    }

    /// Where the stream out of `node` begins, and whether it was exchanged since.
    fn origins(&self, node: u32) -> BTreeSet<(u32, bool)> {
        let (mut open, mut seen) = (vec![(node, false)], BTreeSet::new());
        let mut origins = BTreeSet::new();
        while let Some((next, exchanged)) = open.pop() {
            if !seen.insert((next, exchanged)) {
                continue;
            }
            let inputs = &self.nodes[next as usize].inputs;
            if inputs.is_empty() {
                origins.insert((next, exchanged));
            }
            open.extend(inputs.iter().map(|&(input, edge)| (input, exchanged || edge.exchanges())));
        }
        origins
    }

    /// The first node that is not the same in `other`.
    pub(crate) fn first_difference<'a>(&'a self, other: &'a Self) -> Option<Difference<'a>> {
        let nodes = self.nodes.len().max(other.nodes.len());
        let pairs = (0..nodes).map(|id| (self.nodes.get(id), other.nodes.get(id)));
        pairs.into_iter().find(|(ours, theirs)| ours != theirs)
    }
}

impl GraphNode {
    /// Its name, and what it is where the name does not say.
    fn full_name(&self) -> String {
        if self.name == self.description {
            return self.name.to_string();
        }
        format!("{} ({})", self.name, self.description)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.nodes.iter().map(GraphNode::full_name).collect::<Vec<_>>();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (node, name) in self.nodes.iter().zip(names) {
            let shards = if node.parallelism == 1 { "shard" } else { "shards" };
            write!(f, "{:>3}  {name:width$}  {} {shards}", node.id, node.parallelism)?;
            for (n, (input, edge)) in node.inputs.iter().enumerate() {
                let arrow = match edge {
                    Edge::Chained => "chained to",
                    Edge::Local => "queued from",
                    Edge::Hash => "by key from",
                    Edge::Broadcast => "broadcast from",
                    Edge::Rebalance => "dealt out from",
                    Edge::Global => "all from",
                };
                write!(f, "{}{arrow} {input}", if n == 0 { "  " } else { ", " })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
