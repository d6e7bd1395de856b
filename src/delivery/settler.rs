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

use crate::attempt::{Cause, LocalFault, Outcome};
use crate::clock::Timestamp;
use crate::message::MessageId;
use crate::spool::{Class, NewBody, NewMessage, RecipientState, Settlement, SpoolError, Tell, Then, Token};

use super::aside;
use super::core::Core;
use super::event::{About, Event};
use super::expand;
use super::report::{self, Reported, Told};
use super::schedule::Part;
use super::settle::{Decision, Finished, Notice, decide};
use super::shared::{Close, Shared};
use super::{journal, recall};

/// What the settler is sent.
#[derive(Debug)]
pub(crate) enum ToSettle {
    Entry(Finished),
    /// Nothing more comes; answer when all before is stored.
    End(oneshot::Sender<()>),
}

/// A decision with what is stored along with it.
struct Pending {
    decision: Decision,
    /// What the sender is to be told.
    notices: Vec<Notice>,
    /// Nothing of it: the spool never takes what it would be told by.
    mute: bool,
    /// What is stored along with it, once it is written down. A call takes it: what has to be called again is
    /// written again.
    written: Option<Written>,
    /// An answer was not known: if it is fenced off now, that was by ourselves. Then this is what follows.
    unsure: Option<Follow>,
}

/// What is stored along with a decision.
#[derive(Default)]
struct Written {
    submit: Vec<NewMessage>,
    tell: Option<Tell>,
    /// What the report among these is about.
    about: Option<Reported>,
    /// The messages among these that go to those for whom recipients stand.
    into: Vec<MessageId>,
    /// Where there will be something to do.
    due: Vec<(Part, Timestamp)>,
}

impl Written {
    /// Octets of messages at hand.
    fn weight(&self) -> usize {
        let octets = |message: &NewMessage| match &message.body {
            NewBody::Inline(body) => body.len(),
            NewBody::Staged(_) => 0,
        };
        self.submit.iter().map(octets).sum()
    }
}

impl Pending {
    /// Writes down what is stored along with it.
    ///
    /// # Errors
    /// [`SpoolError`]: nothing of it can be stored now.
    async fn write(&mut self, shared: &Shared) -> Result<(), SpoolError> {
        let mut expanded = match expand::write(shared, &self.decision).await {
            // The message may be gone because all of this is stored.
            Err(SpoolError::Corrupt) if self.is_fenced_off(shared).await? => {
                let (due, about, into) = self.unsure.clone().unwrap_or_default();
                self.written = Some(Written { due, about, into, ..Written::default() });
                return Ok(());
            }
            Err(SpoolError::Corrupt) => {
                self.fail_expansions(Cause::Damaged);
                Vec::new()
            }
            expanded => expanded?,
        };
        let into = expanded.iter().map(|message| message.id).collect();
        let told = if self.mute {
            Told::default()
        } else {
            report::write(shared, &self.decision, &self.notices).await
        };
        expanded.extend(told.report);
        let submit = expanded;
        let mut due: Vec<_> = submit
            .iter()
            .flat_map(|message| {
                let class = Class::of(&message.mail);
                message.entries.iter().map(move |entry| ((entry.queue.clone(), class), entry.due))
            })
            .collect();
        let class = Class::of(&self.decision.entry.claim.mail);
        due.extend(told.tell.as_ref().map(|tell| ((tell.queue.clone(), class), tell.due)));
        self.written = Some(Written { submit, tell: told.tell, about: told.about, into, due });
        Ok(())
    }

    /// Whether an answer was not known, and the claim is not ours any more.
    async fn is_fenced_off(&self, shared: &Shared) -> Result<bool, SpoolError> {
        if self.unsure.is_none() {
            return Ok(false);
        }
        let token = shared.look(|core| self.token(core));
        let lease = shared.now().wall.after(shared.settings().options.lease);
        Ok(!shared.spool.extend(vec![token], lease).await?.is_empty())
    }

