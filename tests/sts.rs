//! MTA-STS over real HTTPS: which policy counts, and what it takes to change or to lose it (RFC 8461).
#![cfg(feature = "mta-sts")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/https.rs"]
mod https;
#[path = "sts/keeping.rs"]
mod keeping;
#[path = "kit/peer.rs"]
mod peer;
#[path = "sts/routes.rs"]
mod routes;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::clock::{Clock, Now, SystemClock};
use postroad::net::tls::TlsOptions;
use postroad::route::RouteError;
use postroad::route::dns::{DnsName, Record, RecordKind, StaticDns};
use postroad::route::sts::{StsFault, StsFound, StsMode, StsOptions, StsPolicies};
use postroad::smtp::address::Domain;

use https::{Certificate, HttpsServer, Reply};

const DAY: u64 = 24 * 3600;

/// The system's clock, ahead by so many seconds.
#[derive(Debug, Clone, Default)]
struct Ahead(Arc<AtomicU64>);

impl Ahead {
    fn by(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Now {
        let (now, ahead) = (SystemClock.now(), Duration::from_secs(self.0.load(Ordering::SeqCst)));
        Now { mono: now.mono + ahead, wall: now.wall.after(ahead) }
    }
}

/// A web server, DNS and a clock.
struct World {
    web: HttpsServer,
    dns: StaticDns,
    clock: Ahead,
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn text(mode: &str, mx: &str, max_age: u64) -> String {
    format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n")
}

fn record_name(domain: &str) -> DnsName {
    DnsName::new(&format!("_mta-sts.{domain}")).unwrap()
}

impl World {
    async fn new() -> Self {
        Self { web: HttpsServer::start().await, dns: StaticDns::new(), clock: Ahead::default() }
    }

    /// A domain with a policy under the id `1`.
    async fn with(domain: &str, policy: &str) -> Self {
        let world = Self::new().await;
        world.publish(domain, "1", policy);
        world
    }

    fn publish(&self, domain: &str, id: &str, policy: &str) {
        self.announce(domain, &[&format!("v=STSv1; id={id};")]);
        self.host(domain);
        self.web.policy(domain, policy);
    }

    fn announce(&self, domain: &str, texts: &[&str]) {
        let records = texts.iter().map(|text| Record::Txt(text.as_bytes().to_vec().into())).collect();
        self.dns.set(&record_name(domain), RecordKind::Txt, records, false);
    }

    fn host(&self, domain: &str) {
        let name = DnsName::new(&format!("mta-sts.{domain}")).unwrap();
        self.dns.set(&name, RecordKind::A, vec![Record::A([127, 0, 0, 1].into())], false);
    }

    fn options(&self) -> StsOptions {
        let mut options = StsOptions::new();
        options.trust = self.web.trust(TlsOptions::new());
        options.port = self.web.port();
        options.clock = Arc::new(self.clock.clone());
        options
    }

    fn policies(&self) -> StsPolicies {
        self.policies_with(self.options())
    }

    fn policies_with(&self, options: StsOptions) -> StsPolicies {
        StsPolicies::new(Arc::new(self.dns.clone()), options).unwrap()
    }

    fn requests(&self, domain: &str) -> usize {
        self.web.requests(&format!("mta-sts.{domain}"))
    }
}

/// The id and the first host of what counts, and what went wrong.
fn shown(found: &StsFound) -> (Option<(&str, String)>, Option<StsFault>) {
    let policy = found.policy.as_ref().map(|policy| (&*policy.id, policy.mx[0].name.to_string()));
    (policy, found.fault)
}

async fn find(policies: &StsPolicies, name: &str) -> StsFound {
    policies.find(&domain(name)).await
}

/// What a domain without any policy at hand gets, if its policy host answers like this.
async fn fault_of(reply: Reply) -> StsFound {
    let world = World::with("a.test", "").await;
    world.web.reply("mta-sts.a.test", reply);
    let found = find(&world.policies(), "a.test").await;
    assert_eq!(world.requests("a.test"), 1);
    found
}

#[tokio::test]
async fn a_policy_is_fetched_from_the_host_and_the_path_of_its_domain() {
    let world = World::with("a.test", &text("enforce", "*.mx.test", DAY)).await;
    let found = find(&world.policies(), "a.test").await;
    let policy = found.policy.unwrap();
    assert_eq!((policy.mode, &*policy.id, policy.max_age.as_secs()), (StsMode::Enforce, "1", DAY));
    assert_eq!(policy.lines.len(), 4);
    let asked = &world.web.asked()[0];
    assert_eq!(asked.line, "GET /.well-known/mta-sts.txt HTTP/1.1");
    assert_eq!(asked.host, "mta-sts.a.test");
    // A name of the same domain has its own policy or none.
    assert_eq!(find(&world.policies(), "sub.a.test").await, StsFound::default());
    assert_eq!(find(&world.policies(), "[127.0.0.1]").await, StsFound::default());
    let long = format!("{}.test", ["x".repeat(59).as_str(); 4].join("."));
    assert_eq!(find(&world.policies(), &long).await, StsFound::default());
}

#[tokio::test]
async fn a_policy_counts_in_the_modes_enforce_and_testing() {
    for (mode, counts) in
        [("enforce", Some(StsMode::Enforce)), ("testing", Some(StsMode::Testing)), ("none", None)]
    {
        let world = World::with("a.test", &text(mode, "mx.test", DAY)).await;
        let policies = world.policies();
        for _ in 0..2 {
            let found = find(&policies, "a.test").await;
            assert_eq!((found.policy.map(|policy| policy.mode), found.fault), (counts, None), "{mode}");
        }
        assert_eq!(world.requests("a.test"), 1, "{mode}");
    }
}

#[tokio::test]
async fn without_exactly_one_good_record_nothing_is_fetched() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    for texts in [
        &[][..],
        &["v=spf1 -all"],
        &["v=STSv1; id=1", "v=STSv1; id=2"],
        &["v=STSv1; id=1", "v=STSv1; id=1"],
        &["v=STSv1"],
        &["v=STSv1; id=a-b"],
        &["v=STSv2; id=1"],
    ] {
        world.announce("a.test", texts);
        assert_eq!(find(&world.policies(), "a.test").await, StsFound::default(), "{texts:?}");
    }
    world.dns.fail(&record_name("a.test"), RecordKind::Txt, RouteError::Dns);
    assert_eq!(find(&world.policies(), "a.test").await, StsFound::default());
    assert_eq!(world.requests("a.test"), 0);
    world.announce("a.test", &["v=spf1 -all", "v=STSv1; id=1"]);
    assert!(find(&world.policies(), "a.test").await.policy.is_some());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let world = World::with("a.test", "").await;
        world.publish("b.test", "1", &text("enforce", "mx.test", DAY));
        let to = format!("https://mta-sts.b.test:{}/.well-known/mta-sts.txt", world.web.port());
        world.web.reply("mta-sts.a.test", Reply::redirect(status, &to));
        let found = find(&world.policies(), "a.test").await;
        assert_eq!(shown(&found), (None, Some(StsFault::Fetch)), "{status}");
        assert_eq!(world.requests("b.test"), 0);
    }
}

