//! The thalweg binary and the crate that users depend on.

#[cfg(feature = "demo")]
pub mod demo;
