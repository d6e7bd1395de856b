//! Orders are what is wanted of mail from outside, and how entries stand after them.

use postroad::clock::Timestamp;
use postroad::spool::{Alter, Change, DiskSpool, Selection, Spool, SpoolError};

/// What is wanted of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Hold,
    Release,
    Cancel,
}

/// How an entry stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    pub(crate) tried: u32,
    pub(crate) due: u64,
    pub(crate) parked: bool,
    pub(crate) cancelled: bool,
}

impl Standing {
    pub(crate) fn alter(&mut self, order: Order) {
        match order {
            // What is cancelled is never changed again.
            _ if self.cancelled => {}
            Order::Hold => self.parked = true,
            // It was due, and is past its deadline.
            Order::Release if self.parked => (self.parked, self.due) = (false, 0),
            Order::Release => {}
            Order::Cancel => (self.parked, self.cancelled, self.due) = (false, true, 0),
        }
    }
}

/// Leases end before an order comes, so that it takes what is claimed.
pub(crate) const LEASE: Timestamp = Timestamp::from_millis(1 << 46);

pub(crate) async fn order(spool: &DiskSpool, which: Selection, order: Order) -> Result<(), SpoolError> {
    let change = match order {
        Order::Hold => Change::Hold("wait".into()),
        Order::Release => Change::Release,
        Order::Cancel => Change::Cancel,
    };
    spool.alter(Alter { which, change, now: LEASE, after: None, limit: 1_000 }).await.map(drop)
}
