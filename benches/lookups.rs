//! What it costs to know where mail goes when DNS was asked before: one look-up, and a whole route.
//!
//! `cargo bench --bench lookups`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "not a library")]

#[path = "../tests/kit/dns.rs"]
mod dns;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use divan::{Bencher, black_box};
use postroad::route::dns::{Anchors, DnsName, Dnssec, RecordKind};
use postroad::route::{MxOptions, MxResolver, Resolve};
use postroad::smtp::address::Domain;

use dns::signed::{Kind, SignedDns};

fn main() {
    divan::main();
}

const RECORDS: &str = "
    one.test           MX    10 mx.one.test
    mx.one.test        A     192.0.2.1
    mx.one.test        AAAA  2001:db8::1
    _25._tcp.mx.one.test TLSA 3 1 1 abababababababababababababababababababababababababababababababab
    five.test          MX    10 a.five.test
    five.test          MX    10 b.five.test
    five.test          MX    20 c.five.test
    five.test          MX    20 d.five.test
    five.test          MX    30 e.five.test
    a.five.test        A     192.0.2.1
    b.five.test        A     192.0.2.2
    c.five.test        A     192.0.2.3
    d.five.test        A     192.0.2.4
    e.five.test        A     192.0.2.5
";

const NAMES: [(&str, RecordKind); 4] = [
    ("one.test", RecordKind::Mx),
    ("mx.one.test", RecordKind::A),
    ("_25._tcp.mx.one.test", RecordKind::Tlsa),
    ("a.five.test", RecordKind::Aaaa), // there is none
];

/// A resolver that has asked everything before. The server is gone: nothing is asked again.
fn resolver() -> MxResolver {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let dns = SignedDns::start(&[("one.test", Kind::Signed), ("five.test", Kind::Signed)], RECORDS).await;
        let mut options = MxOptions::new();
        options.servers = vec![dns.address()];
        options.dnssec = Dnssec::Validate;
        options.anchors = Anchors::of_root(dns.anchors());
        let resolver = MxResolver::new(options).unwrap();
        for destination in ["one.test", "five.test"] {
            resolver.route(&Domain::parse(destination).unwrap()).await.unwrap();
        }
        resolver
    })
}

/// What is remembered is there at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("asked again"),
    }
}

#[divan::bench(sample_size = 1000, args = NAMES)]
fn look_up(bencher: Bencher<'_, '_>, (name, kind): (&str, RecordKind)) {
    let resolver = resolver();
    let name = DnsName::new(name).unwrap();
    bencher.bench_local(|| at_once(resolver.dns().look_up(black_box(&name), kind)));
}

#[divan::bench(sample_size = 1000, args = ["one.test", "five.test"])]
fn route(bencher: Bencher<'_, '_>, destination: &str) {
    let resolver = resolver();
    let destination = Domain::parse(destination).unwrap();
    bencher.bench_local(|| at_once(resolver.route(black_box(&destination))));
}
