//! What a sender is to be told outlives the process that found it out.

use postroad::clock::Timestamp;
use postroad::smtp::address::Domain;
use postroad::spool::contract::{octets, remove, sample};
use postroad::spool::{
    ClaimRequest, Class, DiskSpool, Durability, QueueName, REPORT_ENTRY, Recipient, RecipientState,
    Selection, Settlement, Spool, Stats, Tell,
};

#[tokio::test]
async fn what_is_to_be_told_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let queue = QueueName::new("reports to senders");
    let claim = async |spool: &DiskSpool, queue: &str| {
        let (now, lease) = (Timestamp::from_millis(1), Timestamp::from_millis(1_000));
        let queue = QueueName::new(queue);
        spool.claim(ClaimRequest { queue, class: Class::Normal, now, limit: 9, lease }).await.unwrap()
    };
    {
        let spool = DiskSpool::open(dir.path()).unwrap();
        let mut message = sample(1);
        message.entries.push(message.entries[0].clone());
        let lease = Timestamp::from_millis(1_000);
        let claims = spool.enqueue(vec![message], Some(lease)).await.unwrap().claims;
        for claim in &claims {
            let note = format!("of entry {}\t\\\n\u{e9}", claim.token.entry);
            let recipient = Recipient {
                state: RecipientState::Expired,
                note: Some(note.into()),
                ..claim.recipients[0].clone()
            };
            let tell = Tell {
                queue: queue.clone(),
                destination: Domain::parse("us.test").unwrap(),
                due: Timestamp::from_millis(60_000),
                recipients: vec![recipient],
            };
            let told = Settlement { tell: Some(tell), ..remove(claim) };
            spool.settle(vec![told], Durability::Synced).await.unwrap();
        }
        // One that is at work on it when the process ends has not reported it.
        assert_eq!(claim(&spool, queue.as_str()).await.len(), 1);
    }
    let spool = DiskSpool::open(dir.path()).unwrap();
    assert_eq!((spool.stats().messages, spool.stats().entries), (1, 1));
    let told = claim(&spool, queue.as_str()).await.remove(0);
    assert_eq!(told.token.entry, REPORT_ENTRY);
    let notes: Vec<_> = told.recipients.iter().map(|r| r.note.as_deref().unwrap()).collect();
    assert_eq!(notes, ["of entry 0\t\\\n\u{e9}", "of entry 1\t\\\n\u{e9}"]);
    assert!(octets(&spool, &told.body).await.unwrap().ends_with(b"Hello.\r\n"));
    spool.settle(vec![remove(&told)], Durability::Synced).await.unwrap();
    assert!(spool.scan(Selection::all(), None, 9).await.unwrap().is_empty());
    assert_eq!(spool.stats(), Stats::default());
}
