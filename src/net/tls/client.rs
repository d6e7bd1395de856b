//! The client's side of TLS: two kept configurations and the judgement of certificates.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::accept_any::AcceptAny;
use super::{HandshakeError, TlsConfigError, certified, dane, fault_of, info, provider};
use crate::clock::Clock;
use crate::hop::{Host, TlsSeen, Tlsa};
use crate::net::connect::Io;
use crate::smtp::address::Domain;

/// What a certificate must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsClass {
    /// Nothing: it is looked at afterwards, by the host's TLSA records too, where it has some.
    Accepting,
    /// It must be valid for the host's name, or the handshake fails.
    Verifying,
}

/// Which certificates the client trusts.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TlsOptions {
    /// Leave the operating system's roots out. Default `false`; set it when only `extra_roots` count.
    pub without_native_roots: bool,
    /// Root certificates trusted besides: a company's own authority.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Who we are, for hosts that ask for a certificate. It is shown only where the host's own is verified.
    /// Default: nobody.
    pub identity: Option<ClientIdentity>,
}

impl TlsOptions {
    /// The operating system's roots and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the certificates in a PEM text to the roots.
    ///
    /// # Errors
    /// [`TlsConfigError::Pem`] when there is none in it.
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, TlsConfigError> {
        let before = self.extra_roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            self.extra_roots.push(certificate.map_err(|_| TlsConfigError::Pem)?);
        }
        if self.extra_roots.len() == before { Err(TlsConfigError::Pem) } else { Ok(self) }
    }
}

/// A client's certificate with its key, which is never shown by `Debug`.
#[derive(Clone)]
pub struct ClientIdentity(Arc<CertifiedKey>);

impl ClientIdentity {
    /// The certificate chain of one PEM text, leaf first, and the key of another (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// [`TlsConfigError`] when either is missing or damaged, or the key is not the certificate's.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsConfigError> {
        certified(chain, key).map(|pair| Self(Arc::new(pair)))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(..)")
    }
}

/// Makes TLS connections to hosts. Clones share roots and remembered sessions.
#[derive(Clone)]
pub struct ClientTls {
    shared: Arc<Shared>,
}

struct Shared {
    options: TlsOptions,
    clock: Arc<dyn Clock>,
    algorithms: WebPkiSupportedAlgorithms,
    accepting: Arc<ClientConfig>,
    /// Made when first needed: reading the system's roots takes some 30 ms.
    verifying: OnceCell<Option<Verifying>>,
}

