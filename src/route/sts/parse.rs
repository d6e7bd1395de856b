//! The two texts of MTA-STS: the record that announces a policy, and the policy file.

use std::time::Duration;

use super::{MxPattern, StsMode, StsPolicy};
use crate::route::dns::Record;
use crate::smtp::address::Domain;

/// The TXT record at `_mta-sts.DOMAIN` (RFC 8461 §3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StsRecord {
    /// Names the policy; another one means that there is a new policy to fetch. 1 to 32 letters and digits.
    pub id: Box<str>,
}

/// Why a text is no policy (RFC 8461 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum StsSyntaxError {
    /// Larger than 64 KiB, or more than 256 lines.
    #[error("the policy is too large")]
    TooLarge,
    /// It is no UTF-8, or a line is not `key: value` in printable characters.
    #[error("a line of the policy is not a key and a value")]
    Line,
    /// There is no version, or it is not `STSv1`.
    #[error("the policy is not of version STSv1")]
    Version,
    /// There is no mode, or an unknown one.
    #[error("the policy has no mode")]
    Mode,
    /// There is no lifetime, or it is no number of seconds.
    #[error("the policy has no lifetime")]
    MaxAge,
    /// There is no host, or one that is neither a name nor `*.` and a name.
    #[error("the policy has no host, or one that is not a name")]
    Mx,
}

impl StsRecord {
    /// Parses one record. `None` when it is not of this version or has no id that can be used. Unknown
    /// fields are ignored, and so is a second id.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let fields = std::str::from_utf8(text).ok()?.strip_prefix(RECORD)?;
        let mut id = None;
        let mut fields = fields.split(';').map(|field| field.trim_matches([' ', '\t'])).peekable();
        while let Some(field) = fields.next() {
            // A semicolon may stand at the end.
            if field.is_empty() && fields.peek().is_none() {
                break;
            }
            let (name, value) = field.split_once('=')?;
            let is_value = |b: u8| b.is_ascii_graphic() && b != b'=' && b != b';';
            if !is_key(name) || value.is_empty() || !value.bytes().all(is_value) {
                return None;
            }
            if name == "id" && id.is_none() {
                let is_id = value.len() <= 32 && value.bytes().all(|b| b.is_ascii_alphanumeric());
                id = Some(is_id.then_some(value)?);
            }
        }
        id.map(|id| Self { id: id.into() })
    }

    /// The one record among all that stand at the name. `None` when none is of this version, or more than
    /// one.
    #[must_use]
    pub fn among(records: &[Record]) -> Option<Self> {
        let mut ours = records.iter().filter_map(|record| match record {
            Record::Txt(text) if text.starts_with(RECORD.as_bytes()) => Some(text),
            _ => None,
        });
        let only = ours.next()?;
        if ours.next().is_some() { None } else { Self::parse(only) }
    }
}

impl StsPolicy {
    /// Parses a policy file that was announced under `id`. Lines end with LF or CRLF; unknown keys are
    /// ignored, of a key that stands twice the first counts (but for `mx`), and a lifetime of more than
    /// a year is a year.
    ///
    /// # Errors
    /// [`StsSyntaxError`]: then there is no policy.
    pub fn parse(id: &str, text: &[u8]) -> Result<Self, StsSyntaxError> {
        if text.len() > MAX_TEXT {
            return Err(StsSyntaxError::TooLarge);
        }
        let text = std::str::from_utf8(text).map_err(|_| StsSyntaxError::Line)?;
        let (mut version, mut mode, mut max_age) = (None, None, None);
        let (mut mx, mut lines) = (Vec::new(), Vec::new());
        // `lines` takes away LF and CRLF and nothing else.
        for line in text.lines() {
            let line = line.trim_end_matches([' ', '\t']);
            if line.is_empty() {
                continue;
            }
            if lines.len() == MAX_LINES {
                return Err(StsSyntaxError::TooLarge);
            }
            let (key, value) = line.split_once(':').ok_or(StsSyntaxError::Line)?;
            let value = value.trim_start_matches([' ', '\t']);
            if !is_key(key) || value.is_empty() || value.chars().any(char::is_control) {
                return Err(StsSyntaxError::Line);
            }
            match key {
                "version" => _ = version.get_or_insert(value),
                "mode" => _ = mode.get_or_insert(value),
                "max_age" => _ = max_age.get_or_insert(value),
                "mx" => mx.push(MxPattern::parse(value).ok_or(StsSyntaxError::Mx)?),
                _ => {}
            }
            // White space behind the colon may be a tab, which is nothing for reports.
            lines.push(line.replace('\t', " ").into());
        }
        if version != Some("STSv1") {
            return Err(StsSyntaxError::Version);
        }
        let mode = match mode {
            Some("enforce") => StsMode::Enforce,
            Some("testing") => StsMode::Testing,
            Some("none") => StsMode::None,
            _ => return Err(StsSyntaxError::Mode),
        };
        let max_age = max_age.filter(|age| age.len() <= 10 && age.bytes().all(|b| b.is_ascii_digit()));
        let max_age: u64 = max_age.and_then(|age| age.parse().ok()).ok_or(StsSyntaxError::MaxAge)?;
        if mx.is_empty() && mode != StsMode::None {
            return Err(StsSyntaxError::Mx);
        }
        let max_age = Duration::from_secs(max_age).min(MAX_AGE);
        Ok(Self { id: id.into(), mode, mx, max_age, lines })
    }
}

