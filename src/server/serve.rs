//! A server listens, counts connections and lets each be served by a task of its own.
//!
//! It is built, started and then runs until it is shut down or dropped. Listening sockets are bound
//! before [`Builder::start`] returns, so that a wrong address is an error of the call and not a line
//! in a log. Accepting never ends because of an error: without descriptors it waits and goes on.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use super::conversation::{self, Start};
use super::handler::{Handler, Peer, SessionInfo};
use super::limits::{Connections, Failures, TooMany};
use super::network::Network;
use crate::net::connect::Io;
use crate::net::tls::ServerTls;
use crate::smtp::address::EhloName;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::server::{AuthOffer, Config, Protocol};

/// What a server does with its connections. The defaults suit a server on the Internet.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The protocol: host name, message size, recipients, timeouts, whether AUTH is offered.
    /// AUTH is not offered by default: set `session.auth` where the handler knows users. Whether
    /// STARTTLS is offered is decided by [`Builder::tls`], not here.
    pub session: Config,
    /// Connections in total; more are answered 421 4.3.2. Default 2,000: lower it where descriptors
    /// are few.
    pub max_connections: usize,
    /// Connections from one IPv4 address or one IPv6 /64; more are answered 421 4.7.0. Default 50.
    pub max_per_network: usize,
    /// Networks to which `max_per_network` does not apply, beside loopback. Default: none. List the
    /// gateways that carry other people's mail.
    pub exempt: Vec<Network>,
    /// How long a TLS handshake may take. Default 30 s.
    pub tls_handshake: Duration,
    /// How long a client may take to take our replies. Default 5 minutes, as long as it may take to
    /// send a command.
    pub write: Duration,
    /// How long to wait before the greeting for a client that talks before its turn, which then is
    /// refused (554). Default 0: only what is there already counts. A few seconds on port 25 keep
    /// off much spam software, and delay everybody.
    pub greeting_delay: Duration,
    /// How long the answer to a failed login is held back; doubled with each failure from the same
    /// network within 10 minutes, up to sixteenfold. Default 1 s.
    pub auth_delay: Duration,
    /// Proxies whose XCLIENT is believed, as Postfix defined it: they say who their clients are, and
    /// which users. Default: none. The handler is asked about each client; connections are counted for
    /// the proxy, which belongs into [`exempt`](Self::exempt).
    pub xclient_from: Vec<Network>,
}

