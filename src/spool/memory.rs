//! A memory spool keeps the same promises as any other while the process lives, and nothing after.
//!
//! It is for hosts that keep their mail elsewhere until it is delivered, for relays that may lose
//! what they hold, and for tests: it has no thread and no clock of its own, and the same calls give
//! the same answers. It is bounded: what does not fit is refused with [`SpoolError::Full`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::ready;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    BodyRef, BodyWriter, Claim, ClaimRequest, Durability, EntrySummary, NewBody, NewMessage, QueueName,
    QueueSummary, Recipient, Settlement, Spool, SpoolError, Staged, StagedGuard, Stats, Then, Token, rules,
};
use crate::BoxFuture;
use crate::clock::Timestamp;
use crate::message::{Content, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

/// How much a [`MemorySpool`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// Octets of heads and bodies, staged ones included. Default 256 MiB; what the host can spare.
    pub max_octets: u64,
    /// Messages. Default 100,000, since an empty message costs memory too.
    pub max_messages: usize,
}

impl MemoryOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> Self {
        Self { max_octets: 256 << 20, max_messages: 100_000 }
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
    ) -> BoxFuture<'_, Result<Vec<Claim>, SpoolError>> {
        let mut state = self.state();
        let result = state.admit(&self.shared.options, batch.iter()).map(|()| state.store(&batch, lease));
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
            state.admit(&self.shared.options, reports.flat_map(|s| &s.submit))?;
            Ok(batch.iter().filter(|s| !state.settle(s)).map(|s| s.token).collect())
        });
        drop(state);
        drop(batch);
        Box::pin(ready(result))
    }

    fn queues(
        &self,
        after: Option<QueueName>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<QueueSummary>, SpoolError>> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page = state
            .queues
            .range((from, Bound::Unbounded))
            .take(limit)
            .map(|(queue, places)| QueueSummary {
                queue: queue.clone(),
                entries: places.len() as u64,
                due: state.first(places),
            })
            .collect();
        Box::pin(ready(Ok(page)))
    }

    fn scan(
        &self,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        let state = self.state();
        let from = after.map_or(Bound::Unbounded, |(id, _)| Bound::Included(id));
        let page = state
            .messages
            .range((from, Bound::Unbounded))
            .flat_map(|(id, message)| message.entries.keys().map(move |entry| (*id, *entry)))
            .filter(|at| after.is_none_or(|after| *at > after))
            .filter_map(|(id, entry)| state.summary(id, entry))
            .take(limit)
            .collect();
        Box::pin(ready(Ok(page)))
    }

    fn entries(&self, message: MessageId) -> BoxFuture<'_, Result<Vec<EntrySummary>, SpoolError>> {
        let state = self.state();
        let numbers = state.messages.get(&message).into_iter().flat_map(|m| m.entries.keys());
        let entries = numbers.filter_map(|entry| state.summary(message, *entry)).collect();
        Box::pin(ready(Ok(entries)))
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

/// Where an entry stands in its queue; entries due at the same time keep the order they came in.
type Place = (Timestamp, u64, u32, MessageId);

#[derive(Default)]
struct State {
    messages: BTreeMap<MessageId, Message>,
    /// Entries that are not parked.
    queues: BTreeMap<QueueName, BTreeSet<Place>>,
    staged: BTreeMap<u64, BytesMut>,
    stats: Stats,
    /// Octets of heads and staged bodies, which the statistics do not show.
    other_octets: u64,
    /// Numbers given to messages and staged bodies.
    numbers: u64,
    claims: u64,
}

struct Message {
    number: u64,
    mail: Mail,
    head: Bytes,
    body: Bytes,
    accepted: Timestamp,
    expires: Timestamp,
    entries: BTreeMap<u32, Entry>,
}

struct Entry {
    destination: Domain,
    queue: QueueName,
    due: Timestamp,
    attempts: u32,
    parked: Option<Box<str>>,
    recipients: Vec<Recipient>,
    /// The number of the last claim and until when it hides the entry.
    lease: Option<(u64, Timestamp)>,
}

