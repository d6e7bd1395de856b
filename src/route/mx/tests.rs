use std::collections::BTreeSet;
use std::time::Duration;

use super::options::Families;
use super::*;
use crate::clock::Rng;
use crate::hop::Require;

const TIMEOUT: RouteError = RouteError::Timeout(Duration::from_secs(1));

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn options() -> MxOptions {
    let mut options = MxOptions::new();
    options.rng = Rng::seeded(1);
    options
}

/// `10 mx.test`, `0 .`
fn mx(records: &[&str]) -> Answer<Mx> {
    let parse = |text: &&str| {
        let (preference, exchange) = text.split_once(' ').unwrap();
        let exchange = match exchange {
            "." => Exchange::Null,
            "?" => Exchange::Unusable,
            host => Exchange::Host(name(host)),
        };
        Mx::new(preference.parse().unwrap(), exchange)
    };
    Answer::Records(records.iter().map(parse).collect())
}

fn at(addresses: &[&str]) -> Answer<IpAddr> {
    Answer::Records(addresses.iter().map(|ip| ip.parse().unwrap()).collect())
}

fn plan(records: &[&str], options: &MxOptions) -> Result<Plan, RouteError> {
    Plan::new(&name("a.test"), mx(records), options)
}

/// The names a route asks for, or why it does not.
fn asked(answer: Answer<Mx>, options: &MxOptions) -> Result<String, RouteError> {
    let plan = Plan::new(&name("a.test"), answer, options)?;
    Ok(plan.names().map(Domain::as_str).collect::<Vec<_>>().join(" "))
}

