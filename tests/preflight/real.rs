//! The same over a name server on loopback: what goes over the wire, and what the program says of it.

use std::process::Command;
use std::time::Duration;

use postroad::preflight::{Check, Detail, Severity};
use postroad::route::dns::{DnsOptions, Dnssec, HickoryDns};

use super::checks::{ED25519, WELL, preflight, wrong};
use super::dns::{DnsServer, Fault};
use super::kit::process::{example, run};

fn asking(server: &DnsServer) -> HickoryDns {
    let mut options = DnsOptions::new();
    options.servers = vec![server.address()];
    options.dnssec = Dnssec::Off;
    // Short, for questions that are never answered.
    (options.timeout, options.attempts) = (Duration::from_millis(100), 1);
    HickoryDns::new(options).unwrap()
}

#[tokio::test]
async fn a_real_name_server_is_asked_for_every_kind_of_record() {
    let server = DnsServer::start(WELL).await;
    let findings = preflight().check(&asking(&server)).await;
    assert!(findings.is_ready(), "{:#?}", wrong(&findings));
    assert_eq!(wrong(&findings), Vec::<String>::new());
    for (name, kind) in [
        ("a.test", "TXT"),
        ("a.test", "MX"),
        ("mail.a.test", "A"),
        ("mail.a.test", "AAAA"),
        ("1.2.0.192.in-addr.arpa", "PTR"),
        ("s1._domainkey.a.test", "TXT"),
        ("_dmarc.a.test", "TXT"),
    ] {
        assert!(server.queries(name, kind) > 0, "{name} {kind}");
    }
}

#[tokio::test]
async fn a_name_server_that_fails_is_never_read_as_missing() {
    for fault in [Fault::ServFail, Fault::Refused, Fault::Silence] {
        let server = DnsServer::start(WELL).await;
        for line in WELL.lines().filter(|line| !line.trim().is_empty()) {
            server.fault(line.split_whitespace().next().unwrap(), "*", fault);
        }
        let findings = preflight().check(&asking(&server)).await;
        for finding in &findings {
            assert_eq!(finding.severity, Severity::Unasked, "{fault:?}: {finding}");
            assert!(matches!(finding.detail, Detail::Unasked(..)));
        }
        assert!(!findings.is_ready());
        for check in
            [Check::Spf, Check::Dkim, Check::Dmarc, Check::Ptr, Check::Helo, Check::Mail, Check::Policy]
        {
            assert!(findings.iter().any(|finding| finding.check == check), "{fault:?}: {check}");
        }
    }
}

/// Runs the program against these records; gives its exit code and all that it said.
fn program(records: &str, flags: &[&str]) -> (Option<i32>, String) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(DnsServer::start(records));
    let address = server.address().to_string();
    let mut command = Command::new(example("preflight"));
    // That this server has no signatures is logged, and no finding.
    command.env("RUST_LOG", "off");
    command.args(["--domain", "a.test", "--helo", "mail.a.test", "--resolver", &address]);
    let said = run(command.args(["--address", "192.0.2.1", "--address", "2001:db8::1"]).args(flags), b"");
    drop(runtime);
    said
}

#[test]
fn the_program_ends_with_zero_only_where_there_is_no_fault() {
    let key = format!("s1={ED25519}");
    let (code, said) = program(WELL, &["--selector", &key]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.lines().all(|line| line.starts_with("fine ")), "{said}");
    assert!(said.contains("fine dkim s1._domainkey.a.test: the key is published\n"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(
        &file,
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMl\nrwIaaPcHURo=\n-----END PUBLIC KEY-----\n",
    )
    .unwrap();
    let (code, said) = program(
        &WELL.replace("-all", "?all").replace("ip6:2001:db8::1 ", ""),
        &["--selector", &format!("s1={}", file.display())],
    );
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("fault spf a.test: 2001:db8::1 may not send: neutral\n"), "{said}");
    assert!(said.contains("fine dkim s1._domainkey.a.test: the key is published\n"), "{said}");
}

#[test]
fn the_program_ends_with_two_where_nothing_could_be_tried() {
    for flags in [
        &["--selector", "s1"][..],
        &["--selector", "s1=nonsense"],
        &["--selector", "s..1=p="],
        &["--address", "192.0.2"],
        &["--nonsense"],
    ] {
        let (code, said) = program("", flags);
        assert_eq!(code, Some(2), "{flags:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
