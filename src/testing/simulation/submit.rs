//! A caller that submits a message, and does it over where it does not know whether it is stored.
//!
//! Without a key it keeps to the id that it made, and does it over at once or not at all: once the message is
//! delivered, nothing is left that it would be known by. With a key each try has an id of its own, a while later,
//! and it goes on in the next life: a host program would, whose order is not marked as sent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::content::body;
use super::ledger::Ledger;
use super::plan::Submission;
use crate::delivery::{Engine, SubmitError, SubmitOptions};
use crate::message::{Envelope, MessageId, RawMessage};
use crate::smtp::address::{ForwardPath, ReversePath};
use crate::smtp::params::{Hold, Rcpt};
use crate::spool::SpoolError;

/// Submits. `is_first`: nobody did it before.
pub(super) async fn submit(engine: Engine, ledger: Arc<Ledger>, submission: Submission, is_first: bool) {
    let Some(message) = message(&submission) else { return ledger.gives_up() };
    let mut id = engine.new_id();
    ledger.submits(id, &submission);
    let mut known = is_first;
    for _ in 0..SUBMIT_TIMES {
        match engine.submit_with(message.clone(), options(&submission, id)).await {
            Ok(receipt) => {
                ledger.answered(&submission);
                return ledger.accepted(receipt.id());
            }
            Err(SubmitError::KeyConflict) => {
                ledger.broken(&format!("{:?} is in conflict with itself", submission.key));
                return ledger.gives_up();
            }
            Err(SubmitError::Spool(SpoolError::Unknown(_))) => known = false,
            // To be done over when there is an engine again.
            Err(SubmitError::Closed) if submission.key.is_some() => return ledger.gives_up(),
            Err(_) if known => {
                ledger.answered(&submission);
                return ledger.refused(id);
            }
            Err(_) => {}
        }
        if submission.key.is_some() {
            sleep(SUBMIT_AGAIN).await;
            id = engine.new_id();
            ledger.submits(id, &submission);
        }
    }
    ledger.answered(&submission);
    ledger.gives_up();
}

/// Submits once more what was submitted before; `other`: with another content.
pub(super) async fn again(engine: Engine, ledger: Arc<Ledger>, submission: Submission, other: bool) {
    let number = submission.number + if other { OTHER } else { 0 };
    let submission = Submission { number, ..submission };
    let Some(message) = message(&submission).filter(|_| ledger.knows_key(&submission)) else {
        return ledger.gives_up();
    };
    let id = engine.new_id();
    ledger.submits_again(id, &submission);
    let answer = engine.submit_with(message, options(&submission, id)).await;
    ledger.again(&submission, id, other, &answer.map(|receipt| (receipt.id(), receipt.was_known())));
    ledger.gives_up();
}

fn options(submission: &Submission, id: MessageId) -> SubmitOptions {
    SubmitOptions {
        id: Some(id),
        key: submission.key.clone(),
        tenant: submission.tenant.clone(),
        tags: submission.tag.iter().cloned().collect(),
        ..SubmitOptions::new()
    }
}

fn message(submission: &Submission) -> Option<RawMessage> {
    let mut recipients = Vec::new();
    for (to, notify) in &submission.to {
        let mut rcpt = Rcpt::new(ForwardPath::parse(to).ok()?);
        rcpt.notify = *notify;
        recipients.push(rcpt);
    }
    let mut envelope = Envelope::new(ReversePath::parse(&submission.from).ok()?, recipients);
    envelope.priority = submission.priority;
    envelope.hold = submission.hold.map(Hold::For);
    let header = format!("From: s@home.test\r\nSubject: number {}\r\n\r\n", submission.number);
    let octets = [header.as_bytes(), &body(submission.number, submission.size)].concat();
    Some(RawMessage::new(envelope, Bytes::from(octets)))
}

/// A caller that does not know whether its message is stored asks so often, and then gives up.
const SUBMIT_TIMES: usize = 20;
const SUBMIT_AGAIN: Duration = Duration::from_secs(10);
/// Numbers of contents that a key does not stand for.
const OTHER: u64 = 1 << 40;
