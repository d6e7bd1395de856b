//! The far end: a server of ours that keeps what comes, and the letters that are sent to it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use postroad::BoxFuture;
use postroad::net::tls::ServerTls;
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, RunningServer, Server, ServerOptions, SessionInfo, Transaction,
    Verdict,
};
use postroad::smtp::address::EhloName;
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::sasl::{Evidence, Login, Mechanism, ScramKeys};
use postroad::smtp::server::AuthOffer;
use tempfile::TempDir;

/// The one user of every server here.
pub const USER: &str = "ada";
/// With a space, because that is where programs quote wrongly.
pub const PASSWORD: &str = "open sesame";

/// A certificate for `localhost` and the authority that issued it, as files.
pub struct Papers {
    dir: TempDir,
    tls: ServerTls,
}

impl Papers {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.path().join("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        let tls = ServerTls::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        Self { dir, tls }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The server's certificate and its key.
    pub fn pair(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("cert.pem"), self.dir.path().join("key.pem"))
    }
}

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    pub mail: Mail,
    pub to: Vec<String>,
    pub octets: Bytes,
    /// Mechanism and user.
    pub login: Option<(String, String)>,
    pub tls: bool,
}

/// Keeps every message, in order. Refuses recipients that begin with `no`.
#[derive(Default)]
struct Book(Mutex<Vec<Arrived>>);

/// A server that keeps what comes.
pub struct Far {
    server: RunningServer,
    book: Arc<Book>,
}

impl Far {
    /// A server with STARTTLS, implicit TLS and AUTH, on which nothing goes without a login.
    pub async fn submission(papers: &Papers) -> Self {
        let mut options = options();
        (options.session.auth, options.session.require_auth) = (AuthOffer::UnderTls, true);
        options.session.mechanisms = Mechanism::STORED_KEYS.to_vec();
        options.auth_delay = Duration::ZERO;
        Self::start(options, Some(papers)).await
    }

    /// A server that other servers deliver to, in clear.
    pub async fn exchange() -> Self {
        Self::start(options(), None).await
    }

    async fn start(options: ServerOptions, papers: Option<&Papers>) -> Self {
        let book = Arc::new(Book::default());
        let mut server = Server::builder(Taker(Arc::clone(&book)), options).listen("127.0.0.1:0");
        if let Some(papers) = papers {
            server = server.tls(papers.tls.clone()).listen_tls("127.0.0.1:0");
        }
        Self { server: server.start().await.unwrap(), book }
    }

    /// Where it listens in clear, or for STARTTLS.
    pub fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    /// Where it listens for TLS from the first octet.
    pub fn implicit(&self) -> SocketAddr {
        self.server.addresses()[1]
    }

    /// What came since this was asked last.
    pub fn take(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.book.0.lock().unwrap())
    }

    /// How many came since they were taken last.
    pub fn count(&self) -> usize {
        self.book.0.lock().unwrap().len()
    }
}

/// The size limit is the default one: 25 MB must fit.
fn options() -> ServerOptions {
    ServerOptions::new(EhloName::new("far.test").unwrap())
}

struct Taker(Arc<Book>);

struct Session {
    book: Arc<Book>,
    mechanism: Option<String>,
}

impl Handler for Taker {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let session = Session { book: Arc::clone(&self.0), mechanism: None };
        Box::pin(async { Ok(Box::new(session) as Box<dyn Conversation>) })
    }
}

impl Conversation for Session {
    fn authenticate<'a>(
        &'a mut self,
        login: &'a Login,
        _: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<(), Reply>> {
        self.mechanism = Some(login.mechanism().as_str().to_owned());
        let right = match login.evidence() {
            Evidence::Proven => login.user() == USER,
            _ => login.user() == USER && login.password() == Some(PASSWORD),
        };
        let refused = || Reply::new(535, EnhancedCode::new(5, 7, 8), "wrong name or password");
        Box::pin(async move { right.then_some(()).ok_or_else(refused) })
    }

