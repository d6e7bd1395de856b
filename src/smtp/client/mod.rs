//! A client session sends transactions over one connection and tells what became of each recipient.
//!
//! # Theory of operation
//!
//! A session opens in lock-step: greeting, EHLO, STARTTLS and EHLO again, AUTH; then
//! [`Event::Ready`]. From there on it is a pipeline (RFC 2920). [`Session::begin`] writes the envelope
//! of a transaction; [`Event::WantBody`] asks for its content, a chunk at a time; each command that
//! was written is remembered with the offset of its last octet, and each reply answers the oldest of
//! them. A reply to a command whose last octet the transport has not yet taken is *premature* and ends
//! the connection: nothing is delivered that was not answered after it was sent.
//!
//! ```text
//! PIPELINING and CHUNKING   MAIL RCPT… BDAT LAST content | MAIL RCPT… BDAT LAST content   (a window)
//! PIPELINING                MAIL RCPT… DATA →354→ content .  (| MAIL … with `chain`)
//! neither                   MAIL → RCPT → RCPT → DATA → content .
//! ```
//!
//! Large content waits until a recipient was accepted, and goes out as several BDATs of a mebibyte,
//! without waiting for the reply to any. When one is refused, the chunk that is on its way is completed,
//! because the server counts its octets; no other is begun, the replies to what was sent are read, and
//! the transaction is over with that refusal, alone: the next one begins with RSET.
//!
//! In LMTP (RFC 2033) the session says LHLO, and the content has a reply for each accepted recipient.
//! Each is given to the next of them; those that a dying connection leaves without one are unknown.
//!
//! What the server announces to take at most (RFC 9422) is obeyed: recipients beyond it are left over,
//! and so is one that gets "too many" (452) while another was accepted; it belongs in the next
//! transaction. A session that has had all its transactions is [used up](Session::is_used_up), which is
//! no failure.
//!
//! A transaction sent behind an unanswered one begins with RSET in the same write: a server may keep
//! the envelope of content that it refused, and would deliver the next content under it. Where the
//! MAIL of such a transaction is refused nonetheless, what follows it is void, and the connection is
//! closed when what was sent is answered; the refusal counts when the RSET before it was accepted and
//! no content was taken behind it.
//!
//! When a connection ends early, each open recipient gets the one honest answer:
//! [`RecipientResult::Unknown`] when the last octet of the content had been taken by the transport,
//! [`RecipientResult::NotAttempted`] when it had not.
//!
//! The session does not connect, does not encrypt, does not wait, and does not decide what a reply
//! means for a recipient or when to try again.

mod answers;
mod auth;
mod command;
mod content;
mod limits;
mod pipeline;
mod session;
mod state;
mod transaction;

use std::time::Duration;

use super::address::EhloName;
use super::error::ProtocolError;
use super::params::{Mail, Rcpt};
use super::reply::{EnhancedCode, Reply};
use super::sasl::{Credentials, Mechanism, Nonces, SaslError};

pub use super::Protocol;
pub use session::Session;

/// How a session behaves.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The name given in EHLO.
    pub ehlo: EhloName,
    /// What the server speaks. Default: SMTP. LMTP is for final delivery to a host at hand, and never
    /// for port 25 (RFC 2033 §5).
    pub protocol: Protocol,
    /// Whether TLS is used.
    pub tls: TlsUse,
    /// Log in with these. Default: no login. A server that does not let us log in gets no mail.
    pub credentials: Option<Credentials>,
    /// Log in without TLS too. Default: false; set it only where the network is the machine itself.
    pub auth_in_clear: bool,
    /// Which mechanisms may be used to log in; the order is fixed, the strongest first. Default: all. Leave
    /// some out to insist on the others: without PLAIN and LOGIN no server ever gets the password.
    pub mechanisms: Vec<Mechanism>,
    /// Where SCRAM's nonces come from. Default: the operating system.
    pub nonces: Nonces,
    /// Send the envelope in one write where PIPELINING is offered. Default: true; clear it for a host
    /// that was seen to break, see [`Session::pipelining_broken`].
    pub pipelining: bool,
    /// Send content by BDAT where CHUNKING and PIPELINING are offered. Default: true; clear it for a
    /// host whose BDAT is broken.
    pub chunking: bool,
    /// How many transactions may be open at once, from 1 to 64. Default: 2; so many can become
    /// [`RecipientResult::Unknown`] when a connection dies.
    pub window: usize,
    /// Send the next MAIL behind a final dot, too. Default: false, because at least one server takes
    /// it for smuggling and answers 503, see [`Session::chain_refused`].
    pub chain: bool,
    /// How long to wait, by phase.
    pub timeouts: Timeouts,
}

