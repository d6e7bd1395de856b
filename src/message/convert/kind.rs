//! What a header says of its body: the type and the encoding, as far as a conversion needs them.

use super::{ENCODING, Unconvertible};
use crate::message::header::{Field, Header};

/// What a body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::message) enum Kind {
    /// To be read in lines.
    Text {
        /// In a charset of more than one octet for a character, ASCII included.
        wide: bool,
    },
    /// Octets of which nothing is known.
    Other,
    /// Parts.
    Multipart {
        boundary: Vec<u8>,
        /// They are messages unless they say otherwise.
        digest: bool,
    },
    /// Parts that are signed or encrypted as they are (RFC 1847).
    Sealed,
    /// A message, which is never encoded as a whole (RFC 2046 §5.2.1).
    Message,
    /// A piece of one, or a reference to one.
    Partial,
}

/// How a body says it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::message) enum Encoding {
    /// 7bit, or nothing said.
    SevenBit,
    EightBit,
    Binary,
    /// Quoted-printable or base64.
    Encoded,
    Unknown,
}

/// Both.
pub(in crate::message) struct Structure {
    pub(in crate::message) kind: Kind,
    pub(in crate::message) encoding: Encoding,
}

impl Structure {
    /// What the header says; in a digest, silence means a message.
    pub(in crate::message) fn of(header: &Header<'_>, digest: bool) -> Result<Self, Unconvertible> {
        let kind = match only(header, "Content-Type")? {
            None if digest => Kind::Message,
            None => Kind::Text { wide: false },
            Some(field) => Kind::parse(&field.unfolded())?,
        };
        let encoding = only(header, ENCODING)?;
        let encoding = encoding.map_or(Encoding::SevenBit, |field| Encoding::parse(&field.unfolded()));
        Ok(Self { kind, encoding })
    }
}

/// The field of this name. Of two, some readers take the first and some the last.
fn only<'a>(header: &Header<'a>, name: &str) -> Result<Option<Field<'a>>, Unconvertible> {
    let mut fields = header.fields().filter(|field| field.is(name));
    match (fields.next(), fields.next()) {
        (field, None) => Ok(field),
        _ => Err(Unconvertible::Structure),
    }
}

impl Encoding {
    /// RFC 2045 §6.1
    fn parse(value: &[u8]) -> Self {
        let mut text = Text(value);
        match text.token(b";").to_ascii_lowercase().as_slice() {
            b"7bit" => Self::SevenBit,
            b"8bit" => Self::EightBit,
            b"binary" => Self::Binary,
            b"quoted-printable" | b"base64" => Self::Encoded,
            _ => Self::Unknown,
        }
    }
}

impl Kind {
    /// RFC 2045 §5.1
    fn parse(value: &[u8]) -> Result<Self, Unconvertible> {
        let mut text = Text(value);
        let main = text.token(b"/;").to_ascii_lowercase();
        let slash = text.take(b'/');
        let sub = text.token(b"/;").to_ascii_lowercase();
        // RFC 2045 §5.2: what has no valid type is plain text.
        if main.is_empty() || !slash || sub.is_empty() {
            return Ok(Self::Text { wide: false });
        }
        Ok(match (main.as_slice(), sub.as_slice()) {
            (b"multipart", b"signed" | b"encrypted") => Self::Sealed,
            (b"multipart", _) => {
                let mut boundary = text.parameter("boundary")?.ok_or(Unconvertible::Structure)?;
                // RFC 2046 §5.1.1: it does not end in white space, since a delimiter may.
                boundary.truncate(boundary.trim_ascii_end().len());
                if boundary.is_empty() {
                    return Err(Unconvertible::Structure);
                }
                Self::Multipart { boundary, digest: sub == b"digest" }
            }
            (b"message", b"rfc822") => Self::Message,
            (b"message", b"partial" | b"external-body") => Self::Partial,
            (b"text", _) => {
                let charset = text.parameter("charset").ok().flatten().unwrap_or_default();
                let charset = charset.to_ascii_lowercase();
                let wide: [&[u8]; 4] = [b"utf-16", b"utf-32", b"ucs-", b"iso-10646"];
                Self::Text { wide: wide.iter().any(|name| charset.starts_with(name)) }
            }
            // The others are text, and RFC 6532 §3.7 lets the ones with UTF-8 in them be encoded.
            (b"message", _) => Self::Text { wide: false },
            _ => Self::Other,
        })
    }
}

