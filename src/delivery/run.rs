//! A run works for a lane: it takes ready entries, opens their bodies, has them carried over one
//! connection (or delivered here), and hands what came of it to the settler.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::BoxFuture;
use crate::attempt::{Cause, Job, LocalFault, LocalItem, Outcome, Report, RunEnd, RunPermit, Trial, Work};
use crate::hop::Require;
use crate::message::{Content, ReadBody};
use crate::route::{Hosts, LocalId};
use crate::smtp::address::ForwardPath;
use crate::smtp::params::{Mail, OriginalRecipient, Rcpt};
use crate::spool::{Claim, QueueName, SpoolError};

use super::lane::Entry;
use super::runs::RunNotes;
use super::settle::{Finished, Verdict, waiting};
use super::shared::Shared;
use super::terms;
use super::trials::Trials;

/// Works for a lane over connections, until there is nothing left or the connection ends.
pub(crate) async fn to_hosts(shared: Arc<Shared>, site: QueueName, hosts: Arc<Hosts>, permit: RunPermit) {
    let mut work = LaneWork::new(Arc::clone(&shared), site, hosts.require, true);
    let mut abort = shared.abort.subscribe();
    let end = tokio::select! {
        biased;
        end = shared.carrier.run(&hosts, permit, &mut work) => end,
        _ = abort.wait_for(|abort| *abort) => return,
    };
    work.end = Some(end);
}

/// Works for a lane of final delivery.
pub(crate) async fn to_local(shared: Arc<Shared>, site: QueueName, id: LocalId) {
    let mut work = LaneWork::new(Arc::clone(&shared), site, Require::Cleartext, false);
    let mut abort = shared.abort.subscribe();
    let deliver =
        shared.locals.iter().find(|(known, _)| *known == id).map(|(_, deliver)| Arc::clone(deliver));
    let deliveries = async {
        while let Some(job) = work.next().await {
            let count = job.recipients.len();
            let report = match (&deliver, work.item(job.mail, job.recipients)) {
                (Some(deliver), Some(item)) => {
                    let outcomes = deliver.deliver(&item, job.content).await;
                    let kept = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_)));
                    if kept || item.is_ours() { Report::Outcomes(outcomes) } else { Report::NotAttempted }
                }
                _ => Report::Outcomes(vec![Outcome::Deferred(Cause::Local(LocalFault::NotSetUp)); count]),
            };
            work.done(report);
            // A store that never waits must not keep the thread.
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = deliveries => {}
        _ = abort.wait_for(|abort| *abort) => return,
    }
    work.end = Some(RunEnd::Drained);
}

/// A lane's work, as a run takes it.
pub(crate) struct LaneWork {
    shared: Arc<Shared>,
    site: QueueName,
    require: Require,
    /// To other hosts, not to a store of ours.
    onward: bool,
    /// Taken and not yet reported, with the number of recipients that were offered.
    flight: VecDeque<(Entry, usize)>,
    trials: Trials,
    notes: RunNotes,
    /// When it takes nothing more: it goes by the route that it began with.
    until: Instant,
    end: Option<RunEnd>,
}

impl LaneWork {
    fn new(shared: Arc<Shared>, site: QueueName, require: Require, onward: bool) -> Self {
        // Most runs carry one message.
        let flight = VecDeque::with_capacity(1);
        let (trials, notes) = (Trials::default(), RunNotes::default());
        let until = shared.mono() + LONGEST_RUN;
        Self { shared, site, require, onward, flight, trials, notes, until, end: None }
    }

    /// The entry that was taken last, for a store.
    fn item(&self, mail: Mail, recipients: Vec<Rcpt>) -> Option<LocalItem> {
        let entry = &self.flight.back()?.0;
        let (claim, gate) = (&entry.claim, entry.gate.clone());
        let destination = claim.destination.clone();
        let item = LocalItem::new(claim.token.message, mail, recipients, destination, claim.accepted);
        Some(item.until(gate))
    }

