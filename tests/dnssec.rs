//! What DNSSEC proves of a route, and what TLSA records follow from it: signed zones on loopback, with
//! all that can be wrong in them, validated from the root down.
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

use std::sync::Arc;
use std::time::Duration;

use postroad::clock::Rng;
use postroad::hop::{Host, Require, Tlsa};
use postroad::route::dns::{Anchors, Answer, DnsName, Dnssec, Record, RecordKind, StaticDns};
use postroad::route::mx::{Exchange, Mx};
use postroad::route::{MxOptions, MxResolver, Resolve, Route, RouteError, SetupError};
use postroad::smtp::address::Domain;

use dns::signed::{Kind, SignedDns};
use dns::{DnsServer, Fault};

/// One zone of each kind, with everything that a route can need in it.
const ZONES: &[(&str, Kind)] = &[
    ("ok.test", Kind::Signed),
    ("also.test", Kind::Signed),
    ("old.test", Kind::Expired),
    ("bad.test", Kind::Bogus),
    ("island.test", Kind::Island),
    ("plain.test", Kind::Unsigned),
];

/// Without the policies of domains, which another test is about.
fn bare() -> MxOptions {
    let mut options = MxOptions::new();
    #[cfg(feature = "mta-sts")]
    (options.sts = None);
    options
}

fn options(dns: &SignedDns) -> MxOptions {
    let mut options = bare();
    options.servers = vec![dns.address()];
    options.attempts = 1;
    options.dnssec = Dnssec::Validate;
    options.anchors = Anchors::of_root(dns.anchors());
    options.rng = Rng::seeded(1);
    options
}

/// `_25._tcp.HOST TLSA ...` with a digest of the right length.
fn tlsa(host: &str, numbers: &str) -> String {
    format!("_25._tcp.{host} TLSA {numbers} {}\n", "ab".repeat(32))
}

fn shown_tlsa(tlsa: &Tlsa) -> String {
    match tlsa {
        Tlsa::Absent => "absent".into(),
        Tlsa::Failed => "failed".into(),
        Tlsa::Unusable => "unusable".into(),
        Tlsa::Records(set) => {
            let names: Vec<_> = set.names.iter().map(Domain::as_str).collect();
            format!("{}x{}({})", set.records.len(), set.base, names.join(","))
        }
    }
}

/// `proven mx.ok.test:absent`, or why there is no route.
async fn route(resolver: &MxResolver, destination: &str) -> Result<String, RouteError> {
    let Route::Hosts(hosts) = resolver.route(&Domain::parse(destination).unwrap()).await? else { panic!() };
    let host = |host: &Host| format!("{}:{}", host.name, shown_tlsa(&host.tlsa));
    let all: Vec<_> = hosts.hosts.iter().map(host).collect();
    Ok(format!("{} {}", if hosts.proven { "proven" } else { "unproven" }, all.join(" ")))
}

/// What the records of a table's row make of `a.ok.test`, or of the destination that they begin with.
async fn routed(records: &str) -> Result<String, RouteError> {
    let dns = SignedDns::start(ZONES, records).await;
    let destination = records.split_whitespace().next().unwrap();
    route(&MxResolver::new(options(&dns)).unwrap(), destination).await
}

#[tokio::test]
async fn only_what_is_secure_from_the_destination_to_the_addresses_has_tlsa() {
    let mx = |zone: &str, host: &str| {
        format!("a.{zone} MX 10 {host}\n{host} A 192.0.2.1\n{}", tlsa(host, "3 1 1"))
    };
    let ok = "proven mx.ok.test:1xmx.ok.test(mx.ok.test,a.ok.test)";
    for (records, expected) in [
        (mx("ok.test", "mx.ok.test"), Ok(ok)),
        // The host in another zone.
        (mx("ok.test", "mx.also.test"), Ok("proven mx.also.test:1xmx.also.test(mx.also.test,a.ok.test)")),
        (mx("ok.test", "mx.plain.test"), Ok("proven mx.plain.test:absent")),
        (mx("ok.test", "mx.island.test"), Ok("proven mx.island.test:absent")),
        (mx("ok.test", "mx.old.test"), Err(RouteError::Bogus)),
        (mx("ok.test", "mx.bad.test"), Err(RouteError::Bogus)),
        // The destination in another.
        (mx("plain.test", "mx.ok.test"), Ok("unproven mx.ok.test:absent")),
        (mx("island.test", "mx.ok.test"), Ok("unproven mx.ok.test:absent")),
        (mx("plain.test", "mx.plain.test"), Ok("unproven mx.plain.test:absent")),
        (mx("old.test", "mx.ok.test"), Err(RouteError::Bogus)),
        (mx("bad.test", "mx.ok.test"), Err(RouteError::Bogus)),
    ] {
        assert_eq!(routed(&records).await.as_deref(), expected.as_ref().map(|s| *s), "{records}");
    }
}

