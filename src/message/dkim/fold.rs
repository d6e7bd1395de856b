//! A tag list is written here, folded where it may be, so that no line of it is longer than it has to be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A field with tags that is being written.
pub(crate) struct TagWriter {
    out: Vec<u8>,
    column: usize,
    first: bool,
}

impl TagWriter {
    /// Begins the field of this name.
    pub(crate) fn new(name: &str) -> Self {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        Self { column: out.len(), out, first: true }
    }

    /// A tag with a value that is one word.
    pub(crate) fn word(&mut self, name: &str, value: &str) {
        self.begin(name, value.len());
        self.push(value.as_bytes());
    }

    /// A tag with names that colons divide.
    pub(crate) fn list<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        let mut values = values.peekable();
        self.begin(name, values.peek().map_or(0, |value| value.len() + 1));
        while let Some(value) = values.next() {
            let colon = usize::from(values.peek().is_some());
            // One more than that may follow: the semicolon behind the last.
            if self.column + value.len() + 1 > FOLD_AT {
                self.fold();
            }
            self.push(value.as_bytes());
            self.push(b":".get(..colon).unwrap_or_default());
        }
    }

    /// A tag with octets in Base64.
    pub(crate) fn base64(&mut self, name: &str, octets: &[u8]) {
        self.begin(name, 1);
        self.fill(octets);
    }

    /// The field as far as it is signed: with the tag of the signature, and without its value.
    pub(crate) fn into_unsealed(mut self) -> Unsealed {
        self.begin("b", 1);
        Unsealed(self)
    }

    fn begin(&mut self, name: &str, least: usize) {
        if !std::mem::take(&mut self.first) {
            self.push(b";");
        }
        // The space in front, the sign, and the semicolon behind.
        if self.column + name.len() + least + 3 > FOLD_AT {
            self.fold();
        } else {
            self.push(b" ");
        }
        self.push(name.as_bytes());
        self.push(b"=");
    }

    fn fill(&mut self, octets: &[u8]) {
        let text = STANDARD.encode(octets);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            if self.column + 1 >= FOLD_AT {
                self.fold();
            }
            let room = FOLD_AT - 1 - self.column;
            let (piece, tail) = rest.split_at_checked(room).unwrap_or((rest, &[]));
            self.push(piece);
            rest = tail;
        }
    }

    fn fold(&mut self) {
        self.out.extend_from_slice(b"\r\n ");
        self.column = 1;
    }

    fn push(&mut self, octets: &[u8]) {
        self.out.extend_from_slice(octets);
        self.column += octets.len();
    }
}

/// A field that lacks the value of its signature.
pub(crate) struct Unsealed(TagWriter);

impl Unsealed {
    /// What of it is signed.
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0.out
    }

    /// All of it, with its line end.
    pub(crate) fn seal(mut self, signature: &[u8]) -> Vec<u8> {
        self.0.fill(signature);
        self.0.out.extend_from_slice(b"\r\n");
        self.0.out
    }
}

/// RFC 5322 §2.1.1: lines should have 78 characters at most.
const FOLD_AT: usize = 78;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_it_has_to_be() {
        for more in 0..80 {
            let mut field = TagWriter::new("DKIM-Signature");
            field.word("v", "1");
            field.word("d", &"d".repeat(more));
            field.list("h", ["From", "From", "Content-Transfer-Encoding"].into_iter().cycle().take(40));
            field.base64("bh", &[7; 32]);
            let field = field.into_unsealed().seal(&[9; 256]);
            let text = String::from_utf8(field).unwrap();
            assert!(text.ends_with("=\r\n") && text.starts_with("DKIM-Signature: v=1;"), "{text}");
            let longest = text.lines().map(str::len).max().unwrap();
            assert!(longest <= 78.max(more + 4), "{longest}: {text}");
            assert!(text.lines().skip(1).all(|line| line.starts_with(' ') && line.trim() != ""), "{text}");
        }
    }
}
