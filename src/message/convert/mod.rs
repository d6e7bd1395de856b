//! A conversion makes a message seven-bit, for a host that takes no other.
//!
//! What is 8-bit or binary in a body is encoded, part by part (RFC 6152 §3, RFC 3030 §3): text as
//! quoted-printable, all else as base64. Everything that is seven-bit already stays octet for octet: the
//! header but for `Content-Transfer-Encoding`, the parts that need nothing, the lines between them. What
//! comes out decodes to what went in.
//!
//! It works on a copy of a whole message and keeps nothing. What cannot be changed without changing what
//! it says is refused, with the reason: a signature does not survive, and a header field in UTF-8 has no
//! seven-bit form that means the same.

mod encode;
mod inspect;
mod kind;
mod multipart;

use bytes::Bytes;

pub(in crate::message) use encode::base64;
pub use inspect::has_eight_bit_header;

use self::kind::Encoding;
pub(super) use self::kind::{Kind, Structure};
pub(super) use self::multipart::Boundary;
use super::body::{ends_with_crlf, has_long_line, is_clean_crlf, is_seven_bit};
use super::header::Header;

/// Why a message cannot be made seven-bit. It is failed then, never sent raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Unconvertible {
    /// A header field, of the message or of a part, holds 8-bit octets: it needs SMTPUTF8 (5.6.7).
    #[error("a header field holds 8-bit octets")]
    Header,
    /// 8-bit octets stand in a signed or encrypted part, which would no longer be what was signed. RFC
    /// 1847 §2.1 has them seven-bit from the start.
    #[error("a signed or encrypted part holds 8-bit octets")]
    Signed,
    /// 8-bit octets stand where the declared encoding has none, or the encoding is not known, or it is
    /// one that a part made of parts cannot have (RFC 2045 §6.4).
    #[error("a part is not encoded as it says")]
    Encoding,
    /// 8-bit octets stand in a piece of a message, or beside a body that is elsewhere; both are seven-bit
    /// by definition (RFC 2046 §5.2.2, §5.2.3).
    #[error("a partial or external body holds 8-bit octets")]
    Partial,
    /// Readers would not agree on where its parts begin and end, or of which kind they are.
    #[error("the structure is ambiguous")]
    Structure,
    /// More than [`MAX_DEPTH`] parts within each other, more than [`MAX_PARTS`] to look into, or a header
    /// above the limits of [`Header::scan`].
    #[error("the message has too many parts, or parts nested too deep, or too large a header")]
    TooComplex,
}

/// Parts within parts. Replies with their originals attached nest some five deep; each level costs one
/// more look at the octets in it.
pub const MAX_DEPTH: usize = 32;
/// Parts that are looked into: a digest of a busy list has some hundred. Each may grow by a header of its
/// own, so this bounds how much larger than its input a result is.
pub const MAX_PARTS: usize = 1000;

/// The message with nothing in it but seven-bit octets other than NUL, in lines that end in CRLF. One
/// that is so already comes back as it is; in one that is not, lines of more than 998 octets in bodies
/// are encoded as well (RFC 5322 §2.1.1).
///
/// A part that says `7bit` and is not is taken for `8bit`: that is said wrongly more often than meant. A
/// body without `Content-Type` becomes `text/plain; charset=unknown-8bit` (RFC 1428 §3). What stands
/// before the first and behind the last part of a multipart is read by nobody (RFC 2046 §5.1.1): there,
/// each octet that cannot stay becomes a question mark.
///
/// The result has at most some 3.2 times as many octets, and up to 200 more for each part. It takes as
/// long as some twenty copies of the octets, so do it where nobody waits when they are many.
///
/// # Errors
/// [`Unconvertible`] when it cannot be made so without changing what it says.
pub fn to_seven_bit(message: &[u8]) -> Result<Bytes, Unconvertible> {
    if !is_raw(message) {
        return Ok(Bytes::copy_from_slice(message));
    }
    let mut walk = Walk { out: Vec::with_capacity(encode::room(message)), parts: 0 };
    walk.entity(message, Place { message: true, digest: false, last: true, depth: 0 })?;
    Ok(walk.out.into())
}

