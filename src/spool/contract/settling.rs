//! Settling: what becomes of a claimed entry, together with what it submits, once.

use super::*;

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
    ensure(spool.scan(Selection::message(id(2)), None, usize::MAX).await?.len() == 1, "the first submitted")?;
    ensure(spool.scan(Selection::message(id(3)), None, usize::MAX).await?.is_empty(), "the second did not")?;
    let fenced = spool.settle(vec![remove(&claimed)], Durability::Soon).await?;
    ensure(fenced == [claimed.token], "the same settlement made again is fenced off")?;
    // The same when the first one leaves the entry where it is.
    let claimed = only(claim(spool, "q.test", 100, 1).await?)?;
    let back = |due| Settlement {
        recipients: claimed.recipients.clone(),
        then: Then::Retry(Timestamp::from_millis(due)),
        ..remove(&claimed)
    };
    let fenced = spool.settle(vec![back(20), back(30)], Durability::Synced).await?;
    ensure(fenced == [claimed.token], "the second is fenced off")?;
    let queue = only(spool.queues(None, 9).await?)?;
    ensure((queue.entries, queue.due) == (1, Timestamp::from_millis(20)), "and has changed nothing")
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
    ensure(spool.scan(Selection::message(id(1)), None, usize::MAX).await?.is_empty(), "the entry went")?;
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
    let seen = only(spool.scan(Selection::message(id(1)), None, usize::MAX).await?)?;
    ensure(seen.parked.as_deref() == Some("routing loop"), "it is shown with its reason")?;
    let queue = only(spool.queues(None, 9).await?)?;
    ensure(queue.entries == 1, "its queue does not count it")?;
    ensure((spool.stats().entries, spool.stats().parked) == (2, 1), "the spool does")
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
    ensure(spool.scan(Selection::message(id(1)), None, usize::MAX).await?.len() == 1, "and the entry stays")
}
