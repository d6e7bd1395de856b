//! Logins over real TLS on loopback: our client against our server by every mechanism, and somebody in
//! between.
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::clock::SystemClock;
use postroad::hop::{Host, Require, TlsStart};
use postroad::net::connect::TcpConnect;
use postroad::net::tls::{ClientIdentity, ClientTls, ServerTls, TlsClass, TlsOptions};
use postroad::net::{ClientOptions, Connection, CredentialSource, Dialer, NoCredentials, OpenError, Quirks};
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, RunningServer, Server, ServerOptions, SessionInfo, Transaction,
    Verdict,
};
use postroad::smtp::address::EhloName;
use postroad::smtp::client::Failure;
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::{Credentials, Evidence, Login, Mechanism, ScramKeys};
use postroad::smtp::server::AuthOffer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Knows ada by password, token and certificate.
#[derive(Clone)]
struct Accounts(Arc<Mutex<Vec<String>>>, Arc<ScramKeys>);

impl Accounts {
    fn new() -> Self {
        Self(Arc::default(), Arc::new(ScramKeys::of("s3cret").unwrap()))
    }

    fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Handler for Accounts {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        Box::pin(async { Ok(Box::new(self.clone()) as Box<dyn Conversation>) })
    }
}

impl Conversation for Accounts {
    fn authenticate<'a>(
        &'a mut self,
        login: &'a Login,
        session: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        let right = match login.evidence() {
            Evidence::Password(password) => password == "s3cret",
            Evidence::Token(token) => token == "t0ken",
            Evidence::Certificate(shown) => session.tls.as_ref().unwrap().certificate.as_ref() == Some(shown),
            Evidence::Proven => true,
            _ => false,
        };
        let what = format!("{} {} {right}", login.mechanism().as_str(), login.user());
        self.0.lock().unwrap().push(what);
        Box::pin(async move {
            if right { Ok(()) } else { Err(Reply::new(535, EnhancedCode::new(5, 7, 8), "no")) }
        })
    }

    fn keys<'a>(
        &'a mut self,
        user: &'a str,
        _: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<Option<ScramKeys>, Reply>> {
        Box::pin(async move { Ok((user == "ada").then(|| (*self.1).clone())) })
    }

    fn message(&mut self, _: Transaction, _: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async { Reply::new(554, EnhancedCode::new(5, 7, 1), "not here").into() })
    }
}

/// An authority, a server's certificate for mx.test and a client's for ada.
struct Pki {
    root: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let root = params.self_signed(&key).unwrap().pem();
        Self { root, issuer: rcgen::Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self) -> ServerTls {
        let (chain, key) = self.issue("mx.test");
        let tls = ServerTls::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        tls.trust_clients(self.root.as_bytes()).unwrap()
    }

    fn client(&self, identity: Option<ClientIdentity>) -> ClientTls {
        let mut trust = TlsOptions::new().trust_pem(self.root.as_bytes()).unwrap();
        trust.without_native_roots = true;
        trust.identity = identity;
        ClientTls::new(trust, Arc::new(SystemClock)).unwrap()
    }

    fn identity(&self) -> ClientIdentity {
        let (chain, key) = self.issue("ada.test");
        ClientIdentity::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }
}

/// Offers everything; the second address begins with TLS.
async fn server(pki: &Pki, accounts: &Accounts) -> RunningServer {
    let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
    options.session.auth = AuthOffer::UnderTls;
    options.session.mechanisms = Mechanism::ALL.to_vec();
    options.auth_delay = Duration::ZERO;
    let server = Server::builder(accounts.clone(), options).tls(pki.server());
    server.listen("127.0.0.1:0").listen_tls("127.0.0.1:0").start().await.unwrap()
}

fn host(port: u16, start: TlsStart) -> Arc<Host> {
    let mut host = Host::new("mx.test".parse().unwrap(), port);
    host.tls_start = start;
    Arc::new(host.with_addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]))
}

fn dialer(tls: ClientTls, credentials: impl CredentialSource) -> Dialer {
    dialer_by(tls, credentials, &Mechanism::ALL)
}

fn dialer_by(tls: ClientTls, credentials: impl CredentialSource, mechanisms: &[Mechanism]) -> Dialer {
    let mut options = ClientOptions::new(EhloName::new("client.test").unwrap());
    options.credentials = Some(Arc::new(credentials));
    options.session.mechanisms = mechanisms.to_vec();
    Dialer::new(options, Arc::new(TcpConnect::new()), tls, Arc::new(SystemClock))
}

