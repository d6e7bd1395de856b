//! Mail in the host program's own transactions: rolled back means never sent, committed means sent, once.
#![cfg(feature = "disk")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

#[cfg(feature = "postgres")]
#[path = "kit/postgres.rs"]
mod cluster;
#[cfg(feature = "postgres")]
#[path = "outbox/postgres.rs"]
mod postgres;
#[path = "outbox/store.rs"]
mod store;

use std::path::Path;
use std::time::Duration;

use postroad::delivery::{Engine, SubmitOptions};
use postroad::message::{Envelope, RawMessage};
use postroad::outbox::rusqlite::{Connection, params};
use postroad::outbox::{OutboxError, Pump, PumpOptions, SqliteOutbox};
use postroad::smtp::address::EhloName;
use postroad::spool::{MemorySpool, Spool};

use store::{Store, engine, until};

fn outbox() -> SqliteOutbox {
    SqliteOutbox::new(EhloName::new("us.test").unwrap())
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    SqliteOutbox::create_tables(&connection).unwrap();
    connection
}

fn mail(to: &str, text: &str) -> RawMessage {
    let envelope = Envelope::parse("shop@us.test", [to]).unwrap();
    RawMessage::new(envelope, format!("From: shop@us.test\r\nSubject: {text}\r\n\r\n{text}\r\n").into_bytes())
}

fn pump(path: &Path, engine: &Engine) -> Pump {
    let mut options = PumpOptions::new();
    options.poll = Duration::from_millis(20);
    outbox().pump(open(path), engine.clone(), options)
}

#[tokio::test]
async fn what_is_committed_is_sent_and_what_is_rolled_back_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let mut shop = open(&path);
    let store = Store::default();
    let engine = engine(&store, MemorySpool::new()).await;
    let pump = pump(&path, &engine);
    for n in 0..200 {
        let transaction = shop.transaction().unwrap();
        outbox().enqueue(&transaction, mail(&format!("{n}@b.test"), "hello"), None).unwrap();
        if n % 2 == 0 { transaction.commit().unwrap() } else { transaction.rollback().unwrap() }
    }
    pump.nudge();
    until("all are there", || store.len() == 100).await;
    until("the table is empty", || SqliteOutbox::waiting(&shop).unwrap() == 0).await;
    pump.stop().await;
    engine.shutdown(Duration::from_secs(5)).await;
    let got = store.recipients();
    assert_eq!(got.len(), 100);
    assert!((0..200).all(|n| got.contains(&format!("{n}@b.test")) == (n % 2 == 0)));
}

#[tokio::test]
async fn a_row_that_is_there_again_after_a_crash_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, before) = (folder.path().join("shop.db"), folder.path().join("before.db"));
    {
        let shop = open(&path);
        outbox().enqueue(&shop, mail("a@b.test", "plain"), None).unwrap();
        outbox().enqueue(&shop, mail("b@b.test", "keyed"), Some("order 1")).unwrap();
    }
    std::fs::copy(&path, &before).unwrap();
    let (store, spool) = (Store::default(), MemorySpool::new());
    let engine = engine(&store, spool.clone()).await;
    let first = pump(&path, &engine);
    until("both are there", || store.len() == 2).await;
    until("and gone from the spool", || spool.stats().messages == 0).await;
    first.stop().await;
    // As if the program had died after the engine took them, and before the table knew.
    let shop = open(&before);
    assert_eq!(SqliteOutbox::waiting(&shop).unwrap(), 2);
    outbox().enqueue(&shop, mail("c@b.test", "new"), None).unwrap();
    let second = pump(&before, &engine);
    until("they are handed over again", || SqliteOutbox::waiting(&shop).unwrap() == 0).await;
    until("the new one is there", || store.len() == 3).await;
    second.stop().await;
    engine.shutdown(Duration::from_secs(5)).await;
    assert_eq!(store.recipients(), ["a@b.test", "b@b.test", "c@b.test"]);
}

#[tokio::test]
async fn a_key_stands_for_one_message_before_and_after_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let mut shop = open(&path);
    let outbox = outbox();
    let first = outbox.enqueue(&shop, mail("a@b.test", "one"), Some("order 1")).unwrap();
    assert_eq!(outbox.enqueue(&shop, mail("a@b.test", "one"), Some("order 1")).unwrap(), first);
    let other = outbox.enqueue(&shop, mail("a@b.test", "two"), Some("order 1"));
    assert!(matches!(other, Err(OutboxError::KeyConflict)), "{other:?}");
    assert!(matches!(outbox.enqueue(&shop, mail("a@b.test", "x"), Some("")), Err(OutboxError::Key(_))));
    // A key that was rolled back is free.
    let transaction = shop.transaction().unwrap();
    outbox.enqueue(&transaction, mail("n@b.test", "never"), Some("order 2")).unwrap();
    transaction.rollback().unwrap();
    outbox.enqueue(&shop, mail("b@b.test", "order 2"), Some("order 2")).unwrap();
    // Each tenant has keys of its own.
    let mut options = SubmitOptions::once("order 1");
    options.tenant = postroad::message::Tenant::new("acme");
    outbox.enqueue_with(&shop, mail("c@b.test", "acme's"), options).unwrap();

    let store = Store::default();
    let engine = engine(&store, MemorySpool::new()).await;
    let pump = pump(&path, &engine);
    until("all are there", || store.len() == 3).await;
    until("the table knows", || SqliteOutbox::waiting(&shop).unwrap() == 0).await;
    assert_eq!(outbox.enqueue(&shop, mail("a@b.test", "one"), Some("order 1")).unwrap(), first);
    let other = outbox.enqueue(&shop, mail("a@b.test", "two"), Some("order 1"));
    assert!(matches!(other, Err(OutboxError::KeyConflict)), "{other:?}");
    pump.stop().await;
    engine.shutdown(Duration::from_secs(5)).await;
    assert_eq!(store.recipients(), ["a@b.test", "b@b.test", "c@b.test"]);
}

