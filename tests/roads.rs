//! Where mail goes and over what, end to end: signed zones, a policy over HTTPS and a real TLS peer, and
//! what becomes of one message by a mailer that was only told which name server to ask.
//!
//! Each row of the tables is a test of its own, read from left to right: what DNSSEC makes of the
//! destination's zone and of its host's, the host's TLSA records, the destination's policy, the host's
//! certificate, what the host program requires, the message; and what comes of it.
#![cfg(all(feature = "dns", feature = "mta-sts"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/certs.rs"]
mod certs;
#[path = "kit/dns.rs"]
mod dns;
#[path = "kit/https.rs"]
mod https;
#[path = "kit/peer.rs"]
mod peer;

#[path = "roads/dane.rs"]
mod dane;
#[path = "roads/message.rs"]
mod message;
#[path = "roads/plain.rs"]
mod plain;
#[path = "roads/sts.rs"]
mod sts;
#[path = "roads/world.rs"]
mod world;
