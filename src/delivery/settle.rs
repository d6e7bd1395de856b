//! A settlement is what an attempt changes in the spool. Here outcomes become one: pure, per entry.
//!
//! A recipient that is settled stays so, whatever happens to the others of its entry; those that were
//! put off are tried again on the retry curve, until their time is over. What the sender is told is
//! decided here too, but the report is written in `report`, and the storing done by the settler.

use std::time::Duration;

use crate::attempt::{Accepted, Cause, LocalFault, Outcome};
use crate::clock::{Rng, Timestamp};
use crate::message::{ReportKind, wants_report};
use crate::smtp::address::ReversePath;
use crate::smtp::params::{ByMode, Mail, Rcpt};
use crate::spool::rules::cut;
use crate::spool::{QueueName, Recipient, RecipientState, Settlement, Then};

use super::lane::Entry;
use super::retry::Retry;
use super::terms::{Late, Notices, is_wanted};

/// An entry that is to be settled.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) entry: Entry,
    pub(crate) verdict: Verdict,
}

/// What was found out about an entry.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It was tried: an outcome for each recipient that was waiting, in order. Those behind the last
    /// outcome of `offered` were not part of the try.
    Tried { outcomes: Vec<Outcome>, offered: usize },
    /// The same for every recipient that was waiting.
    All(Outcome),
    /// Its time is over.
    Expired,
    /// It was not tried and waits again.
    Back { queue: Option<QueueName>, due: Timestamp },
}

impl Verdict {
    /// Whether the destination's own policy may be why it was not delivered.
    pub(crate) fn is_by_policy(&self) -> bool {
        match self {
            Self::Tried { outcomes, .. } => outcomes.iter().any(Outcome::is_by_policy),
            Self::All(outcome) => outcome.is_by_policy(),
            Self::Expired | Self::Back { .. } => false,
        }
    }
}

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) entry: Entry,
    /// All recipients, as they stand now.
    pub(crate) recipients: Vec<Recipient>,
    /// What was found out now: place in `recipients`, and the outcome. An expired recipient's is
    /// `Failed(Expired)`.
    pub(crate) news: Vec<(usize, Outcome)>,
    /// It was tried.
    pub(crate) attempted: bool,
    /// That counts as a step of the retry curve.
    pub(crate) counts: bool,
    /// The sender of those that wait on is to be told that they do.
    pub(crate) late: Option<Late>,
    pub(crate) queue: Option<QueueName>,
    pub(crate) then: Then,
}

/// What the sender is to be told, in one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) kind: ReportKind,
    /// Places in [`Decision::recipients`]; at least one.
    pub(crate) recipients: Vec<usize>,
}

impl Decision {
    /// What the sender is to be told: one report of each kind at most.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        let claim = &self.entry.claim;
        let mail = &claim.mail;
        if mail.from == ReversePath::Null {
            return Vec::new();
        }
        let kinds = [
            ReportKind::Failure,
            ReportKind::Delay { until: claim.expires },
            ReportKind::Relayed,
            ReportKind::Success,
        ];
        kinds.into_iter().filter_map(|kind| self.notice(mail, kind)).collect()
    }

    fn notice(&self, mail: &Mail, kind: ReportKind) -> Option<Notice> {
        let recipients: Vec<usize> = if let ReportKind::Delay { .. } = kind {
            self.late?;
            let late = |r: &Recipient| r.state == RecipientState::Waiting && is_wanted(&r.rcpt);
            self.recipients.iter().enumerate().filter(|(_, r)| late(r)).map(|(at, _)| at).collect()
        } else {
            let is_told = |(at, outcome): &(usize, Outcome)| {
                let told = self.recipients.get(*at).is_some_and(|r| is_told(mail, &r.rcpt, outcome, kind));
                told.then_some(*at)
            };
            self.news.iter().filter_map(is_told).collect()
        };
        (!recipients.is_empty()).then_some(Notice { kind, recipients })
    }

    /// The same number whenever this is decided, and another one in every other round of the entry:
    /// the tries that count, and those settled before, of which a try that does not count adds one.
    pub(crate) fn round(&self) -> (u32, u32) {
        let claim = &self.entry.claim;
        let settled = claim.recipients.iter().filter(|r| r.state.is_terminal()).count();
        (claim.attempts, u32::try_from(settled).unwrap_or(u32::MAX))
    }

    /// The settlement, without the report. `number` is that of the entry's latest claim.
    pub(crate) fn settlement(&self, number: u64, at: Timestamp) -> Settlement {
        let mut token = self.entry.claim.token;
        token.number = number;
        Settlement {
            token,
            at,
            recipients: self.recipients.clone(),
            attempted: self.counts,
            queue: self.queue.clone(),
            then: self.then.clone(),
            submit: Vec::new(),
            tell: None,
            log: Vec::new(),
        }
    }
}

