//! What the clock on the wall means for what waits.

use std::time::Duration;

use super::state::{Message, State};
use crate::clock::Clock;
use crate::message::MessageId;

impl State {
    pub(super) fn look_at_clock(&mut self) {
        // Without a runtime there is no time that means anything.
        if let (Some(clock), Some(began), Ok(_)) =
            (&self.clock, self.began, tokio::runtime::Handle::try_current())
        {
            self.at = self.from + began.elapsed();
            self.wall = clock.now().wall;
            self.latest = self.latest.max(self.wall);
        }
    }

    pub(super) fn is_not_calm(&mut self) {
        (self.calm_at, self.calm_wall) = (self.at, self.wall);
    }

    /// The clock was set back: what is to be sent at a time waits for that time, and nothing else waits longer.
    pub(super) fn is_set_back(&mut self) {
        let (at, wall) = (self.at, self.wall);
        for id in &self.open {
            if let Some(message) = self.messages.get_mut(id) {
                let wanted = message.release.max(message.touched);
                message.ready = message.ready.max(at + wanted.since(wall));
            }
        }
    }

    /// Whether a message that was taken at `at` has a time before which its sender did not want it sent, and it is not
    /// that yet.
    pub(super) fn is_early(&self, id: MessageId, at: Duration) -> bool {
        // What is sent on goes when the message goes that it comes from.
        let is_for_its_time = |message: &&Message| !message.is_moved && message.root == id;
        let Some(message) = self.messages.get(&id).filter(is_for_its_time) else { return false };
        // What was on its way when the clock was set back was sent in time.
        let was_on_its_way = at <= self.calm_at + ATTEMPT && self.latest >= message.release;
        self.wall < message.release && !was_on_its_way
    }
}

/// An attempt has an hour.
const ATTEMPT: Duration = Duration::from_secs(3600);
