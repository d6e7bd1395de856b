//! Terms are the times that a message's envelope and the engine's options set: when it is released,
//! when it must have arrived, when its sender is told that it is late.
//!
//! They follow from what is stored with the message and are the same after a restart. Which notices
//! were given is not stored apart either: an entry is never put off *past* such a time without the
//! notice being written in the same transaction. So one whose due time lies behind it was told of,
//! and one whose due time does not was not; there is no mark that could differ from the report.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::smtp::address::ReversePath;
use crate::smtp::params::{ByMode, DeliverBy, Hold, Mail, Rcpt};
use crate::spool::Claim;
use crate::spool::set_back::released;

/// Makes of a hold the time of release, so that it means the same whenever it is read. One that is
/// over is none (RFC 4865 §5).
pub(crate) fn fix_release(mail: &mut Mail, now: Timestamp) {
    mail.hold = mail.hold.and_then(|hold| match hold {
        Hold::For(seconds) => {
            let release = now.after(Duration::from_secs(seconds.into()));
            (seconds > 0).then(|| Hold::Until(release.as_millis().div_ceil(1000)))
        }
        Hold::Until(time) => (at(time) > now).then_some(hold),
    });
}

/// When the message may be sent: what it was held for counts against nothing.
pub(crate) fn release(mail: &Mail, accepted: Timestamp) -> Timestamp {
    released(mail, accepted).max(accepted)
}

/// When the message must have arrived, or its sender is told (RFC 2852 §4.1).
pub(crate) fn deliver_by(mail: &Mail, accepted: Timestamp) -> Option<Timestamp> {
    let by = mail.by?;
    Some(accepted.after(Duration::from_secs(u64::try_from(by.seconds).unwrap_or_default())))
}

/// When the message is given back if it did not arrive: a mode of DELIVERBY.
pub(crate) fn return_at(mail: &Mail, accepted: Timestamp) -> Option<Timestamp> {
    deliver_by(mail, accepted).filter(|_| mail.by.is_some_and(|by| by.mode == ByMode::Return))
}

/// The envelope as it stands for the next hop now: the hold is over and no business of its (RFC 4865
/// §4), and of the time to deliver in there is so much less (RFC 2852 §4.1).
pub(crate) fn onward(mail: &Mail, accepted: Timestamp, now: impl FnOnce() -> Timestamp) -> Mail {
    let mut mail = mail.clone();
    mail.hold = None;
    mail.by = mail.by.map(|by| {
        let gone = i64::try_from(now().since(accepted).as_secs()).unwrap_or(i64::MAX);
        let left = i64::from(by.seconds).saturating_sub(gone);
        let seconds = i32::try_from(left).unwrap_or(i32::MIN).max(-DeliverBy::MAX_SECONDS);
        DeliverBy { seconds, ..by }
    });
    mail
}

/// When the sender of an entry's message is told that it is late.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Notices {
    /// It has waited for as long as the options say.
    delay: Option<Timestamp>,
    /// It should have arrived by now.
    by: Option<Timestamp>,
}

/// What was late when a sender was told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    Waiting,
    /// The time that the sender gave for delivering it (RFC 2852) is over.
    DeliverBy,
}

impl Notices {
    /// Those for an entry; none when there is nobody to tell.
    pub(crate) fn of(claim: &Claim, delay: Option<Duration>) -> Self {
        let listens = || claim.recipients.iter().any(|r| !r.state.is_terminal() && is_wanted(&r.rcpt));
        match &claim.mail.from {
            ReversePath::Mailbox(_) if delay.is_some() || claim.mail.by.is_some() => {}
            _ => return Self::default(),
        }
        if listens() { Self::of_message(&claim.mail, claim.accepted, delay) } else { Self::default() }
    }

    /// Those for a message whose sender wants to know.
    pub(crate) fn of_message(mail: &Mail, accepted: Timestamp, delay: Option<Duration>) -> Self {
        Self {
            delay: delay.map(|delay| release(mail, accepted).after(delay)),
            by: match mail.by {
                Some(DeliverBy { mode: ByMode::Notify, .. }) => deliver_by(mail, accepted),
                _ => None,
            },
        }
    }

    /// The next due time of an entry that was due at `before`: `due`, or the next of the times before it,
    /// so that the entry is looked at then. What lies before `before` was told, even if the clock was
    /// set back since.
    pub(crate) fn cap(self, before: Timestamp, due: Timestamp, now: Timestamp) -> Timestamp {
        let is_next = |at: &Timestamp| *at > now && *at >= before;
        let next = [self.delay, self.by].into_iter().flatten().filter(is_next).min();
        next.map_or(due, |next| next.min(due))
    }

    /// The due time that a new entry is stored with: not past a notice that is not given yet.
    pub(crate) fn first(self, due: Timestamp, now: Timestamp) -> Timestamp {
        let next = [self.delay, self.by].into_iter().flatten().min();
        next.map_or(due, |next| due.min(next.max(now)))
    }

