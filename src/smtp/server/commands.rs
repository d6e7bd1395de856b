//! The obeying of commands: each one checked against where the dialogue is, then answered or asked
//! about.

use std::time::Instant;

use bytes::BytesMut;
use zeroize::Zeroize;

use super::Event;
use super::config::Protocol;
use super::content::CONTENT_BEGUN;
use super::opening::{REFUSED, REFUSED_CHUNK};
use super::session::{Hello, Session};
use super::state::{Question, State};
use crate::smtp::capability::Capabilities;
use crate::smtp::command::{Command, CommandError, Lookup};
use crate::smtp::line::{LineError, MAX_COMMAND_LINE};
use crate::smtp::reply::Reply;
use crate::smtp::sasl::MAX_AUTH_LINE;

impl Session {
    pub(super) fn read_command(&mut self, now: Instant, input: &mut BytesMut) -> bool {
        if input.first() == Some(&TLS_HANDSHAKE) && !self.lines.is_discarding() {
            self.end(CommandError::Foreign.reply());
            return true;
        }
        let auth = input.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let max = if auth { MAX_AUTH_LINE } else { MAX_COMMAND_LINE };
        let heard = &mut self.heard;
        let line = self.lines.next(input, max, |line| {
            let command = Command::parse(line);
            heard.command(line, &command);
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
        if self.refused.is_some() && !matches!(command, Command::Quit) {
            return match command {
                // Its octets are not worth the wait.
                Command::Bdat { .. } => self.end(REFUSED_CHUNK),
                _ => self.fault(REFUSED),
            };
        }
        if self.config.require_tls && self.tls.is_none() && !is_allowed_in_clear(&command) {
            // RFC 3207 §4
            let refusal = "530 5.7.0 Must issue a STARTTLS command first";
            return match command {
                Command::Bdat { size, last } => self.bdat(now, size, last, Some(refusal)),
                _ => self.fault(refusal),
            };
        }
        match command {
            Command::Ehlo(name) => self.say_hello(now, Protocol::Smtp, name, true),
            Command::Helo(name) => self.say_hello(now, Protocol::Smtp, name, false),
            Command::Lhlo(name) => self.say_hello(now, Protocol::Lmtp, name, true),
            Command::Mail(mail) => self.mail(now, mail),
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
            Command::Vrfy(lookup) => self.look_up(lookup, Verb::Vrfy),
            Command::Expn(lookup) => self.look_up(lookup, Verb::Expn),
            Command::Help => {
                let help = self.help();
                self.idle(&help);
            }
            Command::Xclient(told) => self.xclient(told),
        }
    }

    /// RFC 5321 §3.5
    fn look_up(&mut self, lookup: Lookup, verb: Verb) {
        if !lookup.smtputf8 && !lookup.text.is_ascii() {
            // RFC 6531 §3.7.4.2
            return self.fault("553 5.6.7 The argument needs SMTPUTF8");
        }
        let asks = match verb {
            Verb::Vrfy => self.config.vrfy,
            Verb::Expn => self.config.expn,
        };
        if asks && self.transaction.as_ref().is_some_and(|transaction| transaction.content.is_some()) {
            // Between two chunks the host is busy with the message, and answers nothing else.
            return self.fault(CONTENT_BEGUN);
        }
        if asks {
            // Each counts, so that nobody guesses names for ever.
            if !self.is_idle_too_long() {
                self.question = Some(Question::Lookup { smtputf8: lookup.smtputf8 });
                self.events.push_back(match verb {
                    Verb::Vrfy => Event::Vrfy(lookup),
                    Verb::Expn => Event::Expn(lookup),
                });
            }
            return;
        }
        match verb {
            // RFC 5321 §7.3: no address is given away.
            Verb::Vrfy => self.idle("252 2.0.0 Cannot verify, but will try to deliver"),
            Verb::Expn => self.fault("502 5.5.1 EXPN is not offered"),
        }
    }

    /// What can be said here.
    fn help(&self) -> String {
        let hello = match self.config.protocol {
            Protocol::Smtp => "EHLO HELO",
            Protocol::Lmtp => "LHLO",
        };
        let on = |on: bool, verb: &'static str| if on { verb } else { "" };
        let starttls = on(self.config.starttls && self.tls.is_none(), " STARTTLS");
        let auth = on(self.offers_auth(), " AUTH");
        let expn = on(self.config.expn, " EXPN");
        format!(
            "214-2.0.0 {hello}{starttls}{auth} MAIL RCPT DATA BDAT RSET NOOP VRFY{expn} HELP QUIT\r\n\
             214 2.0.0 RFC 5321 tells the rest"
        )
    }

    fn say_hello(&mut self, now: Instant, protocol: Protocol, name: Box<str>, extended: bool) {
        if self.config.protocol != protocol {
            // RFC 2033 §4.1
            return self.fault("500 5.5.1 Not the protocol spoken here");
        }
        // RFC 5321 §4.1.4
        self.end_transaction();
        if self.is_idle_too_long() {
            return;
        }
        self.end_trust();
        if extended {
            let text = self.config.hostname.as_str();
            self.capabilities(now).to_reply(text).encode(&mut self.out);
        } else {
            self.say(&format!("250 {}", self.config.hostname));
        }
        self.events.push_back(Event::Hello { name: name.as_ref().into(), extended });
        self.hello = Some(Hello { name, extended });
    }

    fn capabilities(&self, now: Instant) -> Capabilities {
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
            require_tls: self.offers_require_tls(),
            limits: self.config.limits(),
            deliver_by: self.config.deliver_by,
            future_release: self.future_release(now),
            priority: self.config.priority,
            xclient: self.trusted,
        }
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

/// Which of the two lookups.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Vrfy,
    Expn,
}

/// What a client is told in place of a host's answer to VRFY or EXPN that it cannot be given.
pub(super) fn lookup_refusal(reply: &Reply, smtputf8: bool) -> Option<&'static str> {
    if reply.text().len() > MAX_LOOKUP || reply.lines().any(|line| line.len() > MAX_LOOKUP_LINE) {
        return Some("550 5.3.4 The answer is too long");
    }
    // RFC 6531 §3.7.4.2
    (!smtputf8 && !reply.text().is_ascii()).then_some("553 5.6.8 The answer needs SMTPUTF8")
}

/// RFC 3207 §4
const fn is_allowed_in_clear(command: &Command) -> bool {
    use Command::{Ehlo, Helo, Lhlo, Noop, Quit, StartTls};
    matches!(command, Ehlo(_) | Helo(_) | Lhlo(_) | Noop | StartTls | Quit)
}

pub(super) const NEED_HELLO: &str = "503 5.5.1 EHLO is needed first";

/// Recipients refused between two messages: ten full transactions of RFC 5321 §4.5.3.1.8.
const MAX_REFUSED: usize = 1000;
/// A list of some hundred people; whoever needs more of it should ask its owner.
const MAX_LOOKUP: usize = 16 * 1024;
/// RFC 5321 §4.5.3.1.5: 512 octets with the codes and CRLF.
const MAX_LOOKUP_LINE: usize = 490;
/// The first octet of a TLS handshake, from a client that thinks TLS began with the connection.
const TLS_HANDSHAKE: u8 = 22;
