//! A full disk: new mail is put off, old mail goes on, and when there is room again all is as before.

use std::time::Duration;

use crate::kit::process::{Program, wait_until};
use crate::small::SmallDisk;
use crate::{Talk, arrived, moment, relay};

#[test]
fn a_full_disk_puts_mail_off_and_loses_none() {
    let Some(disk) = SmallDisk::new(24) else { return };
    let dump = tempfile::tempdir().unwrap();
    // A slow one, so that most of the mail is still to be delivered when the disk is full.
    let kept_in = dump.path().to_str().unwrap();
    let sink =
        Program::example("sink", &["--listen", "127.0.0.1:0", "--dump", kept_in, "--reply-delay", "100"]);
    let spool = disk.path().join("spool");
    let mut command = relay(&spool, sink.address());
    command.args(["--concurrency", "1"]);
    let relay = Program::ready(command);
    let mut talk = Talk::open(relay.address(), Duration::from_secs(30)).unwrap();
    let mut kept = Vec::new();
    for n in 0..60 {
        let (name, octets) = (format!("before{n}"), if n % 10 == 0 { 400_000 } else { 9_000 });
        assert!(talk.send(&name, octets).unwrap().starts_with("250"));
        kept.push(name);
    }

    let filler = disk.fill();
    let mut refusals = 0;
    for n in 0..200 {
        let name = format!("full{n}");
        let reply = talk.send(&name, 200_000).expect("the session goes on");
        if reply.starts_with("250") {
            kept.push(name);
        } else {
            assert!(reply.starts_with("452 4.3.1"), "{reply}");
            refusals += 1;
        }
        if refusals == 20 {
            break;
        }
    }
    assert_eq!(refusals, 20, "it is full");

    let before = arrived(dump.path()).len();
    assert!(before < kept.len() / 2, "{before} were delivered too soon to tell anything");
    // What was accepted is delivered, though the disk may have no room to note it.
    wait_until("what was accepted is delivered from a full disk", || {
        let arrived = arrived(dump.path());
        kept.iter().all(|name| arrived.contains_key(name))
    });

    std::fs::remove_file(filler).unwrap();
    wait_until("mail is taken again", || {
        moment();
        let name = format!("after{}", kept.len());
        let taken = talk.send(&name, 200_000).unwrap().starts_with("250");
        if taken {
            kept.push(name);
        }
        taken
    });
    wait_until("everything arrives", || {
        let arrived = arrived(dump.path());
        kept.iter().all(|name| arrived.contains_key(name))
    });
    let (code, _) = relay.terminate();
    assert_eq!(code, Some(0));
    let doubled: Vec<_> = arrived(dump.path()).into_iter().filter(|(_, copies)| *copies > 1).collect();
    assert!(doubled.is_empty(), "{doubled:?}");
    let left = postroad::spool::DiskSpool::open(&spool).unwrap();
    let left = postroad::spool::Spool::stats(&left);
    assert_eq!((left.messages, left.octets), (0, 0), "all of it was noted in the end");
}
