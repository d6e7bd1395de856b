//! The obeying of commands: each one checked against where the dialogue is, then answered or asked
//! about.

use std::time::Instant;

use bytes::BytesMut;
use zeroize::Zeroize;

use super::Event;
use super::config::Protocol;
use super::content::{DEAD, NEED_MAIL};
use super::session::{Hello, Session};
use super::state::{Question, State, Transaction};
use crate::smtp::capability::Capabilities;
use crate::smtp::command::{Command, CommandError};
use crate::smtp::line::{LineError, MAX_COMMAND_LINE};
use crate::smtp::params::{BodyKind, Mail, Rcpt};
use crate::smtp::sasl::MAX_AUTH_LINE;

impl Session {
    pub(super) fn read_command(&mut self, now: Instant, input: &mut BytesMut) -> bool {
        if input.first() == Some(&TLS_HANDSHAKE) && !self.lines.is_discarding() {
            self.end(CommandError::Foreign.reply());
            return true;
        }
        let auth = input.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let max = if auth { MAX_AUTH_LINE } else { MAX_COMMAND_LINE };
        let line = self.lines.next(input, max, |line| {
            let command = Command::parse(line);
            if matches!(command, Ok(Command::Auth { .. })) {
                line.zeroize();
            }
            command
        });
        match line {
            Ok(None) => return self.line_incomplete(now, input),
            Ok(Some(Ok(command))) => {
                self.timer.line_complete(now);
                self.obey(now, command, input);
            }
            Ok(Some(Err(error @ (CommandError::Bdat | CommandError::Foreign)))) => self.end(error.reply()),
            Ok(Some(Err(error))) => {
                self.timer.line_complete(now);
                self.fault(error.reply());
            }
            Err(error) => self.bad_line(now, error, "500 5.5.2 Line too long"),
        }
        true
    }

    /// RFC 3207 §4, CVE-2011-0411: octets in the clear behind STARTTLS. Our leave may be on its way,
    /// so there is no more talking in the clear.
    pub(super) fn read_injected(&mut self, input: &BytesMut) -> bool {
        if input.is_empty() {
            return false;
        }
        self.start_tls = false;
        self.state = State::Closed;
        true
    }

    pub(super) fn line_incomplete(&mut self, now: Instant, input: &BytesMut) -> bool {
        if !input.is_empty() || self.lines.is_discarding() {
            self.timer.line_begun(now);
        }
        false
    }

    pub(super) fn bad_line(&mut self, now: Instant, error: LineError, too_long: &str) {
        self.timer.line_complete(now);
        match error {
            LineError::TooLong => self.fault(too_long),
            LineError::Bare => self.fault("500 5.5.2 Bare CR, bare LF or NUL in a command"),
            LineError::Endless => self.end("421 4.7.0 Line without end, closing connection"),
        }
    }

