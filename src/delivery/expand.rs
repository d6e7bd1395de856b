//! Writes the messages that go to those for whom a recipient stands: stored with the settlement that says so,
//! under ids that follow from it, so that doing it over makes none twice.
//!
//! They are messages of their own, since a list's have another sender, and since what was asked for the
//! recipient is settled with it. Whoever stands for himself, also by way of others, is expanded no more often
//! than [`MAX_EXPANSIONS`] times: that is counted with the message, as no host adds a Received in between.

use std::collections::HashSet;

use crate::attempt::{Cause, Expansion, LocalFault, Outcome};
use crate::clock::Timestamp;
use crate::message::{Content, Handling, by_destination};
use crate::smtp::address::ReversePath;
use crate::smtp::params::{Mail, Rcpt};
use crate::spool::altering::in_time;
use crate::spool::{Claim, NewBody, NewEntry, NewMessage, QueueName, RecipientState, SpoolError};

use super::journal;
use super::settle::{Decision, note};
use super::shared::Shared;

impl Decision {
    /// Whether recipients stand for others, who are to be sent the message.
    pub(crate) fn expands(&self) -> bool {
        self.news.iter().any(|(_, outcome)| expansion(outcome).is_some())
    }

    /// What cannot be sent to those for whom recipients stand is delivered to nobody.
    pub(crate) fn fail_expansions(&mut self, cause: &Cause) {
        for (at, outcome) in &mut self.news {
            if expansion(outcome).is_none() {
                continue;
            }
            *outcome = Outcome::Failed(cause.clone());
            if let Some(recipient) = self.recipients.get_mut(*at) {
                (recipient.state, recipient.note) = (RecipientState::Failed, Some(note(cause)));
            }
        }
    }
}

/// The outcome as it counts: an expansion that leads nowhere, or round and round, is a failure.
pub(crate) fn sound(outcome: Outcome, claim: &Claim) -> Outcome {
    match &outcome {
        Outcome::Delivered(accepted) => match &accepted.expansion {
            Some(_) if claim.handling.expansions >= MAX_EXPANSIONS => Outcome::Failed(Cause::Loop),
            // Of a list without members, nobody is missing.
            Some(expansion) if expansion.recipients.is_empty() && expansion.owner.is_none() => {
                Outcome::Failed(Cause::Local(LocalFault::NoMailbox))
            }
            _ => outcome,
        },
        _ => outcome,
    }
}

/// The messages that a decision makes of those recipients that stand for others.
///
/// # Errors
/// [`SpoolError`] when the message cannot be read, or what is written of it not be staged.
pub(crate) async fn write(shared: &Shared, decision: &Decision) -> Result<Vec<NewMessage>, SpoolError> {
    let claim = &decision.entry.claim;
    let mut messages = Vec::new();
    for (owner, recipients) in others(decision) {
        for part in recipients.chunks(MAX_RECIPIENTS) {
            let body = body(shared, claim).await?;
            let number = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            messages.push(message(shared, decision, owner, part.to_vec(), body, number));
        }
    }
    Ok(messages)
}

/// Who gets it instead, each once, by who is told of failures.
fn others(decision: &Decision) -> Vec<(Option<&ReversePath>, Vec<Rcpt>)> {
    let mut groups: Vec<(Option<&ReversePath>, Vec<Rcpt>)> = Vec::new();
    let mut seen = HashSet::new();
    for (at, outcome) in &decision.news {
        let (Some(expansion), Some(recipient)) = (expansion(outcome), decision.recipients.get(*at)) else {
            continue;
        };
        let owner = expansion.owner.as_ref();
        let at = groups.iter().position(|(known, _)| *known == owner).unwrap_or(groups.len());
        if at == groups.len() {
            groups.push((owner, Vec::new()));
        }
        let Some((_, group)) = groups.get_mut(at) else { continue };
        let others = expansion.of(&recipient.rcpt).into_iter();
        group.extend(others.filter(|other| seen.insert((at, other.to.clone()))));
    }
    groups
}

/// For whom a recipient stands.
pub(crate) fn expansion(outcome: &Outcome) -> Option<&Expansion> {
    match outcome {
        Outcome::Delivered(accepted) => accepted.expansion.as_deref(),
        _ => None,
    }
}

/// The body once more: at hand where it is small, else by way of the storage.
async fn body(shared: &Shared, claim: &Claim) -> Result<NewBody, SpoolError> {
    match shared.spool.body(&claim.body).await? {
        Content::Whole(octets) => Ok(NewBody::Inline(octets)),
        Content::Stream { mut reader, size } => {
            let (mut writer, mut written) = (shared.spool.stage().await?, 0);
            while let Some(octets) = reader.chunk().await.map_err(|_| SpoolError::Corrupt)? {
                written += octets.len() as u64;
                writer.write(octets).await?;
            }
            if written != size {
                return Err(SpoolError::Corrupt);
            }
            writer.finish().await.map(NewBody::Staged)
        }
    }
}

fn message(
    shared: &Shared,
    decision: &Decision,
    owner: Option<&ReversePath>,
    recipients: Vec<Rcpt>,
    body: NewBody,
    number: u32,
) -> NewMessage {
    let claim = &decision.entry.claim;
    let (token, now) = (&claim.token, shared.now().wall);
    let (tries, settled) = decision.round();
    let (mail, accepted, expires) = match owner {
        // It is the same message still, of the same sender, with the same time.
        None => (claim.mail.clone(), claim.accepted, claim.expires),
        Some(owner) => {
            let mail = of_list(&claim.mail, owner);
            let expires = shared.settings().retry.expires(now, &mail.from);
            (mail, now, expires)
        }
    };
    let id = token.message.derived(tries, token.entry).derived(settled, EXPANDED.saturating_add(number));
    NewMessage {
        id,
        mail,
        handling: Handling {
            expansions: claim.handling.expansions.saturating_add(1),
            ..claim.handling.clone()
        },
        head: claim.head.clone(),
        body,
        accepted,
        expires,
        // What was held past its deadline is owed a try, and so is what it stands for.
        entries: entries(shared, recipients, in_time(now, expires, now)),
        key: None,
        keep: None,
        log: if shared.settings().options.log.is_some() {
            vec![journal::accepted(id, now)]
        } else {
            Vec::new()
        },
    }
}

/// The envelope of what a list sends: nothing of what the sender asked of reports (RFC 3461 §5.2.7.1), and
/// nothing of its time, which was for reaching the list (RFC 2852 §5).
fn of_list(mail: &Mail, owner: &ReversePath) -> Mail {
    let from = if mail.from == ReversePath::Null { ReversePath::Null } else { owner.clone() };
    let mut sent = Mail::new(from);
    (sent.size, sent.body, sent.priority) = (mail.size, mail.body, mail.priority);
    (sent.smtputf8, sent.require_tls) = (mail.smtputf8, mail.require_tls);
    sent
}

fn entries(shared: &Shared, recipients: Vec<Rcpt>, due: Timestamp) -> Vec<NewEntry> {
    let units = by_destination(recipients, shared.ehlo.as_domain()).into_iter();
    let entry = |(destination, recipients)| NewEntry {
        queue: QueueName::from(&destination),
        destination,
        due,
        recipients,
    };
    units.map(entry).collect()
}

/// Aliases of aliases are two or three deep where they are sound.
const MAX_EXPANSIONS: u8 = 10;
/// Of one message: a list of more is several. A message has no more destinations than that.
const MAX_RECIPIENTS: usize = 10_000;
/// Apart from the reports of the same round.
const EXPANDED: u32 = 16;
