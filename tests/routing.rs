//! Routes by MX, asked of a real name server on loopback: one test for each rule.
#![cfg(feature = "dns")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/dns.rs"]
mod dns;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postroad::clock::Rng;
use postroad::hop::{Host, Require};
use postroad::route::dns::Dnssec;
use postroad::route::{
    Families, FixedRoutes, Hosts, LocalId, MxOptions, MxResolver, Resolve, Route, RouteError, SetupError,
};
use postroad::smtp::address::Domain;

use dns::{DnsServer, Fault};

/// Short, for questions that are never answered.
const TIMEOUT: Duration = Duration::from_millis(50);

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn options(dns: &DnsServer) -> MxOptions {
    let mut options = MxOptions::new();
    options.servers = vec![dns.address()];
    options.attempts = 1;
    options.dnssec = Dnssec::Off;
    #[cfg(feature = "mta-sts")]
    {
        options.sts = None;
    }
    options.rng = Rng::seeded(1);
    options
}

fn resolver(dns: &DnsServer) -> MxResolver {
    MxResolver::new(options(dns)).unwrap()
}

fn impatient(dns: &DnsServer) -> MxResolver {
    let mut options = options(dns);
    options.timeout = TIMEOUT;
    MxResolver::new(options).unwrap()
}

async fn hosts(resolver: &impl Resolve, destination: &str) -> Result<Hosts, RouteError> {
    match resolver.route(&name(destination)).await? {
        Route::Hosts(hosts) => Ok(hosts),
        other => panic!("not over SMTP: {other:?}"),
    }
}

/// `mx1.test[192.0.2.1] mx2.test[2001:db8::1,192.0.2.2]`, or why there is no route.
async fn route(resolver: &impl Resolve, destination: &str) -> Result<String, RouteError> {
    let shown = |host: &Host| {
        let addresses: Vec<_> = host.addresses.iter().map(IpAddr::to_string).collect();
        format!("{}[{}]", host.name, addresses.join(","))
    };
    Ok(hosts(resolver, destination).await?.hosts.iter().map(shown).collect::<Vec<_>>().join(" "))
}

/// The route to `a.test` where these are the records.
async fn with(records: &str) -> Result<String, RouteError> {
    let dns = DnsServer::start(records).await;
    route(&resolver(&dns), "a.test").await
}

/// The same with one fault.
async fn failing(records: &str, at: &str, kind: &str, fault: Fault) -> Result<String, RouteError> {
    let dns = DnsServer::start(records).await;
    dns.fault(at, kind, fault);
    route(&impatient(&dns), "a.test").await
}

#[tokio::test]
async fn hosts_come_by_preference() {
    let found = with(
        "
        a.test  MX 20 mx2.test
        a.test  MX 10 mx1.test
        a.test  MX 30 mx3.test
        mx1.test A 192.0.2.1
        mx2.test A 192.0.2.2
        mx3.test A 192.0.2.3
    ",
    );
    assert_eq!(found.await.unwrap(), "mx1.test[192.0.2.1] mx2.test[192.0.2.2] mx3.test[192.0.2.3]");
}

#[tokio::test]
async fn equal_hosts_are_tried_in_random_order_also_from_the_cache() {
    let dns = DnsServer::start(
        "
        a.test  MX 10 mx1.test
        a.test  MX 10 mx2.test
        mx1.test A 192.0.2.1
        mx2.test A 192.0.2.2
    ",
    )
    .await;
    let resolver = resolver(&dns);
    let (mut orders, mut sites) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..50 {
        let hosts = hosts(&resolver, "a.test").await.unwrap();
        sites.insert(hosts.site());
        orders.insert(hosts.hosts[0].name.clone());
    }
    assert_eq!((orders.len(), sites.len()), (2, 1));
}

#[tokio::test]
async fn a_host_has_all_its_addresses_families_in_turn() {
    let found = with(
        "
        a.test  MX 10 mx1.test
        mx1.test A 192.0.2.1
        mx1.test AAAA 2001:db8::1
    ",
    );
    assert_eq!(found.await.unwrap(), "mx1.test[2001:db8::1,192.0.2.1]");
}

