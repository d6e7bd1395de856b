//! No peer makes a session hold more than its limits say. Each hostile flow is poured over many sessions
//! at once in a process of its own, whose memory is measured as the system counts it.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::Command;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use postroad::smtp::address::{EhloName, ForwardPath, ReversePath};
use postroad::smtp::params::{Mail, Rcpt};
use postroad::smtp::reply::{EnhancedCode, Reply};
use postroad::smtp::{Input, Output, client, server};

const SESSIONS: usize = 16;
/// What each session is given: far more than it may hold.
const POURED: usize = 1 << 20;
/// What each may cost, its input buffer included. The largest that a limit allows: sixteen events of
/// one read each, or 256 KiB of content that the transport does not take.
const EACH: usize = 512;

/// How a driver behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// It does what it is asked.
    Prompt,
    /// The peer takes no octet of what is sent.
    Stuck,
    /// The host does not poll.
    Asleep,
}

#[test]
fn no_client_makes_a_server_session_hold_more_than_its_limits() {
    measured("no_client_makes_a_server_session_hold_more_than_its_limits", || {
        let ready = "EHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n";
        for (name, first, flow, driver) in [
            ("a line without end", "", "x", Driver::Prompt),
            ("a line without end, in CRs", "", "\r", Driver::Prompt),
            ("an AUTH without end", "EHLO a\r\nAUTH PLAIN ", "A", Driver::Prompt),
            ("an answer to AUTH without end", "EHLO a\r\nAUTH PLAIN\r\n", "A", Driver::Prompt),
            ("NOOPs whose replies are never taken", "", "NOOP\r\n", Driver::Stuck),
            ("EHLOs whose events are never polled", "", "EHLO a\r\n", Driver::Asleep),
            ("recipients", ready, "RCPT TO:<a-rather-long-recipient@d.test>\r\n", Driver::Prompt),
            ("recipients whose replies are never taken", ready, "RCPT TO:<x@d.test>\r\n", Driver::Stuck),
            ("content without end", &format!("{ready}DATA\r\n"), "some text\r\n", Driver::Prompt),
            ("content that nobody polls", &format!("{ready}DATA\r\n"), "some text\r\n", Driver::Asleep),
            ("content of dots", &format!("{ready}DATA\r\n"), "..\r\n", Driver::Prompt),
            ("content that is refused", &format!("{ready}DATA\r\n\n"), "some text\r\n", Driver::Prompt),
            ("a chunk of 2^63 octets", &format!("{ready}BDAT 9223372036854775808\r\n"), "x", Driver::Prompt),
            ("a chunk of 2^63 octets for nobody", "BDAT 9223372036854775808 LAST\r\n", "x", Driver::Prompt),
            ("small chunks", ready, "BDAT 1\r\nx", Driver::Prompt),
            ("small chunks that nobody polls", ready, "BDAT 1\r\nx", Driver::Asleep),
            ("garbage", "", "\0\u{1}\u{ff}\r\n", Driver::Stuck),
        ] {
            server_flow(name, first, flow, driver);
        }
    });
}

#[test]
fn no_server_makes_a_client_session_hold_more_than_its_limits() {
    measured("no_server_makes_a_client_session_hold_more_than_its_limits", || {
        let hello = "220 mx\r\n";
        let ready = "220 mx\r\n\u{0}250-mx\r\n250-PIPELINING\r\n250 SIZE\r\n\u{0}";
        for (name, first, flow, driver) in [
            ("a line without end", "", "x", Driver::Prompt),
            ("a reply line without end", "220 ", "x", Driver::Prompt),
            ("a reply without end", "", "220-x\r\n", Driver::Prompt),
            ("keywords without end", hello, "250-X-KEYWORD value\r\n", Driver::Prompt),
            ("mechanisms without end", "220 mx\r\n\u{0}250-mx\r\n250 AUTH", " PLAIN", Driver::Prompt),
            ("replies that nothing asked for", ready, "250 ok\r\n", Driver::Prompt),
            ("a reply without end to MAIL", ready, "250-ok\r\n", Driver::Prompt),
            (
                "a server that takes nothing",
                &format!("{ready}250 a\r\n250 b\r\n354 c\r\n"),
                "",
                Driver::Stuck,
            ),
        ] {
            client_flow(name, first, flow, driver);
        }
    });
}

