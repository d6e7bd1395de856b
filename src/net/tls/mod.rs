//! TLS is what a hop must show; here it is made and judged.
//!
//! There are two classes of client connection, each with one configuration that is kept, so that
//! sessions resume. *Verifying*: the handshake fails unless the certificate is valid for the host's
//! name. *Accepting*: any certificate will do, though the peer must prove that it holds the key, and
//! whether the certificate is valid is found out afterwards and only reported. On a resumed session no
//! verifier runs, so the certificates of the first handshake are judged again, in both classes.
//!
//! The one provider is aws-lc-rs, passed explicitly: the process-wide default is the host program's.
//! TLS 1.2 and 1.3 only (RFC 8996).

mod accept_any;
mod client;
mod server;
mod shown;

pub use client::{ClientTls, TlsClass, TlsOptions};
pub use server::ServerTls;

use std::io;
use std::sync::Arc;

use rustls::CommonState;
use rustls::crypto::CryptoProvider;

use crate::smtp::TlsInfo;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The certificate is not valid for the host's name, or not valid at all.
    #[error("the certificate is not valid for the host: {0}")]
    NotVerified(rustls::CertificateError),
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

/// Version and cipher of a complete handshake, as logs show them.
fn info(state: &CommonState) -> TlsInfo {
    let version = match state.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    };
    let cipher =
        state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    // rustls calls the suites of TLS 1.3 TLS13_…, everybody else TLS_… (RFC 8446 appendix B.4).
    TlsInfo::new(version, &cipher.replacen("TLS13_", "TLS_", 1))
}
