//! Altering: classes, and what becomes of entries that somebody holds, releases, cancels or moves.

use super::*;
use crate::message::{Tag, Tenant};
use crate::spool::{Alter, Altered, Change, REPORT_ENTRY, SetBack, Tell};

/// Each class of a queue is listed and claimed on its own.
///
/// # Errors
/// [`Broken`]
pub async fn classes_of_a_queue_are_claimed_apart(spool: &dyn Spool) -> Kept {
    let mut batch = Vec::new();
    for (n, priority) in [(1, "-1"), (2, "0"), (3, "9"), (4, "-9"), (5, "1")] {
        let mut message = due_at(sample(n), n);
        message.mail = Mail::parse(&format!("<s@s.test> MT-PRIORITY={priority}")).map_err(|_| SAMPLE)?;
        batch.push(message);
    }
    let mut other = sample(6);
    in_queue(&mut other, "r.test");
    batch.push(other);
    spool.enqueue(batch, None).await?;
    let (q, r) = (QueueName::new("q.test"), QueueName::new("r.test"));
    let expected = [
        (q.clone(), Class::Urgent, 2, 3),
        (q.clone(), Class::Normal, 1, 2),
        (q.clone(), Class::Bulk, 2, 1),
        (r, Class::Normal, 1, 0),
    ];
    let mut listed = Vec::new();
    loop {
        let after =
            listed.last().map(|(queue, class, ..): &(QueueName, Class, u64, u64)| (queue.clone(), *class));
        let page = spool.queues(after, 1).await?;
        let Some(summary) = page.into_iter().next() else { break };
        listed.push((summary.queue, summary.class, summary.entries, summary.due.as_millis()));
    }
    ensure(listed == expected, "by name and class, the most urgent first")?;
    let of = async |class| {
        let lease = Timestamp::from_millis(LEASE);
        let request =
            ClaimRequest { queue: q.clone(), class, now: Timestamp::from_millis(9), limit: 9, lease };
        spool.claim(request).await
    };
    ensure(ids(&of(Class::Urgent).await?) == [id(3), id(5)], "urgent ones by due time")?;
    let normal = only(of(Class::Normal).await?)?;
    ensure(ids(&of(Class::Bulk).await?) == [id(1), id(4)], "bulk by due time")?;
    let back = retry(&normal, 5);
    spool.settle(vec![back], Durability::Soon).await?;
    ensure(ids(&of(Class::Normal).await?) == [id(2)], "what is put off stays in its class")
}

/// What is held is not claimed, is shown with its reason, and goes on when released.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_held_waits_until_it_is_released(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![due_at(sample(1), 30), due_at(sample(2), 10)], None).await?;
    let held = alter(spool, Selection::message(id(1)), Change::Hold("not now".into()), 5).await?;
    ensure((held.changed, held.claimed, held.next) == (1, 0, None), "one is changed")?;
    ensure(held.queues.is_empty(), "and nothing falls due by that")?;
    ensure(spool.stats().parked == 1 && spool.stats().entries == 2, "it is counted as parked")?;
    ensure(ids(&claim(spool, "q.test", 100, 9).await?) == [id(2)], "it is not claimed")?;
    let again = alter(spool, Selection::message(id(1)), Change::Hold("never".into()), 5).await?;
    ensure(again.changed == 0, "what is held is held")?;
    let parked = Selection::parked();
    let seen = only(spool.scan(parked.clone(), None, 9).await?)?;
    ensure(seen.parked.as_deref() == Some("not now"), "the reason is shown")?;
    let released = alter(spool, parked, Change::Release, 20).await?;
    ensure(released.changed == 1, "it is released")?;
    ensure(released.queues == [(QueueName::new("q.test"), Class::Normal)], "and its queue is named")?;
    ensure(spool.stats().parked == 0, "and not counted as parked")?;
    ensure(claim(spool, "q.test", 29, 9).await?.is_empty(), "it keeps its due time")?;
    ensure(ids(&claim(spool, "q.test", 30, 9).await?) == [id(1)], "and is claimed then")?;
    let nothing = alter(spool, Selection::all(), Change::Release, 20).await?;
    ensure(nothing.changed == 0, "what is not held is not released")
}