impl MxPattern {
    /// Parses a host name, or `*.` and a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let name = Domain::parse(name).ok().filter(|name| name.as_literal().is_none())?;
        Some(Self { wildcard, name })
    }
}

/// The name of a field, in both texts.
fn is_key(key: &str) -> bool {
    let is_fit = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    (1..=32).contains(&key.len())
        && key.bytes().all(is_fit)
        && key.starts_with(|first: char| first.is_ascii_alphanumeric())
}

const RECORD: &str = "v=STSv1;";
/// RFC 8461 §3.3
const MAX_TEXT: usize = 64 * 1024;
/// Far more hosts than any domain has; each line is kept for reports.
const MAX_LINES: usize = 256;
/// RFC 8461 §3.2
const MAX_AGE: Duration = Duration::from_secs(31_557_600);

#[cfg(test)]
mod tests {
    use super::*;
    use StsSyntaxError::{Line, MaxAge, Mode, Mx, TooLarge, Version};

    const GOOD: &str =
        "version: STSv1\r\nmode: enforce\r\nmx: mx.a.test\r\nmx: *.b.test\r\nmax_age: 604800\r\n";

    fn parse(text: &str) -> Result<StsPolicy, StsSyntaxError> {
        StsPolicy::parse("1", text.as_bytes())
    }

    #[test]
    fn a_policy_is_what_its_lines_say() {
        let policy = parse(GOOD).unwrap();
        assert_eq!((policy.mode, policy.max_age.as_secs(), &*policy.id), (StsMode::Enforce, 604_800, "1"));
        assert_eq!(policy.lines.len(), 5);
        assert_eq!(&*policy.lines[3], "mx: *.b.test");
        for (host, fits) in [
            ("mx.a.test", true),
            ("MX.A.test", true),
            ("x.mx.a.test", false),
            ("a.test", false),
            ("mx.b.test", true),
            ("MX2.B.TEST", true),
            ("b.test", false),
            ("x.mx.b.test", false),
            ("mxb.test", false),
            ("[192.0.2.1]", false),
        ] {
            assert_eq!(policy.matches(&Domain::parse(host).unwrap()), fits, "{host}");
        }
    }

    #[test]
    fn what_a_policy_may_look_like() {
        for (what, text) in [
            ("LF", GOOD.replace('\r', "")),
            ("no end of the last line", GOOD.trim_end().to_owned()),
            ("no space", GOOD.replace(": ", ":")),
            ("much space", GOOD.replace(": ", ": \t  ")),
            ("space at the ends", GOOD.replace("\r\n", " \t\r\n")),
            ("an empty line", format!("{GOOD}\r\n\r\n")),
            (
                "any order",
                "max_age: 604800\nmx: mx.a.test\nmx: *.b.test\nmode: enforce\nversion: STSv1".into(),
            ),
            ("unknown keys", format!("{GOOD}x-Y.z_1: ü v: w\n")),
            ("the first mode counts", format!("{GOOD}mode: none\nmode: odd\n")),
            ("the first lifetime counts", format!("{GOOD}max_age: 1\nmax_age: x\n")),
            ("the first version counts", format!("{GOOD}version: STSv2\n")),
        ] {
            let policy = parse(&text).unwrap_or_else(|error| panic!("{what}: {error:?}"));
            assert_eq!((policy.mode, policy.max_age.as_secs()), (StsMode::Enforce, 604_800), "{what}");
            assert_eq!(policy.mx.len(), 2, "{what}");
        }
        assert_eq!(parse("version:STSv1\nmode:testing\nmx:a\nmax_age:0").unwrap().mode, StsMode::Testing);
        assert_eq!(parse("version:STSv1\nmode:none\nmax_age:1").unwrap().mode, StsMode::None);
        assert_eq!(parse(&GOOD.replace("604800", "9999999999")).unwrap().max_age, MAX_AGE);
        let unicode = parse(&GOOD.replace("mx.a.test", "MX.bücher.example")).unwrap();
        assert!(unicode.matches(&Domain::parse("mx.xn--bcher-kva.example").unwrap()));
    }

