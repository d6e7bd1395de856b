//! TLS is what a hop must show; here it is made and judged.
//!
//! There are two classes of client connection, each with one configuration that is kept, so that
//! sessions resume. *Verifying*: the handshake fails unless the certificate is valid for the host's
//! name. *Accepting*: any certificate will do, though the peer must prove that it holds the key, and
//! whether the certificate is valid, and whether it matches the host's TLSA records, is found out
//! afterwards and reported. On a resumed session no verifier runs, so the certificates of the first
//! handshake are judged again, in both classes: by the records that the host has now.
//!
//! The one provider is aws-lc-rs, passed explicitly: the process-wide default is the host program's.
//! TLS 1.2 and 1.3 only (RFC 8996).

mod accept_any;
mod client;
mod dane;
mod server;
mod shown;

pub use client::{ClientIdentity, ClientTls, TlsClass, TlsOptions};
pub use server::ServerTls;

use std::io;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ConnectionCommon};

use crate::hop::TlsFault;
use crate::smtp::{ChannelBinding, TlsInfo};

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The certificate is not valid for the host's name, or not valid at all.
    #[error("the certificate is not valid for the host: {0}")]
    NotVerified(CertificateError),
    /// No root certificates were found, so nothing can be verified.
    #[error("there are no trusted root certificates")]
    NoRoots,
    /// The host's name cannot be verified by TLS.
    #[error("the host's name is not one that a certificate can hold")]
    Name,
    /// The peers have no version or cipher in common, one of them broke off, or the peer does not
    /// speak TLS.
    #[error("the TLS handshake failed")]
    Failed(#[source] io::Error),
    /// It took too long.
    #[error("the TLS handshake took too long")]
    TimedOut,
}

impl HandshakeError {
    /// The same as reports about TLS have it.
    #[must_use]
    pub fn fault(&self) -> TlsFault {
        match self {
            Self::NotVerified(error) => fault_of(error),
            Self::NoRoots => TlsFault::NotTrusted,
            Self::Name => TlsFault::WrongName,
            Self::Failed(_) | Self::TimedOut => TlsFault::NotValid,
        }
    }
}

/// What is wrong with a certificate, in the terms of reports about TLS.
fn fault_of(error: &CertificateError) -> TlsFault {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => TlsFault::Expired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFault::WrongName
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature | CertificateError::Revoked => {
            TlsFault::NotTrusted
        }
        _ => TlsFault::NotValid,
    }
}

/// Why certificates or keys could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// The PEM text is damaged or holds nothing of the kind.
    #[error("no certificate or key in the PEM text")]
    Pem,
    /// The name is not one that a client can ask for.
    #[error("not a host name, or a host name behind \"*.\"")]
    Name,
    /// The certificate or key is not usable, or they do not belong together.
    #[error("the certificate or its key cannot be used")]
    Unusable(#[source] rustls::Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A chain and its key, from PEM.
fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsConfigError> {
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsConfigError::Pem)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsConfigError::Unusable)
}

/// The certificates in a PEM text, one at least.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| TlsConfigError::Pem)?;
    if found.is_empty() { Err(TlsConfigError::Pem) } else { Ok(found) }
}

/// What a complete handshake showed, as a session needs to know it.
pub(super) fn info<Side>(connection: &ConnectionCommon<Side>) -> TlsInfo {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let cipher =
        connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    // rustls calls the suites of TLS 1.3 TLS13_…, everybody else TLS_… (RFC 8446 appendix B.4).
    let mut info = TlsInfo::new(version, &cipher.replacen("TLS13_", "TLS_", 1));
    // RFC 9266 §4.2: under TLS 1.2 it is unique only with an extension that is not always there.
    if version == "TLSv1.3" {
        let exported = connection.export_keying_material([0; 32], EXPORTER, Some(b""));
        info.binding = exported.ok().map(ChannelBinding::tls_exporter);
    }
    info
}

/// RFC 9266 §2
const EXPORTER: &[u8] = b"EXPORTER-Channel-Binding";
