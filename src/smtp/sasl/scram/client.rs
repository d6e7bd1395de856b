//! The client's messages of SCRAM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    MAX_ITERATIONS, MAX_NONCE, MAX_SALT, MIN_ITERATIONS, channel, decoded, escaped, hmac, is_nonce, key,
    prepared, salted, sha256, strip, xor,
};
use crate::smtp::ChannelBinding;
use crate::smtp::sasl::secret::Secret;
use crate::smtp::sasl::{Mechanism, Nonces, SaslError};

/// The first message, and what the second one needs.
#[derive(Debug, Clone)]
pub(in crate::smtp::sasl) struct First {
    header: &'static str,
    bare: Secret,
    nonce: Box<str>,
    /// The `c=` attribute.
    channel: String,
}

impl First {
    /// `None` without the binding that the mechanism wants, or without randomness.
    pub(in crate::smtp::sasl) fn new(
        mechanism: Mechanism,
        user: &str,
        binding: Option<&ChannelBinding>,
        nonces: &Nonces,
    ) -> Option<Self> {
        let (header, binding) = match (mechanism, binding) {
            (Mechanism::ScramSha256Plus, None) => return None,
            (Mechanism::ScramSha256Plus, binding) => ("p=tls-exporter,,", binding),
            // RFC 5802 §6: we could, and think that the server cannot. If it can, somebody has taken it
            // out of what the server offers, and the server finds out by this.
            (_, Some(_)) => ("y,,", None),
            (_, None) => ("n,,", None),
        };
        let nonce = nonces.draw()?;
        let name = escaped(prepared(user).as_str());
        let bare = Secret::joined(&[b"n=", name.as_bytes(), b",r=", nonce.as_bytes()]);
        Some(Self { header, bare, nonce, channel: channel(header, binding) })
    }

    pub(in crate::smtp::sasl) fn message(&self) -> Secret {
        Secret::joined(&[self.header.as_bytes(), self.bare.as_bytes()])
    }

    /// Answers the server's first message.
    pub(in crate::smtp::sasl) fn answer(
        &self,
        challenge: &Secret,
        password: &str,
    ) -> Result<(Secret, Sent), SaslError> {
        let text = std::str::from_utf8(challenge.as_bytes()).map_err(|_| SaslError::Malformed)?;
        if text.starts_with("e=") {
            return Err(SaslError::Refused);
        }
        // An extension that must be understood, `m=`, is none that is known here (RFC 5802 §5.1).
        let mut parts = text.split(',');
        let mut next = |name| strip(parts.next().unwrap_or_default(), name);
        let (nonce, salt, iterations) = (next("r=")?, next("s=")?, next("i=")?);
        let added = nonce.strip_prefix(&*self.nonce).ok_or(SaslError::Malformed)?;
        if !is_nonce(added) || nonce.len() > MAX_NONCE {
            return Err(SaslError::Malformed);
        }
        let salt = decoded(salt)?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(SaslError::Malformed);
        }
        if iterations.is_empty() || !iterations.bytes().all(|b| b.is_ascii_digit()) {
            return Err(SaslError::Malformed);
        }
        let iterations = iterations.parse().map_err(|_| SaslError::Iterations)?;
        if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
            return Err(SaslError::Iterations);
        }
        let salted = salted(password, &salt, iterations);
        let client_key = Zeroizing::new(hmac(&salted, &[b"Client Key"]));
        let server_key = Zeroizing::new(hmac(&salted, &[b"Server Key"]));
        let unproven = format!("c={},r={nonce}", self.channel);
        // RFC 5802 §3: AuthMessage
        let said: [&[u8]; 5] = [self.bare.as_bytes(), b",", text.as_bytes(), b",", unproven.as_bytes()];
        let stored_key = Zeroizing::new(sha256(&*client_key));
        let proof = xor(&client_key, &hmac(&stored_key, &said));
        let answer = Secret::joined(&[unproven.as_bytes(), b",p=", STANDARD.encode(*proof).as_bytes()]);
        Ok((answer, Sent { signature: hmac(&server_key, &said) }))
    }
}

/// What the server's signature must be.
#[derive(Clone)]
pub(in crate::smtp::sasl) struct Sent {
    signature: [u8; 32],
}

impl Sent {
    /// Whether the server knows the password's keys.
    pub(in crate::smtp::sasl) fn verify(&self, challenge: &Secret) -> Result<(), SaslError> {
        let text = std::str::from_utf8(challenge.as_bytes()).map_err(|_| SaslError::Malformed)?;
        let first = text.split(',').next().unwrap_or_default();
        if first.starts_with("e=") {
            return Err(SaslError::Refused);
        }
        let given = key(strip(first, "v=")?)?;
        if bool::from(given.ct_eq(&self.signature)) { Ok(()) } else { Err(SaslError::ServerProof) }
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sent(..)")
    }
}
