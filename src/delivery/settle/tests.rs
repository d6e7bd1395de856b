use std::time::Duration;

use super::*;
use crate::attempt::{Accepted, Phase};
use crate::delivery::lane::tests::{T0, claim};
use crate::smtp::params::Notify;
use crate::smtp::reply::Reply;

fn refused(code: u16) -> Cause {
    Cause::Reply { host: None, phase: Phase::Rcpt, reply: Reply::plain(code, "no") }
}

fn tried(from: &str, outcomes: Vec<Outcome>, now: Timestamp) -> Decision {
    let to = ["1@b.test", "2@b.test", "3@b.test"];
    let offered = outcomes.len();
    let finished = Finished {
        entry: Entry::unbound(claim(1, from, &to)),
        verdict: Verdict::Tried { outcomes, offered },
    };
    decide(finished, now, &Retry { jitter_percent: 0, ..Retry::new() }, None, &Rng::seeded(1))
}

fn delivered() -> Outcome {
    Outcome::Delivered(Accepted::locally())
}

/// How many failures are reported.
fn told(decision: &Decision) -> usize {
    let notices = decision.notices();
    notices.iter().filter(|n| n.kind == ReportKind::Failure).map(|n| n.recipients.len()).sum()
}

fn left_over() -> Outcome {
    let host = std::sync::Arc::new(crate::hop::Host::new("mx.test".parse().unwrap(), 25));
    Outcome::Deferred(Cause::LeftOver { host })
}

#[test]
fn what_a_host_left_over_is_due_at_once_and_no_attempt_while_there_are_fewer() {
    let decision = tried("<a@a.test>", vec![delivered(), left_over(), Outcome::Failed(refused(550))], T0);
    assert_eq!(decision.then, Then::Retry(T0));
    assert!(!decision.settlement(1, T0).attempted && decision.attempted);
    assert_eq!(decision.news.len(), 2, "nothing is told of the one that is not put off");
    assert_eq!(decision.recipients[1].note, None);
    let put_off = Then::Retry(T0.after(Duration::from_secs(60)));
    for outcomes in [
        vec![left_over(), left_over(), left_over()],
        vec![delivered(), left_over(), Outcome::Deferred(refused(450))],
    ] {
        let decision = tried("<a@a.test>", outcomes, T0);
        assert_eq!(decision.then, put_off);
        assert!(decision.settlement(1, T0).attempted);
    }
    let late = T0.after(Duration::from_secs(86_400));
    let decision = tried("<a@a.test>", vec![delivered(), delivered(), left_over()], late);
    assert_eq!(decision.recipients[2].state, RecipientState::Expired);
}

#[test]
fn rounds_without_an_attempt_have_reports_of_their_own() {
    let first = tried("<a@a.test>", vec![Outcome::Failed(refused(550)), left_over(), left_over()], T0);
    let mut claim = first.entry.claim.clone();
    claim.recipients = first.recipients.clone();
    let verdict = Verdict::Tried { outcomes: vec![Outcome::Failed(refused(550)), left_over()], offered: 2 };
    let finished = Finished { entry: Entry::unbound(*claim), verdict };
    let second = decide(finished, T0, &Retry::new(), None, &Rng::seeded(1));
    assert_eq!((told(&first), told(&second)), (1, 1));
    assert_ne!(first.round(), second.round());
}

#[test]
fn who_delivered_decides_who_is_told() {
    let host = std::sync::Arc::new(crate::hop::Host::new("mx.test".parse().unwrap(), 25));
    let by = |dsn, deliver_by| {
        let mut accepted = Accepted::by(host.clone(), Reply::plain(250, "ok"), None);
        (accepted.dsn, accepted.deliver_by) = (dsn, deliver_by);
        accepted
    };
    for (from, rcpt, accepted, kind) in [
        ("<a@a.test>", "NOTIFY=SUCCESS", Accepted::locally(), Some(ReportKind::Success)),
        ("<a@a.test>", "NOTIFY=FAILURE,DELAY", Accepted::locally(), None),
        ("<a@a.test>", "", Accepted::locally(), None),
        ("<>", "NOTIFY=SUCCESS", Accepted::locally(), None),
        ("<a@a.test>", "NOTIFY=SUCCESS", by(false, false), Some(ReportKind::Relayed)),
        ("<a@a.test>", "NOTIFY=SUCCESS", by(true, false), None),
        ("<a@a.test>", "NOTIFY=NEVER", by(false, false), None),
        ("<a@a.test>", "", by(false, false), None),
        ("<a@a.test> BY=9;RT", "", by(true, true), Some(ReportKind::Relayed)),
        ("<a@a.test> BY=9;RT", "NOTIFY=FAILURE", by(true, true), None),
        ("<a@a.test> BY=9;R", "", by(true, true), None),
        ("<a@a.test> BY=9;N", "", by(true, true), None),
        ("<a@a.test> BY=9;N", "", by(true, false), Some(ReportKind::Relayed)),
        ("<> BY=9;NT", "", by(false, false), None),
    ] {
        let mut claim = claim(1, from, &["1@b.test"]);
        claim.recipients[0].rcpt = Rcpt::parse(&format!("<1@b.test> {rcpt}")).unwrap();
        let verdict = Verdict::All(Outcome::Delivered(accepted));
        let finished = Finished { entry: Entry::unbound(claim), verdict };
        let decision = decide(finished, T0, &Retry::new(), None, &Rng::seeded(1));
        let kinds: Vec<_> = decision.notices().iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, Vec::from_iter(kind), "{from} {rcpt}");
    }
}

