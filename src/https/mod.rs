//! One request over HTTPS: to a host that shows a valid certificate, within limits, and answered by that
//! host itself.
//!
//! Mail needs two: policies are fetched (RFC 8461 §3.3), reports about TLS are posted (RFC 8460 §3). No
//! redirect is followed, nothing is cached, no proxy of the environment is asked, and a connection serves
//! one request. Names are looked up by a [`FindHost`] of the caller's, so that no search domain of the
//! machine can give a policy host another address. It is no client for the web.

mod exchange;
mod url;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::BoxFuture;
use crate::clock::Clock;
use crate::net::connect::{Connect, ConnectError, TcpConnect};
use crate::net::tls::{ClientTls, HandshakeError, TlsConfigError, TlsOptions};
use crate::smtp::address::Domain;

pub use url::{Url, UrlError};

/// Finds the addresses of hosts.
pub trait FindHost: Send + Sync + fmt::Debug + 'static {
    /// The addresses of a host in the order to try them; none where it has none, or where they could
    /// not be found out.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn find<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Vec<IpAddr>>;
}

/// Makes requests. Clones share trusted roots and remembered TLS sessions.
#[derive(Debug, Clone)]
pub struct HttpsClient {
    tls: ClientTls,
    find: Arc<dyn FindHost>,
    connect: Arc<dyn Connect>,
    limits: HttpsLimits,
}

/// What one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpsLimits {
    /// From the look-up of the name to the last octet of the answer. Default: 60 s (RFC 8461 §3.3).
    pub time: Duration,
    /// The octets of an answer's body. Default: 64 KiB (RFC 8461 §3.3).
    pub body: usize,
    /// The octets of an answer's status line and header fields. Default: 16 KiB, more than web servers
    /// send; at least 8 KiB.
    pub head: usize,
}

impl HttpsLimits {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { time: Duration::from_secs(60), body: 64 * 1024, head: 16 * 1024 }
    }
}

impl Default for HttpsLimits {
    fn default() -> Self {
        Self::new()
    }
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// The `Content-Type` as the host wrote it; none where it wrote none that is ASCII.
    pub content_type: Option<Box<str>>,
    /// The body.
    pub body: Bytes,
}

impl Fetched {
    /// Whether this is text without any mark-up, whatever the parameters of its type say.
    #[must_use]
    pub fn is_plain_text(&self) -> bool {
        let kind = self.content_type.as_deref().unwrap_or_default();
        kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain"))
    }
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpsError {
    /// There was no connection.
    #[error("no connection to the host")]
    Connect(#[from] ConnectError),
    /// There was no TLS, or the certificate is not valid for the host.
    #[error("no TLS with the host")]
    Tls(#[from] HandshakeError),
    /// What the host said is no HTTP, its header is larger than its limit, or it broke off.
    #[error("the host did not answer in HTTP")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The host answered with this status: also with a redirect, which is not followed.
    #[error("the host answered {0}")]
    Status(u16),
    /// The answer is larger than its limit.
    #[error("the answer is too large")]
    TooLarge,
    /// It took too long.
    #[error("no complete answer within {0:?}")]
    TimedOut(Duration),
}

impl HttpsError {
    /// Whether the host's certificate is at fault: not valid, or not for this name.
    #[must_use]
    pub const fn is_certificate(&self) -> bool {
        matches!(self, Self::Tls(HandshakeError::NotVerified(_)))
    }
}

impl HttpsClient {
    /// A client that trusts what `trust` says, judges certificates by `clock` and connects over TCP. An
    /// identity in `trust` is not shown to anybody.
    ///
    /// # Errors
    /// [`TlsConfigError::Unusable`] when the crypto provider cannot do TLS 1.2 and 1.3.
    pub fn new(
        trust: TlsOptions,
        find: Arc<dyn FindHost>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsConfigError> {
        let tls = ClientTls::new(TlsOptions { identity: None, ..trust }, clock)?;
        Ok(Self { tls, find, connect: Arc::new(TcpConnect::new()), limits: HttpsLimits::new() })
    }

    /// The same, connected by this: through a proxy, or from a certain address.
    #[must_use]
    pub fn connect_by(self, connect: Arc<dyn Connect>) -> Self {
        Self { connect, ..self }
    }

    /// The same with other limits.
    #[must_use]
    pub fn limits(self, limits: HttpsLimits) -> Self {
        Self { limits, ..self }
    }

    /// Fetches what is at `url`.
    ///
    /// # Errors
    /// [`HttpsError`]; any status but 200 is one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn get(&self, url: &Url) -> Result<Fetched, HttpsError> {
        exchange::get(self, url).await
    }

    /// Posts `body`, and returns the status, which is from 200 to 299. What the host says besides is not
    /// read.
    ///
    /// # Errors
    /// [`HttpsError`]; any other status is one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection. The host may have got the body.
    pub async fn post(&self, url: &Url, content_type: &str, body: Bytes) -> Result<u16, HttpsError> {
        exchange::post(self, url, content_type, body).await
    }
}
