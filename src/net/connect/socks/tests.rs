use tokio::net::TcpListener;

use super::*;

/// What a proxy expects, and what it answers to that.
type Script = &'static [(&'static [u8], &'static [u8])];

/// A proxy that plays a script.
async fn proxy(script: Script) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let played = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for (expected, answer) in script {
            let mut heard = vec![0; expected.len()];
            stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, *expected, "{}", heard.escape_ascii());
            stream.write_all(answer).await.unwrap();
        }
    });
    (address, played)
}

fn host(name: &str, addresses: &[&str]) -> Host {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    Host::new(Domain::parse(name).unwrap(), 25).with_addresses(addresses)
}

const NO: (&[u8], &[u8]) = (b"\x05\x01\0", b"\x05\0");
const TO_V4: &[u8] = b"\x05\x01\0\x01\xc0\0\x02\x01\0\x19";

#[tokio::test]
async fn what_comes_behind_the_answer_is_the_hosts() {
    let by = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let cases: &[(_, _, Script, _, _)] = &[
        // IPv4, and the address that the proxy comes from.
        (
            "mx.test",
            &["192.0.2.1"][..],
            &[NO, (TO_V4, b"\x05\0\0\x01\xc6\x33\x64\x07\x30\x39220 hi\r\n")],
            by("192.0.2.1"),
            by("198.51.100.7"),
        ),
        // It does not say.
        (
            "mx.test",
            &["192.0.2.1"],
            &[NO, (TO_V4, b"\x05\0\0\x01\0\0\0\0\0\x00220 hi\r\n")],
            by("192.0.2.1"),
            None,
        ),
        // IPv6, and it says a name.
        (
            "mx.test",
            &["2001:db8::1"],
            &[
                NO,
                (
                    b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x19",
                    b"\x05\0\0\x03\x02ab\0\x01220 hi\r\n",
                ),
            ],
            by("2001:db8::1"),
            None,
        ),
        // No address is known: the proxy looks it up.
        (
            "mx.test",
            &[],
            &[NO, (b"\x05\x01\0\x03\x07mx.test\0\x19", b"\x05\0\0\x01\0\0\0\0\0\x00220 hi\r\n")],
            None,
            None,
        ),
        // A literal is an address.
        ("[192.0.2.1]", &[], &[NO, (TO_V4, b"\x05\0\0\x01\0\0\0\0\0\x00220 hi\r\n")], by("192.0.2.1"), None),
    ];
    for (name, addresses, script, remote, local) in cases {
        let (address, played) = proxy(script).await;
        let mut opened = SocksConnect::new(address).connect(&host(name, addresses)).await.unwrap();
        let mut behind = String::new();
        opened.io.read_to_string(&mut behind).await.unwrap();
        assert_eq!((behind.as_str(), opened.remote, opened.local), ("220 hi\r\n", *remote, *local), "{name}");
        played.await.unwrap();
    }
}

#[tokio::test]
async fn a_login_is_made_where_the_proxy_asks_for_one() {
    const ASKED: (&[u8], &[u8]) = (b"\x05\x02\0\x02", b"\x05\x02");
    let login = || Some(SocksLogin::new("ada", "secret").unwrap());
    let cases: &[(Script, _)] = &[
        (&[ASKED, (b"\x01\x03ada\x06secret", b"\x01\0"), (TO_V4, b"\x05\0\0\x01\0\0\0\0\0\0")], None),
        (&[ASKED, (b"\x01\x03ada\x06secret", b"\x05\0"), (TO_V4, b"\x05\0\0\x01\0\0\0\0\0\0")], None),
        (&[ASKED, (b"\x01\x03ada\x06secret", b"\x01\x01")], Some(ConnectError::Proxy)),
        // It does not ask.
        (&[(b"\x05\x02\0\x02", b"\x05\0"), (TO_V4, b"\x05\0\0\x01\0\0\0\0\0\0")], None),
        // It takes nothing that we have.
        (&[(b"\x05\x02\0\x02", b"\x05\xff")], Some(ConnectError::Proxy)),
    ];
    for (script, error) in cases {
        let (address, _played) = proxy(script).await;
        let connect = SocksConnect { login: login(), ..SocksConnect::new(address) };
        assert_eq!(connect.connect(&host("mx.test", &["192.0.2.1"])).await.err(), *error);
    }
    let (address, _played) = proxy(&[(b"\x05\x01\0", b"\x05\x02")]).await;
    let error = SocksConnect::new(address).connect(&host("mx.test", &["192.0.2.1"])).await.err();
    assert_eq!(error, Some(ConnectError::Proxy), "a login that was not offered");
    assert!(!format!("{:?}", login()).contains("secret"));
    for (user, password) in [("", "x"), ("x", ""), (&*"x".repeat(256), "x"), ("x", &*"x".repeat(256))] {
        assert_eq!(SocksLogin::new(user, password), Err(NotALogin));
    }
    assert!(SocksLogin::new(&"x".repeat(255), &"x".repeat(255)).is_ok());
}

#[tokio::test]
async fn what_the_proxy_says_about_a_host_is_told_from_what_it_does_not_do() {
    use ConnectError::{Proxy, Refused, TimedOut, Unreachable};
    macro_rules! said {
        ($code:literal) => {
            &[NO, (TO_V4, &[5, $code, 0, 1, 0, 0, 0, 0, 0, 0])]
        };
    }
    let cases: &[(Script, _)] = &[
        (said!(1), Proxy),
        (said!(2), Proxy),
        (said!(3), Unreachable),
        (said!(4), Unreachable),
        (said!(5), Refused),
        (said!(6), TimedOut),
        (said!(7), Proxy),
        (said!(8), Proxy),
        (said!(255), Proxy),
        (&[NO, (TO_V4, b"\x04\0\0\x01\0\0\0\0\0\0")], Proxy),
        (&[NO, (TO_V4, b"\x05\0\0\x02\0\0\0\0\0\0")], Proxy),
        (&[NO, (TO_V4, b"\x05\0\0\x01\0\0")], Proxy),
        (&[NO, (TO_V4, b"\x05\0\0\x03\xff\0\0")], Proxy),
        (&[(b"\x05\x01\0", b"\x04\0")], Proxy),
        (&[(b"\x05\x01\0", b"HT")], Proxy),
        (&[(b"\x05\x01\0", b"\x05")], Proxy),
        (&[(b"\x05\x01\0", b"")], Proxy),
    ];
    for (script, error) in cases {
        let (address, _played) = proxy(script).await;
        let connect = SocksConnect::new(address);
        let host = host("mx.test", &["192.0.2.1"]);
        assert_eq!(connect.connect(&host).await.err(), Some(*error), "{script:?}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(SocksConnect::new(closed).connect(&host("mx.test", &["192.0.2.1"])).await.err(), Some(Proxy));
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up_and_not_held_against_the_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut connect = SocksConnect::new(listener.local_addr().unwrap());
    connect.tcp.timeout = Duration::from_millis(100);
    let error = connect.connect(&host("mx.test", &["192.0.2.1"])).await.err();
    assert_eq!(error, Some(ConnectError::Proxy));
}
