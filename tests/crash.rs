//! What was acknowledged is kept: `relay` is loaded, ended at random moments and started again, until every
//! acknowledged message has arrived. After SIGKILL some arrive twice, and of each it is shown why; after
//! SIGTERM none does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use kit::process::{Program, dumped, example, wait_until};
use postroad::clock::Rng;

/// How many times the relay is killed. Each round takes about half a second.
const ROUNDS: usize = 100;
const CLIENTS: usize = 4;

/// Copies that a kill may make: deliveries in flight (20 connections to one host, two hosts) and those whose
/// settlement had not been written yet (50 ms at most, a few hundred a second each).
const COPIES_PER_KILL: usize = 100;

/// Two hosts: one takes everything; the other puts mail off for a while, so that it is tried again and again.
struct Sinks {
    dir: tempfile::TempDir,
    takes: Program,
    later: Program,
}

impl Sinks {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let takes = sink(&dir.path().join("takes"), &[]);
        let later = sink(&dir.path().join("refused"), &["--refuse", "@later.test=451"]);
        Self { dir, takes, later }
    }

    /// From now on everything is taken, by a host at another address.
    fn take_all(&mut self) {
        self.later = sink(&self.dir.path().join("later"), &[]);
    }

    /// Everything that has come.
    fn files(&self) -> Vec<PathBuf> {
        ["takes", "later"]
            .iter()
            .map(|name| self.dir.path().join(name))
            .filter(|dir| dir.is_dir())
            .flat_map(|dir| dumped(&dir))
            .collect()
    }

    /// What has come that is not in `seen`, when nothing more is coming.
    fn new_files(&self, seen: &mut BTreeSet<PathBuf>) -> Vec<PathBuf> {
        let mut before = usize::MAX;
        wait_until("the sinks are done with what the relay had sent", || {
            let now = self.files().len();
            std::mem::replace(&mut before, now) == now
        });
        self.files().into_iter().filter(|file| seen.insert(file.clone())).collect()
    }
}

fn sink(dump: &Path, more: &[&str]) -> Program {
    std::fs::create_dir_all(dump).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--dump", dump.to_str().unwrap()];
    Program::example("sink", &[&args[..], more].concat())
}

/// What came and when: the lives of the relay in which each message arrived.
#[derive(Default)]
struct Arrived {
    lives: BTreeMap<String, Vec<usize>>,
    seen: BTreeSet<PathBuf>,
}

impl Arrived {
    /// Notes what came in a life of the relay that is over.
    fn note(&mut self, life: usize, sinks: &Sinks) {
        for file in sinks.new_files(&mut self.seen) {
            self.lives.entry(name_of_whole(&file)).or_default().push(life);
        }
    }
}

/// The name of a message that has come, which is whole.
fn name_of_whole(file: &Path) -> String {
    let text = std::fs::read(file).unwrap();
    let end = text.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(text[..end].to_vec()).unwrap();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let size: usize = field("X-Size: ").parse().unwrap();
    let (name, body) = (field("X-Crash: "), &text[end + 4..]);
    assert_eq!(body.len(), size + 2, "{name} is not whole");
    assert!(body.iter().all(|octet| b"x\r\n".contains(octet)), "{name} is damaged");
    name
}

#[test]
fn every_acknowledged_message_arrives_though_the_relay_is_killed_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let mut sinks = Sinks::new();
    let rng = Rng::seeded(2026);
    let (mut acknowledged, mut arrived) = (BTreeSet::new(), Arrived::default());
    for round in 0..ROUNDS {
        if round == ROUNDS / 2 {
            sinks.take_all();
        }
        if round % 6 == 5 {
            // While it starts: opens the spool, listens, takes up old mail.
            let mut relay = command(&spool, &sinks).stdout(Stdio::null()).spawn().unwrap();
            std::thread::park_timeout(Duration::from_millis(rng.below(120)));
            relay.kill().unwrap();
            relay.wait().unwrap();
        } else {
            let relay = Program::ready(command(&spool, &sinks));
            // A kill early in the round meets the first commits, a late one deliveries in flight.
            acknowledged.extend(load(&format!("r{round}"), relay.address(), || {
                std::thread::park_timeout(Duration::from_millis(20 + rng.below(400)));
                relay.kill();
            }));
        }
        arrived.note(round, &sinks);
    }
    assert!(
        acknowledged.len() > ROUNDS * 5,
        "only {} messages were acknowledged: the load is too light to mean anything",
        acknowledged.len()
    );
    let last = Program::ready(command(&spool, &sinks));
    all_arrive(&acknowledged, &mut arrived, &sinks, ROUNDS);
    let (code, _) = last.terminate();
    assert_eq!(code, Some(0));
    arrived.note(ROUNDS, &sinks);

    let lost: Vec<_> = acknowledged.iter().filter(|name| !arrived.lives.contains_key(*name)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    // A copy needs a kill between it and the one before; what one kill makes is bounded.
    let mut copies = BTreeMap::<usize, usize>::new();
    for (name, lives) in &arrived.lives {
        for pair in lives.windows(2) {
            *copies.entry(pair[0]).or_default() += 1;
        }
        // One that was on its way to the sink's disk when the relay was killed is found in the next life.
        for life in 0..=ROUNDS {
            let came = lives.iter().filter(|l| **l == life).count();
            assert!(
                came <= if life == 0 { 1 } else { 2 },
                "{name} came again while nobody was killed: {lives:?}"
            );
        }
    }
    let most = copies.values().max().copied().unwrap_or_default();
    let unasked = arrived.lives.keys().filter(|name| !acknowledged.contains(*name)).count();
    eprintln!(
        "killed {ROUNDS} times: {} acknowledged, 0 lost, {} copies (delivered, killed before that was settled; \
         after {} of the kills, {most} at most after one), {unasked} delivered whose acknowledgement was cut off",
        acknowledged.len(),
        copies.values().sum::<usize>(),
        copies.len(),
    );
    assert!(most <= COPIES_PER_KILL, "{most} copies after one kill");
}