    /// What is to be told when an entry that was due at `before` is put off until `after`.
    pub(crate) fn between(self, before: Timestamp, after: Timestamp) -> Option<Late> {
        let passed = |at: Option<Timestamp>| at.is_some_and(|at| before <= at && at < after);
        match (passed(self.by), passed(self.delay)) {
            (true, _) => Some(Late::DeliverBy),
            (_, true) => Some(Late::Waiting),
            _ => None,
        }
    }
}

/// Whether the sender wants to know that this recipient's mail is late: where it did not say, it is
/// ours to choose (RFC 3461 §4.1), and to tell where it asked for delivery in time (RFC 2852 §4.1).
pub(crate) fn is_wanted(rcpt: &Rcpt) -> bool {
    rcpt.notify.is_none_or(|notify| notify.delay)
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::lane::tests::{T0, claim};

    fn after(secs: u64) -> Timestamp {
        T0.after(Duration::from_secs(secs))
    }

    fn mail(parameters: &str) -> Mail {
        Mail::parse(&format!("<a@a.test> {parameters}")).unwrap()
    }

    #[test]
    fn a_hold_is_kept_as_the_time_of_release_and_one_that_is_over_is_none() {
        for (parameters, release) in [
            ("HOLDFOR=60", Some(after(60))),
            ("HOLDFOR=0", None),
            ("HOLDUNTIL=2026-09-21T14:13:21Z", Some(after(1))),
            ("HOLDUNTIL=2026-09-21T14:13:20Z", None),
            ("HOLDUNTIL=1970-01-01T00:00:00Z", None),
        ] {
            let mut mail = mail(parameters);
            fix_release(&mut mail, T0);
            assert_eq!(mail.hold.map(|_| super::release(&mail, T0)), release, "{parameters}");
            // Whatever the time when it is read.
            assert_eq!(super::release(&mail, T0), release.unwrap_or(T0));
        }
    }

    #[test]
    fn the_next_hop_is_told_the_time_that_is_left_and_nothing_of_the_hold() {
        let by = |parameters, now| onward(&mail(parameters), T0, || now).to_string();
        assert_eq!(by("BY=120;RT HOLDFOR=60", after(60)), "<a@a.test> BY=60;RT");
        assert_eq!(by("BY=120;N", after(121)), "<a@a.test> BY=-1;N");
        assert_eq!(by("BY=-999999999;N", after(9)), "<a@a.test> BY=-999999999;N");
        let elsewhere = Timestamp::from_millis(T0.as_millis() - 5_000);
        assert_eq!(by("BY=120;R", elsewhere), "<a@a.test> BY=120;R", "a clock that was set back");
    }

    #[test]
    fn a_notice_is_given_where_a_due_time_passes_it_and_nowhere_else() {
        let mut claim = claim(1, "<a@a.test> BY=100;N", &["x@b.test"]);
        let notices = Notices::of(&claim, Some(Duration::from_secs(200)));
        for (before, due, now, capped) in [
            (0, 300, 0, 100),
            (100, 300, 100, 200),
            (0, 50, 0, 50),
            // The clock was set back when the first was given already, and when both were.
            (150, 300, 10, 200),
            (250, 300, 10, 300),
        ] {
            let cap = notices.cap(after(before), after(due), after(now));
            assert_eq!(cap, after(capped), "{before} {due} {now}");
        }
        for (before, until, late) in [
            (0, 100, None),
            (0, 101, Some(Late::DeliverBy)),
            (100, 101, Some(Late::DeliverBy)),
            (101, 200, None),
            (101, 201, Some(Late::Waiting)),
            (0, 201, Some(Late::DeliverBy)),
            (201, 900, None),
        ] {
            assert_eq!(notices.between(after(before), after(until)), late, "{before} to {until}");
        }
        let silent = |claim: &Claim| {
            let notices = Notices::of(claim, Some(Duration::from_secs(200)));
            notices.between(T0, after(9999)).is_none()
        };
        claim.recipients[0].rcpt = Rcpt::parse("<x@b.test> NOTIFY=FAILURE").unwrap();
        assert!(silent(&claim));
        claim.recipients[0].rcpt = Rcpt::parse("<x@b.test> NOTIFY=DELAY").unwrap();
        assert!(!silent(&claim));
        claim.mail.from = ReversePath::Null;
        assert!(silent(&claim));
    }

    #[test]
    fn waiting_counts_from_the_release() {
        let claim = claim(1, "<a@a.test> HOLDUNTIL=2026-09-21T15:13:20Z", &["x@b.test"]);
        let notices = Notices::of(&claim, Some(Duration::from_secs(100)));
        assert_eq!(notices.between(T0, after(3700)), None);
        assert_eq!(notices.between(T0, after(3701)), Some(Late::Waiting));
    }
}