/// A hold of a claimed entry counts when it is settled and stays, unless it is taken back before.
///
/// # Errors
/// [`Broken`]
pub async fn a_hold_of_a_claimed_entry_counts_when_it_stays(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1), sample(2), sample(3)], None).await?;
    let claims = claim(spool, "q.test", 100, 9).await?;
    let held = alter(spool, Selection::all(), Change::Hold("wait".into()), 100).await?;
    ensure((held.changed, held.claimed) == (0, 3), "it is noted")?;
    ensure(spool.stats().parked == 0, "nothing is parked yet")?;
    let released = alter(spool, Selection::message(id(3)), Change::Release, 100).await?;
    ensure((released.changed, released.claimed) == (1, 0), "a hold is taken back at once")?;
    let mut claims = claims.into_iter();
    let (Some(stays), Some(goes), Some(free)) = (claims.next(), claims.next(), claims.next()) else {
        return Err(Broken::Promise("three are claimed"));
    };
    let fenced = spool.settle(vec![retry(&stays, 500), remove(&goes), retry(&free, 500)], Durability::Synced);
    ensure(fenced.await?.is_empty(), "the claims are good")?;
    ensure(spool.stats().parked == 1 && spool.stats().entries == 2, "what stays is parked")?;
    ensure(ids(&claim(spool, "q.test", 500, 9).await?) == [id(3)], "and only what is not held is claimed")?;
    alter(spool, Selection::message(id(1)), Change::Release, 100).await?;
    ensure(claim(spool, "q.test", 499, 9).await?.is_empty(), "it was put off besides")?;
    let again = only(claim(spool, "q.test", 500, 9).await?)?;
    ensure(again.attempts == 1, "and the attempt counted")?;
    spool.settle(vec![retry(&again, 600)], Durability::Soon).await?;
    ensure(spool.stats().parked == 0, "a hold that was released is over")
}

/// What was noted of a claim that nobody settled holds for the next one.
///
/// # Errors
/// [`Broken`]
pub async fn what_was_noted_outlives_the_claim(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1), sample(2), sample(3)], None).await?;
    let claims = claim(spool, "q.test", 100, 9).await?;
    alter(spool, Selection::message(id(1)), Change::Hold("wait".into()), 100).await?;
    alter(spool, Selection::message(id(2)), Change::Cancel, 100).await?;
    let again = claim(spool, "q.test", LEASE, 9).await?;
    ensure(ids(&again) == [id(2), id(3)], "what is held is not claimed")?;
    let cancelled: Vec<_> = again.iter().map(|claim| claim.cancelled).collect();
    ensure(cancelled == [true, false], "what is cancelled is, as such")?;
    spool.flush().await?;
    ensure(spool.stats().parked == 1, "the held one is parked")?;
    let seen = only(spool.scan(Selection::message(id(1)), None, 9).await?)?;
    ensure(seen.parked.as_deref() == Some("wait"), "with its reason")?;
    let late: Vec<_> = claims.iter().take(1).map(remove).collect();
    let fenced = spool.settle(late, Durability::Synced).await?;
    ensure(fenced.len() == 1, "whoever had it is late")?;
    ensure(claim(spool, "q.test", 9 * LEASE, 9).await?.len() == 2, "and it stays so")
}

