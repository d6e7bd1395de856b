//! AUTH (RFC 4954): the exchange up to the question whether the login is right, and what follows
//! from the answer.
//!
//! Every login that fails is put before the host, also where nothing is left to be decided, so that the
//! host can count it and let the client wait.

use std::time::Instant;

use bytes::BytesMut;
use zeroize::Zeroize;

use super::Event;
use super::commands::NEED_HELLO;
use super::config::AuthOffer;
use super::replies::mended;
use super::session::Session;
use super::state::{Awaited, Question, State};
use crate::smtp::command::InitialResponse;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::sasl::server::{Exchange, Step};
use crate::smtp::sasl::{MAX_AUTH_LINE, Mechanism, Refused, SaslError, ScramKeys};

impl Session {
    pub(super) fn offers_auth(&self) -> bool {
        self.config.mechanisms.iter().any(|mechanism| self.offers(*mechanism))
    }

    pub(super) fn offered_auth(&self) -> Vec<Mechanism> {
        self.config.mechanisms.iter().copied().filter(|mechanism| self.offers(*mechanism)).collect()
    }

    fn offers(&self, mechanism: Mechanism) -> bool {
        let is_open = match (self.config.auth, &self.tls) {
            (AuthOffer::Never, _) | (AuthOffer::UnderTls, None) => false,
            (AuthOffer::ScramInClear, None) => mechanism == Mechanism::ScramSha256,
            (_, Some(_)) | (AuthOffer::Always, None) => true,
        };
        is_open
            && self.config.mechanisms.contains(&mechanism)
            && Exchange::new(mechanism, self.tls.as_ref(), false).is_some()
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
        let mechanism = Mechanism::parse(mechanism);
        let offered = mechanism.filter(|mechanism| self.offers(*mechanism));
        let is_known = mechanism.is_some_and(|mechanism| self.config.mechanisms.contains(&mechanism));
        if offered.is_none() && self.tls.is_none() && (is_known || !self.offers_auth()) {
            return self.fault("538 5.7.11 Encryption is required for AUTH");
        }
        let plus = self.offers(Mechanism::ScramSha256Plus);
        let exchange = offered.and_then(|mechanism| Exchange::new(mechanism, self.tls.as_ref(), plus));
        let Some(mut exchange) = exchange else {
            return self.fault("504 5.5.4 Mechanism not offered");
        };
        let initial = initial.as_ref().map(InitialResponse::as_bytes);
        if initial == Some(b"*") {
            return self.fault(CANCELLED);
        }
        let step = exchange.begin(initial);
        self.auth_step(exchange, step);
    }

    fn auth_step(&mut self, exchange: Exchange, step: Result<Step, SaslError>) {
        match step {
            Ok(Step::Challenge(challenge)) => {
                self.challenge(&challenge);
                self.state = State::Auth(Awaited::Challenge(exchange));
            }
            Ok(Step::Keys) => {
                self.events.push_back(Event::AuthKeys { user: exchange.user().unwrap_or_default().into() });
                self.question = Some(Question::Keys(exchange));
            }
            Ok(Step::Login(login)) => {
                let (user, mechanism) = (login.user().into(), login.mechanism());
                self.question = Some(Question::Auth { user, mechanism });
                self.events.push_back(Event::Auth(login));
            }
            Err(SaslError::TooLong) => self.fault("500 5.5.6 Authentication data too long"),
            Err(SaslError::NoRandom) => self.fault("454 4.7.0 Temporary authentication failure"),
            Err(why @ (SaslError::ActAs | SaslError::Binding | SaslError::Proof)) => {
                let (mechanism, user) = (exchange.mechanism(), exchange.user().map(Into::into));
                self.question = Some(Question::Refused);
                self.events.push_back(Event::AuthFailed(Refused { mechanism, user, why }));
            }
            Err(_) => self.fault("501 5.5.2 Malformed authentication data"),
        }
    }

    pub(super) fn auth_keys(&mut self, mut exchange: Exchange, keys: Option<ScramKeys>) {
        let step = exchange.keys(keys, &self.config.nonces, &self.config.decoy);
        self.auth_step(exchange, step);
    }

    fn challenge(&mut self, challenge: &[u8]) {
        self.out.extend_from_slice(b"334 ");
        self.out.extend_from_slice(challenge);
        self.out.extend_from_slice(b"\r\n");
    }

    /// The host refused a login: by `mechanism`, when it was asked about one.
    pub(super) fn auth_refused(&mut self, mechanism: Option<Mechanism>, reply: &Reply) {
        if self.auth_failed() {
            return;
        }
        let refusal = match mended(reply) {
            // What has failed is not made right by a host that says yes to everything.
            _ if reply.is_positive() => Reply::new(535, EnhancedCode::new(5, 7, 8), "Authentication failed"),
            Some(mended) => mended,
            None => reply.clone(),
        };
        match mechanism.and_then(Exchange::refusal) {
            Some(challenge) if refusal.is_permanent() => {
                self.challenge(challenge.as_bytes());
                self.state = State::Auth(Awaited::Refusal(refusal));
            }
            _ => self.refuse_login(&refusal),
        }
        self.settle();
    }

    fn refuse_login(&mut self, refusal: &Reply) {
        refusal.encode(&mut self.out);
        if refusal.code() == 421 {
            // RFC 5321 §3.8
            self.state = State::Closed;
        }
    }

    /// True when it was one too many.
    fn auth_failed(&mut self) -> bool {
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
            line.zeroize();
            answer
        });
        if line == Ok(None) {
            return self.line_incomplete(now, input);
        }
        let State::Auth(awaited) = std::mem::replace(&mut self.state, State::Command) else { return false };
        match (line, awaited) {
            (Ok(None), _) => {}
            (Ok(Some(answer)), Awaited::Challenge(_)) if answer.as_bytes() == b"*" => {
                self.timer.line_complete(now);
                self.fault(CANCELLED);
            }
            (Ok(Some(answer)), Awaited::Challenge(mut exchange)) => {
                self.timer.line_complete(now);
                let step = exchange.answer(answer.as_bytes());
                self.auth_step(exchange, step);
            }
            (Ok(Some(_)), Awaited::Refusal(refusal)) => {
                self.timer.line_complete(now);
                self.refuse_login(&refusal);
            }
            // RFC 4954 §4
            (Err(error), _) => self.bad_line(now, error, "500 5.5.6 Authentication line too long"),
        }
        true
    }
}

/// RFC 4954 §4
const CANCELLED: &str = "501 5.7.0 Authentication cancelled";
