//! What a connection does about the gates of its transactions: it tells the wire where each message ends,
//! and gives up when one must not end any more.

use tracing::debug;

use super::{Connection, Progress};
use crate::smtp::client::Failure;

impl Connection {
    /// Has the gates asked whose messages' ends are known: they are before their octets are queued.
    pub(super) fn set_gates(&mut self) {
        for feed in self.feeds.iter_mut().filter(|feed| feed.gate.is_some()) {
            if let Some(end) = self.session.ends_at(feed.transaction)
                && let Some(gate) = feed.gate.take()
            {
                self.wire.gates.add(feed.transaction, end, gate);
            }
        }
    }

    /// Ends the session when a message must not be ended and all before it are answered, or cannot be.
    pub(super) fn give_way(&mut self) {
        let Some(barred) = self.barred else { return };
        let waits = self.feeds.front().is_some_and(|feed| feed.transaction < barred);
        if self.failure().is_some() || (waits && !self.wire.is_severed()) {
            return;
        }
        debug!(parent: &self.span, "the time to end a message is over");
        if !self.feeds.is_empty() {
            self.session.reset();
            self.pump();
        }
        if self.failure().is_none() {
            self.wire.discard();
            self.progress = Progress::Over(Failure::Abandoned);
        }
    }
}
