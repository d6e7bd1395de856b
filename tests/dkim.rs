//! What is signed and sealed here is verified by others: dkimpy and mail-auth, over a thousand odd messages
//! and over those messages changed on their way.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]
#![cfg(feature = "dkim")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use postroad::clock::{Rng, Timestamp};
use postroad::message::arc::{self, ChainStatus, Sealer};
use postroad::message::dkim::{Canon, Identity, KeyRecord, Selector, Signer, SigningKey};
use tempfile::TempDir;

#[allow(dead_code, reason = "a part of the kit is used here")]
#[path = "kit/process.rs"]
mod process;
#[path = "kit/seeds.rs"]
mod seeds;

use process::{have, peer_folder, run};
use seeds::{below, one_in, pick};

/// In 2023: a signature from the future is none to a verifier.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Each way to look at header and body has a domain.
const DOMAINS: [(&str, Canon, Canon); 4] = [
    ("rr.test", Canon::Relaxed, Canon::Relaxed),
    ("rs.test", Canon::Relaxed, Canon::Simple),
    ("sr.test", Canon::Simple, Canon::Relaxed),
    ("ss.test", Canon::Simple, Canon::Simple),
];

fn rsa() -> SigningKey {
    SigningKey::from_pem(include_bytes!("fixtures/dkim/rsa.pem")).unwrap()
}

fn ed25519() -> SigningKey {
    SigningKey::from_pem(include_bytes!("fixtures/dkim/ed25519.pem")).unwrap()
}

fn selector(name: &str) -> Selector {
    Selector::parse(name).unwrap()
}

fn signer() -> Signer {
    let identity = |(domain, header, body): (&str, Canon, Canon)| {
        let mut identity = Identity::new(domain.parse().unwrap());
        (identity.header, identity.body) = (header, body);
        identity.subdomains = true;
        identity.key(selector("rsa"), rsa()).key(selector("ed"), ed25519())
    };
    Signer::new(DOMAINS.map(identity)).unwrap()
}

fn sealer(domain: &str, key: SigningKey) -> Sealer {
    Sealer::new(domain.parse().unwrap(), selector("arc"), key)
}

fn header(rng: &Rng, domain: &str) -> String {
    const WORDS: [&str; 12] = [
        "a",
        "word",
        "  two",
        "\ttab",
        "\r\n fold",
        "\r\n\t\tfolded  ",
        "=?utf-8?q?=C3=BC?=",
        "gr\u{fc}n",
        ";",
        ":",
        "b=c;",
        "x",
    ];
    let value = |rng: &Rng| (0..below(rng, 7)).map(|_| pick(rng, &WORDS)).collect::<Vec<_>>().join(" ");
    let names = [
        "Subject",
        "SUBJECT",
        "To",
        "Cc",
        "Reply-To",
        "Date",
        "Message-ID",
        "References",
        "In-Reply-To",
        "MIME-Version",
        "Content-Type",
        "content-transfer-encoding",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
        "List-Id",
        "X-Odd",
        "Received",
        "Comments",
        "Sender",
    ];
    let from = pick(
        rng,
        &[
            "Ada <a@D>",
            "a@D",
            "\"a, b\" <a@D>",
            "a@D, b@D",
            "(c) a@sub.D",
            "Ada\r\n <a@D>",
            "=?utf-8?q?=C3=BC?= <a@D>",
        ],
    );
    let mut fields: Vec<String> = (0..below(rng, 12))
        .map(|_| format!("{}:{}{}\r\n", pick(rng, &names), pick(rng, &["", " ", "  ", "\t"]), value(rng)))
        .collect();
    fields.insert(below(rng, fields.len() + 1), format!("From: {}\r\n", from.replace('D', domain)));
    fields.concat()
}

fn body(rng: &Rng) -> String {
    const PIECES: [&str; 16] = [
        "",
        "\r\n",
        "\r\n\r\n\r\n",
        " \r\n",
        "\t \r\n",
        "line\r\n",
        "  led  and   trailed  \r\n",
        "a\tb\r\n",
        ".\r\n",
        "..\r\n",
        "From x\r\n",
        "gr\u{fc}n \u{2713}\r\n",
        "no end",
        "trail ",
        "--b\r\n",
        " x\r\n",
    ];
    let mut body: String = (0..below(rng, 14)).map(|_| pick(rng, &PIECES)).collect();
    if one_in(rng, 8) {
        body.push_str(&"z".repeat(below(rng, 3000)));
    }
    body.push_str(pick(rng, &["", "", "\r\n", "\r\n\r\n\r\n\r\n", " \r\n \r\n", "end"]));
    // Where white space ends a message without a line end, dkimpy keeps it, and RFC 6376 §3.4.4 can be read
    // so. No such mail travels: whoever sends it ends the line.
    if body.ends_with([' ', '\t']) {
        body.push_str("end");
    }
    body
}

fn sign(signer: &Signer, message: &str) -> String {
    let fields = signer.sign(message.as_bytes(), NOW).unwrap().into_fields();
    assert!(!fields.is_empty(), "not signed: {message}");
    String::from_utf8(fields.to_vec()).unwrap() + message
}

