//! A line is what ends in CRLF, and only that: the decoder that takes commands off the wire.
//!
//! Every idea of a line end beyond CRLF has been used to smuggle commands past somebody with one
//! idea less (CVE-2023-51764 and its family), so a line that holds a CR, an LF or a NUL of its own
//! is taken off the wire whole and refused whole. Content is not read here: see
//! [`data`](super::data).

use bytes::{Buf, BytesMut};
use memchr::memmem;

/// Takes lines off the front of a buffer that grows as octets come.
///
/// It looks at no octet twice however the input is cut, and never needs more of it than the limit.
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// Octets at the front of the input known to hold no CRLF.
    scanned: usize,
    /// Octets of an overlong line that were thrown away; its end has not come yet.
    discarded: Option<usize>,
}

/// A line that cannot be read as a command. It has been taken off the input whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The line passes the limit.
    #[error("the line is longer than any command may be")]
    TooLong,
    /// A CR without LF, an LF without CR, or a NUL.
    #[error("the line contains a bare CR, a bare LF or a NUL")]
    Bare,
    /// The line did not even end within [`MAX_DISCARDED`]: there is nothing left to answer.
    #[error("the line does not end")]
    Endless,
}

impl LineDecoder {
    /// Gives the next line, without its CRLF, to `read`, and takes it off `input`. `None` when its
    /// end has not come yet. `max` counts the CRLF.
    ///
    /// # Errors
    /// [`LineError`]; all but [`LineError::Endless`] leave the decoder at the start of the next line.
    pub fn next<T>(
        &mut self,
        input: &mut BytesMut,
        max: usize,
        read: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<Option<T>, LineError> {
        // A CR at the very end may be half of a CRLF.
        let from = self.scanned.saturating_sub(1);
        let found = input.get(from..).and_then(|rest| memmem::find(rest, b"\r\n")).map(|at| from + at);
        let Some(end) = found else {
            self.scanned = input.len();
            return if self.discarded.is_some() || input.len() >= max {
                self.discard(input)
            } else {
                Ok(None)
            };
        };
        self.scanned = 0;
        let verdict = if self.discarded.take().is_some() || end + 2 > max {
            Err(LineError::TooLong)
        } else {
            match input.get_mut(..end) {
                Some(line) if line.iter().all(|b| !matches!(b, b'\r' | b'\n' | 0)) => Ok(Some(read(line))),
                _ => Err(LineError::Bare),
            }
        };
        input.advance(end + 2);
        verdict
    }

    /// Whether the end of an overlong line is being waited for.
    #[must_use]
    pub const fn is_discarding(&self) -> bool {
        self.discarded.is_some()
    }

    fn discard<T>(&mut self, input: &mut BytesMut) -> Result<Option<T>, LineError> {
        let keep = usize::from(input.last() == Some(&b'\r'));
        let gone = input.len() - keep;
        input.advance(gone);
        self.scanned = keep;
        let total = self.discarded.unwrap_or(0).saturating_add(gone);
        self.discarded = Some(total);
        if total > MAX_DISCARDED { Err(LineError::Endless) } else { Ok(None) }
    }
}

/// RFC 5321 §4.5.3.1.4 says 512 and each extension adds to it; with all of them a MAIL command
/// stays below 1,500.
pub const MAX_COMMAND_LINE: usize = 2048;
/// A peer that sends this much without a line end is not speaking SMTP.
pub const MAX_DISCARDED: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]], max: usize) -> Vec<Result<String, LineError>> {
        let (mut decoder, mut input, mut seen) = (LineDecoder::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match decoder.next(&mut input, max, |line| String::from_utf8_lossy(line).into_owned()) {
                    Ok(Some(line)) => seen.push(Ok(line)),
                    Ok(None) => break,
                    Err(error) => seen.push(Err(error)),
                }
            }
        }
        seen
    }

    #[test]
    fn only_crlf_ends_a_line_wherever_the_input_is_cut() {
        let long = "y".repeat(40);
        let wire =
            format!("NOOP\r\n\r\na\nb\r\nc\rd\r\ne\r\r\nf\0\r\n\n\r\n{long}\r\n{long}\r{long}\r\ng\r\n");
        let ok = |s: &str| Ok(s.to_owned());
        let (bare, long) = (Err(LineError::Bare), Err(LineError::TooLong));
        let expected = vec![
            ok("NOOP"),
            ok(""),
            bare.clone(),
            bare.clone(),
            bare.clone(),
            bare.clone(),
            bare,
            long.clone(),
            long,
            ok("g"),
        ];
        for cut in 0..=wire.len() {
            let (head, tail) = wire.as_bytes().split_at(cut);
            assert_eq!(lines(&[head, tail], 32), expected, "cut at {cut}");
        }
        let octets: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
        assert_eq!(lines(&octets, 32), expected);
    }

    #[test]
    fn the_limit_counts_the_line_end() {
        assert_eq!(lines(&[b"123456\r\n"], 8), [Ok("123456".to_owned())]);
        assert_eq!(lines(&[b"1234567\r\n"], 8), [Err(LineError::TooLong)]);
        assert_eq!(lines(&[b"1234567", b"\r\n"], 8), [Err(LineError::TooLong)]);
        assert_eq!(lines(&[b"123456\r", b"\n"], 8), [Ok("123456".to_owned())]);
        assert_eq!(lines(&[b"1234567\r", b"\n"], 8), [Err(LineError::TooLong)]);
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (mut decoder, mut input) = (LineDecoder::default(), BytesMut::new());
        let mut held = 0;
        let error = loop {
            input.extend_from_slice(&[b'x'; 1000]);
            match decoder.next(&mut input, MAX_COMMAND_LINE, |_| ()) {
                Ok(line) => assert_eq!(line, None),
                Err(error) => break error,
            }
            held = held.max(input.len());
        };
        assert_eq!(error, LineError::Endless);
        assert!(held < MAX_COMMAND_LINE, "{held}");
    }
}
