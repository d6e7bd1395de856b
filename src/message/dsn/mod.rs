//! A delivery status notification tells a sender what became of a message (RFC 3464): a text for
//! people, a part for programs, and as much of the message as is right to return.
//!
//! What remote hosts said stands in it, and the sender's program acts on it, so no reply, name or
//! address may forge a field or a part: every value is made one line first, and the boundary is one
//! that occurs in no part. A report is seven-bit, unless it goes to an address in UTF-8; then its
//! fields are UTF-8 too (RFC 6533).
//!
//! One report tells all that there is to tell at one time: RFC 3464 §2 has an action for each recipient,
//! and RFC 3461 §4.3 and §6.2 say what is returned when only some of them failed. Its subject is the worst
//! of it, and what is worst stands first. A sender who asked for nothing but failures gets nothing else,
//! since nobody is listed for whom there would not be a report (RFC 3461 §5.2.8).
//!
//! When to report, and what is tried again, is not decided here.

mod returned;
mod status;
mod text;

use bytes::Bytes;

use super::body::is_seven_bit;
use super::date::DateTime;
use super::field::write_field;
use super::header::Header;
use super::id::MessageId;
use super::submission::Submission;
use crate::clock::Timestamp;
use crate::smtp::address::{Domain, EhloName, ForwardPath, Mailbox, ReversePath};
use crate::smtp::params::{BodyKind, Mail, Notify, Rcpt, Ret, XText};
use crate::smtp::reply::{EnhancedCode, Reply};

/// What a report says of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportKind {
    /// The recipients were given up.
    Failure,
    /// The recipients were not reached yet.
    Delay {
        /// Until when it is tried.
        until: Timestamp,
    },
    /// The recipients have the message.
    Success,
    /// The recipients' next host has taken the message and will not report (RFC 3461 §6.2.2).
    Relayed,
    /// The recipients stand for several others, who have been sent the message and of whom only failures
    /// will be reported (RFC 3461 §5.2.7.3 (c)).
    Expanded,
}

impl ReportKind {
    /// As it is called in a report (RFC 3464 §2.3.3): `failed`, `delayed`, `delivered`, `relayed` or
    /// `expanded`.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::Failure => "failed",
            Self::Delay { .. } => "delayed",
            Self::Success => "delivered",
            Self::Relayed => "relayed",
            Self::Expanded => "expanded",
        }
    }

    const fn subject(self) -> &'static str {
        match self {
            Self::Failure => "Your message could not be delivered",
            Self::Delay { .. } => "Your message is delayed",
            Self::Success => "Your message was delivered",
            Self::Relayed => "Your message was passed on",
            Self::Expanded => "Your message was sent on",
        }
    }

    /// The less, the worse.
    const fn rank(self) -> u8 {
        match self {
            Self::Failure => 0,
            Self::Delay { .. } => 1,
            Self::Relayed => 2,
            Self::Expanded => 3,
            Self::Success => 4,
        }
    }
}

/// Whether the sender of a message is to be told this about a recipient. Nobody is told about the
/// null sender's messages (RFC 5321 §4.5.5); without NOTIFY, failures are reported and nothing else
/// (RFC 3461 §4.1 leaves delays to us).
#[must_use]
pub fn wants_report(mail: &Mail, rcpt: &Rcpt, kind: ReportKind) -> bool {
    if mail.from == ReversePath::Null {
        return false;
    }
    let notify = rcpt.notify.unwrap_or(Notify { success: false, failure: true, delay: false });
    match kind {
        ReportKind::Failure => notify.failure,
        ReportKind::Delay { .. } => notify.delay,
        ReportKind::Success | ReportKind::Relayed | ReportKind::Expanded => notify.success,
    }
}