/// What is wanted of a queue is wanted of what was born claimed in it too.
///
/// # Errors
/// [`Broken`]
pub async fn orders_of_a_queue_reach_what_was_born_claimed(spool: &dyn Spool) -> Kept {
    let queue = || Selection::queue(QueueName::new("q.test"));
    let lease = Some(Timestamp::from_millis(LEASE));
    let born = spool.enqueue(vec![sample(1), due_at(sample(2), 9), sample(3)], lease).await?.claims;
    spool.enqueue(vec![due_at(sample(4), 7)], None).await?;
    let mut astray = sample(5);
    in_queue(&mut astray, "site.test");
    spool.enqueue(vec![astray], lease).await?;
    let put_off = alter(spool, queue(), Change::Due(Timestamp::from_millis(600)), 100).await?;
    ensure((put_off.changed, put_off.claimed) == (1, 3), "claimed, it is left as it is")?;
    let cancelled = alter(spool, Selection::message(id(2)), Change::Cancel, 100).await?;
    ensure((cancelled.changed, cancelled.claimed) == (0, 1), "or the order is noted")?;
    let held = alter(spool, queue(), Change::Hold("wait".into()), LEASE).await?;
    ensure((held.changed, held.claimed) == (3, 0), "and followed when the lease has ended")?;
    ensure((spool.stats().parked, spool.stats().entries) == (3, 5), "which counts")?;
    let first = only(claim(spool, "q.test", LEASE, 9).await?)?;
    ensure(first.token.message == id(2) && first.cancelled, "what was noted outlives the claim")?;
    let fenced = spool.settle(born.iter().map(remove).collect(), Durability::Synced).await?;
    ensure(fenced.len() == 3, "whoever had it is late")?;
    let released = alter(spool, Selection::parked(), Change::Release, LEASE).await?;
    ensure(released.changed == 3, "what is held is released")?;
    let site = || Selection::queue(QueueName::new("site.test"));
    let requeued = alter(spool, site(), Change::Requeue, LEASE).await?;
    ensure((requeued.changed, requeued.claimed) == (1, 0), "what is to go elsewhere goes")?;
    let left = claim(spool, "site.test", 9 * LEASE, 9).await?;
    ensure(left.is_empty() && spool.scan(site(), None, 9).await?.is_empty(), "and is not where it was")?;
    let rest = claim(spool, "q.test", LEASE, 9).await?;
    ensure(ids(&rest) == [id(1), id(3), id(4), id(5)], "and all is claimed")?;
    spool.settle(rest.iter().chain([&first]).map(remove).collect(), Durability::Synced).await?;
    ensure(spool.stats() == Stats::default(), "and all is settled")
}

/// What is cancelled is claimed at once and first, as cancelled, parked or not, until it is settled.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_cancelled_is_claimed_to_be_settled(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![due_at(sample(1), 1), due_at(sample(2), 900), due_at(sample(3), 900)], None).await?;
    alter(spool, Selection::message(id(3)), Change::Hold("wait".into()), 5).await?;
    for n in [2, 3] {
        let cancelled = alter(spool, Selection::message(id(n)), Change::Cancel, 5).await?;
        ensure(cancelled.changed == 1 && cancelled.queues.len() == 1, "it is cancelled, and falls due")?;
    }
    ensure(spool.stats().parked == 0, "it is not parked any more")?;
    let seen = only(spool.scan(Selection::message(id(3)), None, 9).await?)?;
    ensure(seen.cancelled && seen.parked.is_none(), "it is shown as cancelled")?;
    for change in [Change::Hold("x".into()), Change::Release, Change::Cancel, Change::Requeue] {
        let nothing = alter(spool, Selection::message(id(3)), change, 5).await?;
        ensure((nothing.changed, nothing.claimed) == (0, 0), "and never changed again")?;
    }
    let claims = claim(spool, "q.test", 5, 2).await?;
    ensure(ids(&claims) == [id(2), id(3)], "it goes before what was due")?;
    ensure(claims.iter().all(|claim| claim.cancelled), "as cancelled")?;
    let put_off = claims.iter().map(|claim| retry(claim, 50)).collect();
    spool.settle(put_off, Durability::Synced).await?;
    let claims = claim(spool, "q.test", 50, 9).await?;
    let cancelled: Vec<_> = claims.iter().map(|claim| claim.cancelled).collect();
    ensure(cancelled == [false, true, true], "also when it is put off")?;
    spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await?;
    ensure(spool.stats() == Stats::default(), "until it is settled")
}