    fn keys<'a>(
        &'a mut self,
        user: &'a str,
        _: &'a SessionInfo,
    ) -> BoxFuture<'a, Result<Option<ScramKeys>, Reply>> {
        let keys = (user == USER).then(|| ScramKeys::of(PASSWORD).unwrap());
        Box::pin(async { Ok(keys) })
    }

    fn recipient<'a>(&'a mut self, rcpt: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        let taken = !rcpt.to.to_string().starts_with("<no");
        let refused = || Reply::new(550, EnhancedCode::new(5, 1, 1), "no such user");
        Box::pin(async move { taken.then_some(()).ok_or_else(refused) })
    }

    fn message(&mut self, transaction: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let Ok(octets) = body.collect(1 << 26).await else {
                return Reply::new(554, EnhancedCode::new(5, 6, 0), "not taken").into();
            };
            let session = &transaction.session;
            let login = session.user.as_deref().zip(self.mechanism.as_deref());
            self.book.0.lock().unwrap().push(Arrived {
                to: transaction.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect(),
                octets,
                login: login.map(|(user, mechanism)| (mechanism.to_owned(), user.to_owned())),
                tls: session.tls.is_some(),
                mail: transaction.mail,
            });
            Reply::new(250, EnhancedCode::new(2, 0, 0), "kept").into()
        })
    }
}

/// What a letter asks of the programs that carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Dots where they hurt, lines of every length, empty lines at the end.
    Dots,
    /// Text in UTF-8 and in Latin-1.
    EightBit,
    /// Addresses and header fields in UTF-8.
    Utf8,
    /// 25 MB.
    Large,
}

/// A message that is sent, line ends CRLF.
#[derive(Debug, Clone)]
pub struct Letter {
    pub kind: Kind,
    pub from: String,
    pub to: String,
    pub octets: Bytes,
}

impl Letter {
    pub fn new(kind: Kind) -> Self {
        let (from, to) = match kind {
            Kind::Utf8 => ("grün@a.test", "用户@b.test"),
            _ => ("sender@a.test", "recipient@b.test"),
        };
        // Complete, so that no program adds what it finds missing.
        let mut octets = format!(
            "Date: Mon, 2 Nov 2026 10:00:00 +0000\r\nFrom: <{from}>\r\nTo: <{to}>\r\n\
             Message-ID: <{kind:?}@a.test>\r\nSubject: {kind:?}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        );
        match kind {
            Kind::Dots => {
                octets.push_str(".\r\n..\r\n...\r\n.x\r\nx.\r\n\r\n.\r\nFrom the start\r\n \r\n\t\r\n");
                for length in (0..100).chain(990..=MAX_LINE) {
                    octets.push_str(&"x".repeat(length));
                    octets.push_str("\r\n");
                    octets.push_str(&".".repeat(length));
                    octets.push_str("\r\n");
                }
                octets.push_str(".\r\n\r\n\r\n");
            }
            Kind::EightBit => octets.push_str("Grüße aus Köln, ひらがな, 🐎\r\n.ü\r\nü.\r\n"),
            Kind::Utf8 => octets.push_str("Only the header is not ASCII.\r\n"),
            Kind::Large => {
                let mut line = 0_u32;
                while octets.len() < LARGE - 100 {
                    // Every seventh begins with a dot.
                    let dot = if line.is_multiple_of(7) { "." } else { "" };
                    let _ = write!(octets, "{dot}{line:08} {}\r\n", "0123456789abcdef".repeat(4));
                    line += 1;
                }
            }
        }
        let mut octets = octets.into_bytes();
        if kind == Kind::EightBit {
            octets.extend(0x80..=0xff_u8);
            octets.extend(b"\r\n");
        }
        Self { kind, from: from.to_owned(), to: to.to_owned(), octets: octets.into() }
    }
}

/// RFC 5321 §4.5.3.1.6: 1,000 octets with CRLF, which is where other programs cut.
const MAX_LINE: usize = 998;
/// Just below our default limit of 25 MiB.
const LARGE: usize = 25_000_000;

/// Fails where two messages differ first, and does not print 25 MB.
pub fn assert_same(got: &[u8], sent: &[u8], what: &str) {
    if got == sent {
        return;
    }
    let at = got.iter().zip(sent).take_while(|(a, b)| a == b).count();
    let show = |octets: &[u8]| {
        let from = at.saturating_sub(60).min(octets.len());
        octets[from..(at + 60).min(octets.len())].escape_ascii().to_string()
    };
    panic!(
        "{what}: {} octets arrived, {} were sent, the first difference is at {at}:\n  arrived {}\n  sent    {}",
        got.len(),
        sent.len(),
        show(got),
        show(sent)
    );
}
