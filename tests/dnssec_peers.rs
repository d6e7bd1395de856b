//! What DNSSEC proves, of zones that BIND signs: wildcards, NSEC3, chains in one response. By our own
//! validation, straight and behind unbound, and by unbound's word.
#![cfg(feature = "dns")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "kit/bind.rs"]
mod bind;
#[path = "kit/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "a part of it is used")]
mod process;

use std::net::SocketAddr;

use postroad::route::dns::{Anchors, Answer, Dns, DnsName, DnsOptions, Dnssec, HickoryDns, RecordKind};

use bind::{Bind, Proof};

/// The same in a zone with NSEC and in one with NSEC3.
const ZONE: &str = "
@                   MX    10 mx
@                   A     192.0.2.9
mx                  A     192.0.2.1
alias               CNAME mx
out                 CNAME mx.plain.test.
dangling            CNAME gone
dangling2           CNAME gone.also.test.
empty               CNAME mx
_25._tcp.mx         TLSA  3 1 1 abababababababababababababababababababababababababababababababab
_dane               TLSA  3 1 1 abababababababababababababababababababababababababababababababab
*._tcp.wild         CNAME _dane
*._tcp.wild2        TLSA  3 1 1 abababababababababababababababababababababababababababababababab
*.many              A     192.0.2.2
*.dangling3         CNAME gone
sub                 DNAME also.test.
one.ent             A     192.0.2.3
";

const ALSO: &str = "mx A 192.0.2.4\n";

/// What is asked, below the zone, and what everybody says to it: `records`, `none` (NODATA) or `gone`,
/// and whether it is proven.
const TABLE: &[(&str, RecordKind, &str, bool)] = &[
    ("", RecordKind::Mx, "records", true),
    ("mx", RecordKind::A, "records", true),
    ("mx", RecordKind::Aaaa, "none", true),
    ("_25._tcp.mx", RecordKind::Tlsa, "records", true),
    ("_26._tcp.mx", RecordKind::Tlsa, "gone", true),
    ("alias", RecordKind::A, "records", true),
    ("alias", RecordKind::Aaaa, "none", true),
    ("out", RecordKind::A, "records", false),
    ("dangling", RecordKind::A, "gone", true),
    ("dangling2", RecordKind::A, "gone", true),
    ("gone", RecordKind::Mx, "gone", true),
    ("a.b.c.gone", RecordKind::Mx, "gone", true),
    ("ent", RecordKind::A, "none", true),
    // A wildcard of one label and of several.
    ("_25._tcp.wild", RecordKind::Tlsa, "records", true),
    ("_25._tcp.wild2", RecordKind::Tlsa, "records", true),
    ("_25._tcp.wild2", RecordKind::A, "none", true),
    ("a.many", RecordKind::A, "records", true),
    ("a.b.many", RecordKind::A, "records", true),
    ("a.b.c.many", RecordKind::A, "records", true),
    ("a.b.c.many", RecordKind::Aaaa, "none", true),
    ("x.dangling3", RecordKind::A, "gone", true),
    ("mx.sub", RecordKind::A, "records", true),
    ("mx.sub", RecordKind::Aaaa, "none", true),
    ("gone.sub", RecordKind::A, "gone", true),
];

async fn dns(servers: SocketAddr, dnssec: Dnssec, bind: &Bind) -> HickoryDns {
    let mut options = DnsOptions::new();
    options.servers = vec![servers];
    options.dnssec = dnssec;
    options.anchors = Anchors::of_root(bind.anchors());
    HickoryDns::new(options).unwrap()
}

#[tokio::test]
async fn wildcards_and_chains_are_proven_whoever_validates() {
    let zones = [
        ("nsec.test", Proof::Nsec, ZONE),
        ("nsec3.test", Proof::Nsec3, ZONE),
        ("also.test", Proof::Nsec, ALSO),
        ("plain.test", Proof::Unsigned, "mx A 192.0.2.5\n* A 192.0.2.6\n"),
        ("alone.test", Proof::Nsec, "@ MX 10 alone.test.\n@ A 192.0.2.7\n"),
        ("alone3.test", Proof::Nsec3, "@ MX 10 alone3.test.\n@ A 192.0.2.7\n"),
    ];
    let Some(mut bind) = Bind::start(&zones) else { return };
    let validating = bind.resolver(true);
    let plain = bind.resolver(false);
    let authority = bind.address();
    let mut faults = Vec::new();
    for (who, servers, dnssec) in [
        ("the authority", authority, Dnssec::Validate),
        ("a plain resolver", plain, Dnssec::Validate),
        ("a validating resolver", validating, Dnssec::Validate),
        ("its word", validating, Dnssec::Trust),
        ("whatever there is", validating, Dnssec::Auto),
        ("whatever there is of less", plain, Dnssec::Auto),
    ] {
        let dns = dns(servers, dnssec, &bind).await;
        let by_word = dnssec == Dnssec::Trust || who == "whatever there is";
        let mut check = async |name: &str, kind: RecordKind, expected: &str, proven: bool| {
            // Twice: from the network and as remembered.
            for _ in 0..2 {
                let found = dns.look_up(&DnsName::new(name).unwrap(), kind).await;
                let said = match &found.answer {
                    Answer::Records(_) => "records",
                    Answer::NoData => "none",
                    Answer::NoName => "gone",
                    Answer::Failed(_) => "failed",
                };
                // Whether a word was given for what does not exist is lost in the library.
                let secure = found.secure || (by_word && said != "records" && proven);
                if (said, secure) != (expected, proven) {
                    faults.push(format!("{who}: {name} {kind:?}: {said} {secure} {:?}", found.answer));
                }
            }
        };
        for (below, kind, expected, proven) in TABLE {
            for zone in ["nsec.test", "nsec3.test"] {
                let name = if below.is_empty() { zone.to_owned() } else { format!("{below}.{zone}") };
                check(&name, *kind, expected, *proven).await;
            }
        }
        check("a.plain.test", RecordKind::A, "records", false).await;
        check("mx.plain.test", RecordKind::Aaaa, "none", false).await;
        for zone in ["alone.test", "alone3.test"] {
            check(&format!("_25._tcp.{zone}"), RecordKind::Tlsa, "gone", true).await;
        }
    }
    assert!(faults.is_empty(), "{}\n{}", bind.logs(), faults.join("\n"));
}