    async fn take(&mut self) -> Option<Job> {
        // However long it took to get that far, it takes one.
        if self.notes.asked && self.shared.mono() >= self.until {
            return None;
        }
        loop {
            let (site, notes) = (&self.site, &mut self.notes);
            let entry = self.shared.with(|core, now, todo| core.take(site, notes, now, todo))?;
            match self.shared.spool.body(&entry.claim.body).await {
                Ok(body) => {
                    let all = &entry.claim.recipients;
                    let places = waiting(all).into_iter().take(MAX_RECIPIENTS);
                    let mut recipients: Vec<Rcpt> =
                        places.filter_map(|at| all.get(at)).map(|recipient| recipient.rcpt.clone()).collect();
                    let claim = &entry.claim;
                    if self.onward && is_relayed(claim) {
                        recipients.iter_mut().for_each(name_original);
                    }
                    let job = Job {
                        mail: terms::onward(&claim.mail, claim.accepted, || self.shared.now().wall),
                        content: join(claim.head.clone(), body),
                        require: self.require,
                        recipients,
                        gate: Some(entry.gate.clone()),
                    };
                    self.trials.taken(&entry, &self.shared.observers);
                    self.flight.push_back((entry, job.recipients.len()));
                    return Some(job);
                }
                Err(SpoolError::Corrupt) => {
                    self.shared.settle(Finished { entry, verdict: Verdict::Damaged });
                }
                Err(error) => {
                    self.shared.spool_failed(&error);
                    let now = self.shared.now().wall;
                    let verdict = if now >= entry.claim.expires {
                        // Or it would never be tried, and never expire.
                        Verdict::All(Outcome::Deferred(Cause::Local(LocalFault::Storage)))
                    } else {
                        Verdict::Back { queue: None, due: now.after(BODY_AGAIN) }
                    };
                    self.shared.settle(Finished { entry, verdict });
                }
            }
        }
    }
}

impl Work for LaneWork {
    fn next(&mut self) -> BoxFuture<'_, Option<Job>> {
        Box::pin(self.take())
    }

    fn is_drained(&self) -> bool {
        // One that has not asked yet is still counted as starting.
        self.notes.asked && self.shared.look(|core| core.has_nothing(&self.site))
    }

    fn tried(&mut self, trial: Trial) {
        if self.shared.observers.is_empty() {
            return;
        }
        self.trials.add(trial);
        // One that was taken already waits for this connection, as what was before did not do for it.
        if let Some((entry, _)) = self.flight.back() {
            self.trials.taken(entry, &self.shared.observers);
        }
    }

    fn done(&mut self, report: Report) {
        let Some((entry, offered)) = self.flight.pop_front() else { return };
        let site = &self.site;
        match report {
            Report::Outcomes(outcomes) => {
                let reached =
                    |outcome: &Outcome| !matches!(outcome, Outcome::Deferred(Cause::Connect { .. }));
                if !outcomes.iter().any(reached) {
                    self.notes.failed = true;
                } else if !std::mem::replace(&mut self.notes.tried, true) {
                    self.shared.with(|core, _, todo| core.worked(site, todo));
                }
                self.shared.settle(Finished { entry, verdict: Verdict::Tried { outcomes, offered } });
            }
            Report::NotAttempted if !entry.gate.is_open() => {
                // No fault of the host's. The spool knows whether it is ours still.
                if self.shared.look(|core| core.holds(&entry)) {
                    let due = entry.claim.due;
                    let verdict = Verdict::Back { queue: None, due };
                    self.shared.settle(Finished { entry, verdict });
                }
            }
            Report::NotAttempted => {
                self.notes.failed = true;
                self.shared.with(|core, now, todo| core.untried(site, entry, now, todo));
            }
        }
    }
}

impl Drop for LaneWork {
    /// Counts the run out, however it ended. What it had in flight and did not report on may have
    /// been delivered: it keeps its lease, and is tried again when that ends.
    fn drop(&mut self) {
        let (site, notes, end) = (&self.site, self.notes, self.end.take());
        let flight = std::mem::take(&mut self.flight);
        let mut trials = std::mem::take(&mut self.trials);
        self.shared.with(|core, now, todo| {
            for (entry, _) in flight {
                core.release_entry(&entry);
                let again = now.wall.after(self.shared.settings().options.lease);
                core.schedule.note(&entry.part(), again, now.wall);
            }
            core.run_ended(site, end, notes, now, todo);
            trials.put_off(&todo.finished);
        });
        trials.tell(&self.shared.observers);
    }
}

