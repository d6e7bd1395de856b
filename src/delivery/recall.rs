//! Recalling is finding out from the spool how a message stands that this process does not settle itself:
//! after a restart, or because another process on the same spool does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::attempt::{Accepted, Cause, Outcome};
use crate::clock::{Clock, SystemClock};
use crate::message::MessageId;
use crate::smtp::address::ForwardPath;
use crate::spool::{
    EntrySummary, REPORT_ENTRY, Recipient, RecipientState, Results, Selection, Spool, SpoolError,
};

/// A recipient and what is known of it.
pub(crate) type Told = (ForwardPath, Outcome);

/// Asks a spool how messages stand, for all receipts of an engine, and never too often.
#[derive(Debug)]
pub(crate) struct Recall {
    spool: Arc<dyn Spool>,
    /// When it may be asked next.
    next: Mutex<Option<Instant>>,
}

impl Recall {
    pub(crate) fn new(spool: Arc<dyn Spool>) -> Arc<Self> {
        Arc::new(Self { spool, next: Mutex::new(None) })
    }

    /// Whether others may settle what this process watches.
    pub(crate) fn is_shared(&self) -> bool {
        self.spool.is_shared()
    }

    /// All entries of a message: a page of a spool may be less than a message has.
    pub(crate) async fn entries(&self, id: MessageId) -> Result<Vec<EntrySummary>, SpoolError> {
        let mut entries: Vec<EntrySummary> = Vec::new();
        loop {
            let after = entries.last().map(|entry| (entry.message, entry.entry));
            let page = self.spool.scan(Selection::message(id), after, PAGE).await?;
            let ends = page.len() < PAGE;
            entries.extend(page);
            if ends {
                return Ok(entries);
            }
        }
    }

    pub(crate) async fn results(&self, id: MessageId) -> Result<Option<Results>, SpoolError> {
        self.spool.results(id).await
    }

    /// Waits until every recipient of a message is settled, and says what is remembered of them: nothing
    /// where the message does not keep results.
    pub(crate) async fn settled(&self, id: MessageId) -> Vec<Told> {
        let mut pause = FIRST_PAUSE;
        loop {
            self.turn().await;
            // An error is no answer: the message may be there, so ask again.
            match self.spool.results(id).await {
                Ok(Some(results)) if results.finished => return told(&results.recipients),
                Ok(None) if self.is_gone(id).await => return Vec::new(),
                _ => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn is_gone(&self, id: MessageId) -> bool {
        let first = self.spool.scan(Selection::message(id), None, 1).await;
        first.is_ok_and(|entries| entries.first().is_none_or(|entry| entry.entry == REPORT_ENTRY))
    }

    /// Waits for one's turn to ask.
    async fn turn(&self) {
        let mut next = self.next.lock().await;
        let now = SystemClock.mono();
        if let Some(at) = *next {
            tokio::time::sleep(at.saturating_duration_since(now)).await;
        }
        *next = Some(next.map_or(now, |at| at.max(now)) + BETWEEN);
    }
}

/// What is known of recipients that are settled, from what was noted of them.
pub(crate) fn told(recipients: &[Recipient]) -> Vec<Told> {
    recipients.iter().filter_map(|recipient| Some((recipient.rcpt.to.clone(), outcome(recipient)?))).collect()
}

fn outcome(recipient: &Recipient) -> Option<Outcome> {
    let note = recipient.note.clone();
    Some(match recipient.state {
        RecipientState::Waiting => return None,
        RecipientState::Delivered => Outcome::Delivered(Accepted::noted(note)),
        RecipientState::Failed => Outcome::Failed(Cause::Noted(note)),
        RecipientState::Expired => Outcome::Failed(Cause::Expired(note)),
        RecipientState::Cancelled => Outcome::Failed(Cause::Cancelled),
    })
}

/// Entries that are asked for at a time: no spool gives fewer where there are more.
const PAGE: usize = 1_000;
/// How soon a receipt asks again; then ever less often.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// All receipts together ask 50 times a second: little beside the delivering, and thousands of receipts are
/// still served within minutes.
const BETWEEN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::params::Rcpt;

    #[test]
    fn what_was_noted_is_told_as_no_more_than_that() {
        let noted = |state, note: Option<&str>| {
            let rcpt = Rcpt::parse("<a@b.test>").unwrap();
            told(&[Recipient { rcpt, state, note: note.map(Into::into) }]).pop().map(|(_, outcome)| outcome)
        };
        assert_eq!(noted(RecipientState::Waiting, Some("450 later")), None);
        let Some(Outcome::Delivered(accepted)) = noted(RecipientState::Delivered, Some("250 ok")) else {
            panic!()
        };
        assert_eq!((accepted.noted.as_deref(), accepted.reply), (Some("250 ok"), None));
        let cause = |outcome: Option<Outcome>| outcome.unwrap().cause().unwrap().to_string();
        assert_eq!(cause(noted(RecipientState::Failed, Some("550 no"))), "550 no");
        assert_eq!(cause(noted(RecipientState::Failed, None)), "it failed, and why was not noted");
        let late = cause(noted(RecipientState::Expired, Some("450 later")));
        assert_eq!(late, "could not be delivered in time; last: 450 later");
        assert_eq!(cause(noted(RecipientState::Cancelled, None)), "cancelled");
    }

    #[tokio::test(start_paused = true)]
    async fn many_receipts_ask_no_more_often_than_that() {
        let recall = Recall::new(Arc::new(crate::spool::MemorySpool::new()));
        let begin = SystemClock.mono();
        for _ in 0..101 {
            recall.turn().await;
        }
        assert_eq!(SystemClock.mono().saturating_duration_since(begin), Duration::from_secs(2));
    }

    #[tokio::test]
    async fn a_message_to_more_destinations_than_a_page_has_is_recalled_whole() {
        let spool = crate::spool::MemorySpool::new();
        let mut message = crate::spool::contract::sample(1);
        message.entries = vec![message.entries[0].clone(); 2 * PAGE + 1];
        let id = message.id;
        spool.enqueue(vec![message, crate::spool::contract::sample(2)], None).await.unwrap();
        let entries = Recall::new(Arc::new(spool)).entries(id).await.unwrap();
        let numbers: Vec<_> = entries.iter().map(|entry| entry.entry).collect();
        assert!(entries.iter().all(|entry| entry.message == id));
        assert!(numbers.iter().copied().eq(0..2_001), "each once, in order");
    }
}
