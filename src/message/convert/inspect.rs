//! Whether a message needs SMTPUTF8, looked for in all of its headers.

use super::kind::{Kind, Structure};
use super::multipart::Boundary;
use super::{MAX_DEPTH, MAX_PARTS};
use crate::message::body::is_seven_bit;
use crate::message::header::Header;

/// Whether a header holds 8-bit octets: the message's, that of a part, or that of a message in it. Such a
/// message needs SMTPUTF8 (RFC 6531 §3.7), and one without does not, whatever its MAIL command said;
/// 8-bit octets in its bodies are 8BITMIME's.
///
/// `true`, too, where parts cannot be told apart and there are 8-bit octets in what is left.
#[must_use]
pub fn has_eight_bit_header(message: &[u8]) -> bool {
    let mut parts = 0;
    !is_seven_bit(message) && look(message, false, 0, &mut parts)
}

fn look(octets: &[u8], digest: bool, depth: usize, parts: &mut usize) -> bool {
    if is_seven_bit(octets) {
        return false;
    }
    *parts += 1;
    let Ok(header) = Header::scan(octets) else { return true };
    let (front, body) =
        octets.split_at_checked(header.body_start().unwrap_or(octets.len())).unwrap_or((octets, &[]));
    if *parts > MAX_PARTS || depth > MAX_DEPTH || !is_seven_bit(front) {
        return true;
    }
    // A field with an 8-bit name ends the header for us, and is one of it for others.
    if header.is_broken() {
        return true;
    }
    match Structure::of(&header, digest).map(|structure| structure.kind) {
        Ok(Kind::Text { .. } | Kind::Other) => false,
        Ok(Kind::Message) => look(body, false, depth + 1, parts),
        Ok(Kind::Multipart { boundary, digest }) => {
            let boundary = Boundary::new(&boundary);
            let (mut at, mut inside) = (0, false);
            while let Some(line) = boundary.next(body, at) {
                let before = body.get(at..line.start).unwrap_or_default();
                if inside && look(before, digest, depth + 1, parts) {
                    return true;
                }
                (at, inside) = (line.end, !line.closes);
                if line.closes {
                    return false;
                }
            }
            look(body.get(at..).unwrap_or_default(), digest, depth + 1, parts)
        }
        Ok(Kind::Sealed | Kind::Partial) | Err(_) => true,
    }
}
