//! Where the parts of a multipart begin and end.

use memchr::memmem::Finder;

/// The boundary of a multipart, to look for.
pub(in crate::message) struct Boundary<'a> {
    finder: Finder<'a>,
}

/// One line of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::message) struct Delimiter {
    /// Where it begins, the line end in front of it included.
    pub(in crate::message) start: usize,
    /// Behind its line end.
    pub(in crate::message) end: usize,
    /// No part follows.
    pub(in crate::message) closes: bool,
}

impl Boundary<'_> {
    pub(in crate::message) fn new(boundary: &[u8]) -> Self {
        let dashed = [b"--", boundary].concat();
        Self { finder: Finder::new(&dashed).into_owned() }
    }

    /// The next delimiter, from the beginning of a line on. RFC 2046 §5.1.1: a line of the boundary,
    /// with two more hyphens if it closes, and white space. By a note there the line may go on with
    /// anything; but boundaries that begin with the one around them are in use, and other readers ask
    /// for the whole line, too. Only CRLF ends a line.
    pub(in crate::message) fn next(&self, body: &[u8], from: usize) -> Option<Delimiter> {
        let mut at = from;
        loop {
            let line = at + self.finder.find(body.get(at..)?)?;
            at = line + self.finder.needle().len();
            let before = body.get(from..line)?;
            let end = Self::end(body.get(at..)?);
            if let Some((length, closes)) = end
                && (before.is_empty() || before.ends_with(b"\r\n"))
            {
                return Some(Delimiter { start: line.saturating_sub(2).max(from), end: at + length, closes });
            }
        }
    }

    /// The length of the rest of the line, when it is a delimiter, and whether that closes.
    fn end(rest: &[u8]) -> Option<(usize, bool)> {
        let (closes, behind) = rest.strip_prefix(b"--").map_or((false, rest), |behind| (true, behind));
        let padding = behind.iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
        let length = padding + if closes { 2 } else { 0 };
        match behind.get(padding..)? {
            [] => Some((length, closes)),
            [b'\r', b'\n', ..] => Some((length + 2, closes)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(body: &str, boundary: &str) -> Vec<(String, bool)> {
        let boundary = Boundary::new(boundary.as_bytes());
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(line) = boundary.next(body.as_bytes(), at) {
            found.push((body[line.start..line.end].escape_debug().to_string(), line.closes));
            at = line.end;
        }
        found
    }

    #[test]
    fn a_delimiter_is_a_whole_line() {
        for (body, expected) in [
            ("--b\r\nx\r\n--b--\r\n", &[("--b\\r\\n", false), ("\\r\\n--b--\\r\\n", true)][..]),
            ("--b \t\r\n\r\n--b-- ", &[("--b \\t\\r\\n", false), ("\\r\\n--b-- ", true)]),
            // Back to back: the line end belongs to the first.
            ("--b\r\n--b\r\n--b", &[("--b\\r\\n", false), ("--b\\r\\n", false), ("--b", false)]),
            ("x--b\r\n", &[]),
            ("x\n--b\r\n", &[]),
            ("--b\n--b\r", &[]),
            ("--bc\r\n--b-\r\n--b--c\r\n--b c\r\n", &[]),
            ("--b--b\r\n--b\r\n", &[("\\r\\n--b\\r\\n", false)]),
        ] {
            let expected: Vec<_> =
                expected.iter().map(|(line, closes)| ((*line).to_owned(), *closes)).collect();
            assert_eq!(lines(body, "b"), expected, "{body:?}");
        }
        assert_eq!(lines("--a\r\n--a-b\r\n", "a-b"), [("\\r\\n--a-b\\r\\n".to_owned(), false)][..]);
    }
}
