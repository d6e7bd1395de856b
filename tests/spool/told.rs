//! What a sender is to be told outlives the process that found it out.

use postroad::clock::Timestamp;
use postroad::smtp::address::Domain;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    Alter, Change, Claim, ClaimRequest, Class, DiskSpool, Durability, QueueName, REPORT_ENTRY, Recipient,
    RecipientState, Selection, Settlement, Spool, Stats, Tell, Then,
};

use super::help::{shell, with_log};

async fn claim(spool: &DiskSpool, queue: &str) -> Vec<Claim> {
    let (now, lease) = (Timestamp::from_millis(60_000), Timestamp::NEVER);
    let queue = QueueName::new(queue);
    spool.claim(ClaimRequest { queue, class: Class::Normal, now, limit: 9, lease }).await.unwrap()
}

fn tell(claim: &Claim, note: &str) -> Tell {
    let (state, note) = (RecipientState::Expired, Some(note.into()));
    Tell {
        queue: QueueName::new("reports to senders"),
        destination: Domain::parse("us.test").unwrap(),
        due: Timestamp::from_millis(60_000),
        recipients: vec![Recipient { state, note, ..claim.recipients[0].clone() }],
    }
}

#[tokio::test]
async fn what_is_to_be_told_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let spool = DiskSpool::open(dir.path()).unwrap();
        let mut message = sample(1);
        message.entries.push(message.entries[0].clone());
        let lease = Timestamp::from_millis(1_000);
        let claims = spool.enqueue(vec![message], Some(lease)).await.unwrap().claims;
        for claim in &claims {
            let note = format!("of entry {}\t\\\n\u{e9}", claim.token.entry);
            let told = Settlement { tell: Some(tell(claim, &note)), ..remove(claim) };
            spool.settle(vec![told], Durability::Synced).await.unwrap();
        }
        // One that is at work on it when the process ends has not reported it.
        assert_eq!(claim(&spool, "reports to senders").await.len(), 1);
    }
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!((spool.stats().messages, spool.stats().entries), (1, 1));
    let told = claim(&spool, "reports to senders").await.remove(0);
    assert_eq!(told.token.entry, REPORT_ENTRY);
    let notes: Vec<_> = told.recipients.iter().map(|r| r.note.as_deref().unwrap()).collect();
    assert_eq!(notes, ["of entry 0\t\\\n\u{e9}", "of entry 1\t\\\n\u{e9}"]);
    assert!(octets(&spool, &told.body).await.unwrap().ends_with(b"Hello.\r\n"));
    spool.settle(vec![remove(&told)], Durability::Synced).await.unwrap();
    assert!(spool.scan(Selection::all(), None, 9).await.unwrap().is_empty());
    assert_eq!(spool.stats(), Stats::default());
}

#[tokio::test]
async fn telling_costs_no_more_the_more_was_told_before() {
    let dir = tempfile::tempdir().unwrap();
    let spool = with_log(dir.path(), 1 << 30);
    let mut message = sample(1);
    message.entries = vec![message.entries[0].clone(); 400];
    let claims = spool.enqueue(vec![message], Some(Timestamp::NEVER)).await.unwrap().claims;
    let log = || std::fs::metadata(dir.path().join("spool.db-wal")).unwrap().len();
    let mut before = log();
    let mut costs = Vec::new();
    for hundred in claims.chunks(100) {
        for claim in hundred {
            let told = Settlement { tell: Some(tell(claim, &"x".repeat(1_000))), ..remove(claim) };
            spool.settle(vec![told], Durability::Synced).await.unwrap();
        }
        costs.push(log() - before);
        before = log();
    }
    // Of what is told last, no more is written than of what was told second.
    assert!(costs[3] < costs[0] * 2, "{costs:?}");
    let told = claim(&spool, "reports to senders").await.remove(0);
    let entries: Vec<_> = told.recipients.iter().map(|r| r.note.as_deref().unwrap().len()).collect();
    assert_eq!(entries, [1_000; 400]);
    // Given back, it is what it was; reported, nothing is left.
    let back = Settlement {
        recipients: told.recipients.clone(),
        then: Then::Retry(Timestamp::from_millis(1)),
        ..remove(&told)
    };
    spool.settle(vec![back], Durability::Synced).await.unwrap();
    let again = claim(&spool, "reports to senders").await.remove(0);
    assert_eq!(again.recipients, told.recipients);
    spool.settle(vec![remove(&again)], Durability::Synced).await.unwrap();
    assert_eq!(spool.stats(), Stats::default());
    let left = "SELECT count(*) FROM told";
    assert_eq!(shell(dir.path()).query_row(left, [], |row| row.get::<_, i64>(0)), Ok(0));
}

#[tokio::test]
async fn a_person_sees_all_that_is_to_be_told() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    let mut message = sample(1);
    message.entries = vec![message.entries[0].clone(); 4];
    let claims = spool.enqueue(vec![message], Some(Timestamp::NEVER)).await.unwrap().claims;
    for claim in &claims[..3] {
        let told = Settlement { tell: Some(tell(claim, &claim.token.entry.to_string())), ..remove(claim) };
        spool.settle(vec![told], Durability::Synced).await.unwrap();
    }
    let seen = spool.scan(Selection::all(), None, 9).await.unwrap();
    let notes: Vec<_> = seen[1].recipients.iter().map(|r| r.note.as_deref().unwrap()).collect();
    assert_eq!((seen[1].entry, notes), (REPORT_ENTRY, vec!["0", "1", "2"]));
    let sql = "SELECT recipients FROM mail WHERE entry = 1048575";
    let text: String = shell(dir.path()).query_row(sql, [], |row| row.get(0)).unwrap();
    let line = |n| format!("expired <someone@q.test>\t{n}");
    assert_eq!(text, [line(0), line(1), line(2)].join("\n"));
    // Where one line of it is broken all of it is set aside, and nothing of it is told without the rest.
    shell(dir.path()).execute("UPDATE told SET recipients = 'x' WHERE place = 1", []).unwrap();
    assert!(claim(&spool, "reports to senders").await.is_empty());
    spool.flush().await.unwrap();
    assert_eq!(spool.stats().parked, 1);
    // It can be given up.
    let (which, now) = (Selection::parked(), Timestamp::from_millis(500));
    let give_up = Alter { which, change: Change::Cancel, now, after: None, limit: 9 };
    assert_eq!(spool.alter(give_up).await.unwrap().changed, 1);
    assert_eq!(spool.stats().parked, 0);
}
