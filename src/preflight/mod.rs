//! Pre-flight.

pub mod spf;