impl ServerOptions {
    /// The defaults, for a server of this name.
    #[must_use]
    pub fn new(hostname: EhloName) -> Self {
        let mut session = Config::new(hostname);
        session.auth = AuthOffer::Never;
        Self {
            session,
            max_connections: 2000,
            max_per_network: 50,
            exempt: Vec::new(),
            tls_handshake: Duration::from_secs(30),
            write: Duration::from_secs(300),
            greeting_delay: Duration::ZERO,
            auth_delay: Duration::from_secs(1),
            xclient_from: Vec::new(),
        }
    }
}

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
        let setup = self.into_setup();
        let (stop, stopped) = watch::channel(false);
        let accepting = bound
            .into_iter()
            .map(|(listener, start)| {
                tokio::spawn(accept(listener, start, Arc::clone(&setup), stopped.clone()))
            })
            .collect();
        Ok(RunningServer { addresses, setup, stop, accepting })
    }

    /// Serves one connection that was made elsewhere, to its end: over a pipe, in memory, or behind
    /// an accept loop of one's own. The limits on connections are then the caller's.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the connection off.
    pub async fn serve_io(self, io: Box<dyn Io>, peer: Peer) {
        let (_stop, stopped) = watch::channel(false);
        let setup = self.into_setup();
        conversation::serve(io, SessionInfo::new(peer), Start::Plain, &setup, stopped).await;
    }

    fn into_setup(self) -> Arc<Setup> {
        let options = self.options;
        let connections =
            Connections::new(options.max_connections, options.max_per_network, options.exempt.clone());
        let mut session = options.session.clone();
        session.starttls = self.tls.is_some();
        let mut lmtp = session.clone();
        lmtp.protocol = Protocol::Lmtp;
        Arc::new(Setup {
            handler: self.handler,
            lmtp: Arc::new(lmtp),
            session: Arc::new(session),
            options,
            tls: self.tls,
            connections,
            failures: Failures::default(),
            counters: Counters::default(),
        })
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
    setup: Arc<Setup>,
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
    /// Connections refused because there were too many.
    pub refused: u64,
    /// Messages that were answered positively.
    pub messages: u64,
    /// Their recipients.
    pub recipients: u64,
    /// Their octets.
    pub octets: u64,
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
        let counters = &self.setup.counters;
        ServerStats {
            connections: counters.connections.load(Relaxed),
            open: self.setup.connections.open(),
            refused: counters.refused.load(Relaxed),
            messages: counters.messages.load(Relaxed),
            recipients: counters.recipients.load(Relaxed),
            octets: counters.octets.load(Relaxed),
        }
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

/// What all connections of a server share.
pub(super) struct Setup {
    pub(super) handler: Arc<dyn Handler>,
    pub(super) session: Arc<Config>,
    /// The same for the listeners of LMTP.
    pub(super) lmtp: Arc<Config>,
    pub(super) options: ServerOptions,
    pub(super) tls: Option<ServerTls>,
    pub(super) failures: Failures,
    pub(super) counters: Counters,
    connections: Arc<Connections>,
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

type Sessions = JoinSet<()>;

async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    // Sets SO_REUSEADDR where that is safe, so that a restart need not wait.
    TcpListener::bind(address).await
}

/// Accepts until told to stop; returns the sessions that still run.
async fn accept(
    listener: TcpListener,
    start: Start,
    setup: Arc<Setup>,
    mut stop: watch::Receiver<bool>,
) -> Sessions {
    let mut sessions = Sessions::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = conversation::stopped(&mut stop) => return sessions,
            accepted = listener.accept() => accepted,
        };
        while let Some(ended) = sessions.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                warn!("a session ended in a panic");
            }
        }
        match accepted {
            Ok((stream, address)) => {
                pause = FIRST_PAUSE;
                admit(stream, address, start, &setup, &stop, &mut sessions);
            }
            // These are about one connection, which is gone.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) =>
            {
                debug!(%error, "a connection was gone before it was accepted");
            }
            // No descriptors or no memory: the connection stays in the kernel's queue, and asking
            // again at once would spin.
            Err(error) => {
                warn!(%error, ?pause, "cannot accept");
                tokio::select! {
                    biased;
                    () = conversation::stopped(&mut stop) => return sessions,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    address: SocketAddr,
    start: Start,
    setup: &Arc<Setup>,
    stop: &watch::Receiver<bool>,
    sessions: &mut Sessions,
) {
    let counted = match setup.connections.enter(address.ip()) {
        Ok(counted) => counted,
        Err(why) => {
            setup.counters.refused.fetch_add(1, Relaxed);
            debug!(peer = %address, ?why, "connection refused");
            if start != Start::Tls {
                dismiss(stream, why);
            }
            return;
        }
    };
    let Ok(local) = stream.local_addr() else { return };
    // Replies leave in one write each flight: waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    setup.counters.connections.fetch_add(1, Relaxed);
    let (setup, stop) = (Arc::clone(setup), stop.clone());
    sessions.spawn(async move {
        let info = SessionInfo::new(Peer { address, local });
        conversation::serve(Box::new(stream), info, start, &setup, stop).await;
        drop(counted);
    });
}

/// Says why and closes, without waiting: the accept loop must not be held up, and the few octets
/// always fit an empty socket buffer.
fn dismiss(stream: TcpStream, why: TooMany) {
    let reply = match why {
        TooMany::InTotal => Reply::new(421, EnhancedCode::new(4, 3, 2), "too many connections, try later"),
        TooMany::FromNetwork => {
            Reply::new(421, EnhancedCode::new(4, 7, 0), "too many connections from your network")
        }
    };
    let mut octets = BytesMut::new();
    reply.encode(&mut octets);
    // The runtime's socket only writes when it has heard that it is writable, which a socket this
    // young has not.
    if let Ok(mut stream) = stream.into_std() {
        let _ = io::Write::write(&mut stream, &octets);
    }
}

const SMTP_PORT: u16 = 25;
/// Descriptors come back as sessions end, within moments as a rule.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Short enough that clients in the kernel's queue do not give up.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