/// Whether the sender is told this of a recipient.
fn is_told(mail: &Mail, rcpt: &Rcpt, outcome: &Outcome, kind: ReportKind) -> bool {
    match (outcome, kind) {
        (Outcome::Failed(Cause::Cancelled), _) => false,
        (Outcome::Failed(_), ReportKind::Failure) => wants_report(mail, rcpt, kind),
        (Outcome::Delivered(accepted), ReportKind::Success) => {
            accepted.host.is_none() && wants_report(mail, rcpt, kind)
        }
        (Outcome::Delivered(accepted), ReportKind::Relayed) => {
            accepted.host.is_some() && is_relay_told(mail, rcpt, accepted)
        }
        _ => false,
    }
}

fn is_relay_told(mail: &Mail, rcpt: &Rcpt, accepted: &Accepted) -> bool {
    // RFC 3461 §5.2.2: nobody else will say that it was delivered.
    let last_word = !accepted.dsn && rcpt.notify.is_some_and(|notify| notify.success);
    // RFC 2852 §4.1: for each host on the way, or where the next one does not know the deadline.
    let traced = mail.by.is_some_and(|by| by.trace || by.mode == ByMode::Notify && !accepted.deliver_by);
    last_word || traced && rcpt.notify.is_none_or(|notify| notify.success)
}

/// The places of those that are to be tried, in the order in which they are offered: first those of whom
/// nothing was said yet. Else where a host takes few at once, or puts the first hundred off, the others
/// would never be named.
pub(super) fn waiting(recipients: &[Recipient]) -> Vec<usize> {
    let open = || recipients.iter().enumerate().filter(|(_, r)| !r.state.is_terminal());
    let unheard = open().filter(|(_, r)| r.note.is_none());
    unheard.chain(open().filter(|(_, r)| r.note.is_some())).map(|(at, _)| at).collect()
}

