//! A key as it is published (RFC 6376 §3.6.1, RFC 8463 §3).

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::preflight::tags::{is_space, tags, value};

/// Why a record has no key that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFault {
    /// The selector cannot be part of a name.
    #[error("the selector is no name")]
    Selector,
    /// It is no list of tags.
    #[error("it is no list of tags")]
    Syntax,
    /// It is not of version `DKIM1`, or does not say so first.
    #[error("it is not of version DKIM1")]
    Version,
    /// It has no `p=`, or, where a key is needed, an empty one.
    #[error("it has no key")]
    Missing,
    /// A kind of key other than RSA and Ed25519.
    #[error("it has a key of an unknown kind")]
    Kind,
    /// The key is no Base64, or not what its kind should be.
    #[error("its key is malformed")]
    Key,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    /// None when it was revoked.
    pub(super) key: Option<PublicKey>,
    /// `t=y`
    pub(super) testing: bool,
    /// `h=` allows it.
    pub(super) for_sha256: bool,
    /// `s=` allows it.
    pub(super) for_mail: bool,
}

/// A key, whatever it was wrapped in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PublicKey {
    /// Numbers without zeros in front.
    Rsa {
        modulus: Box<[u8]>,
        exponent: Box<[u8]>,
    },
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// How long an RSA key is.
    pub(super) fn bits(&self) -> Option<usize> {
        let Self::Rsa { modulus, .. } = self else { return None };
        let first = modulus.first().map_or(0, |first| first.leading_zeros());
        Some(modulus.len() * 8 - usize::try_from(first).unwrap_or_default())
    }
}

pub(super) fn parse(text: &[u8]) -> Result<Published, KeyFault> {
    let tags = tags(text).ok_or(KeyFault::Syntax)?;
    match tags.iter().position(|(name, _)| *name == "v") {
        // RFC 6376 §3.6.1: first, if it is there at all.
        Some(0) if value(&tags, "v") == Some("DKIM1") => {}
        None => {}
        Some(_) => return Err(KeyFault::Version),
    }
    let lists = |name: &str, all: &[&str]| {
        value(&tags, name)
            .is_none_or(|list| list.split(':').any(|one| all.contains(&one.trim_matches(is_space))))
    };
    let key = match (value(&tags, "p").ok_or(KeyFault::Missing)?, value(&tags, "k").unwrap_or("rsa")) {
        ("", _) => None,
        (key, "rsa") => Some(rsa(&decoded(key)?)?),
        (key, "ed25519") => Some(ed25519(&decoded(key)?)?),
        _ => return Err(KeyFault::Kind),
    };
    Ok(Published {
        key,
        testing: value(&tags, "t").is_some() && lists("t", &["y"]),
        for_sha256: lists("h", &["sha256"]),
        for_mail: lists("s", &["email", "*"]),
    })
}

