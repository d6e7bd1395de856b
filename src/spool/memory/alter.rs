//! Altering in memory: a page of messages, entry by entry, by the rules that every spool shares.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::super::altering::{Done, Fixed, Mark, Standing, alter, concerns, lease_end};
use super::super::set_back::released;
use super::super::{Alter, Altered, Change, Class, EntrySummary, QueueName, Selection};
use super::state::{Entry, Message, State};
use crate::clock::Timestamp;
use crate::message::MessageId;

impl State {
    /// The entries of one message, or of all, from behind `after` on, in order.
    fn walk(
        &self,
        message: Option<MessageId>,
        after: Option<(MessageId, u32)>,
    ) -> impl Iterator<Item = (MessageId, u32, &Message, &Entry)> {
        let (first, last) = match message {
            Some(id) => (Bound::Included(id), Bound::Included(id)),
            None => (after.map_or(Bound::Unbounded, |(id, _)| Bound::Included(id)), Bound::Unbounded),
        };
        self.messages
            .range((first, last))
            .flat_map(|(id, message)| message.entries.iter().map(move |(at, e)| (*id, *at, message, e)))
            .filter(move |(id, at, ..)| after.is_none_or(|after| (*id, *at) > after))
    }

    pub(super) fn scan(
        &self,
        which: &Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> Vec<EntrySummary> {
        self.walk(which.message, after)
            .filter(|(id, _, message, entry)| entry.is_meant(which, *id, message))
            .take(limit)
            .filter_map(|(id, at, ..)| self.summary(id, at))
            .collect()
    }

    /// Alters one page.
    pub(super) fn alter(&mut self, alter: &Alter) -> Altered {
        let limit = alter.limit.max(1);
        let (mut meant, mut looked, mut last) = (Vec::new(), 0, None);
        for (id, at, message, entry) in self.walk(alter.which.message, alter.after).take(limit) {
            (looked, last) = (looked + 1, Some((id, at)));
            if concerns(&alter.change, at) && entry.is_meant(&alter.which, id, message) {
                meant.push((id, at));
            }
        }
        let mut altered = Altered { next: last.filter(|_| looked == limit), ..Altered::default() };
        let mut queues = BTreeSet::new();
        for (id, at) in meant {
            match self.alter_one(id, at, &alter.change, alter.now, &mut queues) {
                Done::Nothing => {}
                Done::Changed => altered.changed += 1,
                Done::Claimed => altered.claimed += 1,
            }
        }
        altered.queues = queues.into_iter().collect();
        altered
    }

    fn alter_one(
        &mut self,
        id: MessageId,
        at: u32,
        change: &Change,
        now: Timestamp,
        queues: &mut BTreeSet<(QueueName, Class)>,
    ) -> Done {
        let Some(message) = self.messages.get_mut(&id) else { return Done::Nothing };
        let (number, expires, class) = (message.number, message.expires, message.class());
        let (accepted, release) = (message.accepted, released(&message.mail, message.accepted));
        let Some(entry) = message.entries.get_mut(&at) else { return Done::Nothing };
        if let Some((_, until)) = &mut entry.lease {
            *until = lease_end(change, *until);
        }
        let claimed = entry.lease.is_some_and(|(_, until)| until > now);
        let mut is = Standing {
            queue: entry.queue.clone(),
            due: entry.due,
            parked: entry.parked.clone(),
            mark: entry.mark.clone(),
        };
        let (destination, attempts) = (&entry.destination, entry.attempts);
        let fixed = Fixed { destination, expires, entry: at, attempts, accepted, release, claimed };
        let done = alter(&mut is, fixed, change, now);
        if done == Done::Nothing {
            return done;
        }
        let (before, was_parked) = ((entry.queue.clone(), entry.due), entry.parked.is_some());
        if !claimed {
            // Whoever had it is late.
            entry.lease = None;
        }
        entry.noted |= claimed && is.mark.is_some();
        (entry.queue, entry.due, entry.parked, entry.mark) = (is.queue, is.due, is.parked, is.mark);
        let (place, is_parked) = ((entry.queue.clone(), entry.due), entry.parked.is_some());
        if !was_parked {
            self.leave(&before.0, class, (before.1, number, at, id));
        }
        if !is_parked {
            self.enter(place.0.clone(), class, (place.1, number, at, id));
            if done == Done::Changed {
                queues.insert((place.0, class));
            }
        }
        let others = self.stats.parked.saturating_sub(u64::from(was_parked));
        self.stats.parked = others + u64::from(is_parked);
        done
    }

    /// Parks an entry whose hold was noted during a claim that nobody settled.
    pub(super) fn keep_hold(&mut self, id: MessageId, at: u32) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        let (number, class) = (message.number, message.class());
        let Some(entry) = message.entries.get_mut(&at) else { return };
        if let Some(Mark::Hold(reason)) = entry.mark.take() {
            (entry.parked, entry.lease) = (Some(reason), None);
            let (queue, due) = (entry.queue.clone(), entry.due);
            self.leave(&queue, class, (due, number, at, id));
            self.stats.parked += 1;
        }
    }
}

impl Entry {
    fn is_meant(&self, which: &Selection, id: MessageId, message: &Message) -> bool {
        which.fits((id, &self.destination, &self.queue, &message.handling), self.parked.is_some())
    }
}
