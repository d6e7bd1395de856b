//! The journal is what the engine puts into the spool's durable log, where it is asked to
//! ([`EngineOptions::log`](super::EngineOptions::log)): the same that observers are told of messages and
//! recipients, as rows that are stored in the transaction in which they become true.

use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::spool::{LogEvent, LogKind, RecipientState};

use super::settle::Decision;

/// A message is stored.
pub(crate) fn accepted(message: MessageId, at: Timestamp) -> LogEvent {
    LogEvent { at, message, entry: None, kind: LogKind::Accepted, recipient: None, attempt: 0, note: None }
}

/// What was found out about an entry, and the reports that tell of it.
pub(crate) fn settled(
    decision: &Decision,
    reports: impl Iterator<Item = MessageId>,
    at: Timestamp,
) -> Vec<LogEvent> {
    let claim = &decision.entry.claim;
    let (message, entry) = (claim.token.message, Some(claim.token.entry));
    let attempt = if decision.attempted { claim.attempts.saturating_add(1) } else { 0 };
    let news = decision.news.iter().filter_map(|(place, _)| {
        let recipient = decision.recipients.get(*place)?;
        let kind = match recipient.state {
            RecipientState::Waiting => LogKind::Deferred,
            RecipientState::Delivered => LogKind::Delivered,
            RecipientState::Failed => LogKind::Failed,
            RecipientState::Expired => LogKind::Expired,
            RecipientState::Cancelled => LogKind::Cancelled,
        };
        let (rcpt, note) = (recipient.rcpt.clone(), recipient.note.clone());
        Some(LogEvent { at, message, entry, kind, recipient: Some(rcpt), attempt, note })
    });
    let reported = reports.map(|report| LogEvent {
        at,
        message,
        entry,
        kind: LogKind::Reported,
        recipient: None,
        attempt,
        note: Some(report.to_string().into()),
    });
    news.chain(reported).collect()
}
