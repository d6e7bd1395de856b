//! How much memory conversions may use, over all runs of a carrier.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What there is. Those who wait get it in the order in which they came.
#[derive(Debug)]
pub(super) struct Budget {
    room: Arc<Semaphore>,
    units: u32,
}

/// A share of it; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Charge(OwnedSemaphorePermit);

/// Why there is no share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// It would be more than there is.
    Ever,
    /// Others have it, and did not give it back in time.
    Now,
}

impl Budget {
    pub(super) fn new(octets: u64) -> Self {
        let units = u32::try_from(octets / UNIT).unwrap_or(MOST).min(MOST);
        Self { room: Arc::new(Semaphore::new(usize::try_from(units).unwrap_or_default())), units }
    }

    /// A share for a message of so many octets and for its conversion, once there is room.
    ///
    /// Whoever waits must not hold a share that only itself gives back.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn take(&self, octets: u64) -> Result<Charge, NoRoom> {
        let units = units(octets.saturating_mul(FACTOR)).filter(|units| *units <= self.units);
        let units = units.ok_or(NoRoom::Ever)?;
        match timeout(WAIT, Arc::clone(&self.room).acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(Charge(permit)),
            Ok(Err(_)) | Err(_) => Err(NoRoom::Now),
        }
    }
}

impl Charge {
    /// Gives back what so many octets do not need.
    pub(super) fn shrink(&mut self, octets: usize) {
        let needed = u64::try_from(octets).ok().and_then(units);
        let held = self.0.num_permits();
        let spare = needed.and_then(|needed| held.checked_sub(usize::try_from(needed).ok()?));
        drop(spare.and_then(|spare| self.0.split(spare)));
    }
}

fn units(octets: u64) -> Option<u32> {
    u32::try_from(octets.div_ceil(UNIT)).ok()
}

/// A KiB, so that the numbers of a semaphore are enough.
const UNIT: u64 = 1024;
/// What a semaphore takes on the smallest machine (an eighth of the numbers): 512 GiB.
const MOST: u32 = u32::MAX / 8;
/// A message and its conversion together, see [`to_seven_bit`](crate::message::convert::to_seven_bit).
const FACTOR: u64 = 5;
/// Within a minute a message of some megabytes leaves over a slow line. Longer, and the host that waits
/// for us closes the connection.
const WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn room_is_waited_for_given_back_and_never_more_than_there_is() {
        let budget = Budget::new(100 * UNIT);
        assert_eq!(budget.take(20 * UNIT + 1).await.unwrap_err(), NoRoom::Ever);
        let mut first = budget.take(20 * UNIT).await.unwrap();
        assert_eq!(budget.take(1).await.unwrap_err(), NoRoom::Now);
        first.shrink(50 * 1024);
        let second = budget.take(10 * UNIT).await.unwrap();
        assert_eq!(budget.take(UNIT).await.unwrap_err(), NoRoom::Now);
        drop((first, second));
        assert!(budget.take(20 * UNIT).await.is_ok());
    }
}
