//! The HTTPS client against a real server: what it asks, and everything that makes a request fail.
#![cfg(feature = "mta-sts")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/https.rs"]
mod https;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::clock::SystemClock;
use postroad::https::{Fetched, FindHost, HttpsClient, HttpsError, HttpsLimits, Url};
use postroad::net::connect::ConnectError;
use postroad::net::tls::{HandshakeError, TlsOptions};
use postroad::smtp::address::Domain;

use https::{Certificate, HttpsServer, Reply};

/// Every name but `nowhere.test` is on loopback.
#[derive(Debug)]
struct Loopback;

impl FindHost for Loopback {
    fn find<'a>(&'a self, host: &'a Domain) -> BoxFuture<'a, Vec<IpAddr>> {
        let found = if host.as_str() == "nowhere.test" { vec![] } else { vec!["127.0.0.1".parse().unwrap()] };
        Box::pin(async move { found })
    }
}

fn client(web: &HttpsServer) -> HttpsClient {
    HttpsClient::new(web.trust(TlsOptions::new()), Arc::new(Loopback), Arc::new(SystemClock)).unwrap()
}

fn url(web: &HttpsServer, host: &str) -> Url {
    Url::parse(&format!("https://{host}:{}/x/y.txt?a=b", web.port())).unwrap()
}

async fn get(web: &HttpsServer, host: &str) -> Result<Fetched, HttpsError> {
    client(web).get(&url(web, host)).await
}

#[tokio::test]
async fn a_request_is_one_connection_that_names_its_host() {
    let web = HttpsServer::start().await;
    web.reply("a.test", Reply::text("hello"));
    for n in 1..3 {
        let fetched = get(&web, "a.test").await.unwrap();
        assert_eq!(fetched.body, "hello");
        assert!(fetched.is_plain_text());
        assert_eq!(web.connections("a.test"), n);
    }
    let asked = &web.asked()[0];
    assert_eq!(asked.line, "GET /x/y.txt?a=b HTTP/1.1");
    assert_eq!(asked.fields["host"], format!("a.test:{}", web.port()));
    assert_eq!(asked.fields["connection"], "close");
}

#[tokio::test]
async fn a_post_carries_its_body_and_gives_the_status() {
    let web = HttpsServer::start().await;
    let (client, url) = (client(&web), url(&web, "a.test"));
    let body = Bytes::from(vec![b'x'; 300_000]);
    web.reply("a.test", Reply::status(201));
    assert_eq!(client.post(&url, "application/tlsrpt+gzip", body.clone()).await.unwrap(), 201);
    let asked = &web.asked()[0];
    assert_eq!(asked.line, "POST /x/y.txt?a=b HTTP/1.1");
    assert_eq!(asked.fields["content-type"], "application/tlsrpt+gzip");
    assert_eq!(asked.body, body);
    for status in [301, 400, 500] {
        web.reply("a.test", Reply::redirect(status, "https://b.test/"));
        let error = client.post(&url, "text/plain", Bytes::new()).await.unwrap_err();
        assert!(matches!(error, HttpsError::Status(code) if code == status), "{error:?}");
    }
    assert_eq!(web.connections("b.test"), 0);
}

