//! Whether a chain of certificates matches a host's TLSA records (RFC 7672 §3.1, RFC 7671 §5).
//!
//! For usage 3 the match is all there is. For usage 2 a certificate of the chain behind the first that
//! matches, or one that a record holds whole, is the one trusted root, and from there on the rules of PKIX
//! hold: signatures, dates, and a name.

use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256, Sha512};

use super::fault_of;
use crate::hop::{TlsFault, TlsaMatching, TlsaRecord, TlsaSelector, TlsaSet, TlsaUsage};

/// Whether one of the records matches `chain`, the host's own certificate first.
///
/// # Errors
/// What kept the one from matching that came nearest.
pub(super) fn judge(
    set: &TlsaSet,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: WebPkiSupportedAlgorithms,
) -> Result<(), TlsFault> {
    let Some((leaf, rest)) = chain.split_first() else { return Err(TlsFault::NotValid) };
    let of = |usage| set.records.iter().filter(move |record| record.usage == usage);
    if of(TlsaUsage::DaneEe).any(|record| matches(record, leaf)) {
        return Ok(());
    }
    let parsed = ParsedCertificate::try_from(leaf).map_err(|_| TlsFault::NotValid)?;
    let mut nearest = TlsFault::NotValid;
    let anchors = of(TlsaUsage::DaneTa).flat_map(|record| anchors(record, rest));
    for anchor in anchors.take(MAX_ANCHORS) {
        let mut roots = RootCertStore::empty();
        if roots.add(anchor).is_err() {
            continue;
        }
        let chained = verify_server_cert_signed_by_trust_anchor(&parsed, &roots, rest, now, algorithms.all);
        nearest = match chained {
            Ok(()) if is_for_one_of(&parsed, set) => return Ok(()),
            Ok(()) => TlsFault::WrongName,
            Err(rustls::Error::InvalidCertificate(error))
                if fault_of(&error) == TlsFault::Expired && nearest == TlsFault::NotValid =>
            {
                TlsFault::Expired
            }
            Err(_) => nearest,
        };
    }
    Err(nearest)
}

/// The authorities that a record of usage 2 stands for. One that a record holds whole need not be sent.
fn anchors<'a>(
    record: &'a TlsaRecord,
    sent: &'a [CertificateDer<'_>],
) -> impl Iterator<Item = CertificateDer<'a>> {
    let is_whole = record.selector == TlsaSelector::Certificate && record.matching == TlsaMatching::Full;
    let held = is_whole.then(|| CertificateDer::from(&record.data[..]));
    let sent = sent.iter().filter(move |certificate| !is_whole && matches(record, certificate));
    held.into_iter().chain(sent.map(|certificate| CertificateDer::from(certificate.as_ref())))
}

/// Whether a certificate is the one that a record is about, whatever its usage.
fn matches(record: &TlsaRecord, certificate: &CertificateDer<'_>) -> bool {
    let key;
    let part: &[u8] = match record.selector {
        TlsaSelector::Certificate => certificate,
        TlsaSelector::PublicKey => match ParsedCertificate::try_from(certificate) {
            Ok(parsed) => {
                key = parsed.subject_public_key_info();
                &key
            }
            Err(_) => return false,
        },
    };
    match record.matching {
        TlsaMatching::Full => part == &record.data[..],
        TlsaMatching::Sha256 => Sha256::digest(part)[..] == record.data[..],
        TlsaMatching::Sha512 => Sha512::digest(part)[..] == record.data[..],
    }
}

fn is_for_one_of(certificate: &ParsedCertificate<'_>, set: &TlsaSet) -> bool {
    set.names.iter().any(|name| {
        ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(certificate, &name).is_ok())
    })
}

/// Each costs a few signatures at most; a chain has three certificates or four, and a host a few records.
const MAX_ANCHORS: usize = 16;
