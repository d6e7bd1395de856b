//! A row that cannot be read blocks nobody, is set aside, and goes when it is cancelled.

use std::path::Path;
use std::time::Duration;

use postroad::clock::Timestamp;
use postroad::smtp::address::Domain;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    Alter, Altered, Change, DiskSpool, Durability, LogEvent, LogKind, NewMessage, QueueName, RecipientState,
    Selection, Spool, Stats, Tell,
};

use super::help::{claim, files, shell, sized};

/// Ways to break a row: the statement, and what is left to read.
const DAMAGE: [&str; 4] = [
    "UPDATE message SET sender = 'nonsense' WHERE n = ",
    "UPDATE entry SET recipients = 'waiting <a@b' WHERE e >> 20 = ",
    "UPDATE entry SET destination = '' WHERE e >> 20 = ",
    "UPDATE message SET id = 'x' || n WHERE n = ",
];

fn damage(dir: &Path, sql: &str, n: usize) {
    assert!(shell(dir).execute(&format!("{sql}{n}"), []).unwrap() > 0);
}

async fn alter(spool: &DiskSpool, which: Selection, change: Change) -> Altered {
    let now = Timestamp::from_millis(500);
    spool.alter(Alter { which, change, now, after: None, limit: 1_000 }).await.unwrap()
}

fn in_use(dir: &Path) -> (i64, i64, i64) {
    let count = |table| format!("(SELECT count(*) FROM {table})");
    let sql = format!("SELECT {}, {}, {}", count("message"), count("entry"), count("body"));
    shell(dir).query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue((1..=6).map(sample).collect(), None).await.unwrap();
    spool.close().await.unwrap();
    let damage = shell(dir.path());
    for (n, sql) in [
        (1, "UPDATE message SET sender = 'nonsense' WHERE n = "),
        (2, "UPDATE entry SET recipients = 'waiting <a@b' WHERE e >> 20 = "),
        (3, "UPDATE entry SET destination = '' WHERE e >> 20 = "),
        (4, "UPDATE message SET id = 'x' WHERE n = "),
    ] {
        assert_eq!(damage.execute(&format!("{sql}{n}"), []).unwrap(), 1);
    }
    damage.execute("DELETE FROM body WHERE k >> 20 = 5", []).unwrap();
    drop(damage);
    let spool = DiskSpool::open(dir.path()).unwrap();
    let claims = claim(&spool, 1).await;
    assert_eq!(claims[0].token.message, sample(5).id);
    assert!(octets(&spool, &claims[0].body).await.is_err(), "a lost body is noticed");
    assert_eq!(claim(&spool, 9).await[0].token.message, sample(6).id);
    spool.flush().await.unwrap();
    let queue = &spool.queues(None, 9).await.unwrap()[0];
    assert_eq!(queue.entries, 2, "they do not count as waiting");
    assert_eq!(spool.stats().entries, 6);
    let aside: i64 = shell(dir.path())
        .query_row("SELECT count(*) FROM mail WHERE parked LIKE 'damaged%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(aside, 4);
}

#[tokio::test]
async fn a_damaged_entry_that_is_cancelled_goes_with_its_message_and_body() {
    for found in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let spool = DiskSpool::open(dir.path()).unwrap();
        let sizes = [100, 40_000, 100, 2_000_000];
        for (n, size) in (1..).zip(sizes) {
            spool.enqueue(vec![sized(n, size)], None).await.unwrap();
        }
        spool.enqueue(vec![sample(5)], None).await.unwrap();
        (1..).zip(DAMAGE).for_each(|(n, sql)| damage(dir.path(), sql, n));
        if found {
            assert_eq!(claim(&spool, 9).await.len(), 1);
            spool.flush().await.unwrap();
            assert_eq!((spool.stats().entries, spool.stats().parked), (5, 4));
            assert_eq!(alter(&spool, Selection::parked(), Change::Cancel).await.changed, 4);
        } else {
            // By the message, and where not even that can be read, with all the rest.
            for n in 1..=3 {
                let one = alter(&spool, Selection::message(sample(n).id), Change::Cancel).await;
                assert_eq!((one.changed, one.queues), (1, vec![]), "{n}");
            }
            assert_eq!(
                alter(&spool, Selection::queue(QueueName::new("q.test")), Change::Cancel).await.changed,
                2
            );
            assert!(claim(&spool, 9).await[0].cancelled);
        }
        assert_eq!((spool.stats().messages, spool.stats().entries, spool.stats().parked), (1, 1, 0));
        assert_eq!(spool.stats().octets, sample(5).body.size());
        assert_eq!(in_use(dir.path()), (1, 1, 1));
        let live = "SELECT coalesce(sum(live + bytes), 0) FROM seg";
        assert_eq!(shell(dir.path()).query_row(live, [], |row| row.get::<_, i64>(0)), Ok(0));
        assert_eq!(spool.queues(None, 9).await.unwrap()[0].entries, 1);
        // Nothing comes back, and what is counted is what is there.
        let before = spool.stats();
        spool.close().await.unwrap();
        let spool = DiskSpool::open(dir.path()).unwrap();
        assert_eq!(spool.stats(), before);
        assert!(files(dir.path()).is_empty());
        spool.settle(vec![remove(&claim(&spool, 9).await[0])], Durability::Synced).await.unwrap();
        assert_eq!(spool.stats(), Stats::default());
    }
}

