//! How late it is in a network, which may outlive the runtimes of those who use it.

use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::time::Instant;

use super::mono;

/// How much time passed, in all runtimes together. Each has a time of its own, which runs ahead of the
/// others': instants of one say nothing in another.
#[derive(Debug)]
pub(super) struct Elapsed {
    /// The runtime that is looked at, when that began, and how late it was.
    since: Option<(Id, Instant, Duration)>,
    /// The last moment that was seen.
    last: Duration,
}

impl Elapsed {
    pub(super) fn new() -> Self {
        let mut elapsed = Self { since: None, last: Duration::ZERO };
        elapsed.now();
        elapsed
    }

    /// How late it is; outside of any runtime as late as it was last.
    pub(super) fn now(&mut self) -> Duration {
        let Ok(runtime) = Handle::try_current() else { return self.last };
        let (id, now) = (runtime.id(), mono());
        self.last = match self.since {
            Some((known, since, from)) if known == id => from + now.saturating_duration_since(since),
            _ => {
                self.since = Some((id, now, self.last));
                self.last
            }
        };
        self.last
    }

    /// It is so late now.
    pub(super) fn goes_on(&mut self, at: Duration) {
        (self.since, self.last) = (None, at);
        self.now();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::testing::time::paused;

    #[test]
    fn time_goes_on_where_it_ended_in_the_runtime_before() {
        let second = Duration::from_secs(1);
        let mut elapsed = Elapsed::new();
        let day = second * 86_400;
        for life in 0..3 {
            let runtime = paused().unwrap();
            runtime.block_on(async {
                assert_eq!(elapsed.now(), day * life);
                sleep(day).await;
                assert_eq!(elapsed.now(), day * (life + 1));
            });
            drop(runtime);
            assert_eq!(elapsed.now(), day * (life + 1), "outside it stands still");
        }
        paused().unwrap().block_on(async {
            elapsed.goes_on(day * 9);
            sleep(second).await;
            assert_eq!(elapsed.now(), day * 9 + second);
        });
    }
}
