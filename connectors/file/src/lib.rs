//! Files and standard output.