async fn open(dialer: &Dialer, host: &Arc<Host>) -> Result<Connection, OpenError> {
    dialer.open(host, postroad::smtp::Protocol::Smtp, Require::Verified, Quirks::default()).await
}

/// The code with which the login was refused.
fn refused(opened: Result<Connection, OpenError>) -> u16 {
    match opened {
        Err(OpenError::Session(Failure::Auth(Some(reply)))) => reply.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_mechanism_logs_in_over_tls_however_tls_began() {
    let (pki, accounts) = (Pki::new(), Accounts::new());
    let server = server(&pki, &accounts).await;
    let tls = pki.client(Some(pki.identity()));
    for (credentials, mechanism) in [
        (Credentials::new("ada", "s3cret"), Mechanism::ScramSha256Plus),
        (Credentials::new("ada", "s3cret"), Mechanism::ScramSha256),
        (Credentials::new("ada", "s3cret"), Mechanism::Plain),
        (Credentials::new("ada", "s3cret"), Mechanism::Login),
        (Credentials::token("ada", "t0ken"), Mechanism::OAuthBearer),
        (Credentials::token("ada", "t0ken"), Mechanism::XOAuth2),
        (Credentials::certificate("ada"), Mechanism::External),
    ] {
        for (address, start) in server.addresses().iter().zip([TlsStart::StartTls, TlsStart::Implicit]) {
            let dialer = dialer_by(tls.clone(), credentials.clone(), &[mechanism]);
            let connection = open(&dialer, &host(address.port(), start)).await.unwrap();
            assert!(connection.can_begin(), "{mechanism:?}");
            let last = accounts.log().pop().unwrap();
            assert_eq!(last, format!("{} ada true", mechanism.as_str()), "{start:?}");
        }
    }
    // Left to themselves, they take the strongest.
    let port = server.addresses()[1].port();
    open(&dialer(tls.clone(), Credentials::new("ada", "s3cret")), &host(port, TlsStart::Implicit))
        .await
        .unwrap();
    assert_eq!(accounts.log().pop().unwrap(), "SCRAM-SHA-256-PLUS ada true");
    // A certificate that names nobody is called by its fingerprint; without one there is no EXTERNAL.
    let nobody = dialer(tls, Credentials::certificate(""));
    open(&nobody, &host(port, TlsStart::Implicit)).await.unwrap();
    assert!(accounts.log().pop().unwrap().starts_with("EXTERNAL sha256:"));
    let bare = dialer(pki.client(None), Credentials::certificate("ada"));
    let opened = open(&bare, &host(port, TlsStart::Implicit)).await;
    assert!(matches!(opened, Err(OpenError::Session(Failure::Auth(None)))), "{opened:?}");
}

#[tokio::test]
async fn a_resumed_tls_session_binds_and_knows_its_certificate_too() {
    let (pki, accounts) = (Pki::new(), Accounts::new());
    let server = server(&pki, &accounts).await;
    let host = host(server.addresses()[1].port(), TlsStart::Implicit);
    let tls = pki.client(Some(pki.identity()));
    for (credentials, name) in [
        (Credentials::new("ada", "s3cret"), "SCRAM-SHA-256-PLUS"),
        (Credentials::certificate("ada"), "EXTERNAL"),
    ] {
        let dialer = dialer(tls.clone(), credentials);
        open(&dialer, &host).await.unwrap();
        let again = open(&dialer, &host).await.unwrap();
        assert!(again.seen().tls.as_ref().unwrap().resumed);
        assert_eq!(accounts.log().pop().unwrap(), format!("{name} ada true"));
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_every_mechanism() {
    let (pki, accounts) = (Pki::new(), Accounts::new());
    let server = server(&pki, &accounts).await;
    let host = host(server.addresses()[1].port(), TlsStart::Implicit);
    for (credentials, mechanism) in [
        (Credentials::new("ada", "guess"), Mechanism::ScramSha256Plus),
        (Credentials::new("eve", "s3cret"), Mechanism::ScramSha256),
        (Credentials::new("ada", "guess"), Mechanism::Plain),
        (Credentials::new("ada", "guess"), Mechanism::Login),
        (Credentials::token("ada", "guess"), Mechanism::OAuthBearer),
        (Credentials::token("ada", "guess"), Mechanism::XOAuth2),
    ] {
        let dialer = dialer_by(pki.client(None), credentials, &[mechanism]);
        assert_eq!(refused(open(&dialer, &host).await), 535, "{mechanism:?}");
    }
    // A certificate of another issuer gets no TLS.
    let stranger = pki.client(Some(Pki::new().identity()));
    let opened = open(&dialer(stranger, Credentials::certificate("ada")), &host).await;
    assert!(opened.is_err());
    assert!(!accounts.log().iter().any(|line| line.ends_with("true")), "{:?}", accounts.log());
}

/// Somebody with a valid certificate for the host, who passes everything on between two TLS sessions,
/// and takes `hide` out of what the server says. Serves one connection.
async fn between(pki: &Pki, to: u16, hide: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (front, back) = (pki.server(), pki.client(None));
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (client, _) = front.accept(stream).await.unwrap();
        let stream = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
        let to = host(to, TlsStart::Implicit);
        let (server, _) = back.handshake(stream, &to, TlsClass::Verifying).await.unwrap();
        let (mut from_client, mut to_client) = tokio::io::split(client);
        let (mut from_server, mut to_server) = tokio::io::split(server);
        let up = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        });
        let mut octets = [0; 4096];
        while let Ok(n @ 1..) = from_server.read(&mut octets).await {
            let said = String::from_utf8(octets[..n].to_vec()).unwrap().replace(hide, "");
            to_client.write_all(said.as_bytes()).await.unwrap();
            to_client.flush().await.unwrap();
        }
        up.abort();
    });
    port
}