/// Whether some octet cannot stand in seven-bit mail (RFC 2045 §2.7).
fn is_raw(octets: &[u8]) -> bool {
    !is_seven_bit(octets) || memchr::memchr(0, octets).is_some() || !is_clean_crlf(octets)
}

/// Where an entity stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// It is a message, not a part of one.
    message: bool,
    /// It is part of a digest: a message, unless it says otherwise (RFC 2046 §5.1.5).
    digest: bool,
    /// Nothing follows it. What does follow begins with a line end.
    last: bool,
    depth: usize,
}

struct Walk {
    out: Vec<u8>,
    parts: usize,
}

impl Walk {
    /// Writes a message or a part, header and body.
    fn entity(&mut self, octets: &[u8], place: Place) -> Result<(), Unconvertible> {
        let (raw, start) = (is_raw(octets), self.out.len());
        if raw || has_long_line(octets) {
            match self.convert(octets, place) {
                // Only its lines are long: that alone is no reason to refuse it.
                Err(_) if !raw => self.out.truncate(start),
                done => return done,
            }
        }
        self.out.extend_from_slice(octets);
        Ok(())
    }

    fn convert(&mut self, octets: &[u8], place: Place) -> Result<(), Unconvertible> {
        self.parts += 1;
        if self.parts > MAX_PARTS || place.depth > MAX_DEPTH {
            return Err(Unconvertible::TooComplex);
        }
        let entity = Entity::read(octets, place.digest)?;
        let inside = Place { depth: place.depth + 1, ..place };
        match (&entity.kind, entity.encoding) {
            (Kind::Sealed, _) => Err(Unconvertible::Signed),
            (Kind::Partial, _) => Err(Unconvertible::Partial),
            (Kind::Text { .. } | Kind::Other, _) if !is_raw(entity.body) && !has_long_line(entity.body) => {
                self.out.extend_from_slice(octets);
                Ok(())
            }
            (_, Encoding::Encoded | Encoding::Unknown) => Err(Unconvertible::Encoding),
            (Kind::Multipart { boundary, digest }, _) => {
                self.head(&entity, entity.relabelled());
                let inside = Place { message: false, digest: *digest, ..inside };
                self.multipart(entity.body, &Boundary::new(boundary), inside)
            }
            (Kind::Message, _) => {
                self.head(&entity, entity.relabelled());
                self.entity(entity.body, Place { message: true, digest: false, ..inside })
            }
            (Kind::Text { wide: false }, encoding) if encoding != Encoding::Binary => {
                self.leaf(&entity, place, is_clean_text(entity.body, place.last));
                Ok(())
            }
            (Kind::Text { .. } | Kind::Other, _) => {
                self.leaf(&entity, place, false);
                Ok(())
            }
        }
    }

    fn multipart(&mut self, body: &[u8], boundary: &Boundary<'_>, place: Place) -> Result<(), Unconvertible> {
        let (mut at, mut inside) = (0, false);
        while let Some(line) = boundary.next(body, at) {
            let before = body.get(at..line.start).unwrap_or_default();
            if inside {
                self.entity(before, Place { last: false, ..place })?;
            } else if line.closes {
                return Err(Unconvertible::Structure);
            } else {
                self.outside(before);
            }
            self.out.extend_from_slice(body.get(line.start..line.end).unwrap_or_default());
            (at, inside) = (line.end, true);
            if line.closes {
                self.outside(body.get(at..).unwrap_or_default());
                return Ok(());
            }
        }
        if !inside {
            return Err(Unconvertible::Structure);
        }
        // The last delimiter is missing, and stays so.
        self.entity(body.get(at..).unwrap_or_default(), place)
    }

    /// Before the first and behind the last part.
    fn outside(&mut self, octets: &[u8]) {
        if is_raw(octets) || has_long_line(octets) {
            encode::plain(octets, &mut self.out);
        } else {
            self.out.extend_from_slice(octets);
        }
    }

