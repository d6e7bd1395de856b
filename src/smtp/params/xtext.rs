//! Text that travels as xtext (RFC 3461 §4).

use std::fmt;

use super::ParamError;

/// Text that travels as xtext (RFC 3461 §4): decoded here, encoded on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct XText(Box<str>);

impl XText {
    /// From decoded text.
    ///
    /// # Errors
    /// When it is longer than `max` octets encoded, or not printable ASCII; the former is the
    /// RFC's own limit for the parameter at hand.
    pub fn new(text: &str, max: usize) -> Result<Self, ParamError> {
        let escaped = text.bytes().filter(|b| !is_plain(*b)).count();
        if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) || text.len() + 2 * escaped > max {
            return Err(ParamError::Value);
        }
        Ok(Self(text.into()))
    }

    /// From the wire: printable ASCII with `+XX` for what may not stand there.
    ///
    /// # Errors
    /// When the encoding is broken, or the decoded octets are not printable ASCII.
    pub fn decode(wire: &str, max: usize) -> Result<Self, ParamError> {
        if wire.len() > max || !wire.is_ascii() {
            return Err(ParamError::Value);
        }
        let octets = unescape(wire).ok_or(ParamError::Value)?;
        Self::new(std::str::from_utf8(&octets).map_err(|_| ParamError::Value)?, max)
    }

    /// The decoded text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The octets that xtext stands for; what is not ASCII stands for itself. `None` when the encoding is
/// broken.
pub(super) fn unescape(wire: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(wire.len());
    let mut octets = wire.bytes();
    while let Some(octet) = octets.next() {
        decoded.push(match octet {
            b'+' => hex(octets.next()?)? << 4 | hex(octets.next()?)?,
            0x80.. => octet,
            _ if is_plain(octet) => octet,
            _ => return None,
        });
    }
    Some(decoded)
}

/// Whether it stands for itself on the wire.
const fn is_plain(octet: u8) -> bool {
    matches!(octet, b'!'..=b'~') && octet != b'+' && octet != b'='
}

/// Upper-case hexadecimal only, as RFC 3461 §4 has it.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for XText {
    /// Encoded, as on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = &*self.0;
        while let Some(at) = rest.bytes().position(|b| !is_plain(b)) {
            let (plain, tail) = rest.split_at_checked(at).unwrap_or_default();
            f.write_str(plain)?;
            let mut tail = tail.chars();
            // Printable ASCII, as it was found when it was made.
            write!(f, "+{:02X}", tail.next().map_or(0, u32::from))?;
            rest = tail.as_str();
        }
        f.write_str(rest)
    }
}
