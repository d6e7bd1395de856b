//! Telling: what the sender of a message is to be told is gathered in one entry more, which nothing removes
//! but who reports it.

use super::super::{REPORT_ENTRY, Tell};
use super::*;

/// What is told of several entries comes back together, in order, in one entry that falls due at the
/// earliest of the times given.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_told_is_gathered_in_one_entry(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![three()?], None).await?;
    let claims = claim(spool, "q.test", 100, 9).await?;
    ensure(claims.iter().all(|claim| !claim.alone), "none of three is alone")?;
    let [first, second, third] = claims.as_slice() else { return Err(SAMPLE) };
    spool.settle(vec![telling(first, "1", 70)?], Durability::Synced).await?;
    ensure(spool.stats().entries == 3, "it counts as an entry")?;
    let retry = Settlement {
        recipients: second.recipients.clone(),
        then: Then::Retry(Timestamp::from_millis(500)),
        ..telling(second, "2", 50)?
    };
    spool.settle(vec![retry], Durability::Synced).await?;
    let late = Settlement { then: Then::Park("x".into()), ..telling(third, "3", 90)? };
    spool.settle(vec![late], Durability::Soon).await?;
    ensure(spool.stats().entries == 3, "which is one, however much is told")?;
    ensure(claim(spool, "reports", 49, 9).await?.is_empty(), "it is not due yet")?;
    let told = only(claim(spool, "reports", 50, 9).await?)?;
    ensure(told.token.entry == REPORT_ENTRY && !told.alone, "it has the number that is kept for it")?;
    ensure(
        told.destination.as_str() == "us.test" && told.due == Timestamp::from_millis(50),
        "as it was told",
    )?;
    ensure(notes(&told) == ["1", "2", "3"], "all of it, in order")?;
    ensure(told.recipients.iter().all(|r| r.state == RecipientState::Failed), "with their states")?;
    ensure(told.mail == three()?.mail && octets(spool, &told.body).await? == BODY, "and with the message")?;
    let seen = spool.scan(Selection::message(id(1)), None, usize::MAX).await?;
    ensure(seen.last().is_some_and(|entry| entry.entry == REPORT_ENTRY), "people see it behind the others")
}

/// When nothing else is left of a message, its report entry is due at once, and takes the message along when
/// it is removed.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_told_last_is_due_at_once_and_keeps_the_message(spool: &dyn Spool) -> Kept {
    let mut message = three()?;
    message.entries.pop();
    spool.enqueue(vec![message, sample(2)], None).await?;
    let claims = claim(spool, "q.test", 100, 2).await?;
    let [first, second] = claims.as_slice() else { return Err(SAMPLE) };
    spool.settle(vec![telling(first, "1", 900)?], Durability::Synced).await?;
    ensure(claim(spool, "reports", 899, 9).await?.is_empty(), "there is more to come")?;
    // Nothing is told of the last one.
    spool.settle(vec![remove(second)], Durability::Synced).await?;
    ensure(spool.stats().messages == 2, "the message stays")?;
    let queues = spool.queues(None, 9).await?;
    let due = queues.iter().find(|queue| queue.queue.as_str() == "reports").map(|queue| queue.due);
    ensure(due == Some(Timestamp::default()), "nothing more can come")?;
    let told = only(claim(spool, "reports", 0, 9).await?)?;
    ensure(octets(spool, &told.body).await? == BODY, "and the body")?;
    let mut reported = remove(&told);
    reported.submit.push(sample(3));
    ensure(spool.settle(vec![reported], Durability::Synced).await?.is_empty(), "it is settled as any other")?;
    ensure(spool.scan(Selection::message(id(1)), None, 9).await?.is_empty(), "the message went")?;
    ensure(spool.stats().messages == 2, "the report came")?;
    // The same for a message that had one entry only.
    let alone = only(claim(spool, "q.test", 100, 1).await?)?;
    ensure(alone.alone, "one of one is alone")?;
    spool.settle(vec![telling(&alone, "1", 900)?], Durability::Synced).await?;
    let told = only(claim(spool, "reports", 0, 9).await?)?;
    ensure(
        told.token.message == alone.token.message && octets(spool, &told.body).await? == BODY,
        "it stays",
    )?;
    spool.settle(vec![remove(&told)], Durability::Synced).await?;
    ensure(spool.stats().messages == 1, "and goes")
}