#[tokio::test]
async fn who_is_between_two_tls_sessions_is_found_out() {
    let (pki, accounts) = (Pki::new(), Accounts::new());
    let server = server(&pki, &accounts).await;
    let to = server.addresses()[1].port();
    let ada = Credentials::new("ada", "s3cret");
    let all = dialer(pki.client(None), ada.clone());
    // The proof is for the session with whoever is in between, not for the server's.
    let port = between(&pki, to, "nothing at all").await;
    assert_eq!(refused(open(&all, &host(port, TlsStart::Implicit)).await), 535);
    // Hiding that binding is offered is a downgrade, which the server sees.
    let port = between(&pki, to, "SCRAM-SHA-256-PLUS ").await;
    assert_eq!(refused(open(&all, &host(port, TlsStart::Implicit)).await), 535);
    assert_eq!(accounts.log(), [""; 0], "nobody was even asked");
    // Without binding it works, to the harm of who uses it.
    let port = between(&pki, to, "nothing at all").await;
    let unbound = dialer_by(pki.client(None), ada, &[Mechanism::ScramSha256]);
    open(&unbound, &host(port, TlsStart::Implicit)).await.unwrap();
    assert_eq!(accounts.log(), ["SCRAM-SHA-256 ada true"]);
}

/// Tokens, of which the first is out of date.
#[derive(Debug, Default, Clone)]
struct Tokens(Arc<[AtomicUsize; 2]>);

impl CredentialSource for Tokens {
    fn credentials<'a>(
        &'a self,
        host: &'a Host,
    ) -> BoxFuture<'a, Result<Option<Credentials>, NoCredentials>> {
        Box::pin(async move {
            assert_eq!(host.name.as_str(), "mx.test");
            match self.0[0].fetch_add(1, SeqCst) {
                0 => Ok(Some(Credentials::token("ada", "expired"))),
                1 => Ok(Some(Credentials::token("ada", "t0ken"))),
                2 => Ok(None),
                3 => Err(NoCredentials::because("the issuer is away")),
                _ => std::future::pending().await,
            }
        })
    }

    fn refused(&self, _: &Host, credentials: &Credentials) {
        assert_eq!(credentials.user(), "ada");
        self.0[1].fetch_add(1, SeqCst);
    }
}

