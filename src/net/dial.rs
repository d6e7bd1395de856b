//! A dialer opens connections: stream, TLS as the policy wants it, greeting, EHLO, AUTH.
//!
//! What TLS a host must show is decided here before the first octet of an envelope, and nowhere is it
//! satisfied by less: only [`Require::Opportunistic`] ever goes on in clear text after TLS failed, on a
//! fresh connection.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{Connect, ConnectError, Io, Opened};
use super::connection::{Connection, Progress};
use super::credentials::{CredentialSource, NoCredentials};
use super::source::Source;
use super::tls::{self, ClientTls, HandshakeError, TlsClass};
use super::trace::{TraceFn, Tracer};
use super::wire::Stream;
use crate::clock::Clock;
use crate::hop::{Host, Refused, Require, Seen, TlsSeen, TlsStart};
use crate::smtp::TlsInfo;
use crate::smtp::address::EhloName;
use crate::smtp::client::{Config, Failure, Protocol, Session, TlsUse};
use crate::smtp::sasl::Credentials;

/// How connections are opened and used.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How sessions behave. `tls` and `protocol` are overwritten by what the route says, and its
    /// credentials by what `credentials` gives.
    pub session: Config,
    /// Where credentials come from, for each connection anew: for tokens that expire. Default: none, and
    /// then those in `session` are used.
    pub credentials: Option<Arc<dyn CredentialSource>>,
    /// No wait of the client is longer than this. Default: none; set it in tests.
    pub longest_wait: Option<Duration>,
    /// Is shown each line of the dialogue, without credentials. Default: none.
    pub trace: Option<TraceFn>,
}

impl ClientOptions {
    /// The defaults, with the name given in EHLO.
    #[must_use]
    pub fn new(ehlo: EhloName) -> Self {
        Self {
            session: Config::new(ehlo, TlsUse::Required),
            credentials: None,
            longest_wait: None,
            trace: None,
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("session", &self.session)
            .field("credentials", &self.credentials)
            .field("longest_wait", &self.longest_wait)
            .field("trace", &self.trace.is_some())
            .finish()
    }
}

/// What a host was found not to bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Quirks {
    /// Commands sent together.
    pub no_pipelining: bool,
    /// A transaction behind the end of another, by dot or by BDAT: one at a time, then.
    pub no_chain: bool,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No stream.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// TLS failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The host does not show what is required.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nothing to log in with could be had.
    #[error(transparent)]
    Credentials(#[from] NoCredentials),
    /// The session ended before it was ready.
    #[error("the session ended: {0:?}")]
    Session(Failure),
}

/// Opens connections. Clones share TLS sessions.
#[derive(Debug, Clone)]
pub struct Dialer {
    options: ClientOptions,
    connect: Arc<dyn Connect>,
    tls: ClientTls,
    clock: Arc<dyn Clock>,
}

impl Dialer {
    /// A dialer over `connect`.
    #[must_use]
    pub fn new(
        mut options: ClientOptions,
        connect: Arc<dyn Connect>,
        tls: ClientTls,
        clock: Arc<dyn Clock>,
    ) -> Self {
        if let Some(longest) = options.longest_wait {
            options.session.timeouts = options.session.timeouts.at_most(longest);
        }
        if options.credentials.is_none()
            && let Some(fixed) = options.session.credentials.take()
        {
            options.credentials = Some(Arc::new(fixed));
        }
        Self { options, connect, tls, clock }
    }

    /// The same for connections from `source`. TLS sessions are shared.
    #[must_use]
    pub fn at(&self, source: &Source) -> Self {
        let mut dialer = Self { connect: Arc::clone(&source.connect), ..self.clone() };
        dialer.options.session.ehlo = source.ehlo.clone();
        dialer
    }

    /// Of a host's addresses those that are tried, in that order.
    #[must_use]
    pub fn usable(&self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        self.connect.usable(addresses)
    }

    /// The options in use.
    #[must_use]
    pub const fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// A connection to `host`, which speaks `protocol`, that is ready for transactions and admitted by
    /// `require`.
    ///
    /// [`Require::Opportunistic`] uses TLS where it is offered and, when that fails, connects once
    /// more in clear text. A host with implicit TLS is never spoken to in clear, except under
    /// [`Require::Cleartext`].
    ///
    /// # Errors
    /// [`OpenError`]; nothing but EHLO, and AUTH where that was possible, was sent.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn open(
        &self,
        host: &Arc<Host>,
        protocol: Protocol,
        require: Require,
        quirks: Quirks,
    ) -> Result<Connection, OpenError> {
        let tls = match (require, host.tls_start) {
            (Require::Cleartext, _) => TlsUse::Never,
            (_, TlsStart::Implicit) => TlsUse::AlreadyOn,
            (Require::Opportunistic, TlsStart::StartTls) => TlsUse::IfOffered,
            (Require::Encrypted | Require::Verified, TlsStart::StartTls) => TlsUse::Required,
        };
        let credentials = self.credentials(host).await?;
        let opened = match self.try_open(host, protocol, require, tls, quirks, credentials.clone()).await {
            // RFC 7435 §3: a failed handshake leaves the choice of clear text or nothing.
            Err(OpenError::Handshake(_)) if tls == TlsUse::IfOffered => {
                self.try_open(host, protocol, require, TlsUse::Never, quirks, credentials.clone()).await
            }
            opened => opened,
        };
        if let (Err(OpenError::Session(Failure::Auth(Some(reply)))), Some(source), Some(refused)) =
            (&opened, &self.options.credentials, &credentials)
            && reply.is_permanent()
        {
            source.refused(host, refused);
        }
        opened
    }