#[tokio::test]
async fn the_records_decide_what_tlsa_there_is() {
    let host = "a.ok.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\n";
    for (records, expected) in [
        (String::new(), "absent"),
        (tlsa("mx.ok.test", "2 0 1"), "1xmx.ok.test(mx.ok.test,a.ok.test)"),
        (tlsa("mx.ok.test", "0 1 1"), "unusable"),
        (tlsa("mx.ok.test", "1 1 1"), "unusable"),
        (tlsa("mx.ok.test", "3 1 2"), "unusable"), // a digest of the wrong length
        (tlsa("mx.ok.test", "3 1 1") + &tlsa("mx.ok.test", "1 1 1"), "1xmx.ok.test(mx.ok.test,a.ok.test)"),
        (tlsa("mx.ok.test", "3 1 1") + &tlsa("mx.ok.test", "2 0 1"), "2xmx.ok.test(mx.ok.test,a.ok.test)"),
        // At another port, or name.
        (tlsa("mx.ok.test", "3 1 1").replace("_25", "_465"), "absent"),
        (tlsa("a.ok.test", "3 1 1"), "absent"),
        // By way of a CNAME, inside what is signed and out of it.
        (
            "_25._tcp.mx.ok.test CNAME d.ok.test\n".to_owned()
                + &tlsa("x", "3 1 1").replace("_25._tcp.x", "d.ok.test"),
            "1xmx.ok.test(mx.ok.test,a.ok.test)",
        ),
        (
            "_25._tcp.mx.ok.test CNAME d.also.test\n".to_owned()
                + &tlsa("x", "3 1 1").replace("_25._tcp.x", "d.also.test"),
            "1xmx.ok.test(mx.ok.test,a.ok.test)",
        ),
        (
            "_25._tcp.mx.ok.test CNAME d.plain.test\n".to_owned()
                + &tlsa("x", "3 1 1").replace("_25._tcp.x", "d.plain.test"),
            "absent",
        ),
        (
            "_25._tcp.mx.ok.test CNAME d.bad.test\n".to_owned()
                + &tlsa("x", "3 1 1").replace("_25._tcp.x", "d.bad.test"),
            "failed",
        ),
        ("_25._tcp.mx.ok.test CNAME gone.ok.test\n".to_owned(), "absent"),
        ("_25._tcp.mx.ok.test CNAME gone.also.test\n".to_owned(), "absent"),
        ("_25._tcp.mx.ok.test CNAME gone.old.test\n".to_owned(), "failed"),
    ] {
        let found = routed(&format!("{host}{records}")).await;
        assert_eq!(found, Ok(format!("proven mx.ok.test:{expected}")), "{records}");
    }
}

#[tokio::test]
async fn the_base_is_the_end_of_a_secure_chain_else_its_start() {
    // RFC 7672 §2.2.2
    let start = "1xmx.ok.test(mx.ok.test,a.ok.test)";
    let at = |host: &str| tlsa(host, "3 1 1");
    for (chain, records, expected) in [
        ("h.ok.test", at("h.ok.test"), "1xh.ok.test(h.ok.test,a.ok.test)".to_owned()),
        ("h.also.test", at("h.also.test"), "1xh.also.test(h.also.test,a.ok.test)".to_owned()),
        ("h.also.test", at("mx.ok.test"), start.into()),
        ("h.also.test", at("mx.ok.test") + &at("h.also.test"), "1xh.also.test(h.also.test,a.ok.test)".into()),
        ("h.plain.test", at("h.plain.test"), "absent".into()),
        ("h.plain.test", at("h.plain.test") + &at("mx.ok.test"), start.into()),
    ] {
        let records = format!(
            "a.ok.test MX 10 mx.ok.test\nmx.ok.test CNAME {chain}\n{chain} A 192.0.2.1\n{chain} AAAA 2001:db8::1\n{records}"
        );
        assert_eq!(routed(&records).await, Ok(format!("proven mx.ok.test:{expected}")), "{records}");
    }
    // An insecure start makes all behind it insecure.
    let records = "a.ok.test MX 10 mx.plain.test\nmx.plain.test CNAME h.ok.test\nh.ok.test A 192.0.2.1\n";
    let found = routed(&(records.to_owned() + &at("h.ok.test") + &at("mx.plain.test"))).await;
    assert_eq!(found.as_deref(), Ok("proven mx.plain.test:absent"));
}

