//! Gates in front of the ends of messages: what was begun under a claim is not ended once the claim may
//! be somebody else's.

use std::collections::VecDeque;

use crate::clock::Gate;

/// The ends that have not left yet, in order. As many as there are open transactions.
#[derive(Debug, Default)]
pub(super) struct Gates(VecDeque<Ending>);

#[derive(Debug)]
struct Ending {
    transaction: u64,
    /// The offset behind the last octet.
    at: u64,
    gate: Gate,
}

impl Gates {
    /// The message of this transaction ends there.
    pub(super) fn add(&mut self, transaction: u64, at: u64, gate: Gate) {
        self.0.push_back(Ending { transaction, at, gate });
    }

    /// So many octets have left.
    pub(super) fn sent(&mut self, octets: u64) {
        while self.0.front().is_some_and(|ending| ending.at <= octets) {
            self.0.pop_front();
        }
    }

    /// The first whose gate is shut, and where it ends. Costs a look at the clock where there is an end
    /// to send, and nothing otherwise.
    pub(super) fn shut(&self) -> Option<(u64, u64)> {
        let shut = self.0.iter().find(|ending| !ending.gate.is_open());
        shut.map(|ending| (ending.transaction, ending.at))
    }

    /// Forgets this one and those behind it.
    pub(super) fn cut(&mut self, transaction: u64) {
        self.0.retain(|ending| ending.transaction < transaction);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
