//! How records move between pipelines: through queues within a shard, and through lanes of batches
//! between shards.

mod blocked;
pub(crate) mod connected;
mod due;
pub(crate) mod inbox;
mod kept;
pub(crate) mod key_by;
pub(crate) mod lane;
pub(crate) mod local;
pub(crate) mod ports;
pub(crate) mod route;
pub(crate) mod side;
