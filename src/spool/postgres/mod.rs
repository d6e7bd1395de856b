//! The PostgreSQL spool is a set of tables on which several processes work at once: nodes.
//!
//! Any of them may take mail, and any delivers it: what one has claimed the others pass over, and when it
//! dies its leases end and they take over. The host program's own data may be in the same database, and then
//! its mail can be stored in its own transactions.
//!
//! *schema* is what there is and *sql* all that is said to the server → *tables* says it in one schema, *connect* to which server →
//! *insert* writes messages, *write* gathers calls into batches, *settle* is what becomes of entries, *rows* the
//! way back → *stage* takes bodies in while they arrive → *listen* tells nodes of each other's mail, *count*
//! and *care* know how much there is.
//!
//! # What it asks of the host
//! PostgreSQL 13 or later, with the encoding UTF8. Leases go by the server's clock: a node whose own is wrong
//! claims nothing that another holds, and loses nothing that it holds. Due times are the callers' own, and early
//! or late by as much as a clock is off. `synchronous_commit` is turned on where the cluster
//! has it off; `fsync` is the administrator's. A transaction that is left open in the database keeps the space
//! of what was delivered from being used again, see [`PostgresSpool::health`].
//!
//! # What it does not do
//! It has no partitions. Nodes clean up behind what they have settled, which keeps the tables small at some
//! thousand messages a second whatever autovacuum does ([`PostgresOptions::vacuum`]).

mod alter;
mod care;
mod connect;
mod count;
mod error;
mod insert;
mod keep;
mod listen;
mod look;
mod rows;
mod schema;
mod settle;
mod sql;
mod stage;
mod tables;
mod value;
mod write;

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_postgres::GenericClient;

use super::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Known, Logged, NewMessage, QueueName, QueueSummary, Results, Selection, SetAside, Settlement,
    Spool, SpoolError, Stats, Token,
};
use crate::BoxFuture;
use crate::clock::{Clock, Rng, SystemClock, Timestamp};
use crate::message::{Content, MessageId};
use care::OPENING;
pub use care::PostgresHealth;
use connect::Link;
use count::Counts;
use error::Tries;
use insert::By;
use stage::Staging;
pub(crate) use tables::Tables;
use tables::{Call, On};
use value::Sent;
use write::Writing;

/// How a [`PostgresSpool`] uses its server.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// The schema of the tables, at most 48 octets. Default `public`; another one where several spools share a
    /// database. It is made when it is not there.
    pub schema: String,
    /// Connections at most, at least 3, besides one for notifications and one for [`PostgresOptions::vacuum`]. Default 8: a quarter of them is used
    /// for storing at 64 senders. More only where the server is far away.
    pub connections: usize,
    /// How long at most until mail is found that another node has stored, when its notification does not
    /// arrive. Default 1 s.
    pub poll: Duration,
    /// The shortest time between two notifications of this node. Default 50 ms: each costs every commit of
    /// that moment a lock. `None`: it sends none, and others find its mail by polling.
    pub notify: Option<Duration>,
    /// How long one statement may take, and wait for a lock. Default 30 s.
    pub statement_timeout: Duration,
    /// Whether this node has the server clean up behind what it has settled (`VACUUM`), every 10,000 messages and
    /// every hundredth of what is stored, over a connection of its own. Default `true`. Off where autovacuum comes
    /// every few seconds (`autovacuum_naptime`), or where the tables are another role's, which leaves it in vain.
    pub vacuum: bool,
    /// Roots to trust instead of the system's for TLS to the server, PEM. Default none.
    pub trust: Option<Vec<u8>>,
    /// Octets of new mail that may wait for the server in memory before [`SpoolError::Full`]. Default 64 MiB;
    /// also the largest message that can be given whole.
    pub queue_octets: usize,
    /// Calls that may wait for the server. Default 8,192.
    pub queue_operations: usize,
    /// Octets that all staged bodies together may hold in memory. Default 32 MiB; past that they go to the
    /// server in smaller pieces.
    pub staging_octets: usize,
}

impl PostgresOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            schema: "public".to_owned(),
            connections: 8,
            poll: Duration::from_secs(1),
            notify: Some(Duration::from_millis(50)),
            statement_timeout: Duration::from_secs(30),
            vacuum: true,
            trust: None,
            queue_octets: 64 << 20,
            queue_operations: 8192,
            staging_octets: 32 << 20,
        }
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("poll", &self.poll)
            .field("notify", &self.notify)
            .field("statement_timeout", &self.statement_timeout)
            .finish_non_exhaustive()
    }
}

