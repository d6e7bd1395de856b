//! Canonicalization is what a message looks like to a signature (RFC 6376 §3.4): as it is, or with white
//! space evened out.
//!
//! A body is canonicalized while it streams by, whatever the places where it is cut: what cannot be
//! decided yet is counted, not kept. Only CRLF ends a line; a CR or LF alone, which only binary mail has, is
//! an octet like any other.

use aws_lc_rs::digest::{Context, SHA256};

/// How much change on the way a signature survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Canon {
    /// None, but for empty lines at the end of a body.
    Simple,
    /// Changes of white space and of the case of field names. The default: hosts do make these.
    #[default]
    Relaxed,
}

impl Canon {
    /// Its name in `c=`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }

    /// By its name; `None` when it is another.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        match name {
            b"simple" => Some(Self::Simple),
            b"relaxed" => Some(Self::Relaxed),
            _ => None,
        }
    }

    /// Appends a field (RFC 6376 §3.4.1, §3.4.2). `raw` is all of it; a missing line end is added where
    /// white space is evened out.
    pub(crate) fn field(self, raw: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Simple => out.extend_from_slice(raw),
            Self::Relaxed => relaxed_field(raw, out),
        }
    }
}

fn relaxed_field(raw: &[u8], out: &mut Vec<u8>) {
    let colon = memchr::memchr(b':', raw).unwrap_or(raw.len());
    let (name, value) = raw.split_at_checked(colon).unwrap_or((raw, &[]));
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let start = out.len();
    let mut space = false;
    for octet in value.get(1..).unwrap_or_default() {
        match octet {
            b' ' | b'\t' => space = true,
            // The fold itself goes, the white space behind it stays.
            b'\r' | b'\n' => {}
            octet => {
                if std::mem::take(&mut space) && out.len() > start {
                    out.push(b' ');
                }
                out.push(*octet);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A body on its way into a hash.
pub(super) struct BodyHash {
    canon: Canon,
    hash: Context,
    /// Line ends that count only when something follows them.
    lines: u64,
    /// The last octet was a CR, which may be half a line end.
    cr: bool,
    /// White space stands there that counts only when something else follows on its line.
    space: bool,
    /// Something was hashed.
    any: bool,
    /// What the careful way has made, to be hashed at once.
    out: Vec<u8>,
}

impl BodyHash {
    pub(super) fn new(canon: Canon) -> Self {
        Self {
            canon,
            hash: Context::new(&SHA256),
            lines: 0,
            cr: false,
            space: false,
            any: false,
            out: Vec::new(),
        }
    }

    pub(super) fn update(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let plain = if self.cr || self.space { 0 } else { self.plain(octets) };
            let (front, rest) = octets.split_at_checked(plain).unwrap_or((octets, &[]));
            self.emit(front);
            let (front, rest) = rest.split_at_checked(BLOCK).unwrap_or((rest, &[]));
            self.careful(front);
            octets = rest;
        }
    }

    /// The hash of all of it.
    pub(super) fn finish(mut self) -> [u8; 32] {
        // A CR at the very end is half a line end of nothing. White space there is at the end of a line.
        if std::mem::take(&mut self.cr) {
            self.content(b'\r');
            self.flush();
        }
        // RFC 6376 §3.4.3: no body is an empty line; §3.4.4: no body is nothing.
        if self.any || self.canon == Canon::Simple {
            self.hash.update(b"\r\n");
        }
        let mut hash = [0; 32];
        hash.iter_mut().zip(self.hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
        hash
    }

    /// How many octets at the front are hashed as they are, by and large: all but the line ends that may
    /// turn out to be the last.
    fn plain(&self, octets: &[u8]) -> usize {
        let mut length = match self.canon {
            Canon::Simple => octets.len(),
            Canon::Relaxed => even(octets),
        };
        let undecided = |octet: &u8| match self.canon {
            // White space is content like any other, and to look back over it for each block is endless.
            Canon::Simple => *octet == b'\r',
            Canon::Relaxed => matches!(octet, b' ' | b'\t' | b'\r'),
        };
        while length.checked_sub(1).and_then(|last| octets.get(last)).is_some_and(undecided) {
            length -= 1;
        }
        length
    }

    /// Hashes octets that are as they have to be.
    fn emit(&mut self, octets: &[u8]) {
        let mut content = octets;
        let mut ends = 0;
        while let Some(before) = content.strip_suffix(b"\r\n") {
            (content, ends) = (before, ends + 1);
        }
        if !content.is_empty() {
            self.ends();
            self.flush();
            self.hash.update(content);
            self.any = true;
        }
        self.lines += ends;
    }

    /// Octet by octet.
    fn careful(&mut self, octets: &[u8]) {
        for octet in octets {
            if std::mem::take(&mut self.cr) {
                if *octet == b'\n' {
                    self.space = false;
                    self.lines += 1;
                    continue;
                }
                self.content(b'\r');
            }
            match octet {
                b'\r' => self.cr = true,
                b' ' | b'\t' if self.canon == Canon::Relaxed => self.space = true,
                octet => self.content(*octet),
            }
        }
        self.flush();
    }

    fn content(&mut self, octet: u8) {
        self.ends();
        if std::mem::take(&mut self.space) {
            self.out.push(b' ');
        }
        self.out.push(octet);
        self.any = true;
    }

    /// Something follows the line ends that were counted.
    fn ends(&mut self) {
        if self.lines == 0 {
            return;
        }
        self.flush();
        while self.lines > 0 {
            let some = self.lines.min(ENDS.len() as u64 / 2);
            let octets = usize::try_from(some * 2).unwrap_or_default();
            self.hash.update(ENDS.get(..octets).unwrap_or_default());
            self.lines -= some;
        }
    }

    fn flush(&mut self) {
        self.hash.update(&self.out);
        self.out.clear();
    }
}

/// How many octets at the front have no white space that would be evened out; whole blocks, but for the
/// last.
fn even(octets: &[u8]) -> usize {
    let mut at = 0;
    while let Some(block) = octets.get(at..).filter(|rest| !rest.is_empty()) {
        let block = block.get(..BLOCK).unwrap_or(block);
        let next = octets.get(at + 1..).unwrap_or_default();
        // Without a branch, so that it is done for many octets at once.
        let odd = block.iter().zip(next).fold(0_u8, |odd, (a, b)| {
            let pair = u8::from(*b == b' ') | u8::from(*b == b'\t') | u8::from(*b == b'\r');
            odd | u8::from(*a == b'\t') | (u8::from(*a == b' ') & pair)
        });
        if odd != 0 || block.last() == Some(&b'\t') {
            break;
        }
        at += block.len();
    }
    at
}

/// What is looked at together: a few vectors, and not much is lost where one octet is odd.
const BLOCK: usize = 64;
/// So that a million empty lines are not a million calls.
const ENDS: [u8; 256] = {
    let mut ends = [b'\r'; 256];
    let mut at = 1;
    while at < ends.len() {
        #[allow(clippy::indexing_slicing, reason = "computed when it is compiled")]
        {
            ends[at] = b'\n';
        }
        at += 2;
    }
    ends
};

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;
    use proptest::prelude::*;

    use super::*;

    fn hashed<'a>(canon: Canon, pieces: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
        let mut body = BodyHash::new(canon);
        pieces.into_iter().for_each(|piece| body.update(piece));
        body.finish()
    }

    /// The RFC read aloud: over the whole, line by line.
    fn plainly(canon: Canon, body: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut rest = body;
        while let Some(end) = memchr::memmem::find(rest, b"\r\n") {
            lines.push(rest[..end].to_vec());
            rest = &rest[end + 2..];
        }
        lines.push(rest.to_vec());
        if canon == Canon::Relaxed {
            for line in &mut lines {
                let mut even = Vec::new();
                for octet in line.iter().map(|b| if *b == b'\t' { b' ' } else { *b }) {
                    if octet != b' ' || even.last() != Some(&b' ') {
                        even.push(octet);
                    }
                }
                while even.last() == Some(&b' ') {
                    even.pop();
                }
                *line = even;
            }
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        let mut out: Vec<u8> = lines.into_iter().flat_map(|line| [line, b"\r\n".to_vec()].concat()).collect();
        if out.is_empty() && canon == Canon::Simple {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    #[test]
    fn bodies_look_as_the_rfc_says() {
        for (body, simple, relaxed) in [
            ("", "\r\n", ""),
            ("\r\n\r\n", "\r\n", ""),
            (" \t\r\n\r\n", " \t\r\n", ""),
            // RFC 6376 §3.4.5
            (" C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"),
            ("a", "a\r\n", "a\r\n"),
            ("a  ", "a  \r\n", "a\r\n"),
            ("a\r\n  ", "a\r\n  \r\n", "a\r\n"),
            ("\r\n\r\na\r\n\r\nb\r\n", "\r\n\r\na\r\n\r\nb\r\n", "\r\n\r\na\r\n\r\nb\r\n"),
            ("a\rb\nc \r", "a\rb\nc \r\r\n", "a\rb\nc \r\r\n"),
            ("gr\u{fc}n\t\u{2713}\r\n", "gr\u{fc}n\t\u{2713}\r\n", "gr\u{fc}n \u{2713}\r\n"),
        ] {
            for (canon, out) in [(Canon::Simple, simple), (Canon::Relaxed, relaxed)] {
                assert_eq!(plainly(canon, body.as_bytes()), out.as_bytes(), "{canon:?} {body:?}");
                let expected = digest(&SHA256, out.as_bytes());
                assert_eq!(hashed(canon, [body.as_bytes()]), expected.as_ref(), "{canon:?} {body:?}");
            }
        }
    }

    #[test]
    fn fields_look_as_the_rfc_says() {
        for (raw, relaxed) in [
            ("A: X\r\n", "a:X\r\n"),
            ("B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"),
            ("Subject:\r\n", "subject:\r\n"),
            ("Subject:  \r\n \r\n", "subject:\r\n"),
            ("Subject: a\r\n b:c", "subject:a b:c\r\n"),
        ] {
            let mut out = Vec::new();
            Canon::Relaxed.field(raw.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), relaxed);
            let mut out = Vec::new();
            Canon::Simple.field(raw.as_bytes(), &mut out);
            assert_eq!(out, raw.as_bytes());
        }
    }

    #[test]
    fn a_body_of_white_space_takes_no_longer_than_another() {
        // With a look back over the white space for each block of it, this would take hours.
        for octet in [b' ', b'\t', b'\r', b'\n'] {
            let body = vec![octet; 1 << 23];
            let simple = [&body[..], b"\r\n"].concat();
            assert_eq!(hashed(Canon::Simple, [&body[..]]), digest(&SHA256, &simple).as_ref());
            let relaxed = if matches!(octet, b' ' | b'\t') { &b""[..] } else { &simple };
            assert_eq!(hashed(Canon::Relaxed, [&body[..]]), digest(&SHA256, relaxed).as_ref(), "{octet}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]
        #[test]
        fn a_body_is_hashed_alike_however_it_is_cut(
            body in "([ab \t\r\n]|\r\n|[a-z]{60,70}|( ?\r\n){1,40}){0,40}",
            cuts in proptest::collection::vec(1_usize..90, 0..60),
        ) {
            for canon in [Canon::Simple, Canon::Relaxed] {
                let whole = digest(&SHA256, &plainly(canon, body.as_bytes()));
                prop_assert_eq!(&hashed(canon, [body.as_bytes()])[..], whole.as_ref());
                prop_assert_eq!(&hashed(canon, body.as_bytes().chunks(1))[..], whole.as_ref());
                let mut rest = body.as_bytes();
                let mut pieces = Vec::new();
                for cut in &cuts {
                    let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                    pieces.push(piece);
                    rest = tail;
                }
                pieces.push(rest);
                prop_assert_eq!(&hashed(canon, pieces)[..], whole.as_ref());
            }
        }
    }
}
