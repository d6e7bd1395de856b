//! Remembering: keys, results and the log, which outlive the messages they are about.

use super::*;

/// A message with a known key is not stored again, in one batch or in two, and the answer says under which
/// id it is there. Two tenants may use the same key.
///
/// # Errors
/// [`Broken`]
pub async fn a_key_stores_its_message_once(spool: &dyn Spool) -> Kept {
    let lease = Some(Timestamp::from_millis(LEASE));
    let first = spool.enqueue(vec![keyed(1, "k", 1)?, keyed(2, "k", 1)?, sample(3)], lease).await?;
    ensure(ids(&first.claims) == [id(1), id(3)], "the first of a batch, and what has no key")?;
    ensure(first.known == [Known { given: id(2), stored: id(1) }], "the second is known")?;
    let mut staged = keyed(4, "k", 1)?;
    staged.body = NewBody::Staged(stage(spool, &Bytes::from_static(b"staged")).await?);
    let again = spool.enqueue(vec![staged, keyed(5, "other", 9)?], lease).await?;
    ensure(ids(&again.claims) == [id(5)], "a known one is not claimed")?;
    ensure(again.known == [Known { given: id(4), stored: id(1) }], "it is known in another call, too")?;
    let again = spool.enqueue(vec![keyed(1, "k", 1)?], lease).await?;
    ensure(again.claims.is_empty(), "nor is the same message again")?;
    ensure(again.known == [Known { given: id(1), stored: id(1) }], "it is known under its own id")?;
    let mut theirs = keyed(6, "k", 2)?;
    theirs.key = theirs.key.map(|key| Key { tenant: Tenant::new("acme"), ..key });
    let theirs = spool.enqueue(vec![theirs], lease).await?;
    ensure(ids(&theirs.claims) == [id(6)], "another tenant's key is another key")?;
    spool.flush().await?;
    ensure(spool.stats().messages == 4, "each is there once")
}

/// A key is remembered when its message is gone, until its time is over; and longer while its message waits.
///
/// # Errors
/// [`Broken`]
pub async fn a_key_outlives_its_message(spool: &dyn Spool) -> Kept {
    let (before, over) = (Timestamp::from_millis(KEY_UNTIL - 1), Timestamp::from_millis(KEY_UNTIL));
    spool.enqueue(vec![keyed(1, "gone", 1)?, due_at(keyed(2, "waits", 1)?, LEASE)], None).await?;
    let claimed = only(claim(spool, "q.test", 1, 9).await?)?;
    spool.settle(vec![remove(&claimed)], Durability::Synced).await?;
    prune(spool, before).await?;
    let known = spool.enqueue(vec![keyed(3, "gone", 1)?], None).await?.known;
    ensure(known == [Known { given: id(3), stored: id(1) }], "the message is gone, the key is not")?;
    prune(spool, over).await?;
    let enqueued = spool.enqueue(vec![keyed(4, "gone", 7)?, keyed(5, "waits", 1)?], None).await?;
    ensure(
        enqueued.known == [Known { given: id(5), stored: id(2) }],
        "it is forgotten in time, but not while the message waits",
    )?;
    ensure(spool.scan(Selection::message(id(4)), None, 9).await?.len() == 1, "and is then good again")
}

/// A key that stands for another content refuses the whole batch, wherever the other content is.
///
/// # Errors
/// [`Broken`]
pub async fn another_content_under_a_key_is_refused(spool: &dyn Spool) -> Kept {
    let result = spool.enqueue(vec![sample(1), keyed(2, "k", 1)?, keyed(3, "k", 2)?], None).await;
    ensure(matches!(result, Err(SpoolError::KeyConflict)), "within a batch")?;
    ensure(spool.stats() == Stats::default(), "nothing of it is stored")?;
    spool.enqueue(vec![keyed(4, "k", 3)?], None).await?;
    let claimed = only(claim(spool, "q.test", 1, 9).await?)?;
    spool.settle(vec![remove(&claimed)], Durability::Synced).await?;
    let result = spool.enqueue(vec![sample(5), keyed(6, "new", 1)?, keyed(7, "k", 4)?], None).await;
    ensure(matches!(result, Err(SpoolError::KeyConflict)), "with a message that is gone")?;
    ensure(spool.stats() == Stats::default(), "nothing is stored")?;
    let enqueued = spool.enqueue(vec![keyed(8, "new", 2)?], None).await?;
    ensure(enqueued.known.is_empty(), "and no key of the batch is remembered")
}

