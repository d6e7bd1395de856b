//! The settler makes settlements durable: one call to the spool at a time, each with everything that
//! finished during the one before.
//!
//! What follows from a settlement comes after it: the place is free, the schedule knows when the entry
//! is due again, receipts resolve, observers are told. A settlement that was fenced off (somebody
//! else has claimed the entry since) is nobody's news here. The spool's failures are waited out;
//! nothing is forgotten, and nothing is told that is not stored.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::attempt::{Cause, Outcome};
use crate::spool::{NewBody, NewMessage, RecipientState, Settlement, SpoolError, Then, Token};

use super::event::{About, Event};
use super::report;
use super::settle::{Decision, Finished, decide};
use super::shared::Shared;

/// What the settler is sent.
#[derive(Debug)]
pub(crate) enum ToSettle {
    Entry(Box<Finished>),
    /// Nothing more comes; answer when all before is stored.
    End(oneshot::Sender<()>),
}

/// A decision with what is stored along with it.
struct Pending {
    decision: Decision,
    report: Option<NewMessage>,
    told: usize,
}

/// Settles until told to end.
pub(crate) async fn settle(shared: Arc<Shared>, mut from: mpsc::UnboundedReceiver<ToSettle>) {
    let mut items = Vec::new();
    while from.recv_many(&mut items, BATCH).await > 0 {
        let mut batch = Vec::with_capacity(items.len());
        let mut end = None;
        for item in items.drain(..) {
            match item {
                ToSettle::Entry(finished) => batch.extend(prepare(&shared, *finished).await),
                ToSettle::End(done) => end = Some(done),
            }
        }
        store(&shared, batch).await;
        if let Some(done) = end {
            let _ = done.send(());
            return;
        }
    }
}

/// Decides, and writes the report if there is to be one.
async fn prepare(shared: &Shared, finished: Finished) -> Option<Pending> {
    shared.look(|core| core.number(&finished.entry.claim.token))?;
    let decision = decide(finished, shared.now().wall, &shared.retry, &shared.rng);
    let told = decision.to_report().count();
    let report = if told > 0 { report::write(shared, &decision).await } else { None };
    Some(Pending { decision, report, told })
}