fn server_flow(name: &str, first: &str, flow: &str, driver: Driver) {
    let now = now();
    let before = memory();
    let mut config = server::Config::new(EhloName::new("mx.test").unwrap());
    config.auth = server::AuthOffer::Always;
    // The limits that end a session soon are not those that are looked at here.
    (config.max_errors, config.max_idle_commands, config.max_auth_failures) = (u32::MAX, u32::MAX, u32::MAX);
    (config.refuse_early_talk, config.max_message_size) = (false, 0);
    let ok = Reply::new(250, EnhancedCode::new(2, 0, 0), "ok");
    let mut all = Vec::new();
    let piece = flow.repeat(READ / flow.len());
    for _ in 0..SESSIONS {
        let mut session = server::Session::new(config.clone(), now);
        let mut input = BytesMut::new();
        pump_server(&mut session, &mut input, &ok, now, Driver::Prompt);
        input.extend_from_slice(first.as_bytes());
        session.handle(now, Input::Data(&mut input));
        pump_server(&mut session, &mut input, &ok, now, Driver::Prompt);
        let mut poured = 0;
        while poured < POURED && input.len() < READ {
            input.extend_from_slice(piece.as_bytes());
            poured += piece.len();
            session.handle(now, Input::Data(&mut input));
            pump_server(&mut session, &mut input, &ok, now, driver);
            // Only who waits for somebody leaves octets unread.
            assert!(driver != Driver::Prompt || input.len() < READ, "{name}: {} octets unread", input.len());
        }
        all.push((session, input));
    }
    judge(name, before);
}

fn pump_server(
    session: &mut server::Session,
    input: &mut BytesMut,
    ok: &Reply,
    now: Instant,
    driver: Driver,
) {
    loop {
        if session.can_read_on() {
            session.handle(now, Input::Data(input));
        }
        if driver == Driver::Asleep {
            return;
        }
        match session.poll() {
            Output::Send(octets) if driver == Driver::Prompt => {
                session.handle(now, Input::Sent(octets.len()))
            }
            // It waits for the transport, which is as good as held.
            Output::Send(octets) => STUCK.with_borrow_mut(|stuck| stuck.push(octets)),
            Output::Event(_) if session.is_paused() => session.respond(ok.clone()).unwrap(),
            Output::Wait { .. } if session.can_read_on() => {}
            Output::Wait { .. } | Output::Closed => return,
            _ => {}
        }
    }
}

fn client_flow(name: &str, first: &str, flow: &str, driver: Driver) {
    let now = now();
    let before = memory();
    let mut all = Vec::new();
    let piece = if flow.is_empty() { String::new() } else { flow.repeat(READ / flow.len()) };
    for _ in 0..SESSIONS {
        let config = client::Config::new(EhloName::new("me.test").unwrap(), client::TlsUse::Never);
        let mut session = client::Session::new(config, now);
        let mut input = BytesMut::new();
        // A NUL in the script is where the session is given time.
        for part in first.split('\0') {
            input.extend_from_slice(part.as_bytes());
            session.handle(now, Input::Data(&mut input));
            pump_client(&mut session, now, if part.contains("354") { driver } else { Driver::Prompt });
        }
        let mut poured = 0;
        while poured < POURED && !piece.is_empty() && !session.is_closed() {
            input.extend_from_slice(piece.as_bytes());
            poured += piece.len();
            session.handle(now, Input::Data(&mut input));
            pump_client(&mut session, now, driver);
            // What a closed session leaves is the driver's to drop.
            assert!(session.is_closed() || input.len() <= READ, "{name}: {} octets unread", input.len());
        }
        all.push((session, input));
    }
    judge(name, before);
}

fn pump_client(session: &mut client::Session, now: Instant, driver: Driver) {
    loop {
        match session.poll() {
            Output::Send(octets) | Output::SendSecret(octets) => match driver {
                Driver::Prompt => session.handle(now, Input::Sent(octets.len())),
                _ => STUCK.with_borrow_mut(|stuck| stuck.push(octets)),
            },
            Output::Event(client::Event::WantBody { .. }) => {
                session.body(Bytes::from(b"some text\r\n".repeat(1000))).unwrap();
            }
            Output::Wait { .. } if session.can_begin() => {
                let to = vec![Rcpt::new(ForwardPath::parse("a@b.test").unwrap())];
                let mail = Mail::new(ReversePath::Null);
                session.begin(client::Transaction::new(mail, to, 1 << 40)).unwrap();
            }
            Output::Wait { .. } | Output::Closed => return,
            _ => {}
        }
    }
}

/// Compares with what was held before, and lets go of it.
fn judge(name: &str, before: usize) {
    let grown = memory().saturating_sub(before);
    STUCK.with_borrow_mut(Vec::clear);
    println!("{name}: {} KiB each", grown / SESSIONS);
    assert!(grown < SESSIONS * EACH, "{name}: {} KiB each", grown / SESSIONS);
}

/// Runs `body` in a process where nothing else runs.
fn measured(test: &str, body: impl Fn()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    println!("{text}");
    assert!(child.status.success(), "{text}");
}

/// What this process holds, in KiB.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

fn now() -> Instant {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "where time begins")]
    *START.get_or_init(Instant::now)
}

thread_local! {
    /// What was polled and the transport does not take.
    static STUCK: std::cell::RefCell<Vec<Bytes>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// One read of a driver.
const READ: usize = 16 * 1024;
/// Set in the process that measures itself.
const CHILD: &str = "POSTROAD_TEST_MEMORY";