/// Cancelling a claimed entry counts when it is settled and stays; what was delivered is delivered.
///
/// # Errors
/// [`Broken`]
pub async fn cancelling_a_claimed_entry_counts_when_it_stays(spool: &dyn Spool) -> Kept {
    spool.enqueue(vec![sample(1), sample(2)], None).await?;
    let claims = claim(spool, "q.test", 100, 9).await?;
    let cancelled = alter(spool, Selection::all(), Change::Cancel, 100).await?;
    ensure((cancelled.changed, cancelled.claimed) == (0, 2), "it is noted")?;
    let settled = claims.iter().zip([true, false]);
    let settled = settled.map(|(claim, goes)| if goes { remove(claim) } else { retry(claim, 900) }).collect();
    ensure(spool.settle(settled, Durability::Synced).await?.is_empty(), "the claims are good")?;
    let last = only(claim(spool, "q.test", 100, 9).await?)?;
    ensure(last.token.message == id(2) && last.cancelled, "what was put off is due at once, as cancelled")
}

/// Due times are set, not past the deadline; what is claimed is left as it is.
///
/// # Errors
/// [`Broken`]
pub async fn due_times_are_set_from_outside(spool: &dyn Spool) -> Kept {
    let mut over = due_at(sample(3), 50);
    over.expires = Timestamp::from_millis(60);
    spool.enqueue(vec![due_at(sample(1), 50), sample(2), over], None).await?;
    only(claim(spool, "q.test", 49, 9).await?)?;
    let due = Change::Due(Timestamp::from_millis(70));
    let altered = alter(spool, Selection::all(), due, 49).await?;
    ensure((altered.changed, altered.claimed) == (2, 1), "what is claimed is left")?;
    ensure(ids(&claim(spool, "q.test", 69, 9).await?) == [id(3)], "no later than the deadline")?;
    ensure(ids(&claim(spool, "q.test", 70, 9).await?) == [id(1)], "and then")?;
    ensure(spool.stats().parked == 0, "nothing is parked")
}

/// When the clock was set back, what the old clock put off is due sooner by as much, once; what somebody
/// wanted at a time keeps that time.
///
/// # Errors
/// [`Broken`]
pub async fn what_an_old_clock_put_off_is_due_sooner(spool: &dyn Spool) -> Kept {
    // By the old clock it is 150 s, by the new one 50 s.
    let accepted_at = |n, accepted: u64, mail: &str| {
        let mut message = due_at(sample(n), accepted);
        message.accepted = Timestamp::from_millis(accepted);
        message.mail = Mail::parse(mail).map_err(|_| SAMPLE)?;
        Ok::<_, Broken>(message)
    };
    let held = "<s@s.test> HOLDUNTIL=1970-01-01T00:02:40Z";
    spool.enqueue((1..=5).map(sample).collect(), None).await?;
    let settle = |claim: &Claim| {
        let due = claim.token.message == id(4);
        let tell = (claim.token.message == id(5)).then(|| Tell {
            queue: QueueName::new("reports"),
            destination: claim.destination.clone(),
            due: Timestamp::from_millis(200_000),
            recipients: claim.recipients.clone(),
        });
        Settlement { tell, ..retry(claim, if due { 290_000 } else { 210_000 }) }
    };
    let claims = claim(spool, "q.test", 1_000, 9).await?;
    spool.settle(claims.iter().map(settle).collect(), Durability::Synced).await?;
    let late = vec![
        accepted_at(6, 149_000, "<s@s.test>")?,
        due_at(accepted_at(7, 149_000, held)?, 160_000),
        due_at(sample(8), 230_000),
        due_at(sample(9), 40_000),
    ];
    spool.enqueue(late, None).await?;
    alter(spool, Selection::message(id(2)), Change::Hold("wait".into()), 150_000).await?;
    alter(spool, Selection::message(id(3)), Change::Cancel, 150_000).await?;
    let times = async || -> Result<Vec<_>, SpoolError> {
        let all = spool.scan(Selection::all(), None, 99).await?;
        let place = |entry: EntrySummary| (entry.message, entry.entry, entry.due.as_millis());
        Ok(all.into_iter().map(place).collect())
    };
    let (by, until) = (Duration::from_secs(100), Timestamp::from_millis(250_000));
    let back = SetBack::new(by, until, Timestamp::from_millis(60_000));
    // Its own tries wait for 110 s and more: what does so too may have been put off by the new clock.
    let mut rightly = back.clone();
    rightly.waits = vec![Duration::from_secs(160); 2];
    let altered = alter(spool, Selection::message(id(1)), Change::SetBack(rightly), 50_000).await?;
    ensure(altered.changed == 0, "what waits rightly is left")?;
    let altered = alter(spool, Selection::all(), Change::SetBack(back.clone()), 50_000).await?;
    ensure((altered.changed, altered.claimed, altered.next) == (5, 0, None), "what was put off is moved")?;
    let named = [(QueueName::new("q.test"), Class::Normal), (QueueName::new("reports"), Class::Normal)];
    ensure(altered.queues == named, "and its queues are named")?;
    let expected = [
        (id(1), 0, 110_000),
        (id(2), 0, 110_000),
        (id(3), 0, 0),
        (id(4), 0, 290_000),
        (id(5), 0, 110_000),
        (id(5), REPORT_ENTRY, 100_000),
        (id(6), 0, 49_000),
        (id(7), 0, 160_000),
        (id(8), 0, 230_000),
        (id(9), 0, 40_000),
    ];
    ensure(times().await? == expected, "each by as much, and what somebody wanted at a time is not")?;
    ensure(spool.stats().parked == 1, "what is held stays so")?;
    ensure(ids(&claim(spool, "q.test", 50_000, 9).await?) == [id(3), id(9), id(6)], "and due is due")?;
    let altered = alter(spool, Selection::message(id(6)), Change::SetBack(back.clone()), 49_500).await?;
    ensure((altered.changed, altered.claimed) == (0, 1), "what is claimed is left")?;
    let born = due_at(sample(10), 49_000);
    spool.enqueue(vec![born], Some(Timestamp::from_millis(500_000))).await?;
    let altered = alter(spool, Selection::message(id(10)), Change::SetBack(back), 50_000).await?;
    ensure((altered.changed, altered.claimed) == (0, 1), "also what was born claimed")
}

