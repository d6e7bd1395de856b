//! SPF as receivers evaluate it: the examples of RFC 7208, its limits, and what is no record.

use std::fmt::Write as _;
use std::net::IpAddr;

use postroad::EhloName;
use postroad::preflight::spf::{self, Evaluation, SpfFault, SpfResult};
use postroad::route::RouteError;
use postroad::route::dns::StaticDns;
use postroad::smtp::address::{Domain, ReversePath};

use super::zone::{dns_name, zone};

/// RFC 7208, appendix A.
const EXAMPLE: &str = "
    example.com           MX  10 mail-a.example.com
    example.com           MX  20 mail-b.example.com
    example.com           A   192.0.2.10
    example.com           A   192.0.2.11
    amy.example.com       A   192.0.2.65
    bob.example.com       A   192.0.2.66
    mail-a.example.com    A   192.0.2.129
    mail-b.example.com    A   192.0.2.130
    example.org           MX  10 mail-c.example.org
    mail-c.example.org    A   192.0.2.140
    10.2.0.192.in-addr.arpa  PTR example.com
    11.2.0.192.in-addr.arpa  PTR example.com
    65.2.0.192.in-addr.arpa  PTR amy.example.com
    66.2.0.192.in-addr.arpa  PTR bob.example.com
    129.2.0.192.in-addr.arpa PTR mail-a.example.com
    130.2.0.192.in-addr.arpa PTR mail-b.example.com
    140.2.0.192.in-addr.arpa PTR mail-c.example.org
    4.0.0.10.in-addr.arpa    PTR bob.example.com
";

async fn evaluate(dns: &StaticDns, ip: &str, domain: &str, sender: &str) -> Evaluation {
    let domain = Domain::parse(domain).unwrap();
    let sender = ReversePath::parse(sender).unwrap();
    let helo = EhloName::new("helo.example.net").unwrap();
    spf::evaluate(dns, ip.parse().unwrap(), &domain, &sender, &helo).await
}

async fn check(dns: &StaticDns, ip: &str, domain: &str) -> SpfResult {
    evaluate(dns, ip, domain, &format!("strong-bad@{domain}")).await.result
}

/// The result of one record at a.test, for 192.0.2.1, among other records.
async fn one(record: &str, others: &str) -> SpfResult {
    check(&zone(&format!("a.test TXT {record}\n{others}")), "192.0.2.1", "a.test").await
}

fn perm(fault: SpfFault) -> SpfResult {
    SpfResult::PermError(fault, dns_name("a.test"))
}

#[tokio::test]
async fn the_examples_of_the_rfc_pass_and_fail_as_it_says() {
    // RFC 7208 §A.1
    let tail = |tails: &[u8]| tails.iter().map(|tail| IpAddr::from([192, 0, 2, *tail])).collect::<Vec<_>>();
    for (record, passing) in [
        ("v=spf1 +all", tail(&[1, 10, 11, 65, 66, 129, 130, 131, 140, 143, 145])),
        ("v=spf1 a -all", tail(&[10, 11])),
        ("v=spf1 a:example.org -all", tail(&[])),
        ("v=spf1 mx -all", tail(&[129, 130])),
        ("v=spf1 mx:example.org -all", tail(&[140])),
        ("v=spf1 mx mx:example.org -all", tail(&[129, 130, 140])),
        ("v=spf1 mx/30 mx:example.org/30 -all", tail(&[129, 130, 131, 140, 143])),
        ("v=spf1 ptr -all", tail(&[10, 11, 65, 66, 129, 130])),
        ("v=spf1 ip4:192.0.2.128/28 -all", tail(&[129, 130, 131, 140, 143])),
    ] {
        let dns = zone(&format!("{EXAMPLE}\nexample.com TXT {record}"));
        for ip in tail(&[1, 10, 11, 65, 66, 129, 130, 131, 140, 143, 145]) {
            let expected = if passing.contains(&ip) { SpfResult::Pass } else { SpfResult::Fail };
            assert_eq!(check(&dns, &ip.to_string(), "example.com").await, expected, "{record} {ip}");
        }
        if record != "v=spf1 +all" {
            // Whose PTR says what is not so.
            assert_eq!(check(&dns, "10.0.0.4", "example.com").await, SpfResult::Fail, "{record}");
        }
    }
}

