//! This workload on other engines, each written as its own documentation writes such a job. They share the
//! generator and nothing else.
//!
//! Each returns its rows as an [`Answer`](super::workload::Answer).

pub mod handloop;
pub mod renoir;
pub mod timely;
