//! The part that returns the message, or its header.
//!
//! The message is returned whole only when all is well with it: wanted, small, and of octets that
//! the report may hold. Else its header tells enough to find it again.

use super::text::to_base64;
use super::{Part, Report, ReportKind};
use crate::message::body::{MAX_LINE, has_long_line, is_clean_crlf, is_seven_bit};
use crate::message::header::{Fields, Header, MAX_FIELDS};
use crate::smtp::params::Ret;

pub(super) fn part(report: &Report) -> Option<Part> {
    if report.original.is_empty() {
        return None;
    }
    Some(whole(report).unwrap_or_else(|| header(report)))
}

fn whole(report: &Report) -> Option<Part> {
    let octets = &report.original;
    // RFC 3461 §6.2: RET speaks of failures; a report without any returns the header only.
    // RFC 8689 §5: with REQUIRETLS it says HDRS, whatever it says.
    let wanted =
        report.kind() == ReportKind::Failure && report.ret != Some(Ret::Headers) && !report.require_tls;
    let at_hand = octets.len() as u64 == report.original_size && octets.len() <= report.max_returned;
    let sound = |octets: &[u8]| {
        is_clean_crlf(octets) && !has_long_line(octets) && memchr::memchr(0, octets).is_none()
    };
    if !(wanted && at_hand && sound(octets)) {
        return None;
    }
    let (kind, encoding) = if is_seven_bit(octets) {
        ("message/rfc822", "7bit")
    } else if report.is_utf8() && is_seven_bit(Header::scan(octets).ok()?.octets()) {
        ("message/rfc822", "8bit")
    } else if report.is_utf8() && std::str::from_utf8(octets).is_ok() {
        // RFC 6532 §3.7
        ("message/global", "8bit")
    } else {
        return None;
    };
    Some(Part { kind, encoding, whole: true, octets: octets.to_vec() })
}

fn header(report: &Report) -> Part {
    let mut out = Vec::with_capacity(report.original.len().min(report.max_returned));
    for field in Fields::of(&report.original).take(MAX_FIELDS) {
        // The front of a message may end within a field, which is then not returned.
        let cut = !field.raw.ends_with(b"\n") && (report.original.len() as u64) < report.original_size;
        if cut || out.len() + field.raw.len() > report.max_returned {
            break;
        }
        let lines = || field.raw.trim_ascii_end().split(|b| *b == b'\n');
        if lines().any(|line| line.len() > MAX_LINE) {
            continue;
        }
        for line in lines() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            out.extend(line.iter().map(|b| if matches!(b, b'\r' | 0) { b' ' } else { *b }));
            out.extend_from_slice(b"\r\n");
        }
    }
    let (kind, encoding) = if is_seven_bit(&out) {
        ("text/rfc822-headers", "7bit")
    } else if std::str::from_utf8(&out).is_err() {
        // In a charset that nobody named.
        out.iter_mut().filter(|b| !b.is_ascii()).for_each(|b| *b = b'?');
        ("text/rfc822-headers", "7bit")
    } else if report.is_utf8() {
        ("message/global-headers", "8bit")
    } else {
        // RFC 6533 §6.3: it may be encoded where only seven bits pass.
        out = to_base64(&out);
        ("message/global-headers", "base64")
    };
    Part { kind, encoding, whole: false, octets: out }
}
