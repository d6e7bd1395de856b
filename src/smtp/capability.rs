//! Capabilities are what a server announces in its reply to EHLO.
//!
//! One type for both roles: a client parses them, a server announces them. Keywords unknown here are
//! ignored, as RFC 5321 §4.1.1.1 asks.

use super::reply::Reply;
use super::sasl::Mechanism;

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
}

impl Capabilities {
    /// Reads the reply to EHLO. Its first line is the server's greeting; no keyword stands there.
    #[must_use]
    pub fn parse(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            // AUTH=LOGIN is how it was written before RFC 2554, and some still do.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
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
                _ => {}
            }
        }
        found
    }

    /// The reply to EHLO that announces these, with `greeting` on its first line.
    #[must_use]
    pub fn to_reply(&self, greeting: &str) -> Reply {
        let mut text = String::from(greeting);
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
        assert_eq!(parse("x\nXFOO BAR\n\n 8BITMIME").size, None);
    }
}
