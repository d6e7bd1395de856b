//! What is wrong and whose fault it is: the peer's ([`ProtocolError`]) or the caller's ([`Misuse`]).
//!
//! A reply of class 4 or 5 is neither; it is data.

use super::reply::ReplyError;

/// The peer broke the protocol. The connection cannot be used after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// What was sent is no reply.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A reply came before the command it would answer was sent.
    #[error("the server replied before the command was sent")]
    Premature,
    /// A reply came that answers nothing.
    #[error("the server sent a reply that nothing asked for")]
    Unasked,
    /// A reply of a class that the command cannot have, such as 250 to DATA.
    #[error("the server gave a reply that does not fit the command")]
    WrongClass,
    /// Plain octets stood behind the reply to STARTTLS (RFC 3207 §4; the attack is
    /// CVE-2011-0411).
    #[error("the server sent octets in the clear behind its leave to start TLS")]
    Injected,
}

/// The caller called what cannot be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// No content was asked for.
    #[error("no content is wanted now")]
    NotWanted,
    /// The content is longer than its declared size. The connection is closed, for the message could
    /// not be ended where it should.
    #[error("the content is longer than declared")]
    TooLong,
    /// The content ended before its declared size. The connection is closed, so that nothing cut
    /// short is taken for a message.
    #[error("the content is shorter than declared")]
    TooShort,
    /// The content holds a bare CR or LF, or a line that begins with NUL, and is not `BODY=BINARYMIME`:
    /// another host could see a line, or an end of the message, where we see none. The connection is
    /// closed before any of that chunk is sent.
    #[error("the content is not made of lines that end in CRLF")]
    LineEnd,
    /// There is nothing to respond to.
    #[error("nothing waits for a response")]
    NothingAsked,
    /// A message waits for another number of replies.
    #[error("another number of replies is needed")]
    WrongCount,
}
