//! The report entry of a message: what its sender is to be told, until it is.

use super::super::super::{REPORT_ENTRY, Recipient, Tell, rules};
use super::{Entry, State};
use crate::clock::Timestamp;
use crate::message::MessageId;

impl State {
    /// Adds to the report entry of a message, which comes into being with that.
    pub(super) fn tell(&mut self, id: MessageId, tell: &Tell) {
        let cut = |recipient: &Recipient| {
            let note = recipient.note.as_deref().map(|note| rules::cut(note).into());
            Recipient { note, ..recipient.clone() }
        };
        let told = tell.recipients.iter().map(cut);
        let Some(message) = self.messages.get_mut(&id) else { return };
        if let Some(entry) = message.entries.get_mut(&REPORT_ENTRY) {
            entry.recipients.extend(told);
            // Whoever is at work on it does not know of these.
            entry.lease = None;
            let due = entry.due.min(tell.due);
            return self.reports_at(id, due);
        }
        let entry = Entry {
            destination: tell.destination.clone(),
            queue: tell.queue.clone(),
            due: tell.due,
            attempts: 0,
            parked: None,
            recipients: told.collect(),
            lease: None,
        };
        message.entries.insert(REPORT_ENTRY, entry);
        let place = (tell.due, message.number, REPORT_ENTRY, id);
        self.queues.entry(tell.queue.clone()).or_default().insert(place);
        self.stats.entries += 1;
    }

    /// Makes the report entry due at once, if nothing else is left of the message.
    pub(super) fn hasten(&mut self, id: MessageId) {
        let is_last = |entry: (&u32, &Entry)| *entry.0 == REPORT_ENTRY;
        if self
            .messages
            .get(&id)
            .is_some_and(|message| message.entries.first_key_value().is_some_and(is_last))
        {
            self.reports_at(id, Timestamp::default());
        }
    }

    fn reports_at(&mut self, id: MessageId, due: Timestamp) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        let Some(entry) = message.entries.get_mut(&REPORT_ENTRY) else { return };
        let before = std::mem::replace(&mut entry.due, due);
        if let Some(places) = self.queues.get_mut(&entry.queue)
            && places.remove(&(before, message.number, REPORT_ENTRY, id))
        {
            places.insert((due, message.number, REPORT_ENTRY, id));
        }
    }
}
