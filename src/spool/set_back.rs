//! What becomes of entries when the wall clock was set back: what the old clock put off is due sooner by as
//! much, and what somebody wanted at a time keeps that time.
//!
//! Pure: the rules, the same for every spool.

use std::time::Duration;

use super::REPORT_ENTRY;
use super::altering::Fixed;
use crate::clock::Timestamp;
use crate::smtp::params::{Hold, Mail};

/// A wall clock that was set back, and what that means for stored times; see
/// [`Change::SetBack`](super::Change::SetBack).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetBack {
    /// By how much.
    pub by: Duration,
    /// The latest time to which the engine can have put anything off by the old clock: what is due later was
    /// wanted so by somebody.
    pub until: Timestamp,
    /// How long an entry waits at most that the engine has tried once, twice and so on; the last one repeats. One
    /// that waits no longer than that may have been put off by the clock as it is now, and is left. Empty, as
    /// by [`SetBack::new`]: nothing waits rightly. That is for once, and for a spool that nobody else works on: each
    /// time would move the same entries again.
    pub waits: Vec<Duration>,
    /// No lease ends later: those that the old clock gave end then.
    pub lease: Timestamp,
}

impl SetBack {
    /// A clock that was set back, where nothing waits rightly.
    #[must_use]
    pub const fn new(by: Duration, until: Timestamp, lease: Timestamp) -> Self {
        Self { by, until, waits: Vec::new(), lease }
    }

    /// When an entry is due that the old clock put where it is; `None` for any other.
    pub(super) fn due(&self, due: Timestamp, fixed: Fixed<'_>, now: Timestamp) -> Option<Timestamp> {
        let is_report = fixed.entry == REPORT_ENTRY;
        // Nobody but the engine says when these are due.
        let is_ours = is_report || fixed.attempts > 0 || fixed.accepted > now;
        if !is_ours || due <= now.after(self.wait(fixed)) || due > self.until {
            return None;
        }
        let by = u64::try_from(self.by.as_millis()).unwrap_or(u64::MAX);
        let sooner = Timestamp::from_millis(due.as_millis().saturating_sub(by));
        let earliest = if is_report { Timestamp::default() } else { fixed.release };
        Some(sooner.max(earliest)).filter(|sooner| *sooner < due)
    }

    /// How long an entry waits at most.
    fn wait(&self, fixed: Fixed<'_>) -> Duration {
        if fixed.entry != REPORT_ENTRY && fixed.attempts == 0 {
            // It is due when it is accepted, and that is yet to come.
            return Duration::ZERO;
        }
        let at = usize::try_from(fixed.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        self.waits.get(at).or_else(|| self.waits.last()).copied().unwrap_or_default()
    }
}

/// The time before which its sender does not want a message sent (RFC 4865): 0 where it does not say.
pub(crate) fn released(mail: &Mail, accepted: Timestamp) -> Timestamp {
    match mail.hold {
        Some(Hold::Until(seconds)) => Timestamp::from_millis(seconds.saturating_mul(1000)),
        Some(Hold::For(seconds)) => accepted.after(Duration::from_secs(seconds.into())),
        None => Timestamp::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// What becomes of an entry that was tried so often, accepted then, to be sent then, and due then, at 1,000 s
    /// by a clock that showed 1,500 s.
    fn due(back: &SetBack, (entry, attempts): (u32, u32), times: [u64; 3]) -> Option<u64> {
        let destination = Domain::parse("b.test").unwrap();
        let [accepted, release, due] = times;
        let fixed = Fixed {
            destination: &destination,
            expires: at(9_000),
            entry,
            attempts,
            accepted: at(accepted),
            release: at(release),
            claimed: false,
        };
        back.due(at(due), fixed, at(1_000)).map(Timestamp::as_secs)
    }

    fn back(waits: &[u64]) -> SetBack {
        let waits = waits.iter().copied().map(Duration::from_secs).collect();
        SetBack { waits, ..SetBack::new(Duration::from_secs(500), at(2_500), at(1_100)) }
    }

    #[test]
    fn what_the_old_clock_put_off_is_due_as_much_sooner_and_nothing_else_is() {
        for (entry, times, expected) in [
            ((0, 1), [1, 0, 2_000], Some(1_500)),
            ((0, 1), [1, 0, 1_001], Some(501)),
            ((0, 1), [1, 0, 1_000], None),
            // Nobody but a person puts off as far.
            ((0, 1), [1, 0, 2_500], Some(2_000)),
            ((0, 1), [1, 0, 2_501], None),
            // Never tried: when it is sent was wanted so, unless it was accepted in the future.
            ((0, 0), [900, 0, 1_490], None),
            ((0, 0), [1_000, 0, 1_490], None),
            ((0, 0), [1_490, 0, 1_490], Some(990)),
            // Not before its release.
            ((0, 0), [1_490, 1_800, 1_800], None),
            ((0, 2), [1, 1_400, 1_600], Some(1_400)),
            ((0, 2), [1, 1_400, 1_400], None),
            ((0, 2), [1, 1_000, 1_600], Some(1_100)),
            // What is to be told waits for nobody.
            ((REPORT_ENTRY, 0), [1, 1_900, 1_560], Some(1_060)),
        ] {
            assert_eq!(due(&back(&[]), entry, times), expected, "{entry:?} {times:?}");
        }
    }

    #[test]
    fn what_waits_no_longer_than_it_may_is_left_and_so_nothing_is_moved_twice() {
        let waits = back(&[60, 300]);
        for (entry, times, expected) in [
            ((0, 1), [1, 0, 1_060], None),
            ((0, 1), [1, 0, 1_061], Some(561)),
            ((0, 2), [1, 0, 1_300], None),
            ((0, 2), [1, 0, 1_801], Some(1_301)),
            ((0, 9), [1, 0, 1_300], None),
            ((0, 9), [1, 0, 1_301], Some(801)),
            ((0, 0), [1_490, 0, 1_490], Some(990)),
            ((REPORT_ENTRY, 0), [1, 0, 1_060], None),
        ] {
            assert_eq!(due(&waits, entry, times), expected, "{entry:?} {times:?}");
        }
        // What the old clock put off for as long as it may, at the last moment.
        for (attempts, wait) in [(1, 60), (2, 300), (9, 300)] {
            let moved = due(&waits, (0, attempts), [1, 0, 1_500 + wait]);
            assert_eq!(moved, Some(1_000 + wait));
            assert_eq!(due(&waits, (0, attempts), [1, 0, 1_000 + wait]), None);
        }
    }

    #[test]
    fn no_time_lies_before_the_beginning() {
        let far = SetBack { by: Duration::MAX, ..back(&[]) };
        assert_eq!(due(&far, (0, 1), [1, 0, 2_000]), Some(0));
        assert_eq!(due(&far, (0, 1), [1, 3, 2_000]), Some(3));
    }
}