#[tokio::test]
async fn records_of_several_domains_lead_to_each_other() {
    // RFC 7208 §A.2 to §A.4
    let dns = zone(&format!(
        "{EXAMPLE}
        example.org      TXT  v=spf1 include:example.com include:example.net -all
        la.example.org   TXT  v=spf1 redirect=example.org
        example.com      TXT  v=spf1 mx -all
        example.net      TXT  v=spf1 ip4:198.51.100.0/24 -all
        list.example     TXT  v=spf1 mx exists:%{{l}}._spf.%{{d}} -all
        strong-bad._spf.list.example A 127.0.0.2
        ip.example       TXT  v=spf1 -include:ip4._spf.%{{d}} -include:ptr._spf.%{{d}} +all
        ip4._spf.ip.example  TXT  v=spf1 -ip4:192.0.2.0/24 +all
        ptr._spf.ip.example  TXT  v=spf1 -ptr:example.com +all
        list.example     MX   10 mail-a.example.com"
    ));
    for (ip, domain, expected) in [
        ("192.0.2.129", "example.org", SpfResult::Pass),
        ("198.51.100.1", "example.org", SpfResult::Pass),
        ("192.0.2.1", "example.org", SpfResult::Fail),
        ("198.51.100.1", "la.example.org", SpfResult::Pass),
        ("203.0.113.1", "la.example.org", SpfResult::Fail),
        ("203.0.113.1", "list.example", SpfResult::Pass),
        ("203.0.113.1", "ip.example", SpfResult::Fail),
    ] {
        assert_eq!(check(&dns, ip, domain).await, expected, "{ip} {domain}");
    }
    let weak = evaluate(&dns, "203.0.113.1", "list.example", "weak-bad@list.example").await;
    assert_eq!((weak.result, weak.look_ups), (SpfResult::Fail, 2));
}

#[tokio::test]
async fn the_first_term_that_matches_decides() {
    for (record, expected) in [
        ("v=spf1", SpfResult::Neutral),
        ("v=spf1 -all", SpfResult::Fail),
        ("v=spf1 ~all", SpfResult::SoftFail),
        ("v=spf1 ?all", SpfResult::Neutral),
        ("v=spf1 ?ip4:192.0.2.1 -all", SpfResult::Neutral),
        ("v=spf1 -ip4:192.0.2.1 +all", SpfResult::Fail),
        ("v=spf1 ip6:::/0 -all", SpfResult::Fail),
        ("v=spf1 ip6:::ffff:192.0.2.1 -all", SpfResult::Fail),
        ("v=spf1 ip4:0.0.0.0/0", SpfResult::Pass),
        ("v=spf1 ip4:192.0.2.0/31 -all", SpfResult::Pass),
        ("v=spf1 all redirect=nowhere.test", SpfResult::Pass),
        ("v=spf1 redirect=b.test ip4:192.0.2.1", SpfResult::Pass),
        ("v=spf1 redirect=b.test", SpfResult::SoftFail),
        ("v=spf1 include:b.test -all", SpfResult::Fail),
        ("v=spf1 exists:there.test -all", SpfResult::Pass),
        ("v=spf1 exists:not.there.test -all", SpfResult::Fail),
        ("v=spf1 a:there.test/24 -all", SpfResult::Pass),
        ("v=spf1 a:there.test -all", SpfResult::Fail),
        ("v=spf1 mx:null.test -all", SpfResult::Fail),
        ("v=spf1 a:..test -all", SpfResult::Fail),
        ("v=spf1 moo=cow exp=x.test -all", SpfResult::Fail),
    ] {
        let others = "b.test TXT v=spf1 ~all\nthere.test A 192.0.2.2\nnull.test MX 0 .";
        assert_eq!(one(record, others).await, expected, "{record}");
    }
}

