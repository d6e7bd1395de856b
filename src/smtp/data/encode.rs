//! The encoder is the only producer of the octets between DATA and the final dot.
//!
//! Whatever it is given, in whatever pieces, what leaves it holds no CR and no LF but in pairs, and
//! no CRLF.CRLF but at its end (RFC 5321 §4.5.2, §2.3.8). A bare CR or LF becomes a line end, since
//! sending it would let the next hop see a line, or an end of the message, where we see none.
//!
//! It does not judge or fold long lines.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::{memchr2, memmem};

use super::lines::{has_nul_line, is_clean};

/// Dot-stuffs one message, chunk by chunk. Chunks that need no change pass as they are, without
/// being copied.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The next octet begins a line.
    at_line_start: bool,
    /// The last chunk ended in CR, which is held back until it is known what follows.
    held_cr: bool,
    refused: bool,
}

/// A part of the encoded content.
enum Piece {
    /// From here to there in the chunk.
    Of(usize, usize),
    /// Octets that were not there.
    Extra(&'static [u8]),
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// At the start of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self { at_line_start: true, held_cr: false, refused: false }
    }

    /// Encodes a chunk; `sink` gets the pieces in order, slices of `chunk` wherever nothing changed.
    pub fn encode(&mut self, chunk: &Bytes, mut sink: impl FnMut(Bytes)) {
        self.pieces(chunk, |piece| match piece {
            Piece::Of(from, to) => sink(chunk.slice(from..to)),
            Piece::Extra(octets) => sink(Bytes::from_static(octets)),
        });
    }

    /// Encodes a chunk into `to`, for chunks so small that copying is cheaper than a slice.
    pub fn encode_into(&mut self, chunk: &[u8], to: &mut BytesMut) {
        self.pieces(chunk, |piece| match piece {
            Piece::Of(from, end) => to.put_slice(chunk.get(from..end).unwrap_or_default()),
            Piece::Extra(octets) => to.put_slice(octets),
        });
    }

