//! Names and records of the library as ours, and the names that are never asked for.

use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use crate::route::dns::{Answer, DnsName, Record, RecordKind};
use crate::route::mx::{Exchange, Mx};
use crate::smtp::address::Domain;

/// The name with its dot. `None` for what does not fit into a DNS name, which cannot exist.
pub(super) fn absolute(name: &DnsName) -> Option<Name> {
    let mut absolute = Name::from_ascii(name.as_str()).ok()?;
    absolute.set_fqdn(true);
    Some(absolute)
}

pub(super) fn dns_name(name: &Name) -> Option<DnsName> {
    DnsName::new(&name.to_ascii())
}

pub(super) const fn record_type(kind: RecordKind) -> RecordType {
    match kind {
        RecordKind::Mx => RecordType::MX,
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
        RecordKind::Tlsa => RecordType::TLSA,
        RecordKind::Txt => RecordType::TXT,
        RecordKind::Ptr => RecordType::PTR,
    }
}

/// The record as ours; `None` for a kind that is not.
pub(super) fn record(data: RData) -> Option<Record> {
    Some(match data {
        RData::MX(mx) => {
            let exchange = if mx.exchange.is_root() {
                Exchange::Null
            } else {
                domain(&mx.exchange).map_or(Exchange::Unusable, Exchange::Host)
            };
            Record::Mx(Mx::new(mx.preference, exchange))
        }
        RData::A(a) => Record::A(a.0),
        RData::AAAA(aaaa) => Record::Aaaa(aaaa.0),
        RData::TLSA(tlsa) => Record::Tlsa {
            usage: tlsa.cert_usage.into(),
            selector: tlsa.selector.into(),
            matching: tlsa.matching.into(),
            data: tlsa.cert_data.into(),
        },
        RData::TXT(txt) => Record::Txt(Bytes::from(txt.txt_data.concat())),
        RData::PTR(ptr) => Record::Ptr(dns_name(&ptr.0)?),
        _ => return None,
    })
}

fn domain(name: &Name) -> Option<Domain> {
    let text = name.to_ascii();
    Domain::parse(text.strip_suffix('.').unwrap_or(&text)).ok()
}

/// The answer to questions about names that are on no name server (RFC 6761 §6.3, §6.4; RFC 7686).
pub(super) fn special(name: &DnsName, kind: RecordKind) -> Option<Answer<Record>> {
    match name.as_str().rsplit('.').next()? {
        "localhost" => Some(match kind {
            RecordKind::A => Answer::Records(vec![Record::A(Ipv4Addr::LOCALHOST)]),
            RecordKind::Aaaa => Answer::Records(vec![Record::Aaaa(Ipv6Addr::LOCALHOST)]),
            _ => Answer::NoData,
        }),
        "invalid" | "onion" => Some(Answer::NoName),
        _ => None,
    }
}