/// Decides what becomes of an entry. `delay` is [`super::EngineOptions::delay_notice`].
pub(crate) fn decide(
    finished: Finished,
    now: Timestamp,
    retry: &Retry,
    delay: Option<Duration>,
    rng: &Rng,
) -> Decision {
    let Finished { entry, verdict } = finished;
    let claim = &entry.claim;
    let notices = Notices::of(claim, delay);
    let mut recipients = claim.recipients.clone();
    let waiting = waiting(&recipients);
    let (mut outcomes, attempted, queue, unoffered) = match verdict {
        Verdict::Back { queue, due } => {
            let queue = queue.filter(|queue| *queue != claim.queue);
            // Not past the deadline, where it is still to come.
            let due = if now < claim.expires { due.min(claim.expires) } else { due };
            let due = notices.cap(claim.due, due, now);
            return Decision {
                attempted: false,
                counts: false,
                late: notices.between(claim.due, due),
                queue,
                then: Then::Retry(due),
                recipients,
                news: Vec::new(),
                entry,
            };
        }
        Verdict::Tried { mut outcomes, offered } => {
            let offered = offered.min(waiting.len());
            // A `Deliver` that gives too few outcomes has not said that it took responsibility.
            outcomes.resize(offered, Outcome::Deferred(Cause::Local(LocalFault::Storage)));
            (outcomes, true, None, offered < waiting.len())
        }
        Verdict::All(outcome) => (vec![outcome; waiting.len()], true, None, false),
        Verdict::Expired => {
            let cause = |at: &usize| Cause::Expired(recipients.get(*at).and_then(|r| r.note.clone()));
            (waiting.iter().map(cause).map(Outcome::Failed).collect(), false, None, false)
        }
    };
    // At once for those that were not offered, or that the host left over, but only while there are
    // fewer and fewer: the same try over and over would hammer the host.
    let settled = outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Deferred(_)));
    let left_over = settled && now < claim.expires && are_left_over(&outcomes);
    let at_once = left_over || unoffered && settled && now < claim.expires;
    let counts = attempted && !left_over;
    let tries = claim.attempts.saturating_add(u32::from(counts));
    let due = if at_once {
        // Not put off, so that nobody is told of a delay.
        Some(claim.due.min(now))
    } else {
        retry.next(tries, now, claim.expires, rng).map(|due| notices.cap(claim.due, due, now))
    };
    let mut news = Vec::with_capacity(outcomes.len());
    for (at, mut outcome) in waiting.into_iter().zip(outcomes.drain(..)) {
        let Some(recipient) = recipients.get_mut(at) else { continue };
        if left_over && matches!(outcome, Outcome::Deferred(_)) {
            continue; // as if it had not been offered
        }
        if let (None, Outcome::Deferred(cause)) = (due, &outcome) {
            outcome = Outcome::Failed(Cause::Expired(Some(note(cause))));
        }
        recipient.state = match &outcome {
            Outcome::Delivered(_) => RecipientState::Delivered,
            Outcome::Deferred(_) => RecipientState::Waiting,
            Outcome::Failed(Cause::Expired(_)) => RecipientState::Expired,
            Outcome::Failed(Cause::Cancelled) => RecipientState::Cancelled,
            Outcome::Failed(_) => RecipientState::Failed,
        };
        match &outcome {
            Outcome::Delivered(accepted) => {
                recipient.note = accepted.reply.as_ref().map(|reply| cut(&reply.to_string()).into());
            }
            // The last cause is there already, or is what it quotes.
            Outcome::Failed(Cause::Expired(_)) if !attempted => {}
            // Nothing was said about it.
            Outcome::Deferred(Cause::LeftOver { .. }) => {}
            Outcome::Deferred(cause) | Outcome::Failed(cause) => recipient.note = Some(note(cause)),
        }
        news.push((at, outcome));
    }
    let (then, late) = if recipients.iter().all(|recipient| recipient.state.is_terminal()) {
        (Then::Remove, None)
    } else {
        let due = due.unwrap_or(now);
        (Then::Retry(due), notices.between(claim.due, due))
    };
    Decision { entry, recipients, news, attempted, counts, late, queue, then }
}

/// Whether some were left over, and nothing else was put off.
fn are_left_over(outcomes: &[Outcome]) -> bool {
    let mut put_off = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Deferred(cause) => Some(matches!(cause, Cause::LeftOver { .. })),
        _ => None,
    });
    put_off.next().is_some_and(|first| first && put_off.all(|left_over| left_over))
}

fn note(cause: &Cause) -> Box<str> {
    cut(&cause.to_string()).into()
}

#[cfg(test)]
mod tests {
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
            entry: Entry::new(claim(1, from, &to)),
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
        let verdict =
            Verdict::Tried { outcomes: vec![Outcome::Failed(refused(550)), left_over()], offered: 2 };
        let finished = Finished { entry: Entry::new(claim), verdict };
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
            let finished = Finished { entry: Entry::new(claim), verdict };
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
            entry: Entry::new(claim),
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
        let decision =
            tried("<a@a.test>", vec![delivered(), Outcome::Deferred(refused(450)), delivered()], late);
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
        let entry = || Entry::new(claim(1, "<a@a.test>", &["1@b.test", "2@b.test"]));
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
        let entry = Entry::new(claim(1, "<a@a.test>", &["1@b.test"]));
        let queue = Some(QueueName::new("mx.b.test:25"));
        let verdict = Verdict::Back { queue: queue.clone(), due: T0 };
        let decision = decide(Finished { entry, verdict }, T0, &Retry::new(), None, &Rng::seeded(1));
        assert!(!decision.attempted && decision.news.is_empty());
        assert_eq!((&decision.queue, &decision.then), (&queue, &Then::Retry(T0)));
        assert_eq!(decision.recipients, decision.entry.claim.recipients);
    }
}
