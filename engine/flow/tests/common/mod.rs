//! What the tests of jobs share: shards that are stepped by hand, a world that survives crashes, and jobs that crash in it.

#![allow(dead_code, unused_imports, reason = "a test takes what it needs")]

pub(crate) mod check;
pub(crate) mod each_third;
pub(crate) mod lives;
pub(crate) mod machine;
pub(crate) mod shards;
pub(crate) mod windows;
pub(crate) mod world;

pub(crate) use check::{Said, check};
pub(crate) use lives::{Crashes, Ended, Life, undisturbed};
pub(crate) use machine::Machine;
pub(crate) use shards::*;
pub(crate) use thalweg_testing::{Act, Feed, Feeds, Random, Scripted, mix};
pub(crate) use world::{Store, Table};
