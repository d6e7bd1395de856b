//! The part for programs: a block about the message, then one about each recipient (RFC 3464 §2).

use super::{MAX_LIST, MAX_LISTED, MAX_VALUE, Part, Report, ReportKind, ReportRecipient, put};
use crate::message::date::DateTime;
use crate::message::field::{one_line, write_field};
use crate::smtp::address::{ForwardPath, Mailbox};

/// The part, and how many of the recipients it lists.
pub(super) fn part(report: &Report, recipients: &[&ReportRecipient]) -> (Part, usize) {
    let utf8 = report.is_utf8();
    let mut out = Vec::with_capacity(256 + 512 * recipients.len().min(MAX_LISTED));
    if let Some(envid) = &report.envid {
        field(&mut out, utf8, "Original-Envelope-Id", envid.as_str());
    }
    field(&mut out, utf8, "Reporting-MTA", &format!("dns; {}", report.reporting));
    field(&mut out, utf8, "Arrival-Date", &DateTime(report.arrived).to_string());
    if let Some(time) = report.deliver_by {
        field(&mut out, utf8, "Deliver-By-Date", &DateTime(time).to_string());
    }
    let mut listed = 0;
    for recipient in recipients.iter().take(MAX_LISTED) {
        let before = out.len();
        out.extend_from_slice(b"\r\n");
        block(report, recipient, utf8, &mut out);
        if out.len() > MAX_LIST && listed > 0 {
            out.truncate(before);
            break;
        }
        listed += 1;
    }
    // RFC 6533 §4: the type whose fields may be UTF-8.
    let (kind, encoding) =
        if utf8 { ("message/global-delivery-status", "8bit") } else { ("message/delivery-status", "7bit") };
    (Part { kind, encoding, whole: false, octets: out }, listed)
}

fn block(report: &Report, recipient: &ReportRecipient, utf8: bool, out: &mut Vec<u8>) {
    let mut field = |name: &str, value: &str| field(out, utf8, name, value);
    if let Some(original) = &recipient.rcpt.orcpt {
        // RFC 3461 §6.3: as it was given, decoded.
        field("Original-Recipient", &format!("{}; {}", original.kind(), original.address()));
    }
    let last = match &recipient.rcpt.to {
        ForwardPath::Postmaster => format!("rfc822; postmaster@{}", report.reporting),
        ForwardPath::Mailbox(mailbox) => typed(mailbox, utf8),
    };
    field("Final-Recipient", &last);
    field("Action", recipient.kind.action());
    field("Status", &recipient.status.to_string());
    if let Some(remote) = &recipient.remote {
        field("Remote-MTA", &format!("dns; {remote}"));
    }
    // RFC 3464 §2.3.6: "smtp" only for what an SMTP server really said.
    if let Some(reply) = &recipient.reply {
        field("Diagnostic-Code", &one_line(&format!("smtp; {reply}"), MAX_VALUE, utf8));
    }
    if let Some(at) = recipient.last_attempt {
        field("Last-Attempt-Date", &DateTime(at).to_string());
    }
    if let ReportKind::Delay { until } = recipient.kind {
        field("Will-Retry-Until", &DateTime(until).to_string());
    }
}

/// The value as it is, where a field can hold it, so that no address changes; else what of it a
/// field can hold.
fn field(out: &mut Vec<u8>, utf8: bool, name: &str, value: &str) {
    if !(utf8 || value.is_ascii()) || value.len() > MAX_VALUE || write_field(out, name, value).is_err() {
        put(out, name, &one_line(value, MAX_VALUE, utf8));
    }
}

/// A mailbox with its type: `rfc822` where that can name it, else `utf-8` (RFC 6533 §3), with what
/// is not ASCII as `\x{...}` where the report must be ASCII.
fn typed(mailbox: &Mailbox, utf8: bool) -> String {
    if let Some(ascii) = mailbox.to_ascii() {
        return format!("rfc822; {ascii}");
    }
    let address =
        if utf8 { mailbox.to_string() } else { format!("{}@{}", mailbox.local(), mailbox.domain()) };
    let mut text = String::from("utf-8; ");
    for c in address.chars() {
        if matches!(c, '+' | '=' | '\\') || c.is_whitespace() || !(utf8 || c.is_ascii()) {
            text.push_str(&format!("\\x{{{:X}}}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}