/// What is reported, and to whom.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The id of the report itself; its Message-ID and its boundary are made of it.
    pub id: MessageId,
    /// Who reports: our own name.
    pub reporting: EhloName,
    /// Who is told.
    pub sender: Mailbox,
    /// The sender's name for the message, from MAIL.
    pub envid: Option<XText>,
    /// How much the sender wants back, from MAIL. Without it, a message is returned whole.
    pub ret: Option<Ret>,
    /// Whether the message was sent with REQUIRETLS. The report then is too, and returns the header
    /// only (RFC 8689 §5).
    pub require_tls: bool,
    /// When the message should have been delivered at the latest (RFC 2852 §5), if it was asked for.
    pub deliver_by: Option<Timestamp>,
    /// When the message was taken.
    pub arrived: Timestamp,
    /// When the report is made.
    pub now: Timestamp,
    /// What became of whom; at least one. What is worst is listed first, and no more than a thousand, or
    /// 256 KiB of them: of the others a report says how many they are.
    pub recipients: Vec<ReportRecipient>,
    /// The message: all of it, or as much of its front as is at hand.
    pub original: Bytes,
    /// How many octets the whole message has.
    pub original_size: u64,
    /// A message of more octets is not returned but its header only. 64 KiB by default; a report
    /// that is larger than what it reports on helps nobody, and may be sent to somebody who never
    /// wrote the message.
    pub max_returned: usize,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReportRecipient {
    /// What is said of it.
    pub kind: ReportKind,
    /// The recipient as in the message's envelope.
    pub rcpt: Rcpt,
    /// The status code.
    pub status: EnhancedCode,
    /// The host that it is about, if any.
    pub remote: Option<Domain>,
    /// What that host said; only what really was said.
    pub reply: Option<Reply>,
    /// One line for people.
    pub text: Box<str>,
    /// When it was tried last.
    pub last_attempt: Option<Timestamp>,
}

impl ReportRecipient {
    /// A recipient about which no host said anything; set what else is known.
    #[must_use]
    pub fn new(kind: ReportKind, rcpt: Rcpt, status: EnhancedCode, text: &str) -> Self {
        Self { kind, rcpt, status, remote: None, reply: None, text: text.into(), last_attempt: None }
    }
}

impl Report {
    /// A report that returns nothing yet; set what else is known.
    #[must_use]
    pub const fn new(
        id: MessageId,
        reporting: EhloName,
        sender: Mailbox,
        arrived: Timestamp,
        now: Timestamp,
        recipients: Vec<ReportRecipient>,
    ) -> Self {
        Self {
            id,
            reporting,
            sender,
            envid: None,
            ret: None,
            require_tls: false,
            deliver_by: None,
            arrived,
            now,
            recipients,
            original: Bytes::new(),
            original_size: 0,
            max_returned: MAX_RETURNED,
        }
    }

    /// What it is about: the worst that it says of anybody.
    #[must_use]
    pub fn kind(&self) -> ReportKind {
        let kinds = self.recipients.iter().map(|recipient| recipient.kind);
        kinds.min_by_key(|kind| kind.rank()).unwrap_or(ReportKind::Failure)
    }

    /// The report as a message: its octets.
    #[must_use]
    pub fn build(&self) -> Bytes {
        let mut recipients: Vec<_> = self.recipients.iter().collect();
        recipients.sort_by_key(|recipient| recipient.kind.rank());
        let returned = returned::part(self);
        let (status, listed) = status::part(self, &recipients);
        let text = text::part(self, &recipients, listed, returned.as_ref().is_some_and(|part| part.whole));
        let parts: Vec<&Part> = [&text, &status].into_iter().chain(&returned).collect();
        let boundary = self.boundary(&parts);
        let size: usize = parts.iter().map(|part| part.octets.len() + 256).sum();
        let mut out = Vec::with_capacity(size + 1024);
        self.header(&boundary, &mut out);
        for part in parts {
            out.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
            out.extend_from_slice(format!("Content-Type: {}\r\n", part.kind).as_bytes());
            out.extend_from_slice(format!("Content-Transfer-Encoding: {}\r\n\r\n", part.encoding).as_bytes());
            out.extend_from_slice(&part.octets);
        }
        out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        out.into()
    }

