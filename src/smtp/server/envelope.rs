//! MAIL and RCPT: what is checked before the host is asked.
//!
//! A parameter is acceptable only where its extension was announced, and within what was announced.
//! Whether it will be kept is the host's promise: it switched the extension on.

use std::time::Instant;

use super::Event;
use super::commands::NEED_HELLO;
use super::config::AuthOffer;
use super::content::{CONTENT_BEGUN, DEAD, NEED_MAIL};
use super::session::Session;
use super::state::{Question, Transaction};
use crate::smtp::capability::FutureRelease;
use crate::smtp::params::{BodyKind, ByMode, DeliverBy, Hold, Mail, Rcpt};

impl Session {
    pub(super) fn mail(&mut self, now: Instant, mail: Mail) {
        let refusal = if self.hello.is_none() {
            Some(NEED_HELLO)
        } else if self.transaction.is_some() {
            Some("503 5.5.1 A transaction is open already")
        } else if self.config.require_auth && self.user.is_none() {
            Some("530 5.7.0 Authentication required")
        } else if self.config.max_messages.is_some_and(|max| self.messages >= max) {
            // RFC 9422 §4.1 leaves the reply open; 421 is the one that says: come again.
            return self.end("421 4.7.0 Too many messages in one session, closing connection");
        } else {
            self.mail_refusal(now, &mail)
        };
        if let Some(refusal) = refusal {
            return self.fault(refusal);
        }
        self.question = Some(Question::Mail(Transaction {
            smtputf8: mail.smtputf8,
            binary: mail.body == BodyKind::Binary,
            recipients: 0,
            domains: Vec::new(),
            content: None,
            dead: false,
        }));
        self.events.push_back(Event::Mail(mail));
    }

    /// What is wrong with the parameters.
    fn mail_refusal(&self, now: Instant, mail: &Mail) -> Option<&'static str> {
        let config = &self.config;
        // RFC 5321 §2.2.1, §4.1.1.11: HELO asked for no extension.
        if !self.is_extended() && *mail != Mail::new(mail.from.clone())
            || mail.auth.is_some() && !self.offers_auth()
            || mail.body == BodyKind::Binary && !config.binary
            || mail.require_tls && !self.offers_require_tls()
            || mail.by.is_some() && config.deliver_by.is_none()
            || mail.priority.is_some() && !config.priority
        {
            return Some(NOT_ANNOUNCED);
        }
        if mail.size.is_some_and(|size| size > config.size_limit()) {
            return Some("552 5.3.4 Message too large");
        }
        if !mail.smtputf8 && !mail.from.is_ascii() {
            return Some("553 5.6.7 The sender address needs SMTPUTF8");
        }
        if mail.by.is_some_and(|by| is_too_soon(by, config.deliver_by.unwrap_or(0))) {
            // RFC 2852 §4
            return Some("553 5.4.7 Delivery within that time cannot be promised");
        }
        mail.hold.and_then(|hold| self.hold_refusal(now, hold))
    }

    /// RFC 4865 §4
    fn hold_refusal(&self, now: Instant, hold: Hold) -> Option<&'static str> {
        let Some(longest) = self.future_release(now) else { return Some(NOT_ANNOUNCED) };
        if self.config.auth != AuthOffer::Never && self.user.is_none() {
            return Some("530 5.7.0 Authentication required to hold mail");
        }
        let too_long = match hold {
            Hold::For(seconds) => seconds > longest.interval,
            Hold::Until(time) => time > longest.until,
        };
        too_long.then_some("501 5.5.4 Mail is not held for so long")
    }

    pub(super) fn offers_require_tls(&self) -> bool {
        // RFC 8689 §2
        self.config.offer_require_tls && self.tls.is_some()
    }

    /// How long mail is held at most, where that is offered and the time is known.
    pub(super) fn future_release(&self, now: Instant) -> Option<FutureRelease> {
        let interval = self.config.future_release?;
        let (unix, then) = self.wall?;
        let wall = unix.saturating_add(now.saturating_duration_since(then).as_secs());
        Some(FutureRelease { interval, until: wall.saturating_add(interval.into()) })
    }

    pub(super) fn rcpt(&mut self, rcpt: Rcpt) {
        let Some(transaction) = &self.transaction else { return self.consequence(NEED_MAIL) };
        if transaction.dead {
            return self.fault(DEAD);
        }
        if transaction.content.is_some() {
            // RFC 3030 §2
            return self.fault(CONTENT_BEGUN);
        }
        if !self.is_extended() && (rcpt.notify.is_some() || rcpt.orcpt.is_some()) {
            return self.fault(NOT_ANNOUNCED);
        }
        if transaction.recipients >= self.config.max_recipients {
            return self.left_over("452 4.5.3 Too many recipients");
        }
        let mailbox = rcpt.to.mailbox();
        // Kept only where somebody counts them.
        let mut domain = mailbox.filter(|_| self.config.max_recipient_domains.is_some()).map(|m| m.domain());
        domain = domain.filter(|domain| !transaction.domains.contains(domain));
        if let (Some(_), Some(max)) = (domain, self.config.max_recipient_domains)
            && u32::try_from(transaction.domains.len()).is_ok_and(|domains| domains >= max)
        {
            return self.left_over("452 4.5.3 Too many recipient domains");
        }
        if !transaction.smtputf8 && mailbox.is_some_and(|mailbox| !mailbox.is_ascii()) {
            return self.fault("553 5.6.7 The recipient address needs SMTPUTF8");
        }
        self.question = Some(Question::Rcpt { domain: domain.cloned() });
        self.events.push_back(Event::Rcpt(rcpt));
    }

    /// A recipient for the next transaction (RFC 5321 §4.5.3.1.10, RFC 9422 §4). No fault: the client
    /// goes on with what it has.
    fn left_over(&mut self, line: &str) {
        if !self.is_harvesting() {
            self.say(line);
        }
    }
}

/// The least time counts for mail that is returned when it is late.
fn is_too_soon(by: DeliverBy, least: u32) -> bool {
    by.mode == ByMode::Return && i64::from(by.seconds) < i64::from(least)
}

/// RFC 5321 §4.1.1.11
const NOT_ANNOUNCED: &str = "555 5.5.4 Parameter not recognised";
