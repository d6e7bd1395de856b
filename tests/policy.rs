//! What TLS a host must show, over real connections on loopback: every kind of wrong certificate under
//! every policy, DANE with every kind of record, sessions that are resumed, addresses that differ.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/carry.rs"]
mod carry;
#[path = "kit/certs.rs"]
mod certs;
mod kit;
#[path = "kit/peer.rs"]
mod peer;

#[path = "policy/addresses.rs"]
mod addresses;
#[path = "policy/dane.rs"]
mod dane;
#[path = "policy/engine.rs"]
mod engine;
#[path = "policy/postfix.rs"]
mod postfix;
#[path = "policy/resumed.rs"]
mod resumed;
#[path = "policy/table.rs"]
mod table;

use std::sync::Arc;

use postroad::attempt::{Accepted, Carrier, Cause, Outcome, RunEnd};
use postroad::hop::{Demand, Refused, Require};
use postroad::net::connect::TcpConnect;
use postroad::route::Hosts;

use carry::{IN_2026, List, Wall, carrier_trusting, first, job, options, run_at};
use certs::Ca;
use postroad::hop::Host;

/// A carrier that trusts this authority, in 2026.
fn trusting(ca: &Ca) -> Carrier {
    carrier_trusting(options(), Arc::new(TcpConnect::new()), Some(ca.pem()), Wall::at(IN_2026))
}

/// One message to one host.
async fn send(carrier: &Carrier, host: Host, require: Require) -> (RunEnd, List) {
    run_at(carrier, &Hosts::new(vec![host], require), [job(require)]).await
}

fn accepted(work: &List) -> &Accepted {
    match first(work) {
        Outcome::Delivered(accepted) => accepted,
        other => panic!("{other:?}"),
    }
}

/// What was demanded and what was missing, where the host did not show it.
fn refused(end: &RunEnd) -> (Demand, Refused) {
    match end {
        RunEnd::Unreachable(Cause::Tls { demand, refused, .. }) => (*demand, *refused),
        other => panic!("{other:?}"),
    }
}