#[tokio::test]
async fn a_family_that_is_not_wanted_is_not_asked_for() {
    let dns = DnsServer::start(
        "
        a.test  MX 10 mx1.test
        mx1.test A 192.0.2.1
        mx1.test AAAA 2001:db8::1
    ",
    )
    .await;
    for (families, expected) in [(Families::V4, "192.0.2.1"), (Families::V6, "2001:db8::1")] {
        let mut options = options(&dns);
        options.families = families;
        let found = route(&MxResolver::new(options).unwrap(), "a.test").await.unwrap();
        assert_eq!(found, format!("mx1.test[{expected}]"));
    }
    assert_eq!((dns.queries("mx1.test", "A"), dns.queries("mx1.test", "AAAA")), (1, 1));
}

#[tokio::test]
async fn a_domain_without_mx_is_its_own_host() {
    assert_eq!(with("a.test A 192.0.2.1").await.unwrap(), "a.test[192.0.2.1]");
    assert_eq!(with("a.test AAAA 2001:db8::1").await.unwrap(), "a.test[2001:db8::1]");
}

#[tokio::test]
async fn a_domain_with_neither_mx_nor_address_has_no_host() {
    assert_eq!(with("a.test TXT hello").await, Err(RouteError::NoHost));
}

#[tokio::test]
async fn a_domain_that_does_not_exist_is_known_as_such() {
    assert_eq!(with("b.test A 192.0.2.1").await, Err(RouteError::NoSuchDomain));
}

#[tokio::test]
async fn a_list_without_a_usable_host_does_not_fall_back_to_the_domains_address() {
    let records = "
        a.test  MX 10 gone.test
        a.test  MX 20 empty.test
        a.test  A 192.0.2.99
        empty.test TXT hello
    ";
    assert_eq!(with(records).await, Err(RouteError::NoHost));
    let found = failing(records, "empty.test", "A", Fault::ServFail).await;
    assert_eq!(found, Err(RouteError::Dns));
}

#[tokio::test]
async fn a_host_without_address_does_not_stop_the_others() {
    let found = with(
        "
        a.test  MX 10 gone.test
        a.test  MX 20 mx2.test
        mx2.test A 192.0.2.2
    ",
    );
    assert_eq!(found.await.unwrap(), "mx2.test[192.0.2.2]");
}

#[tokio::test]
async fn null_mx_refuses_mail_at_once() {
    let dns = DnsServer::start("a.test MX 0 .\na.test A 192.0.2.1").await;
    assert_eq!(route(&resolver(&dns), "a.test").await, Err(RouteError::NullMx));
    assert_eq!(dns.questions().len(), 1);
}

#[tokio::test]
async fn a_root_beside_other_hosts_is_ignored() {
    let found = with(
        "
        a.test  MX 0 .
        a.test  MX 10 mx1.test
        mx1.test A 192.0.2.1
    ",
    );
    assert_eq!(found.await.unwrap(), "mx1.test[192.0.2.1]");
}

#[tokio::test]
async fn a_cname_at_the_domain_is_followed() {
    let found = with(
        "
        a.test  CNAME b.test
        b.test  CNAME c.test
        c.test  MX 10 mx1.test
        mx1.test A 192.0.2.1
    ",
    );
    assert_eq!(found.await.unwrap(), "mx1.test[192.0.2.1]");
    // To a domain that has only an address.
    let found = with("a.test CNAME b.test\nb.test A 192.0.2.1").await;
    assert_eq!(found.unwrap(), "a.test[192.0.2.1]");
}

#[tokio::test]
async fn an_mx_that_points_to_a_cname_works() {
    // RFC 5321 §5.1 forbids it, and people do it.
    let found = with(
        "
        a.test  MX 10 mx1.test
        mx1.test CNAME host.test
        host.test A 192.0.2.1
    ",
    );
    assert_eq!(found.await.unwrap(), "mx1.test[192.0.2.1]");
}

