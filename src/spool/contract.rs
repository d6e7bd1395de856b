//! The contract is a test suite that any [`Spool`] must pass: one function per promise.
//!
//! Each takes a fresh, empty spool and says which promise was broken. An own implementation is
//! tested by calling them all; none sleeps, reads a clock or depends on another. What only a kind of
//! storage can show (crashes, a full disk, a second process) is not here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{
    BodyRef, Claim, ClaimRequest, Durability, EntrySummary, NewBody, NewEntry, NewMessage, QueueName,
    Recipient, RecipientState, Settlement, Spool, SpoolError, Stats, Then, Token,
};
use crate::clock::{Rng, Timestamp};
use crate::message::{Content, MessageId};
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Rcpt};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A promise is not kept.
    #[error("not kept: {0}")]
    Promise(&'static str),
    /// A call failed that must not.
    #[error("a call failed")]
    Failed(#[from] SpoolError),
    /// A body could not be read.
    #[error("a body could not be read")]
    Body(#[from] std::io::Error),
}

/// How every promise ends.
pub type Kept = Result<(), Broken>;

/// Entries of a queue come in the order of their due times, and no more of them than asked for.
///
/// # Errors
/// [`Broken`]
pub async fn entries_are_claimed_in_order_of_due(spool: &dyn Spool) -> Kept {
    let mut batch = Vec::new();
    for (n, due) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        batch.push(due_at(sample(n), due));
    }
    spool.enqueue(batch, None).await?;
    let first = claim(spool, "q.test", 100, 3).await?;
    let rest = claim(spool, "q.test", 100, 3).await?;
    let order: Vec<_> = first.iter().chain(&rest).map(|c| (c.token.message, c.due)).collect();
    let at = Timestamp::from_millis;
    ensure(
        order == [(id(2), at(10)), (id(4), at(10)), (id(3), at(20)), (id(1), at(30))],
        "earliest due first, then first come",
    )?;
    ensure(first.len() == 3, "no more than the limit")
}

/// A claim takes from the queue it names and from no other.
///
/// # Errors
/// [`Broken`]
pub async fn a_claim_takes_from_one_queue_only(spool: &dyn Spool) -> Kept {
    let mut other = sample(2);
    in_queue(&mut other, "other.test");
    spool.enqueue(vec![sample(1), other], None).await?;
    let claims = claim(spool, "other.test", 100, 10).await?;
    ensure(ids(&claims) == [id(2)], "only the queue that was named")?;
    ensure(claim(spool, "none.test", 100, 10).await?.is_empty(), "an unknown queue is empty")
}

/// An entry that is not due is not claimed.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_not_due_is_not_claimed(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![due_at(sample(1), 50)], None).await?;
    ensure(claim(spool, "q.test", 49, 10).await?.is_empty(), "not before its time")?;
    ensure(claim(spool, "q.test", 50, 10).await?.len() == 1, "at its time")
}

/// A claimed entry is hidden until its lease ends, and can then be claimed again.
///
/// # Errors
/// [`Broken`]
pub async fn a_claimed_entry_is_hidden_until_its_lease_ends(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let first = only(claim(spool, "q.test", 100, 10).await?)?;
    ensure(claim(spool, "q.test", LEASE - 1, 10).await?.is_empty(), "hidden while leased")?;
    let again = only(claim(spool, "q.test", LEASE, 10).await?)?;
    ensure(again.token.number > first.token.number, "the claim's number grows")?;
    ensure(again.attempts == 0, "a lost lease is not an attempt")
}

/// A settlement with an old token is reported and changes nothing.
///
/// # Errors
/// [`Broken`]
pub async fn an_old_token_is_fenced_off(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let old = only(claim(spool, "q.test", 100, 1).await?)?;
    let new = only(claim(spool, "q.test", LEASE, 1).await?)?;
    let mut late = remove(&old);
    late.submit.push(sample(2));
    let fenced = spool.settle(vec![late], Durability::Synced).await?;
    ensure(fenced == [old.token], "the old token is reported")?;
    ensure(spool.entries(id(1)).await?.len() == 1, "the entry is still there")?;
    ensure(spool.entries(id(2)).await?.is_empty(), "what a fenced settlement submits is not stored")?;
    ensure(
        spool.extend(vec![old.token], Timestamp::NEVER).await? == [old.token],
        "an old token extends nothing",
    )?;
    let fenced = spool.settle(vec![remove(&new)], Durability::Synced).await?;
    ensure(fenced.is_empty(), "the new token is good")
}

