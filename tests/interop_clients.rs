//! Programs and libraries of other people submit to our server: over STARTTLS and over TLS from the
//! first octet, logged in, with everything that mail may hold. What arrives is what they were given.
//!
//! | client | STARTTLS | implicit | PLAIN | LOGIN | 8 bit | SMTPUTF8 | 25 MB |
//! |---|---|---|---|---|---|---|---|
//! | swaks | x | x | x | x | undeclared | | x |
//! | curl | x | x | x | x | undeclared | x | x |
//! | msmtp | x | x | x | x | undeclared | | x |
//! | Python smtplib | x | x | x | x | x | x | x |
//! | nodemailer | x | x | x | x | x | x | x |
//! | Go net/smtp | x | x | x | | always declared | always declared | x |
#![cfg(feature = "tokio")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod kit;

#[path = "interop/far.rs"]
mod far;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use far::{Far, Kind, Letter, PASSWORD, Papers, USER, assert_same};
use kit::process::{have, peer_folder, run};

/// What a client is asked to do.
struct Errand<'a> {
    port: u16,
    implicit: bool,
    ca: &'a Path,
    mechanism: &'a str,
    password: &'a str,
    letter: &'a Letter,
    /// The letter, line ends CRLF.
    file: &'a Path,
}

/// A program of somebody else, or one of ours over somebody else's library.
struct Client {
    name: &'static str,
    /// The mechanisms that it can be told to use.
    mechanisms: &'static [&'static str],
    /// Whether it asks for SMTPUTF8 when an address needs it.
    utf8: bool,
    /// Whether it says BODY=8BITMIME for 8-bit text.
    declares_8bit: bool,
    command: Box<dyn Fn(&Errand<'_>) -> Command>,
}

/// PLAIN and LOGIN. SCRAM-SHA-256 belongs here as soon as our server offers it: msmtp can.
const BOTH: &[&str] = &["PLAIN", "LOGIN"];

impl Client {
    /// Sends every kind of letter that the client can carry, both ways into TLS, each mechanism once;
    /// then logs in wrongly, and writes to somebody who is not there.
    async fn prove(self) {
        let papers = Papers::new();
        let far = Far::submission(&papers).await;
        let dir = tempfile::tempdir().unwrap();
        let kinds = [Kind::Dots, Kind::EightBit, Kind::Utf8, Kind::Large];
        for kind in kinds.into_iter().filter(|kind| *kind != Kind::Utf8 || self.utf8) {
            let letter = Letter::new(kind);
            for (nth, implicit) in [false, true].into_iter().enumerate() {
                // Once: some clients take seconds for it.
                if kind == Kind::Large && !implicit {
                    continue;
                }
                let mechanism = self.mechanisms[nth % self.mechanisms.len()];
                let what = format!("{} {kind:?} {mechanism} implicit={implicit}", self.name);
                let (code, text) = self.send(&far, &papers, &dir, &letter, implicit, mechanism, PASSWORD);
                assert_eq!(code, Some(0), "{what}: {text}");
                let mut arrived = far.take();
                assert_eq!(arrived.len(), 1, "{what}");
                let arrived = arrived.remove(0);
                assert_same(&arrived.octets, &letter.octets, &what);
                assert_eq!(arrived.mail.from.to_string(), format!("<{}>", letter.from), "{what}");
                assert_eq!(arrived.to, [format!("<{}>", letter.to)], "{what}");
                assert_eq!(arrived.login, Some((mechanism.to_owned(), USER.to_owned())), "{what}");
                assert!(arrived.tls, "{what}");
                assert!(kind != Kind::Utf8 || arrived.mail.smtputf8, "{what}");
                let declared = arrived.mail.body == postroad::smtp::params::BodyKind::EightBit;
                assert!(kind != Kind::EightBit || declared == self.declares_8bit, "{what}");
            }
        }
        let mut letter = Letter::new(Kind::Dots);
        for mechanism in self.mechanisms {
            let (code, text) = self.send(&far, &papers, &dir, &letter, false, mechanism, "sesame open");
            assert_ne!(code, Some(0), "{} {mechanism}: a wrong password: {text}", self.name);
            assert!(self.shows(&text, "535"), "{} {mechanism}: a wrong password: {text}", self.name);
        }
        letter.to = "nobody@b.test".to_owned();
        let (code, text) = self.send(&far, &papers, &dir, &letter, false, self.mechanisms[0], PASSWORD);
        assert_ne!(code, Some(0), "{}: nobody: {text}", self.name);
        assert!(self.shows(&text, "550"), "{}: nobody: {text}", self.name);
        assert_eq!(far.count(), 0, "{}", self.name);
    }

    /// curl has words of its own for some refusals.
    fn shows(&self, text: &str, code: &str) -> bool {
        text.contains(code) || (self.name == "curl" && code == "535" && text.contains("Login denied"))
    }

    #[allow(clippy::too_many_arguments, reason = "a row of a table")]
    fn send(
        &self,
        far: &Far,
        papers: &Papers,
        dir: &TempDir,
        letter: &Letter,
        implicit: bool,
        mechanism: &str,
        password: &str,
    ) -> (Option<i32>, String) {
        let file = dir.path().join("letter.eml");
        fs::write(&file, &letter.octets).unwrap();
        // For who reads standard input: with the line ends that text has here.
        let lines: Vec<u8> = letter.octets.iter().copied().filter(|octet| *octet != b'\r').collect();
        let port = if implicit { far.implicit() } else { far.address() }.port();
        let errand = Errand { port, implicit, ca: &papers.ca(), mechanism, password, letter, file: &file };
        let mut command = (self.command)(&errand);
        // No proxy, no configuration of whoever runs the tests.
        command.env("HOME", dir.path()).env_remove("ALL_PROXY").env("no_proxy", "*");
        tokio::task::block_in_place(|| run(&mut command, &lines))
    }
}

