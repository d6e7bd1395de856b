//! Writes the reports that tell a sender what became of recipients: new messages, stored with the
//! settlement that they report.
//!
//! Where other entries of the message are still under way, nothing is reported yet: what there is to tell is
//! added to the message's report entry, and told from there when the rest is known, or has taken too long.

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::attempt::Outcome;
use crate::clock::{Now, Timestamp};
use crate::message::{Content, MessageId, Report, ReportKind, ReportRecipient, by_destination};
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::reply::EnhancedCode;
use crate::spool::{Claim, NewBody, NewEntry, NewMessage, QueueName, Recipient, Tell, Then};

use super::note;
use super::settle::{Decision, Notice};
use super::shared::Shared;
use super::terms::{self, Late};

/// What a sender is told with a settlement.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Now, by this report.
    pub(crate) report: Option<NewMessage>,
    /// About what that is.
    pub(crate) about: Option<Reported>,
    /// Later, with what is still to come.
    pub(crate) tell: Option<Tell>,
}

/// What a report is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reported {
    pub(crate) report: MessageId,
    pub(crate) kind: ReportKind,
    pub(crate) recipients: usize,
}

/// Where what senders are to be told waits. No site or destination has a name with a space.
pub(crate) fn queue() -> QueueName {
    QueueName::new("reports to senders")
}

/// What the sender is told of `notices` on `decision`, or of what was gathered in a report entry; nothing when
/// there is nobody to tell.
pub(crate) async fn write(shared: &Shared, decision: &Decision, notices: &[Notice]) -> Told {
    let claim = &decision.entry.claim;
    let ReversePath::Mailbox(sender) = &claim.mail.from else { return Told::default() };
    let ends = decision.is_of_report() && decision.then == Then::Remove;
    if notices.is_empty() && !ends {
        return Told::default();
    }
    let now = shared.now();
    let (id, recipients) = if ends {
        let recipients = claim.recipients.iter().map(|told| note::read(told, claim.expires)).collect();
        (gathered_id(claim), recipients)
    } else if decision.is_gathered(now.wall) {
        return Told { tell: Some(tell(shared, decision, notices, now.wall)), ..Told::default() };
    } else {
        (id(decision), all(decision, notices, now.wall).map(|(_, told)| told).collect())
    };
    let original = front(shared, claim).await.freeze();
    let (mut report, kind, recipients) = report(shared, claim, id, recipients, sender, original, now);
    if let NewBody::Inline(content) = &report.body {
        match shared.signed_report(report.head.clone(), content).await {
            Ok(head) => report.head = head,
            // There is nobody to refuse it to, and the sender has to be told.
            Err(error) => tracing::error!(%error, report = %report.id, "a report goes out unsigned"),
        }
    }
    let about = Some(Reported { report: id, kind, recipients });
    Told { report: Some(report), about, tell: None }
}

/// What is told of whom, by place.
fn all<'a>(
    decision: &'a Decision,
    notices: &'a [Notice],
    now: Timestamp,
) -> impl Iterator<Item = (&'a Recipient, ReportRecipient)> {
    let places = notices.iter().flat_map(|notice| notice.recipients.iter().map(|at| (notice.kind, *at)));
    places.filter_map(move |(kind, at)| {
        let recipient = decision.recipients.get(at)?;
        let outcome = decision.news.iter().find(|(place, _)| *place == at).map(|(_, outcome)| outcome);
        let mut told = told(decision, kind, recipient, outcome);
        told.last_attempt = decision.attempted.then_some(now);
        Some((recipient, told))
    })
}

/// The same, to be told with what becomes of the message's other entries.
fn tell(shared: &Shared, decision: &Decision, notices: &[Notice], now: Timestamp) -> Tell {
    let recipients = all(decision, notices, now);
    Tell {
        queue: queue(),
        destination: shared.ehlo.as_domain().clone(),
        due: now.after(shared.settings().options.report_wait),
        recipients: recipients.map(|(recipient, told)| note::write(&told, recipient.state, now)).collect(),
    }
}

/// The report as it is stored, the worst of it, and about how many it is.
fn report(
    shared: &Shared,
    claim: &Claim,
    id: MessageId,
    recipients: Vec<ReportRecipient>,
    sender: &Mailbox,
    original: Bytes,
    now: Now,
) -> (NewMessage, ReportKind, usize) {
    let sender = sender.clone();
    let mut report = Report::new(id, shared.ehlo.clone(), sender, claim.accepted, now.wall, recipients);
    report.envid.clone_from(&claim.mail.envid);
    report.ret = claim.mail.ret;
    report.require_tls = claim.mail.require_tls;
    report.deliver_by = terms::deliver_by(&claim.mail, claim.accepted);
    report.max_returned = shared.settings().options.max_returned;
    report.original_size = claim.body.size.saturating_add(claim.head.len() as u64);
    report.original = original;
    let mut submission = report.to_submission();
    // RFC 6710 §4.6: as urgent as what it is about.
    submission.mail.priority = claim.mail.priority;
    // RFC 8689 says nothing of reports on mail that need not be protected: they tell no more than it did,
    // and whoever sent it would rather know.
    submission.handling.tls_optional = claim.handling.tls_optional && !submission.mail.require_tls;
    let entries: Vec<_> = by_destination(submission.recipients, shared.ehlo.as_domain())
        .into_iter()
        .map(|(destination, recipients)| NewEntry {
            queue: QueueName::from(&destination),
            destination,
            due: now.wall,
            recipients,
        })
        .collect();
    let message = NewMessage {
        id,
        expires: shared.settings().retry.expires(now.wall, &submission.mail.from),
        mail: submission.mail,
        handling: submission.handling,
        head: submission.head,
        body: NewBody::Inline(submission.content),
        accepted: now.wall,
        entries,
        key: None,
        keep: None,
        log: Vec::new(),
    };
    (message, report.kind(), report.recipients.len())
}

