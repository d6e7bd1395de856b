//! A shape says how hard a site is pushed: how many runs at once, and none for a while after none of
//! its hosts could be used.
//!
//! A site that could not be used is *held*: what falls due for it meanwhile is put off without a try,
//! with the reason that was found. Behind the hold one run *probes*; when it works, the site is
//! pushed as before. Where some runs work and another cannot connect, the site is not down but
//! limits us: then the number of runs is lowered to those that work, and grows again slowly.
//!
//! It is pure: time and randomness are arguments.

use std::time::{Duration, Instant};

use crate::attempt::{Cause, Outcome};
use crate::clock::Rng;

use super::retry::Retry;

/// How hard one site is pushed.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Runs at once, as configured.
    limit: usize,
    /// Runs at once, as found out.
    cap: usize,
    /// When `cap` last changed.
    changed: Option<Instant>,
    /// Holds in a row.
    holds: u32,
    hold: Option<Hold>,
    /// Runs in a row that ended without trying anything.
    barren: u32,
}

/// Why and until when a site is left alone.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    /// When it was found unusable.
    pub(crate) since: Instant,
    /// When it is probed.
    pub(crate) until: Instant,
    /// What was found.
    pub(crate) cause: Cause,
}

impl Hold {
    /// What that means for a recipient.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::unreachable(self.cause.clone())
    }
}

/// What became of a site at which a run could not use any host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is left alone for this long.
    Held(Duration),
    /// Fewer runs at once from now on.
    Narrowed,
}

impl Shape {
    pub(crate) const fn new(limit: usize) -> Self {
        let limit = if limit == 0 { 1 } else { limit };
        Self { limit, cap: limit, changed: None, holds: 0, hold: None, barren: 0 }
    }

    /// Runs at once, as configured.
    pub(crate) const fn limit(&self) -> usize {
        self.limit
    }

    /// Other runs at once from now on; what was found out about the site counts if it is less.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        let (before, limit) = (self.limit, limit.max(1));
        self.limit = limit;
        self.cap = if self.cap >= before { limit } else { self.cap.min(limit) };
    }

    /// The hold, while the site is left alone.
    pub(crate) fn held(&self, now: Instant) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| now < hold.until)
    }

    /// How many runs the site may have: one for a probe, none while it is held.
    pub(crate) fn runs(&mut self, now: Instant) -> usize {
        match &self.hold {
            Some(hold) if now < hold.until => 0,
            Some(_) => 1,
            None => {
                if self.cap < self.limit
                    && self.changed.is_some_and(|at| now.saturating_duration_since(at) >= WIDEN_AFTER)
                {
                    self.cap += 1;
                    self.changed = Some(now);
                }
                self.cap
            }
        }
    }

    /// A run could not use any host, while `others` were at work. A hold is never longer than what
    /// `retry` has an entry wait after as many tries: it must not outlast the retries it stands for,
    /// least of all across a restart, where it is forgotten and the due times that it gave are not.
    pub(crate) fn unreachable(
        &mut self,
        now: Instant,
        others: usize,
        cause: Cause,
        retry: &Retry,
        rng: &Rng,
    ) -> Pushed {
        if others > 0 && self.hold.is_none() {
            self.cap = others.min(self.cap);
            self.changed = Some(now);
            return Pushed::Narrowed;
        }
        let doubled = FIRST_HOLD.saturating_mul(1_u32.checked_shl(self.holds).unwrap_or(u32::MAX));
        self.holds = self.holds.saturating_add(1);
        let wait = rng.jitter(doubled.min(LONGEST_HOLD).min(retry.step(self.holds)), HOLD_JITTER_PERCENT);
        self.barren = 0;
        self.hold = Some(Hold { since: now, until: now + wait, cause });
        Pushed::Held(wait)
    }

    /// A run ended without having tried anything although there was something to try. Returns
    /// whether that happened so often that the site must be taken for unusable.
    pub(crate) const fn barren(&mut self) -> bool {
        self.barren = self.barren.saturating_add(1);
        self.barren >= BARREN_RUNS
    }

    /// The site took part in a transaction. Returns whether that ended a hold.
    pub(crate) fn worked(&mut self) -> bool {
        self.holds = 0;
        self.barren = 0;
        self.hold.take().is_some()
    }

    /// Whether there is nothing to remember about the site.
    pub(crate) fn is_plain(&self, now: Instant) -> bool {
        let forgotten = |at: Instant| now.saturating_duration_since(at) >= FORGET_AFTER;
        let held = self.hold.as_ref().is_none_or(|hold| forgotten(hold.until));
        held && (self.cap == self.limit || self.changed.is_none_or(forgotten)) && self.barren == 0
    }
}

