//! A settlement is what an attempt changes in the spool. Here outcomes become one: pure, per entry.
//!
//! A recipient that is settled stays so, whatever happens to the others of its entry; those that were
//! put off are tried again on the retry curve, until their time is over. Who is told of a failure is
//! decided here too, but the report is written in `report`, and the storing done by the settler.

use crate::attempt::{Cause, LocalFault, Outcome};
use crate::clock::{Rng, Timestamp};
use crate::message::{ReportKind, wants_report};
use crate::spool::rules::cut;
use crate::spool::{QueueName, Recipient, RecipientState, Settlement, Then};

use super::lane::Entry;
use super::retry::Retry;

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

/// What becomes of an entry.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) entry: Entry,
    /// All recipients, as they stand now.
    pub(crate) recipients: Vec<Recipient>,
    /// What was found out now: place in `recipients`, and the outcome. An expired recipient's is
    /// `Failed(Expired)`.
    pub(crate) news: Vec<(usize, Outcome)>,
    pub(crate) attempted: bool,
    pub(crate) queue: Option<QueueName>,
    pub(crate) then: Then,
}

impl Decision {
    /// The recipients whose sender is to be told, with the reason.
    pub(crate) fn to_report(&self) -> impl Iterator<Item = (&Recipient, &Cause)> {
        let mail = &self.entry.claim.mail;
        self.news.iter().filter_map(|(at, outcome)| match outcome {
            Outcome::Failed(cause) if !matches!(cause, Cause::Cancelled) => {
                let recipient = self.recipients.get(*at)?;
                wants_report(mail, &recipient.rcpt, ReportKind::Failure).then_some((recipient, cause))
            }
            _ => None,
        })
    }

    /// The settlement, without the report. `number` is that of the entry's latest claim.
    pub(crate) fn settlement(&self, number: u64) -> Settlement {
        let mut token = self.entry.claim.token;
        token.number = number;
        Settlement {
            token,
            recipients: self.recipients.clone(),
            attempted: self.attempted,
            queue: self.queue.clone(),
            then: self.then.clone(),
            submit: Vec::new(),
        }
    }
}

/// Decides what becomes of an entry.
pub(crate) fn decide(finished: Finished, now: Timestamp, retry: &Retry, rng: &Rng) -> Decision {
    let Finished { entry, verdict } = finished;
    let claim = &entry.claim;
    let mut recipients = claim.recipients.clone();
    let waiting: Vec<usize> = (0..recipients.len())
        .filter(|at| recipients.get(*at).is_some_and(|r| !r.state.is_terminal()))
        .collect();
    let (mut outcomes, attempted, queue, unoffered) = match verdict {
        Verdict::Back { queue, due } => {
            let queue = queue.filter(|queue| *queue != claim.queue);
            return Decision {
                attempted: false,
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
    let tries = claim.attempts.saturating_add(u32::from(attempted));
    // At once for those that were not offered, but only while there are fewer and fewer: the same try
    // over and over would hammer the host.
    let settled = outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Deferred(_)));
    let due = if unoffered && settled && now < claim.expires {
        Some(now)
    } else {
        retry.next(tries, now, claim.expires, rng)
    };
    let mut news = Vec::with_capacity(outcomes.len());
    for (at, mut outcome) in waiting.into_iter().zip(outcomes.drain(..)) {
        let Some(recipient) = recipients.get_mut(at) else { continue };
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
            Outcome::Deferred(cause) | Outcome::Failed(cause) => recipient.note = Some(note(cause)),
        }
        news.push((at, outcome));
    }
    let then = if recipients.iter().all(|recipient| recipient.state.is_terminal()) {
        Then::Remove
    } else {
        Then::Retry(due.unwrap_or(now))
    };
    Decision { entry, recipients, news, attempted, queue, then }
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
        decide(finished, now, &Retry { jitter_percent: 0, ..Retry::new() }, &Rng::seeded(1))
    }

    fn delivered() -> Outcome {
        Outcome::Delivered(Accepted::locally())
    }

    #[test]
    fn one_recipient_put_off_does_not_hold_the_others() {
        let outcomes = vec![delivered(), Outcome::Deferred(refused(450)), Outcome::Failed(refused(550))];
        let decision = tried("<a@a.test>", outcomes, T0);
        let states: Vec<_> = decision.recipients.iter().map(|r| r.state).collect();
        assert_eq!(states, [RecipientState::Delivered, RecipientState::Waiting, RecipientState::Failed]);
        assert_eq!(decision.then, Then::Retry(T0.after(Duration::from_secs(60))));
        assert_eq!(decision.to_report().count(), 1);
        assert!(decision.attempted);
        // The next try is for the second alone.
        let mut claim = decision.entry.claim.clone();
        claim.recipients = decision.recipients;
        let finished = Finished {
            entry: Entry::new(claim),
            verdict: Verdict::Tried { outcomes: vec![delivered()], offered: 1 },
        };
        let decision = decide(finished, T0, &Retry::new(), &Rng::seeded(1));
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
        assert_eq!(decision.to_report().count(), 1);
    }

    #[test]
    fn nobody_is_told_of_failures_to_the_null_sender_or_unasked() {
        let failures = || vec![Outcome::Failed(refused(550)); 3];
        assert_eq!(tried("<>", failures(), T0).to_report().count(), 0);
        let mut decision = tried("<a@a.test>", failures(), T0);
        assert_eq!(decision.to_report().count(), 3);
        decision.recipients[0].rcpt.notify = Some(Notify::NEVER);
        decision.recipients[1].rcpt.notify = Some(Notify { delay: true, ..Notify::NEVER });
        decision.recipients[2].rcpt.notify = Some(Notify { failure: true, ..Notify::NEVER });
        assert_eq!(decision.to_report().count(), 1);
    }

    #[test]
    fn a_missing_outcome_is_not_a_delivery_and_what_was_not_offered_is_due_at_once() {
        let entry = || Entry::new(claim(1, "<a@a.test>", &["1@b.test", "2@b.test"]));
        let decide =
            |verdict| decide(Finished { entry: entry(), verdict }, T0, &Retry::new(), &Rng::seeded(1));
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
        let decision = decide(Finished { entry, verdict }, T0, &Retry::new(), &Rng::seeded(1));
        assert!(!decision.attempted && decision.news.is_empty());
        assert_eq!((&decision.queue, &decision.then), (&queue, &Then::Retry(T0)));
        assert_eq!(decision.recipients, decision.entry.claim.recipients);
    }
}
