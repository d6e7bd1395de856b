//! Keys that sign, and what is published of them.
//!
//! A key is read once and is never shown. The library keeps it in memory of its own, which it wipes; what
//! is unpacked here on the way there is wiped too. The file that it came from is the caller's to wipe, and
//! so is whatever the reading of PEM left behind.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroize;

use super::record::{KeyRecord, KeyType};
use crate::message::SignError;

/// A private key, RSA or Ed25519. Wiped when it is dropped, and not shown by `Debug`.
pub struct SigningKey {
    secret: Secret,
    record: KeyRecord,
}

enum Secret {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Why octets are no key that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There is no private key in PEM: `PRIVATE KEY` or `RSA PRIVATE KEY`, not encrypted.
    #[error("there is no private key in PEM")]
    Absent,
    /// It is a key of another kind. DKIM has RSA and Ed25519 (RFC 8301 §3.1, RFC 8463).
    #[error("the key is neither RSA nor Ed25519")]
    Kind,
    /// RFC 8301 §3.2 wants 2,048 bits, and the library takes no fewer to sign.
    #[error("the RSA key has fewer than 2048 bits")]
    TooSmall,
    /// It is damaged, or too large.
    #[error("the key is malformed")]
    Malformed,
}

impl SigningKey {
    /// The first private key of a PEM file: RSA in PKCS#8 or PKCS#1, from 2,048 to 8,192 bits, or Ed25519
    /// in PKCS#8 of either version. `openssl genpkey -algorithm ed25519` and
    /// `openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048` make such files.
    ///
    /// 2,048 bits are the right size: longer ones do not fit what many verifiers take.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let mut der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Absent)?;
        let key = match &der {
            PrivateKeyDer::Pkcs8(der) => Self::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der())
                .map_err(|error| fault(&error))
                .and_then(Self::rsa),
            _ => Err(KeyError::Kind),
        };
        der.zeroize();
        key
    }

    /// A key in PKCS#8, as [`SigningKey::from_pem`] finds it in a file.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Self::ed25519(pair);
        }
        Self::rsa(RsaKeyPair::from_pkcs8(der).map_err(|error| fault(&error))?)
    }

    fn rsa(pair: RsaKeyPair) -> Result<Self, KeyError> {
        let public = pair.public_key().as_der().map_err(|_| KeyError::Malformed)?;
        let record = KeyRecord::new(KeyType::Rsa, public.as_ref());
        Ok(Self { secret: Secret::Rsa(pair), record })
    }

    fn ed25519(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public = pair.public_key().as_ref();
        if public.len() != ED25519_PUBLIC_KEY_LEN {
            return Err(KeyError::Malformed);
        }
        let record = KeyRecord::new(KeyType::Ed25519, public);
        Ok(Self { secret: Secret::Ed25519(pair), record })
    }

    /// What has to be published of it.
    #[must_use]
    pub const fn record(&self) -> &KeyRecord {
        &self.record
    }

    /// Of which kind it is.
    #[must_use]
    pub const fn kind(&self) -> KeyType {
        self.record.kind()
    }

    /// Signs what a signature is about: RSA its SHA-256 (RFC 6376 §3.3.2), Ed25519 the octets of that
    /// (RFC 8463 §3).
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.secret {
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| SignError::Failed)?;
                Ok(signature)
            }
            Secret::Ed25519(pair) => {
                let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, message);
                let signature = pair.try_sign(digest.as_ref()).map_err(|_| SignError::Failed)?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kind", &self.kind()).finish_non_exhaustive()
    }
}

fn fault(error: &aws_lc_rs::error::KeyRejected) -> KeyError {
    // The library tells the reason as text only.
    match error.to_string().as_str() {
        "TooSmall" => KeyError::TooSmall,
        "WrongAlgorithm" => KeyError::Kind,
        _ => KeyError::Malformed,
    }
}
