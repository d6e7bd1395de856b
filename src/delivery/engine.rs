//! The engine takes messages and works until every recipient is settled.
//!
//! It is a handle: clones are the same engine. Its tasks end with [`Engine::shutdown`], or, finishing
//! what is in flight, when the last handle is dropped.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::attempt::{Carrier, Signatory};
use crate::clock::{Now, Timestamp};
use crate::message::{Handling, MessageId, SignError, Signing, by_destination};
use crate::net::source::Sending;
use crate::smtp::address::EhloName;
use crate::smtp::params::{Mail, Rcpt};
use crate::spool::{Claim, Class, KeyError, NewBody, QueueName, Spool, SpoolError};
use crate::{message, spool};

use super::builder::EngineBuilder;
use super::care::Care;
use super::compose::{self, Times};
use super::event::Event;
use super::options::EngineOptions;
use super::receipt::Watch;
use super::retry::Retry;
use super::shared::{Close, Health, Settings, Shared, in_front};
use super::wishes::Wishes;

/// Takes messages, keeps them, and delivers them. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close(None);
    }
}

/// A message that was accepted from elsewhere, to be delivered as it is.
#[derive(Debug)]
#[non_exhaustive]
pub struct NewMail {
    /// Its id; [`Engine::new_id`] makes one. Accepting it twice stores it once.
    pub id: MessageId,
    /// Sender and parameters.
    pub mail: Mail,
    /// How it is to be handled besides.
    pub handling: Handling,
    /// The recipients; at least one.
    pub recipients: Vec<Rcpt>,
    /// The fields that we put in front: Received at least.
    pub head: Bytes,
    /// The message: octets at hand, or staged in the engine's own spool.
    pub body: NewBody,
}

impl NewMail {
    /// A message with nothing in front of it yet.
    #[must_use]
    pub fn new(id: MessageId, mail: Mail, recipients: Vec<Rcpt>, body: NewBody) -> Self {
        Self { id, mail, handling: Handling::new(), recipients, head: Bytes::new(), body }
    }
}

/// Why a message was not taken. Nothing was stored, except where [`SpoolError::Unknown`] says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The message is not right; it is the caller's to change.
    #[error(transparent)]
    Message(#[from] message::SubmitError),
    /// The spool did not take it.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The engine was shut down.
    #[error("the engine is shut down")]
    Closed,
    /// Its key stands for another content; nothing of this one was stored.
    #[error("the idempotency key stands for another content")]
    KeyConflict,
    /// Its key cannot be one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It could not be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It is to be released later than [`EngineOptions::max_hold`](super::EngineOptions::max_hold)
    /// lets it.
    #[error("the message is to be held for too long")]
    Hold,
    /// It has to be delivered before it is released (RFC 4865 §4, RFC 2852).
    #[error("the message is to be released after it has to be delivered")]
    Release,
}

/// Whether somebody waits for what becomes of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watched {
    Not,
    /// Its id is a new one.
    Once,
    /// Its id is the caller's, who may have stored it before.
    Again,
}

/// How a message was stored.
pub(crate) struct Stored {
    pub(crate) watch: Option<Watch>,
    /// It may have been there before under its id, so that some of it may be settled: the watch does not know
    /// which entries are open.
    pub(crate) repeated: bool,
    /// Its key was known: it is there under this id, and this one was not stored.
    pub(crate) known: Option<MessageId>,
}

/// What an engine is doing, and what it did since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct EngineStats {
    /// Entries that are claimed: waiting for a route, ready, in flight, or being settled.
    pub held: usize,
    /// Of those, the ones that wait for a connection.
    pub ready: usize,
    /// Connections and local deliveries at work.
    pub runs: usize,
    /// Sites with work.
    pub lanes: usize,
    /// Sites that are left alone because none of their hosts could be used.
    pub sites_held: usize,
    /// Queues with something that falls due in the next hours.
    pub queues: usize,
    /// Messages that receipts watch.
    pub watched: usize,
    /// Messages accepted.
    pub accepted: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// How often recipients were put off.
    pub deferred: u64,
    /// Recipients that were refused for good.
    pub failed: u64,
    /// Recipients whose time ran out.
    pub expired: u64,
    /// Recipients that were taken back.
    pub cancelled: u64,
    /// Panics of observers that were caught.
    pub observer_panics: u64,
    /// What the spool holds.
    pub spool: spool::Stats,
}

