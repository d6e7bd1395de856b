//! Altering is what a [`Change`] makes of one entry: the rules, the same for every spool; no storage.
//!
//! An entry that nobody has claimed is changed at once. One that is claimed is in somebody's hands: a
//! hold and a cancellation are marked on it, and count when it is settled and stays. What is cancelled is
//! never changed again.

use super::{Change, QueueName, REPORT_ENTRY, Then};
use crate::clock::Timestamp;
use crate::smtp::address::Domain;

/// What is to be done with an entry, besides what its columns say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is parked with this reason once it is not claimed any more.
    Hold(Box<str>),
    /// It is given up.
    Cancel,
}

/// How an entry stands, as far as it can be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) queue: QueueName,
    pub(crate) due: Timestamp,
    pub(crate) parked: Option<Box<str>>,
    pub(crate) mark: Option<Mark>,
}

/// What does not change of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fixed<'a> {
    pub(crate) destination: &'a Domain,
    pub(crate) expires: Timestamp,
    /// Its number, and how often it was tried.
    pub(crate) entry: u32,
    pub(crate) attempts: u32,
    /// When its message was accepted, and when its sender wants it sent.
    pub(crate) accepted: Timestamp,
    pub(crate) release: Timestamp,
    /// Somebody has it, and the lease has not ended.
    pub(crate) claimed: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Nothing was to be done.
    Nothing,
    /// It is changed.
    Changed,
    /// It is claimed: the change is noted, or it is left as it is.
    Claimed,
}

/// Changes an entry, or notes the change.
pub(crate) fn alter(is: &mut Standing, fixed: Fixed<'_>, change: &Change, now: Timestamp) -> Done {
    if is.mark == Some(Mark::Cancel) {
        return Done::Nothing;
    }
    match change {
        Change::Hold(reason) if fixed.claimed => is.mark = Some(Mark::Hold(sound(reason))),
        Change::Hold(_) if is.parked.is_some() => return Done::Nothing,
        Change::Hold(reason) => (is.parked, is.mark) = (Some(sound(reason)), None),
        Change::Release if is.parked.is_none() && is.mark.is_none() => return Done::Nothing,
        Change::Release => {
            (is.parked, is.mark) = (None, None);
            if !fixed.claimed {
                is.due = in_time(is.due, fixed.expires, now);
            }
            return Done::Changed;
        }
        Change::Cancel => {
            (is.parked, is.mark, is.due) = (None, Some(Mark::Cancel), Timestamp::default());
        }
        Change::Due(_) | Change::Requeue if fixed.claimed => {}
        Change::SetBack(_) if fixed.claimed => {}
        Change::SetBack(back) => match back.due(is.due, fixed, now) {
            None => return Done::Nothing,
            Some(due) => is.due = in_time(due, fixed.expires, now),
        },
        Change::Due(due) => is.due = in_time(*due, fixed.expires, now),
        Change::Requeue => {
            (is.parked, is.mark) = (None, None);
            (is.queue, is.due) = (QueueName::from(fixed.destination), in_time(now, fixed.expires, now));
        }
    }
    if fixed.claimed { Done::Claimed } else { Done::Changed }
}

/// Whether a change is one of entries with this number.
pub(crate) const fn concerns(change: &Change, entry: u32) -> bool {
    entry != REPORT_ENTRY || matches!(change, Change::SetBack(_))
}

/// When a lease ends, after a change.
pub(crate) fn lease_end(change: &Change, until: Timestamp) -> Timestamp {
    if let Change::SetBack(back) = change { until.min(back.lease) } else { until }
}

