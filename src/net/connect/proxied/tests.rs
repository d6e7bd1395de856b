use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::smtp::address::Domain;

const FROM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

async fn proxy() -> (TcpListener, ProxiedConnect) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, ProxiedConnect::new(address, FROM.into()))
}

fn host(addresses: &[&str]) -> Host {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Host::new(Domain::parse("mx.test").unwrap(), 25).with_addresses(addresses)
}

#[tokio::test]
async fn the_header_says_from_where_to_where() {
    let (listener, connect) = proxy().await;
    let connect = ProxiedConnect { ipv6: Some("2001:db8::9".parse().unwrap()), ..connect };
    let v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\xc6\x33\x64\x01\0\0\0\x19";
    let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    for ip in ["2001:db8::9", "2001:db8::25"] {
        v6.extend_from_slice(&ip.parse::<Ipv6Addr>().unwrap().octets());
    }
    v6.extend_from_slice(&[0, 0, 0, 25]);
    for (to, header) in [("198.51.100.1", &v4[..]), ("2001:db8::25", &v6)] {
        let host = host(&[to]);
        let (opened, ()) = tokio::join!(connect.connect(&host), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; header.len()];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, header, "{}", heard.escape_ascii());
            stream.write_all(b"220 mx.test\r\n").await.unwrap();
        });
        let mut opened = opened.unwrap();
        assert_eq!(opened.remote, Some(to.parse().unwrap()));
        assert_eq!(opened.local.unwrap().is_ipv4(), opened.remote.unwrap().is_ipv4());
        let mut greeting = String::new();
        opened.io.read_to_string(&mut greeting).await.unwrap();
        assert_eq!(greeting, "220 mx.test\r\n", "the session hears all of it");
    }
}

#[tokio::test]
async fn an_address_that_the_proxy_does_not_reach_makes_room_for_the_next() {
    let (listener, connect) = proxy().await;
    let host = host(&["198.51.100.1", "::1", "198.51.100.2"]);
    let (opened, ()) = tokio::join!(connect.connect(&host), async {
        drop(listener.accept().await.unwrap());
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mx.test\r\n").await.unwrap();
    });
    assert_eq!(opened.unwrap().remote, Some("198.51.100.2".parse().unwrap()), "IPv6 has no address of ours");
}

#[tokio::test]
async fn what_fails_is_told_apart() {
    let (listener, connect) = proxy().await;
    let to = host(&["198.51.100.1"]);
    let (opened, ()) = tokio::join!(connect.connect(&to), async { drop(listener.accept().await) });
    assert_eq!(opened.err(), Some(ConnectError::Refused), "the host, as the proxy is there");
    drop(listener);
    assert_eq!(connect.connect(&to).await.err(), Some(ConnectError::Proxy), "the proxy");
    let error = connect.connect(&host(&["::1"])).await.err();
    assert_eq!(error, Some(ConnectError::NoAddress), "no address of that family");
}

#[tokio::test]
async fn a_host_that_greets_late_is_given_to_the_session() {
    let (listener, mut connect) = proxy().await;
    connect.tcp.timeout = Duration::from_millis(50);
    let mut to = host(&["198.51.100.1"]);
    let (opened, _held) = tokio::join!(connect.connect(&to), listener.accept());
    assert!(opened.is_ok());
    (to.tls_start, connect.tcp.timeout) = (TlsStart::Implicit, Duration::from_secs(3600));
    assert!(connect.connect(&to).await.is_ok(), "where it is ours to speak first");
}
