//! Large messages, many at once: they are streamed to the disk and from it, and memory does not grow with them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use crate::kit::process::{Program, free_address};
use crate::{Talk, relay};

const MESSAGES: usize = 100;
/// Of so many octets each, and so many times: 25 MB. A relay that was built without optimisation takes minutes
/// to look at so much; for it, 4 MB, which still come to twice what it may have in memory.
const PIECE: usize = 64 << 10;
const PIECES: usize = if cfg!(debug_assertions) { 62 } else { 382 };
/// What the relay may have in memory at any time.
const MOST: u64 = 200_000_000;
/// For all of them, on a machine that does other things besides.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn a_hundred_large_messages_at_a_time_take_little_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let needed = (MESSAGES * PIECES * PIECE) as u64 + (1 << 30);
    if free(dir.path()) < needed {
        assert!(std::env::var_os("CI").is_none(), "{needed} octets must be free on the disk in CI");
        eprintln!("\n*** SKIPPED: this test needs {needed} octets of the disk, which are not free ***\n");
        return;
    }
    // Nobody is there yet.
    let sink = free_address();
    let mut command = relay(&dir.path().join("spool"), sink);
    command.args(["--max-connections-per-peer", "200"]);
    let relay = Program::ready(command);
    let before = memory(&relay, "VmRSS");

    let piece: Arc<[u8]> = piece().into();
    let all_at_once = Arc::new(Barrier::new(MESSAGES));
    let senders: Vec<_> = (0..MESSAGES)
        .map(|n| {
            let (to, piece, all_at_once) = (relay.address(), Arc::clone(&piece), Arc::clone(&all_at_once));
            std::thread::spawn(move || send(to, n, &piece, &all_at_once))
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    let taken = memory(&relay, "VmHWM");
    assert!(taken < MOST, "{taken} octets when they were taken in, {before} before");

    let arrived = receive(sink, &piece);
    let mut missing: BTreeSet<_> = (0..MESSAGES).map(name).collect();
    while !missing.is_empty() {
        let name = arrived.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{missing:?} did not arrive"));
        assert!(missing.remove(&name), "{name} twice, or not whole");
    }
    let given = memory(&relay, "VmHWM");
    assert!(given < MOST, "{given} octets when they were sent on, {before} before");
    eprintln!("{before} octets before, {taken} while they came in, {given} in the end");
    assert_eq!(relay.terminate().0, Some(0));
}

fn name(n: usize) -> String {
    format!("large{n}")
}

/// Lines of 62 letters.
fn piece() -> Vec<u8> {
    let line = [&[b'x'; 62][..], b"\r\n"].concat();
    line.repeat(PIECE / line.len())
}

/// Sends a message: its content when all others are about to, too.
fn send(to: SocketAddr, n: usize, piece: &[u8], all_at_once: &Barrier) {
    let mut talk = Talk::open(to, Duration::from_secs(60)).expect("it is welcome");
    for (line, consent) in [
        ("MAIL FROM:<client@sender.test>\r\n", "250"),
        ("RCPT TO:<someone@dest.test>\r\n", "250"),
        ("DATA\r\n", "354"),
    ] {
        let reply = talk.say(line).unwrap();
        assert!(reply.starts_with(consent), "{reply}");
    }
    all_at_once.wait();
    talk.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    talk.stream.write_all(format!("X-Name: {}\r\n\r\n", name(n)).as_bytes()).unwrap();
    for _ in 0..PIECES {
        talk.stream.write_all(piece).unwrap();
    }
    let reply = talk.say(".\r\n").unwrap();
    assert!(reply.starts_with("250"), "{reply}");
}

/// Listens there, and tells the name of each message that comes whole.
fn receive(address: SocketAddr, piece: &Arc<[u8]>) -> mpsc::Receiver<String> {
    let listener = TcpListener::bind(address).expect("the address is free still");
    let (tell, told) = mpsc::channel();
    let piece = Arc::clone(piece);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (tell, piece) = (tell.clone(), Arc::clone(&piece));
            std::thread::spawn(move || session(stream, &piece, &tell));
        }
    });
    told
}

fn session(stream: TcpStream, piece: &[u8], tell: &mpsc::Sender<String>) -> Option<()> {
    let mut replies = stream.try_clone().ok()?;
    let mut lines = BufReader::with_capacity(PIECE, stream);
    replies.write_all(b"220 sink.test\r\n").ok()?;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|octets| *octets > 0)?;
        let reply: &[u8] = match line.split(['\r', ' ']).next()? {
            "EHLO" => b"250-sink.test\r\n250 SIZE\r\n",
            "DATA" => b"354 go on\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        replies.write_all(reply).ok()?;
        if line.starts_with("DATA") {
            let name = content(&mut lines, piece)?;
            // It has arrived when the relay can know.
            replies.write_all(b"250 ok\r\n").ok()?;
            tell.send(name).ok()?;
        }
    }
}

/// Reads a message; its name when it is whole.
fn content(lines: &mut BufReader<TcpStream>, piece: &[u8]) -> Option<String> {
    let mut name = String::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|octets| *octets > 0)?;
        if let Some(found) = line.strip_prefix("X-Name: ") {
            found.trim_end().clone_into(&mut name);
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut read = vec![0; piece.len()];
    for _ in 0..PIECES {
        lines.read_exact(&mut read).ok()?;
        assert!(read == piece, "{name} is not what was sent");
    }
    let mut end = [0; 3];
    lines.read_exact(&mut end).ok()?;
    assert_eq!(&end, b".\r\n", "{name} is longer than it was");
    Some(name)
}

/// Octets that a program has in memory, or has had at most.
fn memory(program: &Program, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap() * 1024
}

/// Octets that are free on the disk of this folder.
fn free(dir: &Path) -> u64 {
    let said = Command::new("df").args(["--output=avail", "--block-size=1"]).arg(dir).output().unwrap();
    String::from_utf8_lossy(&said.stdout).lines().filter_map(|line| line.trim().parse().ok()).next().unwrap()
}