/// A lease that ended is still good while nobody else claimed the entry: its work is not lost.
///
/// # Errors
/// [`Broken`]
pub async fn a_late_settlement_counts_while_nobody_else_claimed(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1), due_at(sample(2), LEASE)], None).await?;
    let late = only(claim(spool, "q.test", 1, 1).await?)?;
    let fenced = spool.settle(vec![remove(&late)], Durability::Synced).await?;
    ensure(fenced.is_empty(), "the settlement is applied")?;
    ensure(ids(&claim(spool, "q.test", LEASE, 9).await?) == [id(2)], "and the entry is gone")
}

/// A settled entry is not settled twice, in one call or in two.
///
/// # Errors
/// [`Broken`]
pub async fn an_entry_is_settled_once(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let (mut first, mut second) = (remove(&claimed), remove(&claimed));
    first.submit.push(sample(2));
    second.submit.push(sample(3));
    let fenced = spool.settle(vec![first, second], Durability::Synced).await?;
    ensure(fenced == [claimed.token], "the second in one call is fenced off")?;
    ensure(spool.entries(id(2)).await?.len() == 1, "the first submitted")?;
    ensure(spool.entries(id(3)).await?.is_empty(), "the second did not")?;
    let fenced = spool.settle(vec![remove(&claimed)], Durability::Soon).await?;
    ensure(fenced == [claimed.token], "the same settlement made again is fenced off")
}

/// Extending a lease hides the entry for longer.
///
/// # Errors
/// [`Broken`]
pub async fn extending_keeps_a_claim(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let later = Timestamp::from_millis(2 * LEASE);
    let unknown = Token { number: claimed.token.number + 1, ..claimed.token };
    let fenced = spool.extend(vec![claimed.token, unknown], later).await?;
    ensure(fenced == [unknown], "only the unknown token is reported")?;
    ensure(claim(spool, "q.test", 2 * LEASE - 1, 1).await?.is_empty(), "hidden for longer")?;
    ensure(claim(spool, "q.test", 2 * LEASE, 1).await?.len() == 1, "but not for ever")
}

/// The same id again is a success and stores no second copy.
///
/// # Errors
/// [`Broken`]
pub async fn enqueuing_an_id_twice_stores_it_once(spool: &dyn Spool) -> Kept {
    let lease = Some(Timestamp::from_millis(LEASE));
    ensure(spool.enqueue(vec![sample(1), sample(1)], lease).await?.len() == 1, "once in one batch")?;
    let mut again = sample(1);
    again.body = NewBody::Inline(Bytes::from_static(b"another body"));
    ensure(spool.enqueue(vec![again, sample(2)], lease).await?.len() == 1, "only the new one is returned")?;
    let stats = spool.stats();
    ensure((stats.messages, stats.entries) == (2, 2), "two messages are there")?;
    ensure(stats.octets == 2 * sample(1).body.size(), "and the first body stands")
}

/// A batch with one message that cannot be stored stores none.
///
/// # Errors
/// [`Broken`]
pub async fn a_batch_is_stored_whole_or_not_at_all(spool: &dyn Spool) -> Kept {
    let mut bare = sample(2);
    bare.entries.clear();
    let mut nobody = sample(2);
    nobody.entries.iter_mut().for_each(|entry| entry.recipients.clear());
    for wrong in [bare, nobody] {
        let result = spool.enqueue(vec![sample(1), wrong], None).await;
        ensure(matches!(result, Err(SpoolError::Invalid(_))), "what cannot be stored is refused")?;
    }
    ensure(spool.stats() == Stats::default(), "and nothing is stored")?;
    // The same of settlements and of what they submit.
    let lease = Timestamp::from_millis(LEASE);
    let claims = spool.enqueue(vec![sample(1), sample(2)], Some(lease)).await?;
    let mut wrong: Vec<_> = claims.iter().map(remove).collect();
    for settlement in &mut wrong {
        let mut report = sample(9);
        report.entries.clear();
        settlement.submit = vec![sample(3), report];
    }
    let result = spool.settle(wrong, Durability::Synced).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "a wrong report is refused")?;
    ensure(spool.stats().messages == 2, "and nothing is settled")?;
    let fenced = spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await?;
    ensure(fenced.is_empty(), "the claims still hold")
}

