//! What is damaged in a spool is set aside and said so; an engine over it delivers everything else.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postroad::BoxFuture;
use postroad::attempt::{Accepted, Deliver, LocalItem, Outcome};
use postroad::clock::{Clock, SystemClock};
use postroad::delivery::{ChannelObserver, Engine};
use postroad::message::Content;
use postroad::route::{LocalId, Resolve, Route, RouteError};
use postroad::smtp::address::{Domain, EhloName};
use postroad::spool::contract::sample;
use postroad::spool::{DiskSpool, NewBody, NewMessage, Selection, Spool};

/// Takes everything that can be read.
#[derive(Debug, Default)]
struct Store(Mutex<Vec<u64>>);

impl Resolve for Store {
    fn route<'a>(&'a self, _: &'a Domain) -> BoxFuture<'a, Result<Route, RouteError>> {
        Box::pin(async { Ok(Route::Local(LocalId::new("store"))) })
    }
}

impl Deliver for Store {
    fn deliver<'a>(&'a self, item: &'a LocalItem, content: Content) -> BoxFuture<'a, Vec<Outcome>> {
        self.0.lock().unwrap().push(content.size());
        let outcomes = item.recipients.iter().map(|_| Outcome::Delivered(Accepted::locally())).collect();
        Box::pin(async move { outcomes })
    }
}

fn message(n: u64) -> NewMessage {
    let mut message = sample(n);
    let now = SystemClock.now().wall;
    (message.accepted, message.expires) = (now, now.after(Duration::from_secs(3600)));
    message.entries[0].due = now;
    message.body = NewBody::Inline(vec![b'x'; 20_000].into());
    message
}

#[tokio::test]
async fn damaged_entries_are_set_aside_with_an_event_and_all_others_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let spool = DiskSpool::open(dir.path()).unwrap();
    spool.enqueue((1..=5).map(message).collect(), None).await.unwrap();
    spool.close().await.unwrap();
    damage(dir.path());
    let spool: Arc<dyn Spool> = Arc::new(DiskSpool::open(dir.path()).unwrap());
    let store = Arc::new(Store::default());
    let (observer, mut events) = ChannelObserver::new(100);
    let engine = Engine::builder(Arc::clone(&spool), EhloName::new("us.test").unwrap())
        .resolver(Arc::clone(&store) as Arc<dyn Resolve>)
        .local(LocalId::new("store"), Arc::clone(&store) as Arc<dyn Deliver>)
        .observer(observer)
        .start()
        .await
        .unwrap();
    let (mut aside, mut delivered) = (Vec::new(), 0);
    while aside.len() < 2 || delivered < 3 {
        let event = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
        let event = event.expect("one more event").unwrap();
        match event.name {
            "set aside" => aside.push((event.message, event.text.to_string())),
            "delivered" => delivered += 1,
            _ => {}
        }
        if delivered == 3 && aside.len() < 2 {
            // The spool found one by itself: it is asked with the next claim.
            engine.accept(fresh(&engine)).await.unwrap();
        }
    }
    aside.sort();
    assert_eq!(
        aside,
        [
            (Some(sample(2).id), "damaged: its body could not be read".to_owned()),
            (Some(sample(4).id), "damaged: this row could not be read".to_owned()),
        ]
    );
    engine.shutdown(Duration::from_secs(5)).await;
    // It waits, with the reason, for its deadline or for its body.
    let left = spool.scan(Selection::message(sample(2).id), None, 9).await.unwrap();
    assert_eq!(left[0].parked, None);
    assert_eq!(left[0].recipients[0].note.as_deref(), Some("the stored message is damaged"));
}

fn fresh(engine: &Engine) -> postroad::delivery::NewMail {
    let message = message(9);
    let recipients = message.entries[0].recipients.clone();
    postroad::delivery::NewMail::new(engine.new_id(), message.mail, recipients, message.body)
}

/// The body of the second message, and the fourth's row.
fn damage(dir: &Path) {
    let file = dir.join("seg/00000001.seg");
    let mut octets = fs::read(&file).unwrap();
    octets[25_000] = b'y';
    fs::write(&file, octets).unwrap();
    let shell = rusqlite::Connection::open(dir.join("spool.db")).unwrap();
    shell.execute("UPDATE entry SET recipients = 'waiting <a@b' WHERE e >> 20 = 4", []).unwrap();
}
