//! What a demonstration needs beside the engine: a broker and a fleet of devices, both inside the
//! process, so that one command shows the engine at work on a machine that has nothing else.
//!
//! | module | what it is |
//! |---|---|
//! | [`broker`] | an MQTT broker on two free ports of 127.0.0.1 |
//! | [`fleet`] | simulated devices, some of which misbehave in ways that are counted |

pub mod broker;
pub mod fleet;
