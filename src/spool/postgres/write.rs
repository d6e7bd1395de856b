//! Writing gathers the calls that come while others are at the server, and stores them with one statement.
//!
//! No timer: a call alone goes at once, and the busier it is the larger the batches become. Calls with
//! keys or with staged bodies are transactions of their own. What waits is bounded in octets and calls.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::super::{BodyRef, Claim, Enqueued, NewBody, NewMessage, Recipient, SpoolError, Token};
use super::count::Delta;
use super::error::{Failure, Tries};
use super::insert::{self, Bodies, Stored};
use super::value::column;
use super::{BATCH_MESSAGES, BATCH_OCTETS, Inner};
use crate::clock::Timestamp;
use crate::message::MessageId;

/// A call that waits.
#[derive(Debug)]
struct Work {
    batch: Vec<NewMessage>,
    bodies: Bodies,
    lease: Option<Timestamp>,
    octets: usize,
    /// It can be stored with others.
    single: bool,
    keyed: bool,
    reply: oneshot::Sender<Result<Enqueued, SpoolError>>,
}

/// What waits to be stored, and how many are storing.
#[derive(Debug, Default)]
pub(super) struct Writing {
    state: Mutex<Waiting>,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    works: VecDeque<Work>,
    octets: usize,
    writers: usize,
    /// Those of them that store messages with keys, and may have to wait for somebody else's.
    patient: usize,
}

impl Writing {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when all that was handed over is stored, or was refused.
    pub(super) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.lock().writers == 0 {
                return;
            }
            idle.await;
        }
    }

    /// The next batch; `None` when there is nothing that may be begun, and the writer ends with that: then whoever
    /// stores what is before it goes on with the rest.
    fn take(&self, writer: &mut Writer, writers: usize) -> Option<Vec<Work>> {
        let mut waiting = self.lock();
        if std::mem::take(&mut writer.patient) {
            waiting.patient = waiting.patient.saturating_sub(1);
        }
        // What may have to wait for others never keeps all writers.
        let all = waiting.patient >= (writers / 2).max(1);
        let next = waiting.works.iter().position(|work| !(all && work.keyed));
        let Some(first) = next.and_then(|at| waiting.works.remove(at)) else {
            self.ends(&mut waiting);
            writer.ended = true;
            return None;
        };
        if first.keyed {
            waiting.patient += 1;
            writer.patient = true;
        }
        let (mut messages, mut octets, single) = (first.batch.len(), first.octets, first.single);
        let mut works = vec![first];
        while single && messages < BATCH_MESSAGES && (octets as u64) < BATCH_OCTETS {
            let fits = |work: &Work| work.single && messages + work.batch.len() <= BATCH_MESSAGES;
            if !waiting.works.front().is_some_and(fits) {
                break;
            }
            let Some(work) = waiting.works.pop_front() else { break };
            (messages, octets) = (messages + work.batch.len(), octets + work.octets);
            works.push(work);
        }
        waiting.octets = waiting.octets.saturating_sub(octets);
        Some(works)
    }

    fn ends(&self, waiting: &mut Waiting) {
        waiting.writers = waiting.writers.saturating_sub(1);
        if waiting.writers == 0 {
            self.idle.notify_waiters();
        }
    }
}

/// A task that stores, from when it is counted on. One that panics is counted no more, and another one goes on.
struct Writer {
    inner: Arc<Inner>,
    /// What it stores may have to wait.
    patient: bool,
    ended: bool,
}

