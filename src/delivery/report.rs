//! Writes the report that tells a sender which recipients failed: a new message, stored with the
//! settlement that it reports.

use bytes::BytesMut;

use crate::attempt::Cause;
use crate::message::{Content, Report, ReportKind, ReportRecipient, by_destination};
use crate::smtp::address::ReversePath;
use crate::spool::{NewBody, NewEntry, NewMessage, QueueName};

use super::settle::Decision;
use super::shared::Shared;

/// The report on what `decision` gives up; `None` when there is nobody to tell.
pub(crate) async fn write(shared: &Shared, decision: &Decision) -> Option<NewMessage> {
    let claim = &decision.entry.claim;
    let ReversePath::Mailbox(sender) = &claim.mail.from else { return None };
    let now = shared.now();
    let recipients: Vec<_> = decision
        .to_report()
        .map(|(recipient, cause)| {
            let mut told =
                ReportRecipient::new(recipient.rcpt.clone(), cause.status(true), &cause.to_string());
            told.remote = cause.host().map(|host| host.name.clone());
            told.reply = cause.reply().cloned();
            let tried = decision.attempted && !matches!(cause, Cause::Suppressed);
            told.last_attempt = tried.then_some(now.wall);
            told
        })
        .collect();
    if recipients.is_empty() {
        return None;
    }
    // The same again when it is done over: no second report.
    let id = claim.token.message.derived(claim.attempts, claim.token.entry);
    let kind = ReportKind::Failure;
    let mut report =
        Report::new(kind, id, shared.ehlo.clone(), sender.clone(), claim.accepted, now.wall, recipients);
    report.envid.clone_from(&claim.mail.envid);
    report.ret = claim.mail.ret;
    report.max_returned = shared.options.max_returned;
    report.original_size = claim.body.size.saturating_add(claim.head.len() as u64);
    report.original = front(shared, decision).await.freeze();
    let submission = report.to_submission();
    let entries: Vec<_> = by_destination(submission.recipients, shared.ehlo.as_domain())
        .into_iter()
        .map(|(destination, recipients)| NewEntry {
            queue: QueueName::from(&destination),
            destination,
            due: now.wall,
            recipients,
        })
        .collect();
    Some(NewMessage {
        id,
        expires: shared.retry.expires(now.wall, &submission.mail.from),
        mail: submission.mail,
        head: submission.head,
        body: NewBody::Inline(submission.content),
        accepted: now.wall,
        entries,
    })
}

/// The message, or as much of its front as a report can use. A body that cannot be read is left out:
/// the report matters more.
async fn front(shared: &Shared, decision: &Decision) -> BytesMut {
    let claim = &decision.entry.claim;
    let mut front = BytesMut::from(&claim.head[..]);
    let most = shared.options.max_returned.max(HEADER);
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

/// Where a message is not returned whole, its header is; that is almost always shorter than this.
const HEADER: usize = 64 * 1024;
