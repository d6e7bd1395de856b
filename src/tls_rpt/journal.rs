//! The lines in which a day's results are kept: each a JSON array that begins with a word.
//!
//! A policy is written once with a number, and what is counted names that number, so that a busy
//! domain costs a few octets every time. A line that cannot be read is left out, whatever is in it: the
//! last one may have been cut by a crash.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::record::ReportTo;
use super::result::{Failure, Policy, PolicyType, ResultType};
use crate::smtp::address::Domain;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// A policy that applies to mail for a domain, under a number of its own.
    Policy { number: u64, domain: Domain, policy: Policy },
    /// So many more sessions were good.
    Good { number: u64, count: u64 },
    /// So many more failed.
    Failed { number: u64, count: u64, failure: Failure },
    /// The day's report of a domain was sent to an address.
    Sent { domain: Domain, to: Box<str> },
    /// There is nothing more to do for a domain on this day.
    Over { domain: Domain },
}

impl Line {
    /// As it is written, with its line end.
    pub(crate) fn to_text(&self) -> String {
        let strings = |all: &[Box<str>]| all.iter().map(|s| Value::from(&**s)).collect::<Vec<_>>();
        let value = match self {
            Self::Policy { number, domain, policy } => json!([
                POLICY,
                number,
                domain.as_str(),
                policy.kind.as_str(),
                strings(&policy.lines),
                policy.domain.as_str(),
                strings(&policy.hosts)
            ]),
            Self::Good { number, count } => json!([GOOD, number, count]),
            Self::Failed { number, count, failure } => json!([
                FAILED,
                number,
                count,
                failure.result.as_str(),
                failure.local.map(|ip| ip.to_string()),
                failure.host.as_deref(),
                failure.remote.map(|ip| ip.to_string()),
                &*failure.reason
            ]),
            Self::Sent { domain, to } => json!([SENT, domain.as_str(), &**to]),
            Self::Over { domain } => json!([OVER, domain.as_str()]),
        };
        // JSON in one line: line ends in strings are escaped.
        format!("{value}\n")
    }

    /// What was written; `None` when it is damaged.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > MAX_LINE {
            return None;
        }
        let values: Vec<Value> = serde_json::from_slice(line).ok()?;
        let mut values = Values(values.into_iter());
        let word = values.text(16)?;
        let line = match &*word {
            POLICY => Self::Policy {
                number: values.number()?,
                domain: values.domain()?,
                policy: Policy {
                    kind: PolicyType::parse(&values.text(MAX_TEXT)?)?,
                    lines: values.texts()?,
                    domain: values.domain()?,
                    hosts: values.texts()?,
                },
            },
            GOOD => Self::Good { number: values.number()?, count: values.number()? },
            FAILED => Self::Failed {
                number: values.number()?,
                count: values.number()?,
                failure: Failure {
                    result: ResultType::parse(&values.text(MAX_TEXT)?)?,
                    local: values.ip()?,
                    host: values.maybe_text()?,
                    remote: values.ip()?,
                    reason: values.text(MAX_TEXT)?,
                },
            },
            SENT => Self::Sent { domain: values.domain()?, to: values.text(MAX_ADDRESS)? },
            OVER => Self::Over { domain: values.domain()? },
            _ => return None,
        };
        values.0.next().is_none().then_some(line)
    }
}

/// The address as it is remembered to have been sent to.
pub(crate) fn sent(domain: &Domain, to: &ReportTo) -> Line {
    Line::Sent { domain: domain.clone(), to: to.to_string().into_boxed_str() }
}

struct Values(std::vec::IntoIter<Value>);

impl Values {
    fn number(&mut self) -> Option<u64> {
        self.0.next()?.as_u64()
    }

    fn text(&mut self, limit: usize) -> Option<Box<str>> {
        text(self.0.next()?, limit)
    }

    fn maybe_text(&mut self) -> Option<Option<Box<str>>> {
        match self.0.next()? {
            Value::Null => Some(None),
            value => text(value, MAX_TEXT).map(Some),
        }
    }

