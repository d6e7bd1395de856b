//! A tag list is how signatures and key records are written: `a=b; c=d` (RFC 6376 §3.2).

/// The most tags that a list may have. Signatures in use have some fifteen, records a dozen.
const MAX_TAGS: usize = 64;

/// The tags of a list, in order. Values are as they stand, folds included.
#[derive(Debug, Clone)]
pub(crate) struct Tags<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Tags<'a> {
    /// `None` when it is no list, or names a tag twice, which voids all of it.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let mut tags: Vec<(&[u8], &[u8])> = Vec::new();
        let mut rest = Some(text);
        while let Some(text) = rest {
            let (spec, next) = match memchr::memchr(b';', text) {
                Some(at) => (text.get(..at)?, Some(text.get(at + 1..)?)),
                None => (text, None),
            };
            rest = next;
            let spec = spec.trim_ascii();
            if spec.is_empty() {
                // After the last semicolon, or in the middle, where others take it too.
                continue;
            }
            let at = memchr::memchr(b'=', spec)?;
            let (name, value) = (spec.get(..at)?.trim_ascii_end(), spec.get(at + 1..)?.trim_ascii_start());
            let is_name = name.first().is_some_and(u8::is_ascii_alphabetic)
                && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
            if !is_name || tags.len() == MAX_TAGS || tags.iter().any(|(known, _)| *known == name) {
                return None;
            }
            tags.push((name, value));
        }
        Some(Self(tags))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| *value)
    }

    /// Names and values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.iter().copied()
    }

    /// The first tag's name.
    pub(crate) fn first(&self) -> Option<&'a [u8]> {
        self.0.first().map(|(name, _)| *name)
    }

    /// A value that is one word.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.get(name)?).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()))
    }

    /// A value of decimal digits.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)
            .filter(|text| text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit()))?
            .parse()
            .ok()
    }

    /// A value in Base64, which may be folded anywhere.
    pub(crate) fn octets(&self, name: &str) -> Option<Vec<u8>> {
        from_base64(self.get(name)?)
    }
}

/// From Base64 with white space anywhere.
pub(crate) fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let text: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

/// `value` without the value of its tag `b`, which a signature is not about itself (RFC 6376 §3.7).
pub(crate) fn without_signature(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    for (index, spec) in value.split(|b| *b == b';').enumerate() {
        if index > 0 {
            out.push(b';');
        }
        let at = memchr::memchr(b'=', spec);
        match at.and_then(|at| spec.get(..=at)) {
            Some(front) if front.strip_suffix(b"=").is_some_and(|name| name.trim_ascii() == b"b") => {
                out.extend_from_slice(front);
            }
            _ => out.extend_from_slice(spec),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_with_its_folds_and_a_tag_that_is_there_twice_voids_it() {
        let tags = Tags::parse(b" v=1; a = rsa-sha256 ;b=YQ\r\n =\r\n =;\r\n x=12; empty=;").unwrap();
        assert_eq!(tags.text("a"), Some("rsa-sha256"));
        assert_eq!(tags.octets("b").unwrap(), b"a");
        assert_eq!((tags.number("x"), tags.get("empty"), tags.get("c")), (Some(12), Some(&b""[..]), None));
        assert_eq!(tags.first(), Some(&b"v"[..]));
        for void in ["a=1; a=2", "a", "=1", "1=a", "a b=c", "\u{e9}=1"] {
            assert!(Tags::parse(void.as_bytes()).is_none(), "{void}");
        }
        assert!(Tags::parse(b"").unwrap().first().is_none());
        let many = (0..=MAX_TAGS).map(|n| format!("t{n}=;")).collect::<String>();
        assert!(Tags::parse(many.as_bytes()).is_none());
    }

    #[test]
    fn only_the_value_of_the_signature_is_left_out() {
        for (from, to) in [
            ("a=b; b=xyz=; bh=q", "a=b; b=; bh=q"),
            ("a=b;\r\n\tb =x\r\n y", "a=b;\r\n\tb ="),
            ("bh=b=; c=1", "bh=b=; c=1"),
            ("", ""),
        ] {
            assert_eq!(without_signature(from.as_bytes()), to.as_bytes(), "{from:?}");
        }
    }
}
