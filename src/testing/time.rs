//! Simulated time: a runtime whose timers jump to the next moment at which something happens, and a clock
//! whose wall time can be moved.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::lock;
use crate::clock::{Clock, Now, SteppedClock, Timestamp};

/// Runs a future to its end on a runtime of its own with one thread and paused time: when nothing can go
/// on, time jumps to the next timer. Tasks that are left over are dropped where they stand.
///
/// To be called from a plain `#[test]`, not from within a runtime. `#[tokio::test(start_paused = true)]`
/// does the same.
///
/// # Errors
/// The operating system's, when it gives no runtime.
///
/// ```
/// use std::time::Duration;
/// use postroad::testing;
///
/// let days = testing::run(async {
///     tokio::time::sleep(Duration::from_secs(5 * 86_400)).await; // returns at once
///     Ok::<_, std::io::Error>(5)
/// });
/// assert_eq!(days.unwrap(), 5);
/// ```
pub fn run<T, E: From<io::Error>>(future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    paused()?.block_on(future)
}

/// A runtime with one thread and paused time.
pub(super) fn paused() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_time().start_paused(true).build()
}

/// A clock that runs with the runtime's timers, and whose wall time jumps when it is told to, as when an
/// operator sets it or a machine wakes up.
///
/// ```
/// # postroad::testing::run(async {
/// use std::time::Duration;
/// use postroad::clock::Clock;
/// use postroad::testing::JumpingClock;
///
/// let clock = JumpingClock::new();
/// let before = clock.now();
/// clock.jump(Duration::from_secs(3600));
/// assert_eq!(clock.now().wall, before.wall.after(Duration::from_secs(3600)));
/// assert_eq!(clock.now().mono, before.mono);
/// # Ok::<(), std::io::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct JumpingClock {
    clock: SteppedClock,
    /// By how much it was moved on and back, in milliseconds.
    moved: Mutex<(u64, u64)>,
}

impl JumpingClock {
    /// A clock that shows a certain day of September 2026 now: the same in each run.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(START)
    }

    /// A clock that shows `wall` now.
    #[must_use]
    pub fn starting_at(wall: Timestamp) -> Self {
        Self { clock: SteppedClock::starting_at(wall), moved: Mutex::new((0, 0)) }
    }

    /// Moves wall time on.
    pub fn jump(&self, by: Duration) {
        let mut moved = lock(&self.moved);
        moved.0 = moved.0.saturating_add(millis(by));
    }

    /// Sets wall time back.
    pub fn jump_back(&self, by: Duration) {
        let mut moved = lock(&self.moved);
        moved.1 = moved.1.saturating_add(millis(by));
    }
}

impl Default for JumpingClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Now {
        let now = self.clock.now();
        let (on, back) = *lock(&self.moved);
        let wall = now.wall.as_millis().saturating_add(on).saturating_sub(back);
        Now { wall: Timestamp::from_millis(wall), ..now }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// 2026-09-21T14:13:20Z
pub(super) const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