/// With a lease, new entries are claimed from the start and come with their bodies.
///
/// # Errors
/// [`Broken`]
pub async fn fresh_entries_are_born_claimed(spool: &dyn Spool) -> Kept {
    let lease = Timestamp::from_millis(LEASE);
    let mut two = sample(1);
    two.entries.push(NewEntry { queue: QueueName::new("r.test"), ..two.entries.first_cloned()? });
    let claims = spool.enqueue(vec![two, sample(2)], Some(lease)).await?;
    let order: Vec<_> = claims.iter().map(|c| (c.token.message, c.token.entry)).collect();
    ensure(order == [(id(1), 0), (id(1), 1), (id(2), 0)], "all of them, in order")?;
    for born in &claims {
        ensure(born.body.at_hand.as_deref() == Some(BODY), "the body is at hand")?;
        let Content::Whole(octets) = spool.body(&born.body).await? else {
            return Err(Broken::Promise("a body at hand comes whole"));
        };
        ensure(octets == BODY, "and is the body")?;
    }
    for queue in ["q.test", "r.test"] {
        ensure(claim(spool, queue, LEASE - 1, 9).await?.is_empty(), "nobody else gets them")?;
    }
    let fenced = spool.settle(claims.iter().map(remove).collect(), Durability::Soon).await?;
    ensure(fenced.is_empty(), "their tokens are good")?;
    ensure(spool.stats() == Stats::default(), "and all is settled")
}

/// A settlement and the messages it submits come together.
///
/// # Errors
/// [`Broken`]
pub async fn a_settlement_and_its_reports_are_one(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let mut settlement = remove(&claimed);
    let mut report = sample(1);
    report.id = id(1).derived(1, 0);
    report.mail = Mail::default();
    let report_id = report.id;
    settlement.submit.push(report);
    spool.settle(vec![settlement], Durability::Synced).await?;
    ensure(spool.entries(id(1)).await?.is_empty(), "the entry went")?;
    let report = only(claim(spool, "q.test", 100, 9).await?)?;
    ensure(report.token.message == report_id, "the report came")?;
    ensure(octets(spool, &report.body).await? == BODY, "with its body")
}

/// A retry changes due time, queue, count of attempts, states and notes.
///
/// # Errors
/// [`Broken`]
pub async fn a_retry_moves_the_entry(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let mut recipients = claimed.recipients.clone();
    recipients.push(Recipient {
        state: RecipientState::Delivered,
        note: Some("250 2.0.0 ok\\n\n\tqueued, grüße\r".into()),
        ..Recipient::new(Rcpt::parse("<second@q.test>").map_err(|_| SAMPLE)?)
    });
    recipients.push(Recipient { note: Some("x".repeat(2000).into()), ..recipients.first_cloned()? });
    let settlement = Settlement {
        recipients: recipients.clone(),
        queue: Some(QueueName::new("site.test")),
        then: Then::Retry(Timestamp::from_millis(5_000)),
        ..remove(&claimed)
    };
    spool.settle(vec![settlement], Durability::Synced).await?;
    ensure(claim(spool, "q.test", 9_000, 9).await?.is_empty(), "it left its queue")?;
    ensure(claim(spool, "site.test", 4_999, 9).await?.is_empty(), "it is not due yet")?;
    let again = only(claim(spool, "site.test", 5_000, 9).await?)?;
    ensure(again.attempts == 1 && again.due == Timestamp::from_millis(5_000), "the attempt counts")?;
    if let Some(last) = recipients.last_mut() {
        last.note = Some("x".repeat(1024).into());
    }
    ensure(again.recipients == recipients, "states and notes are kept, long notes cut")
}

