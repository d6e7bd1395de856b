//! A field is written here and nowhere else: its name checked, its value folded, so that no value
//! makes a second field.

use memchr::{memchr2, memrchr2};

use super::body::MAX_LINE;
use super::header::is_name;

/// Why a field cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The name is empty or holds more than printable ASCII without a colon (RFC 5322 §3.6.8).
    #[error("the field name is malformed")]
    Name,
    /// The value holds a line end, NUL or another control character.
    #[error("the field value contains a control character")]
    Value,
    /// A word of the value is longer than a line may be (RFC 5322 §2.1.1).
    #[error("the field value cannot be folded into lines of {MAX_LINE} octets")]
    TooLong,
}

/// Appends `name: value` to `out`, folded at white space into lines of 78 octets where that is
/// possible (RFC 5322 §2.2.3). White space is kept but at the ends of the value. UTF-8 is written as
/// it is (RFC 6532): whether the message may hold it is the caller's to know.
///
/// # Errors
/// [`FieldError`]; then nothing was appended.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &str) -> Result<(), FieldError> {
    if !is_name(name.as_bytes()) {
        return Err(FieldError::Name);
    }
    if !is_clean(value) {
        return Err(FieldError::Value);
    }
    let start = out.len();
    let mut rest = value.trim_matches([' ', '\t']).as_bytes();
    out.reserve(name.len() + rest.len() + FOLDS);
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = name.len() + 1;
    if !rest.is_empty() {
        out.push(b' ');
        column += 1;
    }
    loop {
        let (line, more) = rest.split_at_checked(line_end(rest, column)).unwrap_or((rest, b""));
        if column + line.len() > MAX_LINE {
            out.truncate(start);
            return Err(FieldError::TooLong);
        }
        out.extend_from_slice(line);
        if more.is_empty() {
            break;
        }
        out.extend_from_slice(b"\r\n");
        (rest, column) = (more, 0);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// How much of `text` goes on a line that has `column` octets already: as many words as fit, and at least one,
/// since a fold right behind the name would leave it alone on its line, which some agents do not read. `text`
/// begins with a word, or with the white space before it.
fn line_end(text: &[u8], column: usize) -> usize {
    let room = FOLD_AT.saturating_sub(column);
    if text.len() <= room {
        return text.len();
    }
    let word = text.iter().position(|octet| !is_white(*octet)).unwrap_or_default();
    let fits = text.get(word..=room).and_then(|fits| Some((fits, memrchr2(b' ', b'\t', fits)?)));
    match fits {
        // A fold keeps all the white space at it.
        Some((fits, last)) => {
            let white = fits.iter().take(last).rev().take_while(|octet| is_white(**octet)).count();
            word + last - white
        }
        None => {
            let from = word.max(room);
            let rest = text.get(from..).unwrap_or_default();
            memchr2(b' ', b'\t', rest).map_or(text.len(), |more| from + more)
        }
    }
}

const fn is_white(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// Whether there is no control character in it but tabs. Most values are ASCII, of which octets tell it.
fn is_clean(value: &str) -> bool {
    if value.is_ascii() {
        // Without a way out in between, so that it is done many octets at a time.
        !value.bytes().fold(false, |found, octet| found | (octet.is_ascii_control() & (octet != b'\t')))
    } else {
        value.chars().all(|c| !c.is_control() || c == '\t')
    }
}

/// `text` as one line that can stand in a field or a report: line ends, other controls and runs of
/// white space become one space, and what is longer than `max` octets is cut with `...`. Unless
/// `utf8`, what is not ASCII becomes `?`.
#[must_use]
pub(super) fn one_line(text: &str, max: usize, utf8: bool) -> String {
    let mut line = String::with_capacity(text.len().min(max));
    for word in text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().map(|c| if utf8 || c.is_ascii() { c } else { '?' }));
        if line.len() > max {
            let end = (0..=max.saturating_sub(3)).rev().find(|at| line.is_char_boundary(*at));
            line.truncate(end.unwrap_or_default());
            line.push_str("...");
            break;
        }
    }
    line
}

