use bytes::Bytes;

use super::*;
use crate::clock::{Clock, Rng, SystemClock};
use crate::hop::{Require, Tlsa, TlsaRecord, TlsaSet};
use crate::message::{Handling, MessageId};
use crate::route::sts::{MxPattern, StsMode, StsPolicy};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};
use crate::spool::{BodyRef, Recipient, Token};

pub(crate) const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);

pub(crate) fn claim(n: u64, from: &str, to: &[&str]) -> Claim {
    let message = MessageId::new(T0, &Rng::seeded(n));
    let recipient = |to: &&str| Recipient::new(Rcpt::parse(&format!("<{to}>")).unwrap());
    Claim {
        token: Token { message, entry: 0, number: 1 },
        mail: Mail::parse(from).unwrap(),
        handling: Handling::new(),
        head: Bytes::new(),
        body: BodyRef { message, number: n, size: 10, at_hand: Some(Bytes::from_static(b"Subject: x")) },
        accepted: T0,
        expires: T0.after(Duration::from_secs(86_400)),
        destination: Domain::parse("b.test").unwrap(),
        queue: QueueName::new("b.test"),
        due: T0,
        attempts: 0,
        cancelled: false,
        alone: true,
        recipients: to.iter().map(recipient).collect(),
    }
}

fn entry(n: u64) -> Entry {
    Entry::unbound(claim(n, "<a@a.test>", &["x@b.test"]))
}

fn lane() -> Lane {
    Lane::new(Way::Local(LocalId::new("x")), 20)
}

const LIMITS: Limits = Limits { ready: 100, weight: 25 };

#[test]
fn a_burst_opens_connections_by_doubling() {
    let (mut lane, now) = (lane(), SystemClock.mono());
    for n in 0..100 {
        lane.push(entry(n), LIMITS);
    }
    let mut steps = Vec::new();
    while lane.runs() < 20 {
        let mut begun = 0;
        while lane.wants_run(now, 500) {
            lane.run_begins();
            begun += 1;
        }
        (0..begun).for_each(|_| lane.run_works());
        steps.push(begun);
    }
    assert_eq!(steps, [1, 1, 2, 4, 8, 4]);
    assert!(!lane.wants_run(now, 500));
}

#[test]
fn work_that_a_starting_run_will_take_asks_for_no_other() {
    let (mut lane, now) = (lane(), SystemClock.mono());
    assert!(!lane.wants_run(now, 500));
    lane.push(entry(1), LIMITS);
    assert!(lane.wants_run(now, 500));
    assert!(!lane.wants_run(now, 0));
    lane.run_begins();
    assert!(!lane.wants_run(now, 500));
}

#[test]
fn urgent_mail_goes_first_and_slows_the_rest_down_without_stopping_it() {
    let mut lane = lane();
    assert!((0..3).all(|_| lane.pop().is_none()), "a look in vain is no turn");
    let priorities = ["", " MT-PRIORITY=3", " MT-PRIORITY=-9", " MT-PRIORITY=3"];
    for (n, priority) in (0..40).zip(priorities.into_iter().cycle()) {
        lane.push(Entry::unbound(claim(n, &format!("<a@a.test>{priority}"), &["x@b.test"])), LIMITS);
    }
    let mut pop = || lane.pop().map(|entry| entry.claim.body.number);
    let first: Vec<_> = std::iter::from_fn(&mut pop).take(10).collect();
    assert_eq!(first, [1, 3, 5, 7, 9, 11, 13, 0, 15, 17], "the eighth is the oldest");
    let rest: Vec<_> = std::iter::from_fn(&mut pop).collect();
    assert_eq!(rest.len(), 30);
    let of = |kind| rest.iter().filter(|n| *n % 4 == kind).collect::<Vec<_>>();
    for kind in 0..4 {
        assert!(of(kind).is_sorted(), "within a priority what came first");
    }
    let at = |n| rest.iter().position(|place| *place == n).unwrap();
    assert!(at(39) < at(28) && at(36) < at(30), "{rest:?}");
    assert_eq!(lane.ready(), 0);
}

#[test]
fn what_was_not_tried_is_the_next_of_its_priority() {
    let mut lane = lane();
    (0..2).for_each(|n| lane.push(entry(n), LIMITS));
    let taken = lane.pop().unwrap();
    lane.push_front(taken);
    assert_eq!((lane.ready(), lane.pop().unwrap().claim.body.number), (2, 0));
    assert_eq!(lane.drain().count(), 1);
    assert_eq!((lane.ready(), lane.weight), (0, 0));
}

#[test]
fn bodies_that_do_not_fit_are_let_go() {
    let mut lane = lane();
    for n in 0..5 {
        lane.push(entry(n), LIMITS);
    }
    let kept = std::iter::from_fn(|| lane.pop()).filter(|e| e.claim.body.at_hand.is_some()).count();
    assert_eq!((kept, lane.weight), (2, 0));
}

fn of(n: u64, priority: i8) -> Entry {
    Entry::unbound(claim(n, &format!("<a@a.test> MT-PRIORITY={priority}"), &["x@b.test"]))
}

