//! What a memory spool remembers of messages beyond their time in it: keys, results, and the log.
//!
//! Each is bounded by [`MemoryOptions::max_remembered`](super::MemoryOptions::max_remembered). A key that does
//! not fit is refused, since one forgotten early would let a message go out twice; of results and events the
//! oldest go, since what settles mail must not be refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::super::{
    KeepLog, Key, LogEvent, Logged, NewMessage, REPORT_ENTRY, Recipient, Results, SpoolError, rules,
};
use crate::clock::Timestamp;
use crate::message::{MessageId, Tenant};

type Name = (Option<Tenant>, Box<str>);

#[derive(Default)]
pub(super) struct Memories {
    // Looked up by name only.
    keys: HashMap<Name, Known>,
    key_ends: BTreeSet<(Timestamp, Name)>,
    /// Of entries that are gone, whose messages keep results.
    results: HashMap<MessageId, Kept>,
    result_ends: BTreeSet<(Timestamp, MessageId)>,
    log: VecDeque<Logged>,
    logged: u64,
}

struct Known {
    digest: [u8; 32],
    message: MessageId,
    until: Timestamp,
}

#[derive(Default)]
struct Kept {
    entries: BTreeMap<u32, Vec<Recipient>>,
    /// `None`: the message has entries.
    until: Option<Timestamp>,
}

impl Memories {
    /// Whether the keys of all of these can be taken together.
    pub(super) fn admit(&self, limit: usize, batch: &[NewMessage]) -> Result<(), SpoolError> {
        let mut new: HashMap<Name, [u8; 32]> = HashMap::new();
        for key in batch.iter().filter_map(|message| message.key.as_ref()) {
            let name = name(key);
            let known = self.keys.get(&name).map(|known| known.digest);
            if known.or_else(|| new.get(&name).copied()).is_some_and(|digest| digest != key.digest) {
                return Err(SpoolError::KeyConflict);
            }
            if known.is_none() {
                new.insert(name, key.digest);
            }
        }
        if !new.is_empty() && self.keys.len() + new.len() > limit {
            return Err(SpoolError::Full);
        }
        Ok(())
    }

    /// Under which id the message with this key is stored.
    pub(super) fn find(&self, key: Option<&Key>) -> Option<MessageId> {
        self.keys.get(&name(key?)).map(|known| known.message)
    }

    /// Remembers a key that is not known.
    pub(super) fn learn(&mut self, key: &Key, message: MessageId) {
        let name = name(key);
        self.key_ends.insert((key.until, name.clone()));
        self.keys.insert(name, Known { digest: key.digest, message, until: key.until });
    }

    /// Keeps how the recipients of an entry stand that goes. `until`: it is the last, and all of its message
    /// are kept until then.
    pub(super) fn keep(
        &mut self,
        limit: usize,
        (message, entry): (MessageId, u32),
        recipients: &[Recipient],
        until: Option<Timestamp>,
    ) {
        let kept = self.results.entry(message).or_default();
        if entry != REPORT_ENTRY {
            kept.entries.insert(entry, recipients.iter().map(shortened).collect());
        }
        if let Some(before) = kept.until.take() {
            self.result_ends.remove(&(before, message));
        }
        kept.until = until;
        self.result_ends.extend(until.map(|until| (until, message)));
        while self.result_ends.len() > limit {
            let Some((_, oldest)) = self.result_ends.pop_first() else { break };
            self.results.remove(&oldest);
        }
    }

    /// The results of a message, of which these recipients are in entries that it still has.
    pub(super) fn results(
        &self,
        message: MessageId,
        waiting: Option<BTreeMap<u32, Vec<Recipient>>>,
    ) -> Option<Results> {
        let kept = self.results.get(&message);
        if kept.is_none() && waiting.is_none() {
            return None;
        }
        let mut entries = kept.map(|kept| kept.entries.clone()).unwrap_or_default();
        let until = kept.and_then(|kept| kept.until).filter(|_| waiting.is_none());
        entries.extend(waiting.into_iter().flatten().filter(|(entry, _)| *entry != REPORT_ENTRY));
        let recipients: Vec<_> = entries.into_values().flatten().collect();
        let finished = recipients.iter().all(|recipient| recipient.state.is_terminal());
        Some(Results::new(recipients, finished, until))
    }

    pub(super) fn note(&mut self, limit: usize, events: &[LogEvent]) {
        for event in events {
            self.logged += 1;
            let mut event = event.clone();
            event.note = event.note.map(|note| rules::cut(&note).into());
            self.log.push_back(Logged { number: self.logged, event });
        }
        while self.log.len() > limit {
            self.log.pop_front();
        }
    }

    pub(super) fn log(&self, after: u64, limit: usize) -> Vec<Logged> {
        let from = self.log.partition_point(|logged| logged.number <= after);
        self.log.iter().skip(from).take(limit).cloned().collect()
    }

    /// Forgets a part of what is over; true when there may be more. `waits` says of which messages there are
    /// entries.
    pub(super) fn prune(&mut self, now: Timestamp, keep: KeepLog, waits: impl Fn(MessageId) -> bool) -> bool {
        let mut steps = 0;
        while steps < STEPS
            && let Some((until, name)) = self.key_ends.first().filter(|(until, _)| *until <= now).cloned()
        {
            steps += 1;
            self.key_ends.remove(&(until, name.clone()));
            if let Some(known) = self.keys.get_mut(&name)
                && waits(known.message)
            {
                known.until = now.after(rules::KEY_AGAIN);
                self.key_ends.insert((known.until, name));
            } else {
                self.keys.remove(&name);
            }
        }
        while steps < STEPS
            && let Some((until, message)) = self.result_ends.first().copied()
            && until <= now
        {
            steps += 1;
            self.result_ends.remove(&(until, message));
            self.results.remove(&message);
        }
        let events = usize::try_from(keep.events).unwrap_or(usize::MAX);
        while steps < STEPS
            && let Some(first) = self.log.front()
            && (self.log.len() > events || first.event.at.after(keep.time) <= now)
        {
            steps += 1;
            self.log.pop_front();
        }
        steps >= STEPS
    }
}

fn name(key: &Key) -> Name {
    (key.tenant.clone(), key.name.clone())
}

fn shortened(recipient: &Recipient) -> Recipient {
    let note = recipient.note.as_deref().map(|note| rules::cut(note).into());
    Recipient { note, ..recipient.clone() }
}

/// Few enough for the lock to be short.
const STEPS: usize = 1_000;
