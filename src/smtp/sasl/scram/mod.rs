//! SCRAM-SHA-256 (RFC 5802, RFC 7677): stored keys and the arithmetic that both roles share.

mod client;
mod keys;
mod server;

pub(super) use client::{First as ClientFirst, Sent as ClientSent};
pub use keys::{Decoy, ScramKeys};
pub(super) use server::{Asked, First as ServerFirst, Sent as ServerSent};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::SaslError;
use super::secret::Secret;
use crate::smtp::ChannelBinding;

type Key = Zeroizing<[u8; 32]>;

/// RFC 5802 §3: SaltedPassword.
fn salted(password: &str, salt: &[u8], iterations: u32) -> Key {
    let password = prepared(password);
    Zeroizing::new(pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(password.as_bytes(), salt, iterations))
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // RFC 2104 §2: a key shorter than a block is filled up with zeros.
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    block.zeroize();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn sha256(octets: &[u8]) -> [u8; 32] {
    Sha256::digest(octets).into()
}

/// RFC 5802 §3: ClientKey XOR ClientSignature, which undoes itself.
fn xor(one: &[u8; 32], other: &[u8; 32]) -> Key {
    let mut sum = Zeroizing::new(*one);
    sum.iter_mut().zip(other).for_each(|(to, with)| *to ^= with);
    sum
}

/// By SASLprep (RFC 4013); what that forbids is taken as it is, as other implementations do: both
/// sides then still have the same octets.
fn prepared(text: &str) -> Secret {
    match stringprep::saslprep(text) {
        Ok(text) => Secret::joined(&[text.as_bytes()]),
        Err(_) => Secret::joined(&[text.as_bytes()]),
    }
}

/// A name as `saslname` (RFC 5802 §5.1).
pub(super) fn escaped(name: &str) -> Secret {
    name.replace('=', "=3D").replace(',', "=2C").into()
}

/// The name that a `saslname` stands for.
pub(super) fn unescaped(name: &str) -> Result<Secret, SaslError> {
    let mut parts = name.split('=');
    let mut plain = String::with_capacity(name.len());
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (sign, rest) =
            if let Some(rest) = part.strip_prefix("2C") { (',', rest) } else { ('=', strip(part, "3D")?) };
        plain.push(sign);
        plain.push_str(rest);
    }
    if plain.is_empty() || plain.contains(['\0', '\x01']) {
        return Err(SaslError::Malformed);
    }
    Ok(plain.into())
}

/// The value of the next attribute, which must be `name=`.
fn strip<'a>(text: &'a str, name: &str) -> Result<&'a str, SaslError> {
    text.strip_prefix(name).ok_or(SaslError::Malformed)
}

fn decoded(text: &str) -> Result<Vec<u8>, SaslError> {
    STANDARD.decode(text).map_err(|_| SaslError::Malformed)
}

fn key(text: &str) -> Result<[u8; 32], SaslError> {
    decoded(text)?.try_into().map_err(|_| SaslError::Malformed)
}

/// RFC 5802 §5.1: a nonce is printable ASCII without comma.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// The `c=` attribute: the GS2 header and, behind `p=`, the binding (RFC 5802 §7).
fn channel(header: &str, binding: Option<&ChannelBinding>) -> String {
    match binding {
        Some(binding) => STANDARD.encode([header.as_bytes(), binding.as_bytes()].concat()),
        None => STANDARD.encode(header),
    }
}

/// RFC 7677 §4 wants at least so many.
const MIN_ITERATIONS: u32 = 4096;
/// What is recommended against those who have stolen keys these days (OWASP, PBKDF2 with SHA-256), and a
/// fifth of a second of our processor for each connection. A server that wants more is after our time.
const MAX_ITERATIONS: u32 = 600_000;
/// Salts in use have 12 to 64 octets.
const MAX_SALT: usize = 1024;
/// Nonces in use have 18 to 64 characters.
const MAX_NONCE: usize = 512;