/// The rest of a structured value.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    /// Up to white space, a comment or one of `ends`.
    fn token(&mut self, ends: &[u8]) -> &'a [u8] {
        self.skip();
        let end = |octet: &u8| octet.is_ascii_whitespace() || *octet == b'(' || ends.contains(octet);
        let token = self.split(self.0.iter().position(end).unwrap_or(self.0.len()));
        self.skip();
        token
    }

    fn take(&mut self, octet: u8) -> bool {
        match self.0.split_first() {
            Some((first, rest)) if *first == octet => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// The parameter of this name among those that follow. Values that ought to be quoted and are not
    /// are common, and end at white space or a semicolon.
    fn parameter(&mut self, name: &str) -> Result<Option<Vec<u8>>, Unconvertible> {
        let mut found = None;
        while !self.0.is_empty() {
            if !self.take(b';') {
                self.split(1);
                continue;
            }
            let is_it = self.token(b"=;").eq_ignore_ascii_case(name.as_bytes());
            if !self.take(b'=') {
                continue;
            }
            self.skip();
            let value = if self.take(b'"') { self.quoted() } else { self.token(b";").to_vec() };
            if is_it && found.replace(value).is_some() {
                return Err(Unconvertible::Structure);
            }
            self.skip();
        }
        Ok(found)
    }

    /// The rest of a quoted string, whose opening quote was taken.
    fn quoted(&mut self) -> Vec<u8> {
        let mut value = Vec::new();
        while let Some((octet, rest)) = self.0.split_first() {
            self.0 = rest;
            match octet {
                b'"' => break,
                b'\\' => value.extend(self.split(1)),
                octet => value.push(*octet),
            }
        }
        value
    }

    /// White space and comments, which nest (RFC 5322 §3.2.2).
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while let Some((octet, rest)) = self.0.split_first() {
            match octet {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.split(2);
                    continue;
                }
                octet if depth > 0 || octet.is_ascii_whitespace() => {}
                _ => return,
            }
            self.0 = rest;
        }
    }

    fn split(&mut self, at: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at_checked(at).unwrap_or((self.0, &[]));
        self.0 = rest;
        front
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multipart(boundary: &str) -> Result<Kind, Unconvertible> {
        Ok(Kind::Multipart { boundary: boundary.into(), digest: false })
    }

    #[test]
    fn a_type_is_read_however_it_is_written() {
        let text = |wide| Ok(Kind::Text { wide });
        for (value, kind) in [
            ("text/plain; charset=utf-8", text(false)),
            ("TEXT/HTML;charset=\"UTF-16LE\"", text(true)),
            ("text", text(false)),
            ("", text(false)),
            ("/plain", text(false)),
            ("image/png; name=\"a;boundary=x\"", Ok(Kind::Other)),
            ("multipart/mixed; boundary=abc", multipart("abc")),
            ("Multipart/Mixed;\r\n\tBOUNDARY = \"a b\\\"c \"", multipart("a b\"c")),
            (
                "multipart/mixed (a (nested \\) one)); (x) boundary=----=_P/1:2; type=x",
                multipart("----=_P/1:2"),
            ),
            ("multipart/mixed; name=\"; boundary=no\"; boundary=yes", multipart("yes")),
            ("multipart/mixed; xboundary=no; boundary=\"\"", Err(Unconvertible::Structure)),
            ("multipart/mixed", Err(Unconvertible::Structure)),
            ("multipart/mixed; boundary=a; boundary=b", Err(Unconvertible::Structure)),
            ("multipart/digest; boundary=a", Ok(Kind::Multipart { boundary: b"a".to_vec(), digest: true })),
            ("multipart/signed; boundary=a", Ok(Kind::Sealed)),
            ("message/rfc822", Ok(Kind::Message)),
            ("message/partial; id=x", Ok(Kind::Partial)),
            ("message/global", text(false)),
        ] {
            assert_eq!(Kind::parse(value.as_bytes()), kind, "{value}");
        }
    }

    #[test]
    fn an_encoding_is_known_or_not() {
        for (value, encoding) in [
            ("7BIT", Encoding::SevenBit),
            (" 8bit (so to say)", Encoding::EightBit),
            ("binary;", Encoding::Binary),
            ("Base64", Encoding::Encoded),
            ("quoted-printable", Encoding::Encoded),
            ("8-bit", Encoding::Unknown),
            ("", Encoding::Unknown),
        ] {
            assert_eq!(Encoding::parse(value.as_bytes()), encoding, "{value}");
        }
    }
}