/// The same again when it is done over, so that there is no second report; and another one in each round,
/// and for each time that there is to be late for: both may pass without a try between.
fn id(decision: &Decision) -> MessageId {
    let token = &decision.entry.claim.token;
    let (tries, settled) = decision.round();
    let late = match decision.late {
        None => 0,
        Some(Late::Waiting) => 1,
        Some(Late::DeliverBy) => 5,
    };
    token.message.derived(tries, token.entry).derived(settled, late)
}

/// The same again while the same is told, whatever was added behind it meanwhile. The first that is told says
/// when that was found, so nothing that is told later has this id.
fn gathered_id(claim: &Claim) -> MessageId {
    let mut digest = Sha256::new();
    if let Some(first) = claim.recipients.first() {
        digest.update(first.rcpt.to_string());
        digest.update([0]);
        digest.update(first.note.as_deref().unwrap_or_default());
    }
    let mut octets = digest.finalize().into_iter();
    let mut number = || octets.by_ref().take(4).fold(0_u32, |number, octet| number << 8 | u32::from(octet));
    let (one, two) = (number(), number());
    claim.token.message.derived(one, claim.token.entry).derived(two, GATHERED)
}

/// What is told of one recipient, when it was tried left out.
fn told(
    decision: &Decision,
    kind: ReportKind,
    recipient: &Recipient,
    outcome: Option<&Outcome>,
) -> ReportRecipient {
    let rcpt = recipient.rcpt.clone();
    match outcome {
        Some(Outcome::Delivered(accepted)) => {
            let said = accepted.reply.as_ref();
            let class_2 = |code: &EnhancedCode| code.class == 2;
            let status = said.and_then(|reply| reply.enhanced()).filter(class_2);
            let text = match (said, &accepted.expansion) {
                (Some(said), _) => said.to_string(),
                (None, None) => "it is in the mailbox".to_owned(),
                // Who they are is the recipient's to tell (RFC 3461 §5.2.7.4).
                (None, Some(others)) if others.owner.is_some() => {
                    "it was sent to the members of the list".into()
                }
                (None, Some(others)) => format!("it was sent on to {} others", others.recipients.len()),
            };
            let status = status.unwrap_or(EnhancedCode::new(2, 0, 0));
            let mut told = ReportRecipient::new(kind, rcpt, status, &text);
            told.remote = accepted.host.as_ref().map(|host| host.name.clone());
            told.reply.clone_from(&accepted.reply);
            told
        }
        Some(Outcome::Deferred(cause) | Outcome::Failed(cause)) => {
            let status = match decision.late {
                // RFC 2852 §4.1
                Some(Late::DeliverBy) if kind != ReportKind::Failure => TIME_OVER,
                _ => cause.status(kind == ReportKind::Failure),
            };
            let mut told = ReportRecipient::new(kind, rcpt, status, &cause.to_string());
            told.remote = cause.host().map(|host| host.name.clone());
            told.reply = cause.reply().cloned();
            told
        }
        None => {
            let text = recipient.note.as_deref().unwrap_or("it could not be tried yet");
            ReportRecipient::new(kind, rcpt, TIME_OVER, text)
        }
    }
}

/// The message, or as much of its front as a report can use. A body that cannot be read is left out:
/// the report matters more.
async fn front(shared: &Shared, claim: &Claim) -> BytesMut {
    let mut front = BytesMut::from(&claim.head[..]);
    let most = shared.settings().options.max_returned.max(HEADER);
    match shared.spool.body(&claim.body).await {
        Ok(Content::Whole(body)) => {
            let room = most.saturating_sub(front.len());
            front.extend_from_slice(body.get(..room).unwrap_or(&body));
        }
        Ok(Content::Stream { mut reader, .. }) => {
            while front.len() < most
                && let Ok(Some(chunk)) = reader.chunk().await
            {
                front.extend_from_slice(&chunk);
            }
        }
        Err(_) => {}
    }
    front
}

/// RFC 3463 §3.5: the time for delivering is over, and it is tried on.
const TIME_OVER: EnhancedCode = EnhancedCode::new(4, 4, 7);
/// Told apart from the times that there are to be late for.
const GATHERED: u32 = 6;
/// Where a message is not returned whole, its header is; that is almost always shorter than this.
const HEADER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Rng;
    use crate::delivery::lane::Entry;
    use crate::delivery::lane::tests::{T0, claim};
    use crate::delivery::retry::Retry;
    use crate::delivery::settle::{Finished, Verdict, decide};

    #[test]
    fn two_notices_without_a_try_between_them_are_two_reports() {
        let (delay, rng) = (Some(Duration::from_secs(200)), Rng::seeded(1));
        let mut claim = claim(1, "<a@a.test> BY=100;N", &["x@b.test"]);
        let mut ids = Vec::new();
        for seconds in [60, 120, 180, 240, 300] {
            let now = claim.due;
            let due = T0.after(Duration::from_secs(seconds));
            let entry = Entry::unbound(claim.clone());
            let finished = Finished { entry, verdict: Verdict::Back { queue: None, due } };
            let decision = decide(finished, now, &Retry::new(), delay, &rng);
            ids.extend(decision.notices().iter().map(|_| id(&decision)));
            let Then::Retry(due) = decision.then else { panic!() };
            claim.due = due;
        }
        assert_eq!(ids.len(), 2);
        assert_ne!(ids[0], ids[1]);
    }
}
