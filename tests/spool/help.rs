//! What the tests of the disk spool share.

#![allow(unreachable_pub, reason = "as in the rest of the kit")]

use std::path::Path;

use postroad::clock::Timestamp;
use postroad::spool::contract::sample;
use postroad::spool::{
    Claim, ClaimRequest, Class, DiskOptions, DiskSpool, NewBody, NewMessage, QueueName, Spool,
};
use rusqlite::Connection;

/// A sample whose body has this many octets, all the same.
pub fn sized(n: u64, size: usize) -> NewMessage {
    let mut message = sample(n);
    message.body = NewBody::Inline(vec![u8::try_from(n % 251).unwrap(); size].into());
    message
}

/// Claims from the queue of the samples.
pub async fn claim(spool: &DiskSpool, limit: usize) -> Vec<Claim> {
    let (now, lease) = (Timestamp::from_millis(1), Timestamp::from_millis(1000));
    let queue = QueueName::new("q.test");
    spool.claim(ClaimRequest { queue, class: Class::Normal, now, limit, lease }).await.unwrap()
}

/// A spool whose log is written back at so many octets.
pub fn with_log(dir: &Path, octets: u64) -> DiskSpool {
    let mut options = DiskOptions::new();
    options.wal_octets = octets;
    DiskSpool::open_with(dir, options).unwrap()
}

/// A person's SQLite shell.
pub fn shell(dir: &Path) -> Connection {
    Connection::open(dir.join("spool.db")).unwrap()
}

/// A shell that holds the write lock until it is dropped, so that calls gather in front of the writer.
pub fn holding(dir: &Path) -> Connection {
    let shell = shell(dir);
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    shell
}

/// The files with bodies, and their sizes.
pub fn files(dir: &Path) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(dir.join("seg")).unwrap().map(Result::unwrap);
    files.map(|f| (f.file_name().into_string().unwrap(), f.metadata().unwrap().len())).collect()
}

/// The files as they are at this moment, as a killed process leaves them.
pub fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["spool.db", "spool.db-wal"] {
        std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    copy
}