#[tokio::test]
async fn what_is_no_record_is_none_and_what_is_broken_is_an_error() {
    for (others, expected) in [
        ("", SpfResult::None),
        ("a.test A 192.0.2.1", SpfResult::None),
        ("a.test TXT v=spf10 -all", SpfResult::None),
        ("a.test TXT something else\na.test TXT v=spf1 -all", SpfResult::Fail),
        ("a.test TXT v=spf1 -all\na.test TXT v=spf1 -all", perm(SpfFault::Several)),
        ("a.test TXT !", SpfResult::TempError(RouteError::Dns)),
        // Also where something before it matches.
        ("a.test TXT v=spf1 ip4:192.0.2.1 -al", perm(SpfFault::Syntax)),
        ("a.test TXT v=spf1 redirect=b.test redirect=b.test", perm(SpfFault::Twice)),
        ("a.test TXT v=spf1 include:b.test -all", perm(SpfFault::NoRecord)),
        ("a.test TXT v=spf1 redirect=b.test", perm(SpfFault::NoRecord)),
        ("a.test TXT v=spf1 redirect=b..test", perm(SpfFault::NoRecord)),
        (
            "a.test TXT v=spf1 include:b.test -all\nb.test TXT v=spf1 mx:",
            SpfResult::PermError(SpfFault::Syntax, dns_name("b.test")),
        ),
        ("a.test TXT v=spf1 include:b.test +all\nb.test TXT !", SpfResult::TempError(RouteError::Dns)),
        ("a.test TXT v=spf1 a +all\na.test A !", SpfResult::TempError(RouteError::Dns)),
        ("a.test TXT v=spf1 mx +all\na.test MX 1 m.test\nm.test A !", SpfResult::TempError(RouteError::Dns)),
        // RFC 7208 §5.5: there an error matches nothing.
        ("a.test TXT v=spf1 ptr -all\n1.2.0.192.in-addr.arpa PTR !", SpfResult::Fail),
    ] {
        assert_eq!(check(&zone(others), "192.0.2.1", "a.test").await, expected, "{others}");
    }
    let dns = zone("test TXT v=spf1 +all");
    for domain in ["test", "[192.0.2.1]"] {
        assert_eq!(check(&dns, "192.0.2.1", domain).await, SpfResult::None, "{domain}");
    }
}

#[tokio::test]
async fn ipv6_hosts_are_matched_by_their_own_records() {
    let dns = zone(
        "
        a.test TXT v=spf1 a//64 mx exists:%{ir}.%{v}.test ptr -all
        a.test AAAA 2001:db8::1
        a.test MX 1 mx.a.test
        mx.a.test A 192.0.2.9
        1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.0.0.0.8.b.d.0.1.0.0.2.ip6.test A 127.0.0.2
        5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR x.a.test
        x.a.test AAAA 2001:db8:9::5
    ",
    );
    for (ip, expected) in [
        ("2001:db8::ffff", SpfResult::Pass),
        ("2001:db8:7::1", SpfResult::Pass),
        ("2001:db8:9::5", SpfResult::Pass),
        ("2001:db8:9::6", SpfResult::Fail),
        ("192.0.2.9", SpfResult::Pass),
        ("::ffff:192.0.2.9", SpfResult::Pass),
    ] {
        assert_eq!(check(&dns, ip, "a.test").await, expected, "{ip}");
    }
}

#[tokio::test]
async fn ten_terms_may_ask_and_not_one_more() {
    // RFC 7208 §4.6.4
    for (terms, expected) in [(10, SpfResult::Fail), (11, perm(SpfFault::LookUps))] {
        let record = (0..terms).fold("v=spf1".to_owned(), |record, _| record + " a:x.test") + " -all";
        assert_eq!(one(&record, "x.test A 192.0.2.9").await, expected, "{terms}");
    }
    // What is included counts too, however deep, and a loop ends by it.
    let mut chain = String::new();
    for at in 0..12 {
        let _ = writeln!(chain, "a{at}.test TXT v=spf1 include:a{}.test -all", at + 1);
    }
    let end = SpfResult::PermError(SpfFault::LookUps, dns_name("a10.test"));
    assert_eq!(check(&zone(&chain), "192.0.2.1", "a0.test").await, end);
    for term in ["include:a.test", "redirect=a.test"] {
        let result = one(&format!("v=spf1 {term}"), "").await;
        assert_eq!(result, perm(SpfFault::LookUps), "{term}");
    }
    // What does not ask does not count.
    let record = format!("v=spf1 {} -all", "ip4:198.51.100.1 ip6:::1 ".repeat(20));
    assert_eq!(one(&record, "").await, SpfResult::Fail);
}