impl State {
    /// Whether all of these can be stored together.
    fn admit<'a>(
        &self,
        options: &MemoryOptions,
        batch: impl Iterator<Item = &'a NewMessage>,
    ) -> Result<(), SpoolError> {
        let (mut messages, mut octets) = (self.messages.len(), self.stats.octets + self.other_octets);
        for message in batch {
            rules::check_message(message)?;
            let mut needs = message.head.len() as u64;
            match &message.body {
                NewBody::Inline(body) => needs += body.len() as u64,
                // Its octets are counted already.
                NewBody::Staged(body) => match self.staged.get(&body.number) {
                    Some(staged) if staged.len() as u64 == body.size => {}
                    _ => return Err(SpoolError::Invalid("its staged body is not one of this spool")),
                },
            }
            if needs > options.max_octets {
                return Err(SpoolError::TooLarge);
            }
            if !self.messages.contains_key(&message.id) {
                messages += 1;
                octets += needs;
            }
        }
        if messages > options.max_messages || octets > options.max_octets {
            return Err(SpoolError::Full);
        }
        Ok(())
    }

    fn store(&mut self, batch: &[NewMessage], lease: Option<Timestamp>) -> Vec<Claim> {
        let mut claims = Vec::new();
        for new in batch {
            if self.messages.contains_key(&new.id) {
                continue;
            }
            let body = match &new.body {
                NewBody::Inline(octets) => octets.clone(),
                NewBody::Staged(staged) => {
                    let octets = self.staged.remove(&staged.number).unwrap_or_default().freeze();
                    self.other_octets = self.other_octets.saturating_sub(octets.len() as u64);
                    octets
                }
            };
            self.numbers += 1;
            self.other_octets += new.head.len() as u64;
            self.stats.messages += 1;
            self.stats.octets += body.len() as u64;
            let mut message = Message {
                number: self.numbers,
                mail: new.mail.clone(),
                head: new.head.clone(),
                body,
                accepted: new.accepted,
                expires: new.expires,
                entries: BTreeMap::new(),
            };
            for (at, entry) in (0_u32..).zip(&new.entries) {
                let place = (entry.due, message.number, at, new.id);
                self.queues.entry(entry.queue.clone()).or_default().insert(place);
                self.stats.entries += 1;
                let entry = Entry {
                    destination: entry.destination.clone(),
                    queue: entry.queue.clone(),
                    due: entry.due,
                    attempts: 0,
                    parked: None,
                    recipients: entry.recipients.iter().cloned().map(Recipient::new).collect(),
                    lease: None,
                };
                message.entries.insert(at, entry);
            }
            self.messages.insert(new.id, message);
            if let Some(lease) = lease {
                let entries = (0..).take(new.entries.len());
                claims.extend(entries.filter_map(|at| self.take(new.id, at, lease)));
            }
        }
        claims
    }

    fn claim(&mut self, request: &ClaimRequest) -> Vec<Claim> {
        let Some(places) = self.queues.get(&request.queue) else { return Vec::new() };
        let due: Vec<_> = places
            .iter()
            .take_while(|(due, ..)| *due <= request.now)
            .map(|(_, _, at, id)| (*id, *at))
            .filter(|(id, at)| {
                let entry = self.messages.get(id).and_then(|m| m.entries.get(at));
                entry.is_some_and(|e| e.lease.is_none_or(|(_, until)| until <= request.now))
            })
            .take(request.limit)
            .collect();
        due.into_iter().filter_map(|(id, at)| self.take(id, at, request.lease)).collect()
    }

    fn take(&mut self, id: MessageId, at: u32, lease: Timestamp) -> Option<Claim> {
        let message = self.messages.get_mut(&id)?;
        let entry = message.entries.get_mut(&at)?;
        self.claims += 1;
        entry.lease = Some((self.claims, lease));
        Some(Claim {
            token: Token { message: id, entry: at, number: self.claims },
            mail: message.mail.clone(),
            head: message.head.clone(),
            body: BodyRef {
                message: id,
                number: message.number,
                size: message.body.len() as u64,
                at_hand: Some(message.body.clone()),
            },
            accepted: message.accepted,
            expires: message.expires,
            destination: entry.destination.clone(),
            queue: entry.queue.clone(),
            due: entry.due,
            attempts: entry.attempts,
            recipients: entry.recipients.clone(),
        })
    }

    fn held(&mut self, token: &Token) -> Option<&mut Entry> {
        let entry = self.messages.get_mut(&token.message)?.entries.get_mut(&token.entry)?;
        entry.lease.is_some_and(|(number, _)| number == token.number).then_some(entry)
    }

    fn is_held(&self, token: &Token) -> bool {
        let entry = self.messages.get(&token.message).and_then(|m| m.entries.get(&token.entry));
        entry.and_then(|e| e.lease).is_some_and(|(number, _)| number == token.number)
    }

    /// Applies one settlement; false when its token is an old one.
    fn settle(&mut self, settlement: &Settlement) -> bool {
        let token = settlement.token;
        if !self.is_held(&token) {
            return false;
        }
        let Some(message) = self.messages.get_mut(&token.message) else { return false };
        let Some(mut entry) = message.entries.remove(&token.entry) else { return false };
        let number = message.number;
        if let Some(places) = self.queues.get_mut(&entry.queue) {
            places.remove(&(entry.due, number, token.entry, token.message));
            if places.is_empty() {
                self.queues.remove(&entry.queue);
            }
        }
        if settlement.then == Then::Remove {
            self.stats.entries = self.stats.entries.saturating_sub(1);
            if message.entries.is_empty() {
                self.remove(token.message);
            }
        } else {
            entry.lease = None;
            entry.attempts = entry.attempts.saturating_add(u32::from(settlement.attempted));
            entry.recipients.clone_from(&settlement.recipients);
            for recipient in &mut entry.recipients {
                recipient.note = recipient.note.take().map(|note| rules::cut(&note).into());
            }
            if let Some(queue) = &settlement.queue {
                entry.queue = queue.clone();
            }
            match &settlement.then {
                Then::Park(reason) => entry.parked = Some(reason.clone()),
                Then::Retry(due) => entry.due = *due,
                Then::Remove => {}
            }
            if entry.parked.is_none() {
                let place = (entry.due, number, token.entry, token.message);
                self.queues.entry(entry.queue.clone()).or_default().insert(place);
            }
            message.entries.insert(token.entry, entry);
        }
        self.store(&settlement.submit, None);
        true
    }

    fn remove(&mut self, id: MessageId) {
        if let Some(message) = self.messages.remove(&id) {
            self.stats.messages = self.stats.messages.saturating_sub(1);
            self.stats.octets = self.stats.octets.saturating_sub(message.body.len() as u64);
            self.other_octets = self.other_octets.saturating_sub(message.head.len() as u64);
        }
    }

    /// When the first of these can be claimed.
    fn first(&self, places: &BTreeSet<Place>) -> Timestamp {
        let mut first = Timestamp::NEVER;
        for (due, _, at, id) in places {
            let entry = self.messages.get(id).and_then(|m| m.entries.get(at));
            match entry.and_then(|e| e.lease) {
                Some((_, until)) => first = first.min(until.max(*due)),
                None => return first.min(*due),
            }
        }
        first
    }

    fn summary(&self, id: MessageId, at: u32) -> Option<EntrySummary> {
        let message = self.messages.get(&id)?;
        let entry = message.entries.get(&at)?;
        Some(EntrySummary {
            message: id,
            entry: at,
            mail: message.mail.clone(),
            accepted: message.accepted,
            expires: message.expires,
            destination: entry.destination.clone(),
            queue: entry.queue.clone(),
            due: entry.due,
            attempts: entry.attempts,
            parked: entry.parked.clone(),
            recipients: entry.recipients.clone(),
        })
    }
}

