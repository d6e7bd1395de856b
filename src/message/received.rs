//! A Received field is the stamp that each host puts on a message it takes (RFC 5321 §4.4).
//!
//! Most of what it tells comes from the peer. A name that is no domain goes into a comment, with
//! everything replaced that could end the comment or the field.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;

use super::date::DateTime;
use super::field::{one_line, write_field};
use super::id::MessageId;
use crate::clock::Timestamp;
use crate::smtp::address::{Domain, EhloName, ForwardPath};
use crate::smtp::decimal::push_literal;
use crate::smtp::params::{Priority, Rcpt};

/// What a Received field tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Who took the message: our own name.
    pub by: EhloName,
    /// Under which id.
    pub id: MessageId,
    /// When.
    pub now: Timestamp,
    /// The name that the client gave in EHLO, HELO or LHLO, unchecked. `None` when the message came
    /// from the host program itself.
    pub hello: Option<Box<str>>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// How it was taken.
    pub with: With,
    /// The TLS of the session in words, such as `TLSv1.3 TLS13_AES_256_GCM_SHA384`; it also makes
    /// `with` say so.
    pub tls: Option<Box<str>>,
    /// The recipient, where there is only one: naming one of several would tell the others' (RFC
    /// 5321 §7.6). See [`Received::single`].
    pub recipient: Option<ForwardPath>,
    /// How urgent the message is, where its sender said so (RFC 6710 §4.1).
    pub priority: Option<Priority>,
}

/// The protocol by which a message was taken (RFC 3848, RFC 6531 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct With {
    /// EHLO was used; HELO otherwise. Without it the protocol is plain `SMTP`.
    pub extended: bool,
    /// The session is LMTP (RFC 2033).
    pub lmtp: bool,
    /// The client has authenticated.
    pub authenticated: bool,
    /// MAIL had SMTPUTF8.
    pub smtputf8: bool,
}

impl With {
    /// A session begun with EHLO.
    #[must_use]
    pub const fn extended() -> Self {
        Self { extended: true, lmtp: false, authenticated: false, smtputf8: false }
    }

    /// The registered keyword; `tls` is whether the session has TLS.
    #[must_use]
    pub const fn keyword(self, tls: bool) -> &'static str {
        let [plain, a, s, sa] = match (self.smtputf8, self.lmtp, self.extended) {
            (true, true, _) => ["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"],
            (true, false, _) => ["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"],
            (false, true, _) => ["LMTP", "LMTPA", "LMTPS", "LMTPSA"],
            (false, false, true) => ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"],
            // There is no keyword for TLS or AUTH without EHLO.
            (false, false, false) => ["SMTP"; 4],
        };
        match (tls, self.authenticated) {
            (false, false) => plain,
            (false, true) => a,
            (true, false) => s,
            (true, true) => sa,
        }
    }
}

impl Received {
    /// A message taken by us under this id, from the host program itself; set what else is known.
    #[must_use]
    pub const fn new(by: EhloName, id: MessageId, now: Timestamp) -> Self {
        let with = With::extended();
        Self { by, id, now, hello: None, address: None, with, tls: None, recipient: None, priority: None }
    }

    /// The recipient to name: the only one, or none.
    #[must_use]
    pub fn single(recipients: &[Rcpt]) -> Option<ForwardPath> {
        match recipients {
            [only] => Some(only.to.clone()),
            _ => None,
        }
    }

    /// The field, folded, with its line end.
    #[must_use]
    pub fn to_field(&self) -> Bytes {
        let mut value = String::with_capacity(256);
        self.from(&mut value);
        push(&mut value, &["by ", self.by.as_str()]);
        if self.hello.is_some() {
            push(&mut value, &[" with ", self.with.keyword(self.tls.is_some())]);
        }
        if let Some(tls) = &self.tls {
            push(&mut value, &[" (", &comment(tls), ")"]);
        }
        value.push_str(" id ");
        self.id.push_to(&mut value);
        self.recipient(&mut value);
        if let Some(priority) = self.priority {
            // Writing into a string does not fail.
            let _ = write!(value, " PRIORITY {priority}");
        }
        value.push_str("; ");
        DateTime(self.now).push_to(&mut value);
        let mut field = Vec::with_capacity(value.len() + 24);
        // No word above is longer than a line, and none holds a control character.
        let written = write_field(&mut field, "Received", &value);
        debug_assert!(written.is_ok(), "{written:?}: {value:?}");
        field.into()
    }