#[tokio::test]
async fn two_terms_may_ask_in_vain_and_not_one_more() {
    for (record, expected) in [
        ("v=spf1 a:x.b.test exists:y.b.test -all", SpfResult::Fail),
        ("v=spf1 a:x.b.test exists:y.b.test mx:z.b.test -all", perm(SpfFault::Void)),
        // The hosts of an MX without an address of the family that is asked for.
        ("v=spf1 mx:m.test -all", SpfResult::Fail),
    ] {
        let others = "m.test MX 1 p.test\nm.test MX 1 q.test\nm.test MX 1 r.test\nb.test A 192.0.2.2";
        assert_eq!(one(record, others).await, expected, "{record}");
    }
}

#[tokio::test]
async fn ten_hosts_of_an_mx_are_asked_and_ten_names_of_an_address() {
    for (count, expected) in [(10, SpfResult::Pass), (11, perm(SpfFault::Hosts))] {
        let mut records = String::new();
        for at in 0..count {
            let _ = writeln!(records, "a.test MX {at} m{at}.test\nm{at}.test A 192.0.2.{}", 10 - at.min(9));
        }
        assert_eq!(one("v=spf1 mx -all", &records).await, expected, "{count}");
    }
    for (before, expected) in [(9, SpfResult::Pass), (10, SpfResult::Fail)] {
        let mut records = "x.a.test A 192.0.2.1\n".to_owned();
        for at in 0..before {
            let _ = writeln!(records, "1.2.0.192.in-addr.arpa PTR other{at}.test");
        }
        records += "1.2.0.192.in-addr.arpa PTR x.a.test";
        assert_eq!(one("v=spf1 ptr -all", &records).await, expected, "{before}");
    }
}

#[tokio::test]
async fn the_name_of_the_address_is_only_believed_when_it_leads_back() {
    let others = "
        1.2.0.192.in-addr.arpa PTR lie.a.test
        1.2.0.192.in-addr.arpa PTR other.test
        1.2.0.192.in-addr.arpa PTR x.a.test
        other.test A 192.0.2.1
        x.a.test A 192.0.2.1
        x.a.test.ok.test A 127.0.0.1
        unknown.ok.test A 127.0.0.1
    ";
    assert_eq!(one("v=spf1 exists:%{p}.ok.test -all", others).await, SpfResult::Pass);
    assert_eq!(one("v=spf1 exists:%{p}.ok.test -all", "unknown.ok.test A 127.0.0.1").await, SpfResult::Pass);
    let dns = zone(&format!("a.test TXT v=spf1 ip4:192.0.2.9 ptr -all\n{others}"));
    let by_ptr = evaluate(&dns, "192.0.2.1", "a.test", "x@a.test").await;
    assert_eq!((by_ptr.result, by_ptr.used_ptr), (SpfResult::Pass, true));
    assert!(!evaluate(&dns, "192.0.2.9", "a.test", "x@a.test").await.used_ptr);
}

#[tokio::test]
async fn the_null_sender_is_the_postmaster_of_the_name_in_ehlo() {
    let dns = zone(
        "
        helo.example.net TXT v=spf1 exists:%{l}.%{o}.%{h}.ok.test -all
        postmaster.helo.example.net.helo.example.net.ok.test A 127.0.0.1
    ",
    );
    let found = evaluate(&dns, "192.0.2.1", "helo.example.net", "").await;
    assert_eq!(found.result, SpfResult::Pass);
}