/// Holds the room of a staged body until a message takes it over.
struct Hold {
    shared: Arc<Shared>,
    number: u64,
}

impl StagedGuard for Hold {}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.number)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(octets) = state.staged.remove(&self.number) {
            state.other_octets = state.other_octets.saturating_sub(octets.len() as u64);
        }
    }
}

struct Writer {
    hold: Hold,
}

impl Writer {
    fn add(&mut self, octets: &Bytes) -> Result<(), SpoolError> {
        let mut state = self.hold.shared.lock();
        let more = octets.len() as u64;
        if state.stats.octets + state.other_octets + more > self.hold.shared.options.max_octets {
            return Err(SpoolError::Full);
        }
        state.other_octets += more;
        // Kept in the state and not here, so that what is counted goes with the hold.
        state.staged.entry(self.hold.number).or_default().extend_from_slice(octets);
        Ok(())
    }
}

impl BodyWriter for Writer {
    fn write(&mut self, octets: Bytes) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(ready(self.add(&octets)))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Staged, SpoolError>> {
        let size = self.hold.shared.lock().staged.get(&self.hold.number).map_or(0, |o| o.len() as u64);
        let staged = Staged { number: self.hold.number, size, guard: Some(Box::new(self.hold)) };
        Box::pin(ready(Ok(staged)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::contract::sample;

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_fits_later() {
        let spool = MemorySpool::with(MemoryOptions { max_octets: 1000, max_messages: 3 });
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
        let claims = spool.enqueue(vec![sized(1, 600)], Some(lease)).await.unwrap();
        assert!(matches!(spool.enqueue(vec![sized(2, 600)], None).await, Err(SpoolError::Full)));
        let mut writer = spool.stage().await.unwrap();
        writer.write(vec![0; 300].into()).await.unwrap();
        assert!(matches!(writer.write(vec![0; 300].into()).await, Err(SpoolError::Full)));
        drop(writer);
        let done = Settlement {
            token: claims[0].token,
            recipients: Vec::new(),
            attempted: true,
            queue: None,
            then: Then::Remove,
            submit: Vec::new(),
        };
        assert_eq!(spool.settle(vec![done], Durability::Soon).await.unwrap(), Vec::new());
        spool.enqueue(vec![sized(2, 10), sized(3, 10), sized(4, 10)], None).await.unwrap();
        assert!(matches!(spool.enqueue(vec![sized(5, 10)], None).await, Err(SpoolError::Full)));
        // An id that is there already needs no room.
        spool.enqueue(vec![sized(4, 10)], None).await.unwrap();
    }
}