    /// What to log in with, found before the host is made to wait for it.
    async fn credentials(&self, host: &Host) -> Result<Option<Credentials>, OpenError> {
        let Some(source) = &self.options.credentials else { return Ok(None) };
        let found = timeout(self.options.session.timeouts.hello, source.credentials(host)).await;
        Ok(found.map_err(|_| NoCredentials::too_late())??)
    }

    async fn try_open(
        &self,
        host: &Arc<Host>,
        protocol: Protocol,
        require: Require,
        tls: TlsUse,
        quirks: Quirks,
        credentials: Option<Credentials>,
    ) -> Result<Connection, OpenError> {
        let longest = self.options.longest_wait.map_or(CONNECT, |longest| longest.min(CONNECT));
        let opened =
            timeout(longest, self.connect.connect(host)).await.map_err(|_| ConnectError::TimedOut)??;
        let Opened { io, .. } = opened;
        let (stream, seen) = if tls == TlsUse::AlreadyOn {
            let (stream, seen, info) = self.secure(io, host, require).await?;
            (stream, Some((seen, info)))
        } else {
            (Stream::Plain(io), None)
        };
        let mut config = self.options.session.clone();
        (config.tls, config.protocol, config.credentials) = (tls, protocol, credentials);
        config.pipelining &= !quirks.no_pipelining;
        if quirks.no_chain {
            (config.window, config.chain) = (1, false);
        }
        let patience = config.timeouts.block;
        let now = self.clock.mono();
        let session = match &seen {
            Some((_, info)) => Session::over_tls(config, info.clone(), now),
            None => Session::new(config, now),
        };
        let tracer = Tracer::new(self.options.trace.clone());
        let clock = Arc::clone(&self.clock);
        let mut connection =
            Connection::new(Arc::clone(host), require, Stream::Gone, session, patience, clock, tracer);
        match seen {
            Some((seen, _)) => connection.secured(stream, seen, None),
            None => connection.set_stream(stream),
        }
        self.introduce(&mut connection, require).await?;
        require.admits(host, connection.seen())?;
        Ok(connection)
    }

    /// Greeting to ready.
    async fn introduce(&self, connection: &mut Connection, require: Require) -> Result<(), OpenError> {
        loop {
            connection.pump();
            match connection.progress() {
                Progress::Ready if connection.is_drained() => return Ok(()),
                Progress::StartTls if connection.is_drained() => {
                    let Stream::Plain(io) = connection.take_stream() else {
                        return Err(OpenError::Session(Failure::Lost));
                    };
                    let host = Arc::clone(connection.host());
                    let (stream, seen, info) = self.secure(io, &host, require).await?;
                    connection.secured(stream, seen, Some(info));
                }
                Progress::Over(Failure::NoTls | Failure::TlsRefused(_)) => {
                    return Err(OpenError::Refused(Refused::NoTls));
                }
                Progress::Over(failure) => return Err(OpenError::Session(failure.clone())),
                _ => connection.turn().await,
            }
        }
    }

    async fn secure(
        &self,
        io: Box<dyn Io>,
        host: &Host,
        require: Require,
    ) -> Result<(Stream, TlsSeen, TlsInfo), OpenError> {
        let class = match require {
            Require::Cleartext | Require::Opportunistic | Require::Encrypted => TlsClass::Accepting,
            Require::Verified => TlsClass::Verifying,
        };
        let wait = self.options.session.timeouts.hello;
        let (stream, seen) = match timeout(wait, self.tls.handshake(io, host, class)).await {
            Ok(Ok(secured)) => secured,
            Ok(Err(HandshakeError::NotVerified(_) | HandshakeError::NoRoots | HandshakeError::Name))
                if class == TlsClass::Verifying =>
            {
                return Err(OpenError::Refused(Refused::NotVerified));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(HandshakeError::TimedOut.into()),
        };
        // Before anything is said over it: EHLO and AUTH are not for impostors either.
        require.admits(host, &Seen::tls(seen.clone()))?;
        let info = tls::info(stream.get_ref().1);
        Ok((Stream::Tls(Box::new(stream)), seen, info))
    }
}

/// Above five addresses of 30 s each, where a connector has its own limits.
const CONNECT: Duration = Duration::from_secs(300);
