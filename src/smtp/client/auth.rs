//! AUTH (RFC 4954): one mechanism after the other, the strongest first, until one is there.
//!
//! Only a mechanism that the server does not have after all, or finds too weak (504, 534), gives way to
//! the next. A refused login is final: trying it in a weaker way would only show the password.

use bytes::BufMut;

use super::pipeline::Command;
use super::state::State;
use super::{Event, Failure, Session};
use crate::smtp::capability::Limits;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::client::Exchange;
use crate::smtp::sasl::{Mechanism, SaslError, secret_line};

/// How far the login is.
#[derive(Debug, Default)]
pub(super) struct Auth {
    exchange: Option<Exchange>,
    tried: Vec<Mechanism>,
    /// What was wrong with the server's side; the exchange was cancelled.
    fault: Option<SaslError>,
}

impl Session {
    pub(super) fn log_in(&mut self) {
        match &self.config.credentials {
            None => self.ready(),
            Some(_) if !self.is_encrypted && !self.config.auth_in_clear => self.fail(Failure::AuthInClear),
            Some(_) => self.try_next(None),
        }
    }

    /// Begins AUTH by the strongest mechanism that both sides have and that was not tried.
    fn try_next(&mut self, refused: Option<Reply>) {
        let order = if self.is_encrypted { &UNDER_TLS[..] } else { &IN_CLEAR[..] };
        let usable = |mechanism: &Mechanism| {
            self.caps.auth.contains(mechanism)
                && self.config.mechanisms.contains(mechanism)
                && !self.auth.tried.contains(mechanism)
        };
        let exchange = order.iter().copied().filter(usable).find_map(|mechanism| self.exchange(mechanism));
        let Some(mut exchange) = exchange else { return self.fail(Failure::Auth(refused)) };
        let mechanism = exchange.mechanism();
        let command = format!("AUTH {}", mechanism.as_str());
        // RFC 4954 §4: an initial response must not make the line longer than a command may be.
        let initial = exchange.initial(MAX_COMMAND_LINE.saturating_sub(command.len() + 3));
        self.auth.tried.push(mechanism);
        self.auth.exchange = Some(exchange);
        self.state = State::LoggingIn;
        match initial {
            Some(answer) => self.pipe.secret(secret_line(&(command + " "), &answer)),
            None => self.pipe.command(Command::Auth, |to| {
                to.put_slice(command.as_bytes());
                to.put_slice(b"\r\n");
            }),
        }
    }

    fn exchange(&self, mechanism: Mechanism) -> Option<Exchange> {
        let credentials = self.config.credentials.as_ref()?;
        // Whoever may not use channel binding does not claim to know it.
        let knows_binding = self.config.mechanisms.contains(&Mechanism::ScramSha256Plus);
        let binding = self.tls.as_ref().and_then(|tls| tls.binding.as_ref()).filter(|_| knows_binding);
        Exchange::new(mechanism, credentials, binding, &self.config.nonces)
    }

    pub(super) fn logging_in(&mut self, reply: Reply) {
        let Some(exchange) = &mut self.auth.exchange else { return };
        if let Some(fault) = self.auth.fault {
            return self.fail(Failure::AuthExchange(fault));
        }
        if reply.is_positive() {
            return match exchange.succeeded() {
                Ok(()) => self.logged_in(),
                Err(fault) => self.fail(Failure::AuthExchange(fault)),
            };
        }
        if !reply.is_intermediate() {
            return match reply.code() {
                504 | 534 => self.try_next(Some(reply)),
                _ => self.fail(Failure::Auth(Some(reply))),
            };
        }
        match exchange.challenge(reply.text().as_bytes()) {
            Ok(answer) => self.pipe.secret(secret_line("", &answer)),
            Err(fault) => {
                self.auth.fault = Some(fault);
                // RFC 4954 §4: this cancels.
                self.pipe.command(Command::Auth, |to| to.put_slice(b"*\r\n"));
            }
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

    pub(super) fn ready(&mut self) {
        self.auth = Auth::default();
        self.state = State::Ready;
        self.pipe.event(Event::Ready);
    }
}

/// The strongest first. CRAM-MD5 hides a password no better than TLS does, and lets the server's end
/// guess; LOGIN does the same as PLAIN, less defined.
const UNDER_TLS: [Mechanism; 8] = Mechanism::ALL;
/// What shows least to a listener first. A certificate proves nothing without TLS.
const IN_CLEAR: [Mechanism; 6] = [
    Mechanism::ScramSha256,
    Mechanism::CramMd5,
    Mechanism::OAuthBearer,
    Mechanism::XOAuth2,
    Mechanism::Plain,
    Mechanism::Login,
];

/// RFC 5321 §4.5.3.1.4, line end included.
const MAX_COMMAND_LINE: usize = 512;