#[tokio::test]
async fn credentials_are_asked_for_anew_for_each_connection() {
    let (pki, accounts) = (Pki::new(), Accounts::new());
    let server = server(&pki, &accounts).await;
    let host = host(server.addresses()[0].port(), TlsStart::StartTls);
    let tokens = Tokens::default();
    let mut options = ClientOptions::new(EhloName::new("client.test").unwrap());
    options.credentials = Some(Arc::new(tokens.clone()));
    let dialer_of = |options: &ClientOptions| {
        Dialer::new(options.clone(), Arc::new(TcpConnect::new()), pki.client(None), Arc::new(SystemClock))
    };
    let dialer = dialer_of(&options);
    assert_eq!(refused(open(&dialer, &host).await), 535);
    assert_eq!(tokens.0[1].load(SeqCst), 1, "the source was told");
    open(&dialer, &host).await.unwrap();
    assert_eq!(accounts.log(), ["OAUTHBEARER ada false", "OAUTHBEARER ada true"]);
    open(&dialer, &host).await.unwrap();
    assert_eq!(accounts.log().len(), 2, "no login where there is nothing to log in with");
    let opened = open(&dialer, &host).await;
    assert!(matches!(opened, Err(OpenError::Credentials(_))), "{opened:?}");
    // From here on the source says nothing any more.
    options.session.timeouts.hello = Duration::from_millis(1);
    let opened = open(&dialer_of(&options), &host).await;
    assert!(matches!(opened, Err(OpenError::Credentials(_))), "{opened:?}");
}

#[tokio::test]
async fn a_login_that_is_only_put_off_says_nothing_against_the_credentials() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    for (reply, told) in [("454 4.7.0 try later", 0), ("421 4.3.2 closing", 0), ("535 5.7.8 no", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut io = BufReader::new(listener.accept().await.unwrap().0);
            let mut line = String::new();
            for say in ["220 mx.test", "250-mx.test\r\n250 AUTH OAUTHBEARER", reply] {
                io.write_all(format!("{say}\r\n").as_bytes()).await.unwrap();
                io.read_line(&mut line).await.unwrap();
            }
        });
        let tokens = Tokens::default();
        let mut options = ClientOptions::new(EhloName::new("client.test").unwrap());
        options.credentials = Some(Arc::new(tokens.clone()));
        options.session.auth_in_clear = true;
        let tls = Pki::new().client(None);
        let dialer = Dialer::new(options, Arc::new(TcpConnect::new()), tls, Arc::new(SystemClock));
        let host = host(port, TlsStart::StartTls);
        let opened =
            dialer.open(&host, postroad::smtp::Protocol::Smtp, Require::Cleartext, Quirks::default()).await;
        assert_eq!(refused(opened).to_string(), reply[..3]);
        assert_eq!(tokens.0[1].load(SeqCst), told, "{reply}");
    }
}

#[tokio::test]
async fn no_secret_shows_in_a_trace_or_in_debug() {
    let (pki, accounts) = (Pki::new(), Accounts::new());
    let server = server(&pki, &accounts).await;
    let host = host(server.addresses()[1].port(), TlsStart::Implicit);
    let tls = pki.client(Some(pki.identity()));
    for credentials in [
        Credentials::new("ada", "s3cret"),
        Credentials::token("ada", "t0ken"),
        Credentials::certificate("ada"),
    ] {
        for mechanism in Mechanism::ALL {
            let lines = Arc::new(Mutex::new(String::new()));
            let mut options = ClientOptions::new(EhloName::new("client.test").unwrap());
            options.credentials = Some(Arc::new(credentials.clone()));
            options.session.mechanisms = vec![mechanism];
            let sink = Arc::clone(&lines);
            options.trace = Some(Arc::new(move |line| {
                *sink.lock().unwrap() += &format!("{line}\n");
            }));
            let dialer =
                Dialer::new(options, Arc::new(TcpConnect::new()), tls.clone(), Arc::new(SystemClock));
            let opened = open(&dialer, &host).await;
            let shown = format!("{dialer:?} {opened:?} {}", lines.lock().unwrap());
            // What the client sent of itself: in clear, and each way that Base64 can fall on it.
            for secret in
                ["s3cret", "MzY3JldA", "czNjcmV0", "zM2NyZX", "t0ken", "dDBrZW", "QwZW4", "AwcnV", "YWRh,"]
            {
                assert!(!shown.contains(secret), "{secret} by {mechanism:?} in {shown}");
            }
            // Nor what one could guess passwords by.
            assert!(shown.matches("S: 334").count() == shown.matches("S: 334 ********").count(), "{shown}");
            assert!(!shown.contains("p=") && !shown.contains("c="), "{shown}");
            assert_eq!(opened.is_ok(), lines.lock().unwrap().contains("C: ********"), "{mechanism:?}");
        }
    }
}
