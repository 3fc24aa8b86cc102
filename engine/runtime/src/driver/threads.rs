//! The driver on plain threads: an idle shard parks its thread.

use thalweg_kernel::ConnectorError;

use super::{Stepped, Turn};

pub(super) fn drive(mut stepped: Stepped) -> Result<(), ConnectorError> {
    stepped.seat.pin();
    loop {
        match stepped.turn()? {
            Turn::Again => {}
            Turn::Sleep(longest) => stepped.seat.signal.park(longest),
            Turn::End => return Ok(()),
        }
    }
}