/// A settlement without an attempt leaves the count of attempts alone.
///
/// # Errors
/// [`Broken`]
pub async fn no_attempt_is_counted_where_none_was_made(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let back = Settlement {
        recipients: claimed.recipients.clone(),
        attempted: false,
        then: Then::Retry(Timestamp::from_millis(7)),
        ..remove(&claimed)
    };
    spool.settle(vec![back], Durability::Soon).await?;
    let again = only(claim(spool, "q.test", 100, 1).await?)?;
    ensure(again.attempts == 0, "no attempt")?;
    ensure(again.queue == claimed.queue, "in the queue where it was")
}

/// A parked entry is never claimed but stays to be seen.
///
/// # Errors
/// [`Broken`]
pub async fn a_parked_entry_is_set_aside(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1), sample(2)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let park = Settlement {
        recipients: claimed.recipients.clone(),
        then: Then::Park("routing loop".into()),
        ..remove(&claimed)
    };
    spool.settle(vec![park], Durability::Synced).await?;
    ensure(ids(&claim(spool, "q.test", 9 * LEASE, 9).await?) == [id(2)], "it is not claimed")?;
    let seen = only(spool.entries(id(1)).await?)?;
    ensure(seen.parked.as_deref() == Some("routing loop"), "it is shown with its reason")?;
    let queue = only(spool.queues(None, 9).await?)?;
    ensure(queue.entries == 1, "its queue does not count it")?;
    ensure(spool.stats().entries == 2, "the spool does")
}

/// A message and its body go with its last entry, not before.
///
/// # Errors
/// [`Broken`]
pub async fn the_last_entry_takes_the_message_along(spool: &dyn Spool) -> Kept {
    let mut message = sample(1);
    message.entries.push(NewEntry { queue: QueueName::new("r.test"), ..message.entries.first_cloned()? });
    spool.enqueue(vec![message], None).await?;
    let first = only(claim(spool, "q.test", 100, 9).await?)?;
    let second = only(claim(spool, "r.test", 100, 9).await?)?;
    spool.settle(vec![remove(&first)], Durability::Synced).await?;
    ensure(spool.stats().messages == 1 && spool.stats().entries == 1, "one entry is left")?;
    ensure(octets(spool, &second.body).await? == BODY, "the body is still there")?;
    spool.settle(vec![remove(&second)], Durability::Synced).await?;
    ensure(spool.stats() == Stats::default(), "nothing is left")?;
    let gone = spool.body(&BodyRef { at_hand: None, ..second.body }).await;
    ensure(gone.is_err(), "nor the body")
}

/// An entry whose recipient still waits is not removed.
///
/// # Errors
/// [`Broken`]
pub async fn a_waiting_recipient_is_not_lost(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let wrong = Settlement { recipients: claimed.recipients.clone(), ..remove(&claimed) };
    let result = spool.settle(vec![wrong], Durability::Synced).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "removal is refused")?;
    let wrong = Settlement {
        recipients: Vec::new(),
        then: Then::Retry(Timestamp::from_millis(1)),
        ..remove(&claimed)
    };
    let result = spool.settle(vec![wrong], Durability::Synced).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "so is a retry of nobody")?;
    ensure(spool.entries(id(1)).await?.len() == 1, "and the entry stays")
}

/// Bodies of every size come back octet by octet, staged or not.
///
/// # Errors
/// [`Broken`]
pub async fn bodies_come_back_as_they_were(spool: &dyn Spool) -> Kept {
    let pattern: Bytes = (0..700_001_u32).map(|n| n.to_le_bytes().iter().fold(7, |a, b| a ^ b)).collect();
    for (n, size) in (1..).zip([0, 1, 10_240, 262_144, 262_145, 700_001]) {
        let body = pattern.slice(..size);
        let mut inline = sample(n);
        inline.body = NewBody::Inline(body.clone());
        let mut staged = sample(n + 100);
        staged.body = NewBody::Staged(stage(spool, &body).await?);
        ensure(staged.body.size() == body.len() as u64, "a staged body knows its size")?;
        spool.enqueue(vec![inline, staged], None).await?;
        for claimed in claim(spool, "q.test", 100, 9).await? {
            ensure(claimed.body.size == body.len() as u64, "the size is kept")?;
            ensure(octets(spool, &claimed.body).await? == body, "the octets are kept")?;
            spool.settle(vec![remove(&claimed)], Durability::Soon).await?;
        }
    }
    ensure(spool.stats() == Stats::default(), "all are settled")
}