#[tokio::test]
async fn a_cname_that_goes_in_circles_ends() {
    let found = with("a.test CNAME b.test\nb.test CNAME a.test").await;
    assert_eq!(found, Err(RouteError::NoHost));
}

#[tokio::test]
async fn an_address_literal_is_taken_as_it_is_without_dns() {
    let dns = DnsServer::start("").await;
    let resolver = resolver(&dns);
    assert_eq!(route(&resolver, "[192.0.2.7]").await.unwrap(), "[192.0.2.7][192.0.2.7]");
    assert_eq!(route(&resolver, "[IPv6:2001:db8::7]").await.unwrap(), "[IPv6:2001:db8::7][2001:db8::7]");
    assert_eq!(dns.questions(), []);
}

#[tokio::test]
async fn ourselves_and_what_is_no_better_is_left_out() {
    let dns = DnsServer::start(
        "
        a.test  MX 10 mx1.test
        a.test  MX 20 us.test
        a.test  MX 20 mx2.test
        a.test  MX 30 mx3.test
        b.test  MX 10 us.test
        c.test  MX 10 alias.test
        mx1.test A 192.0.2.1
        mx2.test A 192.0.2.2
        mx3.test A 192.0.2.3
        us.test A 192.0.2.9
        alias.test A 192.0.2.9
    ",
    )
    .await;
    let mut by_name = options(&dns);
    by_name.own_names = vec![name("us.test")];
    let mut by_address = options(&dns);
    by_address.own_addresses = vec!["192.0.2.9".parse().unwrap()];
    for options in [by_name.clone(), by_address.clone()] {
        let resolver = MxResolver::new(options).unwrap();
        assert_eq!(route(&resolver, "a.test").await.unwrap(), "mx1.test[192.0.2.1]");
        assert_eq!(route(&resolver, "b.test").await, Err(RouteError::Loop));
    }
    assert_eq!(route(&MxResolver::new(by_address.clone()).unwrap(), "c.test").await, Err(RouteError::Loop));
    // The same address at a port that is not ours is somebody else.
    by_address.port = 2525;
    let found = route(&MxResolver::new(by_address).unwrap(), "c.test").await;
    assert_eq!(found.unwrap(), "alias.test[192.0.2.9]");
}

#[tokio::test]
async fn a_domain_that_points_at_loopback_is_not_delivered_to_the_local_server() {
    assert_eq!(with("a.test MX 10 localhost").await, Err(RouteError::Loop));
    assert_eq!(with("a.test A 127.0.0.1").await, Err(RouteError::Loop));
}

#[tokio::test]
async fn a_failing_mx_question_is_transient_and_never_an_implicit_host() {
    for fault in [Fault::ServFail, Fault::Refused] {
        let found = failing("a.test A 192.0.2.1", "a.test", "MX", fault).await;
        assert_eq!(found, Err(RouteError::Dns), "{fault:?}");
        assert!(found.unwrap_err().is_transient());
    }
}

#[tokio::test]
async fn a_silent_name_server_is_a_timeout() {
    let found = failing("a.test A 192.0.2.1", "a.test", "MX", Fault::Silence).await;
    assert_eq!(found, Err(RouteError::Timeout(TIMEOUT)));
    let found = failing("a.test MX 10 mx1.test\nmx1.test A 192.0.2.1", "mx1.test", "*", Fault::Silence).await;
    assert_eq!(found, Err(RouteError::Timeout(TIMEOUT)));
}

#[tokio::test]
async fn a_question_is_asked_as_often_as_the_options_say() {
    for attempts in [1, 3] {
        let dns = DnsServer::start("").await;
        dns.fault("a.test", "*", Fault::ServFail);
        let mut options = options(&dns);
        options.attempts = attempts;
        assert_eq!(route(&MxResolver::new(options).unwrap(), "a.test").await, Err(RouteError::Dns));
        assert_eq!(dns.queries("a.test", "MX"), attempts as usize);
    }
}