/// Long enough not to hammer a host that restarts, short enough not to be noticed.
const FIRST_HOLD: Duration = Duration::from_secs(30);
/// One probe in five minutes costs nothing, and mail flows soon after a site is back.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
const HOLD_JITTER_PERCENT: u32 = 10;
/// The longest that mail waits for a probe: a hold with its jitter, and a little.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(360);
/// One more run a minute: a limit per client is mostly counted over minutes.
const WIDEN_AFTER: Duration = Duration::from_secs(60);
/// Connections that open and carry nothing, before the site counts as unusable.
const BARREN_RUNS: u32 = 3;
/// A site without mail for this long is met as a new one. Longer than the retry curve's longest step, so
/// that one message between long steps finds what was known.
const FORGET_AFTER: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attempt::Phase;
    use crate::clock::{Clock, SystemClock};
    use crate::hop::Host;
    use crate::route::RouteError;
    use crate::smtp::address::Domain;
    use crate::smtp::reply::Reply;

    const CAUSE: Cause = Cause::Route(RouteError::Dns);

    #[test]
    fn a_site_is_held_longer_each_time_and_probed_by_one_run() {
        let (mut shape, retry, rng) = (Shape::new(20), Retry::new(), Rng::seeded(1));
        let mut now = SystemClock.mono();
        assert_eq!(shape.runs(now), 20);
        for base in [30, 60, 120, 240, 300, 300, 300] {
            let Pushed::Held(wait) = shape.unreachable(now, 0, CAUSE, &retry, &rng) else { panic!() };
            let base = Duration::from_secs(base);
            assert!(wait >= base * 9 / 10 && wait <= base * 11 / 10, "{wait:?} for {base:?}");
            assert_eq!(shape.runs(now), 0);
            assert!(shape.held(now).is_some());
            now += wait;
            assert!(shape.held(now).is_none());
            assert_eq!(shape.runs(now), 1);
        }
        assert!(shape.worked());
        assert!(!shape.worked());
        assert_eq!(shape.runs(now), 20);
        assert!(shape.is_plain(now));
    }

    #[test]
    fn a_hold_does_not_outlast_the_retries_it_stands_for() {
        let (mut shape, rng) = (Shape::new(20), Rng::seeded(1));
        let now = SystemClock.mono();
        let steps = [1, 2, 3600].map(Duration::from_secs);
        let retry = Retry { steps: steps.to_vec(), ..Retry::new() };
        for longest in [1, 2, 120, 240, 300] {
            let Pushed::Held(wait) = shape.unreachable(now, 0, CAUSE, &retry, &rng) else { panic!() };
            assert!(wait <= Duration::from_secs(longest) * 11 / 10, "{wait:?} for {longest} s");
        }
    }

    #[test]
    fn a_site_that_limits_us_is_narrowed_and_widened_slowly() {
        let (mut shape, rng) = (Shape::new(20), Rng::seeded(1));
        let now = SystemClock.mono();
        assert_eq!(shape.unreachable(now, 4, CAUSE, &Retry::new(), &rng), Pushed::Narrowed);
        assert_eq!(shape.runs(now), 4);
        assert_eq!(shape.runs(now + WIDEN_AFTER), 5);
        assert_eq!(shape.runs(now + WIDEN_AFTER), 5);
        assert!(!shape.is_plain(now + WIDEN_AFTER));
        assert!(shape.is_plain(now + WIDEN_AFTER + FORGET_AFTER));
    }

    #[test]
    fn a_greeting_may_refuse_for_good_and_a_login_only_for_now() {
        let host = Arc::new(Host::new(Domain::parse("mx.test").unwrap(), 25));
        let said = |phase, code| {
            Outcome::unreachable(Cause::Reply {
                host: Some(host.clone()),
                phase,
                reply: Reply::plain(code, "no"),
            })
        };
        assert!(matches!(said(Phase::Greeting, 554), Outcome::Failed(_)));
        assert!(matches!(said(Phase::Greeting, 421), Outcome::Deferred(_)));
        assert!(matches!(said(Phase::Auth, 535), Outcome::Deferred(_)));
        assert!(matches!(Outcome::unreachable(CAUSE), Outcome::Deferred(_)));
    }

    #[test]
    fn connections_that_carry_nothing_end_in_a_hold() {
        let mut shape = Shape::new(1);
        assert!(!shape.barren());
        assert!(!shape.barren());
        shape.worked();
        assert!(!shape.barren());
        assert!(!shape.barren());
        assert!(shape.barren());
    }
}
