//! The commands of an envelope, written with just those parameters that the server offers.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};

use super::{BeginError, Feature, Transaction};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::capability::Capabilities;
use crate::smtp::decimal::put_number;
use crate::smtp::params::{BodyKind, ByMode, Hold, Mail, Notify, Rcpt, Ret};

/// How paths are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// In ASCII, domains in A-labels.
    Ascii,
    /// As they are, with SMTPUTF8.
    Utf8,
}

/// Whether the server can carry the message, and how its paths are to be written.
pub(super) fn check(
    caps: &Capabilities,
    chunking: bool,
    transaction: &Transaction,
) -> Result<Spelling, BeginError> {
    let lacks = |lack| Err(BeginError::Lacks(lack));
    // RFC 1870 §3: 0 is no fixed limit.
    if caps.size.is_some_and(|limit| limit > 0 && transaction.size > limit) {
        return lacks(Feature::Size);
    }
    match transaction.mail.body {
        BodyKind::EightBit if !caps.eight_bit => return lacks(Feature::EightBit),
        BodyKind::Binary if !(caps.binary && caps.chunking && chunking) => return lacks(Feature::Binary),
        _ => {}
    }
    // Announced under TLS only: the capabilities of a session in clear never have it.
    if transaction.mail.require_tls && !caps.require_tls {
        return lacks(Feature::RequireTls);
    }
    // RFC 2852 §4.1.4.1: what is to be returned when it is late goes to no host that does not know of it.
    if transaction.mail.by.is_some_and(|by| by.mode == ByMode::Return && !caps.takes_time(by)) {
        return lacks(Feature::DeliverBy);
    }
    // RFC 4865 §4.1: no longer than announced; sent without it, it would be there before its time.
    if transaction.mail.hold.is_some_and(|hold| !takes_hold(caps, hold)) {
        return lacks(Feature::FutureRelease);
    }
    // RFC 6531 §3.2; a domain alone has a form that every server takes.
    let needs = |mailbox: Option<&Mailbox>| mailbox.is_some_and(|m| !m.local().is_ascii());
    let utf8 = transaction.mail.smtputf8
        || needs(transaction.mail.from.mailbox())
        || transaction.recipients.iter().any(|r| needs(r.to.mailbox()));
    match utf8 {
        false => Ok(Spelling::Ascii),
        true if caps.smtputf8 => Ok(Spelling::Utf8),
        true => lacks(Feature::SmtpUtf8),
    }
}

/// `MAIL FROM`
pub(super) fn mail(to: &mut BytesMut, caps: &Capabilities, transaction: &Transaction, spelling: Spelling) {
    let mail = &transaction.mail;
    to.put_slice(b"MAIL FROM:<");
    if let ReversePath::Mailbox(from) = &mail.from {
        mailbox(to, from, spelling);
    }
    to.put_u8(b'>');
    // Writing to a BytesMut cannot fail.
    if caps.size.is_some() {
        to.put_slice(b" SIZE=");
        put_number(to, transaction.size);
    }
    match mail.body {
        BodyKind::SevenBit => {}
        BodyKind::EightBit => to.put_slice(b" BODY=8BITMIME"),
        BodyKind::Binary => to.put_slice(b" BODY=BINARYMIME"),
    }
    if spelling == Spelling::Utf8 {
        to.put_slice(b" SMTPUTF8");
    }
    if caps.dsn {
        match mail.ret {
            None => {}
            Some(Ret::Full) => to.put_slice(b" RET=FULL"),
            Some(Ret::Headers) => to.put_slice(b" RET=HDRS"),
        }
        if let Some(envid) = &mail.envid {
            let _ = write!(to, " ENVID={envid}");
        }
    }
    // RFC 4954 §5
    if let (Some(auth), false) = (&mail.auth, caps.auth.is_empty()) {
        let _ = write!(to, " AUTH={auth}");
    }
    if mail.require_tls {
        to.put_slice(b" REQUIRETLS");
    }
    if let Some(by) = mail.by.filter(|by| caps.takes_time(*by)) {
        let _ = write!(to, " BY={by}");
    }
    if let Some(hold) = mail.hold {
        let _ = write!(to, " {hold}");
    }
    if let Some(priority) = mail.priority.filter(|_| caps.priority) {
        let _ = write!(to, " MT-PRIORITY={priority}");
    }
    to.put_slice(b"\r\n");
}

fn takes_hold(caps: &Capabilities, hold: Hold) -> bool {
    caps.future_release.is_some_and(|release| match hold {
        Hold::For(seconds) => seconds <= release.interval,
        Hold::Until(time) => time <= release.until,
    })
}

/// What the server is to report on. Where it does not know by when a message is wanted, it is asked to
/// report a delay, which tells the sender as much (RFC 2852 §4.1.4.2).
fn notify(caps: &Capabilities, mail: &Mail, rcpt: &Rcpt) -> Option<Notify> {
    let unknown_time = caps.deliver_by.is_none() && mail.by.is_some_and(|by| by.mode == ByMode::Notify);
    match rcpt.notify {
        given if !unknown_time || given == Some(Notify::NEVER) => given,
        None => Some(Notify { success: false, failure: true, delay: true }),
        Some(given) => Some(Notify { delay: true, ..given }),
    }
}

/// `RCPT TO`
pub(super) fn rcpt(to: &mut BytesMut, caps: &Capabilities, mail: &Mail, rcpt: &Rcpt, spelling: Spelling) {
    to.put_slice(b"RCPT TO:<");
    match &rcpt.to {
        ForwardPath::Postmaster => to.put_slice(b"postmaster"),
        ForwardPath::Mailbox(path) => mailbox(to, path, spelling),
    }
    to.put_u8(b'>');
    if caps.dsn {
        if let Some(notify) = notify(caps, mail, rcpt) {
            let _ = write!(to, " NOTIFY={notify}");
        }
        if let Some(orcpt) = &rcpt.orcpt {
            let _ = write!(to, " ORCPT={orcpt}");
        }
    }
    to.put_slice(b"\r\n");
}

/// `BDAT`, with so many octets of content behind it (RFC 3030 §2).
pub(super) fn bdat(to: &mut BytesMut, size: u64, last: bool) {
    to.put_slice(b"BDAT ");
    put_number(to, size);
    to.put_slice(if last { b" LAST\r\n" } else { b"\r\n" });
}

fn mailbox(to: &mut BytesMut, mailbox: &Mailbox, spelling: Spelling) {
    if spelling == Spelling::Utf8 && !mailbox.is_ascii() {
        let _ = write!(to, "{mailbox}");
    } else {
        to.put_slice(mailbox.local().as_bytes());
        to.put_u8(b'@');
        to.put_slice(mailbox.domain().as_str().as_bytes());
    }
}
