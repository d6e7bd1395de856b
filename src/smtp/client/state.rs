//! The state of a session, and the dialogue that opens one: greeting, EHLO, STARTTLS, AUTH.
//!
//! Lock-step throughout: each reply is awaited before the next command is written, because each says
//! what that may be.

use std::time::Instant;

use bytes::BufMut;

use super::pipeline::Command;
use super::{Event, Failure, Protocol, Session, TlsUse};
use crate::smtp::TlsInfo;
use crate::smtp::capability::{Capabilities, Limits};
use crate::smtp::reply::Reply;
use crate::smtp::sasl::{Mechanism, secret_line};

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
    LoggingIn {
        /// Which mechanism.
        mechanism: Mechanism,
        /// How many answers were sent.
        answers: usize,
    },
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

    fn hello(&mut self, command: Command) {
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

    fn log_in(&mut self) {
        match &self.config.credentials {
            None => self.ready(),
            Some(_) if !self.is_encrypted && !self.config.auth_in_clear => self.fail(Failure::AuthInClear),
            Some(_) => self.auth(None, None),
        }
    }

    /// Begins AUTH by the first mechanism that both sides have, after `tried`.
    fn auth(&mut self, tried: Option<Mechanism>, refused: Option<Reply>) {
        let Some(credentials) = &self.config.credentials else { return self.ready() };
        let ours = [Mechanism::Plain, Mechanism::Login];
        let mechanism = ours.into_iter().find(|m| {
            self.caps.auth.contains(m)
                && credentials.answer(*m, 0).is_some()
                && tried.is_none_or(|t| t == Mechanism::Plain && *m != t)
        });
        let Some(mechanism) = mechanism else { return self.fail(Failure::Auth(refused)) };
        let command = format!("AUTH {}", mechanism.as_str());
        // RFC 4954 §4: an initial response must not make the line longer than a command may be.
        let initial = credentials
            .answer(mechanism, 0)
            .filter(|a| mechanism == Mechanism::Plain && command.len() + a.len() + 3 <= MAX_COMMAND_LINE);
        match initial {
            Some(answer) => {
                self.state = State::LoggingIn { mechanism, answers: 1 };
                self.pipe.secret(secret_line(&(command + " "), &answer));
            }
            None => {
                self.state = State::LoggingIn { mechanism, answers: 0 };
                self.pipe.command(Command::Auth, |to| {
                    to.put_slice(command.as_bytes());
                    to.put_slice(b"\r\n");
                });
            }
        }
    }

    fn logging_in(&mut self, reply: Reply) {
        let State::LoggingIn { mechanism, answers } = self.state else { return };
        if reply.is_positive() {
            return self.logged_in();
        }
        // RFC 4954 §4: the mechanism is announced and yet not there.
        if reply.code() == 504 {
            return self.auth(Some(mechanism), Some(reply));
        }
        let credentials = self.config.credentials.as_ref();
        match credentials.and_then(|c| c.answer(mechanism, answers)) {
            Some(answer) if reply.is_intermediate() => {
                self.state = State::LoggingIn { mechanism, answers: answers + 1 };
                self.pipe.secret(secret_line("", &answer));
            }
            _ => self.fail(Failure::Auth(Some(reply))),
        }
    }

    /// Limits may be others for who has logged in, and EHLO is how to learn them (RFC 9422 §3). A server
    /// that announced none is not asked again.
    fn logged_in(&mut self) {
        self.is_logged_in = true;
        if self.caps.limits == Limits::default() {
            return self.ready();
        }
        self.state = State::Opening;
        self.hello(Command::Ehlo);
    }

    fn ready(&mut self) {
        self.state = State::Ready;
        self.pipe.event(Event::Ready);
    }
}

/// RFC 5321 §4.5.3.1.4, line end included.
const MAX_COMMAND_LINE: usize = 512;
