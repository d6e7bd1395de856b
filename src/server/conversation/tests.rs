use super::*;
use crate::BoxFuture;
use crate::server::handler::{Handler, Peer, Transaction, Verdict};
use crate::server::limits::Limits;
use crate::server::{BodyStream, Server, ServerOptions};
use crate::smtp::address::EhloName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

struct Anybody;
struct One;

impl Handler for Anybody {
    fn connect<'a>(&'a self, _: &'a Peer) -> BoxFuture<'a, Result<Box<dyn Conversation>, Reply>> {
        Box::pin(async { Ok(Box::new(One) as Box<dyn Conversation>) })
    }
}

impl Conversation for One {
    fn message(&mut self, _: Transaction, _: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async { Reply::plain(250, "ok").into() })
    }
}

/// A session from this network on a pipe, counted among those of `setup`.
async fn client(setup: &Arc<Setup>, ip: &str) -> DuplexStream {
    let (mut ours, theirs) = duplex(4096);
    let place = setup.limits.enter(ip.parse().unwrap(), SystemClock.mono()).unwrap();
    let peer =
        Peer { address: format!("{ip}:4000").parse().unwrap(), local: "198.51.100.1:25".parse().unwrap() };
    let (setup, (alive, stop)) = (Arc::clone(setup), watch::channel(false));
    tokio::spawn(async move {
        serve(Box::new(theirs), SessionInfo::new(peer), Start::Plain, &setup, stop, Some(place)).await;
        drop(alive);
    });
    assert!(said(&mut ours).await.starts_with("220"));
    ours
}

async fn said(io: &mut DuplexStream) -> String {
    let mut octets = [0; 1024];
    let count = io.read(&mut octets).await.unwrap();
    String::from_utf8(octets[..count].to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn when_places_run_out_those_who_wait_are_hurried_and_exempt_ones_are_not() {
    let mut options = ServerOptions::new(EhloName::new("mx.test").unwrap());
    (options.max_connections, options.max_per_network) = (10, 10);
    options.exempt = vec!["203.0.113.0/24".parse().unwrap()];
    let setup = Server::builder(Anybody, options).into_setup();
    let mut friend = client(&setup, "203.0.113.1").await;
    let mut idle = client(&setup, "192.0.2.1").await;
    let wait = |secs| tokio::time::sleep(Duration::from_secs(secs));
    wait(100).await;
    let limits: &Arc<Limits> = &setup.limits;
    let crowd: Vec<_> =
        (0..6).map(|_| limits.enter("192.0.2.2".parse().unwrap(), SystemClock.mono()).unwrap()).collect();
    let start = SystemClock.mono();
    assert!(said(&mut idle).await.starts_with("421 4.4.2"));
    assert!((SystemClock.mono() - start) <= HURRIED, "found out in time");
    friend.write_all(b"NOOP\r\n").await.unwrap();
    assert!(said(&mut friend).await.starts_with("250"));
    drop((crowd, idle));
    // With room again there is no hurry.
    let mut next = client(&setup, "192.0.2.1").await;
    wait(290).await;
    next.write_all(b"NOOP\r\n").await.unwrap();
    assert!(said(&mut next).await.starts_with("250"));
}
