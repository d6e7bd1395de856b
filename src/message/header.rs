//! The header is the fields in front of a message, found without being understood.
//!
//! The layers above need few things of it: where it ends, whether a field is there, how many
//! `Received` it has. So this is a scanner over octets that allocates nothing, not a MIME parser: it
//! decodes no encoded word and knows no structured value.
//!
//! A header ends at the first empty line. It also ends, as [`Header::is_broken`] tells, in front of
//! the first line that is neither a field nor the continuation of one.

use std::borrow::Cow;

/// A header is no longer than this; Sendmail and Postfix take 32 KiB and 100 KiB by default.
pub const MAX_HEADER: usize = 256 * 1024;
/// More fields than mail in use has, lists and signatures included, by an order of magnitude.
pub const MAX_FIELDS: usize = 2000;

/// Why octets have no header that can be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// More than [`MAX_HEADER`] octets.
    #[error("the header is longer than {MAX_HEADER} octets")]
    TooLong,
    /// More than [`MAX_FIELDS`] fields.
    #[error("the header has more than {MAX_FIELDS} fields")]
    TooManyFields,
}

/// The header of a message.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    fields: &'a [u8],
    body: Option<usize>,
    broken: bool,
}

/// One field of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name as written, without the colon.
    pub name: &'a [u8],
    /// What follows the colon, folds included, without the last line end.
    pub value: &'a [u8],
    /// All of it, from the name to the last line end.
    pub raw: &'a [u8],
}

/// The fields of a header, in order.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Header<'a> {
    /// Finds the header at the front of a message, or of as much of a message as there is. Lines
    /// may end in CRLF or in LF.
    ///
    /// # Errors
    /// [`HeaderError`] when it passes the limits.
    pub fn scan(message: &'a [u8]) -> Result<Self, HeaderError> {
        Self::scan_with(message, |_| {})
    }

    /// [`Header::scan`] that shows each field on the way.
    pub(crate) fn scan_with(message: &'a [u8], mut see: impl FnMut(Field<'a>)) -> Result<Self, HeaderError> {
        let mut walk = Fields::of(message);
        let mut count = 0;
        while let Some(field) = walk.next() {
            see(field);
            count += 1;
            if count > MAX_FIELDS {
                return Err(HeaderError::TooManyFields);
            }
            if message.len() - walk.rest.len() > MAX_HEADER {
                return Err(HeaderError::TooLong);
            }
        }
        let end = message.len() - walk.rest.len();
        let fields = message.get(..end).unwrap_or_default();
        let empty_line = match walk.rest {
            [b'\r', b'\n', ..] => Some(2),
            [b'\n', ..] => Some(1),
            _ => None,
        };
        let broken = empty_line.is_none() && !walk.rest.is_empty();
        let body = if broken { Some(end) } else { empty_line.map(|line| end + line) };
        Ok(Self { fields, body, broken })
    }

    /// The fields, in order.
    #[must_use]
    pub const fn fields(&self) -> Fields<'a> {
        Fields::of(self.fields)
    }

    /// The octets of all fields, without the empty line behind them.
    #[must_use]
    pub const fn octets(&self) -> &'a [u8] {
        self.fields
    }

    /// Where the body starts; `None` when the message, or what there is of it, ends before that.
    #[must_use]
    pub const fn body_start(&self) -> Option<usize> {
        self.body
    }

    /// Whether the header was ended by a line that is no field, not by an empty line.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// The first field of this name, whatever its case.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<Field<'a>> {
        self.fields().find(|field| field.is(name))
    }

    /// Whether the sender would rather have the message delivered than protected: there is one field
    /// `TLS-Required`, and it says `No` (RFC 8689 §3). Anything else asks for nothing. With REQUIRETLS in
    /// the envelope it does not count, which is not seen from here.
    #[must_use]
    pub fn is_tls_optional(&self) -> bool {
        let mut fields = self.fields().filter(|field| field.is(TLS_REQUIRED));
        match (fields.next(), fields.next()) {
            (Some(field), None) => without_comments(field.value).eq_ignore_ascii_case(b"no"),
            _ => false,
        }
    }

    /// How many fields have this name, whatever its case. Of `Received`, this is the number of hops
    /// that the message has made (RFC 5321 §6.3).
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.fields().filter(|field| field.is(name)).count()
    }
}

impl<'a> Field<'a> {
    /// Whether this is its name, whatever the case.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line (RFC 5322 §2.2.3), without white space at its ends.
    #[must_use]
    pub fn unfolded(&self) -> Cow<'a, [u8]> {
        let value = self.value.trim_ascii();
        if memchr::memchr2(b'\r', b'\n', value).is_none() {
            return Cow::Borrowed(value);
        }
        Cow::Owned(value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect())
    }
}