    /// The proof that it is settled with: that of a later claim of our own; an entry that is no longer ours has
    /// its old one. Of a report entry, a later claim has more to tell.
    fn token(&self, core: &Core) -> Token {
        let token = self.decision.entry.claim.token;
        let later =
            core.number(&token).filter(|_| core.holds(&self.decision.entry) && !self.decision.is_of_report());
        Token { number: later.unwrap_or(token.number), ..token }
    }

    fn fail_expansions(&mut self, cause: Cause) {
        self.decision.fail_expansions(&cause);
        self.notices = self.decision.notices();
    }

    fn weight(&self) -> usize {
        self.written.as_ref().map_or(0, Written::weight)
    }
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
        let (mut batch, mut weight) = (Vec::with_capacity(items.len()), 0);
        for item in items.drain(..) {
            match item {
                ToSettle::Entry(finished) => {
                    let Some(mut pending) = prepare(&shared, finished).await else { continue };
                    if let Err(error) = pending.write(&shared).await {
                        settler.set_aside(vec![pending], &error);
                        continue;
                    }
                    weight += pending.weight();
                    batch.push(pending);
                    if weight > BATCH_OCTETS {
                        weight = 0;
                        settler.store(std::mem::take(&mut batch)).await;
                    }
                }
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

/// Decides, unless the entry is no longer ours.
async fn prepare(shared: &Shared, mut finished: Finished) -> Option<Pending> {
    if !shared.look(|core| core.holds(&finished.entry)) {
        return None;
    }
    aside::look_again(shared, &mut finished).await;
    let (now, delay) = (shared.now().wall, shared.settings().options.delay_notice);
    let decision = decide(finished, now, &shared.settings().retry, delay, &shared.rng);
    let notices = decision.notices();
    Some(Pending { decision, notices, mute: false, written: None, unsure: None })
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
                for mut pending in batch {
                    let stored = match pending.write(&self.shared).await {
                        Ok(()) => self.call(vec![pending]).await,
                        Err(error) => Err((vec![pending], error)),
                    };
                    if let Err((single, error)) = stored {
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
        let (mut batch, mut weight) = (Vec::new(), 0);
        while batch.len() < BATCH
            && weight <= BATCH_OCTETS
            && let Some(mut pending) = self.rest.pop_front()
        {
            match pending.write(&self.shared).await {
                Ok(()) => {
                    weight += pending.weight();
                    batch.push(pending);
                }
                Err(error) => {
                    self.set_aside(vec![pending], &error);
                    break;
                }
            }
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
            if never {
                tracing::error!(%error, "a settlement was refused");
                let tells = !pending.notices.is_empty() || pending.decision.is_of_report();
                if pending.decision.expands() {
                    pending.fail_expansions(Cause::Local(LocalFault::Storage));
                } else if std::mem::replace(&mut pending.mute, true) || !tells {
                    // Not even without a report: it waits for the end of its lease.
                    let entry = &pending.decision.entry;
                    let lease = shared.settings().options.lease;
                    shared.with(|core, now, _| {
                        core.release_entry(entry);
                        core.schedule.note(&entry.part(), now.wall.after(lease), now.wall);
                    });
                    continue;
                }
            }
            self.rest.push_back(pending);
        }
    }

    /// Stores all of a batch, or gives it back.
    async fn call(&self, mut batch: Vec<Pending>) -> Result<(), (Vec<Pending>, SpoolError)> {
        let written: Vec<_> =
            batch.iter_mut().map(|pending| pending.written.take().unwrap_or_default()).collect();
        let (settlements, follow) = settlements(&self.shared, &batch, written);
        let durability = self.shared.settings().options.durability;
        match self.shared.spool.settle(settlements, durability).await {
            Ok(fenced) => {
                settled(&self.shared, batch.into_iter().zip(follow).collect(), &fenced);
                Ok(())
            }
            Err(error) => {
                if matches!(error, SpoolError::Unknown(_)) {
                    for (pending, follow) in batch.iter_mut().zip(follow) {
                        pending.unsure = Some(follow);
                    }
                }
                Err((batch, error))
            }
        }
    }
}

/// What follows from a settlement: what is due where, what was reported, and what others are sent.
type Follow = (Vec<(Part, Timestamp)>, Option<Reported>, Vec<MessageId>);

fn settlements(shared: &Shared, batch: &[Pending], written: Vec<Written>) -> (Vec<Settlement>, Vec<Follow>) {
    let (now, logs) = (shared.now().wall, shared.settings().options.log.is_some());
    shared.look(|core| {
        let settlement = |(pending, written): (&Pending, Written)| {
            let decision = &pending.decision;
            let mut settlement = decision.settlement(pending.token(core).number, now);
            (settlement.submit, settlement.tell) = (written.submit, written.tell);
            if logs {
                let reports = written.about.iter().map(|about| about.report);
                settlement.log = journal::settled(decision, reports, now);
            }
            (settlement, (written.due, written.about, written.into))
        };
        batch.iter().zip(written).map(settlement).unzip()
    })
}

/// What follows from settlements that are stored.
fn settled(shared: &Arc<Shared>, batch: Vec<(Pending, Follow)>, fenced: &[Token]) {
    let is_fenced = |pending: &Pending| {
        let token = &pending.decision.entry.claim.token;
        fenced.iter().any(|f| (f.message, f.entry) == (token.message, token.entry))
    };
    let mut kept = Vec::with_capacity(batch.len());
    shared.with(|core, now, todo| {
        for (pending, (due, ..)) in &batch {
            let decision = &pending.decision;
            let (claim, is_fenced) = (&decision.entry.claim, is_fenced(pending));
            let is_wanted = core.is_wanted(&claim.token);
            // Fenced off by an earlier call of ours, whose answer was lost; not where it was claimed again
            // since, by whoever: what becomes of it is that claim's to say.
            let is_kept = !is_fenced || pending.unsure.is_some() && core.holds(&decision.entry);
            kept.push(is_kept);
            core.release_entry(&decision.entry);
            let mut part = decision.entry.part();
            if is_fenced && decision.is_of_report() {
                // There is more to tell than was known here.
                core.schedule.note(&part, now.wall, now.wall);
            }
            if !is_kept {
                continue;
            }
            for (part, due) in due {
                core.schedule.note(part, *due, now.wall);
            }
            if let Then::Retry(due) = decision.then {
                part.0 = decision.queue.clone().unwrap_or(part.0);
                core.schedule.note(&part, due, now.wall);
                if is_wanted {
                    // It may be cancelled now, and due.
                    core.schedule.cancelled(&part);
                }
            } else if !claim.alone {
                // It may be the last that a report waited for.
                core.may_report(now.wall);
            }
        }
        todo.wake = true;
    });
    for ((pending, (_, about, into)), is_kept) in batch.iter().zip(kept) {
        if is_kept {
            tell(shared, pending, about.as_ref(), into);
        }
    }
}

fn tell(shared: &Shared, pending: &Pending, about: Option<&Reported>, into: &[MessageId]) {
    let decision = &pending.decision;
    let claim = &decision.entry.claim;
    let counts = &shared.counts;
    if decision.aside {
        aside::tell_damaged(shared, claim);
    }
    for (at, outcome) in &decision.news {
        let Some(recipient) = decision.recipients.get(*at) else { continue };
        let counter = match recipient.state {
            RecipientState::Delivered => &counts.delivered,
            RecipientState::Waiting => &counts.deferred,
            RecipientState::Expired => &counts.expired,
            RecipientState::Failed => &counts.failed,
            RecipientState::Cancelled => &counts.cancelled,
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
            Outcome::Failed(Cause::Cancelled) => Event::Cancelled { about },
            Outcome::Failed(cause) => Event::Failed { about, cause },
        });
    }
    for into in into {
        shared.observers.tell(&Event::Expanded { message: claim.token.message, into: *into });
    }
    if let Some(Reported { report, kind, recipients }) = about.copied() {
        shared.observers.tell(&Event::Reported { message: claim.token.message, report, kind, recipients });
    }
    // What its sender is told of is nobody's outcome.
    let told = !decision.is_of_report() && (!decision.news.is_empty() || decision.then == Then::Remove);
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
/// Octets of messages that are stored along with them, roughly: many reports are too much to have at hand.
const BATCH_OCTETS: usize = 8 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A spool that is full or failing is asked this often.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
