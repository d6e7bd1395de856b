//! Nodes on one queue, one of which cannot keep its leases.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Cause, Deliver, LocalFault, LocalItem, Outcome};
use postroad::clock::{Rng, SteppedClock, Timestamp};
use postroad::delivery::{Engine, EngineBuilder, EngineOptions};
use postroad::hop::{Host, Require};
use postroad::message::{Content, MessageId};
use postroad::route::{Hosts, LocalId, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::spool::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Logged, MemorySpool, NewMessage, QueueName, QueueSummary, Results, Selection, Settlement, Spool,
    SpoolError, Stats, Token,
};
use tokio::time::sleep;

use crate::peer::Peer;

/// Short of the three minutes that a client waits for a peer that reads nothing.
pub const LEASE: Duration = Duration::from_secs(60);

/// An engine to be.
pub struct Node(EngineBuilder);

impl Node {
    pub fn new(peer: &Peer, spool: impl Spool) -> Self {
        let mut options = EngineOptions::new();
        options.lease = LEASE;
        options.sweep = Duration::from_secs(2);
        let builder = Engine::builder(spool, EhloName::new("us.test").unwrap())
            .direct(All(peer.host("mx.test")))
            .connect(Arc::new(peer.clone()))
            .clock(Arc::new(SteppedClock::starting_at(Timestamp::from_millis(1_790_000_000_000))))
            .rng(Rng::seeded(7))
            .options(options);
        Self(builder)
    }

    pub fn store(self, store: Arc<dyn Deliver>) -> Self {
        Self(self.0.local(LocalId::new("here"), store))
    }

    pub async fn start(self) -> Engine {
        self.0.start().await.unwrap()
    }
}

pub async fn node(peer: &Peer, spool: impl Spool) -> Engine {
    Node::new(peer, spool).start().await
}

/// Everything goes to one host, but what is for here.
#[derive(Debug)]
struct All(Host);

impl Resolve for All {
    fn route<'a>(&'a self, destination: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        let route = match destination.as_str() {
            "here.test" => Route::Local(LocalId::new("here")),
            _ => Route::Hosts(Hosts::new(vec![self.0.clone()], Require::Opportunistic)),
        };
        Box::pin(std::future::ready(Ok(route)))
    }
}

/// What a store has kept.
pub type Stored = Arc<Mutex<Vec<MessageId>>>;

/// A store that takes long over the first message that it is given.
pub fn slow_store(wait: Duration) -> (Arc<dyn Deliver>, Stored) {
    let stored = Stored::default();
    (Arc::new(Slow { wait, first: AtomicBool::new(true), stored: Arc::clone(&stored) }), stored)
}

#[derive(Debug)]
struct Slow {
    wait: Duration,
    first: AtomicBool,
    stored: Stored,
}

impl Deliver for Slow {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            if self.first.swap(false, Ordering::SeqCst) {
                sleep(self.wait).await;
            }
            if !item.is_ours() {
                return vec![Outcome::Deferred(Cause::Local(LocalFault::Storage))];
            }
            self.stored.lock().unwrap().push(item.id);
            vec![Outcome::Delivered(Accepted::locally())]
        })
    }
}

/// The queue as a node sees it that can claim nothing and extend no leases, or is answered late.
#[derive(Debug, Clone)]
pub struct Stubborn {
    inner: MemorySpool,
    refuses: Arc<AtomicBool>,
    late: Duration,
}

impl Stubborn {
    pub fn over(inner: MemorySpool) -> Self {
        Self { inner, refuses: Arc::new(AtomicBool::new(true)), late: Duration::ZERO }
    }

    /// It does extend them when first asked, and the answer takes so long.
    pub fn answering_once(inner: MemorySpool, late: Duration) -> Self {
        Self { inner, refuses: Arc::default(), late }
    }

    pub fn relent(&self) {
        self.refuses.store(false, Ordering::SeqCst);
    }
}

fn refused() -> SpoolError {
    SpoolError::Storage(std::io::Error::other("as the test has it"))
}

impl Spool for Stubborn {
    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(async move {
            if self.refuses.load(Ordering::SeqCst) {
                return Err(refused());
            }
            let lost = self.inner.extend(tokens, lease).await;
            if !self.late.is_zero() {
                self.refuses.store(true, Ordering::SeqCst);
                sleep(self.late).await;
            }
            lost
        })
    }
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        self.inner.stage()
    }
    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        self.inner.enqueue(batch, lease)
    }
    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        if self.refuses.load(Ordering::SeqCst) {
            return Box::pin(async { Err(refused()) });
        }
        self.inner.claim(request)
    }
    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        self.inner.body(body)
    }
    fn settle(
        &self,
        batch: Vec<Settlement>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        self.inner.settle(batch, durability)
    }
    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        self.inner.queues(after, limit)
    }
    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        self.inner.scan(which, after, limit)
    }
    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        self.inner.alter(alter)
    }
    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        self.inner.results(message)
    }
    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        self.inner.log(after, limit)
    }
    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        self.inner.prune(now, log)
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn stats(&self) -> Stats {
        self.inner.stats()
    }
    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()> {
        self.inner.wait(limit)
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        self.inner.flush()
    }
}
