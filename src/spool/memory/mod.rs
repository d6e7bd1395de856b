//! A memory spool keeps the same promises as any other while the process lives, and nothing after.
//!
//! It is for hosts that keep their mail elsewhere until it is delivered, for relays that may lose
//! what they hold, and for tests: it has no thread and no clock of its own, and the same calls give
//! the same answers. It is bounded: what does not fit is refused with [`SpoolError::Full`].

mod memories;
mod stage;
mod state;

use std::fmt;
use std::future::ready;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;

use super::{
    Alter, Altered, BodyRef, BodyWriter, Claim, ClaimRequest, Class, Durability, Enqueued, EntrySummary,
    KeepLog, Logged, NewMessage, QueueName, QueueSummary, Results, Selection, Settlement, Spool, SpoolError,
    Stats, Token, rules,
};
use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::message::{Content, MessageId};
use stage::{Hold, Writer};
use state::State;

/// How much a [`MemorySpool`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// Octets of heads and bodies, staged ones included. Default 256 MiB; what the host can spare.
    /// Settlements and their reports may use as much again, so that a full spool can empty itself.
    pub max_octets: u64,
    /// Messages, without reports. Default 100,000, since an empty message costs memory too.
    pub max_messages: usize,
    /// Idempotency keys, messages whose results are kept after they are settled, and events of the log: so
    /// many of each. Default 100,000, some 30 MB each. A message with a key more is refused
    /// ([`SpoolError::Full`]), since a key forgotten early would let a message go out twice; of results and
    /// events the oldest are forgotten. Raise it when more are submitted with a key in the time that keys are
    /// kept.
    pub max_remembered: usize,
}

impl MemoryOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_octets: 256 << 20, max_messages: 100_000, max_remembered: 100_000 }
    }
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`Spool`] in memory. Clones share what it holds.
#[derive(Clone)]
pub struct MemorySpool {
    shared: Arc<Shared>,
}

