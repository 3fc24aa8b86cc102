//! `[fields]`.

use thalweg_kernel::options;

options! {
    /// What the fields of a reading are called.
    #[derive(Clone, Debug)]
    pub(crate) struct Fields {
        /// What results are grouped by: text.
        pub(crate) key: String = "device".into(),
        /// What is averaged: a number.
        pub(crate) value: String = "value".into(),
        /// Event time: milliseconds since 1970, a whole number.
        pub(crate) time: String = "ts".into(),
    }
}
