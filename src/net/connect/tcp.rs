//! TCP connections, from the addresses of ours that they are to come from.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;

use super::race::{Pace, race};
use super::{Connect, ConnectError, FamilyOrder, Opened};
use crate::BoxFuture;
use crate::hop::Host;

/// Opens TCP connections, with `TCP_NODELAY` set: a client that waits for a reply to each write loses
/// 40 ms a message to delayed acknowledgements otherwise.
///
/// The addresses of a host are raced (RFC 8305): one in which nothing arrives costs 250 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpConnect {
    /// The IPv4 address to connect from. Default: the system's choice. Where only the other one is
    /// given, IPv4 is not used: mail must not come from an address that nobody named.
    pub ipv4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Which family to try first, and whether the other. Default: as the route gives them.
    pub families: FamilyOrder,
    /// How long to wait for each address, and for the lookup of a name. Default 30 s.
    pub timeout: Duration,
    /// How many addresses to try, at least one. Default 5; RFC 5321 §5.1 asks for two.
    pub max_addresses: usize,
    /// How far behind one another addresses are tried. Default: 250 ms, as RFC 8305 §8 recommends;
    /// longer where second connections cost more than time, such as over a link by satellite.
    pub stagger: Duration,
}

impl TcpConnect {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ipv4: None,
            ipv6: None,
            families: FamilyOrder::AsGiven,
            timeout: Duration::from_secs(30),
            max_addresses: 5,
            stagger: Duration::from_millis(250),
        }
    }

    /// The defaults, connecting from this address only.
    #[must_use]
    pub const fn from_address(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self { ipv4: Some(v4), ..Self::new() },
            IpAddr::V6(v6) => Self { ipv6: Some(v6), ..Self::new() },
        }
    }

    async fn open(&self, host: &Host) -> Result<Opened, ConnectError> {
        let known =
            if host.addresses.is_empty() { self.look_up(host).await? } else { host.addresses.clone() };
        let addresses = self.usable(known);
        let (remote, stream) = self.race(addresses, |ip| self.dial(SocketAddr::new(ip, host.port))).await?;
        let local = stream.local_addr().ok().map(|local| local.ip());
        Ok(Opened { io: Box::new(stream), remote: Some(remote), local })
    }

    /// Races the first of `addresses` at this pace, and in the order given.
    pub(super) async fn race<T, F>(
        &self,
        mut addresses: Vec<IpAddr>,
        dial: impl Fn(IpAddr) -> F,
    ) -> Result<(IpAddr, T), ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>> + Send,
    {
        addresses.truncate(self.max_addresses.max(1));
        race(addresses, Pace { stagger: self.stagger, timeout: self.timeout }, dial).await
    }

    /// One connection to one address, within no time.
    pub(super) async fn dial(&self, to: SocketAddr) -> Result<TcpStream, ConnectError> {
        self.dial_raw(to).await.map_err(|error| ConnectError::of(&error))
    }

    async fn dial_raw(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let (socket, from): (_, Option<IpAddr>) = if to.is_ipv4() {
            (TcpSocket::new_v4()?, self.ipv4.map(Into::into))
        } else {
            (TcpSocket::new_v6()?, self.ipv6.map(Into::into))
        };
        socket.set_nodelay(true)?;
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        socket.connect(to).await
    }

    /// The addresses of a host that were not given with it.
    pub(super) async fn look_up(&self, host: &Host) -> Result<Vec<IpAddr>, ConnectError> {
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

    fn usable(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        from_both(&mut addresses, self.ipv4.is_some(), self.ipv6.is_some());
        self.families.sort(addresses)
    }
}

/// Where addresses of ours are named, those of a family of which none is are not for us.
pub(super) fn from_both(addresses: &mut Vec<IpAddr>, v4: bool, v6: bool) {
    if v4 || v6 {
        addresses.retain(|ip| if ip.is_ipv4() { v4 } else { v6 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
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
        let opened = TcpConnect::new().connect(&host).await.unwrap();
        assert_eq!(opened.remote, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(opened.local, Some(Ipv4Addr::LOCALHOST.into()));
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
        let from = TcpConnect::from_address("127.0.0.3".parse().unwrap());
        let open = from.connect(&host("localhost", port)).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.ip().to_string(), "127.0.0.3");
        assert_eq!(open.local, Some("127.0.0.3".parse().unwrap()));
        let v6 = host("x.test", port).with_addresses(vec!["::1".parse().unwrap()]);
        assert_eq!(from.connect(&v6).await.err(), Some(ConnectError::NoAddress));
    }

    #[tokio::test]
    async fn a_family_is_tried_first_or_alone_as_it_is_asked_for() {
        let given: Vec<IpAddr> = ["::1", "::2", "127.0.0.1"].map(|ip| ip.parse().unwrap()).to_vec();
        for (families, ipv4, ipv6, expected) in [
            (FamilyOrder::AsGiven, false, false, &["::1", "127.0.0.1", "::2"][..]),
            (FamilyOrder::Ipv4First, false, false, &["127.0.0.1", "::1", "::2"]),
            (FamilyOrder::Ipv4Only, false, false, &["127.0.0.1"]),
            (FamilyOrder::AsGiven, true, false, &["127.0.0.1"]),
            (FamilyOrder::AsGiven, false, true, &["::1", "::2"]),
            (FamilyOrder::AsGiven, true, true, &["::1", "127.0.0.1", "::2"]),
            (FamilyOrder::Ipv4Only, false, true, &[]),
        ] {
            let connect = TcpConnect {
                families,
                ipv4: ipv4.then_some(Ipv4Addr::LOCALHOST),
                ipv6: ipv6.then_some(Ipv6Addr::LOCALHOST),
                ..TcpConnect::new()
            };
            let usable: Vec<_> = connect.usable(given.clone()).iter().map(ToString::to_string).collect();
            assert_eq!(usable, expected, "{connect:?}");
        }
    }

    #[tokio::test]
    async fn small_writes_are_not_held_back() {
        let (_listener, port) = listener().await;
        let stream = TcpConnect::new().dial(([127, 0, 0, 1], port).into()).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }

    /// Nothing answers at an address of ours whose listener takes no more: the system drops what comes.
    #[tokio::test]
    async fn a_black_hole_costs_250_milliseconds() {
        let (listener, port) = listener().await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 2], port))).unwrap();
        let _full = socket.listen(1).unwrap();
        let hole = SocketAddr::from(([127, 0, 0, 2], port));
        // As many as wait to be accepted: one more than was asked for.
        let _waiting = [TcpStream::connect(hole).await.unwrap(), TcpStream::connect(hole).await.unwrap()];
        let host = host("mx.test", port).with_addresses(vec![hole.ip(), Ipv4Addr::LOCALHOST.into()]);
        let began = SystemClock.mono();
        let opened = TcpConnect::new().connect(&host).await.unwrap();
        let took = SystemClock.mono() - began;
        assert_eq!(opened.remote, Some(Ipv4Addr::LOCALHOST.into()));
        assert!(took >= Duration::from_millis(250), "{took:?}: the first was no black hole");
        assert!(took < Duration::from_secs(5), "{took:?}");
        assert!(listener.accept().await.is_ok());
    }
}
