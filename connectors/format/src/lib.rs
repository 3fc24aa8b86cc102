//! JSON, CSV, text and raw bytes.