    // RFC 5321 §4.4: From-domain with TCP-info.
    fn from(&self, value: &mut String) {
        let Some(hello) = &self.hello else { return };
        value.push_str("from ");
        match (Domain::parse(hello), self.address) {
            (Ok(name), None) => push(value, &[name.as_str(), " "]),
            (Ok(name), Some(address)) => {
                push(value, &[name.as_str(), " ("]);
                push_literal(value, address);
                value.push_str(") ");
            }
            (Err(_), address) => {
                match address {
                    Some(address) => push_literal(value, address),
                    None => value.push_str("unknown"),
                }
                push(value, &[" (said ", &comment(hello), ") "]);
            }
        }
    }

    /// Names the recipient, unless that has no form that a header without UTF-8 can hold, and the message is
    /// not one with it.
    fn recipient(&self, value: &mut String) {
        let before = value.len();
        match &self.recipient {
            Some(ForwardPath::Mailbox(mailbox)) if !self.with.smtputf8 => {
                if !mailbox.local().is_ascii() {
                    return;
                }
                push(value, &[" for <", mailbox.local(), "@", mailbox.domain().as_str(), ">"]);
            }
            Some(path) => {
                push(value, &[" for ", &path.to_string()]);
            }
            None => return,
        }
        // U-labels can be four times as long as the domain that they name; a word longer than a line
        // would cost the whole field.
        if value.len() - before > " for ".len() + MAX_PATH {
            value.truncate(before);
        }
    }
}

fn push(value: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| value.push_str(part));
}

/// Text as the inside of a comment (RFC 5322 §3.2.2).
fn comment(text: &str) -> String {
    one_line(text, MAX_COMMENT, false).replace(['(', ')', '\\'], "?")
}