#[tokio::test]
async fn a_domain_without_mx_is_judged_by_its_addresses() {
    for (records, expected) in [
        (
            "a.ok.test A 192.0.2.1\n".to_owned() + &tlsa("a.ok.test", "3 1 1"),
            Ok("proven a.ok.test:1xa.ok.test(a.ok.test)"),
        ),
        (
            "a.plain.test A 192.0.2.1\n".to_owned() + &tlsa("a.plain.test", "3 1 1"),
            Ok("unproven a.plain.test:absent"),
        ),
        ("a.old.test A 192.0.2.1".to_owned(), Err(RouteError::Bogus)),
        // By way of a CNAME: the certificate may be for either name.
        (
            "a.ok.test CNAME h.also.test\nh.also.test A 192.0.2.1\n".to_owned()
                + &tlsa("h.also.test", "3 1 1"),
            Ok("proven a.ok.test:1xh.also.test(h.also.test,a.ok.test)"),
        ),
        (
            "a.ok.test CNAME b.also.test\nb.also.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\n".to_owned()
                + &tlsa("mx.ok.test", "3 1 1"),
            Ok("proven mx.ok.test:1xmx.ok.test(mx.ok.test,a.ok.test,b.also.test)"),
        ),
        (
            "a.ok.test CNAME b.plain.test\nb.plain.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\n"
                .to_owned()
                + &tlsa("mx.ok.test", "3 1 1"),
            Ok("unproven mx.ok.test:absent"),
        ),
        ("a.ok.test MX 0 .".to_owned(), Err(RouteError::NullMx)),
        ("a.ok.test TXT hello".to_owned(), Err(RouteError::NoHost)),
    ] {
        assert_eq!(routed(&records).await.as_deref(), expected.as_ref().map(|s| *s), "{records}");
    }
}

#[tokio::test]
async fn what_does_not_exist_is_known_as_such_in_every_zone() {
    let dns = SignedDns::start(ZONES, "x.ok.test A 192.0.2.1\nx.plain.test A 192.0.2.1").await;
    let resolver = MxResolver::new(options(&dns)).unwrap();
    for (name, kind, expected, secure) in [
        ("gone.ok.test", RecordKind::Mx, Answer::NoName, true),
        ("x.ok.test", RecordKind::Mx, Answer::NoData, true),
        ("gone.plain.test", RecordKind::Mx, Answer::NoName, false),
        ("x.plain.test", RecordKind::Aaaa, Answer::NoData, false),
        ("gone.old.test", RecordKind::Mx, Answer::Failed(RouteError::Bogus), false),
        ("gone.bad.test", RecordKind::Mx, Answer::Failed(RouteError::Bogus), false),
        ("gone.test", RecordKind::Mx, Answer::NoName, true),
        ("gone.invalid", RecordKind::Mx, Answer::NoName, false),
    ] {
        let found = resolver.dns().look_up(&DnsName::new(name).unwrap(), kind).await;
        assert_eq!((found.answer, found.secure), (expected, secure), "{name} {kind:?}");
    }
}

#[tokio::test]
async fn tlsa_that_cannot_be_asked_for_is_failed_and_bogus_is_told_apart() {
    let records = "a.ok.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\n";
    for fault in [Fault::ServFail, Fault::Refused, Fault::Silence] {
        let dns = SignedDns::start(ZONES, records).await;
        let mut options = options(&dns);
        options.timeout = Duration::from_millis(300);
        let resolver = MxResolver::new(options).unwrap();
        dns.fault("_25._tcp.mx.ok.test", "TLSA", fault);
        assert_eq!(
            route(&resolver, "a.ok.test").await.as_deref(),
            Ok("proven mx.ok.test:failed"),
            "{fault:?}"
        );
        // It is not remembered.
        dns.heal();
        assert_eq!(route(&resolver, "a.ok.test").await.as_deref(), Ok("proven mx.ok.test:absent"));
    }
    // An answer without its keys is no forgery.
    let dns = SignedDns::start(ZONES, records).await;
    dns.fault("ok.test", "DNSKEY", Fault::ServFail);
    let resolver = MxResolver::new(options(&dns)).unwrap();
    assert_eq!(route(&resolver, "a.ok.test").await, Err(RouteError::Dns));
    dns.heal();
    assert_eq!(route(&resolver, "a.ok.test").await.as_deref(), Ok("proven mx.ok.test:absent"));
}

