//! A server of ours that notes who brought it each message, and a SOCKS5 proxy that is real as far as it goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use postroad::BoxFuture;
use postroad::hop::Host;
use postroad::server::{
    BodyStream, Conversation, Handler, Peer, RunningServer, Server, ServerOptions, SessionInfo, Transaction,
    Verdict,
};
use postroad::smtp::address::{Domain, EhloName};
use postroad::smtp::params::Rcpt;
use postroad::smtp::reply::{EnhancedCode, Reply};

/// What a message was brought by: the client, the address it came to, its EHLO name, and the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub from: SocketAddr,
    pub at: IpAddr,
    pub hello: String,
    pub sender: String,
}

/// A server that takes everything. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Witness {
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// A witness at work.
pub struct Open {
    pub witness: Witness,
    pub address: SocketAddr,
    _server: RunningServer,
}

impl Witness {
    pub async fn listen(at: &[&str], change: impl FnOnce(&mut ServerOptions)) -> Open {
        let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
        change(&mut options);
        let witness = Self::default();
        let server = Server::builder(witness.clone(), options);
        let server = at.iter().fold(server, |server, address| server.listen(*address)).start().await.unwrap();
        let address = server.addresses()[0];
        Open { witness, address, _server: server }
    }

    pub async fn plain() -> Open {
        Self::listen(&["127.0.0.1:0"], |_| {}).await
    }

    /// All that was seen so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Open {
    /// It as a host of this name.
    pub fn host(&self, name: &str) -> Host {
        Host::new(Domain::parse(name).unwrap(), self.address.port()).with_addresses(vec![self.address.ip()])
    }
}

impl Handler for Witness {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        let witness = self.clone();
        Box::pin(async { Ok(Box::new(witness) as Box<dyn Conversation>) })
    }
}

impl Conversation for Witness {
    fn recipient<'a>(&'a mut self, _: &'a Rcpt, _: &'a SessionInfo) -> BoxFuture<'a, Result<(), Reply>> {
        Box::pin(async { Ok(()) })
    }

    fn message(&mut self, transaction: Transaction, mut body: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async move {
            let _ = body.collect(1_000_000).await;
            let session = &transaction.session;
            self.seen.lock().unwrap().push(Seen {
                from: session.peer.address,
                at: session.peer.local.ip(),
                hello: session.hello.as_deref().unwrap_or_default().into(),
                sender: transaction.mail.from.to_string(),
            });
            Reply::new(250, EnhancedCode::new(2, 0, 0), "taken").into()
        })
    }
}

/// A SOCKS5 proxy that lets `ada` with the password `secret` in, connects from 127.0.0.21, and knows the
/// name `hidden.test`.
pub struct Proxy {
    pub address: SocketAddr,
    /// What it was asked for.
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub async fn start(hidden: IpAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&proxy.asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, hidden, Arc::clone(&asked)));
            }
        });
        proxy
    }
}

async fn serve(mut client: TcpStream, hidden: IpAddr, asked: Arc<Mutex<Vec<String>>>) -> Option<()> {
    // Methods: one of them is the password.
    let mut methods = vec![0; read::<2>(&mut client).await?[1].into()];
    client.read_exact(&mut methods).await.ok()?;
    assert!(methods.contains(&2));
    client.write_all(&[5, 2]).await.ok()?;
    let user = text(&mut client, 1).await?;
    let password = text(&mut client, 0).await?;
    let known = (user.as_str(), password.as_str()) == ("ada", "secret");
    client.write_all(&[1, u8::from(!known)]).await.ok()?;
    if !known {
        return None;
    }
    // CONNECT to an address or to a name.
    let ip: IpAddr = match read::<4>(&mut client).await? {
        [5, 1, 0, 1] => read::<4>(&mut client).await?.into(),
        [5, 1, 0, 4] => read::<16>(&mut client).await?.into(),
        [5, 1, 0, 3] => {
            let name = text(&mut client, 0).await?;
            asked.lock().unwrap().push(name.clone());
            assert_eq!(name, "hidden.test");
            hidden
        }
        other => panic!("{other:?}"),
    };
    let to = SocketAddr::new(ip, u16::from_be_bytes(read::<2>(&mut client).await?));
    asked.lock().unwrap().push(to.ip().to_string());
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.21:0".parse().unwrap()).unwrap();
    let Ok(mut host) = socket.connect(to).await else {
        client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
        return None;
    };
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 21, 0, 0]).await.ok()?;
    copy_bidirectional(&mut client, &mut host).await.ok()?;
    Some(())
}

async fn read<const N: usize>(client: &mut TcpStream) -> Option<[u8; N]> {
    let mut octets = [0; N];
    client.read_exact(&mut octets).await.ok()?;
    Some(octets)
}

/// A text behind its length, and that behind some octets.
async fn text(client: &mut TcpStream, skip: usize) -> Option<String> {
    for _ in 0..skip {
        read::<1>(client).await?;
    }
    let mut text = vec![0; read::<1>(client).await?[0].into()];
    client.read_exact(&mut text).await.ok()?;
    String::from_utf8(text).ok()
}
