//! Both sessions against models of them that were written from the RFCs alone, over thousands of
//! random histories. A history that fails names its seed; `POSTROAD_SEED=N` plays it alone.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

#[path = "model/client.rs"]
mod client;
#[path = "model/host.rs"]
mod host;
#[path = "model/moves.rs"]
mod moves;
#[path = "model/rules.rs"]
mod rules;
#[path = "kit/seeds.rs"]
mod seeds;
#[path = "model/server.rs"]
mod server;
