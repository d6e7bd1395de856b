//! The octets of the messages of a history, and what is known again of them where they arrive.

use std::sync::OnceLock;

use crate::message::MessageId;

/// The body of a message.
pub(super) fn body(number: u64, size: usize) -> Vec<u8> {
    [lines(size), last_line(number).as_bytes()].concat()
}

/// Whether what arrived has this body.
pub(super) fn has_body(content: &[u8], number: u64, size: usize) -> bool {
    let rest = content.strip_suffix(last_line(number).as_bytes());
    rest.is_some_and(|rest| rest.ends_with(lines(size)))
}

fn last_line(number: u64) -> String {
    format!("end of {number}\r\n")
}

/// Lines with dots in front, which are doubled on the way: so many octets at least. The same for all messages:
/// making them is no part of what is simulated.
fn lines(size: usize) -> &'static [u8] {
    static LINES: OnceLock<Vec<u8>> = OnceLock::new();
    let lines = LINES.get_or_init(|| {
        let mut lines = Vec::with_capacity(LARGEST + 40);
        while lines.len() < LARGEST {
            lines.extend_from_slice(format!(".line {}\r\n", lines.len()).as_bytes());
        }
        lines
    });
    let end = lines.get(size..).and_then(|rest| memchr::memchr(b'\n', rest)).map(|at| size + at + 1);
    lines.get(..end.filter(|_| size > 0).unwrap_or_default()).unwrap_or_default()
}

/// The first Message-ID that is one of ours.
pub(super) fn message_id(content: &[u8]) -> Option<MessageId> {
    let at = memchr::memmem::find(content, MESSAGE_ID.as_bytes())? + MESSAGE_ID.len();
    let id = content.get(at..)?.split(|octet| *octet == b'@').next()?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

pub(super) const MESSAGE_ID: &str = "Message-ID: <";
/// Beyond all sizes that a plan has.
const LARGEST: usize = 70_100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_known_again_and_no_other_is() {
        for size in [0, 60, 200, 2_000, 70_000] {
            let octets = body(7, size);
            assert!(octets.len() >= size && octets.len() < size + 60, "{size}");
            assert!(has_body(&octets, 7, size), "{size}");
            assert!(!has_body(&octets, 8, size), "{size}");
            let cut = octets.get(1..).unwrap_or_default();
            assert!(!has_body(cut, 7, size), "{size}");
        }
    }
}