/// The value of `p=` alone: the kind shows.
pub(super) fn bare(text: &str) -> Result<PublicKey, KeyFault> {
    let key = decoded(text)?;
    // What wraps it elsewhere (RFC 8410 §4) is not published.
    match key.strip_prefix(ED25519_INFO).unwrap_or(&key) {
        key if key.len() == 32 => ed25519(key),
        key => rsa(key),
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, KeyFault> {
    // RFC 6376 §2.10: white space may stand anywhere, and what fills up may be missing.
    let text: String = text.chars().filter(|c| !is_space(*c)).collect();
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config).decode(text).map_err(|_| KeyFault::Key)
}

fn ed25519(octets: &[u8]) -> Result<PublicKey, KeyFault> {
    octets.try_into().map(PublicKey::Ed25519).map_err(|_| KeyFault::Key)
}

/// A `SubjectPublicKeyInfo`, as everybody publishes, or the `RSAPublicKey` in it, as RFC 6376 §3.6.1 says.
fn rsa(octets: &[u8]) -> Result<PublicKey, KeyFault> {
    let (sequence, []) = element(octets, SEQUENCE)? else { return Err(KeyFault::Key) };
    let key = match element(sequence, SEQUENCE) {
        Ok((algorithm, rest)) => {
            let (name, _) = element(algorithm, OBJECT)?;
            let (bits, []) = element(rest, BIT_STRING)? else { return Err(KeyFault::Key) };
            let Some((0, key)) = bits.split_first().filter(|_| name == RSA) else {
                return Err(KeyFault::Key);
            };
            let (sequence, []) = element(key, SEQUENCE)? else { return Err(KeyFault::Key) };
            sequence
        }
        Err(_) => sequence,
    };
    let (modulus, rest) = element(key, INTEGER)?;
    let (exponent, []) = element(rest, INTEGER)? else { return Err(KeyFault::Key) };
    Ok(PublicKey::Rsa { modulus: number(modulus)?, exponent: number(exponent)? })
}

fn number(octets: &[u8]) -> Result<Box<[u8]>, KeyFault> {
    let first = octets.iter().position(|octet| *octet != 0).ok_or(KeyFault::Key)?;
    octets.get(first..).map(Box::from).ok_or(KeyFault::Key)
}

/// The contents of a DER element of this tag (X.690 §8.1), and what stands behind it.
fn element(octets: &[u8], tag: u8) -> Result<(&[u8], &[u8]), KeyFault> {
    let (length, rest) = match octets {
        [first, length @ ..=0x7f, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x81, length, rest @ ..] if *first == tag => (usize::from(*length), rest),
        [first, 0x82, high, low, rest @ ..] if *first == tag => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return Err(KeyFault::Key),
    };
    rest.split_at_checked(length).ok_or(KeyFault::Key)
}

const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const OBJECT: u8 = 6;
const SEQUENCE: u8 = 0x30;
/// A `SubjectPublicKeyInfo` of Ed25519, up to the key.
const ED25519_INFO: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// 1.2.840.113549.1.1.1, rsaEncryption (RFC 8017 §A.1).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8463 §A.2
    const ED25519: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const RSA_KEY: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQi\
        Y/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G\
        +2kryOTIKT+l/K4w3QIDAQAB";

    #[test]
    fn keys_are_read_in_all_their_forms() {
        let rsa = parse(format!("v=DKIM1; k=rsa; p={RSA_KEY}").as_bytes()).unwrap();
        assert_eq!(rsa.key.as_ref().unwrap().bits(), Some(1024));
        assert_eq!((rsa.testing, rsa.for_sha256, rsa.for_mail), (false, true, true));
        let key = rsa.key.unwrap();
        assert_eq!(bare(RSA_KEY), Ok(key.clone()));
        // The RSAPublicKey alone, without the 22 octets around it.
        let inner = GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new())
            .encode(&decoded(RSA_KEY).unwrap()[22..]);
        assert_eq!(parse(format!("p={inner}").as_bytes()).unwrap().key, Some(key));
        let ed = parse(format!("v=DKIM1;k=ed25519;p={}", ED25519.replace("Wk", "W k")).as_bytes()).unwrap();
        assert_eq!(ed.key, Some(bare(ED25519.trim_end_matches('=')).unwrap()));
        let wrapped = bare("MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(ed.key, Some(wrapped.unwrap()));
        assert_eq!(ed.key.unwrap().bits(), None);
    }

    #[test]
    fn what_is_said_beside_the_key() {
        for (text, testing, for_sha256, for_mail) in [
            ("p=", false, true, true),
            ("p=; t=y", true, true, true),
            ("p=; t=s", false, true, true),
            ("p=; t= s : y ", true, true, true),
            ("p=; h=sha1", false, false, true),
            ("p=; h=sha1 : sha256", false, true, true),
            ("p=; s=email", false, true, true),
            ("p=; s=*", false, true, true),
            ("p=; s=other", false, true, false),
        ] {
            let read = parse(text.as_bytes()).unwrap();
            let expected = Published { key: None, testing, for_sha256, for_mail };
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_key_says_why() {
        for (text, fault) in [
            ("", KeyFault::Syntax),
            ("v=DKIM1", KeyFault::Missing),
            ("v=DKIM2; p=", KeyFault::Version),
            ("p=; v=DKIM1", KeyFault::Version),
            ("k=dsa; p=AAAA", KeyFault::Kind),
            ("k=ed25519; p=AAAA", KeyFault::Key),
            ("p=!", KeyFault::Key),
            ("p=AAAA", KeyFault::Key),
            ("p=MAA=", KeyFault::Key),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(fault), "{text}");
        }
        let whole = decoded(RSA_KEY).unwrap();
        for end in 0..whole.len() {
            assert_eq!(rsa(&whole[..end]), Err(KeyFault::Key), "{end}");
        }
        assert_eq!(rsa(&[&whole[..], &[0]].concat()), Err(KeyFault::Key));
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 0x41;
            // Any answer but a panic.
            let _ = rsa(&other);
        }
    }
}
