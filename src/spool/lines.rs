//! Lines are the recipients of an entry as every spool with tables writes them down, one each: state,
//! argument of RCPT, and behind a tab the note, with backslash, line end and tab escaped. A person can read
//! them, and they hold nothing that a column of text cannot.

use std::fmt::Write as _;

use super::{Recipient, RecipientState, SpoolError, rules};
use crate::smtp::params::Rcpt;

/// Adds a recipient.
pub(crate) fn write_line(
    to: &mut String,
    state: RecipientState,
    rcpt: &Rcpt,
    note: Option<&str>,
) -> Result<(), SpoolError> {
    if !to.is_empty() {
        to.push('\n');
    }
    to.push_str(state.as_str());
    let from = to.len();
    // Writing to a string does not fail.
    let _ = write!(to, " {rcpt}");
    if to.get(from..).is_some_and(|written| written.contains(char::is_control)) {
        return Err(SpoolError::Invalid("a recipient holds a control character"));
    }
    if let Some(note) = note {
        to.push('\t');
        for c in rules::cut(note).chars() {
            match c {
                '\\' => to.push_str("\\\\"),
                '\n' => to.push_str("\\n"),
                '\r' => to.push_str("\\r"),
                '\t' => to.push_str("\\t"),
                '\0' => to.push_str("\\0"),
                c => to.push(c),
            }
        }
    }
    Ok(())
}

/// The recipients of an entry as they were written; `None` when a line is damaged.
pub(crate) fn read_recipients(text: &str) -> Option<Vec<Recipient>> {
    text.split('\n').map(read_line).collect()
}

fn read_line(line: &str) -> Option<Recipient> {
    let (rest, note) = match line.split_once('\t') {
        Some((rest, note)) => (rest, Some(unescape(note)?)),
        None => (line, None),
    };
    let (state, rcpt) = rest.split_once(' ')?;
    let state = STATES.into_iter().find(|s| s.as_str() == state)?;
    Some(Recipient { rcpt: Rcpt::parse(rcpt).ok()?, state, note })
}

fn unescape(text: &str) -> Option<Box<str>> {
    if !text.contains('\\') {
        return Some(text.into());
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                '0' => '\0',
                _ => return None,
            },
            c => c,
        });
    }
    Some(plain.into())
}

const STATES: [RecipientState; 5] = [
    RecipientState::Waiting,
    RecipientState::Delivered,
    RecipientState::Failed,
    RecipientState::Expired,
    RecipientState::Cancelled,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn line(state: RecipientState, rcpt: &str, note: Option<&str>) -> String {
        let mut text = String::new();
        write_line(&mut text, state, &Rcpt::parse(rcpt).unwrap(), note).unwrap();
        text
    }

    #[test]
    fn a_recipient_is_one_readable_line() {
        assert_eq!(line(RecipientState::Waiting, "<a@b.test>", None), "waiting <a@b.test>");
        assert_eq!(
            line(RecipientState::Failed, "<a@b.test> NOTIFY=NEVER", Some("550 5.1.1 no\nsuch \\user")),
            "failed <a@b.test> NOTIFY=NEVER\t550 5.1.1 no\\nsuch \\\\user"
        );
    }

    #[test]
    fn lines_come_back_as_they_were() {
        for note in [None, Some(""), Some("\t\n\r\\n\\\0é")] {
            for state in STATES {
                let read = read_recipients(&line(state, "<\"x y\"@b.test>", note)).unwrap();
                assert_eq!(read[0].state, state);
                assert_eq!(read[0].note.as_deref(), note);
            }
        }
    }

    #[test]
    fn a_damaged_line_is_noticed() {
        for text in [
            "",
            "waiting",
            "later <a@b.test>",
            "waiting a@b.test",
            "waiting <a@b.test>\tx\\y",
            "waiting <a@b>\n",
        ] {
            assert_eq!(read_recipients(text), None, "{text:?}");
        }
    }
}
