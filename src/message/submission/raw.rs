//! Octets with an envelope: a message that somebody else has written.

use bytes::Bytes;

use super::{Envelope, HIDDEN, IntoSubmission, Submission, SubmitContext, SubmitError, check_lines};
use crate::message::body::{has_long_line, is_seven_bit, to_crlf};
use crate::message::date::DateTime;
use crate::message::header::Header;

/// A message in octets, and its envelope, which is never taken from the header.
///
/// Line ends are made CRLF. Octets that are clean are not copied.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RawMessage {
    /// Who it is from and for.
    pub envelope: Envelope,
    /// Header and body.
    pub octets: Bytes,
    /// Whether the message begins here, as it does when a program has written it: Date and
    /// Message-ID are added where they are missing, Bcc is taken out, a first line of an mbox file
    /// (`From ...`) goes, and a header that is not ended by an empty line is given one. On by
    /// default; turn it off for a message that comes from elsewhere, so that it is passed on as it
    /// is (RFC 6409 §8).
    pub complete: bool,
    /// Whether lines of more than 998 octets are let through. Off by default, because hosts cut or
    /// refuse them, and signatures break.
    pub long_lines: bool,
}

impl RawMessage {
    /// A message that begins here.
    #[must_use]
    pub fn new(envelope: Envelope, octets: impl Into<Bytes>) -> Self {
        Self { envelope, octets: octets.into(), complete: true, long_lines: false }
    }
}

impl IntoSubmission for RawMessage {
    fn into_submission(self, context: &SubmitContext) -> Result<Submission, SubmitError> {
        let mut content = to_crlf(self.octets);
        if self.complete {
            content = as_written_here(content)?;
        }
        check_lines([&[], &content])?;
        if !self.long_lines && has_long_line(&content) {
            return Err(SubmitError::LongLine);
        }
        let header = Header::scan(&content)?;
        let head = if self.complete { missing(&header, context) } else { Bytes::new() };
        // RFC 6532: a header in UTF-8 needs SMTPUTF8. One in another charset is older than that, and
        // travels as it always did.
        let utf8 = !is_seven_bit(header.octets()) && std::str::from_utf8(header.octets()).is_ok();
        let (mail, recipients, handling) = self.envelope.seal(context, utf8, is_seven_bit(&content))?;
        Ok(Submission { handling, ..Submission::new(mail, recipients, head, content) })
    }
}

/// Without an mbox line and without Bcc, and with a header that is one. Not copied unless changed.
fn as_written_here(mut content: Bytes) -> Result<Bytes, SubmitError> {
    // `From :` with its colon is a field of older mail, and scans as one.
    if content.starts_with(b"From ") && Header::scan(&content)?.octets().is_empty() {
        let line = memchr::memchr(b'\n', &content).map_or(content.len(), |at| at + 1);
        content = content.split_off(line);
    }
    let header = Header::scan(&content)?;
    if !header.is_broken() && !header.fields().any(|field| HIDDEN.iter().any(|name| field.is(name))) {
        return Ok(content);
    }
    let mut out = Vec::with_capacity(content.len() + 2);
    for field in header.fields().filter(|field| !HIDDEN.iter().any(|name| field.is(name))) {
        out.extend_from_slice(field.raw);
    }
    if header.is_broken() {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(content.get(header.octets().len()..).unwrap_or_default());
    Ok(out.into())
}

fn missing(header: &Header<'_>, context: &SubmitContext) -> Bytes {
    let mut head = String::new();
    if header.first("Date").is_none() {
        head.push_str(&format!("Date: {}\r\n", DateTime(context.now)));
    }
    if header.first("Message-ID").is_none() {
        head.push_str(&format!("Message-ID: <{}>\r\n", context.message_id()));
    }
    head.into()
}
