//! Claiming: what is taken, in which order, and for how long nobody else gets it.

use super::*;

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
    ensure(
        spool.scan(Selection::message(id(1)), None, usize::MAX).await?.len() == 1,
        "the entry is still there",
    )?;
    ensure(
        spool.scan(Selection::message(id(2)), None, usize::MAX).await?.is_empty(),
        "what a fenced settlement submits is not stored",
    )?;
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

/// With a lease, new entries are claimed from the start and come with their bodies.
///
/// # Errors
/// [`Broken`]
pub async fn fresh_entries_are_born_claimed(spool: &dyn Spool) -> Kept {
    let lease = Timestamp::from_millis(LEASE);
    let mut two = sample(1);
    two.entries.push(NewEntry { queue: QueueName::new("r.test"), ..two.entries.first_cloned()? });
    let claims = spool.enqueue(vec![two, sample(2)], Some(lease)).await?.claims;
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

/// What was born claimed is counted and listed like all else, and when its lease ends it is claimed like all
/// else, again and again, and whoever had it is late. (Of leases that have ended, no order is promised.)
///
/// # Errors
/// [`Broken`]
pub async fn what_was_born_claimed_is_claimed_again_in_its_turn(spool: &dyn Spool) -> Kept {
    let lease = Some(Timestamp::from_millis(LEASE));
    let late = vec![due_at(sample(1), 30), due_at(sample(2), 10), due_at(sample(3), 3 * LEASE)];
    let late = spool.enqueue(late, lease).await?.claims;
    spool.enqueue(vec![due_at(sample(4), 20), due_at(sample(5), 2 * LEASE)], None).await?;
    let queue = only(spool.queues(None, 9).await?)?;
    ensure((queue.entries, queue.due.as_millis()) == (5, 20), "it counts and is not due")?;
    ensure(ids(&claim(spool, "q.test", 100, 9).await?) == [id(4)], "it is not claimed")?;
    let queue = only(spool.queues(None, 9).await?)?;
    ensure(queue.due.as_millis() == LEASE, "before its lease ends")?;
    let seen = spool.scan(Selection::queue(QueueName::new("q.test")), None, 9).await?;
    ensure(seen.iter().map(|entry| entry.message).eq((1..=5).map(id)), "it is shown in its queue")?;
    let mut all = claim(spool, "q.test", LEASE, 2).await?;
    ensure(all.len() == 2, "then it is, no more than asked for")?;
    all.extend(claim(spool, "q.test", LEASE, 9).await?);
    let sorted = |claims: &[Claim]| ids(claims).into_iter().collect::<std::collections::BTreeSet<_>>();
    ensure(all.len() == 3 && sorted(&all).into_iter().eq([1, 2, 4].map(id)), "and no more than is due")?;
    let late = late.iter().take(2).map(remove).collect();
    let fenced = spool.settle(late, Durability::Synced).await?;
    ensure(fenced.len() == 2, "whoever had it is late")?;
    let again = claim(spool, "q.test", 2 * LEASE + 1, 9).await?;
    ensure(sorted(&again).into_iter().eq([1, 2, 4, 5].map(id)), "it is claimed again, and again")?;
    let put_off = again.iter().map(|claim| retry(claim, 3 * LEASE + 1)).collect();
    spool.settle(put_off, Durability::Synced).await?;
    let last = claim(spool, "q.test", 9 * LEASE, 9).await?;
    ensure(sorted(&last).into_iter().eq((1..=5).map(id)), "and put off like all else")?;
    spool.settle(last.iter().map(remove).collect(), Durability::Synced).await?;
    ensure(spool.stats() == Stats::default(), "until it is settled")
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
    let page = |queues: Vec<QueueSummary>| -> Vec<_> {
        queues.into_iter().map(|q| (q.queue.to_string(), q.entries, q.due.as_millis())).collect()
    };
    let all = page(spool.queues(None, 9).await?);
    ensure(
        all == [("a".into(), 1, 20), ("b".into(), 2, 25), ("c".into(), 1, 5)],
        "name, count and first due",
    )?;
    ensure(page(spool.queues(None, 2).await?).len() == 2, "no more than the limit")?;
    let rest = page(spool.queues(Some((QueueName::new("b"), Class::Bulk)), 9).await?);
    ensure(rest == [("c".into(), 1, 5)], "from behind the last one on")?;
    let claimed = claim(spool, "b", 25, 1).await?;
    let all = page(spool.queues(Some((QueueName::new("a"), Class::Bulk)), 1).await?);
    ensure(all == [("b".into(), 2, 30)], "a claimed entry counts but is not due")?;
    claim(spool, "b", 30, 1).await?;
    let all = page(spool.queues(Some((QueueName::new("a"), Class::Bulk)), 1).await?);
    ensure(all == [("b".into(), 2, LEASE)], "before its lease ends")?;
    spool.settle(claimed.iter().map(remove).collect(), Durability::Soon).await?;
    let claimed = claim(spool, "a", 20, 9).await?;
    spool.settle(claimed.iter().map(remove).collect(), Durability::Soon).await?;
    ensure(page(spool.queues(None, 1).await?) == [("b".into(), 1, LEASE)], "an empty queue is gone")
}