struct Verifying {
    config: Arc<ClientConfig>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl ClientTls {
    /// A client that trusts what `options` say and judges validity by `clock`.
    ///
    /// # Errors
    /// [`TlsConfigError::Unusable`] when the crypto provider cannot do TLS 1.2 and 1.3.
    pub fn new(options: TlsOptions, clock: Arc<dyn Clock>) -> Result<Self, TlsConfigError> {
        let accepting =
            config(Arc::new(AcceptAny(provider())), &clock, None).map_err(TlsConfigError::Unusable)?;
        let algorithms = provider().signature_verification_algorithms;
        let verifying = OnceCell::new();
        Ok(Self { shared: Arc::new(Shared { options, clock, algorithms, accepting, verifying }) })
    }

    /// Makes TLS over `io`. What the certificate was found to be worth is in the answer; for
    /// [`TlsClass::Verifying`] it is valid for the host.
    ///
    /// # Errors
    /// [`HandshakeError`]. The stream is gone then.
    ///
    /// # Cancel safety
    /// Dropping the future closes the stream.
    pub async fn handshake<S: Io>(
        &self,
        io: S,
        host: &Host,
        class: TlsClass,
    ) -> Result<(TlsStream<S>, TlsSeen), HandshakeError> {
        let name = server_name(&host.name)?;
        let tlsa = match (class, &host.tlsa) {
            (TlsClass::Accepting, Tlsa::Records(set)) => Some(&**set),
            _ => None,
        };
        // RFC 7672 §8.1: a host that has several certificates is to show the one of the records.
        let asked = tlsa.map_or_else(|| Ok(name.clone()), |set| server_name(&set.base))?;
        let verifying = self.shared.verifying.get_or_init(|| self.load()).await;
        let config = match (class, verifying) {
            (TlsClass::Accepting, _) => &self.shared.accepting,
            (TlsClass::Verifying, Some(verifying)) => &verifying.config,
            (TlsClass::Verifying, None) => return Err(HandshakeError::NoRoots),
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(asked, io).await.map_err(handshake_error)?;
        let connection = stream.get_ref().1;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let verdict = match verifying {
            // The handshake has just asked the very same question.
            Some(_) if class == TlsClass::Verifying && !resumed => Ok(()),
            Some(verifying) => self.judge(connection, &verifying.verifier, &name),
            None => Err(rustls::CertificateError::UnknownIssuer),
        };
        let (verified, mut fault) = match (class, verdict) {
            (_, Ok(())) => (Some(host.name.clone()), None),
            (TlsClass::Accepting, Err(error)) => (None, Some(fault_of(&error))),
            (TlsClass::Verifying, Err(error)) => return Err(HandshakeError::NotVerified(error)),
        };
        let mut dane = false;
        if let Some(set) = tlsa {
            let chain = connection.peer_certificates().unwrap_or_default();
            let now = unix_time(self.shared.clock.as_ref());
            fault = dane::judge(set, chain, now, self.shared.algorithms).err();
            dane = fault.is_none();
        }
        let info = info(connection);
        let seen = TlsSeen::new(&info.version, &info.cipher, verified, resumed);
        let seen = TlsSeen { dane, fault, ..seen };
        Ok((stream, seen))
    }

    fn judge(
        &self,
        connection: &ClientConnection,
        verifier: &WebPkiServerVerifier,
        name: &ServerName<'_>,
    ) -> Result<(), rustls::CertificateError> {
        let chain = connection.peer_certificates().unwrap_or_default();
        let (leaf, rest) = chain.split_first().ok_or(rustls::CertificateError::BadEncoding)?;
        let now = unix_time(self.shared.clock.as_ref());
        match verifier.verify_server_cert(leaf, rest, name, &[], now) {
            Ok(_) => Ok(()),
            Err(rustls::Error::InvalidCertificate(error)) => Err(error),
            Err(_) => Err(rustls::CertificateError::BadEncoding),
        }
    }

    async fn load(&self) -> Option<Verifying> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.shared.options.extra_roots.iter().cloned());
        if !self.shared.options.without_native_roots {
            let native = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
            roots.add_parsable_certificates(native.map(|found| found.certs).unwrap_or_default());
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()?;
        let (shown, clock) = (self.shared.options.identity.as_ref(), &self.shared.clock);
        let config = config(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>, clock, shown).ok()?;
        Some(Verifying { config, verifier })
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

fn config(
    verifier: Arc<dyn ServerCertVerifier>,
    clock: &Arc<dyn Clock>,
    identity: Option<&ClientIdentity>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let time = Arc::new(ClockTime(Arc::clone(clock)));
    let builder = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&identity.0))))
        }
    };
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_HOSTS);
    Ok(Arc::new(config))
}

fn server_name(name: &Domain) -> Result<ServerName<'static>, HandshakeError> {
    match name.as_literal() {
        Some(ip) => Ok(ServerName::IpAddress(ip.into())),
        None => ServerName::try_from(name.as_str().to_owned()).map_err(|_| HandshakeError::Name),
    }
}

fn handshake_error(error: io::Error) -> HandshakeError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => HandshakeError::NotVerified(why.clone()),
        _ => HandshakeError::Failed(error),
    }
}

fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(clock.now().wall.as_millis()))
}

/// The clock, as rustls asks it.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.as_ref()))
    }
}

/// Some 2 KiB of sessions for each host, so 2 MiB at most; far more hosts than are spoken to within the
/// few hours a ticket lives.
const REMEMBERED_HOSTS: usize = 1024;
