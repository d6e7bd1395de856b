//! The server's messages of SCRAM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::{Choice, ConstantTimeEq};

use super::{
    Decoy, MAX_NONCE, ScramKeys, channel, hmac, is_nonce, key, prepared, sha256, strip, unescaped, xor,
};
use crate::smtp::ChannelBinding;
use crate::smtp::sasl::secret::Secret;
use crate::smtp::sasl::{MAX_VALUE, Mechanism, Nonces, SaslError};

/// Awaits the client's first message.
#[derive(Debug)]
pub(in crate::smtp::sasl) struct First {
    pub(in crate::smtp::sasl) mechanism: Mechanism,
    pub(in crate::smtp::sasl) binding: Option<ChannelBinding>,
    /// The other mechanism, with binding, is offered too.
    pub(in crate::smtp::sasl) offers_binding: bool,
}

impl First {
    pub(in crate::smtp::sasl) fn read(self, message: &Secret) -> Result<Asked, SaslError> {
        let text = std::str::from_utf8(message.as_bytes()).map_err(|_| SaslError::Malformed)?;
        // RFC 5802 §7: the GS2 header ends with the second comma.
        let (flag, rest) = text.split_once(',').ok_or(SaslError::Malformed)?;
        let (act_as, bare) = rest.split_once(',').ok_or(SaslError::Malformed)?;
        let header = text.get(..text.len() - bare.len()).unwrap_or_default();
        match (flag, self.mechanism) {
            ("p=tls-exporter", Mechanism::ScramSha256Plus) => {}
            // RFC 5802 §6: the client could, and did not see that we can.
            ("y", Mechanism::ScramSha256) if self.offers_binding => return Err(SaslError::Binding),
            ("n" | "y", Mechanism::ScramSha256) => {}
            (other, Mechanism::ScramSha256Plus) if other.starts_with("p=") => return Err(SaslError::Binding),
            _ => return Err(SaslError::Malformed),
        }
        let (name, rest) = strip(bare, "n=")?.split_once(',').ok_or(SaslError::Malformed)?;
        // Extensions behind the nonce mean nothing to us, and may be there (RFC 5802 §5.1).
        let nonce = strip(rest, "r=")?.split(',').next().unwrap_or_default();
        if name.len() > MAX_VALUE || nonce.len() > MAX_NONCE / 2 {
            return Err(SaslError::TooLong);
        }
        if !is_nonce(nonce) {
            return Err(SaslError::Malformed);
        }
        let name = unescaped(name)?;
        if !act_as.is_empty() && unescaped(strip(act_as, "a=")?)?.as_bytes() != name.as_bytes() {
            return Err(SaslError::ActAs);
        }
        Ok(Asked {
            mechanism: self.mechanism,
            user: prepared(name.as_str()),
            nonce: nonce.into(),
            channel: channel(header, self.binding.as_ref().filter(|_| flag.starts_with('p'))),
            bare: Secret::joined(&[bare.as_bytes()]),
        })
    }
}

/// Awaits the user's keys.
#[derive(Debug)]
pub(in crate::smtp::sasl) struct Asked {
    mechanism: Mechanism,
    user: Secret,
    nonce: Box<str>,
    /// The `c=` attribute that the client must send.
    channel: String,
    bare: Secret,
}

impl Asked {
    pub(in crate::smtp::sasl) fn user(&self) -> &str {
        self.user.as_str()
    }

    /// The challenge. Without keys it is that of a decoy, which nobody can answer.
    pub(in crate::smtp::sasl) fn answer(
        self,
        keys: Option<ScramKeys>,
        nonces: &Nonces,
        decoy: &Decoy,
    ) -> Result<(Secret, Sent), SaslError> {
        // Made in any case: knowing somebody is no quicker.
        let false_keys = decoy.keys(self.user())?;
        let (keys, is_known) = keys.map_or((false_keys, false), |keys| (keys, true));
        let nonce = format!("{}{}", self.nonce, nonces.draw().ok_or(SaslError::NoRandom)?);
        let challenge = format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        let sent = Sent { asked: self, keys, is_known, nonce, challenge: challenge.clone() };
        Ok((challenge.into(), sent))
    }
}

/// Awaits the client's proof.
#[derive(Debug)]
pub(in crate::smtp::sasl) struct Sent {
    asked: Asked,
    keys: ScramKeys,
    is_known: bool,
    nonce: String,
    challenge: String,
}

impl Sent {
    pub(in crate::smtp::sasl) fn user(&self) -> &str {
        self.asked.user()
    }

    pub(in crate::smtp::sasl) const fn mechanism(&self) -> Mechanism {
        self.asked.mechanism
    }

    /// Our signature, if the proof is right.
    pub(in crate::smtp::sasl) fn verify(&self, message: &Secret) -> Result<Secret, SaslError> {
        let text = std::str::from_utf8(message.as_bytes()).map_err(|_| SaslError::Malformed)?;
        let (unproven, proof) = text.rsplit_once(",p=").ok_or(SaslError::Malformed)?;
        let (channel, rest) = strip(unproven, "c=")?.split_once(',').ok_or(SaslError::Malformed)?;
        let nonce = strip(rest, "r=")?.split(',').next().unwrap_or_default();
        let proof = key(proof)?;
        let challenge = self.challenge.as_bytes();
        let said: [&[u8]; 5] = [self.asked.bare.as_bytes(), b",", challenge, b",", unproven.as_bytes()];
        let client_key = xor(&proof, &hmac(&self.keys.stored_key, &said));
        let is_right = sha256(&*client_key).ct_eq(&self.keys.stored_key)
            & nonce.as_bytes().ct_eq(self.nonce.as_bytes())
            & Choice::from(u8::from(self.is_known));
        let is_bound = channel.as_bytes().ct_eq(self.asked.channel.as_bytes());
        match (bool::from(is_right), bool::from(is_bound)) {
            (true, true) => {
                let signature = hmac(&self.keys.server_key, &said);
                Ok(Secret::joined(&[b"v=", STANDARD.encode(signature).as_bytes()]))
            }
            // Who has the right proof has made it for another channel.
            (true, false) => Err(SaslError::Binding),
            (false, _) => Err(SaslError::Proof),
        }
    }
}
