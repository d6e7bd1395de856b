//! The state is all that a memory spool holds, and the rules by which it changes; no lock is here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::super::altering::{Mark, stays};
use super::super::{
    BodyRef, Claim, ClaimRequest, Class, Enqueued, EntrySummary, Known, NewBody, NewMessage, QueueName,
    Recipient, Results, Settlement, SpoolError, Stats, Then, Token, rules,
};
use super::MemoryOptions;
use super::memories::Memories;
use crate::clock::Timestamp;
use crate::message::{Handling, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::Mail;

mod tell;

/// Where an entry stands in its queue; entries due at the same time keep the order they came in.
pub(super) type Place = (Timestamp, u64, u32, MessageId);

#[derive(Default)]
pub(super) struct State {
    pub(super) messages: BTreeMap<MessageId, Message>,
    /// Entries that are not parked.
    pub(super) queues: BTreeMap<(QueueName, Class), BTreeSet<Place>>,
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
    pub(super) mail: Mail,
    pub(super) handling: Handling,
    head: Bytes,
    pub(super) body: Bytes,
    pub(super) accepted: Timestamp,
    pub(super) expires: Timestamp,
    keep: Option<Duration>,
    pub(super) entries: BTreeMap<u32, Entry>,
}

pub(super) struct Entry {
    pub(super) destination: Domain,
    pub(super) queue: QueueName,
    pub(super) due: Timestamp,
    pub(super) attempts: u32,
    pub(super) parked: Option<Box<str>>,
    /// What is to be done with it, and whether that was noted since it was claimed.
    pub(super) mark: Option<Mark>,
    pub(super) noted: bool,
    recipients: Vec<Recipient>,
    /// The number of the last claim and until when it hides the entry.
    pub(super) lease: Option<(u64, Timestamp)>,
}

impl Message {
    pub(super) fn class(&self) -> Class {
        Class::of(&self.mail)
    }
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
                self.queues.entry((entry.queue.clone(), message.class())).or_default().insert(place);
                self.stats.entries += 1;
                let entry = Entry {
                    destination: entry.destination.clone(),
                    queue: entry.queue.clone(),
                    due: entry.due,
                    attempts: 0,
                    parked: None,
                    mark: None,
                    noted: false,
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
        let key = (request.queue.clone(), request.class);
        let Some(places) = self.queues.get(&key) else { return Vec::new() };
        let mut held = Vec::new();
        let due: Vec<_> = places
            .iter()
            .take_while(|(due, ..)| *due <= request.now)
            .map(|(_, _, at, id)| (*id, *at))
            .filter(|(id, at)| {
                let entry = self.messages.get(id).and_then(|m| m.entries.get(at));
                let free = entry.filter(|e| e.lease.is_none_or(|(_, until)| until <= request.now));
                match free.map(|e| &e.mark) {
                    Some(Some(Mark::Hold(_))) => held.push((*id, *at)),
                    Some(_) => return true,
                    None => {}
                }
                false
            })
            .take(request.limit)
            .collect();
        held.into_iter().for_each(|(id, at)| self.keep_hold(id, at));
        due.into_iter().filter_map(|(id, at)| self.take(id, at, request.lease)).collect()
    }

    pub(super) fn take(&mut self, id: MessageId, at: u32, lease: Timestamp) -> Option<Claim> {
        let message = self.messages.get_mut(&id)?;
        let alone = message.entries.len() == 1;
        let entry = message.entries.get_mut(&at)?;
        self.claims += 1;
        entry.lease = Some((self.claims, lease));
        entry.noted = false;
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
            cancelled: entry.mark.is_some(),
            alone,
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
        if let Some(tell) = &settlement.tell {
            self.tell(token.message, tell);
        }
        let Some(message) = self.messages.get_mut(&token.message) else { return false };
        let Some(mut entry) = message.entries.remove(&token.entry) else { return false };
        let (number, class) = (message.number, message.class());
        let place = (entry.due, number, token.entry, token.message);
        if settlement.then == Then::Remove {
            self.stats.entries = self.stats.entries.saturating_sub(1);
            let is_last = message.entries.is_empty();
            if let Some(keep) = message.keep {
                let until = is_last.then(|| settlement.at.after(keep));
                let (at, recipients) = ((token.message, token.entry), &settlement.recipients);
                self.memories.keep(options.max_remembered, at, recipients, until);
            }
            self.leave(&entry.queue, class, place);
            if is_last {
                self.remove(token.message);
            }
            self.hasten(token.message);
        } else {
            let before = entry.queue.clone();
            entry.lease = None;
            entry.attempts = entry.attempts.saturating_add(u32::from(settlement.attempted));
            entry.recipients.clone_from(&settlement.recipients);
            for recipient in &mut entry.recipients {
                recipient.note = recipient.note.take().map(|note| rules::cut(&note).into());
            }
            if let Some(queue) = &settlement.queue {
                entry.queue = queue.clone();
            }
            let mark = entry.mark.clone().filter(|_| entry.noted);
            let (due, parked) = stays(&settlement.then, mark.as_ref());
            (entry.due, entry.parked) = (due.unwrap_or(entry.due), parked.map(Into::into));
            if matches!(entry.mark, Some(Mark::Hold(_))) {
                entry.mark = None;
            }
            let (queue, due, is_parked) = (entry.queue.clone(), entry.due, entry.parked.is_some());
            message.entries.insert(token.entry, entry);
            self.leave(&before, class, place);
            if is_parked {
                self.stats.parked += 1;
            } else {
                self.enter(queue, class, (due, number, token.entry, token.message));
            }
        }
        self.store(options, &settlement.submit, None);
        self.memories.note(options.max_remembered, &settlement.log);
        true
    }

    pub(super) fn enter(&mut self, queue: QueueName, class: Class, place: Place) {
        self.queues.entry((queue, class)).or_default().insert(place);
    }

    pub(super) fn leave(&mut self, queue: &QueueName, class: Class, place: Place) {
        let key = (queue.clone(), class);
        if let Some(places) = self.queues.get_mut(&key) {
            places.remove(&place);
            if places.is_empty() {
                self.queues.remove(&key);
            }
        }
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
            cancelled: entry.mark == Some(Mark::Cancel),
            parked: entry.parked.clone(),
            recipients: entry.recipients.clone(),
        })
    }
}