#[tokio::test]
async fn a_referral_is_no_answer() {
    // A server that neither knows the domain nor looks for it has not said that there is no MX.
    let found = with(
        "
        a.test  NS ns.elsewhere.test
        ns.elsewhere.test A 192.0.2.53
    ",
    );
    assert_eq!(found.await, Err(RouteError::Dns));
}

#[tokio::test]
async fn a_failing_address_family_does_not_hide_the_other() {
    let records = "
        a.test  MX 10 mx1.test
        mx1.test A 192.0.2.1
        mx1.test AAAA 2001:db8::1
    ";
    for fault in [Fault::ServFail, Fault::Silence] {
        let found = failing(records, "mx1.test", "AAAA", fault).await;
        assert_eq!(found.unwrap(), "mx1.test[192.0.2.1]");
        let found = failing(records, "mx1.test", "A", fault).await;
        assert_eq!(found.unwrap(), "mx1.test[2001:db8::1]");
    }
}

#[tokio::test]
async fn a_host_is_not_without_address_while_one_family_fails() {
    let records = "a.test MX 10 mx1.test\nmx1.test A 192.0.2.1";
    assert_eq!(failing(records, "mx1.test", "*", Fault::ServFail).await, Err(RouteError::Dns));
    // Its only address is among the answers that failed.
    assert_eq!(failing(records, "mx1.test", "A", Fault::ServFail).await, Err(RouteError::Dns));
}

#[tokio::test]
async fn answers_are_remembered_for_their_ttl() {
    let dns = DnsServer::start(
        "
        a.test  MX 10 mx1.test
        mx1.test A 192.0.2.1
        b.test  0 MX 10 mx1.test
    ",
    )
    .await;
    let resolver = resolver(&dns);
    for _ in 0..3 {
        route(&resolver, "a.test").await.unwrap();
        route(&resolver, "b.test").await.unwrap();
        route(&resolver, "gone.test").await.unwrap_err();
    }
    assert_eq!(dns.queries("a.test", "MX"), 1);
    assert_eq!(dns.queries("mx1.test", "A"), 1);
    assert_eq!(dns.queries("mx1.test", "AAAA"), 1); // that there is none
    assert_eq!(dns.queries("gone.test", "MX"), 1);
    assert_eq!(dns.queries("b.test", "MX"), 3);
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let dns = DnsServer::start("a.test A 192.0.2.1").await;
    dns.fault("a.test", "MX", Fault::ServFail);
    let resolver = resolver(&dns);
    assert_eq!(route(&resolver, "a.test").await, Err(RouteError::Dns));
    dns.heal();
    assert_eq!(route(&resolver, "a.test").await.unwrap(), "a.test[192.0.2.1]");
}

#[tokio::test]
async fn an_answer_too_large_for_udp_comes_over_tcp() {
    let hosts: String =
        (0..100).map(|i| format!("a.test MX {i} a-host-with-a-long-name-{i}.test\n")).collect();
    let dns = DnsServer::start(&format!("{hosts}a-host-with-a-long-name-7.test A 192.0.2.7")).await;
    let found = route(&resolver(&dns), "a.test").await;
    assert_eq!(found.unwrap(), "a-host-with-a-long-name-7.test[192.0.2.7]");
    let questions = dns.questions();
    let ways: Vec<_> = questions.iter().filter(|q| q.kind == "MX").map(|q| q.over_tcp).collect();
    assert_eq!(ways, [false, true]);
    // No more hosts are looked at than the limit, in both families.
    assert_eq!(questions.iter().filter(|q| q.kind != "MX").count(), 2 * MxOptions::new().max_hosts);
}

#[tokio::test]
async fn every_name_is_asked_for_as_it_is() {
    // No search domain, whatever the number of dots.
    let dns = DnsServer::start("").await;
    let resolver = resolver(&dns);
    for destination in ["single", "a.b.test", "_under.score_.test"] {
        assert_eq!(route(&resolver, destination).await, Err(RouteError::NoSuchDomain));
    }
    let asked: Vec<_> = dns.questions().into_iter().map(|q| q.name).collect();
    assert_eq!(asked, ["single", "a.b.test", "_under.score_.test"]);
}

