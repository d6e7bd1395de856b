//! What one response says about one name, and how far that is proven.
//!
//! A record counts only where the very name that is wanted owns it. A response is never taken as a
//! whole: it may carry CNAMEs and records of other names, each with a proof of its own.

use hickory_resolver::net::NoRecords;
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::binary::BinDecodable;

use super::wildcard;
use crate::route::RouteError;
use crate::route::dns::Answer;

/// One response.
#[derive(Debug)]
pub(super) struct Reply {
    question: Name,
    code: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    trust: Trust,
}

/// What proves a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// The word of whoever answered, that all of it is authentic.
    Word(bool),
    /// Each record's own proof, and this of what does not exist.
    Proofs(Denial),
}

/// How a proof of what does not exist was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    /// It holds, as far as the records in it are proven.
    Sound,
    /// It proves nothing, and need not: the zone chose so.
    Weak,
    /// It is missing or does not hold.
    Broken,
}

/// What is at a name.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) what: What,
    pub(super) secure: bool,
    /// In seconds.
    pub(super) ttl: u32,
}

#[derive(Debug)]
pub(super) enum What {
    Records(Vec<RData>),
    Alias(Name),
}

impl Reply {
    pub(super) fn new(question: Name, message: Message, trust: Trust) -> Self {
        let code = message.metadata.response_code;
        Self { question, code, answers: message.answers, authorities: message.authorities, trust }
    }

    /// A response without answers, as the library tells it.
    pub(super) fn none(question: Name, none: NoRecords) -> Self {
        let mut authorities = none.authorities.map(|all| all.to_vec()).unwrap_or_default();
        authorities.extend(none.soa.map(|soa| soa.into_record_of_rdata()));
        // Whether it was marked as authentic is lost on the way.
        let trust = Trust::Word(false);
        Self { question, code: none.response_code, answers: Vec::new(), authorities, trust }
    }

    /// What is at `name`; `None` where the response says nothing about it.
    ///
    /// # Errors
    /// [`RouteError::Bogus`] where what it says should be proven and is not.
    pub(super) fn at(&self, name: &Name, kind: RecordType) -> Result<Option<Link>, RouteError> {
        for wanted in [kind, RecordType::CNAME] {
            let set = || self.answers.iter().filter(|r| r.name == *name && r.record_type() == wanted);
            let Some(first) = set().next() else { continue };
            let what = match &first.data {
                RData::CNAME(target) if kind != RecordType::CNAME => What::Alias(target.0.clone()),
                _ => What::Records(set().map(|record| record.data.clone()).collect()),
            };
            let proven = self.is_secure(name, wanted, set().map(|record| record.proof));
            let secure = match (proven, &what) {
                (Err(error), What::Alias(target)) => self.is_renamed(name, target).ok_or(error)?,
                (proven, _) => proven?,
            };
            let ttl = set().map(|record| record.ttl).min().unwrap_or(0);
            return Ok(Some(Link { what, secure, ttl }));
        }
        Ok(None)
    }

    fn is_secure(
        &self,
        name: &Name,
        kind: RecordType,
        mut proofs: impl Iterator<Item = Proof>,
    ) -> Result<bool, RouteError> {
        let denial = match self.trust {
            Trust::Word(authentic) => return Ok(authentic),
            Trust::Proofs(denial) => denial,
        };
        let secure = proofs.try_fold(true, |secure, proof| match proof {
            Proof::Secure => Ok(secure),
            Proof::Insecure => Ok(false),
            Proof::Bogus | Proof::Indeterminate => Err(RouteError::Bogus),
        })?;
        // RFC 4035 §5.3.4: a record from a wildcard counts only with a proof that nothing is closer.
        match wildcard::closest_encloser(name, kind, &self.answers) {
            Some(encloser) if secure => {
                if !wildcard::are_from_above(name, &self.authorities) {
                    Err(RouteError::Bogus)
                } else if wildcard::is_proven(name, &encloser, &self.authorities) {
                    Ok(true)
                } else if wildcard::has_hashed_proof(&self.authorities) && denial != Denial::Broken {
                    Ok(denial == Denial::Sound)
                } else {
                    Err(RouteError::Bogus)
                }
            }
            _ => Ok(secure),
        }
    }

