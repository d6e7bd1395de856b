//! A server listens, counts connections and lets each be served by a task of its own.
//!
//! It is built, started and then runs until it is shut down or dropped. Listening sockets are bound
//! before [`Builder::start`] returns, so that a wrong address is an error of the call and not a line
//! in a log. Accepting itself is in [`accept`](super::accept).

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::debug;

use super::accept::{Sessions, accept, bind};
use super::budget::Budget;
use super::conversation::{self, Start};
use super::handler::{Handler, Peer, SessionInfo};
use super::limits::{Limits, TooMany};
use super::options::ServerOptions;
use crate::net::connect::Io;
use crate::net::tls::ServerTls;
use crate::smtp::server::{Config, Protocol};

/// Where a server starts: [`Server::builder`].
#[derive(Debug)]
pub struct Server(());

impl Server {
    /// A server that asks `handler`.
    pub fn builder(handler: impl Handler, options: ServerOptions) -> Builder {
        Builder { handler: Arc::new(handler), options, tls: None, listen: Vec::new() }
    }
}

/// A server that does not run yet.
pub struct Builder {
    handler: Arc<dyn Handler>,
    options: ServerOptions,
    tls: Option<ServerTls>,
    listen: Vec<(Listen, Start)>,
}

enum Listen {
    Address(String),
    Socket(std::net::TcpListener),
}

impl Listen {
    fn is_port_25(&self) -> bool {
        match self {
            Self::Address(address) => {
                address.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(SMTP_PORT))
            }
            Self::Socket(socket) => socket.local_addr().is_ok_and(|address| address.port() == SMTP_PORT),
        }
    }
}

impl Builder {
    /// Listens on `address`, such as `0.0.0.0:25` or `localhost:2525`; may be called again for more.
    /// STARTTLS is offered there when there is a certificate.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push((Listen::Address(address.into()), Start::Plain));
        self
    }

    /// Listens on `address` for connections that start with TLS (port 465, RFC 8314).
    #[must_use]
    pub fn listen_tls(mut self, address: impl Into<String>) -> Self {
        self.listen.push((Listen::Address(address.into()), Start::Tls));
        self
    }

    /// Listens on `address` for LMTP (RFC 2033), with the same options otherwise. A message gets a
    /// reply for each of its recipients there: see [`Verdict::Each`](super::Verdict::Each). Not on
    /// port 25, where SMTP is expected (RFC 2033 §5): an error when the server starts.
    #[must_use]
    pub fn listen_lmtp(mut self, address: impl Into<String>) -> Self {
        self.listen.push((Listen::Address(address.into()), Start::Lmtp));
        self
    }

    /// Accepts on a socket that is listening already, as a service manager hands it over.
    #[must_use]
    pub fn socket(mut self, socket: std::net::TcpListener) -> Self {
        self.listen.push((Listen::Socket(socket), Start::Plain));
        self
    }

    /// The certificate. Without one neither STARTTLS nor implicit TLS is possible.
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Binds every address and starts to accept.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn start(self) -> Result<RunningServer, StartError> {
        let mut bound = Vec::new();
        let mut addresses = Vec::new();
        for (listen, start) in &self.listen {
            if *start == Start::Tls && self.tls.is_none() {
                return Err(StartError::NoCertificate);
            }
            let lmtp = *start == Start::Lmtp || self.options.session.protocol == Protocol::Lmtp;
            if lmtp && listen.is_port_25() {
                return Err(StartError::LmtpOnPort25);
            }
            let listener = match listen {
                Listen::Address(address) => bind(address.as_str()).await,
                Listen::Socket(socket) => socket.try_clone().and_then(|socket| {
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket)
                }),
            }
            .map_err(StartError::Listen)?;
            addresses.push(listener.local_addr().map_err(StartError::Listen)?);
            bound.push((listener, *start));
        }
        let setup = Current::new(self.into_setup());
        let (stop, stopped) = watch::channel(false);
        let accepting = bound
            .into_iter()
            .map(|(listener, start)| tokio::spawn(accept(listener, start, setup.clone(), stopped.clone())))
            .collect();
        Ok(RunningServer { addresses, setup, stop, accepting })
    }

    /// Serves one connection that was made elsewhere, to its end: over a pipe, in memory, or behind
    /// an accept loop of one's own. The limits on connections are then the caller's. A peer in
    /// [`ServerOptions::proxy_from`] begins with its header here too.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the connection off.
    pub async fn serve_io(self, io: Box<dyn Io>, peer: Peer) {
        let (_stop, stopped) = watch::channel(false);
        let setup = self.into_setup();
        conversation::serve(io, SessionInfo::new(peer), Start::Plain, &setup, stopped, None).await;
    }

    pub(super) fn into_setup(self) -> Arc<Setup> {
        let (limits, bodies) = (Limits::new(&self.options), Budget::new(self.options.max_body_memory));
        Arc::new(Setup::new(self.handler, self.options, self.tls, limits, bodies, Arc::default()))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen")]
    Listen(#[source] io::Error),
    /// TLS was asked for without a certificate.
    #[error("implicit TLS needs a certificate")]
    NoCertificate,
    /// LMTP was asked for on port 25, where SMTP is expected (RFC 2033 §5).
    #[error("LMTP must not be spoken on port 25")]
    LmtpOnPort25,
}

/// A server that accepts mail. Dropping it ends it at once, with what is in flight;
/// [`RunningServer::shutdown`] does it kindly.
#[derive(Debug)]
#[must_use = "dropping a running server stops it"]
pub struct RunningServer {
    addresses: Vec<SocketAddr>,
    setup: Current,
    stop: watch::Sender<bool>,
    accepting: Vec<JoinHandle<Sessions>>,
}

/// How much a server has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerStats {
    /// Connections accepted so far.
    pub connections: u64,
    /// Connections open now.
    pub open: usize,
    /// Connections refused because there were too many, or for what their network did lately.
    pub refused: u64,
    /// Messages that were answered positively.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Their octets.
    pub octets: u64,
    /// Octets of content that wait now for the handler to take them: what
    /// [`ServerOptions::max_body_memory`] limits.
    pub body_memory: usize,
}

