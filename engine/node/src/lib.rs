//! The thalweg binary and the crate that users depend on.
