//! Other people's programs on both sides: real clients send to our relay, our relay delivers to real
//! servers. Each test that needs an absent program says so and is skipped; in CI it fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use kit::peers::Postfix;
use kit::process::{Program, free_address, have, run, wait_until};

/// A relay with a durable spool that hands everything to `next`.
fn relay(dir: &Path, next: SocketAddr, more: &[&str]) -> Program {
    let (spool, route) = (dir.join("spool"), format!("*={next}"));
    let mut args = vec![
        "--listen",
        "127.0.0.1:0",
        "--hostname",
        "relay.test",
        "--spool",
        spool.to_str().unwrap(),
        "--relay-from",
        "127.0.0.0/8",
        "--route",
        &route,
        "--retry",
        "1s",
    ];
    args.extend(more);
    Program::example("relay", &args)
}

fn dumping_sink(dir: &Path) -> Program {
    let dump = dir.join("dump");
    std::fs::create_dir(&dump).unwrap();
    Program::example("sink", &["--listen", "127.0.0.1:0", "--dump", dump.to_str().unwrap()])
}

/// What a dumping sink holds.
fn dumped(dir: &Path) -> Vec<Vec<u8>> {
    kit::process::dumped(&dir.join("dump")).iter().map(|path| std::fs::read(path).unwrap()).collect()
}

#[test]
fn ten_thousand_messages_pass_from_smtp_source_to_smtp_sink_none_lost_none_doubled() {
    if !have("smtp-source") || !have("smtp-sink") {
        return;
    }
    const MESSAGES: usize = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let far = free_address();
    let log = dir.path().join("sink");
    std::fs::create_dir(&log).unwrap();
    run(Command::new("chmod").arg("777").arg(dir.path()).arg(&log), b"");
    // -D writes what arrives into one file a minute, envelope included.
    let mut sink = Command::new("smtp-sink");
    sink.args(["-4", "-u", "nobody", "-D"]).arg(log.join("%Y%m%d%H%M")).arg(far.to_string()).arg("512");
    let _sink = Program::listening(sink, far);
    let relay = relay(dir.path(), far, &["--tls-policy", "none"]);
    // -N numbers the recipients, so that each message can be told from every other.
    let (code, text) = run(
        Command::new("smtp-source")
            .args([
                "-4",
                "-d",
                "-N",
                "-s",
                "10",
                "-l",
                "2048",
                "-f",
                "s@a.example",
                "-t",
                "r@b.example",
                "-m",
            ])
            .arg(MESSAGES.to_string())
            .arg(relay.address().to_string()),
        b"",
    );
    assert_eq!(code, Some(0), "{text}");
    let recipients = || {
        let mut seen = BTreeMap::<String, usize>::new();
        for file in std::fs::read_dir(&log).unwrap().map_while(Result::ok) {
            // It may be renamed while we look.
            let octets = std::fs::read(file.path()).unwrap_or_default();
            for line in String::from_utf8_lossy(&octets).lines() {
                if let Some(path) = line.strip_prefix("X-Rcpt-Args: ") {
                    *seen.entry(path.to_owned()).or_default() += 1;
                }
            }
        }
        seen
    };
    wait_until("ten thousand messages at smtp-sink", || recipients().len() >= MESSAGES);
    let (code, _) = relay.terminate();
    assert_eq!(code, Some(0));
    let seen = recipients();
    assert_eq!(seen.len(), MESSAGES);
    let doubled: Vec<_> = seen.iter().filter(|(_, copies)| **copies != 1).collect();
    assert!(doubled.is_empty(), "doubled: {doubled:?}");
}

#[test]
fn swaks_to_us_to_a_real_postfix_and_on_to_us_again() {
    if !have("swaks") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sink = dumping_sink(dir.path());
    let Some(postfix) = Postfix::start(Some(sink.address())) else { return };
    let relay = relay(dir.path(), postfix.address(), &[]);
    for number in 0..20 {
        let (code, text) = run(
            Command::new("swaks")
                .args(["--server", &relay.address().to_string(), "--tls", "--from", "a@x.test", "--to"])
                .args([
                    format!("b{number}@y.test"),
                    "--header".into(),
                    format!("X-Number: {number}"),
                    "--silent".into(),
                    "2".into(),
                ]),
            b"",
        );
        assert_eq!(code, Some(0), "{text}");
    }
    wait_until("twenty messages through Postfix", || dumped(dir.path()).len() >= 20);
    let mut numbers: Vec<_> = dumped(dir.path())
        .iter()
        .map(|octets| {
            String::from_utf8_lossy(octets)
                .lines()
                .find_map(|l| l.strip_prefix("X-Number: ").map(str::to_owned))
                .unwrap()
        })
        .collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!((numbers.len(), dumped(dir.path()).len()), (20, 20), "{}", postfix.log());
}

