//! The decoder finds the end of DATA content and takes the doubled dots out of it.
//!
//! Only CRLF.CRLF ends content (RFC 5321 §4.1.1.4), and a dot counts as the first of its line only
//! behind a CRLF. A bare CR or LF is where implementations differ about what a line is, so content
//! that holds one is read to its end and then refused, never passed on. So is a line that begins with
//! NUL: who drops NULs, as some do, would find a dot alone on a line of NUL and dot. Other NULs and
//! eight-bit octets are content like any other. BDAT content has no dots and no end to find, only
//! [`LineRules`].

use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem::Finder;

use super::lines::{has_nul_line, is_clean};

/// Reads the content of one DATA command as its octets come.
///
/// Octets that cannot be judged without what follows them (at most two) stay in the input.
#[derive(Debug)]
pub struct Decoder {
    /// What was taken last ended in CRLF, or nothing was taken yet.
    line_start: bool,
    refused: bool,
}

/// What [`Decoder::decode`] took off the input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Piece {
    /// Content, without the dots that were added for transport. May be empty.
    pub octets: Bytes,
    /// Whether the content ended here. What follows in the input are commands.
    pub end: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { line_start: true, refused: false }
    }
}

impl Decoder {
    /// Whether a bare CR or LF was seen, for which RFC 5321 §2.3.8 leaves only refusal, or a line that
    /// begins with NUL.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.refused
    }

    /// Takes all the content off `input` that can be judged. Without a doubled dot among it the
    /// piece is a slice of the input; doubled dots are closed up in place, so that it is one slice
    /// nevertheless, and a message of nothing but dots costs no more events than another.
    pub fn decode(&mut self, input: &mut BytesMut) -> Piece {
        let found = scan(input, self.line_start);
        self.refused |= found.bare;
        let octets = input.split_to(found.content).freeze();
        input.advance(found.gap);
        if found.content + found.gap > 0 {
            self.line_start = found.line_start;
        }
        Piece { octets, end: found.end }
    }
}

struct Scan {
    /// Octets of content at the front of the buffer.
    content: usize,
    /// Octets behind them that are done with: removed dots and the end itself.
    gap: usize,
    line_start: bool,
    end: bool,
    bare: bool,
}

/// Looks through `buffer`, closing up the gaps that removed dots leave.
fn scan(buffer: &mut [u8], line_start: bool) -> Scan {
    let mut scan = Scan { content: 0, gap: 0, line_start, end: false, bare: false };
    // Octets before `read` are judged; those of them that are content stand before `scan.content`.
    let mut read = 0;
    loop {
        if scan.line_start {
            let rest = buffer.get(read..).unwrap_or_default();
            match rest {
                [b'.', b'\r', b'\n', ..] => {
                    read += 3;
                    scan.end = true;
                    break;
                }
                [] | [b'.'] | [b'.', b'\r'] => break,
                [b'.', behind @ ..] => {
                    read += 1;
                    scan.line_start = false;
                    scan.bare |= behind.first() == Some(&0);
                }
                [0, ..] => scan.bare = true,
                _ => {}
            }
        }
        let rest = buffer.get(read..).unwrap_or_default();
        let (taken, line_start) = match DOT_LINE.find(rest) {
            Some(at) => (at + 2, true),
            // Half a CRLF cannot be judged.
            None => (rest.len() - usize::from(rest.last() == Some(&b'\r')), rest.ends_with(b"\r\n")),
        };
        let piece = rest.get(..taken).unwrap_or_default();
        scan.bare |= !is_clean(piece) || has_nul_line(piece);
        let more = line_start && taken < rest.len();
        if taken > 0 {
            scan.line_start = line_start;
        }
        if read != scan.content {
            buffer.copy_within(read..read + taken, scan.content);
        }
        scan.content += taken;
        read += taken;
        if !more {
            break;
        }
    }
    scan.gap = read - scan.content;
    scan
}

static DOT_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n."));

/// The line rules of content that is not binary, judged across the borders of its pieces: used for
/// BDAT, where a chunk may end between CR and LF.
#[derive(Debug)]
pub struct LineRules {
    after_cr: bool,
    /// What was judged last ended in CRLF, or nothing was judged yet.
    line_start: bool,
    refused: bool,
}

impl Default for LineRules {
    fn default() -> Self {
        Self { after_cr: false, line_start: true, refused: false }
    }
}

impl LineRules {
    /// Judges the next piece.
    pub fn check(&mut self, piece: &[u8]) {
        let (Some(first), Some(last)) = (piece.first(), piece.last()) else { return };
        let mut inner = piece;
        if self.after_cr {
            self.refused |= *first != b'\n';
            inner = inner.strip_prefix(b"\n").unwrap_or(inner);
            self.line_start = true;
        }
        self.refused |= self.line_start && inner.first() == Some(&0) || has_nul_line(inner);
        self.line_start = (self.line_start && inner.is_empty()) || inner.ends_with(b"\r\n");
        self.after_cr = *last == b'\r';
        if self.after_cr {
            inner = inner.strip_suffix(b"\r").unwrap_or(inner);
        }
        self.refused |= !is_clean(inner);
    }

    /// Judges the end: a CR there waits for its LF in vain.
    pub const fn finish(&mut self) {
        self.refused |= self.after_cr;
        self.after_cr = false;
    }