#[test]
fn nothing_is_sent_twice_when_the_relay_is_stopped_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    let mut sinks = Sinks::new();
    let rng = Rng::seeded(26);
    let (mut acknowledged, mut arrived) = (BTreeSet::new(), Arrived::default());
    for round in 0..STOPS {
        if round == STOPS / 2 {
            sinks.take_all();
        }
        let relay = Program::ready(command(&spool, &sinks));
        acknowledged.extend(load(&format!("s{round}"), relay.address(), || {
            std::thread::park_timeout(Duration::from_millis(50 + rng.below(300)));
            let (code, _) = relay.terminate();
            assert_eq!(code, Some(0));
        }));
        arrived.note(round, &sinks);
    }
    let last = Program::ready(command(&spool, &sinks));
    all_arrive(&acknowledged, &mut arrived, &sinks, STOPS);
    assert_eq!(last.terminate().0, Some(0));
    arrived.note(STOPS, &sinks);
    let lost: Vec<_> = acknowledged.iter().filter(|name| !arrived.lives.contains_key(*name)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let doubled: Vec<_> = arrived.lives.iter().filter(|(_, lives)| lives.len() > 1).collect();
    assert!(doubled.is_empty(), "doubled: {doubled:?}");
    eprintln!("stopped {STOPS} times: {} acknowledged, 0 lost, 0 doubled", acknowledged.len());
}

/// How often it is stopped in good order.
const STOPS: usize = 12;

fn all_arrive(acknowledged: &BTreeSet<String>, arrived: &mut Arrived, sinks: &Sinks, life: usize) {
    // Names are looked at only when there are files enough: there are thousands.
    wait_until("all acknowledged messages at the sinks", || {
        let enough = sinks.files().len() >= acknowledged.len();
        if enough {
            arrived.note(life, sinks);
        }
        enough && acknowledged.iter().all(|name| arrived.lives.contains_key(name))
    });
}

fn command(spool: &Path, sinks: &Sinks) -> Command {
    let routes = [format!("later.test={}", sinks.later.address()), format!("*={}", sinks.takes.address())];
    let mut command = Command::new(example("relay"));
    command
        .args(["--listen", "127.0.0.1:0", "--hostname", "relay.test", "--relay-from", "127.0.0.0/8"])
        .arg("--spool")
        .arg(spool)
        .args(["--route", &routes[0], "--route", &routes[1], "--tls-policy", "none", "--retry", "1s"])
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null());
    command
}

/// Sends messages until the relay is gone, which `end` sees to. Returns which were acknowledged.
fn load(name: &str, to: SocketAddr, end: impl FnOnce()) -> Vec<String> {
    let (told, answers) = mpsc::channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (name, told) = (format!("{name}c{client}"), told.clone());
            std::thread::spawn(move || send_until_cut_off(to, &name, &told))
        })
        .collect();
    drop(told);
    end();
    for client in clients {
        client.join().unwrap();
    }
    answers.into_iter().collect()
}

/// Sends numbered messages, one after the other, and tells which were acknowledged.
fn send_until_cut_off(to: SocketAddr, name: &str, told: &mpsc::Sender<String>) -> Option<()> {
    let stream = TcpStream::connect(to).ok()?;
    let mut replies = BufReader::new(stream.try_clone().ok()?);
    let mut say = |line: &str| -> Option<String> {
        (&stream).write_all(line.as_bytes()).ok()?;
        loop {
            let mut reply = String::new();
            if replies.read_line(&mut reply).ok()? == 0 {
                return None;
            }
            if reply.as_bytes().get(3) != Some(&b'-') {
                return Some(reply);
            }
        }
    };
    say("")?;
    say("EHLO crash.test\r\n")?;
    for number in 0..usize::MAX {
        let id = format!("{name}n{number}");
        // Now and then more than one MiB.
        let lines = if number % 150 == 20 { 16_000 } else { 1 + number * 37 % 50 };
        let text = vec!["x".repeat(70); lines].join("\r\n");
        let size = text.len();
        let to = if number % 10 == 9 {
            format!("{id}@later.test")
        } else {
            format!("{id}@dest{}.test", number % 7)
        };
        say("MAIL FROM:<crash@sender.test>\r\n")?;
        say(&format!("RCPT TO:<{to}>\r\n"))?;
        say("DATA\r\n")?;
        let answer =
            say(&format!("Subject: {id}\r\nX-Crash: {id}\r\nX-Size: {size}\r\n\r\n{text}\r\n.\r\n"))?;
        if answer.starts_with("250") {
            told.send(id).ok()?;
        }
    }
    None
}