#[test]
fn a_lane_full_of_bulk_mail_has_room_for_what_is_more_urgent() {
    let (mut lane, limits, free) = (lane(), Limits { ready: 32, weight: 0 }, 10_000);
    let mut n = 0;
    for (class, priority) in [(Class::Bulk, -1), (Class::Normal, 0), (Class::Urgent, 1)] {
        assert_eq!(lane.room(class, limits, free), 32, "{class:?}");
        for _ in 0..32 {
            assert!(!lane.is_full(class, limits, free));
            lane.push(of(n, priority), limits);
            n += 1;
        }
        assert_eq!(lane.room(class, limits, free), 0, "{class:?}");
        assert!(!lane.has_room(class, limits, free));
    }
    assert_eq!(lane.ready(), 96, "and no more than three times its limit");
    assert!(lane.is_full(Class::Bulk, limits, free) && !lane.is_full(Class::Urgent, limits, free));
}

#[test]
fn urgent_mail_leaves_a_little_room_for_the_rest() {
    let (mut lane, limits, free) = (lane(), Limits { ready: 32, weight: 0 }, 10_000);
    (0..40).for_each(|n| lane.push(of(n, 1), limits));
    for (class, priority) in [(Class::Normal, 0), (Class::Bulk, -1)] {
        assert!(lane.has_room(class, limits, free));
        assert_eq!(lane.room(class, limits, free), 2);
        (0..4).for_each(|n| lane.push(of(n, priority), limits));
        assert_eq!(lane.room(class, limits, free), 0);
        assert!(!lane.has_room(class, limits, free));
    }
}

#[test]
fn what_is_taken_out_is_counted_out() {
    let mut lane = lane();
    (0..9).for_each(|n| lane.push(of(n, i8::try_from(n % 3).unwrap() - 1), LIMITS));
    let taken = lane.take_out(|claim| claim.body.number % 2 == 0);
    assert_eq!((taken.len(), lane.ready()), (5, 4));
    let rest: Vec<_> = std::iter::from_fn(|| lane.pop()).map(|e| e.claim.body.number).collect();
    assert_eq!(rest, [5, 1, 7, 3]);
    assert_eq!((lane.ready(), lane.weight), (0, 0));
}

#[test]
fn lanes_that_do_not_move_leave_room_for_others() {
    let (limits, mut entries, mut runs) = (Limits { ready: 2_000, weight: 0 }, 20_000, 500);
    let now = SystemClock.mono();
    let mut lanes: Vec<_> = (0..40).map(|_| lane()).collect();
    for lane in &mut lanes {
        let room = lane.room(Class::Normal, limits, entries);
        assert!(room > 0);
        (0..room.min(40)).for_each(|n| lane.push(entry(n as u64), limits));
        entries -= room;
        while lane.wants_run(now, runs) {
            lane.run_begins();
            lane.run_works();
            runs -= 1;
        }
    }
    assert!(lanes.iter().all(|lane| lane.runs() > 0) && entries > 0 && runs > 0);
    assert_eq!(lanes[0].runs(), 20);
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

/// Under a policy that allows this host.
fn sts(mut hosts: Hosts, mx: &str) -> Hosts {
    hosts.sts = Some(Arc::new(StsPolicy {
        id: "1".into(),
        mode: StsMode::Enforce,
        mx: vec![MxPattern { wildcard: false, name: domain(mx) }],
        max_age: Duration::from_secs(86_400),
        lines: Vec::new(),
    }));
    hosts
}

#[test]
fn a_site_asked_for_other_tls_is_another_lane() {
    let host = || vec![crate::hop::Host::new(Domain::parse("mx.test").unwrap(), 25)];
    let name = |hosts, care| Routed::new(Route::Hosts(hosts), care).unwrap().site.to_string();
    let usual = |require| name(Hosts::new(host(), require), Care::Usual);
    assert_eq!(usual(Require::Opportunistic), "mx.test:25");
    assert_eq!(usual(Require::Encrypted), "encrypted mx.test:25");
    assert_eq!(usual(Require::Verified), "verified mx.test:25");
    assert_eq!(usual(Require::Cleartext), "cleartext mx.test:25");

    let record = |usage| TlsaRecord::new(usage, 1, 1, Bytes::from_static(&[7; 32])).unwrap();
    let secured = |tlsa| {
        let mut hosts = Hosts::new(host(), Require::Opportunistic);
        hosts.hosts[0].tlsa = tlsa;
        hosts
    };
    let set = |usage, names: &[&str]| {
        let mut set = TlsaSet::new(domain("mx.test"), vec![record(usage)]);
        set.names.extend(names.iter().map(|name| domain(name)));
        secured(Tlsa::Records(Arc::new(set)))
    };
    for (hosts, care, expected) in [
        (set(3, &["b.test"]), Care::Usual, "dane mx.test:25"),
        (set(2, &[]), Care::Usual, "dane mx.test:25"),
        (set(2, &["c.test", "b.test"]), Care::Usual, "dane mx.test:25 as b.test,c.test"),
        (secured(Tlsa::Failed), Care::Usual, "dane mx.test:25"),
        (secured(Tlsa::Unusable), Care::Required, "requiretls dane mx.test:25"),
        (secured(Tlsa::Unusable).unproven(), Care::Required, "requiretls unproven dane mx.test:25"),
        (set(3, &[]), Care::Relaxed, "mx.test:25"),
        (sts(set(3, &[]), "mx.test"), Care::Usual, "dane sts mx.test:25"),
        (sts(secured(Tlsa::Absent), "mx.test"), Care::Usual, "sts mx.test:25"),
        (sts(secured(Tlsa::Absent), "mx.test"), Care::Relaxed, "mx.test:25"),
    ] {
        assert_eq!(name(hosts, care), expected);
    }
    let refused = Routed::new(Route::Hosts(sts(secured(Tlsa::Absent), "mx2.test")), Care::Usual);
    assert_eq!(refused.unwrap_err(), RouteError::Sts);
}
