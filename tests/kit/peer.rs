//! A scripted peer: a server that says and hears exactly what a test tells it to, over TCP or in memory.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "every test file uses a part of the kit, and a test fails by panicking"
)]

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use postroad::BoxFuture;
use postroad::hop::Host;
use postroad::net::connect::{Connect, ConnectError, Io, Opened};
use postroad::net::tls::ServerTls;
use postroad::smtp::address::Domain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Script = Arc<dyn Fn(Talk) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A server that plays `script` on each connection.
#[derive(Clone)]
pub struct Peer {
    script: Script,
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    address: Option<SocketAddr>,
    /// Octets in flight each way, in memory.
    window: usize,
}

impl Peer {
    /// In memory: use it as the `Connect`.
    pub fn in_memory<F, Fut>(window: usize, script: F) -> Self
    where
        F: Fn(Talk) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Send> + Send + 'static,
    {
        let script: Script = Arc::new(move |talk| {
            let played = script(talk);
            Box::pin(async move { drop(played.await) })
        });
        Self { script, heard: Arc::default(), connections: Arc::default(), address: None, window }
    }

    /// On a port of loopback.
    pub async fn on_tcp<F, Fut>(script: F) -> Self
    where
        F: Fn(Talk) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Send> + Send + 'static,
    {
        Self::listening(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    /// On a listener that is there.
    pub fn listening<F, Fut>(listener: TcpListener, script: F) -> Self
    where
        F: Fn(Talk) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Send> + Send + 'static,
    {
        let mut peer = Self::in_memory(0, script);
        peer.address = Some(listener.local_addr().unwrap());
        let server = peer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                server.play(Box::new(stream));
            }
        });
        peer
    }

    /// On a port of loopback: it takes everything, and offers STARTTLS.
    pub async fn with_tls(tls: ServerTls) -> Self {
        Self::on_tcp(move |mut talk: Talk| {
            let tls = tls.clone();
            async move {
                let _ = talk.take_with_tls(&tls).await;
            }
        })
        .await
    }

    fn play(&self, io: Box<dyn Io>) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let talk = Talk { io: Some(io), input: Vec::new(), heard: Arc::clone(&self.heard), number };
        tokio::spawn((self.script)(talk));
    }

    /// The peer as a host of this name.
    pub fn host(&self, name: &str) -> Host {
        let address = self.address.unwrap_or_else(|| ([127, 0, 0, 1], 25).into());
        Host::new(Domain::parse(name).unwrap(), address.port()).with_addresses(vec![address.ip()])
    }

    /// Every line it was sent, on all connections.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// How many of the lines begin like this.
    pub fn count(&self, beginning: &str) -> usize {
        self.heard().iter().filter(|line| line.starts_with(beginning)).count()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

impl Connect for Peer {
    fn connect<'a>(&'a self, _host: &'a Host) -> BoxFuture<'a, Result<Opened, ConnectError>> {
        let (near, far) = tokio::io::duplex(self.window);
        self.play(Box::new(far));
        Box::pin(async move { Ok(Opened::new(near)) })
    }
}

/// One connection of a peer.
pub struct Talk {
    io: Option<Box<dyn Io>>,
    input: Vec<u8>,
    heard: Arc<Mutex<Vec<String>>>,
    /// Which connection of the peer this is, from 1.
    pub number: usize,
}

impl Talk {
    fn io(&mut self) -> &mut Box<dyn Io> {
        self.io.as_mut().unwrap()
    }

    /// Sends lines, in one write.
    pub async fn say(&mut self, lines: &str) {
        let text = format!("{}\r\n", lines.replace('\n', "\r\n"));
        self.raw(text.as_bytes()).await;
    }

    /// Sends octets. A client that has gone does not matter.
    pub async fn raw(&mut self, octets: &[u8]) {
        let _ = self.io().write_all(octets).await;
        let _ = self.io().flush().await;
    }

    /// The next line; `None` when the client has gone.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.input.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                self.heard.lock().unwrap().push(line.clone());
                return Some(line);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.io().read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                true
            }
        }
    }

    /// Reads lines until one begins like this; `None` when the client has gone before.
    pub async fn until(&mut self, beginning: &str) -> Option<String> {
        loop {
            let line = self.line().await?;
            if line.starts_with(beginning) {
                return Some(line);
            }
        }
    }

    /// Whether the client has sent more than was read.
    pub async fn has_more(&mut self) -> bool {
        if self.input.is_empty() {
            let mut buffer = [0; 4096];
            let read = std::future::poll_fn(|cx| {
                let read = std::pin::pin!(self.io.as_mut().unwrap().read(&mut buffer)).poll(cx);
                std::task::Poll::Ready(match read {
                    std::task::Poll::Ready(Ok(n)) => n,
                    _ => 0,
                })
            });
            let read = read.await;
            self.input.extend_from_slice(&buffer[..read]);
        }
        !self.input.is_empty()
    }

    /// Reads so many octets of content.
    pub async fn octets(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.input.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.input.drain(..count).collect())
    }

    /// Goes on under TLS; `false` when the handshake fails.
    pub async fn secure(&mut self, tls: &ServerTls) -> bool {
        self.input.clear();
        match tls.accept(self.io.take().unwrap()).await {
            Ok((stream, _)) => {
                self.io = Some(Box::new(stream));
                true
            }
            Err(_) => false,
        }
    }

    /// Greeting and EHLO, with these extensions.
    pub async fn open(&mut self, extensions: &str) -> Option<()> {
        self.say("220 mx.test ESMTP").await;
        self.until("EHLO").await?;
        self.extensions(extensions).await;
        Some(())
    }

    pub async fn extensions(&mut self, extensions: &str) {
        let mut lines: Vec<_> = std::iter::once("mx.test").chain(extensions.split_whitespace()).collect();
        let last = lines.pop().unwrap();
        let mut text: String = lines.iter().map(|line| format!("250-{line}\n")).collect();
        text.push_str(&format!("250 {last}"));
        self.say(&text).await;
    }

    /// Plays a server that takes everything, but recipients that begin with `no`; ends when the client
    /// goes, or after `messages`.
    pub async fn take(&mut self, messages: usize) -> Option<()> {
        let mut taken = 0;
        while taken < messages {
            let line = self.line().await?;
            let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "RCPT" if line.starts_with("RCPT TO:<no") => self.say("550 5.1.1 no such user").await,
                "DATA" => {
                    self.say("354 go on").await;
                    self.until(".").await?;
                    while self.heard.lock().unwrap().last().unwrap() != "." {
                        self.until(".").await?;
                    }
                    taken += 1;
                    self.say("250 2.0.0 taken").await;
                }
                "BDAT" => {
                    let size = line.split_whitespace().nth(1).unwrap().parse().unwrap();
                    self.octets(size).await?;
                    taken += 1;
                    self.say("250 2.0.0 taken").await;
                }
                "QUIT" => {
                    self.say("221 bye").await;
                    return None;
                }
                _ => self.say("250 ok").await,
            }
        }
        Some(())
    }

    /// Plays a server with STARTTLS that takes everything.
    pub async fn take_with_tls(&mut self, tls: &ServerTls) -> Option<()> {
        self.open("STARTTLS PIPELINING").await?;
        let line = self.line().await?;
        if line == "STARTTLS" {
            self.say("220 go").await;
            if !self.secure(tls).await {
                return None;
            }
            self.until("EHLO").await?;
            self.extensions("PIPELINING").await;
        } else {
            self.say("250 ok").await;
        }
        self.take(usize::MAX).await
    }

    /// Reads nothing and says nothing until the client goes.
    pub async fn freeze(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// An authority that issues certificates, in PEM.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// A server's certificate for `name`, valid until the last day of `year` begins.
    pub fn issue(&self, name: &str, year: i32) -> ServerTls {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        ServerTls::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }
}

/// A certificate that nobody vouches for.
pub fn self_signed(name: &str) -> ServerTls {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    ServerTls::from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap()
}
