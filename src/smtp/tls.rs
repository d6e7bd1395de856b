//! What a session needs to know about the TLS under it.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The TLS of a connection, as far as a session needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The protocol version, such as `TLSv1.3`.
    pub version: Box<str>,
    /// The cipher suite's name.
    pub cipher: Box<str>,
    /// What ties a login to this very TLS session. Default: none, and then SCRAM-SHA-256-PLUS is neither
    /// offered nor used; set under TLS 1.3 only (RFC 9266 §4.2).
    pub binding: Option<ChannelBinding>,
    /// The client's certificate, on a server that has verified it. Default: none, and then EXTERNAL is
    /// not offered.
    pub certificate: Option<PeerCertificate>,
}

impl TlsInfo {
    /// What a handshake ended with.
    #[must_use]
    pub fn new(version: &str, cipher: &str) -> Self {
        Self { version: version.into(), cipher: cipher.into(), binding: None, certificate: None }
    }
}

/// The channel binding `tls-exporter` (RFC 9266): 32 octets that only the two ends of one TLS session
/// know, so that whoever sits between two sessions has different ones on either side. Never shown by
/// `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// The exporter's value for the label `EXPORTER-Channel-Binding` and an empty context (RFC 9266 §2).
    #[must_use]
    pub const fn tls_exporter(value: [u8; 32]) -> Self {
        Self(value)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

/// A certificate that the peer has shown, that was verified, and whose key the peer holds.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate(Bytes);

impl PeerCertificate {
    /// The certificate in DER.
    #[must_use]
    pub fn from_der(der: impl Into<Bytes>) -> Self {
        Self(der.into())
    }

    /// The certificate in DER, for whoever wants to read the names in it.
    #[must_use]
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }

    /// `sha256:` and the SHA-256 of the DER in lower-case hex: a name for the certificate.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(&self.0);
        digest.iter().fold(String::from("sha256:"), |name, octet| name + &format!("{octet:02x}"))
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerCertificate({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_binding_is_never_shown() {
        let mut tls = TlsInfo::new("TLSv1.3", "X");
        tls.binding = Some(ChannelBinding::tls_exporter([0x4d; 32]));
        let shown = format!("{tls:?}");
        assert!(shown.contains("ChannelBinding(..)") && !shown.contains("77"), "{shown}");
    }

    #[test]
    fn a_fingerprint_is_that_of_the_der() {
        // FIPS 180-4, the example of "abc"
        assert_eq!(
            PeerCertificate::from_der(&b"abc"[..]).fingerprint(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