impl Engine {
    /// Starts the building of an engine over `spool`, under the name that it gives in EHLO and in
    /// reports.
    pub fn builder(spool: impl Into<AnySpool>, ehlo: EhloName) -> EngineBuilder {
        EngineBuilder::new(spool.into().0, ehlo)
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { inner: Arc::new(Inner { shared }) }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Takes a message that was accepted from elsewhere, as it is: it is not signed. When it returns `Ok`,
    /// the message is on stable storage: the time to say 250.
    ///
    /// # Errors
    /// [`SubmitError`]
    ///
    /// # Cancel safety
    /// As [`Engine::submit`].
    pub async fn accept(&self, mail: NewMail) -> Result<MessageId, SubmitError> {
        let id = mail.id;
        self.store(mail, &Wishes::default(), Watched::Not).await?;
        Ok(id)
    }

    /// Begins to look at a message that is to be signed; `None` where nothing signs.
    pub(crate) fn signing(&self) -> Option<Box<dyn Signing>> {
        self.inner.shared.carrier.signatory().map(Signatory::begin)
    }

    /// The head with signatures of a message that was looked at in front.
    ///
    /// # Errors
    /// [`SubmitError::Sign`]
    pub(crate) async fn signed_head(
        &self,
        signing: Box<dyn Signing>,
        head: Bytes,
    ) -> Result<Bytes, SubmitError> {
        let Some(signatory) = self.inner.shared.carrier.signatory() else { return Ok(head) };
        let fields = signatory.finish(signing, head.clone()).await?;
        Ok(in_front(fields, head))
    }

    /// An id for a message.
    #[must_use]
    pub fn new_id(&self) -> MessageId {
        let shared = &self.inner.shared;
        MessageId::new(shared.now().wall, &shared.rng)
    }

    /// Ends the engine: nothing more is taken or claimed, what is in flight is finished and settled,
    /// the rest given back to the spool. What is still in flight after `grace` is broken off between
    /// octets, never by ending a message; it is tried again by the next engine, so a message between
    /// its last octet and the reply may then arrive twice. RFC 5321 §4.5.3.2.6 gives a host ten
    /// minutes for that reply; 30 seconds finish all but the slowest.
    ///
    /// # Cancel safety
    /// The engine ends even if the future is dropped.
    pub async fn shutdown(&self, grace: Duration) {
        let shared = &self.inner.shared;
        shared.close(Some(shared.mono() + grace));
        let mut closed = shared.close.subscribe();
        // Fails only when the engine is gone.
        let _ = closed.wait_for(|close| *close == Close::Closed).await;
    }

    /// Goes on under other options and another retry curve. Nothing is closed or given up for it: what is at
    /// work beyond a new limit is finished and no more begun; what was put off keeps the time that it was
    /// put off to, and expires when it was told to on acceptance. Receipts that are watched stay. Unless the
    /// builder was given a carrier, the limits of its pool follow; else change those by
    /// [`Engine::carrier`].
    pub fn reload(&self, options: EngineOptions, retry: Retry) {
        let shared = &self.inner.shared;
        let options = options.sound();
        if shared.own_limits {
            let mut limits = shared.carrier.limits();
            (limits.per_key, limits.total) = (options.runs_per_site, options.runs);
            shared.carrier.set_limits(limits);
        }
        shared.watchers.set_limit(options.receipts);
        let settings = Settings { options: options.clone(), retry: retry.clone() };
        *shared.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
        shared.with(|core, _, todo| {
            core.reload(options, retry);
            todo.wake = true;
        });
    }

    /// What the engine runs under now.
    #[must_use]
    pub fn settings(&self) -> (EngineOptions, Retry) {
        let settings = self.inner.shared.settings();
        (settings.options.clone(), settings.retry.clone())
    }

    /// What holds the engine's connections.
    #[must_use]
    pub fn carrier(&self) -> &Carrier {
        &self.inner.shared.carrier
    }

    /// How the engine is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.inner.shared.health()
    }

