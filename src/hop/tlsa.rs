//! TLSA records are what DNS says about a host's certificate, where DNSSEC proves it (RFC 6698).

use std::sync::Arc;

use bytes::Bytes;

use crate::smtp::address::Domain;

/// What is known of a host's TLSA records. Only what DNSSEC proves counts: whoever looks a host up
/// leaves [`Tlsa::Absent`] where its name, its addresses or the records are not secure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Tlsa {
    /// There are none that count: DANE says nothing about this host.
    #[default]
    Absent,
    /// They could not be looked up, or the answer was forged: the host must not be used for now
    /// (RFC 7672 §2.1.2, §2.2).
    Failed,
    /// There are records and none of them can be used: TLS is required, whatever the certificate
    /// (RFC 7672 §2.2).
    Unusable,
    /// One of these must match.
    Records(Arc<TlsaSet>),
}

/// The usable TLSA records of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TlsaSet {
    /// The name behind `_25._tcp.` that has the records: it is sent as SNI (RFC 7672 §2.2.3, §3.2.3).
    pub base: Domain,
    /// The names of which one must stand in a certificate that is matched by way of its authority
    /// (RFC 7672 §3.2.2): the base, and the destination and the names on the way to it.
    pub names: Vec<Domain>,
    /// The records; at least one.
    pub records: Vec<TlsaRecord>,
}

impl TlsaSet {
    /// Records of `base`, which is also the one name to look for.
    #[must_use]
    pub fn new(base: Domain, records: Vec<TlsaRecord>) -> Self {
        Self { names: vec![base.clone()], base, records }
    }
}

/// One TLSA record that mail can use.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TlsaRecord {
    /// Whose certificate it is about.
    pub usage: TlsaUsage,
    /// Which part of it.
    pub selector: TlsaSelector,
    /// How that part is written down.
    pub matching: TlsaMatching,
    /// The part, or its digest.
    pub data: Bytes,
}

impl TlsaRecord {
    /// The record of these numbers (RFC 6698 §2.1), if mail can use it: usages 0 and 1 cannot be
    /// (RFC 7672 §3.1.3), nor what is not known here, nor a digest of the wrong length.
    #[must_use]
    pub fn new(usage: u8, selector: u8, matching: u8, data: Bytes) -> Option<Self> {
        let usage = match usage {
            2 => TlsaUsage::DaneTa,
            3 => TlsaUsage::DaneEe,
            _ => return None,
        };
        let selector = match selector {
            0 => TlsaSelector::Certificate,
            1 => TlsaSelector::PublicKey,
            _ => return None,
        };
        let (matching, fits) = match matching {
            0 => (TlsaMatching::Full, !data.is_empty()),
            1 => (TlsaMatching::Sha256, data.len() == 32),
            2 => (TlsaMatching::Sha512, data.len() == 64),
            _ => return None,
        };
        fits.then_some(Self { usage, selector, matching, data })
    }
}

/// Whose certificate a TLSA record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsaUsage {
    /// 2, DANE-TA: an authority's, which has signed the host's.
    DaneTa,
    /// 3, DANE-EE: the host's own. Names and dates in it do not count (RFC 7672 §3.1.1).
    DaneEe,
}

/// Which part of a certificate a TLSA record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsaSelector {
    /// 0: all of it.
    Certificate,
    /// 1: its public key, SubjectPublicKeyInfo.
    PublicKey,
}

/// How a TLSA record holds the part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsaMatching {
    /// 0: as it is.
    Full,
    /// 1: its SHA-256.
    Sha256,
    /// 2: its SHA-512.
    Sha512,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_records_that_mail_can_use_are_records() {
        for (usage, selector, matching, length, usable) in [
            (3, 1, 1, 32, true),
            (2, 0, 2, 64, true),
            (2, 1, 0, 5, true),
            (0, 1, 1, 32, false),
            (1, 1, 1, 32, false),
            (4, 1, 1, 32, false),
            (3, 2, 1, 32, false),
            (3, 1, 3, 32, false),
            (3, 1, 1, 31, false),
            (3, 1, 2, 32, false),
            (3, 1, 0, 0, false),
        ] {
            let record = TlsaRecord::new(usage, selector, matching, Bytes::from(vec![7; length]));
            assert_eq!(record.is_some(), usable, "{usage} {selector} {matching} {length}");
        }
    }
}