/// A change that breaks every signature.
fn tampered(rng: &Rng, message: &str) -> String {
    let end = message.find("\r\n\r\n").unwrap();
    let (header, rest) = message.split_at(end);
    match below(rng, 4) {
        0 => format!("{message}\r\nmore"),
        1 => format!("{header}\r\nFrom: evil@evil.test{rest}"),
        2 => format!("{header}\r\nSubject: evil{rest}"),
        _ => format!("{header}\r\n\r\nx{}", &rest[4..]),
    }
}

fn record(name: &str) -> Option<KeyRecord> {
    name.starts_with("arc._domainkey.")
        .then(|| if name.contains("ed.") { ed25519() } else { rsa() }.record().clone())
}

/// Whether the last line with something in it has nothing but white space in it. RFC 6376 §3.4.4 takes that
/// white space away first, and then the line, which is empty; so does dkimpy. mail-auth 0.13 leaves the line
/// there, so it is not asked about these.
fn ends_blank(message: &str) -> bool {
    let (_, body) = message.split_once("\r\n\r\n").unwrap();
    let lines = body.trim_end_matches("\r\n");
    let last = lines.rsplit("\r\n").next().unwrap_or_default();
    !last.is_empty() && last.trim_matches([' ', '\t']).is_empty()
}

/// A chain of so many hosts, each of which puts something in front.
fn chained(message: &str, length: usize, ed: bool) -> String {
    let sealers = [
        sealer("one.test", rsa()),
        if ed { sealer("ed.test", ed25519()) } else { sealer("two.test", rsa()) },
    ];
    (0..length).fold(message.to_owned(), |message, at| {
        let message = format!("Received: from hop{at}\r\n{message}");
        let status = arc::verify(message.as_bytes(), NOW, record);
        assert_ne!(status, ChainStatus::Fail, "{message}");
        let results = format!(
            "mx{at}.test; dkim=pass header.d=rr.test; dkim=pass header.d=x.test;\tarc={}",
            status.as_str()
        );
        let fields = sealers[(at + 1) % 2].seal(message.as_bytes(), &results, status, NOW).unwrap();
        String::from_utf8(fields.to_vec()).unwrap() + &message
    })
}

/// Writes the messages, and what is published of the keys.
fn corpus() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let signer = signer();
    let mut keys: String =
        signer.dns_records().map(|record| format!("{}\t{}\n", record.name, record.text)).collect();
    for (domain, key) in [("one.test", rsa()), ("two.test", rsa()), ("ed.test", ed25519())] {
        keys.push_str(&format!("arc._domainkey.{domain}\t{}\n", key.record()));
    }
    fs::write(dir.path().join("keys"), keys).unwrap();
    let write = |name: String, message: &str| fs::write(dir.path().join(name), message).unwrap();
    let rng = Rng::seeded(6376);
    for number in 0..MESSAGES {
        let (domain, ..) = DOMAINS[number % DOMAINS.len()];
        let message = format!("{}\r\n{}", header(&rng, domain), body(&rng));
        let signed = sign(&signer, &message);
        let blank = if ends_blank(&message) { ".blank" } else { "" };
        write(format!("{number:05}{blank}.pass.eml"), &signed);
        if number % 4 == 0 {
            write(format!("{number:05}.fail.eml"), &tampered(&rng, &signed));
        }
        if number % 6 == 0 {
            let (length, ed) = (1 + below(&rng, 3), one_in(&rng, 3));
            let chained = chained(&signed, length, ed);
            let kind = if ed { "arc-ed" } else { "arc" };
            write(format!("{number:05}{blank}.{kind}-pass.eml"), &chained);
            write(format!("{number:05}.{kind}-fail.eml"), &tampered(&rng, &chained));
        }
    }
    // A body without an empty line in front, and large ones.
    write("bare.pass.eml".into(), &sign(&signer, "From: a@rr.test\r\nSubject: no body\r\n"));
    for (number, (domain, ..)) in DOMAINS.into_iter().enumerate() {
        let lines = "It is a long  way\tto the end, gr\u{fc}n. \r\n".repeat(5 * 1024 * 1024 / 39);
        let message = format!("From: a@{domain}\r\n\r\n{}{}", lines, "\r\n".repeat(number * 1000));
        write(format!("large{number}.pass.eml"), &sign(&signer, &message));
    }
    dir
}

fn judge(command: &mut Command, folder: &Path) {
    let (code, said) = run(command.arg(folder), b"");
    println!("{}", said.lines().last().unwrap_or_default());
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn dkimpy_agrees_with_every_signature_and_every_chain() {
    let Some(library) = peer_folder("DKIMPY", "python", "dkim/__init__.py") else { return };
    if !have("python3") {
        return;
    }
    let folder = corpus();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/verify.py");
    judge(Command::new("python3").env("PYTHONPATH", library).arg(script), folder.path());
}

#[test]
fn mail_auth_agrees_with_every_signature_and_every_chain() {
    let Some(program) = verifier() else { return };
    judge(&mut Command::new(program), corpus().path());
}

/// The program of `tests/verify`, as `cargo build` in that folder makes it.
fn verifier() -> Option<PathBuf> {
    let folder = peer_folder("VERIFY", "verify", "postroad-verify")?;
    Some(folder.join("postroad-verify"))
}

const MESSAGES: usize = 1_400;
