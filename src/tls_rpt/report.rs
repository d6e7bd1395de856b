//! A report is what one domain is told of one day (RFC 8460 §4).
//!
//! It is made of a tally and of who makes it, and comes out the same each time: its id is made from the
//! day, the domain and the submitter.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::result::Failure;
use super::tally::Count;
use super::{Counted, Day, Tally};
use crate::message::MessageId;
use crate::smtp::address::{Domain, Mailbox};

/// Who makes reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Submitter {
    /// The organization's name, for people.
    pub organization: Box<str>,
    /// Whom to ask about reports. Reports by mail are from this address, so its domain is one that we
    /// sign for: they count only with a signature of it (§5.3).
    pub contact: Mailbox,
    /// The domain in whose name reports are made: of the host that sends the mail, as a rule (§5.3).
    pub domain: Domain,
}

impl Submitter {
    /// One with this name, address and domain.
    #[must_use]
    pub fn new(organization: &str, contact: Mailbox, domain: Domain) -> Self {
        Self { organization: organization.into(), contact, domain }
    }
}

/// What one domain is told of one day.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsReport {
    /// The day.
    pub day: Day,
    /// The domain.
    pub domain: Domain,
    /// Who makes it.
    pub submitter: Submitter,
    /// The results, one for each policy.
    pub results: Vec<Counted>,
}

impl TlsReport {
    /// The report about a domain; `None` when nothing was counted for it.
    #[must_use]
    pub fn new(day: Day, domain: &Domain, tally: &Tally, submitter: &Submitter) -> Option<Self> {
        let results: Vec<_> = tally.of(domain).cloned().collect();
        let report = Self { day, domain: domain.clone(), submitter: submitter.clone(), results };
        (!report.results.is_empty()).then_some(report)
    }

    /// Its id, which is the same each time.
    #[must_use]
    pub fn id(&self) -> MessageId {
        let mut hash = Sha256::new();
        for part in [&*self.day.to_string(), self.domain.as_str(), self.submitter.domain.as_str()] {
            hash.update(part);
            hash.update([0]);
        }
        // The day's time, so that it sorts with others, and the digest.
        let mut octets = [0; 16];
        let time = self.day.begin().as_millis().to_be_bytes().into_iter().skip(2);
        octets.iter_mut().zip(time.chain(hash.finalize())).for_each(|(octet, made)| *octet = made);
        MessageId::from_octets(octets).derived(0, 0)
    }

    /// The id as a report shows it: like a Message-ID, without brackets.
    #[must_use]
    pub fn report_id(&self) -> String {
        format!("{}@{}", self.id(), self.submitter.domain)
    }

    /// The name of its file (§5.1).
    #[must_use]
    pub fn file_name(&self) -> String {
        let (begin, end) = (self.day.begin().as_secs(), self.day.last().as_secs());
        format!("{}!{}!{begin}!{end}!{}.json.gz", self.submitter.domain, self.domain, self.id())
    }

    /// Its text (§4.4).
    #[must_use]
    pub fn to_json(&self) -> String {
        let policies: Vec<_> = self.results.iter().map(policy).collect();
        json!({
            "organization-name": &*self.submitter.organization,
            "date-range": {
                "start-datetime": format!("{}T00:00:00Z", self.day),
                "end-datetime": format!("{}T23:59:59Z", self.day),
            },
            "contact-info": self.submitter.contact.to_string(),
            "report-id": self.report_id(),
            "policies": policies,
        })
        .to_string()
    }

    /// Its text, compressed (§5.2).
    ///
    /// # Errors
    /// None that memory could give.
    pub fn to_gzip(&self) -> io::Result<Vec<u8>> {
        let mut into = GzEncoder::new(Vec::new(), Compression::default());
        into.write_all(self.to_json().as_bytes())?;
        into.finish()
    }
}

fn policy(counted: &Counted) -> Value {
    let strings = |all: &[Box<str>]| all.iter().map(|text| Value::from(&**text)).collect::<Vec<_>>();
    let policy = &counted.policy;
    let mut shown = Map::new();
    shown.insert("policy-type".into(), policy.kind.as_str().into());
    shown.insert("policy-domain".into(), policy.domain.as_str().into());
    for (name, values) in [("policy-string", &policy.lines), ("mx-host", &policy.hosts)] {
        if !values.is_empty() {
            shown.insert(name.into(), strings(values).into());
        }
    }
    let details: Vec<_> = counted.failed.iter().map(detail).collect();
    let mut all = json!({
        "policy": shown,
        "summary": {
            "total-successful-session-count": counted.good.all(),
            "total-failure-session-count": counted.failures(),
        },
    });
    if let (Value::Object(all), false) = (&mut all, details.is_empty()) {
        all.insert("failure-details".into(), details.into());
    }
    all
}