    /// Whether the CNAME from `name` to `target` follows from a proven DNAME; it is not signed itself
    /// then (RFC 6672 §5.3.1). `None` where it does not.
    fn is_renamed(&self, name: &Name, target: &Name) -> Option<bool> {
        let above = |record: &&Record| {
            record.record_type() == RecordType::DNAME
                && record.name != *name
                && record.name.zone_of(name)
                && renamed(name, record).as_ref() == Some(target)
        };
        let dname = self.answers.iter().find(above)?;
        self.is_secure(&dname.name, RecordType::DNAME, std::iter::once(dname.proof)).ok()
    }

    /// Why there is nothing at `name`, about which the response says nothing, whether that is proven,
    /// and for how many seconds it holds. `None` where the response does not know: it ends with a CNAME.
    ///
    /// # Errors
    /// [`RouteError::Bogus`] where it should be proven and is not.
    pub(super) fn absence<T>(&self, name: &Name) -> Result<Option<(Answer<T>, bool, u32)>, RouteError> {
        let soa = self.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        let secure = match self.trust {
            // A resolver that looks everything up speaks of the end of the chain.
            Trust::Word(authentic) if self.question == *name || soa.is_some() => authentic,
            // The proof of what does not exist was judged for the question alone.
            Trust::Proofs(denial) if self.question == *name => self.is_denied_securely(name, denial)?,
            _ => return Ok(None),
        };
        let referral = soa.is_none() && self.authorities.iter().any(|r| r.record_type() == RecordType::NS);
        let answer = match self.code {
            ResponseCode::NXDomain => Answer::NoName,
            // RFC 2308 §2.2: name servers without an SOA are a referral, from a server that does not
            // know the answer and does not look for it.
            _ if referral => Answer::Failed(RouteError::Dns),
            _ => Answer::NoData,
        };
        Ok(Some((answer, secure, soa.unwrap_or(0))))
    }

    /// Whether it is proven that there is nothing at `name`. What should be, by a zone that the name is
    /// in, and is not, is bogus: the library asks neither which zone's proofs it has been given, nor
    /// whether an unsigned one has to do with the name.
    fn is_denied_securely(&self, name: &Name, denial: Denial) -> Result<bool, RouteError> {
        if denial == Denial::Broken || !wildcard::are_from_above(name, &self.authorities) {
            return Err(RouteError::Bogus);
        }
        let proof = |record: &&Record| {
            let nsec = matches!(&record.data, RData::DNSSEC(DNSSECRData::NSEC(_) | DNSSECRData::NSEC3(_)));
            nsec || record.record_type() == RecordType::SOA
        };
        let mut proofs = self.authorities.iter().filter(proof).peekable();
        if proofs.peek().is_some() && proofs.all(|record| record.proof == Proof::Secure) {
            return Ok(denial == Denial::Sound);
        }
        // Without any record the library has looked at the delegation.
        let unsigned = |record: &Record| record.proof == Proof::Insecure && record.name.zone_of(name);
        if self.authorities.is_empty() || self.authorities.iter().any(unsigned) {
            return Ok(false);
        }
        Err(RouteError::Bogus)
    }
}