#[tokio::test]
async fn another_zones_word_takes_no_record_away() {
    let records = "a.ok.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\nplain.test A 192.0.2.2\n".to_owned()
        + &tlsa("mx.ok.test", "3 1 1");
    let dns = SignedDns::start(ZONES, &records).await;
    // An unsigned zone, the root and the zone itself, none of which has signed it.
    for zone in ["plain.test", "", "ok.test"] {
        dns.fault("_25._tcp.mx.ok.test", "TLSA", Fault::Denied(zone));
        let resolver = MxResolver::new(options(&dns)).unwrap();
        assert_eq!(route(&resolver, "a.ok.test").await.as_deref(), Ok("proven mx.ok.test:failed"), "{zone}");
        dns.heal();
        for kind in ["MX", "A"] {
            dns.fault(if kind == "MX" { "a.ok.test" } else { "mx.ok.test" }, kind, Fault::Denied(zone));
            let resolver = MxResolver::new(options(&dns)).unwrap();
            assert_eq!(route(&resolver, "a.ok.test").await, Err(RouteError::Bogus), "{kind} by {zone}");
            dns.heal();
        }
    }
}

#[tokio::test]
async fn everything_is_remembered_what_does_not_exist_too() {
    let records = "a.ok.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\nb.ok.test CNAME gone.also.test\n";
    let dns = SignedDns::start(ZONES, records).await;
    let resolver = MxResolver::new(options(&dns)).unwrap();
    for _ in 0..3 {
        route(&resolver, "a.ok.test").await.unwrap();
        assert_eq!(route(&resolver, "b.ok.test").await, Err(RouteError::NoSuchDomain));
        assert_eq!(route(&resolver, "gone.ok.test").await, Err(RouteError::NoSuchDomain));
    }
    let mut asked = dns.questions();
    let all = asked.len();
    asked.sort_by(|a, b| (&a.name, &a.kind).cmp(&(&b.name, &b.kind)));
    asked.dedup();
    assert_eq!(asked.len(), all, "{asked:?}");
    assert_eq!(dns.queries("_25._tcp.mx.ok.test", "TLSA"), 1);
    assert_eq!(dns.queries("mx.ok.test", "AAAA"), 1);
}

#[tokio::test]
async fn the_chain_of_another_question_is_not_taken_for_this_ones() {
    // In whatever order they are asked, and from whatever is remembered.
    let records = "
        ok.test MX 10 direct.ok.test
        direct.ok.test A 192.0.2.1
        out.plain.test CNAME direct.ok.test
        in.ok.test CNAME direct.ok.test
        far.ok.test CNAME out.plain.test
    ";
    let names = ["direct.ok.test", "out.plain.test", "in.ok.test", "far.ok.test"];
    for first in 0..names.len() {
        let dns = SignedDns::start(ZONES, records).await;
        let resolver = MxResolver::new(options(&dns)).unwrap();
        for name in names.iter().cycle().skip(first).take(2 * names.len()) {
            let found = resolver.dns().look_up(&DnsName::new(name).unwrap(), RecordKind::A).await;
            assert!(matches!(&found.answer, Answer::Records(all) if all.len() == 1), "{name}: {found:?}");
            let expected = match *name {
                "out.plain.test" => (false, false),
                "far.ok.test" => (false, true),
                _ => (true, true),
            };
            assert_eq!((found.secure, found.secure_start), expected, "{name}");
            assert_eq!(found.end.as_str(), "direct.ok.test");
        }
    }
}

#[tokio::test]
async fn without_dnssec_there_is_no_dane_and_no_question_about_it() {
    let records =
        "a.ok.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\n".to_owned() + &tlsa("mx.ok.test", "3 1 1");
    let dns = SignedDns::start(ZONES, &records).await;
    let mut off = options(&dns);
    off.dnssec = Dnssec::Off;
    let mut clear = options(&dns);
    clear.require = Require::Cleartext;
    for (options, expected) in [(off, "unproven mx.ok.test:absent"), (clear, "proven mx.ok.test:absent")] {
        let resolver = MxResolver::new(options).unwrap();
        assert_eq!(route(&resolver, "a.ok.test").await.as_deref(), Ok(expected));
    }
    assert_eq!(dns.queries("_25._tcp.mx.ok.test", "TLSA"), 0);
}

