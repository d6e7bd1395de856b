//! The two encodings of RFC 2045, and what is left of octets that have none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::message::body::MAX_LINE;

/// Appends text in lines as quoted-printable (RFC 2045 §6.7). Line ends stay line ends.
pub(super) fn quoted_printable(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
        let (line, tail) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        quoted_line(line, out);
        out.extend_from_slice(b"\r\n");
        rest = tail.get(2..).unwrap_or_default();
    }
    quoted_line(rest, out);
}

fn quoted_line(line: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    let mut rest = line;
    while let Some((octet, tail)) = rest.split_first() {
        let last = tail.is_empty();
        // A line has 76 octets at most, with the `=` that breaks it.
        let room = if last { LINE } else { LINE - 1 };
        let mut encoded = is_encoded(*octet, last) || (column == 0 && is_delicate(rest));
        if column + width(encoded) > room {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            encoded |= is_delicate(rest);
        }
        if encoded {
            out.push(b'=');
            out.extend([octet >> 4, octet & 15].map(hex));
        } else {
            out.push(*octet);
        }
        column += width(encoded);
        rest = tail;
    }
}

const fn width(encoded: bool) -> usize {
    if encoded { 3 } else { 1 }
}

const fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' - 10 + digit }
}

/// RFC 2045 §6.7 (2), (3): white space stays unless it ends the line.
const fn is_encoded(octet: u8, last: bool) -> bool {
    match octet {
        b'=' => true,
        b' ' | b'\t' => last,
        b'!'..=b'~' => false,
        _ => true,
    }
}

/// What must not begin a line: two hyphens, which after a break, or with what was encoded behind them,
/// could be a delimiter of the multipart around it; and what hosts are known to change (RFC 2049 §3).
fn is_delicate(rest: &[u8]) -> bool {
    rest.starts_with(b"--") || rest.starts_with(b".") || rest.starts_with(b"From ")
}

/// Appends octets as base64 (RFC 2045 §6.8), in lines that all have an end.
pub(in crate::message) fn base64(octets: &[u8], out: &mut Vec<u8>) {
    let mut line = String::with_capacity(LINE);
    for piece in octets.chunks(LINE / 4 * 3) {
        line.clear();
        STANDARD.encode_string(piece, &mut line);
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends what nobody reads, so that hosts can carry it.
pub(super) fn plain(octets: &[u8], out: &mut Vec<u8>) {
    let mut column = 0;
    let mut rest = octets;
    while let Some((octet, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (column, rest) = (0, tail);
            continue;
        }
        if column == MAX_LINE {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        // What was put for an octet, or begins a line since the break, must make no delimiter.
        let stays = matches!(octet, b'\t' | b' '..=b'~') && !(column == 0 && rest.starts_with(b"--"));
        out.push(if stays { *octet } else { b'?' });
        column += 1;
        rest = tail;
    }
}

/// How much a conversion of the message will take at most, but for headers that are added: so much is
/// allocated at once, since growing would copy, and allocate twice.
pub(super) fn room(message: &[u8]) -> usize {
    let encoded = message.iter().filter(|octet| is_encoded(**octet, false)).count();
    let quoted = message.len() + 2 * encoded;
    let quoted = quoted + quoted / 24;
    let base64 = message.len() / 57 * 78;
    quoted.max(base64) + 1024
}

/// RFC 2045 §6.7 (5), §6.8
const LINE: usize = 76;
