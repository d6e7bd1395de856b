//! Dialogues with the server session that read like the wire, each run again with its input cut at
//! every octet: the same replies and the same events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod auth;
mod chunking;
mod commands;
mod content;
mod dsl;
mod extensions;
mod limits;
mod lmtp;
mod lookups;
mod proxied;
mod refused;
mod replies;
mod timing;
mod tls;