impl Config {
    /// The defaults, with the two things that have none.
    #[must_use]
    pub fn new(ehlo: EhloName, tls: TlsUse) -> Self {
        Self {
            ehlo,
            protocol: Protocol::Smtp,
            tls,
            credentials: None,
            auth_in_clear: false,
            mechanisms: Mechanism::ALL.to_vec(),
            nonces: Nonces::system(),
            pipelining: true,
            chunking: true,
            window: 2,
            chain: false,
            timeouts: Timeouts::new(),
        }
    }
}

/// Whether a session uses TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsUse {
    /// Stay in clear.
    Never,
    /// STARTTLS where it is offered; where it is not, or is refused, stay in clear.
    IfOffered,
    /// STARTTLS, or no session.
    Required,
    /// The transport is encrypted before the greeting (RFC 8314).
    AlreadyOn,
}

/// How long to wait for what, from RFC 5321 §4.5.3.2. Shorter ones lose mail that slow hosts would
/// take, and after the end of the content make duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The greeting. Default: 5 minutes.
    pub greeting: Duration,
    /// EHLO, HELO, STARTTLS and the handshake, AUTH; each. Default: 5 minutes.
    pub hello: Duration,
    /// MAIL. Default: 5 minutes.
    pub mail: Duration,
    /// RCPT. Default: 5 minutes.
    pub rcpt: Duration,
    /// DATA. Default: 2 minutes.
    pub data: Duration,
    /// Until the transport takes more of the content, or the caller gives more. Default: 3 minutes.
    pub block: Duration,
    /// The end of the content. Default: 10 minutes.
    pub end: Duration,
    /// QUIT, and RSET on its own, on which nothing depends. Default: 5 seconds.
    pub quit: Duration,
}

impl Timeouts {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            greeting: Duration::from_secs(300),
            hello: Duration::from_secs(300),
            mail: Duration::from_secs(300),
            rcpt: Duration::from_secs(300),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            end: Duration::from_secs(600),
            quit: Duration::from_secs(5),
        }
    }

    /// The same, none longer than `longest`. For tests.
    #[must_use]
    pub fn at_most(self, longest: Duration) -> Self {
        Self {
            greeting: self.greeting.min(longest),
            hello: self.hello.min(longest),
            mail: self.mail.min(longest),
            rcpt: self.rcpt.min(longest),
            data: self.data.min(longest),
            block: self.block.min(longest),
            end: self.end.min(longest),
            quit: self.quit.min(longest),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::new()
    }
}

/// One message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transaction {
    /// The sender. Parameters go out only where the server offers their extension; SIZE is taken from
    /// `size`, not from here.
    pub mail: Mail,
    /// The recipients, from 1 to [`MAX_RECIPIENTS`].
    pub recipients: Vec<Rcpt>,
    /// How many octets the content has, exactly.
    pub size: u64,
    /// The content was looked at before: every line of it ends in CRLF, and none begins with NUL. What goes
    /// by BDAT is then not looked at once more, which for large messages is the most of the work; DATA
    /// needs the look in any case. Default: false; what an engine or a mailer sends was looked at when it
    /// was taken.
    pub is_lines: bool,
}

impl Transaction {
    /// A message of `size` octets.
    #[must_use]
    pub const fn new(mail: Mail, recipients: Vec<Rcpt>, size: u64) -> Self {
        Self { mail, recipients, size, is_lines: false }
    }
}

/// RFC 5321 §4.5.3.1.8: what every server must take in one transaction.
pub const MAX_RECIPIENTS: usize = 100;

