//! A web server for tests: real HTTPS on loopback for any name, whose answers and certificates are scripted.
//!
//! ```ignore
//! let web = HttpsServer::start().await;
//! web.policy("a.test", "version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n");
//! web.certificate("mta-sts.b.test", Certificate::SelfSigned);
//! let trust = web.trust(TlsOptions::new());      // of the server's own authority, and no other
//! let port = web.port();                         // instead of 443; every name is at 127.0.0.1
//! assert_eq!(web.requests("mta-sts.a.test"), 1);
//! ```
//! A name without an answer answers 404. Certificates are valid for their name unless a test says otherwise.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "every test file uses a part of the kit, and a test fails by panicking"
)]

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use postroad::net::tls::TlsOptions;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What a name answers to each request, whatever is asked.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status, header fields (each ends with CRLF) and a body; the length is added.
    Answer(u16, String, Vec<u8>),
    /// These octets and the end of the connection.
    Octets(Vec<u8>),
    /// Nothing, for as long as the client waits.
    Silence,
    /// These octets, and then nothing for as long as the client waits.
    Stall(Vec<u8>),
}

impl Reply {
    /// 200 and plain text.
    pub fn text(body: &str) -> Self {
        Self::Answer(200, "Content-Type: text/plain\r\n".into(), body.into())
    }

    /// A status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), Vec::new())
    }

    /// A redirect to there.
    pub fn redirect(status: u16, to: &str) -> Self {
        Self::Answer(status, format!("Location: {to}\r\n"), Vec::new())
    }
}

/// What a name shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// One that is valid for it.
    Valid,
    /// One that nobody vouches for.
    SelfSigned,
    /// One for another name.
    OtherName,
    /// One that is no longer valid.
    Expired,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The `Host` field.
    pub host: String,
    /// The first line: method, path and version.
    pub line: String,
    /// The header fields, names in lower case.
    pub fields: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// The server; it stops when dropped. Clones are the same server.
#[derive(Clone)]
pub struct HttpsServer {
    shared: Arc<Shared>,
    port: u16,
    _running: Arc<Running>,
}

struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    replies: HashMap<String, Reply>,
    certificates: HashMap<String, Certificate>,
    made: HashMap<String, (Certificate, Arc<CertifiedKey>)>,
    asked: Vec<Asked>,
    connections: HashMap<String, usize>,
}

impl HttpsServer {
    /// Starts a server with an authority of its own.
    pub async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test web authority");
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let shared = Arc::new(Shared { issuer, pem, state: Mutex::default() });
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByName(Arc::clone(&shared))));
        // A session that is resumed shows no certificate.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&shared);
        let running = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
                    shared.serve(stream, &name).await;
                });
            }
        });
        Self { shared, port, _running: Arc::new(Running(running)) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where every name is.
    pub fn ip(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }

    /// The certificate of the authority.
    pub fn pem(&self) -> &str {
        &self.shared.pem
    }

    /// `options` that trust this server's authority besides, and not the system's.
    pub fn trust(&self, mut options: TlsOptions) -> TlsOptions {
        options.without_native_roots = true;
        options.trust_pem(self.pem().as_bytes()).unwrap()
    }

    /// What this name answers from now on.
    pub fn reply(&self, host: &str, reply: Reply) {
        self.state(|state| state.replies.insert(host.into(), reply));
    }

    /// The policy that the policy host of this domain gives from now on.
    pub fn policy(&self, domain: &str, text: &str) {
        self.reply(&format!("mta-sts.{domain}"), Reply::text(text));
    }

    /// What this name shows from now on.
    pub fn certificate(&self, host: &str, certificate: Certificate) {
        self.state(|state| state.certificates.insert(host.into(), certificate));
    }

    /// How many requests came for this name.
    pub fn requests(&self, host: &str) -> usize {
        self.state(|state| state.asked.iter().filter(|asked| asked.host == host).count())
    }

    /// How many connections asked for this name, also those whose handshake failed.
    pub fn connections(&self, host: &str) -> usize {
        self.state(|state| state.connections.get(host).copied().unwrap_or_default())
    }

    /// All requests, in the order in which they came.
    pub fn asked(&self) -> Vec<Asked> {
        self.state(|state| state.asked.clone())
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.shared.state.lock().unwrap())
    }
}

impl fmt::Debug for HttpsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsServer").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Shared {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, name: &str) {
        let Some(mut asked) = ask(&mut stream).await else { return };
        // The port is of no interest to those who count.
        asked.host = asked.host.split(':').next().unwrap().to_owned();
        let reply = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(asked);
            state.replies.get(name).cloned().unwrap_or_else(|| Reply::status(404))
        };
        let (octets, stay) = match reply {
            Reply::Answer(status, fields, body) => {
                let head = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
                ([head.as_bytes(), &body].concat(), false)
            }
            Reply::Octets(octets) => (octets, false),
            Reply::Silence => (Vec::new(), true),
            Reply::Stall(octets) => (octets, true),
        };
        // A client that has seen enough is gone.
        let _ = stream.write_all(&octets).await;
        let _ = stream.flush().await;
        if stay {
            let _ = stream.read_u8().await;
        }
        let _ = stream.shutdown().await;
    }

    fn make(&self, name: &str, kind: Certificate) -> Arc<CertifiedKey> {
        let shown = if kind == Certificate::OtherName { "elsewhere.test" } else { name };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![shown.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(if kind == Certificate::Expired { 2001 } else { 2090 }, 1, 1);
        let made = match kind {
            Certificate::SelfSigned => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.issuer).unwrap(),
        };
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Arc::new(CertifiedKey::from_der(vec![made.der().clone()], key, &default_provider()).unwrap())
    }
}

/// Shows each name its own certificate.
struct ByName(Arc<Shared>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        let mut state = self.0.state.lock().unwrap();
        *state.connections.entry(name.to_owned()).or_default() += 1;
        let kind = state.certificates.get(name).copied().unwrap_or(Certificate::Valid);
        if let Some((made, key)) = state.made.get(name)
            && *made == kind
        {
            return Some(Arc::clone(key));
        }
        let key = self.0.make(name, kind);
        state.made.insert(name.to_owned(), (kind, Arc::clone(&key)));
        Some(key)
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByName")
    }
}

/// Reads one request.
async fn ask(stream: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut octets = Vec::new();
    let head = loop {
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut octets).await.ok()? == 0 {
            return None;
        }
    };
    let text = std::str::from_utf8(&octets[..head]).unwrap().to_owned();
    let mut lines = text.lines();
    let line = lines.next().unwrap().to_owned();
    let fields: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = fields.get("content-length").map_or(0, |length| length.parse().unwrap());
    while octets.len() < head + length {
        if stream.read_buf(&mut octets).await.ok()? == 0 {
            return None;
        }
    }
    let host = fields.get("host").cloned().unwrap_or_default();
    Some(Asked { host, line, fields, body: octets[head..head + length].to_vec() })
}