/// Adding to a report entry that is claimed ends the claim: nothing is lost, and nothing told twice.
///
/// # Errors
/// [`Broken`]
pub async fn telling_more_ends_the_claim_of_what_was_told(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![three()?], None).await?;
    let claims = claim(spool, "q.test", 100, 9).await?;
    let [first, second, third] = claims.as_slice() else { return Err(SAMPLE) };
    spool.settle(vec![telling(first, "1", 10)?], Durability::Synced).await?;
    let old = only(claim(spool, "reports", 10, 9).await?)?;
    let mut reported = remove(&old);
    reported.submit.push(sample(3));
    // Once in one call, once in two.
    let fenced = spool.settle(vec![telling(second, "2", 20)?, reported], Durability::Synced).await?;
    ensure(fenced == [old.token], "what knows of a part only is fenced off")?;
    ensure(spool.scan(Selection::message(id(3)), None, 9).await?.is_empty(), "with its report")?;
    ensure(spool.extend(vec![old.token], Timestamp::NEVER).await? == [old.token], "its lease is over")?;
    let old = only(claim(spool, "reports", 10, 9).await?)?;
    ensure(notes(&old) == ["1", "2"], "nobody is lost")?;
    spool.settle(vec![telling(third, "3", 30)?], Durability::Synced).await?;
    let again = Settlement { then: Then::Retry(Timestamp::from_millis(99)), ..remove(&old) };
    ensure(
        spool.settle(vec![again], Durability::Synced).await? == [old.token],
        "not even by giving it back",
    )?;
    let told = only(claim(spool, "reports", 10, 9).await?)?;
    ensure(notes(&told) == ["1", "2", "3"], "nobody is lost")?;
    ensure(
        spool.settle(vec![remove(&told)], Durability::Synced).await?.is_empty(),
        "the last claim is good",
    )?;
    ensure(spool.stats() == Stats::default(), "and nothing is left")
}

/// What is told after a report is another one: the report entry comes into being anew.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_told_after_a_report_is_another_one(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![three()?], None).await?;
    let claims = claim(spool, "q.test", 100, 9).await?;
    let [first, second, third] = claims.as_slice() else { return Err(SAMPLE) };
    spool.settle(vec![telling(first, "1", 10)?], Durability::Synced).await?;
    let told = only(claim(spool, "reports", 10, 9).await?)?;
    // In one call: first the report, then more to tell.
    let fenced = spool.settle(vec![remove(&told), telling(second, "2", 40)?], Durability::Synced).await?;
    ensure(fenced.is_empty() && spool.stats().entries == 2, "one goes, one comes")?;
    ensure(claim(spool, "reports", 39, 9).await?.is_empty(), "due when it was told last")?;
    let told = only(claim(spool, "reports", 40, 9).await?)?;
    ensure(notes(&told) == ["2"] && told.attempts == 0, "and nothing of the first is left")?;
    spool.settle(vec![remove(&told), remove(third)], Durability::Synced).await?;
    ensure(spool.stats() == Stats::default(), "until all is settled")
}

/// What is told with a settlement that is fenced off is not told, and a report entry tells nothing itself.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_fenced_off_tells_nothing(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![three()?], None).await?;
    let claimed = claim(spool, "q.test", 100, 1).await?.first_cloned()?;
    let both = vec![telling(&claimed, "1", 10)?, telling(&claimed, "2", 10)?];
    ensure(spool.settle(both, Durability::Synced).await? == [claimed.token], "the second is fenced off")?;
    let told = only(claim(spool, "reports", 10, 9).await?)?;
    ensure(notes(&told) == ["1"], "and has told nothing")?;
    let result = spool.settle(vec![telling(&told, "x", 10)?], Durability::Synced).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "a report is about nothing else")?;
    let other = claim(spool, "q.test", 100, 1).await?.first_cloned()?;
    let mut nobody = telling(&other, "x", 10)?;
    nobody.tell.iter_mut().for_each(|tell| tell.recipients.clear());
    let result = spool.settle(vec![nobody], Durability::Synced).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "nor about nobody")
}

/// A message with three entries in one queue.
fn three() -> Result<NewMessage, Broken> {
    let mut message = sample(1);
    let entry = message.entries.first_cloned()?;
    message.entries.extend([entry.clone(), entry]);
    Ok(message)
}

/// A settlement that removes an entry and tells of it.
fn telling(claim: &Claim, note: &str, due: u64) -> Result<Settlement, Broken> {
    let mut settlement = remove(claim);
    let mut recipient = claim.recipients.first_cloned()?;
    (recipient.state, recipient.note) = (RecipientState::Failed, Some(note.into()));
    settlement.tell = Some(Tell {
        queue: QueueName::new("reports"),
        destination: Domain::parse("us.test").map_err(|_| SAMPLE)?,
        due: Timestamp::from_millis(due),
        recipients: vec![recipient],
    });
    Ok(settlement)
}

fn notes(claim: &Claim) -> Vec<&str> {
    claim.recipients.iter().filter_map(|recipient| recipient.note.as_deref()).collect()
}
