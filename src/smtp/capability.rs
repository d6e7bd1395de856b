//! Capabilities are what a server announces in its reply to EHLO.
//!
//! One type for both roles: a client parses them, a server announces them. Keywords unknown here are
//! ignored, as RFC 5321 §4.1.1.1 asks.

use std::fmt;

use super::params::{ByMode, DeliverBy, parse_time, write_time};
use super::reply::Reply;
use super::sasl::Mechanism;
use super::xclient::Xclient;

/// The extensions of a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// SIZE (RFC 1870): the largest message in octets; `Some(0)` when there is no fixed limit.
    pub size: Option<u64>,
    /// PIPELINING (RFC 2920)
    pub pipelining: bool,
    /// CHUNKING: BDAT (RFC 3030)
    pub chunking: bool,
    /// 8BITMIME (RFC 6152)
    pub eight_bit: bool,
    /// BINARYMIME (RFC 3030)
    pub binary: bool,
    /// SMTPUTF8 (RFC 6531)
    pub smtputf8: bool,
    /// STARTTLS (RFC 3207)
    pub starttls: bool,
    /// DSN (RFC 3461)
    pub dsn: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034)
    pub enhanced: bool,
    /// AUTH (RFC 4954): the mechanisms known here, in the server's order.
    pub auth: Vec<Mechanism>,
    /// REQUIRETLS (RFC 8689), which is announced under TLS only.
    pub require_tls: bool,
    /// LIMITS (RFC 9422); none where it is not announced.
    pub limits: Limits,
    /// DELIVERBY (RFC 2852): the least time in seconds, 0 for none.
    pub deliver_by: Option<u32>,
    /// FUTURERELEASE (RFC 4865)
    pub future_release: Option<FutureRelease>,
    /// MT-PRIORITY (RFC 6710)
    pub priority: bool,
    /// XCLIENT, as Postfix defined it: the server believes this client about another one.
    pub xclient: bool,
}

/// What a server takes at most, where it says so (RFC 9422 §4). Keywords unknown here are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Limits {
    /// RCPTMAX: recipients of one transaction.
    pub recipients: Option<u32>,
    /// MAILMAX: transactions of one session.
    pub transactions: Option<u32>,
    /// RCPTDOMAINMAX: domains among the recipients of one session.
    pub domains: Option<u32>,
}

/// How long a server holds messages (RFC 4865 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FutureRelease {
    /// The longest wait in seconds.
    pub interval: u32,
    /// The latest time, in seconds since 1970.
    pub until: u64,
}

impl fmt::Display for FutureRelease {
    /// As behind `FUTURERELEASE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.interval)?;
        write_time(f, self.until)
    }
}

impl Limits {
    fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            // RFC 9422 §4: up to six digits, not zero; what is none is no limit anybody can obey.
            let valid = (1..=6).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
            let value = value.parse().ok().filter(|number| valid && *number > 0);
            match name.to_ascii_uppercase().as_str() {
                "RCPTMAX" => found.recipients = value,
                "MAILMAX" => found.transactions = value,
                "RCPTDOMAINMAX" => found.domains = value,
                _ => {}
            }
        }
        found
    }
}

