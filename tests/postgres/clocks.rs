//! A node whose clock is wrong takes nothing from others, and loses nothing to them.

use std::sync::Arc;
use std::time::Duration;

use postroad::clock::{Clock, Now, Rng, SystemClock, Timestamp};
use postroad::message::MessageId;
use postroad::spool::{
    Alter, Change, Claim, ClaimRequest, Class, Durability, NewMessage, PostgresSpool, QueueName, Selection,
    Spool, contract,
};
use tokio_postgres::NoTls;

use super::cluster::Cluster;
use super::options;

/// The system's, some way off.
#[derive(Debug, Clone, Copy)]
struct Off(i64);

impl Clock for Off {
    fn now(&self) -> Now {
        let Now { mono, wall } = SystemClock.now();
        Now { mono, wall: Timestamp::from_millis(wall.as_millis().saturating_add_signed(self.0)) }
    }
}

/// What a node goes by, and its spool.
struct Node(Off, PostgresSpool);

impl Node {
    fn now(&self) -> Timestamp {
        self.0.now().wall
    }

    async fn claim(&self) -> Vec<Claim> {
        let now = self.now();
        let queue = QueueName::new("q.test");
        let request = ClaimRequest { queue, class: Class::Normal, now, limit: 9, lease: now.after(LEASE) };
        self.1.claim(request).await.unwrap()
    }
}

/// Two nodes on one schema: one whose clock is right, and one whose clock is not.
async fn pair(off: i64) -> Option<(Node, Node, tokio_postgres::Client)> {
    let cluster = Cluster::shared()?;
    let options = options(cluster);
    let node = async |off: Off| {
        Node(off, PostgresSpool::connect_by(&cluster.url(), options.clone(), Arc::new(off)).await.unwrap())
    };
    let (shell, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    shell.batch_execute(&format!("SET search_path TO \"{}\"", options.schema)).await.unwrap();
    Some((node(Off(0)).await, node(Off(off)).await, shell))
}

fn fresh(rng: &Rng) -> NewMessage {
    let mut message = contract::sample(1);
    message.id = MessageId::new(SystemClock.now().wall, rng);
    message
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_takes_nothing_that_another_holds() {
    for off in [TEN_MINUTES, -TEN_MINUTES] {
        let Some((right, wrong, shell)) = pair(off).await else { return };
        let rng = Rng::seeded(1);
        right.1.enqueue(vec![fresh(&rng)], None).await.unwrap();
        right.1.enqueue(vec![fresh(&rng)], Some(right.now().after(LEASE))).await.unwrap();
        let held = right.claim().await;
        assert_eq!(held.len(), 1);
        assert_eq!(wrong.claim().await.len(), 0, "off by {off} ms: it was claimed, or born so");
        assert_eq!(right.1.extend(vec![held[0].token], right.now().after(LEASE)).await.unwrap(), []);
        assert_eq!(wrong.claim().await.len(), 0, "off by {off} ms: it was extended");
        // When that is over, it is as good as any other.
        shell.execute("UPDATE postroad_entry SET wake = wake - 61000", &[]).await.unwrap();
        assert_eq!(wrong.claim().await.len(), 2, "off by {off} ms");
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_loses_nothing_that_it_holds() {
    for off in [TEN_MINUTES, -TEN_MINUTES] {
        let Some((right, wrong, shell)) = pair(off).await else { return };
        let rng = Rng::seeded(2);
        wrong.1.enqueue(vec![fresh(&rng)], None).await.unwrap();
        let born = wrong.1.enqueue(vec![fresh(&rng)], Some(wrong.now().after(LEASE))).await.unwrap().claims;
        let mut held = wrong.claim().await;
        assert_eq!((held.len(), born.len()), (1, 1));
        held.extend(born);
        assert_eq!(right.claim().await.len(), 0, "off by {off} ms: it was claimed, or born so");
        let tokens: Vec<_> = held.iter().map(|claim| claim.token).collect();
        assert_eq!(wrong.1.extend(tokens, wrong.now().after(LEASE)).await.unwrap(), []);
        assert_eq!(right.claim().await.len(), 0, "off by {off} ms: it was extended");
        // Held for as long as it asked for, and no longer, by the server's clock.
        let left = "SELECT min(wake) - (extract(epoch FROM now()) * 1000)::bigint,
                    max(wake) - (extract(epoch FROM now()) * 1000)::bigint FROM postroad_entry";
        let row = shell.query_one(left, &[]).await.unwrap();
        let (least, most): (i64, i64) = (row.get(0), row.get(1));
        assert!(least > 30_000 && most < 61_000, "off by {off} ms: {least} to {most}");
        // A change by the other finds it claimed, and waits for what comes of it.
        let change = Change::Hold("later".into());
        let alter = Alter { which: Selection::all(), after: None, limit: 9, now: right.now(), change };
        assert_eq!(right.1.alter(alter).await.unwrap().claimed, 2, "off by {off} ms");
        let done = held.iter().map(contract::remove).collect();
        assert_eq!(wrong.1.settle(done, Durability::Synced).await.unwrap(), []);
        assert!(right.1.scan(Selection::all(), None, 9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_a_node_has_put_off_is_due_by_its_own_clock() {
    for off in [TEN_MINUTES, -TEN_MINUTES] {
        let Some((_, wrong, _)) = pair(off).await else { return };
        let rng = Rng::seeded(4);
        let (mut due, mut later) = (fresh(&rng), fresh(&rng));
        due.entries[0].due = wrong.now();
        later.entries[0].due = wrong.now().after(Duration::from_secs(300));
        let id = due.id;
        wrong.1.enqueue(vec![due, later], None).await.unwrap();
        let claims = wrong.claim().await;
        assert_eq!(claims.len(), 1, "off by {off} ms");
        assert_eq!(claims[0].token.message, id);
    }
}

#[tokio::test]
async fn a_lease_for_ever_is_no_more_than_that_on_any_clock() {
    let Some((right, wrong, _)) = pair(-TEN_MINUTES).await else { return };
    let rng = Rng::seeded(3);
    let born = wrong.1.enqueue(vec![fresh(&rng)], Some(Timestamp::NEVER)).await.unwrap().claims;
    assert_eq!(wrong.1.extend(vec![born[0].token], Timestamp::NEVER).await.unwrap(), []);
    assert_eq!(right.claim().await.len(), 0);
    let health = wrong.1.health().await.unwrap();
    assert!(health.clock_off > Duration::from_secs(590), "{health:?}");
}

const TEN_MINUTES: i64 = 600_000;
const LEASE: Duration = Duration::from_secs(60);