/// What a session tells its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Transactions can begin. Once.
    Ready,
    /// Give the next chunk of this transaction's content, or end it.
    WantBody {
        /// The number that [`Session::begin`] gave.
        transaction: u64,
    },
    /// This transaction is over; in the order in which they were begun. It can come before its
    /// content was asked for.
    Done {
        /// The number that [`Session::begin`] gave.
        transaction: u64,
        /// What became of it.
        result: TransactionResult,
    },
    /// [`Session::reset`] was answered: the connection is alive.
    Reset,
    /// The session is over; each open transaction got its `Done` before. Nothing that was polled and
    /// is not yet sent may be sent any more.
    Failed(Failure),
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionResult {
    /// One per recipient, in order.
    pub recipients: Vec<RecipientResult>,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecipientResult {
    /// The server said this. Delivered only if the phase is [`Phase::Content`] and the reply is
    /// positive.
    Replied {
        /// To what.
        phase: Phase,
        /// What it said.
        reply: Reply,
    },
    /// All of the content was sent, and the connection ended before the reply: it may have been
    /// delivered.
    Unknown,
    /// It was certainly not delivered, and the server said nothing about it: requeue it at once.
    NotAttempted,
    /// The server takes fewer recipients in one transaction (RFC 9422, or 452 behind accepted ones,
    /// RFC 5321 §4.5.3.1.10): it belongs in the next one, at once.
    LeftOver,
}

/// Which command of a transaction a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// MAIL
    Mail,
    /// RCPT
    Rcpt,
    /// DATA
    Data,
    /// The end of the content, by dot or by BDAT LAST.
    Content,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The greeting was not 220.
    Greeting(Reply),
    /// Neither EHLO nor HELO was accepted.
    Hello(Reply),
    /// TLS is required and was not offered.
    NoTls,
    /// TLS is required and STARTTLS was refused.
    TlsRefused(Reply),
    /// The server did not let us log in; `None` when it offers no way that we have.
    Auth(Option<Reply>),
    /// The server did not keep to the mechanism, or did not prove that it knows the password: it may be
    /// somebody else.
    AuthExchange(SaslError),
    /// There are credentials, and no TLS to send them under.
    AuthInClear,
    /// The server broke the protocol.
    Protocol(ProtocolError),
    /// No reply, or no progress, in time.
    TimedOut,
    /// The connection ended.
    Lost,
    /// The server closes the connection (421).
    Closing(Reply),
    /// A transaction sent behind another was refused as a whole; what follows it is void.
    ChainRefused(Reply),
    /// The caller broke off a message: by [`Session::reset`], or by content that is not of its
    /// declared size.
    Abandoned,
}

/// Why a transaction cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// Not while [`Session::can_begin`] says no.
    #[error("the session cannot begin a transaction now")]
    NotReady,
    /// No recipient, or more than [`MAX_RECIPIENTS`].
    #[error("a transaction has 1 to 100 recipients")]
    Recipients,
    /// Not with these recipients, and not on this session any more, see [`Session::takes`]. On another
    /// it can.
    #[error("the server takes no more domains in this session")]
    UsedUp,
    /// The message needs what the server does not offer.
    #[error("the server lacks something that the message needs")]
    Lacks(Feature),
}

/// Something a message needs and a host does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Feature {
    /// Its SIZE limit is below the message's size (RFC 1870).
    #[error("the message is larger than the host accepts")]
    Size,
    /// 8BITMIME (RFC 6152).
    #[error("the message is 8-bit and the host does not offer 8BITMIME")]
    EightBit,
    /// BINARYMIME (RFC 3030).
    #[error("the message is binary and the host does not offer BINARYMIME")]
    Binary,
    /// SMTPUTF8 (RFC 6531).
    #[error("the message needs SMTPUTF8 and the host does not offer it")]
    SmtpUtf8,
    /// REQUIRETLS (RFC 8689), which is offered under TLS only.
    #[error("the message needs REQUIRETLS and the host does not offer it")]
    RequireTls,
    /// DELIVERBY (RFC 2852), for a message that is to be returned when it is late.
    #[error("the message has to be delivered by a time and the host does not offer DELIVERBY")]
    DeliverBy,
    /// FUTURERELEASE (RFC 4865), for so long a hold: sent at once it would come too early.
    #[error("the message is to be held, and the host does not offer to hold it for so long")]
    FutureRelease,
}

impl Feature {
    /// The status code for reports.
    #[must_use]
    pub const fn status(self) -> EnhancedCode {
        match self {
            Self::Size => EnhancedCode::new(5, 3, 4),
            Self::EightBit | Self::Binary => EnhancedCode::new(5, 6, 3),
            Self::SmtpUtf8 => EnhancedCode::new(5, 6, 7),
            // RFC 8689 §4.2.1
            Self::RequireTls => EnhancedCode::new(5, 7, 30),
            // RFC 2852 §4.1.4.1 names no code: the system is not capable of what is asked.
            Self::DeliverBy | Self::FutureRelease => EnhancedCode::new(5, 3, 3),
        }
    }
}
