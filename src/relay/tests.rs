//! What the rules let pass, and what a client is told.

use super::*;

#[test]
fn the_parsed_domain_decides_and_nothing_else() {
    let mut rules = Rules::new(EhloName::new("mx.test").unwrap());
    rules.local = vec!["local.test".parse().unwrap()];
    rules.relay_from = vec!["192.0.2.0/24".parse().unwrap()];
    let (stranger, friend) = ("198.51.100.1".parse().unwrap(), "::ffff:192.0.2.9".parse().unwrap());
    for (path, admitted) in [
        ("a@local.test", true),
        ("a@LOCAL.Test", true),
        ("a%victim.test@local.test", true),
        ("victim.test!a@local.test", true),
        ("\"a@victim.test\"@local.test", true),
        ("@victim.test:a@local.test", true),
        ("postmaster", true),
        ("a@victim.test", false),
        ("\"a@local.test\"@victim.test", false),
        ("a%local.test@victim.test", false),
        ("local.test!a@victim.test", false),
        ("@local.test:a@victim.test", false),
        ("@local.test,@local.test:a@victim.test", false),
        ("a@sub.local.test", false),
        ("a@local.test.victim.test", false),
        ("a@victimlocal.test", false),
        ("a@[192.0.2.1]", false),
        ("a@[IPv6:::1]", false),
        ("postmaster@victim.test", false),
        ("a@xn--local-9ta.test", false),
    ] {
        let to = ForwardPath::parse(path).unwrap();
        assert_eq!(rules.admits(&to, stranger, None), admitted, "{path}");
        assert!(rules.admits(&to, friend, None) && rules.admits(&to, stranger, Some("ada")), "{path}");
    }
}

#[test]
fn only_those_who_are_trusted_say_how_urgent_a_message_is() {
    let mut rules = Rules::new(EhloName::new("mx.test").unwrap());
    rules.relay_from = vec!["192.0.2.0/24".parse().unwrap()];
    rules.priority_from = vec!["203.0.113.0/24".parse().unwrap()];
    for (peer, user, given) in [
        ("192.0.2.1", None, 9),
        ("203.0.113.1", None, 9),
        ("198.51.100.1", Some("ada"), 9),
        ("198.51.100.1", None, 0),
    ] {
        let peer = peer.parse().unwrap();
        let given_for = |asked| rules.priority(Priority::new(asked).unwrap(), peer, user).get();
        assert_eq!((given_for(9), given_for(0), given_for(-4)), (given, 0, -4), "{peer}");
    }
    assert!(!rules.is_submitter("203.0.113.1".parse().unwrap(), None));
}

#[test]
fn nobody_may_send_anything_by_default() {
    let rules = Rules::new(EhloName::new("mx.test").unwrap());
    for path in ["a@mx.test", "a@localhost", "postmaster", "a@[127.0.0.1]"] {
        let to = ForwardPath::parse(path).unwrap();
        assert!(!rules.admits(&to, "127.0.0.1".parse().unwrap(), None), "{path}");
    }
}

#[test]
fn a_bare_postmaster_is_somebody_wherever_there_is_mail_of_ours() {
    let mut rules = Rules::new(EhloName::new("mx.test").unwrap());
    rules.local = vec!["one.test".parse().unwrap(), "two.test".parse().unwrap()];
    assert_eq!(rules.postmaster().unwrap().to_string(), "postmaster@one.test");
    rules.postmaster = Some("admin@elsewhere.test".parse().unwrap());
    assert_eq!(rules.postmaster().unwrap().to_string(), "admin@elsewhere.test");
}

#[test]
fn what_may_help_later_is_4xx_and_what_cannot_is_5xx() {
    let io = || std::io::Error::other("x");
    for (unfit, code) in [
        (Unfit::Spool(SpoolError::Full), 452),
        (SpoolError::Poisoned.into(), 451),
        (SpoolError::Storage(io()).into(), 451),
        (SpoolError::Unknown(io()).into(), 451),
        (SpoolError::TooLarge.into(), 552),
        (Unfit::Engine(SubmitError::Spool(SpoolError::Full)), 452),
        (SubmitError::Closed.into(), 421),
        (SubmitError::Hold.into(), 501),
        (SubmitError::Release.into(), 501),
        (Unfit::Busy, 452),
        (Unfit::Loop(101), 554),
        (HeaderError::TooLong.into(), 552),
    ] {
        assert_eq!(refusal(&unfit).code(), code, "{unfit}");
    }
}