/// Stores a batch, however long the spool takes to accept it.
async fn store(shared: &Arc<Shared>, mut batch: Vec<Pending>) {
    let mut pause = FIRST_PAUSE;
    // After an answer that was not known, a settlement that is refused as too old was our own.
    let mut unsure = false;
    while !batch.is_empty() {
        match call(shared, &batch).await {
            Ok(fenced) => {
                shared.spool_worked();
                return settled(shared, batch, if unsure { &[] } else { &fenced });
            }
            Err(error) => {
                unsure |= matches!(error, SpoolError::Unknown(_));
                if batch.len() > 1 {
                    batch = one_by_one(shared, batch, unsure).await;
                } else if matches!(error, SpoolError::TooLarge | SpoolError::Invalid(_)) {
                    refused(shared, &mut batch, &error);
                    continue;
                } else {
                    shared.spool_failed(&error);
                }
            }
        }
        if !batch.is_empty() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Stores what can be stored, and returns the rest: one that cannot must not keep the others.
async fn one_by_one(shared: &Arc<Shared>, batch: Vec<Pending>, unsure: bool) -> Vec<Pending> {
    let mut rest = Vec::new();
    for pending in batch {
        let mut single = vec![pending];
        match call(shared, &single).await {
            Ok(fenced) => settled(shared, single, if unsure { &[] } else { &fenced }),
            Err(error @ (SpoolError::TooLarge | SpoolError::Invalid(_))) => {
                refused(shared, &mut single, &error);
                rest.append(&mut single);
            }
            Err(error) => {
                shared.spool_failed(&error);
                rest.append(&mut single);
            }
        }
    }
    rest
}

/// A settlement that the spool will never take: its report is given up, or, if it has none, the
/// entry, which then waits for the end of its lease.
fn refused(shared: &Arc<Shared>, single: &mut Vec<Pending>, error: &SpoolError) {
    tracing::error!(%error, "a settlement was refused");
    for pending in single.iter_mut() {
        if pending.report.take().is_none() {
            let claim = &pending.decision.entry.claim;
            let lease = shared.options.lease;
            shared.with(|core, now, _| {
                core.release(&claim.token);
                core.schedule.note(&claim.queue, now.wall.after(lease), now.wall);
            });
            return single.clear();
        }
    }
}

async fn call(shared: &Shared, batch: &[Pending]) -> Result<Vec<Token>, SpoolError> {
    let settlements: Vec<Settlement> = shared.look(|core| {
        let settlement = |pending: &Pending| {
            let token = &pending.decision.entry.claim.token;
            // The number of a later claim of our own; an entry that is no longer ours has its old one.
            let number = core.number(token).unwrap_or(token.number);
            let mut settlement = pending.decision.settlement(number);
            settlement.submit.extend(pending.report.as_ref().and_then(copy));
            settlement
        };
        batch.iter().map(settlement).collect()
    });
    shared.spool.settle(settlements, shared.options.durability).await
}

/// A report once more: a call may have to be made again.
fn copy(report: &NewMessage) -> Option<NewMessage> {
    let NewBody::Inline(body) = &report.body else { return None };
    Some(NewMessage {
        id: report.id,
        mail: report.mail.clone(),
        head: report.head.clone(),
        body: NewBody::Inline(body.clone()),
        accepted: report.accepted,
        expires: report.expires,
        entries: report.entries.clone(),
    })
}

/// What follows from settlements that are stored.
fn settled(shared: &Arc<Shared>, batch: Vec<Pending>, fenced: &[Token]) {
    let fenced = |pending: &Pending| {
        let token = &pending.decision.entry.claim.token;
        fenced.iter().any(|f| (f.message, f.entry) == (token.message, token.entry))
    };
    let (lost, kept): (Vec<_>, Vec<_>) = batch.into_iter().partition(fenced);
    shared.with(|core, now, todo| {
        for pending in lost.iter().chain(&kept) {
            core.release(&pending.decision.entry.claim.token);
        }
        for pending in &kept {
            let decision = &pending.decision;
            if let Then::Retry(due) = decision.then {
                let queue = decision.queue.as_ref().unwrap_or(&decision.entry.claim.queue);
                core.schedule.note(queue, due, now.wall);
            }
            for entry in pending.report.iter().flat_map(|report| &report.entries) {
                core.schedule.note(&entry.queue, entry.due, now.wall);
            }
        }
        todo.wake = true;
    });
    for pending in &kept {
        tell(shared, pending);
    }
}

fn tell(shared: &Shared, pending: &Pending) {
    let decision = &pending.decision;
    let claim = &decision.entry.claim;
    let counts = &shared.counts;
    for (at, outcome) in &decision.news {
        let Some(recipient) = decision.recipients.get(*at) else { continue };
        let counter = match recipient.state {
            RecipientState::Delivered => &counts.delivered,
            RecipientState::Waiting => &counts.deferred,
            RecipientState::Expired => &counts.expired,
            RecipientState::Failed | RecipientState::Cancelled => &counts.failed,
        };
        Shared::count(counter, 1);
        if shared.observers.is_empty() {
            continue;
        }
        let about = About {
            message: claim.token.message,
            entry: claim.token.entry,
            recipient: &recipient.rcpt,
            state: recipient.state,
            destination: &claim.destination,
            queue: decision.queue.as_ref().unwrap_or(&claim.queue),
            attempt: claim.attempts.saturating_add(u32::from(decision.attempted)),
        };
        let until = match decision.then {
            Then::Retry(due) => due,
            Then::Remove | Then::Park(_) => claim.due,
        };
        shared.observers.tell(&match outcome {
            Outcome::Delivered(accepted) => Event::Delivered { about, accepted },
            Outcome::Deferred(cause) => Event::Deferred { about, cause, until },
            Outcome::Failed(cause @ Cause::Expired(_)) => Event::Expired { about, cause },
            Outcome::Failed(cause) => Event::Failed { about, cause },
        });
    }
    if let Some(report) = &pending.report {
        shared.observers.tell(&Event::Reported {
            message: claim.token.message,
            report: report.id,
            recipients: pending.told,
        });
    }
    if !decision.news.is_empty() && shared.watchers.is_watched(claim.token.message) {
        let terminal = decision.news.iter().filter_map(|(at, outcome)| {
            let recipient = decision.recipients.get(*at).filter(|r| r.state.is_terminal())?;
            Some((recipient.rcpt.to.clone(), outcome.clone()))
        });
        let gone = decision.then == Then::Remove;
        shared.watchers.settled(claim.token.message, claim.token.entry, terminal, gone);
    }
}

/// Settlements per call: as many as a spool writes in one transaction.
const BATCH: usize = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A spool that is full or failing is asked this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