#[tokio::test]
async fn any_status_but_200_is_no_policy() {
    for status in [201, 204, 404, 410, 500, 503] {
        let fields = "Content-Type: text/plain\r\n".into();
        let body = text("enforce", "mx.test", DAY).into_bytes();
        let found = fault_of(Reply::Answer(status, fields, body)).await;
        assert_eq!(shown(&found), (None, Some(StsFault::Fetch)), "{status}");
    }
}

#[tokio::test]
async fn the_policy_host_shows_a_certificate_that_is_valid_for_it() {
    for certificate in [Certificate::SelfSigned, Certificate::OtherName, Certificate::Expired] {
        let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
        world.web.certificate("mta-sts.a.test", certificate);
        let found = find(&world.policies(), "a.test").await;
        assert_eq!(shown(&found), (None, Some(StsFault::Certificate)), "{certificate:?}");
        assert_eq!(world.requests("a.test"), 0);
    }
}

#[tokio::test]
async fn a_policy_is_plain_text_and_well_formed() {
    let policy = text("enforce", "mx.test", DAY);
    for (kind, body, good) in [
        ("text/plain", &*policy, true),
        ("Text/Plain; charset=utf-8", &policy, true),
        ("text/plain ; charset=us-ascii; x=y", &policy, true),
        ("text/html", &policy, false),
        ("text/plainer", &policy, false),
        ("application/octet-stream", &policy, false),
        ("", &policy, false),
        ("text/plain", "", false),
        ("text/plain", "<html></html>", false),
        ("text/plain", "version: STSv1\nmode: enforce\nmax_age: 1\n", false),
    ] {
        let found = fault_of(Reply::Answer(200, format!("Content-Type: {kind}\r\n"), body.into())).await;
        let fault = (!good).then_some(StsFault::Invalid);
        assert_eq!((found.policy.is_some(), found.fault), (good, fault), "{kind:?} {body:?}");
    }
    let found = fault_of(Reply::Answer(200, String::new(), policy.into())).await;
    assert_eq!(found.fault, Some(StsFault::Invalid), "no type at all");
}

#[tokio::test]
async fn a_policy_of_more_than_64_kib_is_none() {
    let policy = text("enforce", "mx.test", DAY);
    let padded = |length: usize| format!("{policy}x: {}", "y".repeat(length - policy.len() - 3));
    assert!(fault_of(Reply::text(&padded(64 * 1024))).await.policy.is_some());
    let found = fault_of(Reply::text(&padded(64 * 1024 + 1))).await;
    assert_eq!(shown(&found), (None, Some(StsFault::Fetch)));
}

#[tokio::test]
async fn a_policy_host_that_takes_too_long_has_no_policy() {
    let world = World::with("a.test", "").await;
    let mut options = world.options();
    options.limits.time = Duration::from_millis(200);
    let policies = world.policies_with(options);
    for (name, reply) in
        [("a.test", Reply::Silence), ("b.test", Reply::Stall(b"HTTP/1.1 200 OK\r\nContent-".to_vec()))]
    {
        world.publish(name, "1", "");
        world.web.reply(&format!("mta-sts.{name}"), reply);
        assert_eq!(shown(&find(&policies, name).await), (None, Some(StsFault::Fetch)), "{name}");
    }
}

#[tokio::test]
async fn a_policy_host_without_an_address_has_no_policy() {
    let world = World::new().await;
    world.announce("a.test", &["v=STSv1; id=1"]);
    assert_eq!(shown(&find(&world.policies(), "a.test").await), (None, Some(StsFault::Fetch)));
}

#[tokio::test]
async fn domains_of_one_host_keep_their_own_policies() {
    let world = World::with("a.test", &text("enforce", "mx.test", DAY)).await;
    world.publish("b.test", "1", &text("testing", "other.test", DAY));
    let policies = world.policies();
    for _ in 0..2 {
        let (a, b) = (find(&policies, "a.test").await, find(&policies, "b.test").await);
        assert_eq!(shown(&a).0, Some(("1", "mx.test".into())));
        assert_eq!(shown(&b).0, Some(("1", "other.test".into())));
        assert_eq!(find(&policies, "c.test").await.policy, None);
    }
}

/// Lets tasks run until this holds.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("it never came to hold");
}

/// What a test writes down as it happens.
type Log = Arc<Mutex<Vec<String>>>;