/// What is requeued waits in its destination's own queue and is due; past its deadline, for ever.
///
/// # Errors
/// [`Broken`]
pub async fn what_is_requeued_waits_for_a_route(spool: &dyn Spool) -> Kept {
    let mut batch: Vec<_> = (1..=3).map(|n| due_at(sample(n), 500)).collect();
    batch.iter_mut().for_each(|message| in_queue(message, "site.test"));
    if let Some(over) = batch.last_mut() {
        over.expires = Timestamp::from_millis(100);
    }
    spool.enqueue(batch, None).await?;
    alter(spool, Selection::message(id(2)), Change::Hold("wait".into()), 200).await?;
    let site = Selection::queue(QueueName::new("site.test"));
    let altered = alter(spool, site, Change::Requeue, 200).await?;
    ensure(altered.changed == 3, "also what was parked")?;
    ensure(altered.queues == [(QueueName::new("q.test"), Class::Normal)], "the new queue is named")?;
    ensure(claim(spool, "site.test", 900, 9).await?.is_empty(), "they left their queue")?;
    let claims = claim(spool, "q.test", 200, 9).await?;
    ensure(ids(&claims) == [id(3), id(1), id(2)], "and are due in their destination's")?;
    let due: Vec<_> = claims.iter().map(|claim| claim.due.as_millis()).collect();
    ensure(due == [0, 200, 200], "since now, or for ever")?;
    ensure(spool.stats().parked == 0, "nothing is parked")
}