/// What a DNAME record makes of a name below it.
fn renamed(name: &Name, record: &Record) -> Option<Name> {
    // The library does not know this type.
    let RData::Unknown { rdata, .. } = &record.data else { return None };
    let target = Name::from_bytes(&rdata.anything).ok()?;
    let below = name.iter().count().checked_sub(record.name.iter().count())?;
    Name::from_labels(name.iter().take(below)).ok()?.append_domain(&target).ok()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::dnssec::Algorithm;
    use hickory_resolver::proto::dnssec::rdata::{NSEC, RRSIG, SigInput};
    use hickory_resolver::proto::rr::SerialNumber;
    use hickory_resolver::proto::rr::rdata::{A, CNAME, NS, NULL, SOA};
    use hickory_resolver::proto::serialize::binary::BinEncodable;

    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    /// `owner A`, `owner CNAME target`, `owner DNAME target`, `owner NSEC next`, `owner SIG type labels [signer]`,
    /// `owner SOA`, `owner NS`; with `?` in front not proven as it should be, with `-` insecure.
    fn record(text: &str) -> Record {
        let (text, proof) = match text.split_at(1) {
            ("?", text) => (text, Proof::Bogus),
            ("-", text) => (text, Proof::Insecure),
            _ => (text, Proof::Secure),
        };
        let words: Vec<_> = text.split_whitespace().collect();
        let data = match words[1..] {
            ["A"] => RData::A(A::new(192, 0, 2, 1)),
            ["CNAME", target] => RData::CNAME(CNAME(name(target))),
            ["DNAME", target] => RData::Unknown {
                code: RecordType::DNAME,
                rdata: NULL::with(name(target).to_bytes().unwrap()),
            },
            ["NSEC", next] => RData::DNSSEC(DNSSECRData::NSEC(NSEC::new(name(next), [RecordType::A]))),
            ["SIG", kind, labels, ref signer @ ..] => RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(
                SigInput {
                    type_covered: kind.parse().unwrap(),
                    algorithm: Algorithm::ECDSAP256SHA256,
                    num_labels: labels.parse().unwrap(),
                    original_ttl: 60,
                    sig_expiration: SerialNumber::new(2),
                    sig_inception: SerialNumber::new(1),
                    key_tag: 1,
                    signer_name: name(signer.first().unwrap_or(&"test")),
                },
                vec![1],
            ))),
            ["SOA"] => RData::SOA(SOA::new(name("ns.test"), name("x.test"), 1, 60, 60, 60, 30)),
            ["NS"] => RData::NS(NS(name("ns.test"))),
            _ => panic!("{text}"),
        };
        let mut record = Record::from_rdata(name(words[0]), 60, data);
        record.proof = proof;
        record
    }

    fn reply(question: &str, answers: &[&str], authorities: &[&str], trust: Trust) -> Reply {
        let all = |records: &[&str]| records.iter().map(|text| record(text)).collect();
        let code = ResponseCode::NoError;
        Reply { question: name(question), code, answers: all(answers), authorities: all(authorities), trust }
    }

    /// Whether what was found, if anything, is proven.
    type Judged = Result<Option<bool>, RouteError>;

    #[test]
    fn a_record_counts_for_its_owner_alone_and_by_its_own_proof() {
        const SOUND: Trust = Trust::Proofs(Denial::Sound);
        const BROKEN: Trust = Trust::Proofs(Denial::Broken);
        let found: &[(&[&str], &[&str], Trust, Judged)] = &[
            (&["a.b.test A"], &[], SOUND, Ok(Some(true))),
            (&["-a.b.test A"], &[], SOUND, Ok(Some(false))),
            (&["?a.b.test A"], &[], SOUND, Err(RouteError::Bogus)),
            (&["a.b.test A", "?a.b.test A"], &[], SOUND, Err(RouteError::Bogus)),
            (&["x.b.test A", "x.b.test CNAME a.b.test"], &[], SOUND, Ok(None)),
            (&["?x.b.test CNAME y.test", "a.b.test A"], &[], SOUND, Ok(Some(true))),
            (&["a.b.test CNAME x.test", "-x.test A"], &[], SOUND, Ok(Some(true))),
            (&["?a.b.test CNAME x.test"], &[], SOUND, Err(RouteError::Bogus)),
            // A proof that is broken is one of other names.
            (&["a.b.test CNAME x.test"], &[], BROKEN, Ok(Some(true))),
            // From a wildcard: only where nothing is closer, whatever else the response has.
            (&["a.b.test A", "a.b.test SIG A 2"], &[], SOUND, Err(RouteError::Bogus)),
            (&["a.b.test A", "a.b.test SIG A 2"], &["-x.test NS"], SOUND, Err(RouteError::Bogus)),
            (&["a.b.test A", "a.b.test SIG A 2"], &["*.b.test NSEC c.b.test"], SOUND, Ok(Some(true))),
            (&["a.b.test A", "a.b.test SIG A 2"], &["*.b.test NSEC c.b.test"], BROKEN, Ok(Some(true))),
            (
                &["a.b.test A", "a.b.test SIG A 2"],
                &["?*.b.test NSEC c.b.test"],
                BROKEN,
                Err(RouteError::Bogus),
            ),
            (&["a.b.test A", "a.b.test SIG A 2"], &["b.test NSEC a.b.test"], SOUND, Err(RouteError::Bogus)),
            (&["a.b.test A", "a.b.test SIG A 3"], &[], SOUND, Ok(Some(true))),
            // A neighbour signs what it likes about names that are not its own.
            (
                &["a.b.test A", "a.b.test SIG A 2"],
                &["a.test NSEC z.b.test", "a.test SIG NSEC 2 a.test"],
                SOUND,
                Err(RouteError::Bogus),
            ),
            (
                &["a.b.test A", "a.b.test SIG A 2"],
                &["*.b.test NSEC c.b.test", "*.b.test SIG NSEC 2 b.test"],
                SOUND,
                Ok(Some(true)),
            ),
            // By way of a DNAME.
            (&["?a.b.test CNAME a.c.test", "b.test DNAME c.test"], &[], BROKEN, Ok(Some(true))),
            (&["?a.b.test CNAME a.d.test", "b.test DNAME c.test"], &[], SOUND, Err(RouteError::Bogus)),
            (&["?a.b.test CNAME a.c.test", "?b.test DNAME c.test"], &[], SOUND, Err(RouteError::Bogus)),
            (&["?a.b.test CNAME a.c.test", "a.b.test DNAME a.c.test"], &[], SOUND, Err(RouteError::Bogus)),
            // By somebody's word.
            (&["?a.b.test A"], &[], Trust::Word(true), Ok(Some(true))),
            (&["a.b.test A"], &[], Trust::Word(false), Ok(Some(false))),
        ];
        for (answers, authorities, trust, expected) in found {
            let link = reply("a.b.test", answers, authorities, *trust).at(&name("a.b.test"), RecordType::A);
            assert_eq!(
                link.map(|link| link.map(|link| link.secure)),
                *expected,
                "{answers:?} {authorities:?}"
            );
        }
    }

    #[test]
    fn what_does_not_exist_is_judged_for_the_question_and_not_for_the_end_of_its_chain() {
        let proofs = |denial| Trust::Proofs(denial);
        let table: &[(&str, &[&str], Trust, Judged)] = &[
            ("a.test", &["test SOA", "a.test NSEC b.test"], proofs(Denial::Sound), Ok(Some(true))),
            ("a.test", &["-test SOA", "a.test NSEC b.test"], proofs(Denial::Sound), Ok(Some(false))),
            ("a.test", &[], proofs(Denial::Sound), Ok(Some(false))),
            // A zone that the name is not in has no say.
            ("a.test", &["-x.test SOA"], proofs(Denial::Sound), Err(RouteError::Bogus)),
            (
                "a.test",
                &["0.test NSEC b.test", "0.test SIG NSEC 2 0.test"],
                proofs(Denial::Sound),
                Err(RouteError::Bogus),
            ),
            (
                "a.test",
                &["0.test NSEC b.test", "0.test SIG NSEC 2 0.test"],
                proofs(Denial::Weak),
                Err(RouteError::Bogus),
            ),
            (
                "a.test",
                &["0.test NSEC b.test", "0.test SIG NSEC 2 test"],
                proofs(Denial::Sound),
                Ok(Some(true)),
            ),
            ("a.test", &["test SOA", "a.test NSEC b.test"], proofs(Denial::Weak), Ok(Some(false))),
            ("a.test", &["test SOA", "a.test NSEC b.test"], proofs(Denial::Broken), Err(RouteError::Bogus)),
            ("b.test", &["test SOA", "a.test NSEC b.test"], proofs(Denial::Sound), Ok(None)),
            ("b.test", &["test SOA", "a.test NSEC b.test"], proofs(Denial::Broken), Ok(None)),
            // A resolver says it of the end; an authority that stops at a CNAME says nothing.
            ("b.test", &["test SOA"], Trust::Word(true), Ok(Some(true))),
            ("b.test", &[], Trust::Word(true), Ok(None)),
            ("a.test", &[], Trust::Word(false), Ok(Some(false))),
        ];
        for (at, authorities, trust, expected) in table {
            let absence = reply("a.test", &[], authorities, *trust).absence::<()>(&name(at));
            assert_eq!(
                absence.map(|some| some.map(|(_, secure, _)| secure)),
                *expected,
                "{at} {authorities:?}"
            );
        }
        // RFC 2308 §2.2, §5
        let says = |records: &[&str]| {
            reply("a.test", &[], records, Trust::Word(false)).absence::<()>(&name("a.test")).unwrap().unwrap()
        };
        assert_eq!(says(&["test NS"]), (Answer::Failed(RouteError::Dns), false, 0));
        assert_eq!(says(&["test NS", "test SOA"]), (Answer::NoData, false, 30));
    }
}
