//! Event time: how watermarks arise at sources, and how they merge.

pub(crate) mod domain;
pub(crate) mod generator;
pub(crate) mod merge;
pub(crate) mod per_key;
pub(crate) mod watermarks;
