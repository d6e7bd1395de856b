//! The steps of a dialogue, and what a host may do at each.

use std::time::Duration;

use bytes::Bytes;

use crate::smtp::params::{Mail, Rcpt};
use crate::smtp::reply::Reply;

/// A moment in a dialogue at which a host does something.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'a> {
    /// Somebody connects. A reply cannot be given here: [`Act::Close`] refuses, [`Act::Silence`] never
    /// answers.
    Connect,
    /// The greeting is due.
    Greeting,
    /// EHLO, HELO or LHLO came.
    Hello,
    /// MAIL came.
    Mail(&'a Mail),
    /// RCPT came, for an address that was named this often before, this time included.
    Rcpt(&'a Rcpt, u32),
    /// DATA came, or the first BDAT: content follows.
    Data,
    /// So many octets of content have come. It may be asked again with more.
    Body(u64),
    /// The content is there as a whole: header and body.
    End(&'a [u8]),
}

/// What a host does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Act {
    /// What its rules say, and otherwise what a good host does.
    Usual,
    /// This reply. To a greeting, to EHLO and where content was to follow, it is the last word: the
    /// connection is closed behind it. In mid-content nobody waits for one; it closes too.
    Reply(Reply),
    /// The connection is closed.
    Close,
    /// Nothing is said, read or done any more, until the client closes.
    Silence,
    /// The first half of a positive reply, and the connection is closed.
    Half,
    /// These octets in place of a reply, whatever they are, and nothing more.
    Octets(Bytes),
    /// At [`Step::End`]: the message is taken, and then this is done. With anything but a positive reply the
    /// client cannot know. At other steps: as what is inside.
    Taken(Box<Self>),
    /// This, after a while. At [`Step::End`] a host that is to take the message does so even if its client
    /// is gone meanwhile, as real hosts do.
    After(Duration, Box<Self>),
}

impl Act {
    /// This reply, with the text that tests have.
    #[must_use]
    pub fn code(code: u16) -> Self {
        Self::Reply(reply(code))
    }
}

/// A reply of this code.
pub(super) fn reply(code: u16) -> Reply {
    Reply::plain(code, "as the test has it")
}