/// HOST PORT starttls|implicit CA MECHANISM USER PASSWORD FROM TO FILE
fn arguments(command: &mut Command, errand: &Errand<'_>) {
    command
        .args(["localhost", &errand.port.to_string()])
        .arg(if errand.implicit { "implicit" } else { "starttls" })
        .arg(errand.ca)
        .args([errand.mechanism, USER, errand.password, &errand.letter.from, &errand.letter.to])
        .arg(errand.file);
}

fn ours(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_swaks_submits_arrives_as_it_was_given() {
    if !have("swaks") {
        return;
    }
    let command = |errand: &Errand<'_>| {
        // It adds the last line end.
        fs::write(errand.file, errand.letter.octets.strip_suffix(b"\r\n").unwrap()).unwrap();
        let mut command = Command::new("swaks");
        command
            .args(["--server", "127.0.0.1", "--port", &errand.port.to_string(), "--ehlo", "client.test"])
            .arg(if errand.implicit { "--tls-on-connect" } else { "--tls" })
            .args(["--tls-verify", "--tls-ca-path"])
            .arg(errand.ca)
            .args(["--auth", errand.mechanism, "--auth-user", USER, "--auth-password", errand.password])
            .args(["--from", &errand.letter.from, "--to", &errand.letter.to, "--silent"])
            .args(["1", "--hide-informational", "--suppress-data", "--data"])
            .arg(format!("@{}", errand.file.display()));
        command
    };
    let command = Box::new(command);
    Client { name: "swaks", mechanisms: BOTH, utf8: false, declares_8bit: false, command }.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_curl_submits_arrives_as_it_was_given() {
    if !have("curl") {
        return;
    }
    let command = |errand: &Errand<'_>| {
        let scheme = if errand.implicit { "smtps" } else { "smtp" };
        let mut command = Command::new("curl");
        command
            .args(["-q", "-sS", "--ssl-reqd", "--cacert"])
            .arg(errand.ca)
            .args(["--user", &format!("{USER}:{}", errand.password)])
            .args(["--login-options", &format!("AUTH={}", errand.mechanism)])
            .args(["--mail-from", &errand.letter.from, "--mail-rcpt", &errand.letter.to, "-T"])
            .arg(errand.file)
            .arg(format!("{scheme}://localhost:{}/client.test", errand.port));
        command
    };
    let command = Box::new(command);
    Client { name: "curl", mechanisms: BOTH, utf8: true, declares_8bit: false, command }.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_msmtp_submits_arrives_as_it_was_given() {
    if !have("msmtp") {
        return;
    }
    let command = |errand: &Errand<'_>| {
        let mut command = Command::new("msmtp");
        command
            .args(["--host=localhost", "--domain=client.test", "--tls=on"])
            .arg(format!("--port={}", errand.port))
            .arg(format!("--tls-starttls={}", if errand.implicit { "off" } else { "on" }))
            .arg(format!("--tls-trust-file={}", errand.ca.display()))
            .arg(format!("--auth={}", errand.mechanism.to_ascii_lowercase()))
            .args([format!("--user={USER}"), format!("--passwordeval=echo '{}'", errand.password)])
            .args(["-f", &errand.letter.from, "--", &errand.letter.to]);
        command
    };
    let command = Box::new(command);
    let mechanisms = &["SCRAM-SHA-256", "PLAIN"];
    Client { name: "msmtp", mechanisms, utf8: false, declares_8bit: false, command }.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pythons_smtplib_submits_arrives_as_it_was_given() {
    if !have("python3") {
        return;
    }
    let command = |errand: &Errand<'_>| {
        let mut command = Command::new("python3");
        command.arg(ours("submit.py"));
        arguments(&mut command, errand);
        command
    };
    let command = Box::new(command);
    Client { name: "smtplib", mechanisms: BOTH, utf8: true, declares_8bit: true, command }.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodemailer_submits_arrives_as_it_was_given() {
    let Some(folder) = peer_folder("NODEMAILER", "node", "node_modules/nodemailer") else { return };
    if !have("node") {
        return;
    }
    let command = move |errand: &Errand<'_>| {
        let mut command = Command::new("node");
        command.env("NODEMAILER", &folder).arg(ours("submit.mjs"));
        arguments(&mut command, errand);
        command
    };
    let command = Box::new(command);
    Client { name: "nodemailer", mechanisms: BOTH, utf8: true, declares_8bit: true, command }.prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gos_net_smtp_submits_arrives_as_it_was_given() {
    if !have("go") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("submit");
    let mut build = Command::new("go");
    build.current_dir(ours("submit-go")).args(["build", "-o"]).arg(&program).arg(".");
    // The standard library and nothing else; what is built is kept for the next time.
    build.envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
    let (code, text) = tokio::task::block_in_place(|| run(&mut build, b""));
    assert_eq!(code, Some(0), "go build: {text}");
    let command = move |errand: &Errand<'_>| {
        let mut command = Command::new(&program);
        arguments(&mut command, errand);
        command
    };
    let command = Box::new(command);
    let mechanisms = &["PLAIN"];
    Client { name: "net/smtp", mechanisms, utf8: true, declares_8bit: true, command }.prove().await;
}