    /// The report as it is sent: from nobody, and never reported on (RFC 3461 §6.2.1).
    #[must_use]
    pub fn to_submission(&self) -> Submission {
        let content = self.build();
        let mut mail = Mail::new(ReversePath::Null);
        mail.smtputf8 = self.is_utf8();
        mail.require_tls = self.require_tls;
        mail.body = if is_seven_bit(&content) { BodyKind::SevenBit } else { BodyKind::EightBit };
        let mut rcpt = Rcpt::new(ForwardPath::Mailbox(self.to()));
        rcpt.notify = Some(Notify::NEVER);
        Submission::new(mail, vec![rcpt], Bytes::new(), content)
    }

    /// The sender in the form that most hosts can carry.
    fn to(&self) -> Mailbox {
        self.sender.to_ascii().unwrap_or_else(|| self.sender.clone())
    }

    /// Whether the report can only go where UTF-8 can, so that it may hold UTF-8.
    fn is_utf8(&self) -> bool {
        self.sender.to_ascii().is_none()
    }

    fn header(&self, boundary: &str, out: &mut Vec<u8>) {
        let host = &self.reporting;
        put(out, "Date", &DateTime(self.now).to_string());
        put(out, "From", &format!("Mail Delivery System <MAILER-DAEMON@{host}>"));
        // Local part and U-labels together can be longer than a line.
        if write_field(out, "To", &format!("<{}>", self.to())).is_err() {
            put(out, "To", "undisclosed-recipients:;");
        }
        put(out, "Subject", self.kind().subject());
        put(out, "Message-ID", &format!("<{}@{host}>", self.id));
        if let Some(id) = self.original_id() {
            put(out, "References", &id);
        }
        // RFC 3834 §5: nobody is to answer this.
        put(out, "Auto-Submitted", "auto-replied");
        put(out, "MIME-Version", "1.0");
        let kind = format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"");
        put(out, "Content-Type", &kind);
    }

    /// The Message-ID of the message, where it is one.
    fn original_id(&self) -> Option<String> {
        let header = Header::scan(&self.original).ok()?;
        let id = header.first("Message-ID")?.unfolded();
        let inner = id.strip_prefix(b"<")?.strip_suffix(b">")?;
        let sound = inner.len() <= MAX_ID && inner.iter().all(|b| b.is_ascii_graphic() && !b"<>".contains(b));
        sound.then(|| String::from_utf8_lossy(&id).into_owned())
    }

    /// A boundary that no part holds. The returned message may hold guesses at it, but only as many
    /// as it has room for.
    fn boundary(&self, parts: &[&Part]) -> String {
        let mut round = 0_u64;
        loop {
            let boundary = format!("=_{}_{round}", self.id);
            if !parts.iter().any(|part| memchr::memmem::find(&part.octets, boundary.as_bytes()).is_some()) {
                return boundary;
            }
            round += 1;
        }
    }
}

/// A part of a report.
struct Part {
    /// Content-Type
    kind: &'static str,
    /// Content-Transfer-Encoding
    encoding: &'static str,
    /// Whether this is a whole message.
    whole: bool,
    octets: Vec<u8>,
}

/// A field whose value is safe by how it was made. One that is not is left out, not written.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    let written = write_field(out, name, value);
    debug_assert!(written.is_ok(), "{name}: {value:?}: {written:?}");
}

/// See [`Report::max_returned`].
const MAX_RETURNED: usize = 64 * 1024;
/// Recipients of whom a report tells more than that there are so many: as many as a message may have by
/// default, and what they may take, so that a report stays one that every host takes.
const MAX_LISTED: usize = 1_000;
const MAX_LIST: usize = 256 * 1024;
/// Longer ids exist only to be in the way.
const MAX_ID: usize = 250;
/// What one value of a report may be, so that it stays within a line of 998 octets with its name.
const MAX_VALUE: usize = 900;

#[cfg(test)]
mod tests;
