//! Nothing of its own: this crate exists for its integration tests, one file each beside this one.
//!
//! | test | what it holds the project to |
//! |---|---|
//! | `layers` | layers point one way; files stay small, documented and free of `unsafe` |
