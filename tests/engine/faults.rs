//! What goes wrong with the kit's spool, by the names that our tests have for it.

use postroad::testing::{Call, Method, SpoolFault};

pub use postroad::testing::{FaultySpool as Faulty, JumpingClock as Jumping};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Every call.
    Poisoned,
    /// Settling fails, and nothing is settled.
    Storage,
    /// Settling fails for want of room.
    Full,
    /// Settling fails for want of room where there is a report to store.
    NoReports,
    /// No body can be read.
    Bodies,
    /// Settling happens, and the answer says that this is not known.
    SettledUnknown,
}

/// Sets what goes wrong.
pub trait Set {
    fn set(&self, fault: Fault);
}

impl Set for Faulty {
    fn set(&self, fault: Fault) {
        self.script(move |call| at(fault, call));
    }
}

fn at(fault: Fault, call: &Call) -> SpoolFault {
    match (fault, call.method) {
        // Returns as often as the promise allows: for no reason.
        (_, Method::Wait) => SpoolFault::Before,
        (
            Fault::Poisoned,
            Method::Enqueue | Method::Claim | Method::Extend | Method::Settle | Method::Queues,
        ) => SpoolFault::Poisoned,
        (Fault::Bodies, Method::Body) | (Fault::Storage, Method::Settle) => SpoolFault::Before,
        (Fault::Full, Method::Settle) => SpoolFault::Full,
        (Fault::NoReports, Method::Settle) if call.adds => SpoolFault::Full,
        (Fault::SettledUnknown, Method::Settle) => SpoolFault::After,
        _ => SpoolFault::None,
    }
}