#[test]
fn one_recipient_put_off_does_not_hold_the_others() {
    let outcomes = vec![delivered(), Outcome::Deferred(refused(450)), Outcome::Failed(refused(550))];
    let decision = tried("<a@a.test>", outcomes, T0);
    let states: Vec<_> = decision.recipients.iter().map(|r| r.state).collect();
    assert_eq!(states, [RecipientState::Delivered, RecipientState::Waiting, RecipientState::Failed]);
    assert_eq!(decision.then, Then::Retry(T0.after(Duration::from_secs(60))));
    assert_eq!(told(&decision), 1);
    assert!(decision.attempted);
    // The next try is for the second alone.
    let mut claim = decision.entry.claim.clone();
    claim.recipients = decision.recipients;
    let finished = Finished {
        entry: Entry::unbound(*claim),
        verdict: Verdict::Tried { outcomes: vec![delivered()], offered: 1 },
    };
    let decision = decide(finished, T0, &Retry::new(), None, &Rng::seeded(1));
    assert_eq!(decision.then, Then::Remove);
    assert_eq!(decision.news.len(), 1);
    assert_eq!(decision.news[0].0, 1);
}

#[test]
fn put_off_past_the_deadline_is_expired_and_quotes_the_last_cause() {
    let late = T0.after(Duration::from_secs(86_400));
    let decision = tried("<a@a.test>", vec![delivered(), Outcome::Deferred(refused(450)), delivered()], late);
    assert_eq!(decision.recipients[1].state, RecipientState::Expired);
    let Outcome::Failed(Cause::Expired(Some(last))) = &decision.news[1].1 else { panic!() };
    assert!(last.contains("450 no"));
    assert_eq!(decision.then, Then::Remove);
    assert_eq!(told(&decision), 1);
}

#[test]
fn nobody_is_told_of_failures_to_the_null_sender_or_unasked() {
    let failures = || vec![Outcome::Failed(refused(550)); 3];
    assert_eq!(told(&tried("<>", failures(), T0)), 0);
    let mut decision = tried("<a@a.test>", failures(), T0);
    assert_eq!(told(&decision), 3);
    decision.recipients[0].rcpt.notify = Some(Notify::NEVER);
    decision.recipients[1].rcpt.notify = Some(Notify { delay: true, ..Notify::NEVER });
    decision.recipients[2].rcpt.notify = Some(Notify { failure: true, ..Notify::NEVER });
    assert_eq!(told(&decision), 1);
}

#[test]
fn a_missing_outcome_is_not_a_delivery_and_what_was_not_offered_is_due_at_once() {
    let entry = || Entry::unbound(claim(1, "<a@a.test>", &["1@b.test", "2@b.test"]));
    let decide =
        |verdict| decide(Finished { entry: entry(), verdict }, T0, &Retry::new(), None, &Rng::seeded(1));
    let decision = decide(Verdict::Tried { outcomes: vec![delivered()], offered: 2 });
    assert_eq!(decision.recipients[1].state, RecipientState::Waiting);
    let decision = decide(Verdict::Tried { outcomes: vec![delivered()], offered: 1 });
    assert_eq!(decision.then, Then::Retry(T0));
    assert_eq!(decision.news.len(), 1);
    let put_off = vec![Outcome::Deferred(refused(450))];
    let decision = decide(Verdict::Tried { outcomes: put_off, offered: 1 });
    assert!(matches!(decision.then, Then::Retry(due) if due > T0), "nothing settled, nothing at once");
}

#[test]
fn given_back_means_unchanged() {
    let entry = Entry::unbound(claim(1, "<a@a.test>", &["1@b.test"]));
    let queue = Some(QueueName::new("mx.b.test:25"));
    let verdict = Verdict::Back { queue: queue.clone(), due: T0 };
    let decision = decide(Finished { entry, verdict }, T0, &Retry::new(), None, &Rng::seeded(1));
    assert!(!decision.attempted && decision.news.is_empty());
    assert_eq!((&decision.queue, &decision.then), (&queue, &Then::Retry(T0)));
    assert_eq!(decision.recipients, decision.entry.claim.recipients);
}
