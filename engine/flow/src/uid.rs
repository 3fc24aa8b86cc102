//! [`Uid`]: the stable name of an operator, by which its state is found again.

use thalweg_kernel::Str;

/// The stable name of an operator.
pub(crate) struct Uid {
    pub(crate) name: Str,
    /// The user gave it.
    pub(crate) given: bool,
    /// The operator has opened under it.
    pub(crate) settled: bool,
}
