//! Final delivery: into a store of this machine, by whatever the host program puts there.

use std::fmt;

use super::Outcome;
use crate::BoxFuture;
use crate::message::{Content, MessageId};
use crate::smtp::params::{Mail, Rcpt};

/// A message for recipients of this machine.
#[derive(Debug)]
#[non_exhaustive]
pub struct LocalItem {
    /// The message's id: the same again when delivery is tried again, so that a store can know it.
    pub id: MessageId,
    /// The sender and the parameters.
    pub mail: Mail,
    /// The recipients; at least one.
    pub recipients: Vec<Rcpt>,
}

impl LocalItem {
    /// A message for these recipients.
    #[must_use]
    pub const fn new(id: MessageId, mail: Mail, recipients: Vec<Rcpt>) -> Self {
        Self { id, mail, recipients }
    }
}

/// Delivers on this machine: a maildir, a mailing list, the host program itself.
pub trait Deliver: Send + Sync + fmt::Debug + 'static {
    /// Takes the message, for each recipient or not: one outcome per recipient, in order. `Delivered`
    /// means that it is on stable storage, or whatever the store promises.
    ///
    /// # Cancel safety
    /// A dropped call may have delivered; the message is then delivered again.
    fn deliver<'a>(&'a self, item: &'a LocalItem, content: Content) -> BoxFuture<'a, Vec<Outcome>>;
}
