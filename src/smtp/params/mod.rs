//! The parameters of MAIL and RCPT, as values (RFC 5321 §4.1.1.11 and the extensions' own RFCs).

use std::fmt;

use super::address::ReversePath;
use super::decimal::push_number;

mod rcpt;
mod release;
mod xtext;

pub use rcpt::{Notify, OriginalRecipient, Rcpt};
pub use release::{ByMode, DeliverBy, Hold, Priority};
pub(crate) use release::{parse_time, write_time};
pub use xtext::XText;

/// What the octets of a body may be (RFC 6152, RFC 3030). Ordered by how much a hop must offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum BodyKind {
    /// Seven-bit text, the default of RFC 5321.
    #[default]
    SevenBit,
    /// Eight-bit text in lines (`BODY=8BITMIME`).
    EightBit,
    /// Any octets (`BODY=BINARYMIME`), only with CHUNKING.
    Binary,
}

/// How much of the message a report returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// RFC 3461 §4.4: ENVID is at most 100 characters.
pub const MAX_ENVID: usize = 100;
/// RFC 3461 §4.2: ORCPT is at most 500 characters.
pub const MAX_ORCPT: usize = 500;

/// A parameter that cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamError {
    /// The keyword is not one that was announced (RFC 5321 §4.1.1.11: 555).
    #[error("unknown parameter")]
    Unknown,
    /// The value has the wrong form or is out of range (501).
    #[error("malformed parameter value")]
    Value,
    /// The same keyword twice (501).
    #[error("parameter given twice")]
    Twice,
}

/// MAIL FROM with its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Mail {
    /// The reverse path.
    pub from: ReversePath,
    /// `SIZE=`: the size of the message in octets, as RFC 1870 counts them.
    pub size: Option<u64>,
    /// `BODY=`
    pub body: BodyKind,
    /// `SMTPUTF8`
    pub smtputf8: bool,
    /// `RET=`
    pub ret: Option<Ret>,
    /// `ENVID=`
    pub envid: Option<XText>,
    /// `AUTH=`: the identity that submitted the message, `<>` included (RFC 4954 §5).
    pub auth: Option<XText>,
    /// `REQUIRETLS`: no host may be given the message but over TLS that was verified, and only one that
    /// promises the same (RFC 8689).
    pub require_tls: bool,
    /// `BY=`: how soon it has to be delivered (RFC 2852).
    pub by: Option<DeliverBy>,
    /// `HOLDFOR=` or `HOLDUNTIL=`: when it may be sent (RFC 4865).
    pub hold: Option<Hold>,
    /// `MT-PRIORITY=` (RFC 6710)
    pub priority: Option<Priority>,
}

impl Mail {
    /// MAIL FROM without parameters.
    #[must_use]
    pub fn new(from: ReversePath) -> Self {
        Self { from, ..Self::default() }
    }

    /// Whether every value is one that [`Mail::parse`] reads again; one that was made with a larger limit
    /// than its parameter has is not. For who stores the printed form.
    #[must_use]
    pub fn is_in_bounds(&self) -> bool {
        let fits = |text: &Option<XText>, max| text.as_ref().is_none_or(|text| text.to_string().len() <= max);
        fits(&self.envid, MAX_ENVID) && fits(&self.auth, MAX_ORCPT)
    }

    /// Parses what stands behind `MAIL FROM:`, from the opening bracket on.
    ///
    /// # Errors
    /// [`ArgumentError`] with what is wrong.
    pub fn parse(argument: &str) -> Result<Self, ArgumentError> {
        let (path, rest) = split_path(argument)?;
        let mut mail = Self::new(ReversePath::parse(path)?);
        let mut seen = Vec::new();
        for (keyword, value) in parameters(rest) {
            once(&mut seen, keyword)?;
            mail.set(&keyword.to_ascii_uppercase(), value)?;
        }
        Ok(mail)
    }