impl RunningServer {
    /// The addresses that are listened on, in the order of the calls to the builder, with the ports
    /// that were found for port 0.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// How much it has done so far.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let setup = self.setup.now();
        let counters = &setup.counters;
        ServerStats {
            connections: counters.connections.load(Relaxed),
            open: setup.limits.open(),
            refused: counters.refused.load(Relaxed),
            messages: counters.messages.load(Relaxed),
            recipients: counters.recipients.load(Relaxed),
            octets: counters.octets.load(Relaxed),
            body_memory: setup.bodies.held(),
        }
    }

    /// Goes on under other options, without closing anything: connections that are made from now on have
    /// them; those that are open end under the options that they began with, but count for the new limits.
    /// The certificate and the handler stay: [`ServerTls::replace`] changes the one, and what a handler goes
    /// by is its own to change ([`Relay::reload`](crate::relay::Relay::reload)).
    pub fn reload(&self, options: ServerOptions) {
        self.setup.reload(options);
    }

    /// Whether it accepts connections, and would let another one in.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let accepting = self.accepting.iter().any(|accepting| !accepting.is_finished());
        accepting && !*self.stop.borrow() && self.setup.now().limits.has_room()
    }

    /// Ends it: no new connections, 421 for sessions between transactions, and `grace` for the
    /// others to finish theirs; what is left then is broken off.
    ///
    /// # Cancel safety
    /// Dropping the future ends the server at once.
    pub async fn shutdown(mut self, grace: Duration) -> ServerStats {
        self.stop.send_replace(true);
        let mut sessions = Vec::new();
        for accepting in std::mem::take(&mut self.accepting) {
            sessions.extend(accepting.await.ok());
        }
        let finish = async {
            for sessions in &mut sessions {
                while sessions.join_next().await.is_some() {}
            }
        };
        let _ = tokio::time::timeout(grace, finish).await;
        for mut sessions in sessions {
            sessions.shutdown().await;
        }
        self.stats()
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        for accepting in &self.accepting {
            accepting.abort();
        }
    }
}

/// What new connections are served by.
#[derive(Debug, Clone)]
pub(super) struct Current(Arc<RwLock<Arc<Setup>>>);

impl Current {
    fn new(setup: Arc<Setup>) -> Self {
        Self(Arc::new(RwLock::new(setup)))
    }

    pub(super) fn now(&self) -> Arc<Setup> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self, options: ServerOptions) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let old = Arc::clone(&current);
        old.bodies.set_limit(options.max_body_memory);
        *current = Arc::new(Setup::new(
            Arc::clone(&old.handler),
            options.clone(),
            old.tls.clone(),
            old.limits.under(&options),
            Arc::clone(&old.bodies),
            Arc::clone(&old.counters),
        ));
    }
}

/// What all connections of a server share that are made under the same options.
pub(super) struct Setup {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) session: Arc<Config>,
    /// The same for the listeners of LMTP.
    pub(super) lmtp: Arc<Config>,
    pub(super) options: ServerOptions,
    pub(super) tls: Option<ServerTls>,
    pub(super) limits: Arc<Limits>,
    pub(super) bodies: Arc<Budget>,
    pub(super) counters: Arc<Counters>,
}

impl Setup {
    fn new(
        handler: Arc<dyn Handler>,
        options: ServerOptions,
        tls: Option<ServerTls>,
        limits: Arc<Limits>,
        bodies: Arc<Budget>,
        counters: Arc<Counters>,
    ) -> Self {
        let mut session = options.session.clone();
        session.starttls = tls.is_some();
        let mut lmtp = session.clone();
        lmtp.protocol = Protocol::Lmtp;
        let (session, lmtp) = (Arc::new(session), Arc::new(lmtp));
        Self { handler, session, lmtp, options, tls, limits, bodies, counters }
    }

    /// Whether this peer's connections begin with a PROXY header.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.options.proxy_from.iter().any(|network| network.contains(peer))
    }

    /// Counts and notes a connection that was refused.
    pub(super) fn refused(&self, peer: SocketAddr, why: TooMany) {
        self.counters.refused.fetch_add(1, Relaxed);
        debug!(%peer, ?why, "connection refused");
    }
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) messages: AtomicU64,
    pub(super) recipients: AtomicU64,
    pub(super) octets: AtomicU64,
}
pub(super) const SMTP_PORT: u16 = 25;
