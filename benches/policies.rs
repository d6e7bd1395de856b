//! What a domain's policy costs: found in memory, which is done before each message, and read.
//!
//! `cargo bench --bench policies`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by panicking"
)]
#![allow(missing_docs, reason = "not a library")]

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use divan::{Bencher, black_box};
use postroad::BoxFuture;
use postroad::clock::{Clock, SystemClock};
use postroad::route::dns::{DnsName, Record, RecordKind, StaticDns};
use postroad::route::sts::{StoredPolicy, StsOptions, StsPolicies, StsPolicy, StsRecord, StsStore};
use postroad::smtp::address::Domain;

fn main() {
    divan::main();
}

const POLICY: &[u8] = b"version: STSv1\r\nmode: enforce\r\nmx: mx1.example.com\r\nmx: mx2.example.com\r\n\
    mx: *.mail.example.com\r\nmax_age: 604800\r\n";

/// Policies of an earlier process.
#[derive(Debug)]
struct Many(usize);

fn name(number: usize) -> Domain {
    Domain::parse(&format!("domain{number}.example")).unwrap()
}

impl StsStore for Many {
    fn load(&self) -> BoxFuture<'_, Vec<StoredPolicy>> {
        let policy = Arc::new(StsPolicy::parse("20260101", POLICY).unwrap());
        let fetched = SystemClock.now().wall;
        let stored =
            (0..self.0).map(|n| StoredPolicy { domain: name(n), policy: Arc::clone(&policy), fetched });
        let stored: Vec<_> = stored.collect();
        Box::pin(async { stored })
    }

    fn keep(&self, _: StoredPolicy) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn forget(&self, _: Domain) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A policy at hand among so many others.
#[divan::bench(args = [1, 1_000, 20_000], sample_size = 1000)]
fn policy_from_memory(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut options = StsOptions::new();
    options.store = Some(Arc::new(Many(count)));
    let dns = StaticDns::new();
    let domain = name(count / 2);
    let at = DnsName::new(&format!("_mta-sts.{domain}")).unwrap();
    let record = Record::Txt("v=STSv1; id=20260101;".into());
    dns.set(&at, RecordKind::Txt, vec![record], false);
    let policies = StsPolicies::new(Arc::new(dns), options).unwrap();
    assert!(runtime.block_on(policies.find(&domain)).policy.is_some());
    let mut context = Context::from_waker(Waker::noop());
    bencher.bench_local(|| match pin!(policies.find(black_box(&domain))).poll(&mut context) {
        Poll::Ready(found) => found,
        Poll::Pending => panic!("it is at hand"),
    });
}

#[divan::bench(sample_size = 1000)]
fn read_policy() -> StsPolicy {
    StsPolicy::parse("20260101", black_box(POLICY)).unwrap()
}

#[divan::bench(sample_size = 1000)]
fn read_record() -> StsRecord {
    StsRecord::parse(black_box(b"v=STSv1; id=20260101;")).unwrap()
}
