//! Whether a record that a wildcard stands for is proven: nothing closer to the name exists.
//!
//! The library's own judgement of NSEC records beside such an answer refuses sound ones (and what it
//! takes may be unsound), so they are judged here, after RFC 4035 §5.3.4. It has verified the
//! signatures. NSEC3 records it judges well.

use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, NSEC};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// The name below which the wildcard is that this record was made from; `None` where it was not.
/// `records` are those beside it, its signatures among them.
pub(super) fn closest_encloser(name: &Name, kind: RecordType, records: &[Record]) -> Option<Name> {
    let labels =
        records.iter().filter(|record| record.name == *name).filter_map(|record| match &record.data {
            RData::DNSSEC(DNSSECRData::RRSIG(sig)) if sig.input().type_covered == kind => {
                Some(sig.input().num_labels)
            }
            _ => None,
        });
    // All signatures of a set have the same number; where they do not, the careful one.
    let labels = labels.min()?;
    (labels < name.num_labels()).then(|| name.trim_to(usize::from(labels)))
}

/// Whether a proven NSEC record shows that between `name` and `encloser` nothing exists.
pub(super) fn is_proven(name: &Name, encloser: &Name, authorities: &[Record]) -> bool {
    authorities.iter().filter(|record| record.proof == Proof::Secure).any(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => {
            covers(&record.name, nsec, name) && {
                // The closest name that exists, as this record shows it.
                let before = common(&record.name, name);
                let behind = common(nsec.next_domain_name(), name);
                before.max(behind) == usize::from(encloser.num_labels())
            }
        }
        _ => false,
    })
}

/// Whether all proofs of what does not exist are signed by zones that `name` is in. Any other zone can
/// sign an NSEC record whose end is beyond its own names.
pub(super) fn are_from_above(name: &Name, authorities: &[Record]) -> bool {
    authorities.iter().all(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(sig)) => {
            let input = sig.input();
            let is_proof = matches!(input.type_covered, RecordType::NSEC | RecordType::NSEC3);
            !is_proof || input.signer_name.zone_of(name)
        }
        _ => true,
    })
}

/// Whether the proof beside an answer is by NSEC3 records.
pub(super) fn has_hashed_proof(authorities: &[Record]) -> bool {
    authorities.iter().any(|record| {
        record.proof == Proof::Secure && matches!(&record.data, RData::DNSSEC(DNSSECRData::NSEC3(_)))
    })
}

/// Whether an NSEC record shows that a name does not exist.
fn covers(owner: &Name, nsec: &NSEC, name: &Name) -> bool {
    let next = nsec.next_domain_name();
    // RFC 6840 §4.1: that of a delegation knows nothing about what is below.
    if owner.zone_of(name) && nsec.is_ancestor_delegation() {
        return false;
    }
    // The last one of a zone points back to its first.
    owner < name && (name < next || (next <= owner && next.zone_of(name)))
}

/// How many labels, from the root down, two names have in common.
fn common(a: &Name, b: &Name) -> usize {
    a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    #[test]
    fn a_wildcard_counts_only_where_nothing_closer_exists() {
        use RecordType::{A, CNAME, DNAME, NS, SOA};
        // The name is b.mx.ex.test, the wildcard *.mx.ex.test.
        let table: &[(&str, &str, &[RecordType], bool)] = &[
            ("*.mx.ex.test", "zz.mx.ex.test", &[CNAME], true),
            ("a.mx.ex.test", "c.mx.ex.test", &[A], true),
            ("*.mx.ex.test", "ex.test", &[A], true), // the last of the zone
            ("mx.ex.test", "zz.ex.test", &[A], true),
            ("mx.ex.test", "zz.ex.test", &[NS], false), // a delegation knows nothing of it
            ("mx.ex.test", "zz.ex.test", &[DNAME], false),
            ("mx.ex.test", "zz.ex.test", &[NS, SOA], true), // the zone's own
            ("b.mx.ex.test", "c.mx.ex.test", &[A], false),  // it exists
            ("a.mx.ex.test", "b.mx.ex.test", &[A], false),
            ("a.mx.ex.test", "aa.mx.ex.test", &[A], false), // all before it
            ("c.mx.ex.test", "zz.ex.test", &[A], false),    // all behind it
            ("zz.ex.test", "ex.test", &[A], false),         // the same, at the end of the zone
            ("a.mx.ex.test", "x.b.mx.ex.test", &[A], false), // something is below it
            ("ex.test", "zz.ex.test", &[SOA], false),       // not even the wildcard's parent exists
        ];
        for (owner, next, types, proven) in table {
            let nsec = NSEC::new(name(next), types.iter().copied());
            let mut record = Record::from_rdata(name(owner), 60, RData::DNSSEC(DNSSECRData::NSEC(nsec)));
            record.proof = Proof::Secure;
            let (at, encloser) = (name("b.mx.ex.test"), name("mx.ex.test"));
            let found = is_proven(&at, &encloser, std::slice::from_ref(&record));
            assert_eq!(found, *proven, "{owner} {next} {types:?}");
            record.proof = Proof::Bogus;
            assert!(!is_proven(&at, &encloser, &[record]));
        }
    }
}