    #[test]
    fn what_is_no_policy() {
        let many = |lines: usize| GOOD.to_owned() + &"x: y\n".repeat(lines);
        assert!(parse(&many(MAX_LINES - 5)).is_ok());
        for (text, error) in [
            (String::new(), Version),
            ("<html><body>Not found</body></html>".into(), Line),
            (GOOD.replace("STSv1", "STSv2"), Version),
            (GOOD.replace("STSv1", "stsv1"), Version),
            (GOOD.replace("version", "Version"), Version),
            (format!("version: STSv2\n{GOOD}"), Version),
            (GOOD.replace("enforce", "Enforce"), Mode),
            (GOOD.replace("enforce", "report"), Mode),
            (GOOD.replace("mode", "mod"), Mode),
            (GOOD.replace("604800", "-1"), MaxAge),
            (GOOD.replace("604800", "+1"), MaxAge),
            (GOOD.replace("604800", "1 day"), MaxAge),
            (GOOD.replace("604800", "12345678901"), MaxAge),
            (GOOD.replace("max_age", "maxage"), MaxAge),
            (GOOD.replace("mx:", "my:"), Mx),
            (GOOD.replace("*.b.test", "*"), Mx),
            (GOOD.replace("*.b.test", "*."), Mx),
            (GOOD.replace("*.b.test", "*.*.b.test"), Mx),
            (GOOD.replace("*.b.test", "mx*.b.test"), Mx),
            (GOOD.replace("*.b.test", ".b.test"), Mx),
            (GOOD.replace("*.b.test", "mx.*.test"), Mx),
            (GOOD.replace("*.b.test", "[192.0.2.1]"), Mx),
            (GOOD.replace("*.b.test", "a b"), Mx),
            (GOOD.replace("mx: *.b.test", "mx:"), Line),
            (GOOD.replace("mode:", "mode :"), Line),
            (GOOD.replace("mode:", " mode:"), Line),
            (GOOD.replace("mode: ", "mode "), Line),
            (GOOD.replace("\r\n", "\r"), Line),
            (GOOD.replace("enforce", "enforce\0"), Line),
            (format!("\u{feff}{GOOD}"), Line),
            (format!("{}: y\n{GOOD}", "x".repeat(33)), Line),
            (many(MAX_LINES - 4), TooLarge),
            (format!("{GOOD}x: {}", "y".repeat(MAX_TEXT)), TooLarge),
        ] {
            assert_eq!(parse(&text), Err(error), "{text:.200?}");
        }
        assert_eq!(StsPolicy::parse("1", b"version: STSv1\nx: \xff"), Err(Line));
    }

    #[test]
    fn a_record_has_an_id() {
        let long = "x".repeat(32);
        for (text, id) in [
            ("v=STSv1; id=20160831085700Z;", Some("20160831085700Z")),
            ("v=STSv1;id=1", Some("1")),
            ("v=STSv1; \t id=1 \t; \t", Some("1")),
            ("v=STSv1; a=b; id=1; c.d-e_f=g:h", Some("1")),
            ("v=STSv1; id=1; id=2", Some("1")),
            (&format!("v=STSv1; id={long}"), Some(&*long)),
            (&format!("v=STSv1; id={long}x"), None),
            ("v=STSv1", None),
            ("v=STSv1;", None),
            ("v=STSv1 ; id=1", None),
            ("v=STSv1; a=b", None),
            ("v=STSv1; id=", None),
            ("v=STSv1; id=a-b", None),
            ("v=STSv1; ID=1", None),
            ("v=STSv1; id=1; x", None),
            ("v=STSv1; id=1;; a=b", None),
            ("v=STSv1; id=1; a=b=c", None),
            ("v=STSv1; id=1; a=b c", None),
            ("v=STSv1; id=1; _a=b", None),
            ("V=STSv1; id=1", None),
            (" v=STSv1; id=1", None),
            ("v=STSv2; id=1", None),
            ("v=STSv1; id=ü", None),
        ] {
            let found = StsRecord::parse(text.as_bytes());
            assert_eq!(found.as_ref().map(|record| &*record.id), id, "{text}");
        }
    }

    #[test]
    fn one_record_counts_and_several_are_none() {
        for (texts, id) in [
            (&["v=STSv1; id=1"][..], Some("1")),
            (&["v=spf1 -all", "v=STSv1; id=1", "v=STSv1 x", "x"], Some("1")),
            (&["v=STSv1; id=1", "v=STSv1; id=1"], None),
            (&["v=STSv1; id=1", "v=STSv1; odd"], None),
            (&["v=STSv1; odd"], None),
            (&["v=spf1 -all"], None),
            (&[], None),
        ] {
            let records: Vec<_> =
                texts.iter().map(|text| Record::Txt(text.as_bytes().to_vec().into())).collect();
            assert_eq!(StsRecord::among(&records).as_ref().map(|record| &*record.id), id, "{texts:?}");
        }
    }
}
