//! Damaged records: each is set aside and named, and everything else is delivered.

use std::fs::{self, File};
use std::time::Duration;

use crate::kit::process::{Program, free_address, wait_until};
use crate::{Talk, arrived, relay};

#[test]
fn damaged_records_are_set_aside_and_named_and_all_others_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, dump, log) = (dir.path().join("spool"), dir.path().join("dump"), dir.path().join("log"));
    fs::create_dir(&dump).unwrap();
    // Nobody is there yet.
    let sink = free_address();
    let first = Program::ready(relay(&spool, sink));
    let mut talk = Talk::open(first.address(), Duration::from_secs(30)).unwrap();
    for n in 0..20 {
        // Those over 16 KiB stand in a segment, and those that come in pieces in files of their own.
        let octets = [500, 50_000, 1_500_000][usize::from(n >= 15) + usize::from(n >= 18)];
        assert!(talk.send(&format!("n{n}"), octets).unwrap().starts_with("250"));
    }
    drop(talk);
    first.kill();

    let shell = rusqlite::Connection::open(spool.join("spool.db")).unwrap();
    let number = |name: &str| -> i64 {
        let sql = "SELECT e >> 20 FROM entry WHERE recipients LIKE '%<' || ?1 || '@%'";
        shell.query_row(sql, [name], |row| row.get(0)).unwrap()
    };
    let damage = |name: &str, sql: &str| assert_eq!(shell.execute(sql, [number(name)]).unwrap(), 1, "{sql}");
    damage("n3", "UPDATE entry SET recipients = 'waiting nobody' WHERE e >> 20 = ?1");
    damage("n5", "UPDATE message SET sender = 'nonsense' WHERE n = ?1");
    damage("n7", "DELETE FROM body WHERE k >> 20 = ?1");
    damage("n8", "UPDATE body SET data = substr(data, 2) WHERE k >> 20 = ?1");
    // One octet of a body in a file, at the start or at the end: of a large one much is sent by then.
    for (name, back) in [("n16", false), ("n19", true)] {
        let place =
            "SELECT seg, CASE ?2 WHEN 0 THEN off + 10 ELSE off + len - 10 END FROM message WHERE n = ?1";
        let (seg, at): (i64, i64) =
            shell.query_row(place, (number(name), back), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let segment = spool.join("seg").join(format!("{seg:08x}.seg"));
        let mut octets = fs::read(&segment).unwrap();
        octets[usize::try_from(at).unwrap()] ^= 1;
        fs::write(&segment, octets).unwrap();
    }
    shell.close().unwrap();

    let listen = sink.to_string();
    let _sink = Program::example("sink", &["--listen", &listen, "--dump", dump.to_str().unwrap()]);
    let mut command = relay(&spool, sink);
    command.stderr(File::create(&log).unwrap());
    let second = Program::ready(command);
    let damaged = ["n3", "n5", "n7", "n8", "n16", "n19"];
    let whole = (0..20).map(|n| format!("n{n}")).filter(|name| !damaged.contains(&name.as_str()));
    wait_until("all that is whole is delivered", || {
        let arrived = arrived(&dump);
        whole.clone().all(|name| arrived.get(&name) == Some(&1))
    });
    // The relay lives and takes mail.
    let mut talk = Talk::open(second.address(), Duration::from_secs(30)).unwrap();
    assert!(talk.send("later", 100).unwrap().starts_with("250"));
    wait_until("new mail is delivered", || arrived(&dump).contains_key("later"));
    drop(talk);
    let shell = || rusqlite::Connection::open(spool.join("spool.db")).unwrap();
    let aside = "SELECT count(*) FROM mail WHERE parked LIKE '%damaged%'";
    wait_until("those are parked of which nobody knows to whom they go", || {
        shell().query_row(aside, [], |row| row.get::<_, i64>(0)) == Ok(2)
    });
    // The others are not tried again before their senders are told that they are late.
    let waits = "SELECT count(*) FROM entry JOIN message ON n = e >> 20 \
                 WHERE parked IS NULL AND due > accepted + 3600000";
    wait_until("the others wait for their end", || {
        shell().query_row(waits, [], |row| row.get::<_, i64>(0)) == Ok(4)
    });
    assert_eq!(second.terminate().0, Some(0));
    assert!(damaged.iter().all(|name| !arrived(&dump).contains_key(*name)), "nothing damaged went out");
    let said = fs::read_to_string(&log).unwrap();
    let named = said.lines().filter(|line| line.contains("is set aside")).count();
    assert_eq!(named, damaged.len(), "each is named once:\n{said}");
}
