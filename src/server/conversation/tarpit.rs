//! The tarpit: a client that makes mistake after mistake gets its replies late.
//!
//! It costs such a client the time that guessing and probing need, and costs us a timer. While it lasts
//! nothing is read or written, and the handler is not asked.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::Talk;
use crate::clock::{Clock, SystemClock};
use crate::server::limits::Offence;

impl Talk<'_> {
    /// Replies are ready to be written. The mistakes they answer go on record.
    pub(super) fn queue(&mut self, octets: Bytes) {
        self.trace.said(&octets);
        self.wire.queue(octets);
        let (made, before) = (self.session.errors(), self.mistakes);
        if made > before {
            self.mistakes = made;
            let (peer, now) = (self.info.peer.address.ip(), SystemClock.mono());
            for _ in before..made {
                self.setup.limits.offends(peer, Offence::Mistake, now);
            }
        }
        let wait = self.setup.options.tarpit;
        if made < FIRST || wait.is_zero() || self.stopping || self.penalty.is_some() {
            return;
        }
        // A flight of mistakes is no cheaper than the same mistakes one by one.
        let times = made.saturating_sub(before.max(FIRST - 1)).max(1);
        self.penalty = Some(Box::pin(tokio::time::sleep(wait.saturating_mul(times))));
    }

    /// Writes what was queued, when it is time.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        if let Some(penalty) = &mut self.penalty {
            ready!(penalty.as_mut().poll(cx));
            self.penalty = None;
        }
        self.wire.poll_write(cx)
    }
}

/// The mistake from which on replies are late: half of what a session may make at most by default.
const FIRST: u32 = 10;
