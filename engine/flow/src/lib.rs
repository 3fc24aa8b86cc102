//! The stream API and its operators.