    fn set(&mut self, keyword: &str, value: Option<&str>) -> Result<(), ParamError> {
        let given = || value.ok_or(ParamError::Value);
        match keyword {
            // RFC 1870 §4: up to 20 digits; what does not fit 64 bits is no size anybody takes.
            "SIZE" => self.size = Some(digits(given()?).ok_or(ParamError::Value)?),
            "BODY" => {
                self.body = match given()?.to_ascii_uppercase().as_str() {
                    "7BIT" => BodyKind::SevenBit,
                    "8BITMIME" => BodyKind::EightBit,
                    "BINARYMIME" => BodyKind::Binary,
                    _ => return Err(ParamError::Value),
                }
            }
            "SMTPUTF8" if value.is_none() => self.smtputf8 = true,
            "SMTPUTF8" => return Err(ParamError::Value),
            "RET" => {
                self.ret = Some(match given()?.to_ascii_uppercase().as_str() {
                    "FULL" => Ret::Full,
                    "HDRS" => Ret::Headers,
                    _ => return Err(ParamError::Value),
                });
            }
            "ENVID" => self.envid = Some(XText::decode(given()?, MAX_ENVID)?),
            "AUTH" => self.auth = Some(XText::decode(given()?, MAX_ORCPT)?),
            "REQUIRETLS" if value.is_none() => self.require_tls = true,
            "REQUIRETLS" => return Err(ParamError::Value),
            "BY" => self.by = Some(DeliverBy::parse(given()?)?),
            // RFC 4865 §4: one of the two.
            "HOLDFOR" | "HOLDUNTIL" if self.hold.is_some() => return Err(ParamError::Twice),
            "HOLDFOR" => self.hold = Some(Hold::parse_interval(given()?)?),
            "HOLDUNTIL" => self.hold = Some(Hold::parse_time(given()?)?),
            "MT-PRIORITY" => self.priority = Some(Priority::parse(given()?)?),
            _ => return Err(ParamError::Unknown),
        }
        Ok(())
    }
}

impl fmt::Display for Mail {
    /// The path and its parameters, as behind `MAIL FROM:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.from, f)?;
        if let Some(size) = self.size {
            let mut text = String::from(" SIZE=");
            push_number(&mut text, size, 1);
            f.write_str(&text)?;
        }
        match self.body {
            BodyKind::SevenBit => {}
            BodyKind::EightBit => f.write_str(" BODY=8BITMIME")?,
            BodyKind::Binary => f.write_str(" BODY=BINARYMIME")?,
        }
        if self.smtputf8 {
            f.write_str(" SMTPUTF8")?;
        }
        match self.ret {
            None => {}
            Some(Ret::Full) => f.write_str(" RET=FULL")?,
            Some(Ret::Headers) => f.write_str(" RET=HDRS")?,
        }
        if let Some(envid) = &self.envid {
            write!(f, " ENVID={envid}")?;
        }
        if let Some(auth) = &self.auth {
            write!(f, " AUTH={auth}")?;
        }
        if self.require_tls {
            f.write_str(" REQUIRETLS")?;
        }
        if let Some(by) = &self.by {
            write!(f, " BY={by}")?;
        }
        if let Some(hold) = &self.hold {
            write!(f, " {hold}")?;
        }
        if let Some(priority) = &self.priority {
            write!(f, " MT-PRIORITY={priority}")?;
        }
        Ok(())
    }
}

/// The argument of MAIL or RCPT that cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// No `<path>` where one must be.
    #[error("a path in angle brackets is needed")]
    Path,
    /// The path is no address.
    #[error(transparent)]
    Address(#[from] super::address::AddressError),
    /// A parameter is wrong.
    #[error(transparent)]
    Param(#[from] ParamError),
}

fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn once<'a>(seen: &mut Vec<&'a str>, keyword: &'a str) -> Result<(), ParamError> {
    if seen.iter().any(|k| k.eq_ignore_ascii_case(keyword)) {
        return Err(ParamError::Twice);
    }
    seen.push(keyword);
    Ok(())
}

/// Splits `<path> parameters`, minding quoted local parts that hold a bracket.
fn split_path(argument: &str) -> Result<(&str, &str), ArgumentError> {
    let inner = argument.strip_prefix('<').ok_or(ArgumentError::Path)?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => {
                let path = inner.get(..at).unwrap_or_default();
                let rest = inner.get(at + 1..).unwrap_or_default();
                return if rest.is_empty() || rest.starts_with(' ') {
                    Ok((path, rest))
                } else {
                    Err(ArgumentError::Path)
                };
            }
            _ => {}
        }
    }
    Err(ArgumentError::Path)
}