/// A local part of 255 octets and a domain in A-labels, with what stands around them.
const MAX_PATH: usize = 512;
/// A domain has 253 characters at most; what is longer is no mistake but malice.
const MAX_COMMENT: usize = 255;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Rng;
    use crate::message::header::Header;

    fn received(hello: &str) -> Received {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let mut received =
            Received::new(EhloName::new("mx.b.test").unwrap(), MessageId::new(now, &Rng::seeded(1)), now);
        received.hello = Some(hello.into());
        received.address = Some("192.0.2.7".parse().unwrap());
        received
    }

    fn unfolded(received: &Received) -> String {
        let field = received.to_field();
        let header = Header::scan(&field).unwrap();
        assert_eq!((header.octets(), header.fields().count()), (&field[..], 1));
        assert!(field.split(|b| *b == b'\n').all(|line| line.len() <= 79), "{field:?}");
        String::from_utf8(header.first("Received").unwrap().unfolded().into_owned()).unwrap()
    }

    #[test]
    fn the_field_tells_who_gave_it_how_to_whom_and_when() {
        let mut received = received("Mail.A.test");
        let id = received.id;
        assert_eq!(
            unfolded(&received),
            format!(
                "from mail.a.test ([192.0.2.7]) by mx.b.test with ESMTP id {id}; \
                 Mon, 21 Sep 2026 14:13:20 +0000"
            )
        );
        received.tls = Some("TLSv1.3 X".into());
        received.with.authenticated = true;
        let rcpt = |text| Rcpt::parse(text).unwrap();
        received.recipient = Received::single(&[rcpt("<u@b.test>")]);
        received.address = Some("2001:db8::1".parse().unwrap());
        assert_eq!(
            unfolded(&received),
            format!(
                "from mail.a.test ([IPv6:2001:db8::1]) by mx.b.test with ESMTPSA (TLSv1.3 X) id {id} \
                 for <u@b.test>; Mon, 21 Sep 2026 14:13:20 +0000"
            )
        );
        assert_eq!(Received::single(&[rcpt("<u@b.test>"), rcpt("<v@b.test>")]), None);
        received.priority = Priority::new(-3).ok();
        assert!(unfolded(&received).contains(" for <u@b.test> PRIORITY -3; Mon"));
    }

    #[test]
    fn the_protocol_has_its_registered_keyword() {
        // RFC 3848, RFC 6531 §4.3
        let with = |extended, lmtp, authenticated, smtputf8| With { extended, lmtp, authenticated, smtputf8 };
        for (with, tls, keyword) in [
            (with(false, false, false, false), false, "SMTP"),
            (with(false, false, false, false), true, "SMTP"),
            (with(true, false, false, false), false, "ESMTP"),
            (with(true, false, true, false), false, "ESMTPA"),
            (with(true, false, false, false), true, "ESMTPS"),
            (with(true, false, true, false), true, "ESMTPSA"),
            (with(true, true, false, false), false, "LMTP"),
            (with(true, true, true, false), true, "LMTPSA"),
            (with(true, false, false, true), false, "UTF8SMTP"),
            (with(true, false, true, true), true, "UTF8SMTPSA"),
            (with(true, true, false, true), true, "UTF8LMTPS"),
        ] {
            assert_eq!(with.keyword(tls), keyword);
        }
    }

    #[test]
    fn a_hostile_name_stays_inside_its_comment() {
        let text = unfolded(&received("x) by evil.test (\\\r\nBcc: a@b\0é"));
        assert!(
            text.starts_with("from [192.0.2.7] (said x? by evil.test ?? Bcc: a@b ?) by mx.b.test"),
            "{text}"
        );
        assert!(unfolded(&received("")).starts_with("from [192.0.2.7] (said ) by mx.b.test"));
    }

    #[test]
    fn an_address_with_utf8_is_named_only_in_a_message_with_utf8() {
        let mut received = received("a.test");
        received.recipient = Some(ForwardPath::parse("grün@b.test").unwrap());
        assert!(!unfolded(&received).contains(" for "));
        received.with.smtputf8 = true;
        assert!(unfolded(&received).contains(" with UTF8SMTP id") && unfolded(&received).contains("<grün@b"));
        received.with.smtputf8 = false;
        received.recipient = Some(ForwardPath::parse("x@bücher.test").unwrap());
        assert!(unfolded(&received).contains(" for <x@xn--bcher-kva.test>;"));
    }

    #[test]
    fn a_recipient_longer_than_a_line_is_not_named_and_the_rest_is() {
        let label = "\u{4e2d}".repeat(50);
        let path = format!("x@{label}.{label}.{label}.{label}.test");
        assert!(path.len() > MAX_PATH);
        let mut received = received("a.test");
        received.recipient = Some(ForwardPath::parse(&path).unwrap());
        received.with.smtputf8 = true;
        assert!(!unfolded(&received).contains(" for ") && unfolded(&received).contains("; Mon, "));
        received.with.smtputf8 = false;
        // In A-labels it is one word of a line of its own.
        assert!(memchr::memmem::find(&received.to_field(), b"<x@xn--").is_some());
    }

    proptest! {
        #[test]
        fn no_name_makes_a_second_field(hello in "(?s).{0,400}", tls in "(?s).{0,40}") {
            let mut received = received(&hello);
            received.tls = Some(tls.into());
            let field = received.to_field();
            let header = Header::scan(&field).unwrap();
            prop_assert_eq!(header.fields().count(), 1);
            prop_assert_eq!(header.octets(), &field[..]);
            prop_assert!(field.is_ascii() && crate::message::body::is_clean_crlf(&field));
        }
    }
}
