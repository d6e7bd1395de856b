//! AUTH (RFC 4954): the exchange up to the question whether the login is right, and what follows
//! from the answer.

use std::time::Instant;

use bytes::BytesMut;

use super::Event;
use super::commands::NEED_HELLO;
use super::config::AuthOffer;
use super::session::Session;
use super::state::{Exchange, Question, State};
use crate::smtp::command::InitialResponse;
use crate::smtp::sasl::{LOGIN_PASSWORD, LOGIN_USER, Login, MAX_AUTH_LINE, Mechanism, SaslError};

impl Session {
    pub(super) fn offers_auth(&self) -> bool {
        match self.config.auth {
            AuthOffer::Never => false,
            AuthOffer::UnderTls => self.tls.is_some(),
            AuthOffer::Always => true,
        }
    }

    pub(super) fn auth(&mut self, mechanism: &str, initial: Option<InitialResponse>) {
        if self.hello.is_none() {
            return self.fault(NEED_HELLO);
        }
        if self.user.is_some() {
            // RFC 4954 §4
            return self.fault("503 5.5.1 Authenticated already");
        }
        if self.transaction.is_some() {
            return self.fault("503 5.5.1 AUTH is not permitted during a transaction");
        }
        if self.config.auth == AuthOffer::Never {
            return self.fault("502 5.5.1 AUTH is not offered");
        }
        if !self.offers_auth() {
            return self.fault("538 5.7.11 Encryption is required for AUTH");
        }
        let Some(mechanism) = Mechanism::parse(mechanism) else {
            return self.fault("504 5.5.4 Mechanism not offered");
        };
        match (mechanism, initial) {
            (Mechanism::Plain, None) => self.challenge("", Exchange::Plain),
            (Mechanism::Plain, Some(answer)) => self.auth_answer(Exchange::Plain, answer),
            (Mechanism::Login, None) => self.challenge(LOGIN_USER, Exchange::LoginUser),
            (Mechanism::Login, Some(user)) => self.auth_answer(Exchange::LoginUser, user),
        }
    }

    fn challenge(&mut self, text: &str, exchange: Exchange) {
        self.say(&format!("334 {text}"));
        self.state = State::Auth(exchange);
    }

    fn auth_answer(&mut self, exchange: Exchange, answer: InitialResponse) {
        if answer.as_bytes() == b"*" {
            return self.fault("501 5.7.0 Authentication cancelled");
        }
        let login = match exchange {
            Exchange::Plain => Login::from_plain(answer.as_bytes()),
            Exchange::LoginUser => {
                return self.challenge(LOGIN_PASSWORD, Exchange::LoginPassword { user: answer });
            }
            Exchange::LoginPassword { user } => Login::from_login(user.as_bytes(), answer.as_bytes()),
        };
        match login {
            Ok(login) => {
                self.question = Some(Question::Auth { user: login.user().into() });
                self.events.push_back(Event::Auth(login));
            }
            Err(SaslError::TooLong) => self.fault("500 5.5.6 Authentication data too long"),
            Err(SaslError::ActAs) => {
                self.auth_failed();
                self.fault("535 5.7.8 Acting as another user is not offered");
            }
            Err(_) => self.fault("501 5.5.2 Malformed authentication data"),
        }
    }

    /// True when it was one too many.
    pub(super) fn auth_failed(&mut self) -> bool {
        self.auth_failures += 1;
        let enough = self.auth_failures >= self.config.max_auth_failures;
        if enough {
            self.end("421 4.7.0 Too many failed logins, closing connection");
        }
        enough
    }

    pub(super) fn read_auth(&mut self, now: Instant, input: &mut BytesMut) -> bool {
        let heard = &mut self.heard;
        let line = self.lines.next(input, MAX_AUTH_LINE, |line| {
            heard.secret();
            let answer = InitialResponse::new(line);
            line.fill(0);
            answer
        });
        if line == Ok(None) {
            return self.line_incomplete(now, input);
        }
        let State::Auth(exchange) = std::mem::replace(&mut self.state, State::Command) else { return false };
        match line {
            Ok(None) => {}
            Ok(Some(answer)) => {
                self.timer.line_complete(now);
                self.auth_answer(exchange, answer);
            }
            // RFC 4954 §4
            Err(error) => self.bad_line(now, error, "500 5.5.6 Authentication line too long"),
        }
        true
    }
}
