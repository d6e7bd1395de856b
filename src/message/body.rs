//! The octets of a message seen as lines: whether they are seven-bit, whether every line ends in
//! CRLF, and the same octets made so.
//!
//! Only CRLF ends a line (RFC 5321 §2.3.8). What comes from a program often ends lines in LF; it is
//! put right here, once, before it is stored. What comes from a peer is never put right but refused,
//! because two hosts that repair differently are what smuggling needs.

use bytes::Bytes;

use crate::smtp::data::is_clean;

/// RFC 5322 §2.1.1: the longest line, without its CRLF.
pub const MAX_LINE: usize = 998;

/// Whether no octet is above 127. NUL and other controls count as seven-bit.
#[must_use]
pub const fn is_seven_bit(octets: &[u8]) -> bool {
    octets.is_ascii()
}

/// Whether every CR is followed by LF and every LF preceded by CR.
#[must_use]
pub fn is_clean_crlf(octets: &[u8]) -> bool {
    is_clean(octets)
}

/// Whether the last line is ended. No octets at all are no line and need no end.
#[must_use]
pub fn ends_with_crlf(octets: &[u8]) -> bool {
    octets.is_empty() || octets.ends_with(b"\r\n")
}

/// Whether a line is longer than [`MAX_LINE`], the line end not counted.
#[must_use]
pub fn has_long_line(octets: &[u8]) -> bool {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', octets) {
        let line = octets.get(start..end).unwrap_or_default();
        if line.strip_suffix(b"\r").unwrap_or(line).len() > MAX_LINE {
            return true;
        }
        start = end + 1;
    }
    octets.len().saturating_sub(start) > MAX_LINE
}

/// The octets with every line ended by CRLF, the last one too: a bare CR or LF becomes CRLF. What is
/// clean already is returned as it is, without a copy.
#[must_use]
pub fn to_crlf(octets: Bytes) -> Bytes {
    if is_clean_crlf(&octets) && ends_with_crlf(&octets) {
        return octets;
    }
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 32 + 2);
    let mut rest: &[u8] = &octets;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        let (line, tail) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        rest = match tail.strip_prefix(b"\r\n") {
            Some(after) => after,
            None => tail.get(1..).unwrap_or_default(),
        };
    }
    if !rest.is_empty() {
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_crlf_is_a_clean_line_end() {
        for clean in ["", "a", "\r\n", "a\r\nb", "a\r\n\r\n"] {
            assert!(is_clean_crlf(clean.as_bytes()), "{clean:?}");
        }
        for dirty in ["\n", "\r", "a\n", "a\r", "\r\r\n", "a\r\n\n", "a\n\r", "\n\r\n", "a\rb\r\n"] {
            assert!(!is_clean_crlf(dirty.as_bytes()), "{dirty:?}");
        }
    }

    #[test]
    fn a_line_end_across_a_step_is_judged_like_any_other() {
        for at in 4096 - 2..4096 + 2 {
            let mut octets = vec![b'x'; 3 * 4096];
            octets[at] = b'\n';
            assert!(!is_clean_crlf(&octets), "LF at {at}");
            octets[at - 1] = b'\r';
            assert!(is_clean_crlf(&octets), "CRLF at {at}");
            octets[at] = b'x';
            assert!(!is_clean_crlf(&octets), "CR at {at}");
        }
    }

    #[test]
    fn bare_line_ends_become_crlf_and_clean_octets_are_not_copied() {
        for (from, to) in [
            ("a\nb", "a\r\nb\r\n"),
            ("a\rb\r\n", "a\r\nb\r\n"),
            ("\r\r\n", "\r\n\r\n"),
            ("a\n\r", "a\r\n\r\n"),
            ("a", "a\r\n"),
            ("", ""),
        ] {
            assert_eq!(to_crlf(Bytes::from(from)), to.as_bytes(), "{from:?}");
        }
        let clean = Bytes::from(b"a\r\n".to_vec());
        assert_eq!(to_crlf(clean.clone()).as_ptr(), clean.as_ptr());
    }

    #[test]
    fn a_line_may_have_998_octets_and_no_more() {
        let line = "x".repeat(MAX_LINE);
        assert!(!has_long_line(format!("a\r\n{line}\r\n{line}").as_bytes()));
        assert!(has_long_line(format!("a\r\n{line}y\r\nb").as_bytes()));
        assert!(has_long_line(format!("a\r\n{line}y").as_bytes()));
    }

    #[test]
    fn eight_bit_octets_are_found_wherever_they_stand() {
        assert!(is_seven_bit(b"a\0\x7f"));
        for at in 0..70 {
            let mut octets = [b'a'; 70];
            octets[at] = 0x80;
            assert!(!is_seven_bit(&octets));
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_in_comes_out_in_lines(octets in "[ab\r\n]{0,40}") {
            let out = to_crlf(Bytes::from(octets.clone()));
            prop_assert!(is_clean_crlf(&out) && ends_with_crlf(&out));
            // Independently: one line end after the other.
            let lines = octets.replace("\r\n", "\n").replace('\r', "\n");
            let mut lines = lines.replace('\n', "\r\n");
            if !lines.is_empty() && !lines.ends_with("\r\n") {
                lines.push_str("\r\n");
            }
            prop_assert_eq!(&out[..], lines.as_bytes());
        }
    }
}