#[tokio::test]
async fn all_questions_get_their_turn_when_one_may_be_open() {
    let records: String =
        (0..10).map(|i| format!("a.test MX {i} mx{i}.test\nmx{i}.test A 192.0.2.{i}\n")).collect();
    let dns = DnsServer::start(&records).await;
    let mut options = options(&dns);
    options.max_lookups = 1;
    let hosts = hosts(&MxResolver::new(options).unwrap(), "a.test").await.unwrap();
    assert_eq!(hosts.hosts.len(), 10);
}

#[tokio::test]
async fn no_more_questions_are_open_than_the_limit_and_no_turn_is_waited_for_without_end() {
    let records: String = (0..10).map(|i| format!("a.test MX {i} mx{i}.test\n")).collect();
    let dns = DnsServer::start(&records).await;
    for i in 0..10 {
        dns.fault(&format!("mx{i}.test"), "*", Fault::Silence);
    }
    let mut options = options(&dns);
    (options.timeout, options.max_lookups) = (TIMEOUT, 2);
    let found = route(&MxResolver::new(options).unwrap(), "a.test").await;
    assert_eq!(found, Err(RouteError::Timeout(TIMEOUT)));
    // MX, the two that could be asked, and perhaps two that got their turn in the last moment.
    assert!((3..=5).contains(&dns.questions().len()), "{:?}", dns.questions());
}

#[tokio::test]
async fn port_and_requirement_are_those_of_the_options() {
    let dns = DnsServer::start("a.test A 192.0.2.1").await;
    let mut options = options(&dns);
    (options.port, options.require) = (2525, Require::Verified);
    let hosts = hosts(&MxResolver::new(options).unwrap(), "a.test").await.unwrap();
    assert_eq!((hosts.hosts[0].port, hosts.require), (2525, Require::Verified));
}

#[tokio::test]
async fn the_addresses_of_one_host_are_looked_up_by_name() {
    let dns = DnsServer::start("mx1.test A 192.0.2.1\nmx1.test AAAA 2001:db8::1\nempty.test TXT x").await;
    let resolver = resolver(&dns);
    let expected: Vec<IpAddr> = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    assert_eq!(resolver.addresses(&name("mx1.test")).await, Ok(expected));
    assert_eq!(resolver.addresses(&name("empty.test")).await, Err(RouteError::NoHost));
    assert_eq!(resolver.addresses(&name("gone.test")).await, Err(RouteError::NoSuchDomain));
    assert_eq!(resolver.addresses(&name("[192.0.2.3]")).await, Ok(vec!["192.0.2.3".parse().unwrap()]));
    dns.fault("bad.test", "*", Fault::ServFail);
    assert_eq!(resolver.addresses(&name("bad.test")).await, Err(RouteError::Dns));
}

#[tokio::test]
async fn fixed_routes_come_before_dns() {
    let dns = DnsServer::start("a.test A 192.0.2.1\nb.test A 192.0.2.2\nrelay.test A 192.0.2.3").await;
    let routes = FixedRoutes::new()
        .host(name("a.test"), Host::new(name("relay.test"), 587), Require::Verified)
        .local(name("here.test"), LocalId::new("maildir"))
        .otherwise(Arc::new(resolver(&dns)));
    assert_eq!(route(&routes, "a.test").await.unwrap(), "relay.test[192.0.2.3]");
    assert_eq!(route(&routes, "b.test").await.unwrap(), "b.test[192.0.2.2]");
    assert_eq!(routes.route(&name("here.test")).await, Ok(Route::Local(LocalId::new("maildir"))));
    assert_eq!(dns.queries("a.test", "MX"), 0);
}

#[tokio::test]
async fn no_servers_is_a_mistake_of_the_caller() {
    assert!(matches!(MxResolver::with_servers(Vec::new()), Err(SetupError::NoServers)));
}
