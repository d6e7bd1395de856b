//! Writes the reports that tell a sender what became of recipients: new messages, stored with the
//! settlement that they report.

use bytes::{Bytes, BytesMut};

use crate::attempt::{Cause, Outcome};
use crate::clock::Now;
use crate::message::{Content, MessageId, Report, ReportKind, ReportRecipient, by_destination};
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::reply::EnhancedCode;
use crate::spool::{NewBody, NewEntry, NewMessage, QueueName, Recipient};

use super::settle::{Decision, Notice};
use super::shared::Shared;
use super::terms::{self, Late};

/// The reports that make up `notices` on `decision`, in the same order; none when there is nobody to
/// tell.
pub(crate) async fn write(shared: &Shared, decision: &Decision, notices: &[Notice]) -> Vec<NewMessage> {
    let ReversePath::Mailbox(sender) = &decision.entry.claim.mail.from else { return Vec::new() };
    if notices.is_empty() {
        return Vec::new();
    }
    let now = shared.now();
    let original = front(shared, decision).await.freeze();
    let mut reports = Vec::with_capacity(notices.len());
    for notice in notices {
        let mut report = report(shared, decision, notice, sender, &original, now);
        if let NewBody::Inline(content) = &report.body {
            match shared.signed_report(report.head.clone(), content).await {
                Ok(head) => report.head = head,
                // There is nobody to refuse it to, and the sender has to be told.
                Err(error) => tracing::error!(%error, report = %report.id, "a report goes out unsigned"),
            }
        }
        reports.push(report);
    }
    reports
}

fn report(
    shared: &Shared,
    decision: &Decision,
    notice: &Notice,
    sender: &Mailbox,
    original: &Bytes,
    now: Now,
) -> NewMessage {
    let claim = &decision.entry.claim;
    let recipients = notice.recipients.iter().filter_map(|at| {
        let recipient = decision.recipients.get(*at)?;
        let outcome = decision.news.iter().find(|(place, _)| place == at).map(|(_, outcome)| outcome);
        let mut told = told(decision, notice.kind, recipient, outcome);
        let suppressed = matches!(outcome, Some(Outcome::Failed(Cause::Suppressed)));
        told.last_attempt = (decision.attempted && !suppressed).then_some(now.wall);
        Some(told)
    });
    let (id, sender) = (id(decision, notice.kind), sender.clone());
    let mut report = Report::new(
        notice.kind,
        id,
        shared.ehlo.clone(),
        sender,
        claim.accepted,
        now.wall,
        recipients.collect(),
    );
    report.envid.clone_from(&claim.mail.envid);
    report.ret = claim.mail.ret;
    report.require_tls = claim.mail.require_tls;
    report.deliver_by = terms::deliver_by(&claim.mail, claim.accepted);
    report.max_returned = shared.settings().options.max_returned;
    report.original_size = claim.body.size.saturating_add(claim.head.len() as u64);
    report.original = original.clone();
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
    NewMessage {
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
    }
}

/// The same again when it is done over, so that there is no second report; and another one for each
/// kind and round, and for each time that there is to be late for: both may pass without a try between.
fn id(decision: &Decision, kind: ReportKind) -> MessageId {
    let token = &decision.entry.claim.token;
    let (tries, settled) = decision.round();
    let kind = match kind {
        ReportKind::Failure => 0,
        ReportKind::Delay { .. } if decision.late == Some(Late::DeliverBy) => 5,
        ReportKind::Delay { .. } => 1,
        ReportKind::Success => 2,
        ReportKind::Relayed => 3,
        ReportKind::Expanded => 4,
    };
    token.message.derived(tries, token.entry).derived(settled, kind)
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
            let text = said.map_or_else(|| "it is in the mailbox".to_owned(), ToString::to_string);
            let mut told = ReportRecipient::new(rcpt, status.unwrap_or(EnhancedCode::new(2, 0, 0)), &text);
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
            let mut told = ReportRecipient::new(rcpt, status, &cause.to_string());
            told.remote = cause.host().map(|host| host.name.clone());
            told.reply = cause.reply().cloned();
            told
        }
        None => {
            let text = recipient.note.as_deref().unwrap_or("it could not be tried yet");
            ReportRecipient::new(rcpt, TIME_OVER, text)
        }
    }
}

/// The message, or as much of its front as a report can use. A body that cannot be read is left out:
/// the report matters more.
async fn front(shared: &Shared, decision: &Decision) -> BytesMut {
    let claim = &decision.entry.claim;
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
    use crate::spool::Then;

    #[test]
    fn two_notices_without_a_try_between_them_are_two_reports() {
        let (delay, rng) = (Some(Duration::from_secs(200)), Rng::seeded(1));
        let mut claim = claim(1, "<a@a.test> BY=100;N", &["x@b.test"]);
        let mut ids = Vec::new();
        for seconds in [60, 120, 180, 240, 300] {
            let now = claim.due;
            let due = T0.after(Duration::from_secs(seconds));
            let entry = Entry::new(claim.clone());
            let finished = Finished { entry, verdict: Verdict::Back { queue: None, due } };
            let decision = decide(finished, now, &Retry::new(), delay, &rng);
            ids.extend(decision.notices().iter().map(|notice| id(&decision, notice.kind)));
            let Then::Retry(due) = decision.then else { panic!() };
            claim.due = due;
        }
        assert_eq!(ids.len(), 2);
        assert_ne!(ids[0], ids[1]);
    }
}
