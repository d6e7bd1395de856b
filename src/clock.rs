//! A clock tells monotonic and wall time in one value; a random source gives jitter, shuffles and ids.
//!
//! Both are arguments everywhere, so that five days of retries can run in milliseconds and a seed is
//! a history. Waiting inside a process uses monotonic time; what is stored uses wall time, because a
//! monotonic reading means nothing after a restart.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of a [`Clock`]: both times, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic time, for waits and deadlines inside this process.
    pub mono: Instant,
    /// Wall time, for everything that is stored or shown.
    pub wall: Timestamp,
}

/// A point in wall time, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The latest time that can be written down; an entry due then is never due.
    pub const NEVER: Self = Self(i64::MAX as u64);

    /// From milliseconds since the epoch. Values past [`Timestamp::NEVER`] become `NEVER`, so that
    /// every value fits a signed 64-bit database column.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::NEVER.0 { Self::NEVER } else { Self(millis) }
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// This time plus `wait`, saturating at [`Timestamp::NEVER`].
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self::from_millis(self.0.saturating_add(millis))
    }

    /// How long until this time, seen from `now`; zero when it has passed.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Times before 1970 become 1970: they only come from a broken clock.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Where time comes from. [`SystemClock`] is the real one; a test brings its own.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time now.
    fn now(&self) -> Now;

    /// The monotonic part alone, for those who ask often.
    fn mono(&self) -> Instant {
        self.now().mono
    }
}

/// The machine's clock. Monotonic time follows the runtime's timers (so it stands still when a test
/// pauses them), wall time the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is one of the two places that read a clock")]
    fn now(&self) -> Now {
        Now { mono: self.mono(), wall: SystemTime::now().into() }
    }

    #[allow(clippy::disallowed_methods, reason = "this is the other")]
    fn mono(&self) -> Instant {
        #[cfg(feature = "tokio")]
        let now = tokio::time::Instant::now().into_std();
        #[cfg(not(feature = "tokio"))]
        let now = Instant::now();
        now
    }
}

/// A clock whose wall time starts at a chosen moment and then runs with monotonic time. Under a
/// runtime with paused timers both move together, which is what a simulation wants.
#[derive(Debug, Clone, Copy)]
pub struct SteppedClock {
    start: Now,
}

impl SteppedClock {
    /// A clock that shows `wall` now.
    #[must_use]
    pub fn starting_at(wall: Timestamp) -> Self {
        Self { start: Now { mono: SystemClock.mono(), wall } }
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Now {
        let mono = SystemClock.mono();
        Now { mono, wall: self.start.wall.after(mono.saturating_duration_since(self.start.mono)) }
    }
}

/// A gate stands before what must not be done late, such as ending a message whose claim may be somebody
/// else's by now. It is open until a time that its owner moves on, and then shut. Clones are the same gate.
///
/// It goes by both times: monotonic time does not count the sleep of a machine, and wall time jumps.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Until>);

#[derive(Debug)]
struct Until {
    clock: Arc<dyn Clock>,
    /// `None` when it is shut for good.
    at: Mutex<Option<Now>>,
}

impl Gate {
    /// A gate that is open until then, by this clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, until: Now) -> Self {
        Self(Arc::new(Until { clock, at: Mutex::new(Some(until)) }))
    }

    /// Whether it is open now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let until = *self.0.at.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| {
            let now = self.0.clock.now();
            now.mono < until.mono && now.wall < until.wall
        })
    }

    /// Keeps it open until then, if it is not shut for good.
    pub fn keep_open(&self, until: Now) {
        if let Some(at) = &mut *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) {
            *at = until;
        }
    }

    /// Shuts it for good.
    pub fn shut(&self) {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gate {}

/// A source of randomness for jitter, shuffling and ids; clones share one stream, so that one seed
/// gives one history. Not for keys or nonces.
#[derive(Debug, Clone)]
pub struct Rng(Arc<Mutex<fastrand::Rng>>);

impl Rng {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_entropy() -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::new())))
    }

    /// The same seed gives the same numbers.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// 64 random bits.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.with(|rng| rng.u64(..))
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.with(|rng| rng.u64(0..bound)) }
    }

    /// Puts `items` into random order.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        self.with(|rng| rng.shuffle(items));
    }

    /// `base` changed by up to `percent` per cent either way.
    #[must_use]
    pub fn jitter(&self, base: Duration, percent: u32) -> Duration {
        let millis = u64::try_from(base.as_millis()).unwrap_or(u64::MAX);
        let spread =
            millis / 100 * u64::from(percent.min(100)) + millis % 100 * u64::from(percent.min(100)) / 100;
        let moved = millis - spread.min(millis) + self.below(spread.saturating_mul(2).saturating_add(1));
        Duration::from_millis(moved)
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_history() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        assert_eq!(
            (0..9).map(|_| a.bits()).collect::<Vec<_>>(),
            (0..9).map(|_| b.bits()).collect::<Vec<_>>()
        );
    }

    #[test]
    fn jitter_stays_within_its_percentage() {
        let rng = Rng::seeded(1);
        for _ in 0..1000 {
            let wait = rng.jitter(Duration::from_secs(100), 10).as_millis();
            assert!((90_000..=110_000).contains(&wait), "{wait}");
        }
    }

    #[test]
    fn timestamps_saturate_instead_of_wrapping() {
        assert_eq!(Timestamp::NEVER.after(Duration::from_secs(1)), Timestamp::NEVER);
        assert_eq!(Timestamp::from_millis(5).since(Timestamp::from_millis(9)), Duration::ZERO);
    }
}