/// A change reaches what is meant and nothing else; a scan shows the same.
///
/// # Errors
/// [`Broken`]
pub async fn a_selection_means_the_same_everywhere(spool: &dyn Spool) -> Kept {
    let (tenant, tag) = (Tenant::new("acme"), Tag::new("spring"));
    let domain = |name: &str| Domain::parse(name).map_err(|_| SAMPLE);
    let mut batch: Vec<_> = (1..=6).map(sample).collect();
    for (n, message) in batch.iter_mut().enumerate() {
        message.handling.tenant = tenant.clone().filter(|_| n == 1);
        message.handling.tags = tag.clone().into_iter().filter(|_| n == 2 || n == 3).collect();
        // Names that begin alike are other names.
        message.handling.tags.extend(Tag::new("spring2").filter(|_| n == 0));
        if n == 4 {
            in_queue(message, "site.test");
        }
        if n == 5 {
            for entry in &mut message.entries {
                entry.destination = domain("d.test")?;
            }
        }
    }
    if let Some(first) = batch.first_mut() {
        first.entries.push(first.entries.first_cloned()?);
    }
    spool.enqueue(batch, None).await?;
    let site = QueueName::new("site.test");
    for (which, expected) in [
        (Selection::message(id(1)), vec![(id(1), 0), (id(1), 1)]),
        (tenant.map(Selection::tenant).ok_or(SAMPLE)?, vec![(id(2), 0)]),
        (tag.clone().map(Selection::tag).ok_or(SAMPLE)?, vec![(id(3), 0), (id(4), 0)]),
        (Selection { tag, message: Some(id(4)), ..Selection::all() }, vec![(id(4), 0)]),
        (Selection::queue(site.clone()), vec![(id(5), 0)]),
        (Selection { destination: Some(domain("d.test")?), queue: Some(site), ..Selection::all() }, vec![]),
        (Selection::destination(domain("d.test")?), vec![(id(6), 0)]),
    ] {
        let seen = |entries: Vec<EntrySummary>| -> Vec<_> {
            entries.iter().map(|entry| (entry.message, entry.entry)).collect()
        };
        ensure(seen(spool.scan(which.clone(), None, 9).await?) == expected, "a scan shows what is meant")?;
        let held = alter(spool, which.clone(), Change::Hold("wait".into()), 5).await?;
        ensure(held.changed == expected.len() as u64, "it alone is changed")?;
        let parked = Selection::parked();
        ensure(seen(spool.scan(parked, None, 9).await?) == expected, "and shown as parked")?;
        let not = Selection { parked: Some(false), ..which.clone() };
        ensure(spool.scan(not.clone(), None, 9).await?.is_empty(), "or not as waiting")?;
        ensure(alter(spool, not, Change::Release, 5).await?.changed == 0, "what is not meant is left")?;
        let after = expected.first().copied();
        ensure(
            seen(spool.scan(which.clone(), after, 9).await?) == expected.get(1..).unwrap_or_default(),
            "from behind one on",
        )?;
        let released = alter(spool, which, Change::Release, 5).await?;
        ensure(released.changed == expected.len() as u64, "and changed back")?;
    }
    Ok(())
}

/// A change goes through everything once, in pages.
///
/// # Errors
/// [`Broken`]
pub async fn changes_go_in_pages(spool: &dyn Spool) -> Kept {
    let mut batch: Vec<_> = (1..=7).map(sample).collect();
    for message in &mut batch {
        message.entries.push(message.entries.first_cloned()?);
        message.handling.tags.extend(Tag::new("all"));
    }
    spool.enqueue(batch, None).await?;
    let tagged = Tag::new("all").map(Selection::tag).ok_or(SAMPLE)?;
    for which in [Selection::all(), tagged, Selection::queue(QueueName::new("q.test"))] {
        for limit in [1, 4, 14, 99] {
            for change in [Change::Hold("wait".into()), Change::Release] {
                let (mut after, mut changed, mut pages) = (None, 0, 0);
                loop {
                    let now = Timestamp::from_millis(5);
                    let (which, change) = (which.clone(), change.clone());
                    let altered = spool.alter(Alter { which, change, now, after, limit }).await?;
                    ensure(altered.changed <= limit as u64, "no more than the limit")?;
                    (changed, pages) = (changed + altered.changed, pages + 1);
                    after = altered.next;
                    if after.is_none() {
                        break;
                    }
                    ensure(pages < 20, "it comes to an end")?;
                }
                ensure(changed == 14, "each once")?;
            }
        }
    }
    ensure(spool.stats().parked == 0, "and all are as before")
}

async fn alter(spool: &dyn Spool, which: Selection, change: Change, now: u64) -> Result<Altered, SpoolError> {
    spool.alter(Alter { which, change, now: Timestamp::from_millis(now), after: None, limit: 100 }).await
}
