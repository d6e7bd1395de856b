//! A retry curve says when an entry that was put off is tried again, and when trying ends.
//!
//! The first steps are short, because most delays (greylisting, a restart) pass in minutes; the last
//! one repeats until the message expires. It decides nothing about a site: how hard a host that
//! does not answer is pushed is `shape`'s.

use std::time::Duration;

use crate::clock::{Rng, Timestamp};
use crate::smtp::address::ReversePath;

/// When an entry is tried again, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// The wait behind the first try, the second and so on; the last one repeats. Default: 1 min,
    /// 5 min, 15 min, 30 min, 1 h, 2 h, 4 h (RFC 5321 §4.5.4.1 wants 30 minutes or more once the
    /// first tries failed). A wait below a tenth of a second counts as one; an empty list as the
    /// default's last step. A site that is down is left alone no longer than these waits either.
    pub steps: Vec<Duration>,
    /// By how many per cent a wait is changed at random, either way, so that what failed together is
    /// not tried together. Default: 10.
    pub jitter_percent: u32,
    /// How long a message is tried before its sender is told. Default: 5 days
    /// (RFC 5321 §4.5.4.1 wants at least 4 to 5). Taken at acceptance: a change holds for new mail.
    /// It is noticed when the message's turn comes: where a site takes less than is sent to it, that
    /// can be later, by as long as what was due before takes.
    pub expire: Duration,
    /// The same for mail with the null sender, which nobody waits for. Default: 1 day.
    pub expire_null_sender: Duration,
}

impl Retry {
    /// The default curve.
    #[must_use]
    pub fn new() -> Self {
        Self {
            steps: STEPS_MINUTES.iter().map(|minutes| Duration::from_secs(60 * minutes)).collect(),
            jitter_percent: 10,
            expire: DAY * 5,
            expire_null_sender: DAY,
        }
    }

    /// When a message accepted at `accepted` expires.
    pub(crate) fn expires(&self, accepted: Timestamp, from: &ReversePath) -> Timestamp {
        accepted.after(match from {
            ReversePath::Null => self.expire_null_sender,
            ReversePath::Mailbox(_) => self.expire,
        })
    }

    /// When an entry is due again that was just put off at `now` for the `tries`th time; `None` when
    /// its time is over. Never past `expires`, so that what waits is looked at when its time ends.
    pub(crate) fn next(
        &self,
        tries: u32,
        now: Timestamp,
        expires: Timestamp,
        rng: &Rng,
    ) -> Option<Timestamp> {
        if now >= expires {
            return None;
        }
        let wait = rng.jitter(self.step(tries), self.jitter_percent);
        Some(now.after(wait).min(expires))
    }

    /// The wait behind the `tries`th try, without jitter.
    pub(crate) fn step(&self, tries: u32) -> Duration {
        let at = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX);
        let step = self.steps.get(at).or_else(|| self.steps.last()).copied().unwrap_or(LAST_STEP);
        step.max(SHORTEST_STEP)
    }

    /// The longest wait that [`Retry::next`] gives.
    pub(crate) fn longest(&self) -> Duration {
        self.at_most(self.steps.iter().max().copied().unwrap_or(LAST_STEP))
    }

    /// The longest waits that [`Retry::next`] gives behind the first try, the second and so on; the last repeats.
    pub(crate) fn waits(&self) -> impl Iterator<Item = Duration> {
        let steps = if self.steps.is_empty() { &[LAST_STEP] } else { self.steps.as_slice() };
        steps.iter().map(|step| self.at_most(*step))
    }

    fn at_most(&self, step: Duration) -> Duration {
        let step = step.max(SHORTEST_STEP);
        step.saturating_add(step / 100 * self.jitter_percent.min(100)).saturating_add(Duration::from_secs(1))
    }

    /// Whether an entry's time is over *and* it was tried since `since` (the start of the process, or
    /// the last jump of the clock), so that it may expire without another try. When it was tried is
    /// not stored; but its due time was set by that try, at most the longest wait ahead.
    pub(crate) fn is_over(
        &self,
        attempts: u32,
        due: Timestamp,
        expires: Timestamp,
        now: Timestamp,
        since: Timestamp,
    ) -> bool {
        now >= expires && attempts > 0 && due >= since.after(self.longest())
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

/// The usual curve of mail servers; see [`Retry::steps`].
const STEPS_MINUTES: [u64; 7] = [1, 5, 15, 30, 60, 120, 240];
/// What an empty list means.
const LAST_STEP: Duration = Duration::from_secs(240 * 60);
/// A step of zero would spin.
const SHORTEST_STEP: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    #[test]
    fn waits_follow_the_curve_and_the_last_repeats() {
        let (retry, rng) = (Retry::new(), Rng::seeded(1));
        let expires = T0.after(DAY * 5);
        for (tries, minutes) in
            [(1, 1), (2, 5), (3, 15), (4, 30), (5, 60), (6, 120), (7, 240), (8, 240), (99, 240)]
        {
            for _ in 0..50 {
                let wait = retry.next(tries, T0, expires, &rng).unwrap().since(T0).as_millis();
                let base = minutes * 60_000;
                assert!((base * 9 / 10..=base * 11 / 10).contains(&wait), "{tries}: {wait}");
            }
        }
    }

    #[test]
    fn no_wait_leads_past_the_deadline_and_behind_it_there_is_none() {
        let (retry, rng) = (Retry::new(), Rng::seeded(1));
        let expires = T0.after(Duration::from_secs(20));
        assert_eq!(retry.next(9, T0, expires, &rng), Some(expires));
        assert_eq!(retry.next(9, expires, expires, &rng), None);
    }

    #[test]
    fn mail_with_the_null_sender_is_given_up_sooner() {
        let retry = Retry::new();
        assert_eq!(retry.expires(T0, &ReversePath::Null), T0.after(DAY));
        let from = ReversePath::parse("a@b.test").unwrap();
        assert_eq!(retry.expires(T0, &from), T0.after(DAY * 5));
    }

    #[test]
    fn odd_curves_do_not_spin() {
        let rng = Rng::seeded(1);
        let far = T0.after(DAY);
        let zero = Retry { steps: vec![Duration::ZERO], jitter_percent: 0, ..Retry::new() };
        assert_eq!(zero.next(1, T0, far, &rng), Some(T0.after(SHORTEST_STEP)));
        let none = Retry { steps: vec![], jitter_percent: 0, ..Retry::new() };
        assert_eq!(none.next(1, T0, far, &rng), Some(T0.after(LAST_STEP)));
    }

    #[test]
    fn nothing_expires_without_a_try_since_the_start() {
        let retry = Retry::new();
        let (started, expires) = (T0, T0.after(DAY));
        let over = |attempts, due, now| retry.is_over(attempts, due, expires, now, started);
        // Tried by an earlier process, maybe: the spool slept through the deadline.
        assert!(!over(4, T0, expires.after(DAY)));
        assert!(!over(0, expires, expires), "never tried");
        assert!(over(9, expires, expires));
        assert!(!over(9, expires, T0.after(DAY / 2)), "not yet");
    }
}
