//! One owner: a second relay on the same spool refuses, and one that does not understand the spool does.

use std::time::Duration;

use crate::kit::process::{Program, dumped, run, wait_until};
use crate::{Talk, relay};

#[test]
fn a_second_relay_on_a_spool_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = crate::kit::process::free_address();
    let first = Program::ready(relay(dir.path(), nowhere));
    let (code, said) = run(&mut relay(dir.path(), nowhere), b"");
    assert_eq!((code, said.trim_end()), (Some(2), "error: the spool is in use by another process"));
    // The first has noticed nothing.
    let mut talk = Talk::open(first.address(), Duration::from_secs(30)).unwrap();
    assert!(talk.send("still", 100).unwrap().starts_with("250"));
    drop(talk);
    first.kill();
    // Nobody has to clear anything away behind a killed one.
    let third = Program::ready(relay(dir.path(), nowhere));
    assert_eq!(third.terminate().0, Some(0));
}

#[test]
fn a_spool_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = crate::kit::process::free_address();
    assert_eq!(Program::ready(relay(dir.path(), nowhere)).terminate().0, Some(0));
    let database = dir.path().join("spool.db");
    let shell = rusqlite::Connection::open(&database).unwrap();
    shell.pragma_update(None, "user_version", 1000).unwrap();
    shell.close().unwrap();
    let before = std::fs::read(&database).unwrap();
    let (code, said) = run(&mut relay(dir.path(), nowhere), b"");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("error: the spool has format version 1000, this version reads "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(before == std::fs::read(&database).unwrap(), "not an octet was changed");
}

#[test]
fn a_spool_of_an_earlier_version_is_brought_up_to_date_and_delivered() {
    for fixture in [include_str!("../fixtures/spool-v1.sql"), include_str!("../fixtures/spool-v2.sql")] {
        let dir = tempfile::tempdir().unwrap();
        let (spool, dump) = (dir.path().join("spool"), dir.path().join("dump"));
        std::fs::create_dir_all(&spool).unwrap();
        rusqlite::Connection::open(spool.join("spool.db")).unwrap().execute_batch(fixture).unwrap();
        let sink = Program::example("sink", &["--listen", "127.0.0.1:0", "--dump", dump.to_str().unwrap()]);
        let relay = Program::ready(relay(&spool, sink.address()));
        // To Ada; Bob had it before.
        wait_until("an old message arrives", || {
            dumped(&dump).iter().any(|file| {
                let text = std::fs::read_to_string(file).unwrap();
                text.contains("Subject: order\r\n\r\nHi!\r\n")
            })
        });
        assert_eq!(relay.terminate().0, Some(0));
    }
}
