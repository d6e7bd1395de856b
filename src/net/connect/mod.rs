//! A connector opens the stream of octets that a session runs over.
//!
//! It is a seam: [`TcpConnect`] is the real one; a proxy, an in-memory pair for tests or a network that
//! loses packets on purpose is another. It knows addresses and sockets, and nothing of TLS or SMTP.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::BoxFuture;
use crate::hop::Host;

/// A stream of octets in both directions.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}

/// A stream that was opened, and between whom, as far as that is known.
pub struct Opened {
    /// The stream.
    pub io: Box<dyn Io>,
    /// The address of the host that answered; none where a proxy looks it up.
    pub remote: Option<IpAddr>,
    /// The address that the host sees.
    pub local: Option<IpAddr>,
}

impl Opened {
    /// A stream between ends that have no address, such as one in memory.
    #[must_use]
    pub fn new(io: impl Io) -> Self {
        Self { io: Box::new(io), remote: None, local: None }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("remote", &self.remote)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

/// Opens streams to hosts.
pub trait Connect: Send + Sync + fmt::Debug + 'static {
    /// A stream to `host`, by the first of its addresses that answers.
    ///
    /// # Errors
    /// [`ConnectError`] when none did.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>>;
}

/// Why there is no stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address that can be used.
    #[error("the host has no address")]
    NoAddress,
    /// The connection was refused.
    #[error("connection refused")]
    Refused,
    /// No answer in time.
    #[error("connection timed out")]
    TimedOut,
    /// The network is in the way.
    #[error("host or network unreachable")]
    Unreachable,
    /// This host lacks descriptors, ports, memory or permission.
    #[error("this host cannot open a connection")]
    Local,
}

impl ConnectError {
    /// What an error of the operating system means.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable,
            _ => Self::Local,
        }
    }
}

/// Opens TCP connections, with `TCP_NODELAY` set: a client that waits for a reply to each write loses
/// 40 ms a message to delayed acknowledgements otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpConnect {
    /// The address to connect from. Default: the system's choice. Addresses of the other family are
    /// not tried.
    pub source: Option<IpAddr>,
    /// How long to wait for each address, and for the lookup of a name. Default 30 s.
    pub timeout: Duration,
    /// How many addresses to try, at least one. Default 5; RFC 5321 §5.1 asks for two.
    pub max_addresses: usize,
}

impl TcpConnect {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { source: None, timeout: Duration::from_secs(30), max_addresses: 5 }
    }

    async fn open(&self, host: &Host) -> Result<Opened, ConnectError> {
        let known =
            if host.addresses.is_empty() { self.look_up(host).await? } else { host.addresses.clone() };
        let usable =
            known.into_iter().filter(|ip| self.source.is_none_or(|from| from.is_ipv4() == ip.is_ipv4()));
        let mut last = ConnectError::NoAddress;
        for ip in usable.take(self.max_addresses.max(1)) {
            match timeout(self.timeout, self.dial(SocketAddr::new(ip, host.port))).await {
                Ok(Ok(stream)) => {
                    let local = stream.local_addr().ok().map(|local| local.ip());
                    return Ok(Opened { io: Box::new(stream), remote: Some(ip), local });
                }
                Ok(Err(error)) => last = ConnectError::of(&error),
                Err(_) => last = ConnectError::TimedOut,
            }
        }
        Err(last)
    }

    async fn dial(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(to).await
    }

    async fn look_up(&self, host: &Host) -> Result<Vec<IpAddr>, ConnectError> {
        if let Some(literal) = host.name.as_literal() {
            return Ok(vec![literal]);
        }
        let name = host.name.as_str();
        // RFC 6761 §6.3: this name is answered here, whatever a name server would say.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let found = timeout(self.timeout, lookup_host((name, host.port))).await;
        let found = found.map_err(|_| ConnectError::TimedOut)?.map_err(|_| ConnectError::NoAddress)?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

impl Default for TcpConnect {
    fn default() -> Self {
        Self::new()
    }
}

impl Connect for TcpConnect {
    fn connect<'a>(&'a self, host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        Box::pin(self.open(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    fn host(name: &str, port: u16) -> Host {
        Host::new(Domain::parse(name).unwrap(), port)
    }

    async fn listener() -> (tokio::net::TcpListener, u16) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let (_listener, port) = listener().await;
        let host = host("mx.test", port)
            .with_addresses(vec!["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        // 127.0.0.2 has no listener on that port.
        assert!(TcpConnect::new().connect(&host).await.is_ok());
        let first_only = TcpConnect { max_addresses: 1, ..TcpConnect::new() };
        assert_eq!(first_only.connect(&host).await.err(), Some(ConnectError::Refused));
    }

    #[tokio::test]
    async fn localhost_and_literals_need_no_lookup() {
        let (_listener, port) = listener().await;
        assert!(TcpConnect::new().connect(&host("localhost", port)).await.is_ok());
        assert!(TcpConnect::new().connect(&host("[127.0.0.1]", port)).await.is_ok());
    }

    #[tokio::test]
    async fn the_peer_sees_the_source_address() {
        let (listener, port) = listener().await;
        let from = TcpConnect { source: Some("127.0.0.3".parse().unwrap()), ..TcpConnect::new() };
        let _open = from.connect(&host("localhost", port)).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.3");
        let v6 = host("x.test", port).with_addresses(vec!["::1".parse().unwrap()]);
        assert_eq!(from.connect(&v6).await.err(), Some(ConnectError::NoAddress));
    }

    #[tokio::test]
    async fn small_writes_are_not_held_back() {
        let (_listener, port) = listener().await;
        let stream = TcpConnect::new().dial(([127, 0, 0, 1], port).into()).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }
}