fn shown(hosts: &Hosts) -> String {
    hosts.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// The route when the hosts of `records` (sorted) answer with `answers`.
fn route(records: &[&str], answers: Vec<Answer<IpAddr>>, options: &MxOptions) -> Result<String, RouteError> {
    plan(records, options)?.finish(answers, options).map(|hosts| shown(&hosts))
}

#[test]
fn the_answer_to_the_mx_question_decides_whom_to_ask_for() {
    let options = options();
    for (answer, expected) in [
        (mx(&["20 b.test", "10 c.test", "5 d.test"]), Ok("d.test c.test b.test")),
        (mx(&["10 b.test", "10 a.test"]), Ok("a.test b.test")),
        (mx(&["20 b.test", "10 b.test", "15 c.test"]), Ok("b.test c.test")),
        (Answer::NoData, Ok("a.test")), // RFC 5321 §5.1, implicit MX
        (mx(&[]), Ok("a.test")),        // the same, from a resolver that does not tell
        (Answer::NoName, Err(RouteError::NoSuchDomain)),
        (Answer::Failed(RouteError::Dns), Err(RouteError::Dns)),
        (Answer::Failed(TIMEOUT), Err(TIMEOUT)),
        (mx(&["0 ."]), Err(RouteError::NullMx)), // RFC 7505
        (mx(&["10 .", "20 ."]), Err(RouteError::NullMx)),
        (mx(&["0 .", "10 b.test"]), Ok("b.test")),
        (mx(&["10 ?", "20 b.test"]), Ok("b.test")),
        (mx(&["10 ?"]), Err(RouteError::NoHost)), // a list of nothing is still a list
        (mx(&["10 ?", "0 ."]), Err(RouteError::NoHost)),
    ] {
        assert_eq!(asked(answer.clone(), &options).as_deref(), expected.as_deref(), "{answer:?}");
    }
}

#[test]
fn a_list_without_a_usable_host_never_falls_back_to_the_domain() {
    let options = options();
    let list = ["10 b.test", "20 c.test"];
    for (answers, expected) in [
        (vec![Answer::NoData, Answer::NoName], Err(RouteError::NoHost)),
        (vec![Answer::NoName, Answer::Failed(RouteError::Dns)], Err(RouteError::Dns)),
        (vec![Answer::Failed(TIMEOUT), Answer::NoData], Err(TIMEOUT)),
        (vec![Answer::Failed(TIMEOUT), at(&["192.0.2.1"])], Ok("c.test")),
        (vec![at(&[]), at(&["192.0.2.1"])], Ok("c.test")),
        (vec![at(&["192.0.2.1"])], Ok("b.test")), // an answer is missing
        (vec![], Err(RouteError::NoHost)),
    ] {
        assert_eq!(route(&list, answers.clone(), &options).as_deref(), expected.as_deref(), "{answers:?}");
    }
}

#[test]
fn ourselves_and_what_is_no_better_is_removed() {
    let mut options = options();
    options.own_names = vec![name("us.test")];
    options.own_addresses = vec!["192.0.2.9".parse().unwrap()];
    let other = || at(&["192.0.2.1"]);
    let own = || at(&["192.0.2.2", "192.0.2.9"]);
    for (records, answers, expected) in [
        // By name.
        (&["10 b.test", "20 us.test", "30 c.test"][..], vec![other()], Ok("b.test")),
        (&["10 us.test", "20 c.test"], vec![], Err(RouteError::Loop)),
        (&["10 a.test", "10 us.test"], vec![], Err(RouteError::Loop)),
        // By address.
        (&["10 b.test", "20 c.test", "30 d.test"], vec![other(), own(), other()], Ok("b.test")),
        (&["10 b.test", "10 c.test"], vec![other(), own()], Err(RouteError::Loop)),
        // Nothing better than us has an address.
        (&["10 b.test", "20 us.test"], vec![Answer::NoName], Err(RouteError::Loop)),
        (&["10 b.test", "20 us.test"], vec![Answer::Failed(TIMEOUT)], Err(TIMEOUT)),
        (&["10 b.test", "20 c.test"], vec![own(), Answer::Failed(TIMEOUT)], Err(RouteError::Loop)),
        // In other spellings, and by a name in somebody's DNS for this very machine.
        (&["10 b.test"], vec![at(&["::ffff:192.0.2.9"])], Err(RouteError::Loop)),
        (&["10 b.test"], vec![at(&["127.0.0.2"])], Err(RouteError::Loop)),
        (&["10 b.test"], vec![at(&["::1"])], Err(RouteError::Loop)),
        (&["10 b.test"], vec![at(&["0.0.0.0"])], Err(RouteError::Loop)),
    ] {
        assert_eq!(route(records, answers, &options).as_deref(), expected.as_deref(), "{records:?}");
    }
}

#[test]
fn an_implicit_host_may_be_ourselves_too() {
    let mut options = options();
    options.own_addresses = vec!["192.0.2.9".parse().unwrap()];
    let plan = Plan::new(&name("a.test"), Answer::NoData, &options).unwrap();
    assert_eq!(plan.finish(vec![at(&["192.0.2.9"])], &options), Err(RouteError::Loop));
    options.own_names = vec![name("a.test")];
    assert_eq!(Plan::new(&name("a.test"), Answer::NoData, &options), Err(RouteError::Loop));
}

#[test]
fn an_address_is_ours_only_at_a_port_of_ours() {
    let mut options = options();
    options.port = 2525;
    options.own_addresses = vec!["192.0.2.9".parse().unwrap()];
    for ip in ["192.0.2.9", "127.0.0.1"] {
        assert_eq!(route(&["10 b.test"], vec![at(&[ip])], &options).as_deref(), Ok("b.test"));
        assert!(literal(ip.parse().unwrap(), &options).is_ok());
    }
    options.own_ports.push(2525);
    for ip in ["192.0.2.9", "127.0.0.1"] {
        assert_eq!(route(&["10 b.test"], vec![at(&[ip])], &options), Err(RouteError::Loop));
        assert_eq!(literal(ip.parse().unwrap(), &options), Err(RouteError::Loop));
    }
}

#[test]
fn equal_hosts_are_shuffled_and_others_keep_their_order() {
    let options = options();
    let records = ["10 a.test", "20 b.test", "20 c.test", "20 d.test", "30 e.test"];
    let orders: BTreeSet<_> = (0..200)
        .map(|_| route(&records, vec![at(&["192.0.2.1"]); 5], &options).unwrap())
        .inspect(|order| assert!(order.starts_with("a.test ") && order.ends_with(" e.test"), "{order}"))
        .collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn the_set_of_hosts_is_the_same_at_each_look_up() {
    let mut options = options();
    (options.max_hosts, options.max_addresses) = (4, 4);
    let records: Vec<_> = (0..9).map(|i| format!("10 mx{i}.test")).collect();
    let records: Vec<_> = records.iter().map(String::as_str).collect();
    let sites: BTreeSet<_> = (0..50)
        .map(|_| {
            let plan = plan(&records, &options).unwrap();
            plan.finish(vec![at(&["192.0.2.1", "2001:db8::1"]); 4], &options).unwrap().site()
        })
        .collect();
    assert_eq!(sites.into_iter().collect::<Vec<_>>(), ["mx0.test:25,mx1.test:25,mx2.test:25,mx3.test:25"]);
}

#[test]
fn no_more_hosts_are_looked_at_than_the_limit() {
    let options = options();
    let records: Vec<_> = (0..1000).map(|i| format!("{i} mx{i}.test")).collect();
    let records: Vec<_> = records.iter().map(String::as_str).collect();
    let plan = plan(&records, &options).unwrap();
    assert_eq!(plan.names().len(), options.max_hosts);
    assert_eq!(plan.names().last(), Some(&name("mx19.test")));
}

#[test]
fn a_name_of_ours_counts_beyond_the_limit_too() {
    let mut options = options();
    options.max_hosts = 2;
    options.own_names = vec![name("us.test")];
    let records = ["10 a.test", "10 b.test", "10 c.test", "10 us.test"];
    assert_eq!(plan(&records, &options), Err(RouteError::Loop));
}

#[test]
fn no_more_addresses_are_kept_than_the_limit_and_every_host_keeps_one() {
    let mut options = options();
    options.max_addresses = 5;
    let many: Vec<_> = (0..200).map(|i| format!("192.0.2.{i}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let plan = plan(&["10 a.test", "20 b.test", "30 c.test"], &options).unwrap();
    let hosts = plan.finish(vec![at(&many), at(&["192.0.2.1"]), at(&many)], &options).unwrap();
    assert_eq!(hosts.hosts.iter().map(|host| host.addresses.len()).collect::<Vec<_>>(), [2, 1, 2]);

    let v4 = Answer::Records((0..200).map(|i| Ipv4Addr::new(192, 0, 2, i)).collect());
    let Answer::Records(kept) = addresses(v4, Answer::NoData, &options) else { panic!() };
    assert_eq!(kept.len(), 5);
}

#[test]
fn the_families_of_a_host_take_turns() {
    let v4 = || Answer::Records(vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()]);
    let v6 = || Answer::Records(vec!["2001:db8::1".parse().unwrap()]);
    let mut options = options();
    for (families, expected) in [(Families::V6AndV4, "644"), (Families::V4AndV6, "464")] {
        options.families = families;
        let Answer::Records(found) = addresses(v4(), v6(), &options) else { panic!() };
        let shown: String = found.iter().map(|ip| if ip.is_ipv4() { '4' } else { '6' }).collect();
        assert_eq!(shown, expected);
    }
}

#[test]
fn the_addresses_of_a_host_share_its_load() {
    let options = options();
    let v4 = || Answer::Records((0..4).map(|i| Ipv4Addr::new(192, 0, 2, i)).collect());
    let first = |answer| match answer {
        Answer::Records(found) => found[0],
        other => panic!("{other:?}"),
    };
    let firsts: BTreeSet<_> = (0..100).map(|_| first(addresses(v4(), Answer::NoData, &options))).collect();
    assert_eq!(firsts.len(), 4);
}

#[test]
fn a_family_that_failed_is_hidden_only_by_one_that_answered() {
    let options = options();
    let v4 = || Answer::Records(vec!["192.0.2.1".parse().unwrap()]);
    for (v4, v6, expected) in [
        (v4(), Answer::Failed(RouteError::Dns), at(&["192.0.2.1"])),
        (Answer::NoData, Answer::Failed(TIMEOUT), Answer::Failed(TIMEOUT)),
        (Answer::Failed(RouteError::Dns), Answer::Failed(TIMEOUT), Answer::Failed(RouteError::Dns)),
        (Answer::NoData, Answer::NoData, Answer::NoData),
        (Answer::NoName, Answer::NoName, Answer::NoName),
        (Answer::NoData, Answer::NoName, Answer::NoData),
    ] {
        assert_eq!(addresses(v4, v6, &options), expected);
    }
}

#[test]
fn an_address_that_is_no_host_is_dropped() {
    let options = options();
    let v4 = Answer::Records(vec!["224.0.0.1".parse().unwrap(), Ipv4Addr::BROADCAST]);
    let v6 = Answer::Records(vec!["ff02::1".parse().unwrap()]);
    assert_eq!(addresses(v4, v6, &options), Answer::NoData);
    let mapped = Answer::Records(vec!["::ffff:192.0.2.1".parse().unwrap()]);
    assert_eq!(addresses(Answer::NoData, mapped, &options), at(&["192.0.2.1"]));
}

#[test]
fn a_literal_is_its_own_host() {
    let mut options = options();
    options.require = Require::Verified;
    let hosts = literal("192.0.2.7".parse().unwrap(), &options).unwrap();
    assert_eq!(hosts.hosts, [Host::new(name("[192.0.2.7]"), 25)]);
    assert_eq!(hosts.hosts[0].addresses, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(hosts.require, Require::Verified);
}

#[test]
fn zero_limits_make_no_route_and_no_panic() {
    let mut options = options();
    (options.max_hosts, options.max_addresses) = (0, 0);
    assert_eq!(plan(&["10 a.test"], &options), Err(RouteError::NoHost));
}

#[test]
fn hosts_found_by_mx_say_so() {
    let options = options();
    let hosts = plan(&["10 mx.test"], &options).unwrap().finish(vec![at(&["192.0.2.1"])], &options).unwrap();
    assert!(hosts.by_mx);
    assert!(!Hosts::new(hosts.hosts, Require::Opportunistic).by_mx);
}
