//! Where everything is delivered, and a spool that takes nothing for a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Deliver, LocalItem, Outcome};
use postroad::clock::Timestamp;
use postroad::delivery::{Engine, EngineOptions};
use postroad::message::{Content, MessageId};
use postroad::route::{LocalId, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::spool::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Logged, MemorySpool, NewMessage, QueueName, QueueSummary, Results, Selection, Settlement, Spool,
    SpoolError, Stats, Token,
};

/// What has come, by recipient, doubles included.
#[derive(Debug, Clone, Default)]
pub struct Store(Arc<Mutex<Vec<String>>>);

impl Store {
    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn recipients(&self) -> Vec<String> {
        let mut got = self.0.lock().unwrap().clone();
        got.sort();
        got
    }
}

impl Deliver for Store {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        let got = item.recipients.iter().map(|rcpt| rcpt.to.to_string().replace(['<', '>'], ""));
        self.0.lock().unwrap().extend(got);
        let outcomes = vec![Outcome::Delivered(Accepted::locally()); item.recipients.len()];
        Box::pin(std::future::ready(outcomes))
    }
}

impl Resolve for Store {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(std::future::ready(Ok(Route::Local(LocalId::new("store")))))
    }
}

/// An engine that delivers into the store.
pub async fn engine(store: &Store, spool: impl Spool) -> Engine {
    let mut options = EngineOptions::new();
    options.sweep = Duration::from_secs(1);
    options.lease = Duration::from_secs(10);
    Engine::builder(spool, EhloName::new("us.test").unwrap())
        .direct(store.clone())
        .local(LocalId::new("store"), Arc::new(store.clone()))
        .options(options)
        .start()
        .await
        .unwrap()
}

/// Waits until it is so.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONGEST, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A spool that is full, until it is not.
#[derive(Debug, Clone)]
pub struct Refusing(MemorySpool, Arc<AtomicBool>);

impl Refusing {
    pub fn new() -> Self {
        Self(MemorySpool::new(), Arc::new(AtomicBool::new(true)))
    }

    pub fn relent(&self) {
        self.1.store(false, Ordering::SeqCst);
    }
}

impl Spool for Refusing {
    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        if self.1.load(Ordering::SeqCst) {
            return Box::pin(async { Err(SpoolError::Full) });
        }
        self.0.enqueue(batch, lease)
    }
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        self.0.stage()
    }
    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        self.0.claim(request)
    }
    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        self.0.body(body)
    }
    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        self.0.extend(tokens, lease)
    }
    fn settle(
        &self,
        batch: Vec<Settlement>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        self.0.settle(batch, durability)
    }
    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        self.0.queues(after, limit)
    }
    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        self.0.scan(which, after, limit)
    }
    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        self.0.alter(alter)
    }
    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        self.0.results(message)
    }
    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        self.0.log(after, limit)
    }
    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        self.0.prune(now, log)
    }
    fn stats(&self) -> Stats {
        self.0.stats()
    }
    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()> {
        self.0.wait(limit)
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        self.0.flush()
    }
}

/// An engine asks a server that was gone again after up to a minute, and leases have to end.
const LONGEST: Duration = Duration::from_secs(180);
