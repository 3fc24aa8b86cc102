//! Ways to run a job: every driver, several numbers of shards.

use thalweg::prelude::*;

/// Both drivers on 1, 2 and 8 shards, and simulations of as many seeds.
pub(crate) fn configs(seeds: u64) -> Vec<RuntimeConfig> {
    let config = |driver, shards| RuntimeConfig { driver, shards, ..RuntimeConfig::default() };
    let mut configs = Vec::new();
    for shards in [1, 2, 8] {
        configs.push(config(DriverKind::Glommio, shards));
        configs.push(config(DriverKind::Threads, shards));
        configs.extend((0..seeds).map(|seed| config(DriverKind::Simulated { seed }, shards)));
    }
    configs
}
