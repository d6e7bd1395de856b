//! The settler makes settlements durable: one call to the spool at a time, each with everything that
//! finished during the one before.
//!
//! What follows from a settlement comes after it: the place is free, the schedule knows when the entry
//! is due again, receipts resolve, observers are told. A settlement that was fenced off (somebody
//! else has claimed the entry since) is nobody's news here. The spool's failures are waited out, until
//! the engine is closed; nothing is forgotten, and nothing is told that is not stored. What the spool
//! does not take is set aside and tried again now and then, and holds up no other: in a full spool it
//! is the others that make room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::attempt::{Cause, Outcome};
use crate::spool::{NewBody, NewMessage, RecipientState, Settlement, SpoolError, Then, Token};

use super::event::{About, Event};
use super::settle::{Decision, Finished, Notice, decide};
use super::shared::{Close, Shared};
use super::{journal, recall, report};

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
    /// What the sender is told.
    notices: Vec<Notice>,
    /// That, as messages.
    reports: Vec<NewMessage>,
    /// An answer was not known: if it is fenced off now, that was by ourselves.
    unsure: bool,
}

struct Settler {
    shared: Arc<Shared>,
    /// What the spool did not take. No more than there are entries held, and without the reports.
    rest: VecDeque<Pending>,
    /// When it is tried again.
    again: Instant,
    pause: Duration,
}

/// Settles until told to end, and then until nothing is left or the engine is closed.
pub(crate) async fn settle(shared: Arc<Shared>, mut from: mpsc::UnboundedReceiver<ToSettle>) {
    let again = shared.mono();
    let mut settler = Settler { shared, rest: VecDeque::new(), again, pause: FIRST_PAUSE };
    let mut items = Vec::new();
    let mut end = None;
    loop {
        let shared = Arc::clone(&settler.shared);
        let pause = tokio::time::sleep(settler.again.saturating_duration_since(shared.mono()));
        tokio::select! {
            biased;
            // First, or a stream of news would keep the rest waiting.
            () = pause, if !settler.rest.is_empty() => settler.try_rest().await,
            _ = from.recv_many(&mut items, BATCH), if end.is_none() => {}
        }
        let mut batch = Vec::with_capacity(items.len());
        for item in items.drain(..) {
            match item {
                ToSettle::Entry(finished) => batch.extend(prepare(&shared, *finished).await),
                ToSettle::End(done) => {
                    end = Some(done);
                    (settler.again, settler.pause) = (shared.mono(), FIRST_PAUSE);
                }
            }
        }
        settler.store(batch).await;
        let over = settler.rest.is_empty() || *shared.close.borrow() == Close::Closed;
        if let Some(done) = end.take_if(|_| over) {
            let _ = done.send(());
            return;
        }
    }
}

/// Decides, and writes the reports if there are to be any.
async fn prepare(shared: &Shared, finished: Finished) -> Option<Pending> {
    shared.look(|core| core.number(&finished.entry.claim.token))?;
    let (now, delay) = (shared.now().wall, shared.settings().options.delay_notice);
    let decision = decide(finished, now, &shared.settings().retry, delay, &shared.rng);
    let notices = decision.notices();
    let reports = report::write(shared, &decision, &notices).await;
    Some(Pending { decision, notices, reports, unsure: false })
}

impl Settler {
    /// Stores a batch, or sets aside what cannot be stored.
    async fn store(&mut self, batch: Vec<Pending>) {
        if batch.is_empty() {
            return;
        }
        let many = batch.len() > 1;
        match self.call(batch).await {
            Ok(()) if self.rest.is_empty() => self.shared.spool_worked(),
            Ok(()) => {}
            // One that cannot be stored must not keep the others.
            Err((batch, error)) if many && !matches!(error, SpoolError::Poisoned | SpoolError::Closed) => {
                for pending in batch {
                    if let Err((single, error)) = self.call(vec![pending]).await {
                        self.set_aside(single, &error);
                    }
                }
            }
            Err((batch, error)) => self.set_aside(batch, &error),
        }
    }