#[tokio::test]
async fn an_entry_of_which_not_even_the_mark_is_text_is_set_aside_and_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sample(1), sample(2)], None).await.unwrap();
    spool.close().await.unwrap();
    damage(dir.path(), "UPDATE entry SET mark = CAST(x'ff' AS TEXT) WHERE e >> 20 = ", 1);
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(claim(&spool, 9).await[0].token.message, sample(2).id);
    spool.flush().await.unwrap();
    assert_eq!((spool.set_aside().len(), spool.stats().parked), (1, 1));
    assert_eq!(alter(&spool, Selection::parked(), Change::Cancel).await.changed, 1);
    // The order is a mark that can be read.
    assert!(claim(&spool, 9).await[0].cancelled);
}

#[tokio::test]
async fn of_a_damaged_entry_that_is_cancelled_is_kept_and_logged_what_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let remembered = |n| {
        let NewMessage { id: message, .. } = sample(n);
        let (at, kind) = (Timestamp::from_millis(n), LogKind::Accepted);
        let accepted = LogEvent { at, message, entry: None, kind, recipient: None, attempt: 0, note: None };
        let mut message = NewMessage { keep: Some(Duration::from_secs(1)), log: vec![accepted], ..sample(n) };
        message.entries.push(message.entries[0].clone());
        message
    };
    spool.enqueue(vec![remembered(1), remembered(2)], None).await.unwrap();
    // The first can be read but for its sender, of the second one entry not at all.
    damage(dir.path(), DAMAGE[0], 1);
    damage(dir.path(), "UPDATE entry SET recipients = 'x' WHERE e & 1048575 = 1 AND e >> 20 = ", 2);
    alter(&spool, Selection::message(sample(1).id), Change::Cancel).await;
    let first = spool.results(sample(1).id).await.unwrap().unwrap();
    assert_eq!((first.finished, first.until), (true, Some(Timestamp::from_millis(1_500))));
    assert!(first.recipients.iter().all(|r| r.state == RecipientState::Cancelled));
    assert_eq!(first.recipients.len(), 2);
    let damaged = alter(&spool, Selection::message(sample(2).id), Change::Cancel).await;
    assert_eq!(damaged.changed, 2);
    let claims = claim(&spool, 9).await;
    spool.settle(claims.iter().map(remove).collect(), Durability::Synced).await.unwrap();
    let second = spool.results(sample(2).id).await.unwrap().unwrap();
    assert_eq!((second.recipients.len(), second.finished), (1, true), "nothing is known of the other");
    let log = spool.log(0, 99).await.unwrap();
    let cancelled = log.iter().filter(|logged| logged.event.kind == LogKind::Cancelled);
    let cancelled: Vec<_> =
        cancelled.map(|l| (l.event.message, l.event.entry, l.event.recipient.is_some())).collect();
    let (one, two) = (sample(1).id, sample(2).id);
    assert_eq!(cancelled, [(one, Some(0), true), (one, Some(1), true), (two, Some(1), false)]);
}

