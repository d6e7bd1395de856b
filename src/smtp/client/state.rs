//! The state of a session, and the dialogue that opens one: greeting, EHLO, STARTTLS; AUTH is beside it.
//!
//! Lock-step throughout: each reply is awaited before the next command is written, because each says
//! what that may be.

use std::time::Instant;

use bytes::BufMut;

use super::pipeline::Command;
use super::{Failure, Protocol, Session, TlsUse};
use crate::smtp::TlsInfo;
use crate::smtp::capability::Capabilities;
use crate::smtp::reply::Reply;

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// From the greeting to the last reply before transactions can begin.
    Opening,
    /// The driver does the handshake.
    Handshake {
        /// When it was asked for.
        since: Instant,
    },
    /// AUTH was sent.
    LoggingIn,
    /// Transactions can begin, or are open.
    Ready,
    /// QUIT was sent.
    Quitting,
    /// Over.
    Closed,
}

impl Session {
    /// A reply to one of the commands of the opening.
    pub(super) fn opening(&mut self, now: Instant, command: Command, reply: Reply) {
        match command {
            // RFC 5321 §3.1, §4.3.1: 220 and nothing else is the leave to go on.
            Command::Greeting if reply.code() == 220 => self.hello(Command::Ehlo),
            Command::Greeting => self.fail(Failure::Greeting(reply)),
            Command::Ehlo if reply.is_positive() => {
                self.caps = Capabilities::parse(&reply);
                // RFC 8689 §4.2.1: what is said of it in clear does not count.
                self.caps.require_tls &= self.is_encrypted;
                if self.is_logged_in { self.ready() } else { self.after_hello() }
            }
            // Nothing new is known then; what was offered before the login stands.
            Command::Ehlo if self.is_logged_in && reply.code() != 421 => self.ready(),
            // RFC 5321 §3.2: a server of before 1993. LMTP has nothing before LHLO (RFC 2033 §4.1).
            Command::Ehlo if reply.is_permanent() && self.config.protocol == Protocol::Smtp => {
                self.hello(Command::Helo);
            }
            Command::Helo if reply.is_positive() => self.after_hello(),
            Command::Ehlo | Command::Helo => self.fail(Failure::Hello(reply)),
            Command::StartTls if reply.code() == 220 => {
                self.state = State::Handshake { since: now };
                self.pipe.start_tls();
            }
            Command::StartTls if self.config.tls == TlsUse::Required => self.fail(Failure::TlsRefused(reply)),
            Command::StartTls => self.log_in(),
            _ => self.logging_in(reply),
        }
    }

    /// The handshake is done: all that was learnt in clear is forgotten (RFC 3207 §4.2).
    pub(super) fn encrypted(&mut self, info: TlsInfo) {
        if matches!(self.state, State::Handshake { .. }) {
            self.tls = Some(info);
            self.is_encrypted = true;
            self.state = State::Opening;
            self.hello(Command::Ehlo);
        }
    }

    pub(super) fn hello(&mut self, command: Command) {
        if !self.is_logged_in {
            self.caps = Capabilities::default();
        }
        let verb: &[u8] = match (self.config.protocol, command) {
            (Protocol::Lmtp, _) => b"LHLO ",
            (Protocol::Smtp, Command::Helo) => b"HELO ",
            (Protocol::Smtp, _) => b"EHLO ",
        };
        let name = self.config.ehlo.as_str().as_bytes();
        self.pipe.command(command, |to| {
            to.reserve(verb.len() + name.len() + 2);
            to.put_slice(verb);
            to.put_slice(name);
            to.put_slice(b"\r\n");
        });
    }

    fn after_hello(&mut self) {
        let wanted = match self.config.tls {
            TlsUse::Never | TlsUse::AlreadyOn => false,
            TlsUse::IfOffered | TlsUse::Required => !self.is_encrypted,
        };
        if wanted && self.caps.starttls {
            self.pipe.command(Command::StartTls, |to| to.put_slice(b"STARTTLS\r\n"));
        } else if wanted && self.config.tls == TlsUse::Required {
            self.fail(Failure::NoTls);
        } else {
            self.log_in();
        }
    }
}