    /// Tries again what was set aside, a part at a time.
    async fn try_rest(&mut self) {
        let before = self.rest.len();
        let mut batch: Vec<_> = self.rest.drain(..before.min(BATCH)).collect();
        for pending in &mut batch {
            pending.reports = report::write(&self.shared, &pending.decision, &pending.notices).await;
        }
        self.store(batch).await;
        self.pause = if self.rest.len() < before { FIRST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.again = self.shared.mono() + self.pause;
    }

    fn set_aside(&mut self, batch: Vec<Pending>, error: &SpoolError) {
        let shared = &self.shared;
        if self.rest.is_empty() {
            self.again = shared.mono() + self.pause;
        }
        let never = matches!(error, SpoolError::TooLarge | SpoolError::Invalid(_));
        if !never {
            shared.spool_failed(error);
        }
        for mut pending in batch {
            // It is written again: many of them would be too much to keep.
            pending.reports.clear();
            if never {
                tracing::error!(%error, "a settlement was refused");
                if std::mem::take(&mut pending.notices).is_empty() {
                    // Not even without a report: it waits for the end of its lease.
                    let claim = &pending.decision.entry.claim;
                    let lease = shared.settings().options.lease;
                    shared.with(|core, now, _| {
                        core.release(&claim.token);
                        core.schedule.note(&claim.queue, now.wall.after(lease), now.wall);
                    });
                    continue;
                }
            }
            self.rest.push_back(pending);
        }
    }

    /// Stores all of a batch, or gives it back.
    async fn call(&self, mut batch: Vec<Pending>) -> Result<(), (Vec<Pending>, SpoolError)> {
        match call(&self.shared, &batch).await {
            Ok(fenced) => {
                settled(&self.shared, batch, &fenced);
                Ok(())
            }
            Err(error) => {
                let unsure = matches!(error, SpoolError::Unknown(_));
                batch.iter_mut().for_each(|pending| pending.unsure |= unsure);
                Err((batch, error))
            }
        }
    }
}

async fn call(shared: &Shared, batch: &[Pending]) -> Result<Vec<Token>, SpoolError> {
    let now = shared.now().wall;
    let settlements: Vec<Settlement> = shared.look(|core| {
        let settlement = |pending: &Pending| {
            let token = &pending.decision.entry.claim.token;
            // The number of a later claim of our own; an entry that is no longer ours has its old one.
            let number = core.number(token).unwrap_or(token.number);
            let mut settlement = pending.decision.settlement(number, now);
            settlement.submit.extend(pending.reports.iter().filter_map(copy));
            if shared.settings().options.log.is_some() {
                let reports = pending.reports.iter().map(|report| report.id);
                settlement.log = journal::settled(&pending.decision, reports, now);
            }
            settlement
        };
        batch.iter().map(settlement).collect()
    });
    shared.spool.settle(settlements, shared.settings().options.durability).await
}

/// A report once more: a call may have to be made again.
fn copy(report: &NewMessage) -> Option<NewMessage> {
    let NewBody::Inline(body) = &report.body else { return None };
    Some(NewMessage {
        id: report.id,
        mail: report.mail.clone(),
        handling: report.handling.clone(),
        head: report.head.clone(),
        body: NewBody::Inline(body.clone()),
        accepted: report.accepted,
        expires: report.expires,
        entries: report.entries.clone(),
        key: None,
        keep: None,
        log: report.log.clone(),
    })
}

/// What follows from settlements that are stored.
fn settled(shared: &Arc<Shared>, batch: Vec<Pending>, fenced: &[Token]) {
    let fenced = |pending: &Pending| {
        let token = &pending.decision.entry.claim.token;
        !pending.unsure && fenced.iter().any(|f| (f.message, f.entry) == (token.message, token.entry))
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
            for entry in pending.reports.iter().flat_map(|report| &report.entries) {
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
    for (report, notice) in pending.reports.iter().zip(&pending.notices) {
        shared.observers.tell(&Event::Reported {
            message: claim.token.message,
            report: report.id,
            kind: notice.kind,
            recipients: notice.recipients.len(),
        });
    }
    let told = !decision.news.is_empty() || decision.then == Then::Remove;
    if told && shared.watchers.is_watched(claim.token.message) {
        let terminal = decision.news.iter().filter_map(|(at, outcome)| {
            let recipient = decision.recipients.get(*at).filter(|r| r.state.is_terminal())?;
            Some((recipient.rcpt.to.clone(), outcome.clone()))
        });
        // Settled in an earlier round, by this process or by another.
        let gone = (decision.then == Then::Remove).then(|| recall::told(&decision.recipients));
        shared.watchers.settled(claim.token.message, claim.token.entry, terminal, gone);
    }
}

/// Settlements per call: as many as a spool writes in one transaction.
const BATCH: usize = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A spool that is full or failing is asked this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