    /// What the engine is doing. Cheap enough to ask every second.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let shared = &self.inner.shared;
        let now = shared.mono();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &shared.counts;
        let mut stats = EngineStats {
            watched: shared.watchers.len(),
            accepted: load(&counts.accepted),
            delivered: load(&counts.delivered),
            deferred: load(&counts.deferred),
            failed: load(&counts.failed),
            expired: load(&counts.expired),
            cancelled: load(&counts.cancelled),
            observer_panics: shared.observers.panics(),
            spool: shared.spool.stats(),
            ..EngineStats::default()
        };
        shared.look(|core| {
            stats.held = core.held();
            stats.runs = core.runs;
            stats.lanes = core.lanes.len();
            stats.ready = core.lanes.values().map(super::lane::Lane::ready).sum();
            stats.sites_held = core.lanes.values().filter(|lane| lane.shape.held(now).is_some()).count();
            stats.queues = core.schedule.len();
        });
        stats
    }

    /// The spool: to stage bodies in, and to look at what waits.
    #[must_use]
    pub fn spool(&self) -> &Arc<dyn Spool> {
        &self.inner.shared.spool
    }

    /// The engine's name.
    #[must_use]
    pub fn ehlo(&self) -> &EhloName {
        &self.inner.shared.ehlo
    }

    /// How long it holds messages: [`EngineOptions::max_hold`](super::EngineOptions::max_hold).
    pub(crate) fn max_hold(&self) -> Duration {
        self.inner.shared.settings().options.max_hold
    }

    /// Whether a message with this envelope would be held and delivered in time.
    ///
    /// # Errors
    /// [`SubmitError::Hold`] and [`SubmitError::Release`]
    pub fn check_times(&self, mail: &Mail) -> Result<(), SubmitError> {
        compose::check_times(&mut mail.clone(), self.inner.shared.now().wall, self.max_hold())
    }

    pub(crate) async fn store(
        &self,
        mail: NewMail,
        wishes: &Wishes,
        watched: Watched,
    ) -> Result<Stored, SubmitError> {
        let shared = &self.inner.shared;
        let mut mail = mail;
        if *shared.close.borrow() != Close::Open {
            return Err(SubmitError::Closed);
        }
        let recipients = std::mem::take(&mut mail.recipients);
        if recipients.is_empty() {
            return Err(message::SubmitError::NoRecipients.into());
        }
        if mail.handling.tags.len() > Handling::MAX_TAGS {
            return Err(message::SubmitError::TooManyTags.into());
        }
        let (now, settings) = (shared.now(), shared.settings());
        let times = Times::of(&mut mail.mail, now.wall, &settings.options, &settings.retry)?;
        let (id, count) = (mail.id, recipients.len());
        let size = mail.body.size().saturating_add(mail.head.len() as u64);
        let units = by_destination(recipients, shared.ehlo.as_domain());
        let source = |destination| {
            shared.carrier.source_of(&Sending::new(id, &mail.mail.from, &mail.handling, destination))
        };
        let sources: Vec<_> = units.iter().map(|(destination, _)| source(destination)).collect();
        let kind = (Care::of(&mail.mail, &mail.handling), Class::of(&mail.mail));
        let mut plan = shared.with(|core, now, _| core.plan(&units, &sources, kind, times.release, now));
        // Put off from birth, where the site is held.
        plan.places.iter_mut().for_each(|(_, due)| *due = times.first(*due, now.wall));
        let entries = u32::try_from(units.len()).unwrap_or(u32::MAX);
        let announced = (!shared.observers.is_empty()).then(|| mail.mail.clone());
        let message = compose::message(
            mail,
            units,
            &plan.places,
            (now.wall, times.expires),
            wishes,
            &settings.options,
        )?;
        let watch = match watched {
            Watched::Not => None,
            Watched::Once => shared.watchers.watch(id, entries),
            Watched::Again => shared.watchers.attach(id),
        };
        let mut places = Places {
            shared,
            until: plan.until,
            places: plan.places,
            class: kind.1,
            leased: plan.lease.is_some(),
            lease: plan.lease,
        };
        let enqueued =
            shared.spool.enqueue(vec![message], plan.lease).await.map_err(|error| match error {
                SpoolError::KeyConflict => SubmitError::KeyConflict,
                error => error.into(),
            })?;
        // Born claimed, it was not there before.
        let is_new = !enqueued.claims.is_empty();
        if is_new && let Some(watch) = &watch {
            watch.opened(0..entries);
        }
        places.stored(enqueued.claims);
        let repeated = matches!(watched, Watched::Again) && !is_new;
        if let Some(known) = enqueued.known.first() {
            return Ok(Stored { watch: None, repeated, known: Some(known.stored) });
        }
        Shared::count(&shared.counts.accepted, 1);
        if let Some(mail) = announced {
            shared.observers.tell(&Event::Accepted { message: id, mail: &mail, recipients: count, size });
        }
        Ok(Stored { watch, repeated, known: None })
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("ehlo", self.ehlo()).field("health", &self.health()).finish()
    }
}

/// A spool of any kind, owned or shared.
#[derive(Debug)]
pub struct AnySpool(Arc<dyn Spool>);

impl<S: Spool> From<S> for AnySpool {
    fn from(spool: S) -> Self {
        Self(Arc::new(spool))
    }
}

impl<S: Spool> From<Arc<S>> for AnySpool {
    fn from(spool: Arc<S>) -> Self {
        Self(spool)
    }
}

impl From<Arc<dyn Spool>> for AnySpool {
    fn from(spool: Arc<dyn Spool>) -> Self {
        Self(spool)
    }
}

/// Places that are kept for a message while it is being stored. However the storing ends, they are
/// given back, and the schedule learns when to look for the message.
struct Places<'a> {
    shared: &'a Arc<Shared>,
    /// Until when messages are ended under the lease.
    until: Now,
    places: Vec<(QueueName, Timestamp)>,
    class: Class,
    leased: bool,
    lease: Option<Timestamp>,
}

impl Places<'_> {
    /// The message is stored: what was born claimed goes on its way.
    fn stored(&mut self, claims: Vec<Claim>) {
        let places = std::mem::take(&mut self.places);
        let leased = std::mem::take(&mut self.leased);
        let entries: Vec<_> = claims.into_iter().map(|claim| self.shared.entry(claim, self.until)).collect();
        self.shared.with(|core, now, todo| {
            if leased {
                core.unreserve(places.len());
                for entry in entries {
                    core.admit(entry, self.until, now, todo);
                }
            } else {
                for (queue, due) in places {
                    core.schedule.note(&(queue, self.class), due, now.wall);
                }
                todo.wake = true;
            }
        });
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if self.places.is_empty() {
            return;
        }
        // The call failed, or was given up: the message may be stored all the same.
        self.shared.with(|core, now, _| {
            if self.leased {
                core.unreserve(self.places.len());
            }
            for (queue, due) in &self.places {
                core.schedule.note(&(queue.clone(), self.class), self.lease.unwrap_or(*due), now.wall);
            }
        });
    }
}