impl fmt::Display for Limits {
    /// As behind `LIMITS`; empty when there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all =
            [("RCPTMAX", self.recipients), ("MAILMAX", self.transactions), ("RCPTDOMAINMAX", self.domains)];
        let set = all.iter().filter_map(|(name, value)| value.map(|value| (name, value)));
        for (nth, (name, value)) in set.enumerate() {
            write!(f, "{}{name}={value}", if nth == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl Capabilities {
    /// Reads the reply to EHLO. Its first line is the server's greeting; no keyword stands there.
    #[must_use]
    pub fn parse(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            let mut words = line.split(' ').filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            // AUTH=LOGIN is how it was written before RFC 2554, and some still do.
            let (keyword, first) = match keyword.split_once('=') {
                Some((keyword, first)) => (keyword, Some(first)),
                None => (keyword, None),
            };
            let mut words = first.into_iter().chain(words);
            match keyword.to_ascii_uppercase().as_str() {
                // What is no number is no limit anybody can obey.
                "SIZE" => found.size = Some(words.next().and_then(|w| w.parse().ok()).unwrap_or(0)),
                "PIPELINING" => found.pipelining = true,
                "CHUNKING" => found.chunking = true,
                "8BITMIME" => found.eight_bit = true,
                "BINARYMIME" => found.binary = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "STARTTLS" => found.starttls = true,
                "DSN" => found.dsn = true,
                "ENHANCEDSTATUSCODES" => found.enhanced = true,
                "AUTH" => {
                    for mechanism in words.filter_map(Mechanism::parse) {
                        if !found.auth.contains(&mechanism) {
                            found.auth.push(mechanism);
                        }
                    }
                }
                "REQUIRETLS" => found.require_tls = true,
                "LIMITS" => found.limits = Limits::parse(words),
                "DELIVERBY" => {
                    found.deliver_by = Some(words.next().and_then(|word| word.parse().ok()).unwrap_or(0));
                }
                "FUTURERELEASE" => {
                    let interval = words.next().and_then(|word| word.parse().ok());
                    let until = words.next().and_then(parse_time);
                    found.future_release =
                        interval.zip(until).map(|(interval, until)| FutureRelease { interval, until });
                }
                "MT-PRIORITY" => found.priority = true,
                "XCLIENT" => found.xclient = true,
                _ => {}
            }
        }
        found
    }

    /// Whether the server can be told that a message is to be delivered `by` a time: it offers DELIVERBY
    /// and, for mail that is to be returned when it is late, for no more time than that (RFC 2852 §2); a
    /// second is the least in any case (§4).
    #[must_use]
    pub fn takes_time(&self, by: DeliverBy) -> bool {
        self.deliver_by.is_some_and(|least| match by.mode {
            ByMode::Return => i64::from(by.seconds) >= i64::from(least.max(1)),
            ByMode::Notify => true,
        })
    }

    /// The reply to EHLO that announces these, with `greeting` on its first line.
    #[must_use]
    pub fn to_reply(&self, greeting: &str) -> Reply {
        // A second line of it would be read as a keyword.
        let mut text = String::from(greeting.split(['\r', '\n']).next().unwrap_or_default());
        let mut line = |on: bool, keyword: &str| {
            if on {
                text.push('\n');
                text.push_str(keyword);
            }
        };
        line(self.pipelining, "PIPELINING");
        line(self.size.is_some(), &format!("SIZE {}", self.size.unwrap_or(0)));
        line(self.starttls, "STARTTLS");
        let auth = self.auth.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(" ");
        line(!auth.is_empty(), &format!("AUTH {auth}"));
        line(self.eight_bit, "8BITMIME");
        line(self.smtputf8, "SMTPUTF8");
        line(self.chunking, "CHUNKING");
        line(self.binary, "BINARYMIME");
        line(self.dsn, "DSN");
        line(self.enhanced, "ENHANCEDSTATUSCODES");
        line(self.require_tls, "REQUIRETLS");
        line(self.limits != Limits::default(), &format!("LIMITS {}", self.limits));
        if let Some(least) = self.deliver_by {
            line(true, &if least == 0 { String::from("DELIVERBY") } else { format!("DELIVERBY {least}") });
        }
        if let Some(release) = self.future_release {
            line(true, &format!("FUTURERELEASE {release}"));
        }
        line(self.priority, "MT-PRIORITY");
        line(self.xclient, &format!("XCLIENT {}", Xclient::ATTRIBUTES));
        Reply::plain(250, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_what_is_understood() {
        let all = Capabilities {
            size: Some(26_214_400),
            pipelining: true,
            chunking: true,
            eight_bit: true,
            binary: true,
            smtputf8: true,
            starttls: true,
            dsn: true,
            enhanced: true,
            auth: vec![Mechanism::Plain, Mechanism::Login],
            require_tls: true,
            limits: Limits { recipients: Some(100), transactions: Some(20), domains: Some(1) },
            deliver_by: Some(60),
            future_release: Some(FutureRelease { interval: 86_400, until: 1_795_262_400 }),
            priority: true,
            xclient: true,
        };
        assert_eq!(Capabilities::parse(&all.to_reply("mx.test hello")), all);
        let none = Capabilities::default();
        assert_eq!(Capabilities::parse(&none.to_reply("mx.test")), none);
    }

    #[test]
    fn keywords_are_read_in_any_case_and_only_behind_the_greeting() {
        let parse = |text| Capabilities::parse(&Reply::plain(250, text));
        assert!(!parse("PIPELINING hello").pipelining);
        assert!(parse("x\npipelining").pipelining);
        assert_eq!(parse("x\nSIZE").size, Some(0));
        assert_eq!(parse("x\nsize 99").size, Some(99));
        assert_eq!(parse("x\nSIZE 99999999999999999999999").size, Some(0));
        assert_eq!(parse("x\nAUTH=LOGIN").auth, [Mechanism::Login]);
        assert_eq!(parse("x\nAUTH GSSAPI plain LOGIN PLAIN\nAUTH=PLAIN").auth.len(), 2);
        assert_eq!(parse("x\nLIMITS RCPTMAX=20 FOO=1 MAILMAX=0").limits.to_string(), "RCPTMAX=20");
        assert_eq!(parse("x\nLIMITS RCPTMAX=1234567 rcptdomainmax=3").limits.to_string(), "RCPTDOMAINMAX=3");
        assert_eq!(parse("x\nDELIVERBY").deliver_by, Some(0));
        assert_eq!(parse("x\nFUTURERELEASE 60").future_release, None);
        assert_eq!(parse("x\nXFOO BAR\n\n 8BITMIME").size, None);
    }
}
