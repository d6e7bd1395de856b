//! A dialer opens connections: stream, TLS as the policy wants it, greeting, EHLO, AUTH.
//!
//! Whether a host shows the TLS that is demanded is asked here before the first octet of an envelope, and
//! nowhere is it satisfied by less: only [`Demand::Opportunistic`] ever goes on in clear text after TLS
//! failed, on a fresh connection to the same address. What one address of a host does not show, another
//! may: each that answers is tried before the host is given up.

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
use crate::hop::{Demand, Host, PolicyKind, Refused, Seen, TlsFault, TlsSeen, TlsStart};
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
    /// then those in `session` are used. Where a route requires less than
    /// [`Require::Verified`](crate::hop::Require::Verified), whoever answers over TLS is given them.
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

/// A connection that was tried, as far as its TLS goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Tried {
    /// The address of the host that answered, where that is known.
    pub remote: Option<IpAddr>,
    /// Ours.
    pub local: Option<IpAddr>,
    /// The TLS that it showed, as far as it got.
    pub seen: Option<TlsSeen>,
    /// What is wrong with that, be it that the connection is used all the same.
    pub fault: Option<TlsFault>,
    /// Whether the connection is there now.
    pub is_open: bool,
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

    /// A connection to `host`, which speaks `protocol`, that is ready for transactions and shows what
    /// `demand` asks for. What the host's TLSA records demand is the caller's to know:
    /// [`Demand::of`].
    ///
    /// [`Demand::Opportunistic`] uses TLS where it is offered and, when that fails, connects once
    /// more in clear text. A host with implicit TLS is never spoken to in clear, except under
    /// [`Demand::Cleartext`].
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
        demand: impl Into<Demand>,
        quirks: Quirks,
    ) -> Result<Connection, OpenError> {
        self.open_noting(host, protocol, demand.into(), quirks, &mut Vec::new()).await
    }

    /// As [`Dialer::open`], and puts into `tried` each connection that says something about the host's TLS,
    /// [`MAX_ADDRESSES`] at most. An opportunistic one that failed, and the one in clear that took its
    /// place, count as one.
    ///
    /// # Errors
    /// As [`Dialer::open`].
    ///
    /// # Cancel safety
    /// As [`Dialer::open`].
    pub async fn open_noting(
        &self,
        host: &Arc<Host>,
        protocol: Protocol,
        demand: Demand,
        quirks: Quirks,
        tried: &mut Vec<Tried>,
    ) -> Result<Connection, OpenError> {
        if demand == Demand::Unknown {
            let fault = Some(Refused::Unknown.fault());
            tried.push(Tried { fault, ..Tried::default() });
            return Err(Refused::Unknown.into());
        }
        let credentials = self.credentials(host).await?;
        let wanted = Wanted { host, protocol, demand, quirks, credentials: &credentials };
        let opened = self.open_any(&wanted, tried).await;
        if let (Err(OpenError::Session(Failure::Auth(Some(reply)))), Some(source), Some(refused)) =
            (&opened, &self.options.credentials, &credentials)
            && reply.is_permanent()
        {
            source.refused(host, refused);
        }
        opened
    }

    /// By the first address that answers; where that one does not show what is demanded, by the others.
    async fn open_any(&self, wanted: &Wanted<'_>, tried: &mut Vec<Tried>) -> Result<Connection, OpenError> {
        let tls = match (wanted.demand, wanted.host.tls_start) {
            (Demand::Cleartext, _) => TlsUse::Never,
            (_, TlsStart::Implicit) => TlsUse::AlreadyOn,
            (Demand::Opportunistic, TlsStart::StartTls) => TlsUse::IfOffered,
            (_, TlsStart::StartTls) => TlsUse::Required,
        };
        let mut target = Host::clone(wanted.host);
        let mut refused = None;
        for _ in 0..MAX_ADDRESSES {
            let mut note = Tried::default();
            let mut opened = self.try_open(wanted, &target, tls, &mut note).await;
            if let Err(OpenError::Handshake(_)) = opened
                && tls == TlsUse::IfOffered
            {
                // RFC 7435 §3: a failed handshake leaves the choice of clear text or nothing.
                let same =
                    note.remote.map_or_else(|| target.clone(), |ip| target.clone().with_addresses(vec![ip]));
                opened = self.try_open(wanted, &same, TlsUse::Never, &mut note).await;
            }
            note.is_open = opened.is_ok();
            let remote = note.remote;
            note.add_to(tried, wanted.demand);
            let error = match opened {
                Ok(connection) => return Ok(connection),
                Err(error @ (OpenError::Refused(_) | OpenError::Handshake(_)))
                    if wanted.demand.is_strict() =>
                {
                    error
                }
                // That the last address does not answer says less than what the first did not show.
                Err(error @ OpenError::Connect(_)) => return Err(refused.unwrap_or(error)),
                Err(error) => return Err(error),
            };
            let before = target.addresses.len();
            target.addresses.retain(|ip| remote.is_none_or(|remote| *ip != remote));
            if target.addresses.is_empty() || target.addresses.len() == before {
                return Err(error);
            }
            refused = Some(error);
        }
        Err(refused.unwrap_or(OpenError::Refused(Refused::NoTls)))
    }

    /// What to log in with, found before the host is made to wait for it.
    async fn credentials(&self, host: &Host) -> Result<Option<Credentials>, OpenError> {
        let Some(source) = &self.options.credentials else { return Ok(None) };
        let found = timeout(self.options.session.timeouts.hello, source.credentials(host)).await;
        Ok(found.map_err(|_| NoCredentials::too_late())??)
    }

    /// To the first of the addresses of `target` that answers.
    async fn try_open(
        &self,
        wanted: &Wanted<'_>,
        target: &Host,
        tls: TlsUse,
        note: &mut Tried,
    ) -> Result<Connection, OpenError> {
        let Wanted { host, demand, quirks, .. } = *wanted;
        let longest = self.options.longest_wait.map_or(CONNECT, |longest| longest.min(CONNECT));
        let opened =
            timeout(longest, self.connect.connect(target)).await.map_err(|_| ConnectError::TimedOut)??;
        let Opened { io, remote, local } = opened;
        (note.remote, note.local) = (remote, local);
        let (stream, seen) = if tls == TlsUse::AlreadyOn {
            let (stream, seen, info) = self.secure(io, host, demand, note).await?;
            (stream, Some((seen, info)))
        } else {
            (Stream::Plain(io), None)
        };
        let mut config = self.options.session.clone();
        (config.tls, config.protocol) = (tls, wanted.protocol);
        config.credentials.clone_from(wanted.credentials);
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
            Connection::new(Arc::clone(host), demand, Stream::Gone, session, patience, clock, tracer);
        match seen {
            Some((seen, _)) => connection.secured(stream, seen, None),
            None => connection.set_stream(stream),
        }
        self.introduce(&mut connection, demand, note).await?;
        demand.admits(host, connection.seen())?;
        if connection.seen().tls.is_none() {
            note.fault = note.fault.or(Some(TlsFault::NotOffered));
        }
        Ok(connection)
    }

    /// Greeting to ready.
    async fn introduce(
        &self,
        connection: &mut Connection,
        demand: Demand,
        note: &mut Tried,
    ) -> Result<(), OpenError> {
        loop {
            connection.pump();
            match connection.progress() {
                Progress::Ready if connection.is_drained() => return Ok(()),
                Progress::StartTls if connection.is_drained() => {
                    let Stream::Plain(io) = connection.take_stream() else {
                        return Err(OpenError::Session(Failure::Lost));
                    };
                    let host = Arc::clone(connection.host());
                    let (stream, seen, info) = self.secure(io, &host, demand, note).await?;
                    connection.secured(stream, seen, Some(info));
                }
                Progress::Over(Failure::NoTls | Failure::TlsRefused(_)) => {
                    note.fault = Some(TlsFault::NotOffered);
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
        demand: Demand,
        note: &mut Tried,
    ) -> Result<(Stream, TlsSeen, TlsInfo), OpenError> {
        let class = match demand {
            Demand::Verified(_) => TlsClass::Verifying,
            _ => TlsClass::Accepting,
        };
        let wait = self.options.session.timeouts.hello;
        let made = timeout(wait, self.tls.handshake(io, host, class)).await;
        let (stream, seen) = match made.unwrap_or(Err(HandshakeError::TimedOut)) {
            Ok(secured) => secured,
            Err(error) => {
                // Where any certificate will do, none was looked at.
                let fault = match class {
                    TlsClass::Accepting => TlsFault::NotValid,
                    TlsClass::Verifying => error.fault(),
                };
                note.fault = Some(fault);
                return Err(match error {
                    HandshakeError::NotVerified(_) | HandshakeError::NoRoots | HandshakeError::Name
                        if class == TlsClass::Verifying =>
                    {
                        Refused::NotVerified(fault).into()
                    }
                    error => error.into(),
                });
            }
        };
        note.seen = Some(seen.clone());
        note.fault = seen.fault;
        // Before anything is said over it: EHLO and AUTH are not for impostors either.
        demand.admits(host, &Seen::tls(seen.clone()))?;
        let info = tls::info(stream.get_ref().1);
        Ok((Stream::Tls(Box::new(stream)), seen, info))
    }
}

/// What is to be opened.
struct Wanted<'a> {
    host: &'a Arc<Host>,
    protocol: Protocol,
    demand: Demand,
    quirks: Quirks,
    credentials: &'a Option<Credentials>,
}

impl Tried {
    /// Tells of it, where it says something about the host's TLS: not where TLS was not wanted, nor where
    /// the host was gone before it came to that.
    fn add_to(mut self, tried: &mut Vec<Self>, demand: Demand) {
        if demand == Demand::Cleartext || (self.seen.is_none() && self.fault.is_none()) {
            return;
        }
        if demand == Demand::Encrypted(PolicyKind::Dane) {
            self.fault = self.fault.filter(|_| !self.is_open).or(Some(TlsFault::TlsaInvalid));
        }
        tried.push(self);
    }
}

/// Above five addresses of 30 s each, where a connector has its own limits.
const CONNECT: Duration = Duration::from_secs(300);
/// How many addresses of one host are tried that answer and do not show what is demanded. RFC 5321 §5.1
/// asks for two; each costs a handshake with a permit held.
pub const MAX_ADDRESSES: usize = 5;
