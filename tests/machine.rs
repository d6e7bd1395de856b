//! `relay` on a machine in trouble: no space, no descriptors, a second relay, a damaged spool, much at once. It refuses
//! what it cannot keep, goes on with the rest, recovers by itself, and loses nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![cfg(target_os = "linux")]

mod kit;
#[path = "kit/small.rs"]
mod small;

#[path = "machine/damage.rs"]
mod damage;
#[path = "machine/descriptors.rs"]
mod descriptors;
#[path = "machine/full_disk.rs"]
mod full_disk;
#[path = "machine/large.rs"]
mod large;
#[path = "machine/owner.rs"]
mod owner;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::process::{dumped, example};

/// A relay that sends everything to `sink`.
fn relay(spool: &Path, sink: SocketAddr) -> Command {
    let mut command = Command::new(example("relay"));
    command
        .args(["--listen", "127.0.0.1:0", "--hostname", "relay.test", "--relay-from", "127.0.0.0/8"])
        .arg("--spool")
        .arg(spool)
        .args(["--route", &format!("*={sink}"), "--tls-policy", "none", "--retry", "1s"])
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null());
    command
}

/// A client that says one thing after the other.
struct Talk {
    stream: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Talk {
    /// Connects and waits for the greeting; `None` when it does not come, or is no welcome.
    fn open(to: SocketAddr, patience: Duration) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&to, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let mut talk = Self { replies: BufReader::new(stream.try_clone().ok()?), stream };
        talk.reply().filter(|reply| reply.starts_with("220"))?;
        talk.stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        talk.say("EHLO client.test\r\n").filter(|reply| reply.starts_with("250"))?;
        Some(talk)
    }

    fn reply(&mut self) -> Option<String> {
        loop {
            let mut reply = String::new();
            if self.replies.read_line(&mut reply).ok()? == 0 {
                return None;
            }
            if reply.as_bytes().get(3) != Some(&b'-') {
                return Some(reply.trim_end().to_owned());
            }
        }
    }

    fn say(&mut self, line: &str) -> Option<String> {
        self.stream.write_all(line.as_bytes()).ok()?;
        self.reply()
    }

    /// Sends a message with this name and so many octets; returns the first reply that is no consent, or
    /// the last.
    fn send(&mut self, name: &str, octets: usize) -> Option<String> {
        let text = vec!["x".repeat(70); octets / 72 + 1].join("\r\n");
        let steps = [
            ("MAIL FROM:<client@sender.test>\r\n".into(), "250"),
            (format!("RCPT TO:<{name}@dest.test>\r\n"), "250"),
            ("DATA\r\n".into(), "354"),
            (format!("X-Name: {name}\r\n\r\n{text}\r\n.\r\n"), "250"),
        ];
        let mut last = None;
        for (line, consent) in steps {
            let reply = self.say(&line)?;
            if !reply.starts_with(consent) {
                let _ = self.say("RSET\r\n");
                return Some(reply);
            }
            last = Some(reply);
        }
        last
    }
}

/// How often each message has arrived.
fn arrived(dump: &Path) -> BTreeMap<String, usize> {
    let mut arrived = BTreeMap::new();
    for file in dumped(dump) {
        let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
        if let Some(name) = text.lines().find_map(|line| line.strip_prefix("X-Name: ")) {
            *arrived.entry(name.to_owned()).or_default() += 1;
        }
    }
    arrived
}

/// A moment in which nothing needs to happen.
fn moment() {
    std::thread::park_timeout(Duration::from_millis(50));
}
