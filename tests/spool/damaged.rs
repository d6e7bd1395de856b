//! A row that cannot be read blocks nobody.

use postroad::spool::contract::{octets, sample};
use postroad::spool::{DiskSpool, Spool};

use super::help::{claim, shell};

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