/// A staged body that no message names leaves nothing behind and harms nothing.
///
/// # Errors
/// [`Broken`]
pub async fn a_staged_body_given_up_leaves_nothing(spool: &dyn Spool) -> Kept {
    let body = Bytes::from(vec![7; 600_000]);
    drop(stage(spool, &body).await?);
    let mut writer = spool.stage().await?;
    writer.write(body.clone()).await?;
    drop(writer);
    // Named by a message that is there already: the first body stands, the staged one goes.
    spool.enqueue(vec![sample(1)], None).await?;
    let mut again = sample(1);
    again.body = NewBody::Staged(stage(spool, &body).await?);
    spool.enqueue(vec![again], None).await?;
    spool.flush().await?;
    ensure(spool.stats().octets == BODY.len() as u64, "only the message's body is there")?;
    let claimed = only(claim(spool, "q.test", 100, 9).await?)?;
    ensure(octets(spool, &claimed.body).await? == BODY, "and it is the first one")
}

/// A staged body is good for one message of the spool that gave it.
///
/// # Errors
/// [`Broken`]
pub async fn a_staged_body_is_used_once(spool: &dyn Spool) -> Kept {
    let staged = stage(spool, &Bytes::from_static(b"once")).await?;
    let forged = super::Staged { number: staged.number, size: staged.size, guard: None };
    let mut first = sample(1);
    first.body = NewBody::Staged(staged);
    spool.enqueue(vec![first], None).await?;
    let mut second = sample(2);
    second.body = NewBody::Staged(forged);
    let result = spool.enqueue(vec![second], None).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "not twice")
}

/// Queues are listed by name, in pages, with their count and when something can be claimed.
///
/// # Errors
/// [`Broken`]
pub async fn queues_are_listed_with_their_first_due(spool: &dyn Spool) -> Kept {
    let mut batch = Vec::new();
    for (n, queue, due) in [(1, "b", 30), (2, "a", 20), (3, "c", 5), (4, "b", 25)] {
        let mut message = due_at(sample(n), due);
        in_queue(&mut message, queue);
        batch.push(message);
    }
    spool.enqueue(batch, None).await?;
    let page = |queues: Vec<super::QueueSummary>| -> Vec<_> {
        queues.into_iter().map(|q| (q.queue.to_string(), q.entries, q.due.as_millis())).collect()
    };
    let all = page(spool.queues(None, 9).await?);
    ensure(
        all == [("a".into(), 1, 20), ("b".into(), 2, 25), ("c".into(), 1, 5)],
        "name, count and first due",
    )?;
    ensure(page(spool.queues(None, 2).await?).len() == 2, "no more than the limit")?;
    let rest = page(spool.queues(Some(QueueName::new("b")), 9).await?);
    ensure(rest == [("c".into(), 1, 5)], "from behind the last one on")?;
    let claimed = claim(spool, "b", 25, 1).await?;
    let all = page(spool.queues(Some(QueueName::new("a")), 1).await?);
    ensure(all == [("b".into(), 2, 30)], "a claimed entry counts but is not due")?;
    claim(spool, "b", 30, 1).await?;
    let all = page(spool.queues(Some(QueueName::new("a")), 1).await?);
    ensure(all == [("b".into(), 2, LEASE)], "before its lease ends")?;
    spool.settle(claimed.iter().map(remove).collect(), Durability::Soon).await?;
    let claimed = claim(spool, "a", 20, 9).await?;
    spool.settle(claimed.iter().map(remove).collect(), Durability::Soon).await?;
    ensure(page(spool.queues(None, 1).await?) == [("b".into(), 1, LEASE)], "an empty queue is gone")
}