    /// A body that is not made of parts.
    fn leaf(&mut self, entity: &Entity<'_>, place: Place, quoted: bool) {
        let mut added = String::new();
        if entity.header.first("Content-Type").is_none() && !is_seven_bit(entity.body) {
            added.push_str("Content-Type: text/plain; charset=unknown-8bit\r\n");
        }
        if place.message && entity.header.first("MIME-Version").is_none() {
            added.insert_str(0, "MIME-Version: 1.0\r\n");
        }
        let label = if quoted { "quoted-printable" } else { "base64" };
        self.head(entity, Some((label, &added)));
        if quoted {
            encode::quoted_printable(entity.body, &mut self.out);
        } else {
            base64(entity.body, &mut self.out);
            if !place.last {
                // The line end in front of the next delimiter belongs to that.
                self.out.truncate(self.out.len().saturating_sub(2));
            }
        }
    }

    /// The header with its encoding replaced, and what else is to be added, and the empty line.
    fn head(&mut self, entity: &Entity<'_>, change: Option<(&str, &str)>) {
        let Some((label, added)) = change else {
            self.out.extend_from_slice(entity.front);
            return;
        };
        let mut labelled = false;
        for field in entity.header.fields() {
            if field.is(ENCODING) {
                self.label(label);
                labelled = true;
            } else {
                self.out.extend_from_slice(field.raw);
            }
        }
        self.out.extend_from_slice(added.as_bytes());
        if !labelled {
            self.label(label);
        }
        // Where the header was ended by a line that is no field, there was none.
        self.out.extend_from_slice(b"\r\n");
    }

    fn label(&mut self, label: &str) {
        for piece in [ENCODING, ": ", label, "\r\n"] {
            self.out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// An entity as far as it is understood.
struct Entity<'a> {
    header: Header<'a>,
    /// The header and the empty line.
    front: &'a [u8],
    body: &'a [u8],
    kind: Kind,
    encoding: Encoding,
}

impl<'a> Entity<'a> {
    fn read(octets: &'a [u8], digest: bool) -> Result<Self, Unconvertible> {
        let header = Header::scan(octets).map_err(|_| Unconvertible::TooComplex)?;
        let (front, body) = octets
            .split_at_checked(header.body_start().unwrap_or(octets.len()))
            .ok_or(Unconvertible::Structure)?;
        if !is_seven_bit(front) {
            return Err(Unconvertible::Header);
        }
        if is_raw(front) {
            return Err(Unconvertible::Structure);
        }
        if header.is_broken() && has_field(body) {
            return Err(Unconvertible::Structure);
        }
        let Structure { kind, encoding } = Structure::of(&header, digest)?;
        Ok(Self { header, front, body, kind, encoding })
    }

    /// What is made of seven-bit parts is seven-bit.
    const fn relabelled(&self) -> Option<(&'static str, &'static str)> {
        match self.encoding {
            Encoding::EightBit | Encoding::Binary => Some(("7bit", "")),
            _ => None,
        }
    }
}

/// Whether a field stands before the first empty line. Readers that skip what is none would find it, in
/// mail with a `From ` line in front or a name in 8-bit octets; encoded with the body it would be lost.
fn has_field(body: &[u8]) -> bool {
    let lines = body.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii_end);
    lines.take_while(|line| !line.is_empty()).any(|line| {
        let name = memchr::memchr(b':', line).and_then(|colon| line.get(..colon)).unwrap_or_default();
        !name.is_empty() && !name.trim_ascii_end().iter().any(|octet| matches!(octet, 0..=b' ' | 0x7f))
    })
}

/// Whether it is text in lines: quoted-printable keeps nothing else (RFC 2045 §6.7 (4)), and has no form
/// for a last line without an end, where none follows.
fn is_clean_text(body: &[u8], last: bool) -> bool {
    is_clean_crlf(body) && memchr::memchr(0, body).is_none() && (!last || ends_with_crlf(body))
}

const ENCODING: &str = "Content-Transfer-Encoding";

#[cfg(test)]
mod tests;