#[tokio::test]
async fn a_cancelled_entry_that_is_found_damaged_later_goes() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sized(1, 300), sample(2)], None).await.unwrap();
    let claims = claim(&spool, 9).await;
    // It is in somebody's hands, who then dies.
    assert_eq!(alter(&spool, Selection::message(sample(1).id), Change::Cancel).await.claimed, 1);
    drop((spool, claims));
    damage(dir.path(), DAMAGE[1], 1);
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(claim(&spool, 9).await.len(), 1);
    spool.flush().await.unwrap();
    assert_eq!((spool.stats().messages, spool.stats().entries, spool.stats().parked), (1, 1, 0));
    assert_eq!(in_use(dir.path()), (1, 1, 1));
    assert!(spool.set_aside().is_empty(), "it is not set aside");
}

#[tokio::test]
async fn a_damaged_report_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sample(1)], None).await.unwrap();
    let claim = claim(&spool, 9).await.remove(0);
    let mut told = remove(&claim);
    told.tell = Some(Tell {
        queue: QueueName::new("q.test"),
        destination: Domain::parse("us.test").unwrap(),
        due: Timestamp::from_millis(0),
        recipients: told.recipients.clone(),
    });
    spool.settle(vec![told], Durability::Synced).await.unwrap();
    let which = Selection::message(sample(1).id);
    assert_eq!(alter(&spool, which.clone(), Change::Cancel).await.changed, 0, "while it can be written");
    damage(dir.path(), DAMAGE[1], 1);
    assert!(super::help::claim(&spool, 9).await.is_empty());
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().parked, 1);
    assert_eq!(alter(&spool, which, Change::Cancel).await.changed, 1);
    assert_eq!(spool.stats(), Stats::default());
}

#[tokio::test]
async fn a_person_s_reason_is_not_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue(vec![sample(1), sample(2)], None).await.unwrap();
    let claims = claim(&spool, 9).await;
    let reason = "damaged: this row could not be read";
    assert_eq!(alter(&spool, Selection::all(), Change::Hold(reason.into())).await.claimed, 2);
    // Their leases end, and the next claim parks them for the hold that was noted.
    drop((spool, claims));
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert!(claim(&spool, 9).await.is_empty());
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().parked, 2);
    assert!(spool.set_aside().is_empty());
    alter(&spool, Selection::parked(), Change::Release).await;
    assert_eq!(claim(&spool, 9).await.len(), 2);
}

#[tokio::test]
async fn much_damage_is_gone_through_a_part_at_a_time_and_what_is_behind_it_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue((1..=2_501).map(sample).collect(), None).await.unwrap();
    shell(dir.path()).execute("UPDATE entry SET recipients = 'x' WHERE e >> 20 <= 2500", []).unwrap();
    let before = spool.counters().commits;
    let found = claim(&spool, 9).await;
    assert_eq!(found.len(), 1, "what can be read is not hidden by what cannot");
    assert_eq!(found[0].token.message, sample(2_501).id);
    spool.flush().await.unwrap();
    assert_eq!(spool.counters().commits - before, 3, "a thousand at a time");
    assert_eq!((spool.stats().entries, spool.stats().parked), (2_501, 2_500));
    assert_eq!(spool.set_aside().len(), 1_000, "and no more of them are told of");
}

#[tokio::test]
async fn a_queue_whose_name_cannot_be_read_keeps_nothing_else_from_being_opened() {
    let dir = tempfile::tempdir().unwrap();
    DiskSpool::open(dir.path()).unwrap().enqueue(vec![sample(1), sample(2)], None).await.unwrap();
    damage(dir.path(), "UPDATE entry SET queue = CAST(x'ff' AS TEXT) WHERE e >> 20 = ", 1);
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!(spool.stats().entries, 2);
    let due: Vec<_> = spool.queues(None, 9).await.unwrap().iter().map(|queue| queue.due).collect();
    assert_eq!(due, [Timestamp::default(), Timestamp::NEVER], "nobody waits for the other");
    let claims = claim(&spool, 9).await;
    assert_eq!(claims.iter().map(|claim| claim.token.message).collect::<Vec<_>>(), [sample(2).id]);
}
