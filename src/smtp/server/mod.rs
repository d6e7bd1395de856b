//! A server session is one dialogue with a client, from the greeting to the end of the connection.
//!
//! It reads commands and content, keeps the order that RFC 5321 demands, and asks its host about
//! everything that is policy: who may log in, which senders and recipients are welcome, whether a
//! message was taken. What the host answers goes over the wire as it is. The session knows nothing
//! of sockets, storage or rules.
//!
//! # How to drive one
//! 1. [`Session::poll`] until it says [`Output::Wait`](super::Output::Wait): send, start TLS, or answer an
//!    [`Event`] as it asks. Events marked *asks* pause the session until [`Session::respond`].
//! 2. Whenever [`Session::can_read_on`] says so (it may after `respond`, `poll` and `Sent`), give the
//!    unread rest of the buffer again before polling; else read from the peer, and give that.
//!
//! Replies are handed out only when nothing else is left to do. A host that answers before it polls
//! again therefore writes once for each read, however many commands the client pipelined; a host
//! that must wait for its answer may poll meanwhile to let the earlier replies go.
//!
//! # What is forgotten when
//! EHLO, HELO and RSET end the transaction. A TLS handshake ends everything: hello, login and
//! transaction (RFC 3207 §4.2); that a client sent nothing behind STARTTLS is checked before. The
//! end of a message ends its transaction whatever the reply is; a BDAT that fails before the last
//! one leaves a dead transaction that only RSET or EHLO ends (RFC 3030 §2). XCLIENT from a trusted
//! proxy ends everything but TLS: the session begins anew with somebody else, whose TLS ended at the
//! proxy: of ours, the proxy's certificate and the channel binding no longer count. The hello that
//! follows ends the trust.

mod auth;
mod commands;
mod config;
mod content;
mod envelope;
mod heard;
mod opening;
mod replies;
mod session;
mod state;
mod view;

use bytes::Bytes;

pub use config::{AuthOffer, Config, Protocol, Timeouts};
pub use heard::Heard;
pub use session::Session;

use super::command::Lookup;
use super::params::{Mail, Rcpt};
use super::sasl::{Login, Refused};
use super::xclient::Xclient;

/// What a client wants, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The client said its name. Answered already.
    Hello {
        /// The name: one word of printable ASCII, otherwise unchecked.
        name: String,
        /// EHLO or LHLO, not HELO.
        extended: bool,
    },
    /// *Asks*: the stored keys of this user, for SCRAM. Answered by [`Session::respond_keys`], also when
    /// there is no such user; a reply by [`Session::respond`] refuses the login, and is for when the
    /// keys cannot be looked up now (454 4.7.0).
    AuthKeys {
        /// The name, by SASLprep.
        user: Box<str>,
    },
    /// *Asks*: may this client act as this user? A positive reply (235 2.7.0) means yes.
    Auth(Login),
    /// *Asks*: which reply refuses this login, which has failed already (535 5.7.8)? A positive one
    /// becomes 535. Asked so that the host can count, and take its time.
    AuthFailed(Refused),
    /// *Asks*: MAIL FROM, in order and well-formed. A positive reply begins the transaction.
    Mail(Mail),
    /// *Asks*: RCPT TO. A positive reply adds the recipient.
    Rcpt(Rcpt),
    /// The content of the message follows, for the recipients answered positively.
    MessageStart,
    /// A piece of the content, never empty, as it will be counted and stored.
    Body(Bytes),
    /// *Asks*: the content is complete. A positive reply takes responsibility for the message
    /// (RFC 5321 §6.1), so it must be on stable storage before. Content sent by BDAT may lack the
    /// last CRLF; the host adds it.
    MessageEnd,
    /// No [`Event::MessageEnd`] will follow [`Event::MessageStart`]: drop what was received.
    MessageAborted,
    /// *Asks*, where [`Config::vrfy`] is set: VRFY. A positive reply names the mailbox.
    Vrfy(Lookup),
    /// *Asks*, where [`Config::expn`] is set: EXPN. A positive reply names a mailbox on each line.
    Expn(Lookup),
    /// *Asks*: a trusted proxy says who its client is. A positive reply means that this client is
    /// welcome, and the session begins anew with it: hello and login are forgotten, save a login that
    /// the proxy vouches for. [`Session::refuse`] is the other answer.
    Xclient(Box<Xclient>),
    /// The client took its leave.
    Quit,
}
