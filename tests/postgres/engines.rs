//! Engines on one queue, one of which comes too late with what it found out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Cause, Deliver, LocalFault, LocalItem, Outcome};
use postroad::delivery::{Engine, EngineOptions, Retry, SubmitOptions};
use postroad::message::{Content, Envelope, RawMessage};
use postroad::route::{LocalId, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::spool::{PostgresOptions, PostgresSpool, RecipientState, Selection, Spool};
use tokio::sync::Semaphore;
use tokio_postgres::NoTls;

use super::cluster::Cluster;
use super::options;

/// What a delivery into the store waits for, and how it ends then.
type Script = Box<dyn Fn(usize) -> Option<(Arc<Semaphore>, Vec<Outcome>)> + Send + Sync>;

/// A store whose deliveries go as the test says; those it says nothing about succeed.
struct Store {
    script: Script,
    calls: AtomicUsize,
    /// Who was delivered to, or tried, in which call.
    tried: Mutex<Vec<(usize, Vec<String>)>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Deliver for Store {
    fn deliver<'a>(&'a self, item: &'a LocalItem, _: Content) -> BoxFuture<'a, Vec<Outcome>> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let names = item.recipients.iter().map(|rcpt| rcpt.to.to_string()).collect();
        self.tried.lock().unwrap().push((call, names));
        Box::pin(async move {
            match (self.script)(call) {
                Some((wait, outcomes)) => {
                    wait.acquire().await.unwrap().forget();
                    outcomes
                }
                None => vec![Outcome::Delivered(Accepted::locally()); item.recipients.len()],
            }
        })
    }
}

/// Everything goes to the store.
#[derive(Debug)]
struct Here;

impl Resolve for Here {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(std::future::ready(Ok(Route::Local(LocalId::new("store")))))
    }
}

fn store(
    script: impl Fn(usize) -> Option<(Arc<Semaphore>, Vec<Outcome>)> + Send + Sync + 'static,
) -> Arc<Store> {
    Arc::new(Store { script: Box::new(script), calls: AtomicUsize::new(0), tried: Mutex::default() })
}

async fn engine(cluster: &Cluster, spool: &PostgresOptions, store: &Arc<Store>) -> Engine {
    let spool = PostgresSpool::connect(&cluster.url(), spool.clone()).await.unwrap();
    let mut options = EngineOptions::new();
    options.sweep = Duration::from_secs(1);
    let mut retry = Retry::new();
    retry.steps = vec![Duration::from_secs(1)];
    Engine::builder(spool, EhloName::new("us.test").unwrap())
        .direct(Here)
        .local(LocalId::new("store"), Arc::clone(store) as Arc<dyn Deliver>)
        .options(options)
        .retry(retry)
        .start()
        .await
        .unwrap()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect(what);
}

fn message(to: &[&str]) -> RawMessage {
    RawMessage::new(Envelope::parse("a@a.test", to.iter().copied()).unwrap(), &b"Subject: x\r\n\r\nx\r\n"[..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_too_late_changes_nothing_of_a_partly_settled_entry_under_its_next_claim() {
    let Some(cluster) = Cluster::shared() else { return };
    let options = options(cluster);
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let later = Outcome::Deferred(Cause::Local(LocalFault::Storage));
    let good = Outcome::Delivered(Accepted::locally());
    let (late, next) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    // The first try of the first node says, much too late, that one was delivered to and two never will be.
    let slow = store({
        let (late, next, good) = (Arc::clone(&late), Arc::clone(&next), good.clone());
        move |call| match call {
            0 => {
                let failed = Outcome::Failed(Cause::Local(LocalFault::Storage));
                Some((Arc::clone(&late), vec![good.clone(), failed.clone(), failed]))
            }
            1 => Some((Arc::clone(&next), vec![good.clone(); 2])),
            _ => None,
        }
    });
    // The second node delivers to one, and puts the others off.
    let quick = store(move |call| {
        let outcomes = vec![good.clone(), later.clone(), later.clone()];
        (call == 0).then(|| (Arc::new(Semaphore::new(1)), outcomes))
    });
    let one = engine(cluster, &options, &slow).await;
    let mut keep = SubmitOptions::new();
    keep.keep = Some(Duration::from_secs(600));
    let receipt = one.submit_with(message(&["r1@b.test", "r2@b.test", "r3@b.test"]), keep).await.unwrap();
    let calls = |store: &Arc<Store>| store.calls.load(Ordering::SeqCst);
    until("the first tries", || calls(&slow) == 1).await;
    // It stands still, and its lease ends.
    let schema = &options.schema;
    let end = format!("UPDATE \"{schema}\".postroad_entry SET wake = 0");
    assert_eq!(shell.execute(&end, &[]).await.unwrap(), 1);
    let two = engine(cluster, &options, &quick).await;
    until("the other tries", || calls(&quick) == 1).await;
    until("the other has settled", || two.stats().deferred == 2).await;
    // From here on the first is alone, and claims it again.
    two.shutdown(Duration::from_secs(10)).await;
    until("the first claims it again", || calls(&slow) == 2).await;
    late.add_permits(1);
    // Whatever comes of the late result is settled before this one.
    let after = one.submit(message(&["after@b.test"])).await.unwrap();
    assert!(after.finished().await.is_complete());
    let spool = PostgresSpool::connect(&cluster.url(), options.clone()).await.unwrap();
    let entries = spool.scan(Selection::message(receipt.id()), None, 9).await.unwrap();
    let states: Vec<_> = entries[0].recipients.iter().map(|recipient| recipient.state).collect();
    assert_eq!(states, [RecipientState::Delivered, RecipientState::Waiting, RecipientState::Waiting]);
    assert_eq!((entries.len(), entries[0].attempts), (1, 1));
    assert_eq!((one.stats().failed, one.stats().delivered), (0, 1));
    // And the try that counts counts.
    next.add_permits(1);
    until("all is settled", || one.stats().delivered == 3).await;
    let results = spool.results(receipt.id()).await.unwrap().unwrap();
    assert!(results.finished);
    assert!(results.recipients.iter().all(|recipient| recipient.state == RecipientState::Delivered));
    let tried = slow.tried.lock().unwrap().clone();
    assert_eq!(tried[1].1, ["<r2@b.test>", "<r3@b.test>"], "nobody who has it is tried again");
    let left = spool.scan(Selection::all(), None, 9).await.unwrap();
    assert!(left.is_empty(), "and nobody is told that it failed: {left:?}");
    one.shutdown(Duration::from_secs(10)).await;
}