/// RFC 5322 §2.1.1: lines should have 78 characters at most.
const FOLD_AT: usize = 78;
/// Octets for the ends of as many lines as most fields have.
const FOLDS: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::body::{has_long_line, is_clean_crlf};
    use crate::message::header::Header;

    fn field(name: &str, value: &str) -> Result<String, FieldError> {
        let mut out = b"X: y\r\n".to_vec();
        let before = out.clone();
        let result = write_field(&mut out, name, value);
        match result {
            Ok(()) => Ok(String::from_utf8(out[before.len()..].to_vec()).unwrap()),
            Err(error) => {
                assert_eq!(out, before, "nothing is appended by a failure");
                Err(error)
            }
        }
    }

    #[test]
    fn a_field_that_could_forge_another_is_refused() {
        for name in ["", "A B", "A:", "A\r\nB", "Ä", "A\0"] {
            assert_eq!(field(name, "x"), Err(FieldError::Name), "{name:?}");
        }
        for value in ["a\r\nBcc: b@c", "a\nb", "a\rb", "\0", "\u{7f}", "\u{85}", "a\r\n b"] {
            assert_eq!(field("A", value), Err(FieldError::Value), "{value:?}");
        }
    }

    #[test]
    fn values_are_folded_at_white_space_and_unfold_to_themselves() {
        assert_eq!(field("A", "").unwrap(), "A:\r\n");
        assert_eq!(field("A", " b \t").unwrap(), "A: b\r\n");
        let long = "0123456789 ".repeat(8);
        let folded = field("Subject", &long).unwrap();
        assert_eq!(folded.matches("\r\n ").count(), 1);
        assert!(folded.lines().all(|line| line.len() <= 78));
        // A word that cannot be folded stays on the first line.
        assert!(field("A", &"x".repeat(500)).unwrap().starts_with("A: x"));
        assert!(field("A", &"x".repeat(995)).is_ok());
        assert_eq!(field("A", &"x".repeat(996)), Err(FieldError::TooLong));
    }

    #[test]
    fn one_line_is_one_line_and_has_a_limit() {
        assert_eq!(one_line(" a\r\n\tb\0c\u{2028}d é", 99, false), "a b c d ?");
        assert_eq!(one_line("aé", 99, true), "aé");
        assert_eq!(one_line(&"é".repeat(100), 10, true), "ééé...");
    }

    /// RFC 5322 §2.2.3 word by word: each goes on the line unless it makes it too long.
    fn folded(name: &str, value: &str) -> String {
        let (mut field, mut column) = (format!("{name}:"), name.len() + 1);
        let (mut rest, mut space) = (value.trim_matches([' ', '\t']), " ");
        while !rest.is_empty() {
            let (word, more) = rest.split_at(rest.find([' ', '\t']).unwrap_or(rest.len()));
            if field.contains(' ') && column + space.len() + word.len() > FOLD_AT {
                field.push_str("\r\n");
                column = 0;
            }
            column += space.len() + word.len();
            field.extend([space, word]);
            (space, rest) = more.split_at(more.len() - more.trim_start_matches([' ', '\t']).len());
        }
        field + "\r\n"
    }

    proptest! {
        #[test]
        fn a_line_has_as_many_words_as_fit(
            name in "[A-Za-z-]{1,90}",
            value in "(([!-~é]{1,30}|[a-z]{60,90})[ \t]{1,3}){0,20}",
        ) {
            prop_assert_eq!(field(&name, &value), Ok(folded(&name, &value)));
        }

        #[test]
        fn no_value_makes_a_second_field(name in ".{0,12}", value in "(?s).{0,300}") {
            if let Ok(field) = field(&name, &value) {
                prop_assert!(is_clean_crlf(field.as_bytes()) && !has_long_line(field.as_bytes()));
                let header = Header::scan(field.as_bytes()).unwrap();
                prop_assert_eq!(header.octets(), field.as_bytes());
                prop_assert_eq!(header.fields().count(), 1);
                let found = header.first(&name).unwrap();
                prop_assert_eq!(&found.unfolded()[..], value.trim_matches([' ', '\t']).as_bytes());
            }
        }

        #[test]
        fn one_line_never_holds_a_control(text in "(?s).{0,300}", max in 3_usize..200) {
            let line = one_line(&text, max, true);
            prop_assert!(!line.chars().any(char::is_control) && line.len() <= max.max(3));
        }
    }
}
