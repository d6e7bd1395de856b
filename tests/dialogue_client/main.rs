//! Dialogues of the client session, written as they look on the wire.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod auth;
mod faults;
mod flights;
mod harness;
mod limits;
mod opening;
mod streams;