#[tokio::test]
async fn any_status_but_200_is_a_failure_and_no_redirect_is_followed() {
    let web = HttpsServer::start().await;
    web.reply("b.test", Reply::text("there"));
    for status in [201, 204, 301, 302, 303, 307, 308, 401, 404, 500, 503] {
        web.reply("a.test", Reply::redirect(status, &format!("https://b.test:{}/", web.port())));
        let error = get(&web, "a.test").await.unwrap_err();
        assert!(matches!(error, HttpsError::Status(code) if code == status), "{error:?}");
    }
    assert_eq!(web.connections("b.test"), 0);
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_for_the_host_ends_it_before_the_request() {
    let web = HttpsServer::start().await;
    web.reply("a.test", Reply::text("hello"));
    for certificate in [Certificate::SelfSigned, Certificate::OtherName, Certificate::Expired] {
        web.certificate("a.test", certificate);
        let error = get(&web, "a.test").await.unwrap_err();
        assert!(error.is_certificate(), "{certificate:?}: {error:?}");
    }
    assert_eq!((web.requests("a.test"), web.connections("a.test")), (0, 3));
    web.certificate("a.test", Certificate::Valid);
    assert_eq!(get(&web, "a.test").await.unwrap().body, "hello");
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let web = HttpsServer::start().await;
    let ok = "HTTP/1.1 200 OK\r\n";
    let chunk = format!("{:x}\r\n{}\r\n", 40_000, "x".repeat(40_000));
    for (what, octets, length) in [
        ("at the limit", format!("{ok}Content-Length: 65536\r\n\r\n{}", "x".repeat(65_536)), Some(65_536)),
        ("beyond it", format!("{ok}Content-Length: 65537\r\n\r\n{}", "x".repeat(65_537)), None),
        ("in chunks", format!("{ok}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"), Some(40_000)),
        ("chunks beyond it", format!("{ok}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"), None),
        ("to the end of the connection", format!("{ok}\r\n{}", "x".repeat(100)), Some(100)),
        ("beyond it without a length", format!("{ok}\r\n{}", "x".repeat(70_000)), None),
    ] {
        web.reply("a.test", Reply::Octets(octets.into()));
        match (get(&web, "a.test").await, length) {
            (Ok(fetched), Some(length)) => assert_eq!(fetched.body.len(), length, "{what}"),
            (Err(HttpsError::TooLarge), None) => {}
            (other, _) => panic!("{what}: {:?}", other.map(|fetched| fetched.body.len())),
        }
    }
}

#[tokio::test]
async fn a_header_is_read_up_to_its_limit() {
    let web = HttpsServer::start().await;
    let fields = |count: usize, length: usize| {
        let field = |n| format!("X-{n}: {}\r\n", "x".repeat(length));
        let fields: String = (0..count).map(field).collect();
        Reply::Answer(200, fields, b"hello".to_vec())
    };
    web.reply("a.test", fields(40, 200));
    assert_eq!(get(&web, "a.test").await.unwrap().body, "hello");
    for (count, length) in [(100, 1), (1, 20_000), (60, 1_000)] {
        web.reply("a.test", fields(count, length));
        let error = get(&web, "a.test").await.unwrap_err();
        assert!(matches!(error, HttpsError::Http(_)), "{count} of {length}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_damaged_or_breaks_off_is_a_failure() {
    let web = HttpsServer::start().await;
    for octets in [
        &b""[..],
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
    ] {
        web.reply("a.test", Reply::Octets(octets.to_vec()));
        let error = get(&web, "a.test").await.unwrap_err();
        assert!(matches!(error, HttpsError::Http(_)), "{:?}: {error:?}", String::from_utf8_lossy(octets));
    }
}

#[tokio::test]
async fn the_whole_request_has_one_limit_of_time() {
    let web = HttpsServer::start().await;
    let mut limits = HttpsLimits::new();
    limits.time = Duration::from_millis(300);
    let client = client(&web).limits(limits);
    for reply in [
        Reply::Silence,
        Reply::Stall(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Reply::Stall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhell".to_vec()),
    ] {
        web.reply("a.test", reply.clone());
        let error = client.get(&url(&web, "a.test")).await.unwrap_err();
        assert!(matches!(error, HttpsError::TimedOut(limit) if limit == limits.time), "{reply:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_host_without_an_address_is_not_looked_for_elsewhere() {
    let web = HttpsServer::start().await;
    let error = get(&web, "nowhere.test").await.unwrap_err();
    assert!(matches!(error, HttpsError::Connect(ConnectError::NoAddress)), "{error:?}");
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = Url::parse(&format!("https://a.test:{closed}/")).unwrap();
    let error = client(&web).get(&url).await.unwrap_err();
    assert!(matches!(error, HttpsError::Connect(ConnectError::Refused)), "{error:?}");
}

#[tokio::test]
async fn without_roots_nobody_is_trusted() {
    let web = HttpsServer::start().await;
    let mut trust = TlsOptions::new();
    trust.without_native_roots = true;
    let client = HttpsClient::new(trust, Arc::new(Loopback), Arc::new(SystemClock)).unwrap();
    let error = client.get(&url(&web, "a.test")).await.unwrap_err();
    assert!(matches!(error, HttpsError::Tls(HandshakeError::NoRoots)), "{error:?}");
}
