//! A key record is what the DNS says of a key, so that others can verify with it (RFC 6376 §3.6.1).

use std::fmt;

use aws_lc_rs::signature::{ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::tags::{Tags, from_base64};

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyType {
    /// RSA with SHA-256 (RFC 6376 §3.3.2).
    Rsa,
    /// Ed25519 with SHA-256 (RFC 8463).
    Ed25519,
}

impl KeyType {
    /// The name of the algorithm in `a=`.
    #[must_use]
    pub const fn algorithm(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha256",
            Self::Ed25519 => "ed25519-sha256",
        }
    }

    pub(crate) fn of_algorithm(name: &str) -> Option<Self> {
        // RFC 8301 §3.1: rsa-sha1 is no more.
        [Self::Rsa, Self::Ed25519].into_iter().find(|kind| kind.algorithm().eq_ignore_ascii_case(name))
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// A public key as it is published. Its `Display` is the text of the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRecord {
    kind: KeyType,
    /// RSA: a SubjectPublicKeyInfo, or a bare key; Ed25519: 32 octets. Empty: the key was revoked.
    key: Box<[u8]>,
}

/// Why a record is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is no key record.
    #[error("the record is not one of a DKIM key")]
    Malformed,
    /// It is for other keys, hashes or services than there are here.
    #[error("the record is for something else")]
    Unknown,
    /// The key was withdrawn: `p=` is empty.
    #[error("the key was revoked")]
    Revoked,
}

impl KeyRecord {
    pub(super) fn new(kind: KeyType, key: &[u8]) -> Self {
        Self { kind, key: key.into() }
    }

    /// Reads the text of a record: the strings of a TXT record behind each other.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn parse(text: &[u8]) -> Result<Self, RecordError> {
        let tags = Tags::parse(text).ok_or(RecordError::Malformed)?;
        match tags.get("v") {
            None => {}
            Some(b"DKIM1") if tags.first() == Some(b"v") => {}
            Some(_) => return Err(RecordError::Malformed),
        }
        let kind = match tags.text("k").unwrap_or("rsa") {
            name if name.eq_ignore_ascii_case("rsa") => KeyType::Rsa,
            name if name.eq_ignore_ascii_case("ed25519") => KeyType::Ed25519,
            _ => return Err(RecordError::Unknown),
        };
        let names = |tag: &str, any: &[&[u8]]| {
            let list = tags.get(tag);
            list.is_none_or(|list| list.split(|b| *b == b':').any(|name| any.contains(&name.trim_ascii())))
        };
        if !names("h", &[b"sha256"]) || !names("s", &[b"*", b"email"]) {
            return Err(RecordError::Unknown);
        }
        let key = from_base64(tags.get("p").ok_or(RecordError::Malformed)?).ok_or(RecordError::Malformed)?;
        if key.is_empty() {
            return Err(RecordError::Revoked);
        }
        Ok(Self { kind, key: key.into() })
    }

    /// The kind of the key.
    #[must_use]
    pub const fn kind(&self) -> KeyType {
        self.kind
    }

    /// Whether it signed this. RSA keys from 1,024 bits on count (RFC 8301 §3.2).
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.kind {
            KeyType::Rsa => {
                UnparsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &self.key)
                    .verify(message, signature)
            }
            KeyType::Ed25519 => {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message);
                UnparsedPublicKey::new(&ED25519, &self.key).verify(digest.as_ref(), signature)
            }
        }
        .is_ok()
    }
}

impl fmt::Display for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v=DKIM1; k={}; p={}", self.kind.as_str(), STANDARD.encode(&self.key))
    }
}

/// What to publish for one key. Its `Display` is a line of a zone file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DnsRecord {
    /// Where: `selector._domainkey.domain`, without a dot at its end.
    pub name: Box<str>,
    /// What: the text of a TXT record.
    pub text: Box<str>,
}

impl DnsRecord {
    /// The text in pieces of at most 255 octets, as a TXT record holds it (RFC 1035 §3.3.14).
    pub fn strings(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.text;
        std::iter::from_fn(move || {
            let (piece, tail) = rest.split_at_checked(MAX_STRING).unwrap_or((rest, ""));
            rest = tail;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl fmt::Display for DnsRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. IN TXT (", self.name)?;
        self.strings().try_for_each(|piece| write!(f, " \"{piece}\""))?;
        f.write_str(" )")
    }
}

/// The length of a string in a TXT record is one octet.
const MAX_STRING: usize = 255;