/// A settlement cannot bring a message with a key: a conflict could be told to nobody.
///
/// # Errors
/// [`Broken`]
pub async fn what_a_settlement_submits_has_no_key(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1)], None).await?;
    let claimed = only(claim(spool, "q.test", 1, 9).await?)?;
    let mut wrong = remove(&claimed);
    wrong.submit.push(keyed(2, "k", 1)?);
    let result = spool.settle(vec![wrong], Durability::Synced).await;
    ensure(matches!(result, Err(SpoolError::Invalid(_))), "it is refused")?;
    ensure(spool.stats().messages == 1, "and nothing is settled")
}

/// Where results are kept, they say of every recipient how it stands: in entries that wait, in entries that
/// are gone, and for a time after the last of them.
///
/// # Errors
/// [`Broken`]
pub async fn results_outlive_their_message(spool: &dyn Spool) -> Kept {
    let mut message = sample(1);
    message.keep = Some(Duration::from_millis(2_000));
    let first = message.entries.first_cloned()?;
    let others = Rcpt::parse("<x@q.test>").and_then(|x| Ok(vec![x, Rcpt::parse("<y@q.test>")?]));
    message.entries.push(NewEntry { recipients: others.map_err(|_| SAMPLE)?, ..first });
    spool.enqueue(vec![message, sample(2)], None).await?;
    let claims = claim(spool, "q.test", 1, 9).await?;
    let [one, two, bare] = claims.as_slice() else { return Err(Broken::Promise("three entries")) };
    ensure(states(spool).await? == ("www".into(), false, None), "at first all wait")?;
    let mut failed = remove(two);
    let long: Box<str> = "x".repeat(2_000).into();
    for recipient in &mut failed.recipients {
        (recipient.state, recipient.note) = (RecipientState::Failed, Some(long.clone()));
    }
    let mut back = failed.recipients.clone();
    for recipient in back.iter_mut().skip(1) {
        recipient.state = RecipientState::Waiting;
    }
    let retry = Settlement { recipients: back, then: Then::Retry(Timestamp::default()), ..remove(two) };
    spool.settle(vec![remove(one), retry], Durability::Synced).await?;
    ensure(states(spool).await? == ("dfw".into(), false, None), "then some are settled")?;
    let two = only(claim(spool, "q.test", 1, 9).await?)?;
    let last = Settlement { token: two.token, at: Timestamp::from_millis(600), ..failed };
    spool.settle(vec![last, remove(bare)], Durability::Synced).await?;
    let until = Some(Timestamp::from_millis(2_600));
    ensure(states(spool).await? == ("dff".into(), true, until), "then all")?;
    ensure(spool.stats() == Stats::default(), "and the message is gone")?;
    let results = spool.results(id(1)).await?.ok_or(Broken::Promise("there are results"))?;
    let note = results.recipients.last().and_then(|r| r.note.as_deref()).unwrap_or_default();
    ensure(note.len() == 1_024, "notes are kept, long ones cut")?;
    ensure(spool.results(id(2)).await?.is_none(), "nothing is kept that is not to be")?;
    prune(spool, Timestamp::from_millis(2_599)).await?;
    ensure(spool.results(id(1)).await?.is_some(), "they are kept for their time")?;
    prune(spool, Timestamp::from_millis(2_600)).await?;
    ensure(spool.results(id(1)).await?.is_none(), "and not longer")
}

/// Of a settlement with an old token nothing is remembered.
///
/// # Errors
/// [`Broken`]
pub async fn nothing_is_remembered_of_what_was_fenced_off(spool: &dyn Spool) -> Kept {
    let mut message = sample(1);
    message.keep = Some(Duration::from_secs(1));
    spool.enqueue(vec![message], None).await?;
    let old = only(claim(spool, "q.test", 1, 1).await?)?;
    claim(spool, "q.test", LEASE, 1).await?;
    let late = Settlement { log: vec![event(1, LogKind::Delivered, 1)?], ..remove(&old) };
    spool.settle(vec![late], Durability::Synced).await?;
    ensure(states(spool).await? == ("w".into(), false, None), "no result")?;
    ensure(spool.log(0, 9).await?.is_empty(), "no event")
}