fn parameters(rest: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    rest.split(' ').filter(|word| !word.is_empty()).map(|word| match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_print_as_they_were_parsed() {
        for text in [
            "<>",
            "<a@b.test> SIZE=12 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>",
            "<\"a> b\"@c.test>",
            "<a@b.test> RET=FULL",
            "<a@b.test> REQUIRETLS BY=-120;NT HOLDFOR=3600 MT-PRIORITY=-3",
            "<a@b.test> BY=120;R HOLDUNTIL=2026-11-21T12:00:00Z MT-PRIORITY=9",
        ] {
            assert_eq!(Mail::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "<a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;A+3Db@c.test",
            "<postmaster>",
            "<a@b> NOTIFY=NEVER",
        ] {
            assert_eq!(Rcpt::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn parameters_with_the_wrong_form_are_refused() {
        let value = ArgumentError::Param(ParamError::Value);
        let twice = ArgumentError::Param(ParamError::Twice);
        let unknown = ArgumentError::Param(ParamError::Unknown);
        for (text, error) in [
            ("<a@b> SIZE=", value),
            ("<a@b> SIZE=1x", value),
            ("<a@b> SIZE=99999999999999999999", value),
            ("<a@b> SIZE=1 size=2", twice),
            ("<a@b> BODY=9BIT", value),
            ("<a@b> SMTPUTF8=1", value),
            ("<a@b> FOO=1", unknown),
            ("<a@b> ENVID=+4", value),
            ("<a@b> ENVID=+0A", value),
            ("<a@b> ENVID=+0d+0a", value),
            ("<a@b> REQUIRETLS=1", value),
            ("<a@b> HOLDFOR=1 HOLDUNTIL=2026-11-21T12:00:00Z", twice),
            ("a@b", ArgumentError::Path),
            ("<a@b", ArgumentError::Path),
            ("<a@b>SIZE=1", ArgumentError::Path),
        ] {
            assert_eq!(Mail::parse(text), Err(error), "{text}");
        }
        for (text, error) in [
            ("<a@b> NOTIFY=NEVER,SUCCESS", value),
            ("<a@b> NOTIFY=DELAY,DELAY", twice),
            ("<a@b> NOTIFY=", value),
            ("<a@b> ORCPT=x", value),
            ("<a@b> ORCPT=;x", value),
            ("<a@b> SIZE=1", unknown),
        ] {
            assert_eq!(Rcpt::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn envid_and_orcpt_have_the_limits_of_the_rfc() {
        // RFC 3461 §4.4, §4.2
        assert!(Mail::parse(&format!("<a@b> ENVID={}", "x".repeat(100))).is_ok());
        assert!(Mail::parse(&format!("<a@b> ENVID={}", "x".repeat(101))).is_err());
        assert!(Rcpt::parse(&format!("<a@b> ORCPT=rfc822;{}", "x".repeat(493))).is_ok());
        assert!(Rcpt::parse(&format!("<a@b> ORCPT=rfc822;{}", "x".repeat(494))).is_err());
    }
    #[test]
    fn an_original_recipient_in_utf8_is_kept_in_the_form_that_any_hop_takes() {
        // RFC 6533 §3; the last is what Postfix 3.7 sends: the wrong type, UTF-8 octet by octet.
        for (text, kept) in [
            ("<用户@b.test> ORCPT=utf-8;用户@b.test", "utf-8;\\x{7528}\\x{6237}@b.test"),
            ("<a@b> ORCPT=UTF-8;gr\\x{FC}n@b.test", "UTF-8;gr\\x{FC}n@b.test"),
            ("<a@b> ORCPT=utf-8;gr\\x{FC}ün+2B1@b.test", "utf-8;gr\\x{FC}\\x{FC}n+2B1@b.test"),
            ("<用@b.test> ORCPT=rfc822;+E7+94+A8@b.test", "utf-8;\\x{7528}@b.test"),
        ] {
            let rcpt = Rcpt::parse(text).unwrap();
            let shown = rcpt.to_string();
            assert_eq!(shown.split_once(" ORCPT=").unwrap().1, kept);
            assert_eq!(Rcpt::parse(&shown), Ok(rcpt), "as the spool keeps it");
        }
        for wrong in ["x400;+E7+94+A8", "utf-8;ü=@b", "utf-8;+E7@b", "utf-8;+0Dx", "utf-8;+C2+85"] {
            assert!(Rcpt::parse(&format!("<a@b> ORCPT={wrong}")).is_err(), "{wrong}");
        }
        // `\x{FC}` has six octets: in that form it may be longer than a hop must take.
        let long =
            |count| Rcpt::parse(&format!("<a@b> ORCPT=utf-8;{}", "ü".repeat(count))).map(|rcpt| rcpt.orcpt);
        assert!(long(82).unwrap().is_some());
        assert!(long(83).unwrap().is_none(), "taken, and not handed on");
        assert!(long(247).unwrap().is_none() && long(248).is_err());
    }
}
