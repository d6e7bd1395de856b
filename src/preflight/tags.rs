//! The list of tags that the records of DKIM and DMARC are (RFC 6376 §3.2).

use crate::message::dkim::Tags;

/// `name=value; name=value`, spaces around each taken away; `None` when it is no such list, has an empty tag
/// between others, which not everybody takes, or is longer than any that is in use.
pub(super) fn tags(text: &[u8]) -> Option<Vec<(&str, &str)>> {
    let text = text.trim_ascii();
    let specs = text.strip_suffix(b";").unwrap_or(text);
    if text.len() > MAX_TEXT || specs.split(|b| *b == b';').any(|spec| spec.trim_ascii().is_empty()) {
        return None;
    }
    let read = |(name, value)| Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?));
    Tags::parse(specs)?.iter().map(read).collect()
}

/// The value of a tag.
pub(super) fn value<'a>(tags: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    tags.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// RFC 6376 §3.2: white space that may be folded.
pub(super) const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The largest RSA keys in use, of 8192 bits, take 1,400 octets.
const MAX_TEXT: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_reads_and_anything_else_does_not() {
        let read = |text: &str| tags(text.as_bytes()).map(|tags| tags.len());
        for (text, count) in [
            ("v=DKIM1", Some(1)),
            (" v = DKIM1 ;\tp=\r\n a b ; ", Some(2)),
            ("p=;t=y:s;n=a=b", Some(3)),
            ("", None),
            (";", None),
            ("v=1;;p=", None),
            ("v", None),
            ("=x", None),
            ("v=1;v=2", None),
            ("1v=1", None),
            ("v w=1", None),
        ] {
            assert_eq!(read(text), count, "{text:?}");
        }
        let many = |count: usize| (0..count).map(|at| format!("t{at}=x;")).collect::<String>();
        assert_eq!((read(&many(64)), read(&many(65))), (Some(64), None));
        let long = |octets: usize| format!("v={}", "x".repeat(octets - 2));
        assert_eq!((read(&long(8192)), read(&long(8193))), (Some(1), None));
    }
}