/// A [`Spool`] in a PostgreSQL database, which several processes share. Clones are handles on the same
/// connections, which are closed with the last of them.
///
/// [`Spool::stats`] is exact for what this process does and sees the others' doings after 10 seconds or more:
/// counting takes a hundredth of the server's time at most. [`Durability::Soon`] is as durable as
/// [`Durability::Synced`] here.
#[derive(Clone)]
pub struct PostgresSpool {
    handle: Arc<Handle>,
}

struct Handle {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What calls and tasks share.
struct Inner {
    link: Link,
    options: PostgresOptions,
    counts: Counts,
    writing: Writing,
    /// Messages that are gone since it was last cleaned up behind them.
    gone: AtomicU64,
    /// What could not be read, until somebody asks for it.
    asides: Mutex<Vec<SetAside>>,
    staging: Staging,
    /// Somebody else has stored something.
    woken: Notify,
    /// We have, for others.
    nudge: Notify,
    /// Which of the nodes this is.
    node: MessageId,
    runtime: Runtime,
    rng: Rng,
    /// Whoever calls goes by this one.
    clock: Arc<dyn Clock>,
}

impl Inner {
    fn sent(&self) -> Sent<'_> {
        Sent(&*self.clock)
    }

    /// As whom we store in transactions of our own.
    fn by(&self) -> By<'_> {
        By { sent: self.sent(), patience: Some(PATIENCE) }
    }
}

impl PostgresSpool {
    /// Connects to a database, such as `postgres://user:password@host/database`, and makes the tables when
    /// they are not there.
    ///
    /// Without `sslmode` in the URL a server on this machine is spoken to in clear, any other over TLS, with a
    /// certificate that is valid for its name; `sslmode=disable` is for networks that are private otherwise.
    ///
    /// # Errors
    /// [`SpoolError::Version`] when the tables were made by a version that this one does not understand,
    /// [`SpoolError::Invalid`] for an impossible schema, [`SpoolError::Storage`] for everything else: the URL,
    /// the way to the server, the server's answer.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the tables made.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, SpoolError> {
        Self::connect_by(url, options, Arc::new(SystemClock)).await
    }

    /// The same for an [`Engine`](crate::Engine) that goes by another clock than the system's, which is to be
    /// this one. Its distance from the server's is looked at with every claim, so that leases begin and end by
    /// the server's clock alone.
    ///
    /// # Errors
    /// As [`PostgresSpool::connect`].
    ///
    /// # Cancel safety
    /// As [`PostgresSpool::connect`].
    pub async fn connect_by(
        url: &str,
        options: PostgresOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SpoolError> {
        let link = Link::new(url, &options).await?;
        let mut held = link.take().await?;
        link.tables.migrate(&mut held.conn().client).await?;
        held.release();
        let rng = Rng::from_entropy();
        let inner = Arc::new(Inner {
            link,
            counts: Counts::default(),
            writing: Writing::default(),
            gone: AtomicU64::new(0),
            asides: Mutex::default(),
            staging: Staging::new(options.staging_octets),
            woken: Notify::new(),
            nudge: Notify::new(),
            node: MessageId::new(Timestamp::default(), &rng),
            runtime: Runtime::current(),
            rng,
            clock,
            options,
        });
        // Nothing that takes long where there is much keeps it from being opened: it is done again later.
        if let Err(error) = inner.run(Call::CollectStaged, &[]).await {
            tracing::debug!(%error, "staged bodies were not collected");
        }
        if let Err(error) = inner.recount(true, OPENING).await {
            tracing::debug!(%error, "the spool was not counted");
        }
        let mut tasks = vec![
            tokio::spawn(listen::run(Arc::clone(&inner))).abort_handle(),
            tokio::spawn(care::run(Arc::clone(&inner))).abort_handle(),
        ];
        if inner.options.vacuum {
            tasks.push(tokio::spawn(care::tidy(Arc::clone(&inner))).abort_handle());
        }
        Ok(Self { handle: Arc::new(Handle { inner, tasks }) })
    }

    /// How the server is, for whoever watches over it.
    ///
    /// # Errors
    /// [`SpoolError`]
    pub async fn health(&self) -> Result<PostgresHealth, SpoolError> {
        self.inner().health().await
    }

    /// Tells the other nodes that there is new mail, soon. For whoever has stored some in a transaction of
    /// their own; forgetting it costs them [`PostgresOptions::poll`].
    pub fn nudge(&self) {
        self.inner().nudge.notify_one();
        self.inner().woken.notify_one();
    }

    /// Finishes what was handed over, and lets go of the server. Other handles then get
    /// [`SpoolError::Closed`].
    ///
    /// # Errors
    /// [`SpoolError::Closed`] when it was that already.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the spool open.
    pub async fn close(self) -> Result<(), SpoolError> {
        let inner = self.inner();
        if inner.link.is_closed() {
            return Err(SpoolError::Closed);
        }
        inner.writing.idle().await;
        inner.link.close();
        Ok(())
    }

    /// Stores messages in the transaction that the caller has open, see [`enqueue_in`].
    pub(crate) async fn enqueue_in<C: GenericClient + Sync>(
        &self,
        client: &C,
        batch: &[NewMessage],
    ) -> Result<Vec<Known>, SpoolError> {
        enqueue_in(client, &self.inner().link.tables, batch).await
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }
}

