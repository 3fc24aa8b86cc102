//! The client ids of a job. A broker ends a connection when another one comes with its client id. So two
//! connectors of one id push each other out for ever, each time with everything unacknowledged sent again.
//! Connectors of one job with one id are refused before they connect. A clash with another program shows in the
//! log, as connections that the broker closes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use thalweg_kernel::{ConfigError, OpenContext};

use crate::config::MqttConfig;

/// Who has which id at which broker: the operator's number and name.
#[derive(Default)]
struct Names(Mutex<HashMap<(String, String), (u32, String)>>);

/// Takes `client_id` for the operator that opens.
///
/// # Errors
/// If another connector of the job has it.
pub(crate) fn claim(
    cx: &OpenContext,
    broker: &MqttConfig,
    client_id: &str,
) -> Result<(), ConfigError> {
    let names = cx.shared.of_job::<Names>();
    // Never left half-changed, so a panic elsewhere does not matter.
    let mut names = names.0.lock().unwrap_or_else(PoisonError::into_inner);
    let (owner, name) = names
        .entry((broker.to_string(), client_id.to_owned()))
        .or_insert_with(|| (cx.operator_id, cx.operator.to_string()));
    if *owner == cx.operator_id {
        return Ok(());
    }
    let allowed = format!(
        "another one, or none for a random one: {name} of this job connects as {client_id:?}, too, and a broker \
         keeps one connection of an id"
    );
    Err(ConfigError::new("client_id", broker.client_id.as_deref().unwrap_or_default(), allowed))
}
