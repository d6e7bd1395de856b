//! A TLS fault is why a host did not show the TLS that it should, in the terms of reports about TLS.

use std::fmt;

/// Why a host did not show the TLS that it should (RFC 8460 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsFault {
    /// It does not offer STARTTLS, or refused it.
    NotOffered,
    /// Its certificate is for other names.
    WrongName,
    /// Its certificate is not valid yet or any longer.
    Expired,
    /// Its certificate leads to no authority that is trusted.
    NotTrusted,
    /// Its certificate matches none of its TLSA records, or the handshake failed otherwise.
    NotValid,
    /// None of its TLSA records can be used.
    TlsaInvalid,
    /// Its TLSA records could not be looked up, or the answer was forged.
    DnssecInvalid,
    /// TLS by DANE is demanded, and its answers are not secure.
    DaneRequired,
}

impl TlsFault {
    /// The result type of reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotOffered => "starttls-not-supported",
            Self::WrongName => "certificate-host-mismatch",
            Self::Expired => "certificate-expired",
            Self::NotTrusted => "certificate-not-trusted",
            Self::NotValid => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::DaneRequired => "dane-required",
        }
    }
}

impl fmt::Display for TlsFault {
    /// What is so about the host's TLS, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOffered => "TLS is not offered",
            Self::WrongName => "the certificate is for other names",
            Self::Expired => "the certificate is not valid yet or any longer",
            Self::NotTrusted => "the certificate is from no authority that is trusted",
            Self::NotValid => "the certificate does not match",
            Self::TlsaInvalid => "none of the TLSA records can be used",
            Self::DnssecInvalid => "the TLSA records could not be looked up",
            Self::DaneRequired => "its answers are not secure",
        })
    }
}