    /// Ends the message: the line end that the content may lack, and the final dot. The encoder is
    /// then at the start of the next message.
    pub fn end(&mut self) -> &'static [u8] {
        let bare = self.at_line_start && !self.held_cr;
        *self = Self::new();
        if bare { b".\r\n" } else { b"\r\n.\r\n" }
    }

    /// Whether there was something that no message may hold: a bare CR or LF, which became a line end and
    /// broke signatures, or a NUL at the beginning of a line: who drops it, as some do, may find a dot
    /// behind it alone. Such a message is better not ended.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether the content so far ends in a CR whose LF did not come yet.
    #[must_use]
    pub const fn ends_in_cr(&self) -> bool {
        self.held_cr
    }

    fn pieces(&mut self, chunk: &[u8], mut sink: impl FnMut(Piece)) {
        let Some((first, _)) = chunk.split_first() else { return };
        let mut from = 0;
        if self.held_cr {
            sink(Piece::Extra(b"\r\n"));
            self.held_cr = false;
            self.at_line_start = true;
            if *first == b'\n' {
                from = 1;
            } else {
                self.refused = true;
            }
        }
        let mut to = chunk.len();
        if chunk.last() == Some(&b'\r') {
            self.held_cr = true;
            to -= 1;
        }
        match chunk.get(from..to) {
            None | Some([]) => {}
            Some(rest) => {
                self.refused |= self.at_line_start && rest.first() == Some(&0) || has_nul_line(rest);
                if is_clean(rest) {
                    self.stuff(rest, from, sink);
                } else {
                    self.refused = true;
                    self.repair(rest, from, sink);
                }
            }
        }
    }

    /// Nothing but dots to double.
    fn stuff(&mut self, chunk: &[u8], offset: usize, mut sink: impl FnMut(Piece)) {
        if self.at_line_start && chunk.first() == Some(&b'.') {
            sink(Piece::Extra(b"."));
        }
        let mut from = 0;
        for at in memmem::find_iter(chunk, b"\n.") {
            sink(Piece::Of(offset + from, offset + at + 1));
            sink(Piece::Extra(b"."));
            from = at + 1;
        }
        sink(Piece::Of(offset + from, offset + chunk.len()));
        self.at_line_start = chunk.last() == Some(&b'\n');
    }

    /// A bare CR or LF somewhere: line by line.
    fn repair(&mut self, chunk: &[u8], offset: usize, mut sink: impl FnMut(Piece)) {
        let (mut rest, mut at) = (chunk, offset);
        while let Some(first) = rest.first() {
            if self.at_line_start && *first == b'.' {
                sink(Piece::Extra(b"."));
            }
            let length = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            if length > 0 {
                sink(Piece::Of(at, at + length));
            }
            let end = rest.get(length..).unwrap_or_default();
            self.at_line_start = !end.is_empty();
            if self.at_line_start {
                sink(Piece::Extra(b"\r\n"));
            }
            let taken = length + if end.starts_with(b"\r\n") { 2 } else { usize::from(!end.is_empty()) };
            rest = rest.get(taken..).unwrap_or_default();
            at += taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(chunks: &[&[u8]]) -> Vec<u8> {
        let (mut encoder, mut wire) = (Encoder::new(), Vec::new());
        for chunk in chunks {
            encoder.encode(&Bytes::copy_from_slice(chunk), |piece| wire.extend_from_slice(&piece));
        }
        wire.extend_from_slice(encoder.end());
        wire
    }

    /// What a receiver reads, and what is left behind the final dot; written to be plainly right.
    fn decode(wire: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut content, mut rest) = (Vec::new(), wire);
        loop {
            let end = memmem::find(rest, b"\r\n").expect("the wire ends in a dot") + 2;
            let line;
            (line, rest) = rest.split_at(end);
            if line == b".\r\n" {
                return (content, rest.to_vec());
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
    }

    /// What the content becomes when every kind of line end is CRLF and the last line has one.
    fn normal(content: &[u8]) -> Vec<u8> {
        let text = content.iter().map(|b| char::from(*b)).collect::<String>();
        let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
        let end = if text.is_empty() || text.ends_with("\r\n") { "" } else { "\r\n" };
        (text + end).chars().map(|c| u8::try_from(c).unwrap()).collect()
    }

    #[test]
    fn dots_are_doubled_wherever_the_chunk_is_cut() {
        // RFC 5321 §4.5.2
        let content = b".a\r\n..\r\n.\r\nb.\r\n.";
        for cut in 0..=content.len() {
            let (head, tail) = content.split_at(cut);
            assert_eq!(encode(&[head, tail]), b"..a\r\n...\r\n..\r\nb.\r\n..\r\n.\r\n", "{cut}");
        }
        assert_eq!(encode(&[]), b".\r\n");
        assert_eq!(encode(&[b"a"]), b"a\r\n.\r\n");
        assert_eq!(encode(&[b"a\r\n"]), b"a\r\n.\r\n");
        assert_eq!(encode(&[b"a\r"]), b"a\r\n.\r\n");
    }

    #[test]
    fn no_smuggling_sequence_leaves_the_encoder() {
        for end in [
            "\n.\n",
            "\n.\r\n",
            "\r.\r",
            "\r.\r\n",
            "\r\n.\n",
            "\r\n.\r",
            "\n.\r",
            "\r\n.\r\n",
            "\r\r\n.\r\r\n",
        ] {
            let content = format!("a{end}MAIL FROM:<evil@x>\r\n");
            let wire = encode(&[content.as_bytes()]);
            assert_eq!(decode(&wire), (normal(content.as_bytes()), Vec::new()), "{end:?}");
        }
    }

    #[test]
    fn a_clean_chunk_is_passed_on_and_not_copied() {
        let chunk = Bytes::from_static(b"one\r\n.two\r\nthree\r\n");
        let mut pieces = Vec::new();
        Encoder::new().encode(&chunk, |piece| pieces.push(piece));
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces[0].as_ptr(), chunk.as_ptr());
        assert_eq!(pieces[2].as_ptr(), chunk[5..].as_ptr());
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x'), Just(0), any::<u8>()],
            0..64,
        )
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_what_was_encoded_however_it_is_cut(
            chunks in proptest::collection::vec(octets(), 0..8),
        ) {
            let parts: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let (whole, wire) = (chunks.concat(), encode(&parts));
            prop_assert_eq!(&wire, &encode(&[&whole]));
            prop_assert_eq!(decode(&wire), (normal(&whole), Vec::new()));
            let (mut encoder, mut copied) = (Encoder::new(), BytesMut::new());
            parts.iter().for_each(|part| encoder.encode_into(part, &mut copied));
            copied.put_slice(encoder.end());
            prop_assert_eq!(&wire[..], &copied[..]);
            let bare = wire.windows(2).any(|w| (w[0] == b'\r') != (w[1] == b'\n'));
            prop_assert!(!bare && wire.first() != Some(&b'\n'));
        }
    }
}
