//! The server's side of TLS: one configuration whose certificates can be replaced while it runs.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::shown::{Shown, pattern};
use super::{HandshakeError, TlsConfigError, info, provider};
use crate::net::connect::Io;
use crate::smtp::TlsInfo;

/// Makes TLS connections with clients. Clones share the certificate.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
}

impl ServerTls {
    /// A server that shows the certificate chain of one PEM text, leaf first, and holds the key of
    /// another (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// [`TlsConfigError`] when either is missing or damaged, or the key is not the certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        let shown = Arc::new(Shown::new(certified(chain, key)?));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsConfigError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        // Tickets hold the session, so that remembering clients costs no memory.
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsConfigError::Unusable)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), shown })
    }

    /// Shows another certificate from the next handshake on; connections that are open keep theirs.
    /// Names have theirs: see [`ServerTls::replace_name`].
    ///
    /// # Errors
    /// [`TlsConfigError`]; the one in use stays then.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsConfigError> {
        self.shown.replace(certified(chain, key)?);
        Ok(())
    }

    /// Shows another certificate to clients that ask for `name` (SNI): a host name such as
    /// `mail.example.org`, or `*.example.org` for every name with one label more. Others see the one
    /// of [`ServerTls::from_pem`].
    ///
    /// # Errors
    /// [`TlsConfigError`]; [`TlsConfigError::Name`] when it is no such name.
    pub fn with_name(self, name: &str, chain: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        self.replace_name(name, chain, key)?;
        Ok(self)
    }

    /// Adds or replaces the certificate for `name` from the next handshake on, as
    /// [`ServerTls::with_name`]. That the certificate is valid for the name is not checked.
    ///
    /// # Errors
    /// [`TlsConfigError`]; the one in use stays then.
    pub fn replace_name(&self, name: &str, chain: &[u8], key: &[u8]) -> Result<(), TlsConfigError> {
        self.shown.name(pattern(name)?, certified(chain, key)?);
        Ok(())
    }

    /// Shows no certificate of its own for `name` any more, if there was one.
    pub fn remove_name(&self, name: &str) {
        if let Ok(name) = pattern(name) {
            self.shown.forget(&name);
        }
    }

    /// Makes TLS over `io`. The caller limits the time.
    ///
    /// # Errors
    /// [`HandshakeError::Failed`]; the stream is gone then.
    ///
    /// # Cancel safety
    /// Dropping the future closes the stream.
    pub async fn accept<S: Io>(&self, io: S) -> Result<(TlsStream<S>, TlsInfo), HandshakeError> {
        let stream = self.acceptor.accept(io).await.map_err(HandshakeError::Failed)?;
        let info = info(stream.get_ref().1);
        Ok((stream, info))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsConfigError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| TlsConfigError::Pem)?;
    if chain.is_empty() {
        return Err(TlsConfigError::Pem);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsConfigError::Pem)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsConfigError::Unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["mx.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_key_that_is_not_the_certificates_never_replaces_a_good_pair() {
        let ((cert, key), (_, other)) = (pair(), pair());
        let tls = ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
        let refused = tls.replace(cert.as_bytes(), other.as_bytes());
        assert!(matches!(refused, Err(TlsConfigError::Unusable(_))));
        assert!(tls.replace(cert.as_bytes(), key.as_bytes()).is_ok());
        assert!(matches!(ServerTls::from_pem(b"", key.as_bytes()), Err(TlsConfigError::Pem)));
        assert!(matches!(ServerTls::from_pem(cert.as_bytes(), b"x"), Err(TlsConfigError::Pem)));
    }
}
