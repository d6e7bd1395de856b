//! Pre-flight: what receivers will find in DNS, and each fault found in a zone that has it.
#![cfg(feature = "preflight")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "preflight/checks.rs"]
mod checks;
#[path = "kit/dns.rs"]
mod dns;
mod kit;
#[path = "preflight/real.rs"]
mod real;
#[path = "preflight/spf.rs"]
mod spf;
#[path = "kit/zone.rs"]
mod zone;
