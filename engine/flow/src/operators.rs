//! The operators that are neither windows nor process functions, one file each.

pub(crate) mod boxed;
pub(crate) mod connect;
pub(crate) mod deduplicate;
mod filter;
mod flat_map;
mod inspect;
mod map;
pub(crate) mod side_output;
mod split;
mod union;