impl MemorySpool {
    /// An empty spool with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with(MemoryOptions::new())
    }

    /// An empty spool with these limits.
    #[must_use]
    pub fn with(options: MemoryOptions) -> Self {
        Self { shared: Arc::new(Shared { options, state: Mutex::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Default for MemorySpool {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemorySpool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySpool").field("stats", &self.stats()).finish()
    }
}

impl Spool for MemorySpool {
    fn stage(&self) -> BoxFuture<'_, Result<Box<dyn BodyWriter>, SpoolError>> {
        let mut state = self.state();
        state.numbers += 1;
        let hold = Hold { shared: Arc::clone(&self.shared), number: state.numbers };
        state.staged.insert(hold.number, BytesMut::new());
        let writer: Box<dyn BodyWriter> = Box::new(Writer { hold });
        Box::pin(ready(Ok(writer)))
    }

    fn enqueue(
        &self,
        batch: Vec<NewMessage>,
        lease: Option<Timestamp>,
    ) -> BoxFuture<'_, Result<Enqueued, SpoolError>> {
        let mut state = self.state();
        let options = &self.shared.options;
        let result = state.admit(options, batch.iter());
        let result = result.and_then(|()| state.memories.admit(options.max_remembered, &batch));
        let result = result.map(|()| state.store(options, &batch, lease));
        // A staged body that was not taken is given up here, which needs the lock.
        drop(state);
        drop(batch);
        Box::pin(ready(result))
    }

    fn claim(&self, request: ClaimRequest) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        Box::pin(ready(Ok(self.state().claim(&request))))
    }

    fn body(&self, body: &BodyRef) -> BoxFuture<'_, Result<Content, SpoolError>> {
        let octets = body.at_hand.clone().or_else(|| {
            let state = self.state();
            let message = state.messages.get(&body.message).filter(|m| m.number == body.number)?;
            Some(message.body.clone())
        });
        Box::pin(ready(octets.map(Content::Whole).ok_or(SpoolError::Corrupt)))
    }

    fn extend(&self, tokens: Vec<Token>, lease: Timestamp) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        let mut state = self.state();
        let fenced = tokens
            .into_iter()
            .filter(|token| match state.held(token) {
                Some(entry) => {
                    entry.lease = Some((token.number, lease));
                    false
                }
                None => true,
            })
            .collect();
        Box::pin(ready(Ok(fenced)))
    }

    fn settle(
        &self,
        batch: Vec<Settlement>,
        _durability: Durability,
    ) -> BoxFuture<'_, Result<Vec<Token>, SpoolError>> {
        let mut state = self.state();
        let result = batch.iter().try_for_each(rules::check_settlement).and_then(|()| {
            let reports = batch.iter().filter(|s| !s.submit.is_empty() && state.is_held(&s.token));
            // As much again for reports, so that a full spool can empty itself: a report needs none.
            let options = &self.shared.options;
            let room = MemoryOptions {
                max_octets: options.max_octets.saturating_mul(2),
                max_messages: options.max_messages.saturating_mul(2),
                ..*options
            };
            state.admit(&room, reports.flat_map(|s| &s.submit))?;
            Ok(batch.iter().filter(|s| !state.settle(options, s)).map(|s| s.token).collect())
        });
        drop(state);
        drop(batch);
        Box::pin(ready(result))
    }

    fn queues(
        &self,
        after: Option<(QueueName, Class)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, |(queue, _)| Bound::Excluded(queue));
        let page = state
            .queues
            .range((from, Bound::Unbounded))
            .take(limit)
            .map(|(queue, places)| QueueSummary {
                queue: queue.clone(),
                class: Class::Normal,
                entries: places.len() as u64,
                due: state.first(places),
            })
            .collect();
        Box::pin(ready(Ok(page)))
    }

    fn scan(
        &self,
        which: Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        let state = self.state();
        let (first, last) = match which.message {
            Some(id) => (Bound::Included(id), Bound::Included(id)),
            None => (after.map_or(Bound::Unbounded, |(id, _)| Bound::Included(id)), Bound::Unbounded),
        };
        let page = state
            .messages
            .range((first, last))
            .flat_map(|(id, message)| message.entries.keys().map(move |entry| (*id, *entry)))
            .filter(|at| after.is_none_or(|after| *at > after))
            .filter_map(|(id, entry)| state.summary(id, entry))
            .filter(|entry| which.has(entry))
            .take(limit)
            .collect();
        Box::pin(ready(Ok(page)))
    }

    fn alter(&self, alter: Alter) -> BoxFuture<'_, Result<Altered, SpoolError>> {
        drop(alter);
        Box::pin(ready(Err(SpoolError::Storage(std::io::ErrorKind::Unsupported.into()))))
    }

    fn results(&self, message: MessageId) -> BoxFuture<'_, Result<Option<Results>, SpoolError>> {
        Box::pin(ready(Ok(self.state().results(message))))
    }

    fn log(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Logged>, SpoolError>> {
        Box::pin(ready(Ok(self.state().memories.log(after, limit))))
    }

    fn prune(&self, now: Timestamp, log: KeepLog) -> BoxFuture<'_, Result<bool, SpoolError>> {
        let state = &mut *self.state();
        let messages = &state.messages;
        Box::pin(ready(Ok(state.memories.prune(now, log, |id| messages.contains_key(&id)))))
    }

    fn stats(&self) -> Stats {
        self.state().stats
    }

    fn wait(&self, limit: Duration) -> BoxFuture<'_, ()> {
        // Nobody else can put anything in.
        Box::pin(tokio::time::sleep(limit))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(ready(Ok(())))
    }
}

