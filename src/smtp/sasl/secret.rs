//! Octets that nobody may see later, and how they travel: in Base64, and in lines of their own.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use zeroize::Zeroize;

use super::{MAX_AUTH_LINE, SaslError};

/// Octets that are overwritten before they are freed, and never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// The parts behind each other. Allocated once, because growing leaves copies behind.
    pub(super) fn joined(parts: &[&[u8]]) -> Self {
        let mut octets = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| octets.extend_from_slice(part));
        Self(octets)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text; empty when it is none, which cannot be for what was made of text.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// In Base64, as the other side is to get it.
    pub(super) fn encode(&self) -> Bytes {
        Bytes::from_owner(Self(STANDARD.encode(&self.0).into_bytes()))
    }

    /// From Base64. A lone `=` is the empty message (RFC 4954 §4).
    pub(super) fn decode(response: &[u8]) -> Result<Self, SaslError> {
        match response {
            _ if response.len() > MAX_AUTH_LINE => Err(SaslError::TooLong),
            b"=" => Ok(Self::default()),
            _ => STANDARD.decode(response).map(Self).map_err(|_| SaslError::Malformed),
        }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A line that holds an answer, wiped when the last handle to it is gone.
pub(crate) fn secret_line(before: &str, answer: &[u8]) -> Bytes {
    Bytes::from_owner(Secret::joined(&[before.as_bytes(), answer, b"\r\n"]))
}