    /// Whether a bare CR or LF was seen, or a line that begins with NUL.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, whether it is refused, and what is left behind its end.
    type Decoded = (Vec<u8>, bool, Vec<u8>);

    /// The rules, octet by octet.
    fn model(wire: &[u8]) -> Option<Decoded> {
        let (mut content, mut bare, mut at) = (Vec::new(), false, 0);
        while at < wire.len() {
            let line_start = at == 0 || wire[..at].ends_with(b"\r\n");
            if line_start && wire[at..].starts_with(b".\r\n") {
                return Some((content, bare, wire[at + 3..].to_vec()));
            }
            bare |= wire[at] == b'\r' && wire.get(at + 1) != Some(&b'\n');
            bare |= wire[at] == b'\n' && !wire[..at].ends_with(b"\r");
            let nul = |at: usize| wire.get(at) == Some(&0);
            bare |= line_start && (nul(at) || wire[at] == b'.' && nul(at + 1));
            if !(line_start && wire[at] == b'.') {
                content.push(wire[at]);
            }
            at += 1;
        }
        None
    }

    fn decode(pieces: &[&[u8]]) -> Option<Decoded> {
        let (mut decoder, mut input, mut content) = (Decoder::default(), BytesMut::new(), Vec::new());
        let mut ended = false;
        for piece in pieces {
            input.extend_from_slice(piece);
            if !ended {
                let piece = decoder.decode(&mut input);
                content.extend_from_slice(&piece.octets);
                ended = piece.end;
                assert!(ended || input.len() <= 2, "held {input:?}");
            }
        }
        ended.then(|| (content, decoder.is_refused(), input.to_vec()))
    }

    #[test]
    fn only_crlf_dot_crlf_ends_content_in_every_string_however_it_is_cut() {
        const ALPHABET: [u8; 5] = [b'\r', b'\n', b'.', b'x', 0];
        for length in 0..=7_u32 {
            for number in 0..5_usize.pow(length) {
                let mut wire: Vec<u8> =
                    (0..length).map(|place| ALPHABET[number / 5_usize.pow(place) % 5]).collect();
                wire.extend_from_slice(b"\r\n.\r\n");
                let expected = model(&wire);
                assert!(expected.is_some());
                assert_eq!(decode(&[&wire]), expected, "{wire:?}");
                for cut in 1..wire.len() {
                    let (head, tail) = wire.split_at(cut);
                    assert_eq!(decode(&[head, tail]), expected, "{wire:?} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn the_known_smuggling_sequences_do_not_end_content() {
        for end in [
            "\n.\n",
            "\n.\r\n",
            "\r.\r",
            "\r.\r\n",
            "\r\n.\n",
            "\r\n.\r",
            "\n.\r",
            "\r.\n",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\r\r\n.\r\n\n",
            "\n\n.\r\n",
            "\r\n..\r\n",
        ] {
            let wire = format!("a{end}MAIL FROM:<x@y>\r\n");
            let mut input = BytesMut::from(wire.as_bytes());
            let mut decoder = Decoder::default();
            let piece = decoder.decode(&mut input);
            if end == "\r\r\n.\r\n\n" {
                // This one does hold CRLF.CRLF; its content is refused for the CR before.
                assert!(piece.end && decoder.is_refused());
                continue;
            }
            assert!(!piece.end, "{end:?}");
            let harmless = end.contains("..");
            assert_eq!(decoder.is_refused(), !harmless, "{end:?}");
        }
    }

    #[test]
    fn content_without_doubled_dots_is_a_slice_of_the_input() {
        let mut input = BytesMut::from(&b"one\r\ntwo. .\r\n.\r\nRSET\r\n"[..]);
        let at = input.as_ptr();
        let piece = Decoder::default().decode(&mut input);
        assert_eq!((&piece.octets[..], piece.end), (&b"one\r\ntwo. .\r\n"[..], true));
        assert_eq!(piece.octets.as_ptr(), at);
        assert_eq!(&input[..], b"RSET\r\n");
    }

    #[test]
    fn doubled_dots_give_one_piece_per_input() {
        let mut input = BytesMut::from(&b"..\r\n".repeat(1000)[..]);
        let piece = Decoder::default().decode(&mut input);
        assert_eq!(piece.octets, b".\r\n".repeat(1000));
        assert!(input.is_empty());
    }

    #[test]
    fn chunks_obey_the_line_rules_across_their_borders() {
        for (wire, refused) in [
            ("a\r\nb\r\n", false),
            ("a\nb", true),
            ("a\rb", true),
            ("a\r", true),
            ("\n", true),
            ("\r\r\n", true),
            ("\r\n\n", true),
            ("no end", false),
            ("", false),
            ("x\0\u{fc}\r\n\u{fc}\0\r\n", false),
            ("\0", true),
            ("x\r\n\0.\r\n", true),
            (".\0\r\n", false),
        ] {
            let octets = wire.as_bytes();
            for first in 0..=octets.len() {
                for second in first..=octets.len() {
                    let mut rules = LineRules::default();
                    for piece in [&octets[..first], &octets[first..second], &octets[second..]] {
                        rules.check(piece);
                    }
                    rules.finish();
                    assert_eq!(rules.is_refused(), refused, "{wire:?} cut at {first} and {second}");
                }
            }
        }
    }
}