    fn texts(&mut self) -> Option<Vec<Box<str>>> {
        let Value::Array(all) = self.0.next()? else { return None };
        (all.len() <= MAX_TEXTS).then(|| all.into_iter().map(|value| text(value, MAX_TEXT)).collect())?
    }

    fn domain(&mut self) -> Option<Domain> {
        Domain::parse(&self.text(MAX_TEXT)?).ok()
    }

    fn ip(&mut self) -> Option<Option<IpAddr>> {
        match self.0.next()? {
            Value::Null => Some(None),
            Value::String(text) => text.parse().ok().map(Some),
            _ => None,
        }
    }
}

fn text(value: Value, limit: usize) -> Option<Box<str>> {
    match value {
        Value::String(text) if text.len() <= limit => Some(text.into_boxed_str()),
        _ => None,
    }
}

const POLICY: &str = "policy";
const GOOD: &str = "good";
const FAILED: &str = "failed";
const SENT: &str = "sent";
const OVER: &str = "over";
/// What is written is shorter, with everything at its limit and escaped.
const MAX_LINE: usize = 64 * 1024;
/// One piece of text, in octets: a line of a policy is at most 512 characters.
const MAX_TEXT: usize = 2_048;
/// A URI, or a mailbox.
const MAX_ADDRESS: usize = 2_048;
/// Lines or patterns of a policy.
const MAX_TEXTS: usize = 64;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::hop::TlsFault;

    pub(crate) fn domain(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    pub(crate) fn policy(kind: PolicyType, domain: &str) -> Policy {
        let (lines, hosts) = (vec!["version: STSv1".into(), "a \"b\"\\ ü".into()], vec!["*.b.test".into()]);
        Policy { kind, lines, domain: self::domain(domain), hosts }
    }

    pub(crate) fn failure(fault: TlsFault, host: &str) -> Failure {
        Failure {
            result: ResultType::Tls(fault),
            local: Some("192.0.2.9".parse().unwrap()),
            host: Some(host.into()),
            remote: Some("2001:db8::1".parse().unwrap()),
            reason: "".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let to = ReportTo::Https("https://r.b.test/x".into());
        let unknown = Failure {
            local: None,
            host: None,
            remote: None,
            reason: "why".into(),
            ..failure(TlsFault::Expired, "")
        };
        for line in [
            Line::Policy { number: 7, domain: domain("b.test"), policy: policy(PolicyType::Sts, "b.test") },
            Line::Good { number: 7, count: u64::MAX },
            Line::Failed { number: 0, count: 2, failure: failure(TlsFault::WrongName, "mx.b.test") },
            Line::Failed { number: 0, count: 2, failure: unknown },
            sent(&domain("b.test"), &to),
            Line::Over { domain: domain("b.test") },
        ] {
            let text = line.to_text();
            let (written, end) = text.split_at(text.len() - 1);
            assert_eq!((Line::parse(written.as_bytes()), end), (Some(line), "\n"), "{text}");
            for cut in 0..written.len() {
                assert_eq!(Line::parse(&written.as_bytes()[..cut]), None, "{cut} of {text}");
            }
        }
    }

    #[test]
    fn what_is_damaged_is_not_read() {
        for line in [
            "",
            "[]",
            "{}",
            "7",
            "[\"good\"]",
            "[\"good\",1]",
            "[\"good\",1,-1]",
            "[\"good\",1,1.5]",
            "[\"good\",1,1,1]",
            "[\"good\",1,1][\"good\",1,1]",
            "[\"bad\",1,1]",
            "[\"over\",\"..\"]",
            "[\"failed\",1,1,\"nothing\",null,null,null,\"\"]",
            "[\"failed\",1,1,\"dane-required\",\"x\",null,null,\"\"]",
            "[\"policy\",1,\"b.test\",\"sts\",\"\",\"b.test\",[]]",
        ] {
            assert_eq!(Line::parse(line.as_bytes()), None, "{line}");
        }
        let long = format!("[\"policy\",1,\"b.test\",\"sts\",[{}\"\"],\"b.test\",[]]", "\"\",".repeat(64));
        assert_eq!(Line::parse(long.as_bytes()), None);
        assert_eq!(Line::parse(&"[".repeat(MAX_LINE).into_bytes()), None);
    }
}
