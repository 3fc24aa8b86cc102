//! The operators without keys, one file each.

mod filter;
mod flat_map;
mod inspect;
mod map;
pub(crate) mod side_output;
mod split;
mod union;