impl fmt::Debug for PostgresSpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSpool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Makes a call again for as long as that may help.
macro_rules! trying {
    ($call:expr) => {{
        let mut tries = Tries::default();
        loop {
            match $call.await {
                Ok(answer) => break Ok(answer),
                Err(failure) => {
                    if let Err(error) = tries.again(failure).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}
use trying;

impl Spool for PostgresSpool {
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        let writer = if self.inner().link.is_closed() {
            Err(SpoolError::Closed)
        } else {
            Ok(stage::writer(self.inner()))
        };
        Box::pin(std::future::ready(writer))
    }

    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        Box::pin(self.inner().enqueue(batch, lease))
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        Box::pin(async move { trying!(self.inner().claim(&request)) })
    }

    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        let body = body.clone();
        Box::pin(async move { stage::body(self.inner(), &body).await })
    }

    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(async move { trying!(self.inner().extend(&tokens, lease)) })
    }

    fn settle(
        &self,
        mut batch: Vec<Settlement>,
        _durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        Box::pin(async move {
            // In one order on all nodes, or two that settle entries of the same messages lock each other out.
            batch.sort_by_key(|settlement| settlement.token.message);
            let bodies = settle::check(self.inner(), &mut batch)?;
            let fenced = trying!(self.inner().settle(&batch, &bodies))?;
            Ok(fenced)
        })
    }

    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        Box::pin(async move { trying!(self.inner().queues(after.as_ref(), limit)) })
    }

    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        Box::pin(async move { trying!(self.inner().scan(&which, after, limit)) })
    }

    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        Box::pin(async move { trying!(self.inner().alter(&alter)) })
    }

    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        Box::pin(async move { trying!(self.inner().results(message)) })
    }

    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        Box::pin(async move { trying!(self.inner().log(after, limit)) })
    }

    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        Box::pin(async move { trying!(self.inner().prune(now, log)) })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn set_aside(&self) -> Vec<SetAside> {
        self.inner().take_asides()
    }

    fn stats(&self) -> Stats {
        self.inner().counts.stats()
    }

    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()> {
        let inner = self.inner();
        let poll = limit.min(inner.options.poll);
        // Running out is an answer too: what others stored is found by looking, whether they told of it or not.
        Box::pin(async move { drop(tokio::time::timeout(poll, inner.woken.notified()).await) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(async move {
            self.inner().writing.idle().await;
            if self.inner().link.is_closed() { Err(SpoolError::Closed) } else { Ok(()) }
        })
    }
}

/// Stores a batch in the transaction that the caller has open: it is there when that commits, and otherwise
/// never was. Bodies must be inline. The transaction must be rolled back, at least to a savepoint before this
/// call, when it fails. Returns the messages that were stored before under their keys.
///
/// # Errors
/// [`SpoolError::KeyConflict`], [`SpoolError::Invalid`], [`SpoolError::TooLarge`], [`SpoolError::Full`],
/// [`SpoolError::Storage`].
pub(crate) async fn enqueue_in<C: GenericClient + Sync>(
    client: &C,
    tables: &Tables,
    batch: &[NewMessage],
) -> Result<Vec<Known>, SpoolError> {
    insert::check(batch)?;
    let (on, by) = (On::new(client, tables), By { sent: Sent(&SystemClock), patience: None });
    let stored = insert::insert(&on, batch.iter().collect(), &insert::Bodies::new(), |_| None, by).await;
    Ok(stored.map_err(SpoolError::from)?.known)
}

/// How long a message with a key waits for another transaction that has stored one under the same key and is
/// open: longer than commits take, and short beside how long a sender waits.
const PATIENCE: &str = "2s";

/// How many messages one statement stores: past 64 the server's share of the work grows again (measured).
const BATCH_MESSAGES: usize = 64;

/// Octets of heads and bodies in one statement, which is in memory three times on its way.
const BATCH_OCTETS: u64 = 4 << 20;

/// The size of a piece of a body: one row, and at most so much of a streamed body is in memory.
const PIECE: usize = 256 << 10;
