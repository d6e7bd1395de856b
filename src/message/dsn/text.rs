//! The part for people.

use super::{MAX_VALUE, Part, Report, ReportKind, ReportRecipient};
use crate::message::convert::base64;
use crate::message::date::DateTime;
use crate::message::field::one_line;

/// The part that names the first `listed` of the recipients, which stand in order of what is said of them.
pub(super) fn part(report: &Report, recipients: &[&ReportRecipient], listed: usize, whole: bool) -> Part {
    let mut out = String::with_capacity(512 + 256 * listed);
    wrap(&mut out, "", &format!("This is the mail system of {}.", report.reporting));
    let mut message = format!("Your message of {}", DateTime(report.arrived));
    let shown = recipients.get(..listed).unwrap_or(recipients);
    for group in shown.chunk_by(|one, other| one.kind == other.kind) {
        let Some(kind) = group.first().map(|recipient| recipient.kind) else { continue };
        let what = match kind {
            ReportKind::Failure => "could not be delivered to:",
            ReportKind::Delay { .. } => "could not be delivered yet to:",
            ReportKind::Success => "was delivered to:",
            ReportKind::Relayed => "was passed on to a host that does not report further, for:",
            ReportKind::Expanded => "was sent on to those for whom these addresses stand:",
        };
        out.push_str("\r\n");
        wrap(&mut out, "", &format!("{message} {what}"));
        "It".clone_into(&mut message);
        for recipient in group {
            out.push_str("\r\n");
            wrap(&mut out, "", &recipient.rcpt.to.to_string());
            wrap(&mut out, "    ", &recipient.text);
        }
        let more = match kind {
            ReportKind::Failure => "It is not tried again for these recipients.".to_owned(),
            ReportKind::Delay { until } => {
                format!("It is tried again until {}. You need not send it again.", DateTime(until))
            }
            _ => continue,
        };
        out.push_str("\r\n");
        wrap(&mut out, "", &more);
    }
    if let Some(left @ 1..) = recipients.len().checked_sub(listed) {
        out.push_str("\r\n");
        wrap(&mut out, "", &format!("There are {left} more recipients to report on, too many to list here."));
    }
    if !report.original.is_empty() {
        out.push_str("\r\n");
        wrap(&mut out, "", if whole { "The message follows." } else { "Its header follows." });
    }
    if out.is_ascii() {
        return Part {
            kind: "text/plain; charset=us-ascii",
            encoding: "7bit",
            whole: false,
            octets: out.into(),
        };
    }
    let (encoding, octets) =
        if report.is_utf8() { ("8bit", out.into_bytes()) } else { ("base64", to_base64(out.as_bytes())) };
    Part { kind: "text/plain; charset=utf-8", encoding, whole: false, octets }
}

/// Base64 in lines (RFC 2045 §6.8).
pub(super) fn to_base64(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 2);
    base64(octets, &mut out);
    out
}

/// Text on lines of `WIDTH`, each with the indent.
fn wrap(out: &mut String, indent: &str, text: &str) {
    let mut column = 0;
    for word in one_line(text, MAX_VALUE, true).split(' ').filter(|word| !word.is_empty()) {
        let width = word.chars().count();
        if column == 0 {
            out.push_str(indent);
            column = indent.len();
        } else if column + 1 + width > WIDTH {
            out.push_str("\r\n");
            out.push_str(indent);
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    if column > 0 {
        out.push_str("\r\n");
    }
}

/// What fits a window of 80 columns, quoted once or twice.
const WIDTH: usize = 74;