struct Shared {
    options: MemoryOptions,
    state: Mutex<State>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::spool::contract::{remove, sample};
    use crate::spool::{Key, LogEvent, LogKind, NewBody, Then};

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_fits_later() {
        let spool =
            MemorySpool::with(MemoryOptions { max_octets: 1000, max_messages: 3, ..MemoryOptions::new() });
        let sized = |n, size: usize| {
            let mut message = sample(n);
            message.body = NewBody::Inline(vec![b'x'; size].into());
            message.head = Bytes::new();
            message
        };
        assert!(matches!(spool.enqueue(vec![sized(1, 1001)], None).await, Err(SpoolError::TooLarge)));
        assert!(matches!(
            spool.enqueue(vec![sized(1, 600), sized(2, 600)], None).await,
            Err(SpoolError::Full)
        ));
        assert_eq!(spool.stats(), Stats::default());
        let lease = Timestamp::from_millis(5);
        let claims = spool.enqueue(vec![sized(1, 600)], Some(lease)).await.unwrap().claims;
        assert!(matches!(spool.enqueue(vec![sized(2, 600)], None).await, Err(SpoolError::Full)));
        let mut writer = spool.stage().await.unwrap();
        writer.write(vec![0; 300].into()).await.unwrap();
        assert!(matches!(writer.write(vec![0; 300].into()).await, Err(SpoolError::Full)));
        drop(writer);
        let done = Settlement {
            token: claims[0].token,
            at: Timestamp::from_millis(1),
            recipients: Vec::new(),
            attempted: true,
            queue: None,
            then: Then::Remove,
            submit: Vec::new(),
            tell: None,
            log: Vec::new(),
        };
        assert_eq!(spool.settle(vec![done], Durability::Soon).await.unwrap(), Vec::new());
        spool.enqueue(vec![sized(2, 10), sized(3, 10), sized(4, 10)], None).await.unwrap();
        assert!(matches!(spool.enqueue(vec![sized(5, 10)], None).await, Err(SpoolError::Full)));
        // An id that is there already needs no room.
        spool.enqueue(vec![sized(4, 10)], None).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_spool_takes_the_reports_that_empty_it() {
        let spool =
            MemorySpool::with(MemoryOptions { max_octets: 10_000, max_messages: 3, ..MemoryOptions::new() });
        let lease = Timestamp::from_millis(5);
        let claims = spool.enqueue((1..=3).map(sample).collect(), Some(lease)).await.unwrap().claims;
        assert!(matches!(spool.enqueue(vec![sample(4)], None).await, Err(SpoolError::Full)));
        let failed = |(n, claim): (u64, &Claim)| Settlement {
            token: claim.token,
            at: Timestamp::from_millis(1),
            recipients: Vec::new(),
            attempted: true,
            queue: None,
            then: Then::Remove,
            submit: vec![sample(n)],
            tell: None,
            log: Vec::new(),
        };
        let batch: Vec<_> = (10..).zip(&claims).map(failed).collect();
        assert_eq!(spool.settle(batch, Durability::Soon).await.unwrap(), Vec::new());
        assert!(matches!(spool.enqueue(vec![sample(4)], None).await, Err(SpoolError::Full)));
    }

    #[tokio::test]
    async fn a_new_key_is_refused_past_their_number_and_of_the_rest_the_oldest_go() {
        let spool = MemorySpool::with(MemoryOptions { max_remembered: 2, ..MemoryOptions::new() });
        let at = Timestamp::from_millis;
        let keyed = |n: u64| {
            let mut message = sample(n);
            message.key = Key::new(None, &n.to_string(), [1; 32], at(50)).ok();
            message.keep = Some(Duration::from_millis(n));
            message.log = vec![LogEvent {
                at: at(n),
                message: message.id,
                entry: None,
                kind: LogKind::Accepted,
                recipient: None,
                attempt: 0,
                note: None,
            }];
            message
        };
        let claims = spool.enqueue(vec![keyed(1), keyed(2)], Some(at(5))).await.unwrap().claims;
        assert!(matches!(spool.enqueue(vec![keyed(3)], None).await, Err(SpoolError::Full)));
        assert_eq!(spool.enqueue(vec![keyed(1)], None).await.unwrap().known.len(), 1, "no new one");
        assert_eq!(spool.stats().messages, 2);
        spool.settle(claims.iter().map(remove).collect(), Durability::Soon).await.unwrap();
        while spool.prune(at(50), KeepLog::new()).await.unwrap() {}
        let claims = spool.enqueue(vec![keyed(4), keyed(3)], Some(at(5))).await.unwrap().claims;
        spool.settle(claims.iter().map(remove).collect(), Durability::Soon).await.unwrap();
        let mut kept = Vec::new();
        for n in 1..=4 {
            kept.push(spool.results(sample(n).id).await.unwrap().is_some());
        }
        assert_eq!(kept, [false, false, true, true]);
        let logged = spool.log(0, 9).await.unwrap();
        assert_eq!(logged.iter().map(|logged| logged.number).collect::<Vec<_>>(), [3, 4]);
    }
}
