//! A settlement is what an attempt changes in the spool. Here outcomes become one: pure, per entry.
//!
//! A recipient that is settled stays so, whatever happens to the others of its entry; those that were
//! put off are tried again on the retry curve, until their time is over. What the sender is told is
//! decided here too, but the report is written in `report`, and the storing done by the settler.

use std::time::Duration;

use crate::attempt::{Accepted, Cause, Expansion, LocalFault, Outcome};
use crate::clock::{Rng, Timestamp};
use crate::message::{ReportKind, wants_report};
use crate::smtp::address::ReversePath;
use crate::smtp::params::{ByMode, Mail, Rcpt};
use crate::spool::altering::in_time;
use crate::spool::rules::cut;
use crate::spool::{QueueName, Recipient, RecipientState, Settlement, Then};

use super::expand;
use super::gather::{decide_report, is_report};
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
    /// It was taken back by the host program.
    Cancelled,
    /// Somebody wants it to wait there, until then.
    Moved { queue: Option<QueueName>, due: Timestamp },
    /// It is the entry that gathers what the sender is to be told, which is reported now.
    Reported,
    /// It was not tried and waits again.
    Back { queue: Option<QueueName>, due: Timestamp },
    /// Its content is not what was stored.
    Damaged,
}

impl Verdict {
    /// Whether the destination's own policy may be why it was not delivered.
    pub(crate) fn is_by_policy(&self) -> bool {
        match self {
            Self::Tried { outcomes, .. } => outcomes.iter().any(Outcome::is_by_policy),
            Self::All(outcome) => outcome.is_by_policy(),
            Self::Expired
            | Self::Cancelled
            | Self::Reported
            | Self::Moved { .. }
            | Self::Back { .. }
            | Self::Damaged => false,
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
    /// It is set aside, and observers are told so.
    pub(crate) aside: bool,
}

/// What the sender is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) kind: ReportKind,
    /// Places in [`Decision::recipients`]; at least one.
    pub(crate) recipients: Vec<usize>,
}

impl Decision {
    /// What the sender is to be told: one notice of each kind at most.
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
            ReportKind::Expanded,
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
            // RFC 3461 §5.2.7: a list has it, as a mailbox would; of an alias it is not known who has.
            let is_alias = accepted.expansion.as_ref().is_some_and(|expansion| expansion.owner.is_none());
            accepted.host.is_none() && !is_alias && wants_report(mail, rcpt, kind)
        }
        (Outcome::Delivered(accepted), ReportKind::Expanded) => {
            let is_several = |expansion: &Expansion| expansion.owner.is_none() && expansion.is_several();
            accepted.expansion.as_deref().is_some_and(is_several) && wants_report(mail, rcpt, kind)
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
    if is_report(&entry.claim) {
        return decide_report(entry, verdict);
    }
    let claim = &entry.claim;
    let notices = Notices::of(claim, delay);
    let mut recipients = claim.recipients.clone();
    let waiting = waiting(&recipients);
    let aside = matches!(verdict, Verdict::Damaged);
    let (mut outcomes, attempted, queue, unoffered) = match verdict {
        Verdict::Moved { queue, due } => {
            return Decision {
                attempted: false,
                counts: false,
                late: None,
                queue: queue.filter(|queue| *queue != claim.queue),
                then: Then::Retry(in_time(due, claim.expires, now)),
                aside: false,
                recipients,
                news: Vec::new(),
                entry,
            };
        }
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
                aside: false,
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
        Verdict::Damaged => (vec![Outcome::Deferred(Cause::Damaged); waiting.len()], false, None, false),
        Verdict::Cancelled => (vec![Outcome::Failed(Cause::Cancelled); waiting.len()], false, None, false),
        Verdict::Expired | Verdict::Reported => {
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
    } else if aside {
        // No try would help before somebody has brought the content back.
        (now < claim.expires).then(|| notices.cap(claim.due, claim.expires, now))
    } else {
        retry.next(tries, now, claim.expires, rng).map(|due| notices.cap(claim.due, due, now))
    };
    let mut news = Vec::with_capacity(outcomes.len());
    for (at, mut outcome) in waiting.into_iter().zip(outcomes.drain(..)) {
        let Some(recipient) = recipients.get_mut(at) else { continue };
        outcome = expand::sound(outcome, claim);
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
                let others = accepted.expansion.as_ref().map(|others| others.recipients.len());
                recipient.note = match (&accepted.reply, others) {
                    (_, Some(others)) => Some(format!("stands for {others} others").into()),
                    (reply, None) => reply.as_ref().map(|reply| cut(&reply.to_string()).into()),
                };
            }
            // The last cause is there already, or is what it quotes.
            Outcome::Failed(Cause::Expired(_) | Cause::Cancelled) if !attempted && !aside => {}
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
    let aside = aside && then != Then::Remove;
    Decision { entry, recipients, news, attempted, counts, late, queue, then, aside }
}

/// Whether some were left over, and nothing else was put off.
fn are_left_over(outcomes: &[Outcome]) -> bool {
    let mut put_off = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Deferred(cause) => Some(matches!(cause, Cause::LeftOver { .. })),
        _ => None,
    });
    put_off.next().is_some_and(|first| first && put_off.all(|left_over| left_over))
}

pub(super) fn note(cause: &Cause) -> Box<str> {
    cut(&cause.to_string()).into()
}

#[cfg(test)]
mod tests;
