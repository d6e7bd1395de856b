//! The program `send`: what it says of each recipient, and what it ends with.
#![cfg(all(feature = "dns", feature = "disk"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/dns.rs"]
mod dns;
mod kit;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use dns::DnsServer;
use kit::process::{Program, example, free_address, run};

fn sink() -> Program {
    Program::example("sink", &["--listen", "127.0.0.1:0", "--refuse", "nobody=550", "--refuse", "later=451"])
}

/// Runs `send` with these flags, words apart; gives its exit code and all that it said.
fn send(flags: &str) -> (Option<i32>, String) {
    let mut command = Command::new(example("send"));
    // These name servers do not do DNSSEC, which is worth a warning.
    command.env("RUST_LOG", "error");
    run(command.args(["--from", "s@client.test"]).args(flags.split_whitespace()), b"Hello\n.\n")
}

#[test]
fn each_recipient_has_a_line_and_only_a_complete_delivery_ends_with_zero() {
    let sink = sink();
    let via = format!("--via {} --tls none", sink.address());
    let (code, said) = send(&format!("{via} --to ada@there.test"));
    let host = format!("[127.0.0.1]:{}", sink.address().port());
    assert_eq!(
        (code, said),
        (Some(0), format!("delivered <ada@there.test> {host} clear 250 2.0.0 thrown away\n"))
    );

    let (code, said) =
        send(&format!("{via} --to nobody@there.test --to ada@there.test --to later@there.test"));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(code, Some(1));
    assert_eq!(
        lines,
        [
            &format!("refused <nobody@there.test> {host} - 550 5.1.1 not here"),
            &format!("delivered <ada@there.test> {host} clear 250 2.0.0 thrown away"),
            &format!("deferred <later@there.test> {host} - 451 4.2.0 not now"),
        ]
    );
    let (_, counted) = sink.terminate();
    assert!(counted[0].starts_with("messages=2 recipients=2"), "{counted:?}");
}

#[test]
fn a_host_that_is_not_there_defers_and_one_without_its_tls_is_sent_nothing() {
    let nobody = free_address();
    let (code, said) = send(&format!("--to a@there.test --via {nobody}"));
    assert_eq!((code, said.split(' ').next()), (Some(1), Some("deferred")), "{said}");
    let sink = sink();
    let (code, said) = send(&format!("--to a@there.test --via {} --tls verify", sink.address()));
    assert_eq!((code, said.split(' ').next()), (Some(1), Some("deferred")), "{said}");
    assert!(sink.terminate().1[0].starts_with("messages=0"));
}

#[test]
fn silence_after_the_last_octet_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        stream.write_all(b"220 old.test\r\n").unwrap();
        let mut content = false;
        while let Some(Ok(line)) = lines.next() {
            match line.as_str() {
                "." => return,
                "DATA" => {
                    content = true;
                    stream.write_all(b"354 go on\r\n").unwrap();
                }
                _ if content => {}
                _ => stream.write_all(b"250 ok\r\n").unwrap(),
            }
        }
    });
    let (code, said) = send(&format!("--to a@there.test --via {address} --tls none"));
    assert_eq!((code, said.split(' ').next()), (Some(1), Some("unknown")), "{said}");
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_relay_each_domain_gets_its_own_mail() {
    let sink = sink();
    let dns = DnsServer::start(
        "one.test   MX 10 mx.one.test
         mx.one.test A 127.0.0.1
         two.test   MX 10 mx.two.test
         mx.two.test A 127.0.0.1
         none.test  MX 0 .",
    )
    .await;
    let port = sink.address().port();
    let mx = format!("--resolver {} --mx-port {port}", dns.address());
    let to = "--to a@one.test --to b@none.test --to nobody@two.test --to c@two.test";
    let (code, said) = tokio::task::spawn_blocking(move || send(&format!("{mx} {to}"))).await.unwrap();
    let words: Vec<_> = said.lines().map(|line| line.split(' ').take(3).collect::<Vec<_>>()).collect();
    let host = |name| format!("mx.{name}:{port}");
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(
        words,
        [
            ["delivered", "<a@one.test>", &host("one.test")],
            ["refused", "<b@none.test>", "-"],
            ["refused", "<nobody@two.test>", &host("two.test")],
            ["delivered", "<c@two.test>", &host("two.test")],
        ]
    );
}

#[test]
fn a_trace_shows_the_dialogue_and_never_the_password() {
    let relay = Program::example(
        "relay",
        &[
            "--listen",
            "127.0.0.1:0",
            "--hostname",
            "relay.test",
            "--spool",
            "memory:",
            "--resolver",
            "127.0.0.1:1",
            "--route",
            "*=127.0.0.1:1",
            "--user",
            "ada:hunter2",
        ],
    );
    let flags = format!("--to a@there.test --via {} --tls opportunistic --trace", relay.address());
    let (code, said) = send(&format!("{flags} --user ada --password hunter2"));
    assert_eq!(code, Some(0), "{said}");
    for shown in
        ["C: EHLO client.test", "C: ********", "S: 235", "C: MAIL FROM:<s@client.test>", "-- TLSv1.3"]
    {
        assert!(said.contains(shown), "{shown} is missing in\n{said}");
    }
    // Base64 of NUL ada NUL hunter2
    assert!(!said.contains("hunter2") && !said.contains("AGFkYQBodW50ZXIy"), "{said}");
    let (code, said) = send(&format!("{flags} --user ada --password wrong"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("deferred <a@there.test>") && !said.contains("MAIL FROM"), "{said}");
}

#[test]
fn a_file_goes_as_it_is_and_attachments_go_with_a_body() {
    let dir = tempfile::tempdir().unwrap();
    let (file, dump) = (dir.path().join("m.eml"), dir.path().join("dump"));
    std::fs::write(&file, "From: x@client.test\nDate: Sat, 21 Nov 2026 12:00:00 +0000\n\n.dot\n").unwrap();
    let sink = Program::example("sink", &["--listen", "127.0.0.1:0", "--dump", dump.to_str().unwrap()]);
    let (code, said) =
        send(&format!("--to a@there.test --via {} --file {}", sink.address(), file.to_str().unwrap()));
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = send(&format!(
        "--to a@there.test --via {} --subject Hi --attach {}",
        sink.address(),
        file.to_str().unwrap()
    ));
    assert_eq!(code, Some(0), "{said}");
    let sent = |number: u8| std::fs::read_to_string(dump.join(format!("{number:08}.eml"))).unwrap();
    assert!(
        sent(0).ends_with("+0000\r\n\r\n.dot\r\n") && sent(0).starts_with("Message-ID: <"),
        "{}",
        sent(0)
    );
    let written = sent(1);
    for part in ["Subject: Hi\r\n", "multipart/mixed", "m.eml", "Hello\r\n.\r\n"] {
        assert!(written.contains(part), "{part} is missing in\n{written}");
    }
}

#[test]
fn a_flag_that_cannot_be_obeyed_ends_with_two_and_one_line() {
    for flags in [
        "",
        "--to nowhere",
        "--to a@b.test --via here",
        "--to a@b.test --tls maybe",
        "--to a@b.test --tls implicit",
        "--to a@b.test --user ada --password p",
        "--to a@b.test --via 127.0.0.1:1 --user ada",
        "--to a@b.test --via 127.0.0.1:1 --tls none --user ada --password p",
        "--to a@b.test --via 127.0.0.1:1 --file /does/not/exist",
        "--to a@b.test --via 127.0.0.1:1 --file x --subject y",
        "--colour",
    ] {
        let (code, said) = send(flags);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{flags}: {said}");
    }
}
