//! Storing: all of a message comes back, and all of a batch or nothing is stored.

use super::*;

/// The same id again is a success and stores no second copy.
///
/// # Errors
/// [`Broken`]
pub async fn enqueuing_an_id_twice_stores_it_once(spool: &dyn Spool) -> Kept {
    let lease = Some(Timestamp::from_millis(LEASE));
    ensure(spool.enqueue(vec![sample(1), sample(1)], lease).await?.claims.len() == 1, "once in one batch")?;
    let mut again = sample(1);
    again.body = NewBody::Inline(Bytes::from_static(b"another body"));
    ensure(
        spool.enqueue(vec![again, sample(2)], lease).await?.claims.len() == 1,
        "only the new one is returned",
    )?;
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
    let claims = spool.enqueue(vec![sample(1), sample(2)], Some(lease)).await?.claims;
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
    let forged = Staged { number: staged.number, size: staged.size, guard: None };
    let mut first = sample(1);
    first.body = NewBody::Staged(staged);
    spool.enqueue(vec![first], None).await?;
    let mut second = sample(2);
    second.body = NewBody::Staged(forged);
    let result = spool.enqueue(vec![second], None).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "not twice")
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
            let page = spool.scan(Selection::all(), seen.last().copied(), limit).await?;
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
    let seen: EntrySummary = only(spool.scan(Selection::message(id(1)), None, usize::MAX).await?)?;
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