#[tokio::test]
async fn a_row_that_cannot_be_sent_is_marked_and_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let shop = open(&path);
    let outbox = outbox();
    let (store, spool) = (Store::default(), MemorySpool::new());
    let engine = engine(&store, spool).await;
    // The engine knows the key for something else.
    let receipt = engine.submit_once("taken", mail("first@b.test", "first")).await.unwrap();
    assert!(receipt.finished().await.is_complete());
    let conflict = outbox.enqueue(&shop, mail("a@b.test", "other"), Some("taken")).unwrap();
    let damaged = outbox.enqueue(&shop, mail("b@b.test", "damaged"), None).unwrap();
    shop.execute("UPDATE postroad_outbox SET mail = 'nonsense' WHERE id = ?1", [damaged.to_octets()])
        .unwrap();
    let later = outbox.enqueue(&shop, mail("c@b.test", "of a later version"), None).unwrap();
    shop.execute("UPDATE postroad_outbox SET form = 2 WHERE id = ?1", [later.to_octets()]).unwrap();
    outbox.enqueue(&shop, mail("d@b.test", "fine"), None).unwrap();
    let pump = pump(&path, &engine);
    until("the last is there", || store.len() == 2).await;
    until("the others are marked", || SqliteOutbox::waiting(&shop).unwrap() == 0).await;
    let refused = SqliteOutbox::refused(&shop, 9).unwrap();
    assert_eq!(refused.iter().map(|row| row.id).collect::<Vec<_>>(), [conflict, damaged, later]);
    assert_eq!(refused[0].key.as_deref(), Some("taken"));
    assert!(refused[0].error.contains("key"), "{refused:?}");
    // Its key is free again for what the host makes of it.
    outbox.enqueue(&shop, mail("first@b.test", "first"), Some("taken")).unwrap();
    until("that is known to the engine", || SqliteOutbox::waiting(&shop).unwrap() == 0).await;
    pump.stop().await;
    assert_eq!(SqliteOutbox::refused(&shop, 9).unwrap().len(), 2);
    assert_eq!(store.recipients(), ["d@b.test", "first@b.test"]);
}

#[tokio::test]
async fn what_the_spool_does_not_take_now_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let shop = open(&path);
    let store = Store::default();
    let spool = store::Refusing::new();
    let engine = engine(&store, spool.clone()).await;
    outbox().enqueue(&shop, mail("a@b.test", "hello"), None).unwrap();
    let pump = pump(&path, &engine);
    until("it was put off", || {
        let tries = "SELECT count(*) FROM postroad_outbox WHERE tries > 0 AND error <> ''";
        shop.query_row(tries, [], |row| row.get::<_, i64>(0)).unwrap() == 1
    })
    .await;
    spool.relent();
    until("it is there", || store.len() == 1).await;
    until("and the table is empty", || SqliteOutbox::waiting(&shop).unwrap() == 0).await;
    pump.stop().await;
}

#[tokio::test]
async fn another_driver_writes_the_row_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let shop = open(&path);
    shop.execute(
        SqliteOutbox::ENQUEUE,
        params![
            [7_u8; 16],
            "",
            None::<&str>,
            None::<&[u8]>,
            None::<i64>,
            "<shop@us.test>",
            "<a@b.test>\n<b@c.test>",
            "",
            &b""[..],
            &b"From: shop@us.test\r\n\r\nhello\r\n"[..],
        ],
    )
    .unwrap();
    let store = Store::default();
    let engine = engine(&store, MemorySpool::new()).await;
    let pump = pump(&path, &engine);
    until("both are there", || store.len() == 2).await;
    pump.stop().await;
    assert_eq!(store.recipients(), ["a@b.test", "b@c.test"]);
}

#[tokio::test]
async fn a_message_that_is_wrong_is_refused_in_the_transaction() {
    let shop = Connection::open_in_memory().unwrap();
    SqliteOutbox::create_tables(&shop).unwrap();
    SqliteOutbox::create_tables(&shop).unwrap();
    let nobody =
        RawMessage::new(Envelope::parse("a@a.test", []).unwrap(), &b"From: a@a.test\r\n\r\nx\r\n"[..]);
    assert!(matches!(outbox().enqueue(&shop, nobody, None), Err(OutboxError::Message(_))));
    assert_eq!(SqliteOutbox::waiting(&shop).unwrap(), 0);
}