impl Writer {
    fn start(inner: &Arc<Inner>) {
        let mut writer = Self { inner: Arc::clone(inner), patient: false, ended: false };
        inner.runtime.spawn(async move {
            let inner = Arc::clone(&writer.inner);
            while let Some(works) = inner.writing.take(&mut writer, inner.writers()) {
                inner.store(works).await;
            }
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut waiting = self.inner.writing.lock();
        waiting.patient = waiting.patient.saturating_sub(usize::from(self.patient));
        // At the end of the runtime nothing can be begun any more.
        if !waiting.works.is_empty() && std::thread::panicking() {
            drop(waiting);
            Self::start(&self.inner);
        } else {
            self.inner.writing.ends(&mut waiting);
        }
    }
}

impl Inner {
    pub(super) async fn enqueue(
        self: &Arc<Self>,
        mut batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> Result<Enqueued, SpoolError> {
        insert::check(&batch)?;
        if batch.is_empty() {
            return Ok(Enqueued::default());
        }
        if self.link.is_closed() {
            return Err(SpoolError::Closed);
        }
        let bodies = self.staging.bodies(&mut batch)?;
        let octets = batch.iter().map(weight).sum();
        let single = insert::is_single(&batch.iter().collect::<Vec<_>>());
        let keyed = batch.iter().any(|message| message.key.is_some());
        let (reply, answer) = oneshot::channel();
        let work = Work { batch, bodies, lease, octets, single, keyed, reply };
        self.hand_over(work)?;
        let died = |_| Err(SpoolError::Unknown(io::Error::other("the spool's writer has died")));
        answer.await.unwrap_or_else(died)
    }

    /// Puts a call into the queue, and sees that somebody works on it.
    fn hand_over(self: &Arc<Self>, work: Work) -> Result<(), SpoolError> {
        let options = &self.options;
        if work.octets > options.queue_octets {
            return Err(SpoolError::TooLarge);
        }
        let mut waiting = self.writing.lock();
        if waiting.works.len() >= options.queue_operations
            || waiting.octets.saturating_add(work.octets) > options.queue_octets
        {
            return Err(SpoolError::Full);
        }
        waiting.octets += work.octets;
        waiting.works.push_back(work);
        if waiting.writers < self.writers() {
            waiting.writers += 1;
            drop(waiting);
            Writer::start(self);
        }
        Ok(())
    }

    /// Half of the connections: the other half is for what makes room again.
    fn writers(&self) -> usize {
        (self.options.connections / 2).max(1)
    }

    /// Stores a batch and answers the calls.
    async fn store(&self, works: Vec<Work>) {
        match self.try_store(&works).await {
            Ok(stored) => self.answer(works, stored),
            Err(error) if works.len() == 1 => {
                let answers = works.into_iter().map(|work| work.reply);
                answers.zip([error]).for_each(|(reply, error)| drop(reply.send(Err(error))));
            }
            // Whom the server does not answer it does not answer one by one either.
            Err(error @ (SpoolError::Storage(_) | SpoolError::Unknown(_) | SpoolError::Closed)) => {
                let (unknown, why) = (matches!(error, SpoolError::Unknown(_)), error.to_string());
                for work in works {
                    let error = io::Error::other(why.clone());
                    let error = if unknown { SpoolError::Unknown(error) } else { SpoolError::Storage(error) };
                    drop(work.reply.send(Err(error)));
                }
            }
            // One that cannot be stored must not keep the others.
            Err(_) => {
                for work in works {
                    let work = [work];
                    let result = self.try_store(&work).await;
                    match result {
                        Ok(stored) => self.answer(work.into(), stored),
                        Err(error) => {
                            work.into_iter().zip([error]).for_each(|(work, e)| drop(work.reply.send(Err(e))));
                        }
                    }
                }
            }
        }
    }

    async fn try_store(&self, works: &[Work]) -> Result<Stored, SpoolError> {
        let busy = self.counts.begin();
        let (mut tries, mut unsure) = (Tries::default(), false);
        loop {
            let failure = match self.store_once(works).await {
                Ok(stored) => {
                    let batch = works.iter().flat_map(|work| &work.batch);
                    busy.add(delta(batch, &stored));
                    return Ok(stored);
                }
                // The ids tell: what was stored after all is found to be there.
                Err(failure) if failure.is_unsure() => {
                    unsure = true;
                    failure.before()
                }
                Err(failure) => failure,
            };
            if let Err(error) = tries.again(failure).await {
                return Err(match error {
                    SpoolError::KeyConflict => SpoolError::KeyConflict,
                    SpoolError::Storage(error) if unsure => SpoolError::Unknown(error),
                    error if unsure => SpoolError::Unknown(io::Error::other(error)),
                    error => error,
                });
            }
        }
    }

    async fn store_once(&self, works: &[Work]) -> Result<Stored, Failure> {
        let batch: Vec<_> = works.iter().flat_map(|work| &work.batch).collect();
        let leases: HashMap<_, _> = works
            .iter()
            .rev()
            .flat_map(|work| work.batch.iter().map(|message| (message.id, work.lease)))
            .collect();
        let lease = |id| leases.get(&id).copied().flatten();
        let none = Bodies::new();
        let bodies = works.first().map_or(&none, |work| &work.bodies);
        let mut held = self.link.take().await?;
        let conn = held.conn();
        let stored = if works.iter().all(|work| work.single) {
            let on = conn.on(&self.link.tables);
            let insert = insert::insert(&on, batch, bodies, lease, self.by());
            self.link.timed(insert).await.map_err(Failure::of_statement)?
        } else {
            let tx = conn.begin(&self.link).await?;
            let stored = self.link.timed(insert::insert(&tx.on(), batch, bodies, lease, self.by())).await?;
            tx.commit(&self.link).await?;
            stored
        };
        held.release();
        Ok(stored)
    }

    fn answer(&self, works: Vec<Work>, stored: Stored) {
        let is_new = !stored.entries.is_empty();
        let mut numbers: HashMap<_, _> =
            stored.entries.into_iter().map(|(message, entry, number)| ((message, entry), number)).collect();
        let known: HashMap<_, _> = stored.known.iter().map(|known| (known.given, *known)).collect();
        let mut claimed = true;
        for work in works {
            let mut enqueued = Enqueued::default();
            let mut told = HashSet::new();
            for message in work.batch {
                match known.get(&message.id) {
                    Some(known) if told.insert(message.id) => enqueued.known.push(*known),
                    Some(_) => {}
                    // The message has it now; dropping it gives nothing up.
                    None => self.staging.taken(&message.body),
                }
                claims(message, &mut numbers, &mut enqueued.claims);
            }
            claimed &= work.lease.is_some();
            // Nobody listening is no error: dropping a call's future is allowed.
            drop(work.reply.send(Ok(enqueued)));
        }
        if is_new && !claimed {
            self.nudge.notify_one();
        }
    }
}

/// The entries of a message that were born claimed.
fn claims(
    message: NewMessage,
    numbers: &mut HashMap<(MessageId, u32), Option<u64>>,
    claims: &mut Vec<Claim>,
) {
    let size = message.body.size();
    let at_hand = match &message.body {
        NewBody::Inline(octets) => Some(octets.clone()),
        NewBody::Staged(_) => None,
    };
    let alone = message.entries.len() == 1;
    for (at, entry) in (0_u32..).zip(message.entries) {
        let Some(number) = numbers.remove(&(message.id, at)).flatten() else { continue };
        claims.push(Claim {
            token: Token { message: message.id, entry: at, number },
            mail: message.mail.clone(),
            handling: message.handling.clone(),
            head: message.head.clone(),
            body: BodyRef { message: message.id, number: 0, size, at_hand: at_hand.clone() },
            accepted: message.accepted,
            expires: message.expires,
            destination: entry.destination,
            queue: entry.queue,
            due: entry.due,
            attempts: 0,
            cancelled: false,
            alone,
            recipients: entry.recipients.into_iter().map(Recipient::new).collect(),
        });
    }
}

/// What storing these has changed.
pub(super) fn delta<'a>(batch: impl Iterator<Item = &'a NewMessage>, stored: &Stored) -> Delta {
    let mut new: HashSet<_> = stored.entries.iter().map(|(message, ..)| *message).collect();
    let messages = column(new.len() as u64);
    // Each once: the first of an id is the one that was stored.
    let octets: u64 =
        batch.filter(|message| new.remove(&message.id)).map(|message| message.body.size()).sum();
    Delta { messages, entries: column(stored.entries.len() as u64), parked: 0, octets: column(octets) }
}

/// How much a message weighs in the queue in front of the server.
fn weight(message: &NewMessage) -> usize {
    let body = match &message.body {
        NewBody::Inline(octets) => octets.len(),
        NewBody::Staged(_) => 0,
    };
    let recipients: usize = message.entries.iter().map(|entry| entry.recipients.len() * RECIPIENT).sum();
    message.head.len() + body + recipients + size_of::<NewMessage>()
}

/// What a recipient takes in memory, roughly.
const RECIPIENT: usize = 128;
