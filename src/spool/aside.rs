//! What a spool has set aside by itself, since it could not be read.

use crate::message::MessageId;

use super::queue::QueueName;

/// An entry that cannot be read back: it is parked, and all others are served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetAside {
    /// Its message, where that much can be read.
    pub message: Option<MessageId>,
    /// Which of its entries.
    pub entry: u32,
    /// Where it was found.
    pub queue: QueueName,
    /// What was wrong, for people.
    pub reason: Box<str>,
}

impl SetAside {
    /// An entry that was set aside.
    #[must_use]
    pub const fn new(message: Option<MessageId>, entry: u32, queue: QueueName, reason: Box<str>) -> Self {
        Self { message, entry, queue, reason }
    }
}