impl<'a> Fields<'a> {
    /// The fields at the front of octets of which nothing else is known; as many as there are.
    pub(super) const fn of(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let line = line_end(self.rest);
        let colon = memchr::memchr(b':', self.rest.get(..line)?)?;
        // RFC 5322 §4.5: older mail has white space in front of the colon.
        let name = self.rest.get(..colon)?.trim_ascii_end();
        if !is_name(name) {
            return None;
        }
        let mut end = line;
        // A continuation starts with white space and has something else in it; a line of white space
        // only is taken as one too, as most agents do.
        while let Some([b' ' | b'\t', ..]) = self.rest.get(end..) {
            end += line_end(self.rest.get(end..)?);
        }
        let (raw, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        let value = raw.get(colon + 1..)?;
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        Some(Field { name, value, raw })
    }
}

/// A value of one word without the comments and the white space around it (RFC 5322 §3.2.2); as it is
/// where a comment does not end.
fn without_comments(value: &[u8]) -> Vec<u8> {
    let (mut word, mut depth, mut quoted) = (Vec::new(), 0_usize, false);
    for octet in value.trim_ascii() {
        match octet {
            _ if std::mem::take(&mut quoted) => {}
            b'\\' if depth > 0 => quoted = true,
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            _ if depth > 0 => {}
            octet => word.push(*octet),
        }
    }
    if depth > 0 { value.to_vec() } else { word.trim_ascii().to_vec() }
}

/// RFC 8689 §3
pub(crate) const TLS_REQUIRED: &str = "TLS-Required";

/// The length of the first line with its end.
fn line_end(octets: &[u8]) -> usize {
    memchr::memchr(b'\n', octets).map_or(octets.len(), |at| at + 1)
}

/// RFC 5322 §3.6.8: printable ASCII without the colon.
pub(super) fn is_name(name: &[u8]) -> bool {
    // Without a way out in the middle several octets are looked at in one step.
    !name.is_empty() && name.iter().fold(true, |fine, b| fine & b.is_ascii_graphic() & (*b != b':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(message: &[u8]) -> Vec<String> {
        let header = Header::scan(message).unwrap();
        header.fields().map(|f| String::from_utf8_lossy(f.name).into_owned()).collect()
    }

    #[test]
    fn fields_are_found_with_their_folds_and_whatever_their_line_ends() {
        let message = b"Received: a\r\n\tb;\r\n c\r\nreceived : d\nSubject:\r\nX:y\r\n\r\nTo: body\r\n";
        let header = Header::scan(message).unwrap();
        assert_eq!(names(message), ["Received", "received", "Subject", "X"]);
        assert_eq!(header.count("RECEIVED"), 2);
        assert_eq!(&header.first("Received").unwrap().unfolded()[..], b"a\tb; c");
        assert_eq!(header.first("subject").unwrap().value, b"");
        assert!(header.first("To").is_none() && !header.is_broken());
        assert_eq!(&message[header.body_start().unwrap()..], b"To: body\r\n");
    }

    #[test]
    fn only_one_field_that_says_no_makes_tls_optional() {
        for (header, optional) in [
            ("TLS-Required: No\r\n", true),
            ("tls-required:no\r\n", true),
            ("TLS-Required :\r\n\tNO \r\n", true),
            ("TLS-Required: (I (really) do \\) not mind) No (thanks)\r\n", true),
            ("From: a@b.test\r\nTLS-Required: No\r\nTo: c@d.test\r\n", true),
            ("", false),
            ("TLS-Required: Yes\r\n", false),
            ("TLS-Required:\r\n", false),
            ("TLS-Required: No No\r\n", false),
            ("TLS-Required: No (\r\n", false),
            ("TLS-Required: No) \r\n", false),
            ("TLS-Required: N o\r\n", false),
            ("TLS-Required: No\r\nTLS-Required: No\r\n", false),
            ("TLS-Required: No\r\nTLS-Required: Yes\r\n", false),
            ("X-TLS-Required: No\r\n", false),
            ("\r\nTLS-Required: No\r\n", false),
        ] {
            let message = format!("{header}\r\nTLS-Required: No\r\n");
            assert_eq!(Header::scan(message.as_bytes()).unwrap().is_tls_optional(), optional, "{header}");
        }
    }

    #[test]
    fn a_header_ends_where_a_line_is_no_field() {
        for (message, count, broken, body) in [
            (&b"A: b\r\nno field\r\nC: d\r\n\r\n"[..], 1, true, Some(6)),
            (b" A: b\r\n\r\n", 0, true, Some(0)),
            (b"hello", 0, true, Some(0)),
            (b"A b: c\r\n", 0, true, Some(0)),
            (b": c\r\n", 0, true, Some(0)),
            (b"A\x80: c\r\n", 0, true, Some(0)),
            (b"\r\nA: b\r\n", 0, false, Some(2)),
            (b"A: b\r\n", 1, false, None),
            (b"A: b", 1, false, None),
            (b"", 0, false, None),
        ] {
            let header = Header::scan(message).unwrap();
            let found = (header.fields().count(), header.is_broken(), header.body_start());
            assert_eq!(found, (count, broken, body), "{}", message.escape_ascii());
        }
    }

    #[test]
    fn endless_headers_end_in_an_error() {
        let many = "A: b\r\n".repeat(MAX_FIELDS);
        assert!(Header::scan(many.as_bytes()).is_ok());
        assert_eq!(
            Header::scan(format!("{many}A: b\r\n").as_bytes()).unwrap_err(),
            HeaderError::TooManyFields
        );
        let long = format!("A: {}\r\n", "b\r\n ".repeat(MAX_HEADER / 4));
        assert_eq!(Header::scan(long.as_bytes()).unwrap_err(), HeaderError::TooLong);
        // A long body is no long header.
        assert!(Header::scan(format!("A: b\r\n\r\n{long}").as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn any_octets_are_cut_without_loss(message in "[aA: \t\r\n\u{e9}]{0,60}") {
            let message = message.as_bytes();
            let header = Header::scan(message).unwrap();
            let joined: Vec<u8> = header.fields().flat_map(|f| f.raw.iter().copied()).collect();
            prop_assert_eq!(&joined[..], header.octets());
            prop_assert!(message.starts_with(header.octets()));
            prop_assert!(header.body_start().is_none_or(|at| at <= message.len()));
        }
    }
}