/// Where an entry stands that is settled and stays, when `mark` was noted while it was claimed: when it is
/// due, if that changes, and why it is parked, if it is.
pub(crate) fn stays<'a>(then: &'a Then, mark: Option<&'a Mark>) -> (Option<Timestamp>, Option<&'a str>) {
    match (then, mark) {
        (_, Some(Mark::Cancel)) => (Some(Timestamp::default()), None),
        (Then::Retry(due), Some(Mark::Hold(reason))) => (Some(*due), Some(reason)),
        (Then::Retry(due), None) => (Some(*due), None),
        (Then::Park(reason), _) => (None, Some(reason)),
        (Then::Remove, _) => (None, None),
    }
}

/// A due time that is not past the deadline, so that the sender is told in time. What is due at once and
/// past its deadline has been due for ever: whoever claims it sees that it was not tried since, and tries it.
pub(crate) fn in_time(due: Timestamp, expires: Timestamp, now: Timestamp) -> Timestamp {
    if now < expires {
        due.min(expires)
    } else if due <= now {
        Timestamp::default()
    } else {
        due
    }
}

/// A reason on one line, and no longer than a note.
fn sound(reason: &str) -> Box<str> {
    super::rules::cut(reason).replace(char::is_control, " ").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn standing(due: u64, parked: Option<&str>, mark: Option<Mark>) -> Standing {
        Standing { queue: QueueName::new("site"), due: at(due), parked: parked.map(Into::into), mark }
    }

    fn fixed(destination: &Domain, expires: u64, claimed: bool) -> Fixed<'_> {
        let (accepted, release) = (at(1), at(0));
        Fixed { destination, expires: at(expires), entry: 0, attempts: 0, accepted, release, claimed }
    }

    fn after(mut is: Standing, claimed: bool, expires: u64, change: &Change) -> (Done, Standing) {
        let destination = Domain::parse("b.test").unwrap();
        let fixed = fixed(&destination, expires, claimed);
        let done = alter(&mut is, fixed, change, NOW);
        (done, is)
    }

    #[test]
    fn what_is_cancelled_is_never_changed_again() {
        let is = standing(0, None, Some(Mark::Cancel));
        for change in
            [Change::Hold("x".into()), Change::Release, Change::Cancel, Change::Due(at(9)), Change::Requeue]
        {
            for claimed in [true, false] {
                assert_eq!(after(is.clone(), claimed, 9_000, &change), (Done::Nothing, is.clone()));
            }
        }
    }

    #[test]
    fn no_due_time_is_set_past_the_deadline_and_behind_it_at_once_is_for_ever() {
        for (due, expires, expected) in [
            (5_000, 9_000, 5_000),
            (9_999, 9_000, 9_000),
            (500, 9_000, 500),
            (500, 900, 0),
            (1_000, 1_000, 0),
            (2_000, 900, 2_000),
        ] {
            let (done, is) = after(standing(7, None, None), false, expires, &Change::Due(at(due)));
            assert_eq!((done, is.due), (Done::Changed, at(expected)), "{due} {expires}");
            let (_, is) = after(standing(due, Some("x"), None), false, expires, &Change::Release);
            assert_eq!(is.due, at(expected), "{due} {expires}");
        }
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        let reason = format!("a\nb\0{}", "x".repeat(2_000));
        let (_, is) = after(standing(0, None, None), false, 9, &Change::Hold(reason.into()));
        let parked = is.parked.unwrap();
        assert!(parked.starts_with("a b x") && parked.len() == 1_024, "{parked}");
    }

    #[test]
    fn what_was_noted_counts_for_what_stays() {
        let (retry, park) = (Then::Retry(at(70)), Then::Park("loop".into()));
        let hold = Mark::Hold("wait".into());
        for (then, mark, expected) in [
            (&retry, None, (Some(at(70)), None)),
            (&retry, Some(&hold), (Some(at(70)), Some("wait"))),
            (&retry, Some(&Mark::Cancel), (Some(at(0)), None)),
            (&park, None, (None, Some("loop"))),
            (&park, Some(&hold), (None, Some("loop"))),
            (&park, Some(&Mark::Cancel), (Some(at(0)), None)),
        ] {
            assert_eq!(stays(then, mark), expected);
        }
    }
}