    fn obey(&mut self, now: Instant, command: Command, input: &BytesMut) {
        if self.config.require_tls && self.tls.is_none() && !is_allowed_in_clear(&command) {
            // RFC 3207 §4
            let refusal = "530 5.7.0 Must issue a STARTTLS command first";
            return match command {
                Command::Bdat { size, last } => self.bdat(now, size, last, Some(refusal)),
                _ => self.fault(refusal),
            };
        }
        match command {
            Command::Ehlo(name) => self.say_hello(Protocol::Smtp, name, true),
            Command::Helo(name) => self.say_hello(Protocol::Smtp, name, false),
            Command::Lhlo(name) => self.say_hello(Protocol::Lmtp, name, true),
            Command::Mail(mail) => self.mail(mail),
            Command::Rcpt(rcpt) => self.rcpt(rcpt),
            Command::Data => self.data(now),
            Command::Bdat { size, last } => self.bdat(now, size, last, None),
            Command::StartTls => self.starttls(input),
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial),
            Command::Rset => {
                self.end_transaction();
                self.idle("250 2.0.0 OK");
            }
            Command::Noop => self.idle("250 2.0.0 OK"),
            Command::Quit => {
                self.end("221 2.0.0 Bye");
                self.events.push_back(Event::Quit);
            }
            // RFC 5321 §7.3: no address is given away.
            Command::Vrfy => self.idle("252 2.0.0 Cannot verify, but will try to deliver"),
            Command::Expn => self.fault("502 5.5.1 EXPN is not offered"),
            Command::Help => self.idle("214 2.0.0 See RFC 5321"),
        }
    }

    fn say_hello(&mut self, protocol: Protocol, name: Box<str>, extended: bool) {
        if self.config.protocol != protocol {
            // RFC 2033 §4.1
            return self.fault("500 5.5.1 Not the protocol spoken here");
        }
        // RFC 5321 §4.1.4
        self.end_transaction();
        if self.is_idle_too_long() {
            return;
        }
        if extended {
            let text = self.config.hostname.as_str();
            self.capabilities().to_reply(text).encode(&mut self.out);
        } else {
            self.say(&format!("250 {}", self.config.hostname));
        }
        self.events.push_back(Event::Hello { name: name.as_ref().into(), extended });
        self.hello = Some(Hello { name, extended });
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            size: Some(self.config.max_message_size),
            pipelining: true,
            chunking: true,
            eight_bit: true,
            binary: self.config.binary,
            smtputf8: true,
            starttls: self.config.starttls && self.tls.is_none(),
            dsn: true,
            enhanced: true,
            auth: self.offered_auth(),
            ..Capabilities::default()
        }
    }

    fn mail(&mut self, mail: Mail) {
        let refusal = if self.hello.is_none() {
            Some(NEED_HELLO)
        } else if self.transaction.is_some() {
            Some("503 5.5.1 A transaction is open already")
        } else if self.config.require_auth && self.user.is_none() {
            Some("530 5.7.0 Authentication required")
        } else if (mail.auth.is_some() && !self.offers_auth())
            || (mail.body == BodyKind::Binary && !self.config.binary)
            || (mail.require_tls || mail.by.is_some() || mail.hold.is_some() || mail.priority.is_some())
        {
            // RFC 5321 §4.1.1.11: it was not announced.
            Some("555 5.5.4 Parameter not recognised")
        } else if mail.size.is_some_and(|size| size > self.config.size_limit()) {
            Some("552 5.3.4 Message too large")
        } else if !mail.smtputf8 && !mail.from.is_ascii() {
            Some("553 5.6.7 The sender address needs SMTPUTF8")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.fault(refusal);
        }
        self.question = Some(Question::Mail(Transaction {
            smtputf8: mail.smtputf8,
            binary: mail.body == BodyKind::Binary,
            recipients: 0,
            content: None,
            dead: false,
        }));
        self.events.push_back(Event::Mail(mail));
    }

    fn rcpt(&mut self, rcpt: Rcpt) {
        let Some(transaction) = &self.transaction else { return self.fault(NEED_MAIL) };
        if transaction.dead {
            return self.fault(DEAD);
        }
        if transaction.content.is_some() {
            // RFC 3030 §2
            return self.fault("503 5.5.1 The content has begun already");
        }
        if transaction.recipients >= self.config.max_recipients {
            // RFC 5321 §4.5.3.1.10. No fault: the client goes on with what it has.
            if !self.is_harvesting() {
                self.say("452 4.5.3 Too many recipients");
            }
            return;
        }
        if !transaction.smtputf8 && rcpt.to.mailbox().is_some_and(|mailbox| !mailbox.is_ascii()) {
            return self.fault("553 5.6.7 The recipient address needs SMTPUTF8");
        }
        self.question = Some(Question::Rcpt);
        self.events.push_back(Event::Rcpt(rcpt));
    }

    fn starttls(&mut self, behind: &BytesMut) {
        if !self.config.starttls {
            return self.fault("502 5.5.1 STARTTLS is not offered");
        }
        if self.tls.is_some() {
            return self.fault("503 5.5.1 TLS is in use already");
        }
        if self.hello.is_none() {
            return self.fault(NEED_HELLO);
        }
        if self.transaction.is_some() {
            return self.fault("503 5.5.1 A transaction is open");
        }
        if !behind.is_empty() {
            // RFC 3207 §4: it is the last of its group, and who sent the rest is not known.
            return self.end("554 5.5.1 Nothing may follow STARTTLS, closing connection");
        }
        self.say("220 2.0.0 Ready to start TLS");
        self.start_tls = true;
        self.state = State::Handshake;
    }

    /// Counts a refused recipient; when there were too many, the session is over. The limit is high
    /// because old lists have many dead addresses, but nobody guesses names in it for ever.
    pub(super) fn is_harvesting(&mut self) -> bool {
        self.refused_recipients += 1;
        let too_many = self.refused_recipients > MAX_REFUSED;
        if too_many {
            self.end("421 4.7.0 Too many refused recipients, closing connection");
        }
        too_many
    }

    /// A reply to a command that does nothing for a message.
    fn idle(&mut self, line: &str) {
        if !self.is_idle_too_long() {
            self.say(line);
        }
    }

    /// Counts such a command; when there were too many, the session is over.
    pub(super) fn is_idle_too_long(&mut self) -> bool {
        self.idle_commands += 1;
        let too_long = self.idle_commands > self.config.max_idle_commands;
        if too_long {
            self.end("421 4.7.0 Too many commands without a message, closing connection");
        }
        too_long
    }
}

/// RFC 3207 §4
const fn is_allowed_in_clear(command: &Command) -> bool {
    use Command::{Ehlo, Helo, Lhlo, Noop, Quit, StartTls};
    matches!(command, Ehlo(_) | Helo(_) | Lhlo(_) | Noop | StartTls | Quit)
}

pub(super) const NEED_HELLO: &str = "503 5.5.1 EHLO is needed first";

/// Recipients refused between two messages: ten full transactions of RFC 5321 §4.5.3.1.8.
const MAX_REFUSED: usize = 1000;
/// The first octet of a TLS handshake, from a client that thinks TLS began with the connection.
const TLS_HANDSHAKE: u8 = 22;
