//! What the session says by itself, and what it makes of a host's replies.

use super::opening::REFUSED_COMMANDS;
use super::session::Session;
use super::state::State;
use crate::smtp::reply::{EnhancedCode, Reply};

impl Session {
    pub(super) fn say(&mut self, line: &str) {
        self.out.extend_from_slice(line.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// A refusal for which the client is to blame.
    pub(super) fn fault(&mut self, line: &str) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.errors += 1;
        let most = if self.refused.is_some() { REFUSED_COMMANDS } else { self.config.max_errors };
        if self.errors >= most {
            self.end("421 4.7.0 Too many errors, closing connection");
        } else {
            self.say(line);
        }
    }

    /// A refusal that follows from one before, or else the client's fault. It counts as another refused
    /// recipient, so that there is an end to it.
    pub(super) fn consequence(&mut self, line: &str) {
        if !self.refused_before {
            return self.fault(line);
        }
        if !self.is_harvesting() {
            self.say(line);
        }
    }

    /// The last words.
    pub(super) fn end(&mut self, line: &str) {
        self.abort_message();
        if !self.is_between_tls() {
            self.say(line);
        }
        self.start_tls = false;
        self.state = State::Closed;
    }

    /// Behind our 220 nothing more may be said in the clear: the client reads it as TLS.
    pub(super) const fn is_between_tls(&self) -> bool {
        matches!(self.state, State::Handshake)
    }
}

/// The reply that goes over the wire instead of a host's, where that lacks something.
pub(super) fn mended(reply: &Reply) -> Option<Reply> {
    let class = match reply.code() / 100 {
        2 => 2,
        4 => 4,
        5 => 5,
        _ => return Some(Reply::new(451, EnhancedCode::new(4, 3, 0), reply.text())),
    };
    match reply.enhanced() {
        Some(code) if code.class == class => None,
        _ => Some(Reply::new(reply.code(), EnhancedCode::new(class, 0, 0), reply.text())),
    }
}
