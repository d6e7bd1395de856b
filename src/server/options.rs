//! What a server is told once: the protocol's options, limits, and whom to believe.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::handler::Peer;
use super::network::Network;
use crate::net::TraceFn;
use crate::smtp::address::EhloName;
use crate::smtp::server::{AuthOffer, Config};

/// What a server does with its connections. The defaults suit a server on the Internet.
#[derive(Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The protocol: host name, message size, recipients, timeouts, whether AUTH is offered.
    /// AUTH is not offered by default: set `session.auth` where the handler knows users. Whether
    /// STARTTLS is offered is decided by [`Builder::tls`](super::Builder::tls), not here.
    pub session: Config,
    /// Connections in total; more are answered 421 4.3.2. A fifth of them is kept for networks that
    /// are [`exempt`](Self::exempt); who will log in is not known when a connection comes, so list the
    /// networks of those who must always get in. From four fifths of the others on, clients that are
    /// not exempt are waited for 30 s instead of
    /// [`Timeouts::command`](crate::smtp::server::Timeouts::command). Default 2,000: lower it where
    /// descriptors are few.
    pub max_connections: usize,
    /// Connections at once from one *network*: one IPv4 address or one IPv6 /64. More are answered
    /// 421 4.7.0. Default 50.
    pub max_per_network: usize,
    /// Connections a minute from one network; more are answered 421 4.7.0. Default 120, above what a
    /// large provider makes to one server that is not its own; 0 is no limit. Raise it where many
    /// clients sit behind one address.
    pub max_connection_rate: u32,
    /// Recipients refused for good (5xx) to one network in 10 minutes; with the last of them it is
    /// barred for [`bar`](Self::bar). Default 300, a list with many dead addresses; 0 is no limit.
    /// Lower it where names are guessed.
    pub max_refused_recipients: u32,
    /// Commands from one network in 10 minutes that a session had to refuse as wrong or out of order;
    /// with the last of them it is barred. Default 100, five sessions that were ended for 20 of them
    /// ([`Config::max_errors`]); 0 is no limit.
    pub max_mistakes: u32,
    /// Logins from one network that failed in 10 minutes; with the last of them it is barred. Default
    /// 30, so that one forgotten device does not shut out an office; 0 is no limit.
    pub max_failed_logins: u32,
    /// How long connections of a barred network are answered 421 4.7.0. Default 10 minutes.
    pub bar: Duration,
    /// Networks to which the limits of a network do not apply, beside loopback. Default: none. List
    /// the gateways that carry other people's mail.
    pub exempt: Vec<Network>,
    /// Proxies that begin each connection with a PROXY header, version 1 or 2 of haproxy's
    /// `proxy-protocol.txt`, before TLS too. From these it is required within 5 s, or the connection is
    /// closed without a word; from others it is refused as any early talk. The client it names takes
    /// the place of the proxy in [`Peer`](super::Peer) and in all limits; one that it does not know
    /// is `0.0.0.0`, for all of them together. The proxy itself has no limit but `max_connections`. Default: none. List only machines that nobody else can send from.
    pub proxy_from: Vec<Network>,
    /// Proxies whose XCLIENT is believed, as Postfix defined it: they say who their client is, and which
    /// user, until that has said EHLO. Default: none. The handler is asked about the client, and the
    /// connection counts for it; the proxy itself is [`exempt`](Self::exempt). The address decides that
    /// a PROXY header named, where there was one. List only proxies that say EHLO for their clients, or
    /// pass on no XCLIENT of theirs.
    pub xclient_from: Vec<Network>,
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
    /// How long each reply is held back from the tenth mistake of a session on. Mistakes that were sent
    /// together are paid for one by one. Default 1 s; 0 switches it off.
    pub tarpit: Duration,
    /// Octets of messages, of all sessions together, that wait for the handler to take them. When there
    /// are more, MAIL is answered 452 4.3.1 and clients that are sending are not read from; a read that
    /// was begun may go beyond it. What a handler keeps is its own affair. Default 64 MiB, hundreds of
    /// messages at once; raise it where storage is slow and memory is not.
    pub max_body_memory: usize,
    /// Asked at the start of each session; a function that it returns is shown the dialogue, line by
    /// line, without credentials and content. Default: none. For looking into one client's trouble; the
    /// same lines go to `tracing`, target `postroad::wire`, level trace.
    pub trace: Option<SessionTrace>,
}

/// Chooses the sessions to be traced: see [`ServerOptions::trace`].
pub type SessionTrace = Arc<dyn Fn(&Peer) -> Option<TraceFn> + Send + Sync>;

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
            max_connection_rate: 120,
            max_refused_recipients: 300,
            max_mistakes: 100,
            max_failed_logins: 30,
            bar: Duration::from_secs(600),
            exempt: Vec::new(),
            proxy_from: Vec::new(),
            xclient_from: Vec::new(),
            tls_handshake: Duration::from_secs(30),
            write: Duration::from_secs(300),
            greeting_delay: Duration::ZERO,
            auth_delay: Duration::from_secs(1),
            tarpit: Duration::from_secs(1),
            max_body_memory: 64 * 1024 * 1024,
            trace: None,
        }
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("session", &self.session)
            .field("max_connections", &self.max_connections)
            .field("exempt", &self.exempt)
            .field("proxy_from", &self.proxy_from)
            .field("trace", &self.trace.is_some())
            .finish_non_exhaustive()
    }
}
