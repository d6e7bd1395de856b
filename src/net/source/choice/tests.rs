use std::collections::BTreeMap;

use super::*;
use crate::clock::{Rng, Timestamp};
use crate::net::connect::TcpConnect;
use crate::smtp::address::EhloName;

fn source(name: &str) -> Source {
    let ehlo = EhloName::new(&format!("{name}.us.test")).unwrap();
    Source::new(name.parse().unwrap(), ehlo, TcpConnect::new())
}

fn ids() -> impl Iterator<Item = MessageId> {
    let rng = Rng::seeded(11);
    (0..).map(move |n| MessageId::new(Timestamp::from_millis(1_790_000_000_000 + n), &rng))
}

fn id() -> MessageId {
    ids().next().unwrap()
}

/// The source of one message from `sender` for `tenant` to `destination`.
fn chosen(sources: &Sources, sender: &str, tenant: &str, destination: &str) -> String {
    let sender = ReversePath::parse(sender).unwrap();
    let handling = Handling { tenant: Tenant::new(tenant), ..Handling::new() };
    let destination = Domain::parse(destination).unwrap();
    sources.choose(&Sending::new(id(), &sender, &handling, &destination)).unwrap().name.to_string()
}

fn names(names: &[&str]) -> Vec<Source> {
    names.iter().map(|name| source(name)).collect()
}

#[test]
fn each_source_gets_its_weights_part_of_the_messages() {
    let weights = [("a", 1), ("b", 2), ("c", 0), ("d", 5)];
    let sources = Sources::new(names(&["d", "c", "b", "a"]), &weights).unwrap();
    let (null, handling, to) = (ReversePath::Null, Handling::new(), Domain::parse("b.test").unwrap());
    let mut counts = BTreeMap::<String, usize>::new();
    for id in ids().take(80_000) {
        let sending = Sending::new(id, &null, &handling, &to);
        let name = sources.choose(&sending).unwrap().name.clone();
        assert_eq!(sources.choose(&sending).unwrap().name, name, "each time the same");
        *counts.entry(name.to_string()).or_default() += 1;
    }
    for (name, weight) in weights {
        let (count, expected) = (counts.get(name).copied().unwrap_or_default(), weight as usize * 10_000);
        // Four times the deviation that chance has.
        assert!(count.abs_diff(expected) < 400 && (count == 0) == (weight == 0), "{name}: {counts:?}");
    }
}

#[test]
fn the_choice_never_changes() {
    let sources = Sources::equal(names(&["a", "b", "c"])).unwrap();
    let (null, handling, to) = (ReversePath::Null, Handling::new(), Domain::parse("b.test").unwrap());
    let chosen = |id| sources.choose(&Sending::new(id, &null, &handling, &to)).unwrap().name.to_string();
    // What is in spools was chosen like that.
    assert_eq!(ids().take(16).map(chosen).collect::<String>(), "caababcbaaacbacb");
}

#[test]
fn the_first_rule_that_applies_decides() {
    let tenant = Tenant::new("acme").unwrap();
    let sources = Sources::new(names(&["rest", "ada", "shop", "acme", "onion"]), &[("rest", 1)])
        .unwrap()
        .rule(When::Sender(Mailbox::parse("ada@shop.test").unwrap()), &[("ada", 1)])
        .unwrap()
        .rule(When::SenderDomain("shop.test".parse().unwrap()), &[("shop", 1)])
        .unwrap()
        .rule(When::Tenant(tenant), &[("acme", 1)])
        .unwrap()
        .rule(When::Destination("onion.test".parse().unwrap()), &[("onion", 1)])
        .unwrap();
    for (sender, tenant, destination, expected) in [
        ("ada@shop.test", "", "b.test", "ada"),
        ("ada@SHOP.test", "acme", "x.onion.test", "ada"),
        ("Ada@shop.test", "", "b.test", "shop"),
        ("bob@shop.test", "acme", "b.test", "shop"),
        ("bob@sub.shop.test", "", "b.test", "rest"),
        ("bob@x.test", "acme", "onion.test", "acme"),
        ("bob@x.test", "acme2", "b.test", "rest"),
        ("bob@x.test", "", "onion.test", "onion"),
        ("bob@x.test", "", "a.b.Onion.test", "onion"),
        ("bob@x.test", "", "noonion.test", "rest"),
        ("bob@x.test", "", "onion.test.x", "rest"),
        // Reports of ours, and those of a tenant.
        ("", "", "onion.test", "rest"),
        ("", "acme", "b.test", "acme"),
    ] {
        let chosen = chosen(&sources, sender, tenant, destination);
        assert_eq!(chosen, expected, "<{sender}> for {tenant:?} to {destination}");
    }
    let (ada, to) = (ReversePath::parse("ada@shop.test").unwrap(), Domain::parse("b.test").unwrap());
    let uncounted = Handling { uncounted: true, ..Handling::new() };
    let about_tls = Sending::new(id(), &ada, &uncounted, &to);
    assert_eq!(sources.choose(&about_tls).unwrap().name.as_str(), "rest");
}

#[derive(Debug)]
struct Own(fn(&Sending<'_>) -> Option<SourceName>);

impl ChooseSource for Own {
    fn choose(&self, sending: &Sending<'_>) -> Option<SourceName> {
        (self.0)(sending)
    }
}

#[test]
fn the_host_programs_choice_comes_first_and_may_leave_it_to_the_rules() {
    for (own, expected) in [
        (Own(|_| "b".parse().ok()), "b"),
        (Own(|_| None), "a"),
        (Own(|_| "x".parse().ok()), "a"),
        (Own(|_| panic!("as the test has it")), "a"),
    ] {
        let sources = Sources::new(names(&["a", "b"]), &[("a", 1)]).unwrap().chosen_by(own);
        assert_eq!(chosen(&sources, "x@a.test", "", "b.test"), expected);
    }
}

#[test]
fn what_could_never_send_is_refused_at_once() {
    let all = || names(&["a", "b"]);
    for (all, pool, error) in [
        (all(), &[("a", 0), ("b", 0)][..], SetupError::Weightless),
        (all(), &[], SetupError::Weightless),
        (vec![], &[], SetupError::Weightless),
        (all(), &[("c", 1)], SetupError::Unknown),
        (names(&["a", "b", "a"]), &[("a", 1)], SetupError::Twice),
        (vec![source("a"); MAX_SOURCES + 1], &[("a", 1)], SetupError::TooMany),
        (all(), &[("a", 1); MAX_SOURCES + 1], SetupError::TooMany),
    ] {
        assert_eq!(Sources::new(all, pool).err(), Some(error));
    }
    let when = || When::Destination("x.test".parse().unwrap());
    let sources = Sources::equal(all()).unwrap();
    assert_eq!(sources.clone().rule(when(), &[("a", 0)]).err(), Some(SetupError::Weightless));
    let full = (0..MAX_RULES).try_fold(sources, |sources, _| sources.rule(when(), &[("a", 1)])).unwrap();
    assert_eq!(full.rule(when(), &[("a", 1)]).err(), Some(SetupError::TooMany));
    assert_eq!(Sources::new(all(), &[("a", u32::MAX), ("b", u32::MAX)]).err(), None);
}

#[test]
fn a_name_is_a_short_word() {
    for name in ["a", "192.0.2.1", "2001:db8::1", "mx-1_b", &"x".repeat(39)] {
        assert_eq!(name.parse::<SourceName>().unwrap().as_str(), name);
    }
    for name in ["", "a b", "ü", "a\n", "a,b", &"x".repeat(40)] {
        assert!(name.parse::<SourceName>().is_err(), "{name:?}");
    }
}
