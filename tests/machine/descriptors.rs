//! No descriptors: who comes too many waits or is sent away, nobody's mail is lost, and when they go it is
//! as before.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::kit::process::{Program, wait_until};
use crate::{Talk, arrived, moment, relay};

/// Descriptors that the relay may have; a third or so is for itself.
const LIMIT: usize = 64;

#[test]
fn more_clients_than_descriptors_cost_no_mail() {
    let dir = tempfile::tempdir().unwrap();
    let dump = dir.path().join("dump");
    std::fs::create_dir(&dump).unwrap();
    let sink = Program::example("sink", &["--listen", "127.0.0.1:0", "--dump", dump.to_str().unwrap()]);
    let inner = relay(&dir.path().join("spool"), sink.address());
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\"")).arg(inner.get_program());
    command.args(inner.get_args()).env("RUST_LOG", "error").stdin(Stdio::null());
    let relay = Program::ready(command);
    let to = relay.address();

    let mut kept = Vec::new();
    let mut clients = Vec::new();
    let (mut greeted, mut alone) = (0, 0);
    // The connections that get no greeting stay open: they wait.
    let mut waiting = Vec::new();
    for n in 0..LIMIT * 2 {
        // The first ones speak at once, so that the relay has work while it runs out.
        match (alone < 5).then(|| Talk::open(to, Duration::from_millis(500))).flatten() {
            Some(mut talk) => {
                greeted += 1;
                if n.is_multiple_of(4) {
                    let name = format!("early{n}");
                    match talk.send(&name, 3000) {
                        Some(reply) if reply.starts_with("250") => kept.push(name),
                        Some(reply) => assert!(reply.starts_with('4'), "{reply}"),
                        None => {}
                    }
                }
                clients.push(talk);
            }
            None => {
                alone += 1;
                waiting.extend(std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5)));
            }
        }
    }
    assert!(greeted >= LIMIT / 4, "{greeted} were greeted");
    assert!(alone >= LIMIT / 2, "only {alone} of {} were too many", LIMIT * 2);
    // Those who are in may send; what is acknowledged counts, all else is put off.
    for (n, talk) in clients.iter_mut().enumerate() {
        let name = format!("crowd{n}");
        match talk.send(&name, if n.is_multiple_of(5) { 600_000 } else { 20_000 }) {
            Some(reply) if reply.starts_with("250") => kept.push(name),
            Some(reply) => assert!(reply.starts_with('4'), "{reply}"),
            None => {}
        }
    }
    drop(clients);
    drop(waiting);
    wait_until("it is as before", || {
        moment();
        let name = format!("after{}", kept.len());
        let reply = Talk::open(to, Duration::from_secs(5)).and_then(|mut talk| talk.send(&name, 500_000));
        let taken = reply.is_some_and(|reply| reply.starts_with("250"));
        if taken {
            kept.push(name);
        }
        taken
    });
    wait_until("everything that was acknowledged arrives", || {
        let arrived = arrived(&dump);
        kept.iter().all(|name| arrived.contains_key(name))
    });
    eprintln!("{LIMIT} descriptors, {} clients: {greeted} greeted, {} messages kept", LIMIT * 2, kept.len());
    let (code, _) = relay.terminate();
    assert_eq!(code, Some(0), "it never went");
}