/// A scan in pages meets every entry once, in order.
///
/// # Errors
/// [`Broken`]
pub async fn a_scan_goes_through_everything(spool: &dyn Spool) -> Kept {
    let mut expected = Vec::new();
    for n in [3, 1, 2] {
        let mut message = sample(n);
        let entry = message.entries.first_cloned()?;
        message.entries.extend([entry.clone(), entry]);
        expected.extend((0..3).map(|entry| (id(n), entry)));
        spool.enqueue(vec![message], Some(Timestamp::from_millis(LEASE))).await?;
    }
    expected.sort();
    for limit in [1, 2, 4, 100] {
        let mut seen = Vec::new();
        loop {
            let page = spool.scan(seen.last().copied(), limit).await?;
            ensure(page.len() <= limit, "no more than the limit")?;
            if page.is_empty() {
                break;
            }
            seen.extend(page.iter().map(|entry| (entry.message, entry.entry)));
        }
        ensure(seen == expected, "every entry once, in order, claimed ones too")?;
    }
    Ok(())
}

/// Nothing of a message changes on its way through the spool.
///
/// # Errors
/// [`Broken`]
pub async fn everything_about_a_message_comes_back(spool: &dyn Spool) -> Kept {
    let mut message = sample(1);
    let mail = "<jürgen@bücher.test> SIZE=12 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>";
    let rcpts = [
        "<\"a\\> b\"@q.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;A+3Db@q.test",
        "<postmaster>",
        "<x@[127.0.0.1]> NOTIFY=NEVER",
    ];
    message.mail = Mail::parse(mail).map_err(|_| SAMPLE)?;
    message.head = Bytes::from_static(b"Received: by a.test;\r\n\t\xff\x00\r\n");
    let rcpts: Result<Vec<_>, _> = rcpts.into_iter().map(Rcpt::parse).collect();
    let rcpts = rcpts.map_err(|_| SAMPLE)?;
    message.entries = vec![NewEntry {
        destination: Domain::parse("[IPv6:::1]").map_err(|_| SAMPLE)?,
        queue: QueueName::new("site 'of' b\u{fc}cher"),
        due: Timestamp::from_millis(11),
        recipients: rcpts.clone(),
    }];
    let (mail, head) = (message.mail.clone(), message.head.clone());
    let entry = message.entries.first_cloned()?;
    spool.enqueue(vec![message], None).await?;
    let claimed = only(claim(spool, entry.queue.as_str(), 100, 1).await?)?;
    ensure(claimed.mail == mail && claimed.mail.to_string() == mail.to_string(), "the sender")?;
    ensure(claimed.head == head, "the head")?;
    ensure(claimed.accepted == Timestamp::from_millis(1), "when it was accepted")?;
    ensure(claimed.expires == Timestamp::from_millis(1_000_000), "when it expires")?;
    ensure((&claimed.destination, &claimed.queue) == (&entry.destination, &entry.queue), "where to")?;
    let recipients: Vec<_> = rcpts.into_iter().map(Recipient::new).collect();
    ensure(claimed.recipients == recipients, "the recipients")?;
    let seen: EntrySummary = only(spool.entries(id(1)).await?)?;
    ensure(seen.mail == mail && seen.recipients == recipients, "the same is shown to people")?;
    ensure(seen.due == entry.due && seen.parked.is_none() && seen.attempts == 0, "and how it stands")
}

/// Flushing and waiting come to an end.
///
/// # Errors
/// [`Broken`]
pub async fn flush_and_wait_return(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    spool.flush().await?;
    spool.wait(Duration::from_millis(1)).await;
    Ok(())
}

