//! Dialogues of the client session, written as they look on the wire.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod allowance;
mod chains;
mod chunks;
mod faults;
mod flights;
mod harness;
mod limits;
mod lmtp;
mod offers;
mod opening;
mod streams;