/// Whether the message was taken from another host: then we have put Received in front
/// (RFC 5321 §4.4).
fn is_relayed(claim: &Claim) -> bool {
    // Whom an alias or a list stands for was not named by whoever sent the message.
    claim.handling.expansions == 0
        && claim.head.get(..RECEIVED.len()).is_some_and(|front| front.eq_ignore_ascii_case(RECEIVED))
}

/// Adds the recipient's address as we were given it, for reports of hosts behind the next, where
/// nobody did before (RFC 3461 §5.2.1 (d)). It is not stored: our own reports are not to name an
/// original recipient that the sender did not (§6.3 (d)).
fn name_original(rcpt: &mut Rcpt) {
    if let (None, ForwardPath::Mailbox(mailbox)) = (&rcpt.orcpt, &rcpt.to) {
        rcpt.orcpt = OriginalRecipient::rfc822(mailbox);
    }
}

/// The stored message: head, then body. Small ones are copied together, so that they leave in one
/// write.
pub(crate) fn join(head: Bytes, body: Content) -> Content {
    if head.is_empty() {
        return body;
    }
    match body {
        Content::Whole(body) if body.len() <= COPY => {
            let mut whole = BytesMut::with_capacity(head.len() + body.len());
            whole.extend_from_slice(&head);
            whole.extend_from_slice(&body);
            Content::Whole(whole.freeze())
        }
        Content::Whole(body) => {
            let size = (head.len() as u64).saturating_add(body.len() as u64);
            let reader = Joined { front: VecDeque::from([head, body]), rest: None };
            Content::Stream { size, reader: Box::new(reader) }
        }
        Content::Stream { size, reader } => {
            let size = size.saturating_add(head.len() as u64);
            let reader = Joined { front: VecDeque::from([head]), rest: Some(reader) };
            Content::Stream { size, reader: Box::new(reader) }
        }
    }
}

struct Joined {
    front: VecDeque<Bytes>,
    rest: Option<Box<dyn ReadBody>>,
}

impl ReadBody for Joined {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        if let Some(front) = self.front.pop_front() {
            return Box::pin(async { Ok(Some(front)) });
        }
        match &mut self.rest {
            Some(rest) => rest.chunk(),
            None => Box::pin(poll_fn(|_| std::task::Poll::Ready(Ok(None)))),
        }
    }
}

const RECEIVED: &[u8] = b"Received:";
/// Recipients per transaction, which every host takes (RFC 5321 §4.5.3.1.8).
const MAX_RECIPIENTS: usize = 100;
/// Up to this size one copy is cheaper than one more write.
const COPY: usize = 64 * 1024;
/// When an entry is tried again whose body could not be read for now.
const BODY_AGAIN: Duration = Duration::from_secs(60);
/// As old as a connection gets by default. A lane that always has work would else be served for ever by the
/// hosts, the addresses and the TLSA records of long ago, as long as those still answer.
const LONGEST_RUN: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content: Content) -> Vec<u8> {
        let size = content.size();
        let octets = match content {
            Content::Whole(octets) => octets.to_vec(),
            Content::Stream { mut reader, .. } => {
                let mut octets = Vec::new();
                while let Some(chunk) = reader.chunk().await.unwrap() {
                    octets.extend_from_slice(&chunk);
                }
                octets
            }
        };
        assert_eq!(size, octets.len() as u64);
        octets
    }

    #[test]
    fn a_run_is_small_since_many_a_message_begins_one() {
        fn size<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(to_hosts) <= 4096, "{}", size(to_hosts));
    }

    #[tokio::test]
    async fn the_head_stands_in_front_of_any_body() {
        let head = Bytes::from_static(b"Received: x\r\n");
        let large = Bytes::from(vec![b'x'; COPY + 1]);
        let stream = |body: &Bytes| Content::Stream {
            size: body.len() as u64,
            reader: Box::new(Joined { front: VecDeque::from([body.clone()]), rest: None }),
        };
        for body in [Bytes::from_static(b"\r\nhello\r\n"), large] {
            let expected = [&head[..], &body[..]].concat();
            assert_eq!(read(join(head.clone(), Content::Whole(body.clone()))).await, expected);
            assert_eq!(read(join(head.clone(), stream(&body))).await, expected);
            assert_eq!(read(join(Bytes::new(), stream(&body))).await, body);
        }
    }
}