fn detail((failure, count): (&Failure, &Count)) -> Value {
    let mut shown = Map::new();
    shown.insert("result-type".into(), failure.result.as_str().into());
    for (name, value) in [
        ("sending-mta-ip", failure.local.map(|ip| ip.to_string())),
        ("receiving-mx-hostname", failure.host.as_deref().map(str::to_owned)),
        ("receiving-ip", failure.remote.map(|ip| ip.to_string())),
        ("failure-reason-code", Some(failure.reason.to_string()).filter(|reason| !reason.is_empty())),
    ] {
        if let Some(value) = value {
            shown.insert(name.into(), value.into());
        }
    }
    shown.insert("failed-session-count".into(), count.all().into());
    Value::Object(shown)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::hop::TlsFault;
    use crate::tls_rpt::journal::tests::{domain, failure, policy};
    use crate::tls_rpt::{Bounds, Finding, PolicyType};

    pub(crate) fn report() -> TlsReport {
        let mut tally = Tally::new(Bounds::new());
        let mut count = |kind, failure| {
            let policy = policy(kind, "b.test");
            tally.count(&domain("b.test"), Finding { policy, failure });
        };
        (0..3).for_each(|_| count(PolicyType::Sts, None));
        (0..2).for_each(|_| count(PolicyType::Sts, Some(failure(TlsFault::Expired, "mx.b.test"))));
        count(PolicyType::NoneFound, None);
        let contact = Mailbox::parse("tls@us.test").unwrap();
        let submitter = Submitter::new("Us & Co", contact, domain("mail.us.test"));
        let day = Day::parse("2026-09-21").unwrap();
        assert_eq!(TlsReport::new(day, &domain("c.test"), &tally, &submitter), None);
        TlsReport::new(day, &domain("b.test"), &tally, &submitter).unwrap()
    }

    // RFC 8460 §4.4 and the example of Appendix B: the same fields at the same places.
    #[test]
    fn a_report_has_the_fields_of_the_rfc() {
        let report = report();
        let id = format!("{}@mail.us.test", report.id());
        let expected = json!({
            "organization-name": "Us & Co",
            "date-range": {
                "start-datetime": "2026-09-21T00:00:00Z",
                "end-datetime": "2026-09-21T23:59:59Z",
            },
            "contact-info": "tls@us.test",
            "report-id": id,
            "policies": [
                {
                    "policy": {
                        "policy-type": "sts",
                        "policy-string": ["version: STSv1", "a \"b\"\\ ü"],
                        "policy-domain": "b.test",
                        "mx-host": ["*.b.test"],
                    },
                    "summary": {
                        "total-successful-session-count": 3,
                        "total-failure-session-count": 2,
                    },
                    "failure-details": [{
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.9",
                        "receiving-mx-hostname": "mx.b.test",
                        "receiving-ip": "2001:db8::1",
                        "failed-session-count": 2,
                    }],
                },
                {
                    "policy": {
                        "policy-type": "no-policy-found",
                        "policy-string": ["version: STSv1", "a \"b\"\\ ü"],
                        "policy-domain": "b.test",
                        "mx-host": ["*.b.test"],
                    },
                    "summary": {
                        "total-successful-session-count": 1,
                        "total-failure-session-count": 0,
                    },
                },
            ],
        });
        assert_eq!(serde_json::from_str::<Value>(&report.to_json()).unwrap(), expected);
    }

    #[test]
    fn a_report_is_the_same_each_time_and_others_differ() {
        let one = report();
        assert_eq!(one.to_gzip().unwrap(), report().to_gzip().unwrap());
        let mut text = String::new();
        GzDecoder::new(&one.to_gzip().unwrap()[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, one.to_json());
        assert_eq!(
            one.file_name(),
            format!("mail.us.test!b.test!1789948800!1790035199!{}.json.gz", one.id())
        );
        assert!(one.id().to_string().bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_eq!(Day::of(one.id().time()), one.day);
        let mut others = [one.clone(), one.clone(), one.clone()];
        others[0].day = Day::parse("2026-09-22").unwrap();
        others[1].domain = domain("c.test");
        others[2].submitter.domain = domain("d.test");
        assert!(others.iter().all(|other| other.id() != one.id()));
    }
}