/// A message for tests of a spool: the `n`-th of a row of ids that grow, for one recipient, in the
/// queue `q.test`, due at 0.
#[must_use]
pub fn sample(n: u64) -> NewMessage {
    NewMessage {
        id: id(n),
        mail: Mail::parse("<sender@s.test>").unwrap_or_default(),
        head: Bytes::from_static(b"Received: from c.test by s.test\r\n"),
        body: NewBody::Inline(Bytes::from_static(BODY)),
        accepted: Timestamp::from_millis(1),
        expires: Timestamp::from_millis(1_000_000),
        entries: Domain::parse("q.test")
            .ok()
            .map(|destination| NewEntry {
                queue: QueueName::from(&destination),
                destination,
                due: Timestamp::default(),
                recipients: Rcpt::parse("<someone@q.test>").into_iter().collect(),
            })
            .into_iter()
            .collect(),
    }
}

/// A settlement that says of each recipient of `claim` that it is delivered.
#[must_use]
pub fn remove(claim: &Claim) -> Settlement {
    let delivered = |r: &Recipient| Recipient { state: RecipientState::Delivered, ..r.clone() };
    Settlement {
        token: claim.token,
        recipients: claim.recipients.iter().map(delivered).collect(),
        attempted: true,
        queue: None,
        then: Then::Remove,
        submit: Vec::new(),
    }
}

/// All octets of a body, read from the storage even where they are at hand.
///
/// # Errors
/// [`Broken`]
pub async fn octets(spool: &dyn Spool, body: &BodyRef) -> Result<Bytes, Broken> {
    match spool.body(&BodyRef { at_hand: None, ..body.clone() }).await? {
        Content::Whole(octets) => Ok(octets),
        Content::Stream { mut reader, .. } => {
            let mut octets = BytesMut::new();
            while let Some(piece) = reader.chunk().await? {
                ensure(!piece.is_empty(), "a piece has octets")?;
                octets.extend_from_slice(&piece);
            }
            Ok(octets.freeze())
        }
    }
}

async fn stage(spool: &dyn Spool, body: &Bytes) -> Result<super::Staged, SpoolError> {
    let mut writer = spool.stage().await?;
    // A size that divides no power of two.
    let mut rest = body.clone();
    while !rest.is_empty() {
        writer.write(rest.split_to(rest.len().min(99_991))).await?;
    }
    writer.finish().await
}

async fn claim(spool: &dyn Spool, queue: &str, now: u64, limit: usize) -> Result<Vec<Claim>, SpoolError> {
    let lease = Timestamp::from_millis(now.max(LEASE - 1) + 1 + now / LEASE * LEASE);
    let request =
        ClaimRequest { queue: QueueName::new(queue), now: Timestamp::from_millis(now), limit, lease };
    spool.claim(request).await
}

fn ensure(kept: bool, promise: &'static str) -> Kept {
    if kept { Ok(()) } else { Err(Broken::Promise(promise)) }
}

fn only<T>(items: Vec<T>) -> Result<T, Broken> {
    let mut items = items.into_iter();
    match (items.next(), items.next()) {
        (Some(item), None) => Ok(item),
        _ => Err(Broken::Promise("there is exactly one")),
    }
}

fn id(n: u64) -> MessageId {
    MessageId::new(Timestamp::from_millis(1_790_000_000_000 + n), &Rng::seeded(n))
}

fn ids(claims: &[Claim]) -> Vec<MessageId> {
    claims.iter().map(|claim| claim.token.message).collect()
}

fn due_at(mut message: NewMessage, due: u64) -> NewMessage {
    message.entries.iter_mut().for_each(|entry| entry.due = Timestamp::from_millis(due));
    message
}

fn in_queue(message: &mut NewMessage, queue: &str) {
    message.entries.iter_mut().for_each(|entry| entry.queue = QueueName::new(queue));
}

/// The first of a list, cloned.
trait FirstCloned<T> {
    fn first_cloned(&self) -> Result<T, Broken>;
}

impl<T: Clone> FirstCloned<T> for Vec<T> {
    fn first_cloned(&self) -> Result<T, Broken> {
        self.first().cloned().ok_or(SAMPLE)
    }
}

/// The suite's own sample is wrong.
const SAMPLE: Broken = Broken::Promise("the sample can be parsed");

/// The body of a sample.
const BODY: &[u8] = b"Subject: x\r\n\r\nHello.\r\n";

/// When leases end, in the suite's time.
const LEASE: u64 = 1_000;
