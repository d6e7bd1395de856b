//! A spool around another one, with calls that fail, wait, or succeed without saying so.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::lock;
use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::message::{Content, Handling, MessageId};
use crate::smtp::params::{Mail, Rcpt};
use crate::spool::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Logged, MemorySpool, NewBody, NewMessage, QueueName, QueueSummary, Recipient, Results,
    Selection, Settlement, Spool, SpoolError, Stats, Then, Token,
};

/// Any spool, with faults as a script has them. Clones are the same one.
///
/// ```
/// # postroad::testing::run(async {
/// use postroad::clock::Timestamp;
/// use postroad::spool::{Spool, SpoolError};
/// use postroad::testing::{FaultySpool, Method, SpoolFault};
///
/// let spool = FaultySpool::new();
/// spool.script(|call| match call.method {
///     Method::Queues if call.number == 1 => SpoolFault::Before,
///     _ => SpoolFault::None,
/// });
/// assert!(matches!(spool.queues(None, 1).await, Err(SpoolError::Storage(_))));
/// assert!(spool.queues(None, 1).await.is_ok());
/// # Ok::<(), std::io::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct FaultySpool {
    inner: Arc<dyn Spool>,
    state: Arc<Mutex<State>>,
    /// Moves on whenever there is another script.
    scripts: watch::Sender<u64>,
    watch: Option<Arc<dyn Watch>>,
    shared: bool,
}

/// Is told what the spool inside did, whatever the caller is told of it.
pub(super) trait Watch: Send + Sync {
    /// Messages were stored that were not there before.
    fn stored(&self, messages: Vec<Stored>);

    /// Settlements were applied.
    fn settled(&self, settlements: Vec<Settled>);
}

/// A message that is stored.
pub(super) struct Stored {
    pub(super) id: MessageId,
    pub(super) mail: Mail,
    pub(super) handling: Handling,
    pub(super) expires: Timestamp,
    /// Its key, and until when that is remembered.
    pub(super) key: Option<(Box<str>, Timestamp)>,
    /// By entry.
    pub(super) recipients: Vec<(u32, Rcpt)>,
    /// Body, where it is at hand.
    pub(super) body: Bytes,
}

/// A settlement that is applied.
pub(super) struct Settled {
    pub(super) token: Token,
    pub(super) recipients: Vec<Recipient>,
    pub(super) then: Then,
    pub(super) submit: Vec<Stored>,
}

impl Stored {
    fn of(message: &NewMessage) -> Self {
        let entries = (0_u32..).zip(&message.entries);
        let recipients =
            entries.flat_map(|(at, entry)| entry.recipients.iter().map(move |rcpt| (at, rcpt.clone())));
        let body = match &message.body {
            NewBody::Inline(octets) => octets.clone(),
            NewBody::Staged(_) => Bytes::new(),
        };
        Self {
            id: message.id,
            mail: message.mail.clone(),
            handling: message.handling.clone(),
            key: message.key.as_ref().map(|key| (key.name.clone(), key.until)),
            expires: message.expires,
            recipients: recipients.collect(),
            body,
        }
    }
}

type Script = Box<dyn FnMut(&Call) -> SpoolFault + Send>;

struct State {
    script: Option<Script>,
    calls: u64,
}

/// A call that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// Which.
    pub method: Method,
    /// The how many-th of all calls this is, from 1; [`Method::Wait`] is not counted.
    pub number: u64,
    /// Whether it stores messages. What a sender is to be told later does not count.
    pub adds: bool,
}

/// The methods of a spool that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Method {
    /// [`Spool::stage`]
    Stage,
    /// [`Spool::enqueue`]
    Enqueue,
    /// [`Spool::claim`]
    Claim,
    /// [`Spool::body`]
    Body,
    /// [`Spool::extend`]
    Extend,
    /// [`Spool::settle`]
    Settle,
    /// [`Spool::queues`]
    Queues,
    /// [`Spool::scan`]
    Scan,
    /// [`Spool::alter`]
    Alter,
    /// [`Spool::results`]
    Results,
    /// [`Spool::log`]
    Log,
    /// [`Spool::prune`]
    Prune,
    /// [`Spool::wait`], which cannot fail: any error makes it return at once, as it may.
    Wait,
    /// [`Spool::flush`]
    Flush,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpoolFault {
    /// It is made.
    None,
    /// It is not made: [`SpoolError::Storage`].
    Before,
    /// It is made, and says [`SpoolError::Unknown`].
    After,
    /// It is not made: [`SpoolError::Unknown`] all the same.
    Unknown,
    /// It is not made: [`SpoolError::Full`].
    Full,
    /// It is not made: [`SpoolError::Poisoned`].
    Poisoned,
    /// It is not made: [`SpoolError::Corrupt`].
    Corrupt,
    /// It waits for this long, and then the rest happens.
    Delay(Duration, Box<Self>),
    /// It waits until there is another script, which is asked anew.
    Wait,
}

impl FaultySpool {
    /// A memory spool that can fail.
    #[must_use]
    pub fn new() -> Self {
        Self::over(MemorySpool::new())
    }

    /// Makes a spool one that can fail.
    #[must_use]
    pub fn over(spool: impl Spool) -> Self {
        let state = State { script: None, calls: 0 };
        Self {
            inner: Arc::new(spool),
            state: Arc::new(Mutex::new(state)),
            scripts: watch::Sender::new(0),
            watch: None,
            shared: false,
        }
    }

    /// The same, which says that other processes may work on it too.
    #[must_use]
    pub fn shared(self) -> Self {
        Self { shared: true, ..self }
    }