/// The log has what was stored and what was settled, once, in order, and is read by number.
///
/// # Errors
/// [`Broken`]
pub async fn the_log_is_read_by_number(spool: &dyn Spool) -> Kept {
    let mut message = keyed(1, "k", 1)?;
    message.log = vec![event(1, LogKind::Accepted, 1)?];
    spool.enqueue(vec![message], None).await?;
    for n in [1, 2] {
        // The id is there, the key is known: nothing is accepted.
        let mut again = keyed(n, "k", 1)?;
        again.log = vec![event(n, LogKind::Accepted, 1)?];
        spool.enqueue(vec![again], None).await?;
    }
    let claimed = only(claim(spool, "q.test", 1, 9).await?)?;
    let mut events = vec![event(1, LogKind::Deferred, 2)?, event(1, LogKind::Reported, 2)?];
    if let Some(bare) = events.last_mut() {
        (bare.recipient, bare.entry, bare.note) = (None, None, None);
    }
    if let Some(noted) = events.first_mut() {
        noted.note = Some("x".repeat(2_000).into());
    }
    let back = Settlement {
        recipients: claimed.recipients.clone(),
        then: Then::Retry(Timestamp::default()),
        log: events.clone(),
        ..remove(&claimed)
    };
    spool.settle(vec![back], Durability::Synced).await?;
    if let Some(noted) = events.first_mut() {
        noted.note = Some("x".repeat(1_024).into());
    }
    events.insert(0, event(1, LogKind::Accepted, 1)?);
    let all = spool.log(0, 9).await?;
    ensure(all.is_sorted_by(|a, b| a.number < b.number), "numbers grow")?;
    ensure(all.iter().map(|logged| &logged.event).eq(&events), "everything comes back, once, in order")?;
    let mut paged = Vec::new();
    while let Some(next) = spool.log(paged.last().map_or(0, |l: &Logged| l.number), 1).await?.pop() {
        paged.push(next);
    }
    ensure(paged == all, "the same in pages")
}

/// The log is kept for a time and up to a number of events; its numbers are never given again.
///
/// # Errors
/// [`Broken`]
pub async fn the_log_is_pruned_from_its_front(spool: &dyn Spool) -> Kept {
    for n in 1..=5 {
        let mut message = sample(n);
        message.log = vec![event(n, LogKind::Accepted, n * 1_000)?];
        spool.enqueue(vec![message], None).await?;
    }
    let keep = |time, events| KeepLog { time: Duration::from_millis(time), events };
    let prune = async |now, keep| -> Result<Vec<u64>, SpoolError> {
        while spool.prune(Timestamp::from_millis(now), keep).await? {}
        Ok(spool.log(0, 9).await?.iter().map(|logged| logged.event.at.as_millis() / 1_000).collect())
    };
    ensure(prune(5_000, keep(10_000, 9)).await? == [1, 2, 3, 4, 5], "what is to be kept is kept")?;
    ensure(prune(5_000, keep(4_000, 9)).await? == [2, 3, 4, 5], "by time")?;
    ensure(prune(5_000, keep(10_000, 3)).await? == [3, 4, 5], "by number")?;
    let last = spool.log(0, 9).await?.last().map_or(0, |logged| logged.number);
    ensure(prune(99_000, keep(0, 0)).await?.is_empty(), "or all of it goes")?;
    let mut message = sample(6);
    message.log = vec![event(6, LogKind::Accepted, 6)?];
    spool.enqueue(vec![message], None).await?;
    ensure(spool.log(last, 9).await?.len() == 1, "a number is not given again")
}

fn keyed(n: u64, name: &str, digest: u8) -> Result<NewMessage, Broken> {
    let key = Key::new(None, name, [digest; 32], Timestamp::from_millis(KEY_UNTIL)).map_err(|_| SAMPLE)?;
    Ok(NewMessage { key: Some(key), ..sample(n) })
}

fn event(n: u64, kind: LogKind, at: u64) -> Result<LogEvent, Broken> {
    Ok(LogEvent {
        at: Timestamp::from_millis(at),
        message: id(n),
        entry: Some(3),
        kind,
        recipient: Some(Rcpt::parse("<\"a b\"@q.test> NOTIFY=NEVER").map_err(|_| SAMPLE)?),
        attempt: 7,
        note: Some("250 2.0.0 ok\n\tgrüße".into()),
    })
}

/// The first letters of the states of the first message's recipients, whether that is all, and until when it
/// is kept.
async fn states(spool: &dyn Spool) -> Result<(String, bool, Option<Timestamp>), Broken> {
    let results = spool.results(id(1)).await?.ok_or(Broken::Promise("there are results"))?;
    let letters = results.recipients.iter().filter_map(|r| r.state.as_str().chars().next()).collect();
    Ok((letters, results.finished, results.until))
}

async fn prune(spool: &dyn Spool, now: Timestamp) -> Kept {
    while spool.prune(now, KeepLog::new()).await? {}
    Ok(())
}

/// Until when keys are remembered, in the suite's time.
const KEY_UNTIL: u64 = 5_000;
