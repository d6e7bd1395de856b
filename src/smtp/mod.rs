//! The protocol: both roles of SMTP as state machines that know no socket and no clock.
//!
//! A session is fed with [`Input`]s and asked for [`Output`]s until it says [`Output::Wait`]. Whatever
//! it wants leaves through that one ordered queue, because the order of "send these octets", "start
//! TLS now" and "tell the caller" is a safety property in SMTP: a driver that does what it is given,
//! in the order it is given, cannot get it wrong.
//!
//! Nothing here reads a clock, opens a socket or spawns a task; time is an argument.

use std::fmt;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

pub mod address;
pub mod capability;
pub mod client;
pub mod command;
pub mod data;
pub(crate) mod decimal;
pub mod error;
pub mod line;
pub mod params;
pub mod reply;
pub mod sasl;
pub mod server;
mod tls;
pub mod xclient;

pub use tls::{ChannelBinding, PeerCertificate, TlsInfo};

/// Which of the two protocols is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// SMTP (RFC 5321): one reply to a message.
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO, and one reply to a message for each accepted recipient. For final
    /// delivery, never on port 25.
    Lmtp,
}

/// What happened outside a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// Octets arrived. The session takes what it can use off the front; what it leaves stays the
    /// caller's and is given again, with more behind it.
    Data(&'a mut BytesMut),
    /// So many more octets of what was polled were taken by the transport. Given before any
    /// [`Input::Data`] that arrived later; deadlines, "premature" and "unknown" are decided from it.
    Sent(usize),
    /// The handshake asked for by [`Output::StartTls`] is complete.
    TlsReady(TlsInfo),
    /// The peer will send nothing more, or the transport failed.
    Eof,
    /// The time of the last [`Output::Wait`] has come.
    Timeout,
}

/// What a session wants.
pub enum Output<E> {
    /// Send these octets, after all that was polled before.
    Send(Bytes),
    /// The same, but they hold credentials: keep them out of traces.
    SendSecret(Bytes),
    /// When all octets polled before are sent, begin a TLS handshake, then give
    /// [`Input::TlsReady`]. Plain octets read from now on must not be kept for the encrypted side.
    StartTls,
    /// The caller should know or decide this.
    Event(E),
    /// Nothing to do until more input comes; give [`Input::Timeout`] at `until`, if there is one.
    Wait {
        /// The session's deadline.
        until: Option<Instant>,
    },
    /// The session is over: send nothing more and close the transport.
    Closed,
}

impl<E: fmt::Debug> fmt::Debug for Output<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(octets) => f.debug_tuple("Send").field(octets).finish(),
            Self::SendSecret(_) => f.write_str("SendSecret(..)"),
            Self::StartTls => f.write_str("StartTls"),
            Self::Event(event) => f.debug_tuple("Event").field(event).finish(),
            Self::Wait { until } => f.debug_struct("Wait").field("until", until).finish(),
            Self::Closed => f.write_str("Closed"),
        }
    }
}
