//! The state is all that a memory spool holds, and the rules by which it changes; no lock is here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::super::{
    BodyRef, Claim, ClaimRequest, Enqueued, EntrySummary, Known, NewBody, NewMessage, QueueName, Recipient,
    Results, Settlement, SpoolError, Stats, Then, Token, rules,
};
use super::MemoryOptions;
use super::memories::Memories;
use crate::clock::Timestamp;
use crate::message::{Handling, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

/// Where an entry stands in its queue; entries due at the same time keep the order they came in.
pub(super) type Place = (Timestamp, u64, u32, MessageId);

#[derive(Default)]
pub(super) struct State {
    pub(super) messages: BTreeMap<MessageId, Message>,
    /// Entries that are not parked.
    pub(super) queues: BTreeMap<QueueName, BTreeSet<Place>>,
    pub(super) staged: BTreeMap<u64, BytesMut>,
    pub(super) stats: Stats,
    /// Octets of heads and staged bodies, which the statistics do not show.
    pub(super) other_octets: u64,
    /// Numbers given to messages and staged bodies.
    pub(super) numbers: u64,
    claims: u64,
    /// What outlives messages.
    pub(super) memories: Memories,
}

pub(super) struct Message {
    pub(super) number: u64,
    mail: Mail,
    handling: Handling,
    head: Bytes,
    pub(super) body: Bytes,
    accepted: Timestamp,
    expires: Timestamp,
    keep: Option<Duration>,
    pub(super) entries: BTreeMap<u32, Entry>,
}

pub(super) struct Entry {
    destination: Domain,
    queue: QueueName,
    due: Timestamp,
    attempts: u32,
    parked: Option<Box<str>>,
    recipients: Vec<Recipient>,
    /// The number of the last claim and until when it hides the entry.
    pub(super) lease: Option<(u64, Timestamp)>,
}

impl State {
    /// Whether all of these can be stored together.
    pub(super) fn admit<'a>(
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
            if !self.messages.contains_key(&message.id) && self.memories.find(message.key.as_ref()).is_none()
            {
                messages += 1;
                octets += needs;
            }
        }
        if messages > options.max_messages || octets > options.max_octets {
            return Err(SpoolError::Full);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        options: &MemoryOptions,
        batch: &[NewMessage],
        lease: Option<Timestamp>,
    ) -> Enqueued {
        let mut enqueued = Enqueued::default();
        for new in batch {
            if let Some(stored) = self.memories.find(new.key.as_ref()) {
                enqueued.known.push(Known { given: new.id, stored });
                continue;
            }
            if let Some(key) = &new.key {
                self.memories.learn(key, new.id);
            }
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
                handling: new.handling.clone(),
                head: new.head.clone(),
                body,
                accepted: new.accepted,
                expires: new.expires,
                keep: new.keep,
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
            self.memories.note(options.max_remembered, &new.log);
            if let Some(lease) = lease {
                let entries = (0..).take(new.entries.len());
                enqueued.claims.extend(entries.filter_map(|at| self.take(new.id, at, lease)));
            }
        }
        enqueued
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest) -> Vec<Claim> {
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

    pub(super) fn take(&mut self, id: MessageId, at: u32, lease: Timestamp) -> Option<Claim> {
        let message = self.messages.get_mut(&id)?;
        let entry = message.entries.get_mut(&at)?;
        self.claims += 1;
        entry.lease = Some((self.claims, lease));
        Some(Claim {
            token: Token { message: id, entry: at, number: self.claims },
            mail: message.mail.clone(),
            handling: message.handling.clone(),
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
            cancelled: false,
            recipients: entry.recipients.clone(),
        })
    }

    pub(super) fn held(&mut self, token: &Token) -> Option<&mut Entry> {
        let entry = self.messages.get_mut(&token.message)?.entries.get_mut(&token.entry)?;
        entry.lease.is_some_and(|(number, _)| number == token.number).then_some(entry)
    }

    pub(super) fn is_held(&self, token: &Token) -> bool {
        let entry = self.messages.get(&token.message).and_then(|m| m.entries.get(&token.entry));
        entry.and_then(|e| e.lease).is_some_and(|(number, _)| number == token.number)
    }

    /// Applies one settlement; false when its token is an old one.
    pub(super) fn settle(&mut self, options: &MemoryOptions, settlement: &Settlement) -> bool {
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
            if let Some(keep) = message.keep {
                let until = message.entries.is_empty().then(|| settlement.at.after(keep));
                let (at, recipients) = ((token.message, token.entry), &settlement.recipients);
                self.memories.keep(options.max_remembered, at, recipients, until);
            }
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
        self.store(options, &settlement.submit, None);
        self.memories.note(options.max_remembered, &settlement.log);
        true
    }

    /// How the recipients of a message stand that keeps results.
    pub(super) fn results(&self, id: MessageId) -> Option<Results> {
        let message = self.messages.get(&id).filter(|message| message.keep.is_some());
        let waiting = message.map(|message| {
            let entries = message.entries.iter();
            entries.map(|(at, entry)| (*at, entry.recipients.clone())).collect()
        });
        self.memories.results(id, waiting)
    }

    pub(super) fn remove(&mut self, id: MessageId) {
        if let Some(message) = self.messages.remove(&id) {
            self.stats.messages = self.stats.messages.saturating_sub(1);
            self.stats.octets = self.stats.octets.saturating_sub(message.body.len() as u64);
            self.other_octets = self.other_octets.saturating_sub(message.head.len() as u64);
        }
    }

    /// When the first of these can be claimed.
    pub(super) fn first(&self, places: &BTreeSet<Place>) -> Timestamp {
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

    pub(super) fn summary(&self, id: MessageId, at: u32) -> Option<EntrySummary> {
        let message = self.messages.get(&id)?;
        let entry = message.entries.get(&at)?;
        Some(EntrySummary {
            message: id,
            entry: at,
            mail: message.mail.clone(),
            handling: message.handling.clone(),
            accepted: message.accepted,
            expires: message.expires,
            destination: entry.destination.clone(),
            queue: entry.queue.clone(),
            due: entry.due,
            attempts: entry.attempts,
            cancelled: false,
            parked: entry.parked.clone(),
            recipients: entry.recipients.clone(),
        })
    }
}