#[tokio::test]
async fn name_servers_are_found_out_with_the_first_question() {
    let records =
        "a.ok.test MX 10 mx.ok.test\nmx.ok.test A 192.0.2.1\n".to_owned() + &tlsa("mx.ok.test", "3 1 1");
    let dns = SignedDns::start(ZONES, &records).await;
    let mut auto = options(&dns);
    auto.dnssec = Dnssec::Auto;
    let signed = "proven mx.ok.test:1xmx.ok.test(mx.ok.test,a.ok.test)";
    let plain = "unproven mx.ok.test:absent";
    assert_eq!(route(&MxResolver::new(auto.clone()).unwrap(), "a.ok.test").await.as_deref(), Ok(signed));

    // The root's keys are others: what is said is not proven, and is not held up either.
    let mut other = auto.clone();
    other.anchors = Anchors::iana();
    assert_eq!(route(&MxResolver::new(other).unwrap(), "a.ok.test").await.as_deref(), Ok(plain));

    // Name servers without DNSSEC.
    let bare = DnsServer::start(&records).await;
    let mut stripped = auto.clone();
    stripped.servers = vec![bare.address()];
    let resolver = MxResolver::new(stripped).unwrap();
    for _ in 0..2 {
        assert_eq!(route(&resolver, "a.ok.test").await.as_deref(), Ok(plain));
    }
    assert_eq!(bare.queries("", "SOA"), 2); // their word, and their signatures; once

    // Name servers that do not answer for a while.
    dns.fault("", "*", Fault::Silence);
    let mut impatient = auto;
    impatient.timeout = Duration::from_millis(500);
    assert_eq!(route(&MxResolver::new(impatient).unwrap(), "a.ok.test").await.as_deref(), Ok(plain));
}

#[tokio::test]
async fn keys_that_are_none_are_a_mistake_of_the_caller() {
    for keys in ["", "nonsense", ". 60 IN DNSKEY 257 3 13 %%%"] {
        let mut options = MxOptions::new();
        options.servers = vec!["127.0.0.1:53".parse().unwrap()];
        options.anchors = Anchors::of_root(keys);
        assert!(matches!(MxResolver::new(options), Err(SetupError::Anchors(_))), "{keys}");
    }
}

/// A table in place of name servers: what it calls proven is.
fn set(dns: &StaticDns, name: &str, kind: RecordKind, records: Vec<Record>, secure: bool) {
    dns.set(&DnsName::new(name).unwrap(), kind, records, secure);
}

fn mx(preference: u16, host: &str) -> Record {
    Record::Mx(Mx::new(preference, Exchange::Host(Domain::parse(host).unwrap())))
}

fn digest(byte: u8) -> Record {
    Record::Tlsa { usage: 3, selector: 1, matching: 1, data: vec![byte; 32].into() }
}

#[tokio::test]
async fn each_host_of_a_route_has_its_own_tlsa_over_any_dns() {
    let dns = StaticDns::new();
    let hosts = ["1.test", "2.test", "3.test", "4.test", "5.test", "6.test"];
    set(&dns, "a.test", RecordKind::Mx, (1..).zip(hosts).map(|(at, host)| mx(at, host)).collect(), true);
    for host in hosts {
        set(&dns, host, RecordKind::A, vec![Record::A([192, 0, 2, 1].into())], host != "2.test");
        set(&dns, &format!("_25._tcp.{host}"), RecordKind::Tlsa, vec![digest(1)], host != "3.test");
    }
    // Both families must be proven, where both have addresses.
    set(&dns, "4.test", RecordKind::Aaaa, vec![Record::Aaaa([1; 16].into())], false);
    dns.fail(&DnsName::new("5.test").unwrap(), RecordKind::Aaaa, RouteError::Dns);
    dns.fail(&DnsName::new("_25._tcp.6.test").unwrap(), RecordKind::Tlsa, RouteError::Bogus);
    let resolver = MxResolver::over(Arc::new(dns.clone()), bare()).unwrap();
    let found = route(&resolver, "a.test").await.unwrap();
    assert_eq!(
        found,
        "proven 1.test:1x1.test(1.test,a.test) 2.test:absent 3.test:absent 4.test:absent \
         5.test:1x5.test(5.test,a.test) 6.test:failed"
    );
    // At the port that mail goes to, and no more records than anybody needs.
    let mut options = bare();
    options.port = 2525;
    set(&dns, "b.test", RecordKind::Mx, vec![mx(1, "1.test")], true);
    set(&dns, "_2525._tcp.1.test", RecordKind::Tlsa, (0..=255).map(digest).collect(), true);
    let found = route(&MxResolver::over(Arc::new(dns), options).unwrap(), "b.test").await;
    assert_eq!(found.as_deref(), Ok("proven 1.test:32x1.test(1.test,b.test)"));
}
