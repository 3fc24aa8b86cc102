//! The job graph: what the user described, for people, the dashboard and EXPLAIN.

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
}

/// One operator of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphNode {
    /// Its number, in the order of description; the same on every shard and at every start.
    pub id: u32,
    /// Its name, as shown and as labelled in metrics.
    pub name: Str,
    /// On how many shards it runs.
    pub parallelism: usize,
    /// Where its records come from.
    pub inputs: Vec<(u32, Edge)>,
}

/// The operators of a job and how they are connected. Its `Display` is the text form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The operators in the order of description.
    pub nodes: Vec<GraphNode>,
}

impl Graph {
    pub(crate) fn add(
        &mut self,
        name: impl Into<Str>,
        parallelism: usize,
        inputs: Vec<(u32, Edge)>,
    ) -> u32 {
        let id = self.nodes.len() as u32;
        self.nodes.push(GraphNode { id, name: name.into(), parallelism, inputs });
        id
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.nodes.iter().map(|n| n.name.chars().count()).max().unwrap_or(0);
        for node in &self.nodes {
            let shards = if node.parallelism == 1 { "shard" } else { "shards" };
            write!(f, "{:>3}  {:width$}  {} {shards}", node.id, node.name, node.parallelism)?;
            for (n, (input, edge)) in node.inputs.iter().enumerate() {
                let arrow = match edge {
                    Edge::Chained => "chained to",
                    Edge::Local => "queued from",
                    Edge::Hash => "by key from",
                };
                write!(f, "{}{arrow} {input}", if n == 0 { "  " } else { ", " })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