    /// The same, watched.
    pub(super) fn watched(spool: Arc<dyn Spool>, watch: Arc<dyn Watch>) -> Self {
        Self { inner: spool, watch: Some(watch), ..Self::new() }
    }

    /// What becomes of each call from now on. Takes the place of the script before.
    pub fn script(&self, script: impl FnMut(&Call) -> SpoolFault + Send + 'static) {
        lock(&self.state).script = Some(Box::new(script));
        self.scripts.send_modify(|number| *number += 1);
    }

    /// No call fails any more.
    pub fn clear(&self) {
        lock(&self.state).script = None;
        self.scripts.send_modify(|number| *number += 1);
    }

    /// How many calls were made or refused so far, [`Spool::wait`] left out.
    #[must_use]
    pub fn calls(&self) -> u64 {
        lock(&self.state).calls
    }

    /// The spool inside.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn Spool> {
        &self.inner
    }

    async fn call<T>(
        &self,
        method: Method,
        adds: bool,
        made: impl AsyncFnOnce() -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        let number = {
            let mut state = lock(&self.state);
            // A wait that is over for no reason is nothing that a spool has to do.
            state.calls += u64::from(method != Method::Wait);
            state.calls
        };
        let fault = self.fault(&Call { method, number, adds }).await;
        match fault {
            SpoolFault::None => made().await,
            SpoolFault::After => {
                made().await?;
                Err(SpoolError::Unknown(io::Error::other(TEST)))
            }
            SpoolFault::Unknown => Err(SpoolError::Unknown(io::Error::other(TEST))),
            SpoolFault::Full => Err(SpoolError::Full),
            SpoolFault::Poisoned => Err(SpoolError::Poisoned),
            SpoolFault::Corrupt => Err(SpoolError::Corrupt),
            SpoolFault::Before | SpoolFault::Delay(..) | SpoolFault::Wait => {
                Err(SpoolError::Storage(io::Error::other(TEST)))
            }
        }
    }

    /// What happens to the call, after all waiting.
    async fn fault(&self, call: &Call) -> SpoolFault {
        loop {
            let mut scripts = self.scripts.subscribe();
            let mut fault = match &mut lock(&self.state).script {
                Some(script) => script(call),
                None => SpoolFault::None,
            };
            while let SpoolFault::Delay(time, next) = fault {
                tokio::time::sleep(time).await;
                fault = *next;
            }
            if fault != SpoolFault::Wait {
                return fault;
            }
            // Fails only when the spool is gone, with us.
            let _ = scripts.changed().await;
        }
    }
}

impl Default for FaultySpool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FaultySpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultySpool").field("inner", &self.inner).field("calls", &self.calls()).finish()
    }
}

impl Spool for FaultySpool {
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        Box::pin(self.call(Method::Stage, true, async || self.inner.stage().await))
    }

    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        let enqueue = async move || {
            let Some(watch) = &self.watch else { return self.inner.enqueue(batch, lease).await };
            let mut stored = Vec::with_capacity(batch.len());
            for message in &batch {
                let known = self.inner.scan(Selection::message(message.id), None, 1).await?;
                stored.extend(known.is_empty().then(|| Stored::of(message)));
            }
            let enqueued = self.inner.enqueue(batch, lease).await?;
            stored.retain(|stored| !enqueued.known.iter().any(|known| known.given == stored.id));
            watch.stored(stored);
            Ok(enqueued)
        };
        Box::pin(self.call(Method::Enqueue, true, enqueue))
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        Box::pin(self.call(Method::Claim, false, async move || self.inner.claim(request).await))
    }

    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        let body = body.clone();
        Box::pin(self.call(Method::Body, false, async move || self.inner.body(&body).await))
    }

    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(self.call(Method::Extend, false, async move || self.inner.extend(tokens, lease).await))
    }

    fn settle(
        &self,
        batch: Vec<Settlement>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        let adds = batch.iter().any(|settlement| !settlement.submit.is_empty());
        let settle = async move || {
            let Some(watch) = &self.watch else { return self.inner.settle(batch, durability).await };
            let of = |settlement: &Settlement| Settled {
                token: settlement.token,
                recipients: settlement.recipients.clone(),
                then: settlement.then.clone(),
                submit: settlement.submit.iter().map(Stored::of).collect(),
            };
            let mut settled: Vec<_> = batch.iter().map(of).collect();
            let fenced = self.inner.settle(batch, durability).await?;
            settled.retain(|settled| !fenced.contains(&settled.token));
            watch.settled(settled);
            Ok(fenced)
        };
        Box::pin(self.call(Method::Settle, adds, settle))
    }

    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        Box::pin(self.call(Method::Queues, false, async move || self.inner.queues(after, limit).await))
    }

    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        Box::pin(self.call(Method::Scan, false, async move || self.inner.scan(which, after, limit).await))
    }

    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        Box::pin(self.call(Method::Alter, false, async move || self.inner.alter(alter).await))
    }

    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        Box::pin(self.call(Method::Results, false, async move || self.inner.results(message).await))
    }

    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        Box::pin(self.call(Method::Log, false, async move || self.inner.log(after, limit).await))
    }

    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        Box::pin(self.call(Method::Prune, false, async move || self.inner.prune(now, log).await))
    }

    fn is_shared(&self) -> bool {
        self.shared || self.inner.is_shared()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }

    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let made = async || {
                self.inner.wait(limit).await;
                Ok(())
            };
            // An error is a reason to return like any other.
            let _ = self.call(Method::Wait, false, made).await;
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(self.call(Method::Flush, false, async || self.inner.flush().await))
    }
}

const TEST: &str = "as the test has it";
