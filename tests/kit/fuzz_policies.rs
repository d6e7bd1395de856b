//! Policies about TLS, as domains publish them.

use postroad::route::sts::{MxPattern, StsMode, StsPolicy, StsRecord};
use postroad::smtp::address::Domain;

/// Both texts of MTA-STS. What parses stays within its bounds, is the same when its own lines are parsed,
/// and holds no octet that could break a line of a report or of a file.
pub fn sts(data: &[u8]) {
    if let Some(record) = StsRecord::parse(data) {
        assert!((1..=32).contains(&record.id.len()));
        assert!(record.id.bytes().all(|b| b.is_ascii_alphanumeric()));
        let again = StsRecord::parse(format!("v=STSv1; id={}", record.id).as_bytes());
        assert_eq!(again, Some(record));
    }
    let Ok(policy) = StsPolicy::parse("1", data) else { return };
    assert!(policy.max_age.as_secs() <= 31_557_600);
    assert!(policy.lines.len() <= 256);
    assert!(!policy.mx.is_empty() || policy.mode == StsMode::None);
    assert!(policy.lines.iter().all(|line| !line.is_empty() && !line.chars().any(char::is_control)));
    let again = policy.lines.join("\n");
    assert_eq!(StsPolicy::parse("1", again.as_bytes()).as_ref(), Ok(&policy));
    for pattern in &policy.mx {
        let MxPattern { wildcard, name, .. } = pattern;
        assert_eq!(pattern.matches(name), !wildcard, "{pattern:?}");
        let Ok(below) = Domain::parse(&format!("mx.{name}")) else { continue };
        assert_eq!(pattern.matches(&below), *wildcard, "{pattern:?}");
        let Ok(deeper) = Domain::parse(&format!("a.mx.{name}")) else { continue };
        assert!(!pattern.matches(&deeper), "{pattern:?}");
    }
}