#[test]
fn postfix_delivers_to_us() {
    if !have("swaks") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sink = dumping_sink(dir.path());
    let relay = relay(dir.path(), sink.address(), &[]);
    let Some(postfix) = Postfix::start(Some(relay.address())) else { return };
    for number in 0..10 {
        let (code, text) = run(
            Command::new("swaks")
                .args(["--server", &postfix.address().to_string(), "--from", "a@x.test", "--to"])
                .args([format!("b{number}@y.test"), "--silent".into(), "2".into()]),
            b"",
        );
        assert_eq!(code, Some(0), "{text}");
    }
    wait_until("ten messages from Postfix", || dumped(dir.path()).len() >= 10);
    assert_eq!(dumped(dir.path()).len(), 10);
}

#[test]
fn python_smtplib_and_curl_submit_over_tls_with_auth_byte_for_byte() {
    if !have("python3") || !have("curl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sink = dumping_sink(dir.path());
    let (spool, route) = (dir.path().join("spool"), format!("*={}", sink.address()));
    let relay = Program::example(
        "relay",
        &[
            "--listen",
            "127.0.0.1:0",
            "--listen-tls",
            "127.0.0.1:0",
            "--hostname",
            "localhost",
            "--spool",
            spool.to_str().unwrap(),
            "--user",
            "ada:open sesame",
            "--route",
            &route,
        ],
    );
    let (starttls, implicit) = (relay.addresses()[0], relay.addresses()[1]);
    let script = format!(
        "import smtplib, ssl\n\
         c = ssl._create_unverified_context()\n\
         body = b'From: a@x.test\\r\\nSubject: dots\\r\\n\\r\\n.\\r\\n..\\r\\n.x\\r\\nend\\r\\n'\n\
         s = smtplib.SMTP('127.0.0.1', {})\n\
         try:\n    s.ehlo(); s.login('ada', 'open sesame'); raise SystemExit('AUTH in clear was accepted')\n\
         except smtplib.SMTPNotSupportedError: pass\n\
         s.starttls(context=c); s.login('ada', 'open sesame')\n\
         s.sendmail('a@x.test', ['b@y.test'], body)\n\
         code, _ = s.docmd('AUTH', 'PLAIN AGFkYQBvcGVuIHNlc2FtZQ=='); assert code == 503, code\n\
         s.quit()\n\
         s = smtplib.SMTP_SSL('127.0.0.1', {}, context=c); s.login('ada', 'open sesame')\n\
         s.sendmail('a@x.test', ['c@y.test'], body); s.quit()\n\
         s = smtplib.SMTP('127.0.0.1', {})\n\
         try: s.sendmail('a@x.test', ['d@y.test'], body); raise SystemExit('a stranger could relay')\n\
         except smtplib.SMTPRecipientsRefused as e: assert e.recipients['d@y.test'][0] == 550, e.recipients\n",
        starttls.port(),
        implicit.port(),
        starttls.port()
    );
    let (code, text) = run(Command::new("python3").arg("-c").arg(script), b"");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(
        Command::new("curl").args([
            "-sS",
            "-k",
            "--ssl-reqd",
            "--user",
            "ada:open sesame",
            "--mail-from",
            "a@x.test",
            "--mail-rcpt",
            "e@y.test",
            "-T",
            "-",
            &format!("smtp://{starttls}"),
        ]),
        b"From: a@x.test\r\nSubject: dots\r\n\r\n.\r\n..\r\n.x\r\nend\r\n",
    );
    assert_eq!(code, Some(0), "{text}");
    wait_until("three messages at the sink", || dumped(dir.path()).len() >= 3);
    for octets in dumped(dir.path()) {
        let text = String::from_utf8(octets).unwrap();
        assert!(
            text.ends_with("From: a@x.test\r\nSubject: dots\r\n\r\n.\r\n..\r\n.x\r\nend\r\n"),
            "{text:?}"
        );
        assert!(text.starts_with("Received: from "), "{text:?}");
    }
}
