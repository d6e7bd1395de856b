//! A table of answers from lines such as those of a zone, for what asks through `route::dns::Dns`.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the kit")]

use std::collections::BTreeMap;

use postroad::route::RouteError;
use postroad::route::dns::{DnsName, Record, RecordKind, StaticDns};
use postroad::route::mx::{Exchange, Mx};
use postroad::smtp::address::Domain;

/// A line each: `name TYPE data`, or `name TYPE !` for a question that fails. The rest of a TXT line is its
/// text. What begins with `;` is not read.
pub fn zone(lines: &str) -> StaticDns {
    let dns = StaticDns::new();
    let mut records: BTreeMap<(DnsName, RecordKind), Vec<Record>> = BTreeMap::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(';')) {
        let (owner, rest) = line.split_once(char::is_whitespace).unwrap();
        let (kind, data) =
            rest.trim_start().split_once(char::is_whitespace).unwrap_or_else(|| (rest.trim(), ""));
        let (owner, data) = (dns_name(owner), data.trim_start());
        let (kind, record) = match kind {
            "A" => (RecordKind::A, (data != "!").then(|| Record::A(data.parse().unwrap()))),
            "AAAA" => (RecordKind::Aaaa, (data != "!").then(|| Record::Aaaa(data.parse().unwrap()))),
            "MX" => (RecordKind::Mx, (data != "!").then(|| Record::Mx(mx(data)))),
            "TXT" => (RecordKind::Txt, (data != "!").then(|| Record::Txt(data.as_bytes().to_vec().into()))),
            "PTR" => (RecordKind::Ptr, (data != "!").then(|| Record::Ptr(dns_name(data)))),
            other => panic!("not a record this kit knows: {other}"),
        };
        match record {
            Some(record) => records.entry((owner, kind)).or_default().push(record),
            None => dns.fail(&owner, kind, RouteError::Dns),
        }
    }
    for ((owner, kind), records) in records {
        dns.set(&owner, kind, records, false);
    }
    dns
}

pub fn dns_name(text: &str) -> DnsName {
    DnsName::new(text).unwrap()
}

fn mx(data: &str) -> Mx {
    let (preference, host) = data.split_once(' ').unwrap();
    let exchange = match host.trim() {
        "." => Exchange::Null,
        host => Exchange::Host(Domain::parse(host).unwrap()),
    };
    Mx::new(preference.parse().unwrap(), exchange)
}
