//! Orders about what waits: how they are given, and what has to be true of it then.
//!
//! Which entries an order reached is what the spool inside says a while later, and is held against the engine
//! only where nothing else was under way: a call may fail and have been made, and another order may take back
//! what this one wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::callers::{Of, Order, What};
use super::ledger::{HELD, Ledger};
use super::plan::Mood;
use super::state::{Message, Short, State};
use crate::clock::{Clock, Timestamp};
use crate::delivery::{Engine, Ordered};
use crate::message::MessageId;
use crate::spool::{EntrySummary, REPORT_ENTRY, Selection, SpoolError};
use crate::testing::JumpingClock;
use crate::testing::spool::FaultySpool;

/// An order that is under way.
#[derive(Debug, Clone)]
pub(super) struct Running {
    what: What,
    which: Selection,
    /// When it began.
    since: Duration,
}

/// Gives an order, and looks at what came of it.
pub(super) async fn give(
    order: Order,
    engine: Engine,
    ledger: Arc<Ledger>,
    spool: FaultySpool,
    clock: Arc<JumpingClock>,
) {
    let Some((number, which)) = ledger.order_begins(&order) else { return };
    let given = match order.what {
        What::Hold => engine.hold(which, HELD).await,
        What::Release => engine.release(which).await,
        What::Cancel => engine.cancel(which).await,
        What::Reschedule(wait) => engine.reschedule(which, clock.now().wall.after(wait)).await,
        What::Requeue => engine.requeue(which).await,
    };
    // What was taken back from the engine's lanes is not settled yet.
    sleep(SETTLED).await;
    ledger.order_ends(number, &given, &everything(&spool).await);
}

/// All that waits, reports left out.
async fn everything(spool: &FaultySpool) -> Vec<EntrySummary> {
    let (mut all, mut after) = (Vec::new(), None);
    while let Ok(page) = spool.inner().scan(Selection::all(), after, PAGE).await {
        after = page.last().map(|entry| (entry.message, entry.entry));
        let full = page.len() >= PAGE;
        all.extend(page.into_iter().filter(|entry| entry.entry != REPORT_ENTRY));
        if !full {
            break;
        }
    }
    all
}

impl Ledger {
    /// An order is about to be given: its number, and of what it is.
    fn order_begins(&self, order: &Order) -> Option<(u64, Selection)> {
        let mut state = self.now();
        let which = state.selection(&order.of)?;
        state.history.orders += 1;
        let number = state.history.orders;
        let running = Running { what: order.what, which: which.clone(), since: state.at };
        if !matches!(order.what, What::Hold | What::Reschedule(_)) {
            state.let_go(&running);
        }
        state.concern(&running);
        state.running.insert(number, running);
        state.note(format_args!("order {number}: {order:?}"));
        Some((number, which))
    }

    fn order_ends(&self, number: u64, given: &Result<Ordered, SpoolError>, waiting: &[EntrySummary]) {
        let mut state = self.now();
        let Some(order) = state.running.remove(&number) else { return };
        state.concern(&order);
        state.note(format_args!("order {number} is given: {given:?}"));
        if !state.running.is_empty() {
            return;
        }
        let at = state.at;
        for entry in waiting {
            let key = (entry.message, entry.entry);
            if entry.parked.is_some() {
                state.held.entry(key).or_insert(at);
            }
        }
        let alone = number == state.history.orders;
        let calm = state.mood == Mood::Well && order.since >= state.calm_at + CALM;
        let Ok(Ordered { in_flight: 0, .. }) = given else { return };
        if !alone || !calm || order.which.parked.is_some() {
            return;
        }
        let mut faults = Vec::new();
        for entry in waiting {
            let (id, is_held) = (entry.message, entry.parked.is_some());
            let Some(message) = state.messages.get(&id) else { continue };
            if !order.which.has(entry) || message.stored >= order.since {
                continue;
            }
            let kept = match order.what {
                What::Hold => is_held || entry.cancelled,
                What::Release | What::Requeue => !is_held,
                What::Cancel => entry.cancelled,
                What::Reschedule(_) => true,
            };
            if !kept {
                faults.push(format!("{} does not stand as order {number} wants it: {entry:?}", Short(id)));
            }
            if order.what == What::Cancel {
                state.cancelled.entry((id, entry.entry)).or_insert(at);
            }
        }
        for fault in faults {
            state.breaks(format_args!("{fault}"));
        }
    }
}

impl State {
    fn selection(&self, of: &Of) -> Option<Selection> {
        Some(match of {
            Of::Message(number) => Selection::message(*self.numbers.get(number)?),
            Of::Tenant(tenant) => Selection::tenant(tenant.clone()),
            Of::Tag(tag) => Selection::tag(tag.clone()),
            Of::Destination(domain) => Selection::destination(domain.clone()),
            Of::Held => Selection::parked(),
        })
    }

    /// What is held by now may be held no longer.
    fn let_go(&mut self, order: &Running) {
        let messages = &self.messages;
        self.held.retain(|(id, _), _| !messages.get(id).is_some_and(|message| order.is_about(*id, message)));
    }

    /// What an order is about is delivered when the order has it so.
    fn concern(&mut self, order: &Running) {
        let (at, wall) = (self.at, self.wall);
        for id in &self.open {
            if let Some(message) = self.messages.get_mut(id).filter(|message| order.is_about(*id, message)) {
                order.concerns(message, at, wall);
            }
        }
    }

    /// A message that is stored while orders are under way.
    pub(super) fn is_ordered(&mut self, id: MessageId) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        for order in
            self.running.values().filter(|order| order.is_about(id, message)).cloned().collect::<Vec<_>>()
        {
            order.concerns(message, self.at, self.wall);
        }
    }
}

impl Running {
    /// Whether it may be about some of a message's recipients.
    fn is_about(&self, id: MessageId, message: &Message) -> bool {
        let which = &self.which;
        let is_for = |domain: &str| message.recipients.keys().any(|to| to.ends_with(domain));
        which.message.is_none_or(|meant| meant == id)
            && which.tenant.as_ref().is_none_or(|tenant| message.handling.tenant.as_ref() == Some(tenant))
            && which.tag.as_ref().is_none_or(|tag| message.handling.tags.contains(tag))
            && which.destination.as_ref().is_none_or(|domain| is_for(domain.as_str()))
    }

    fn concerns(&self, message: &mut Message, at: Duration, wall: Timestamp) {
        let wait = match self.what {
            What::Reschedule(wait) => wait,
            What::Cancel => {
                message.may_be_cancelled = true;
                Duration::ZERO
            }
            What::Hold | What::Release | What::Requeue => Duration::ZERO,
        };
        message.is_moved = true;
        message.ready = message.ready.max(at + wait);
        message.touched = message.touched.max(wall.after(wait));
    }
}

/// More than a settlement takes where nothing fails.
const SETTLED: Duration = Duration::from_secs(10);
/// More than a call takes that was made when things went wrong.
const CALM: Duration = Duration::from_secs(300);
const PAGE: usize = 1_000;
