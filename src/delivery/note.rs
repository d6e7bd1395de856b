//! A note is what is told of a recipient, on one line of at most 1,024 octets, as it stands in the report
//! entry of a message until its sender is told.
//!
//! `told 1`, then the action, the status, when that was found, when it was tried last, the host, what it said
//! (code, enhanced code, text in quotes), and behind these what a person reads. A dash stands for what there
//! is not. It is read again by whatever version runs then: a line that is damaged, or of a later version,
//! costs the details and not the report.

use std::fmt::Write as _;

use crate::clock::Timestamp;
use crate::message::{ReportKind, ReportRecipient};
use crate::smtp::address::Domain;
use crate::smtp::params::Rcpt;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::spool::{Recipient, RecipientState};

/// What is told of a recipient, as it is kept. `state` is how the recipient stands.
pub(crate) fn write(told: &ReportRecipient, state: RecipientState, now: Timestamp) -> Recipient {
    let mut note = String::with_capacity(256);
    // Writing to a string does not fail.
    let _ = write!(note, "{VERSION}{} {} {} ", told.kind.action(), told.status, now.as_millis());
    match told.last_attempt {
        Some(at) => drop(write!(note, "{} ", at.as_millis())),
        None => note.push_str("- "),
    }
    match &told.remote {
        Some(remote) => drop(write!(note, "{remote} ")),
        None => note.push_str("- "),
    }
    match &told.reply {
        Some(reply) => {
            let _ = write!(note, "{} ", reply.code());
            match reply.enhanced() {
                Some(code) => drop(write!(note, "{code} ")),
                None => note.push_str("- "),
            }
            note.push('"');
            quote(&mut note, reply.text());
            note.push_str("\" ");
        }
        None => note.push_str("- "),
    }
    let room = note.len() + MAX_TEXT;
    for c in told.text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if note.len() + c.len_utf8() > room {
            break;
        }
        note.push(c);
    }
    Recipient { rcpt: told.rcpt.clone(), state, note: Some(note.into()) }
}

/// What is told of a recipient whose mail is tried until `until`. Of one whose note is damaged, what its
/// state says.
pub(crate) fn read(recipient: &Recipient, until: Timestamp) -> ReportRecipient {
    let note = recipient.note.as_deref().unwrap_or_default();
    parse(&recipient.rcpt, note, until).unwrap_or_else(|| {
        let (kind, class) = match recipient.state {
            RecipientState::Waiting => (ReportKind::Delay { until }, 4),
            RecipientState::Delivered => (ReportKind::Success, 2),
            RecipientState::Failed | RecipientState::Expired | RecipientState::Cancelled => {
                (ReportKind::Failure, 5)
            }
        };
        let text = "what was said about it is not known any more";
        ReportRecipient::new(kind, recipient.rcpt.clone(), EnhancedCode::new(class, 0, 0), text)
    })
}

fn parse(rcpt: &Rcpt, note: &str, until: Timestamp) -> Option<ReportRecipient> {
    let mut rest = note.strip_prefix(VERSION)?;
    let mut word = || {
        let (word, tail) = rest.split_once(' ')?;
        rest = tail;
        Some(word)
    };
    let action = word()?;
    let kinds = [
        ReportKind::Failure,
        ReportKind::Delay { until },
        ReportKind::Success,
        ReportKind::Relayed,
        ReportKind::Expanded,
    ];
    let kind = kinds.into_iter().find(|kind| kind.action() == action)?;
    let status = EnhancedCode::parse(word()?)?;
    let _found = time(word()?)?;
    let last_attempt = or_dash(word()?, time)?;
    let remote = or_dash(word()?, |name| Domain::parse(name).ok())?;
    let code = or_dash(word()?, |code| code.parse::<u16>().ok().filter(|code| (200..600).contains(code)))?;
    let reply = match code {
        None => None,
        Some(code) => {
            let enhanced = or_dash(word()?, EnhancedCode::parse)?;
            let (said, tail) = unquote(rest)?;
            rest = tail;
            Some(match enhanced {
                Some(enhanced) => Reply::new(code, enhanced, &said),
                None => Reply::plain(code, &said),
            })
        }
    };
    let mut told = ReportRecipient::new(kind, rcpt.clone(), status, rest);
    (told.remote, told.reply, told.last_attempt) = (remote, reply, last_attempt);
    Some(told)
}

fn time(word: &str) -> Option<Timestamp> {
    word.parse().ok().map(Timestamp::from_millis)
}

/// `Some(None)` for a dash.
#[expect(clippy::option_option, reason = "nothing there, and nothing that can be read, are two things")]
fn or_dash<T>(word: &str, read: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if word == "-" { Some(None) } else { read(word).map(Some) }
}

/// The lines of a reply on one, so that they come back as they were.
fn quote(to: &mut String, text: &str) {
    let room = to.len() + MAX_SAID;
    for c in text.chars() {
        let escaped = match c {
            '\\' | '"' => 2,
            '\n' => 2,
            c => c.len_utf8(),
        };
        if to.len() + escaped > room {
            return to.push_str("...");
        }
        match c {
            '\\' | '"' => to.extend(['\\', c]),
            '\n' => to.push_str("\\n"),
            c if c.is_control() => to.push(' '),
            c => to.push(c),
        }
    }
}

fn unquote(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut plain = String::new();
    let mut chars = inner.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((plain, inner.get(at + 1..)?.strip_prefix(' ')?)),
            '\\' => match chars.next()?.1 {
                c @ ('\\' | '"') => plain.push(c),
                'n' => plain.push('\n'),
                _ => return None,
            },
            c => plain.push(c),
        }
    }
    None
}

const VERSION: &str = "told 1 ";
/// With the longest name of a host and all numbers, this leaves some room in the 1,024 octets of a note.
const MAX_SAID: usize = 320;
const MAX_TEXT: usize = 320;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::lane::tests::T0;

    fn told(kind: ReportKind, said: &str, text: &str) -> ReportRecipient {
        let rcpt = Rcpt::parse("<x@b.test> NOTIFY=FAILURE ORCPT=rfc822;y@c.test").unwrap();
        let mut told = ReportRecipient::new(kind, rcpt, EnhancedCode::new(5, 1, 1), text);
        told.remote = Some(Domain::parse("mx.b.test").unwrap());
        told.reply = Some(Reply::new(550, EnhancedCode::new(5, 1, 1), said));
        told.last_attempt = Some(T0);
        told
    }

    fn again(told: &ReportRecipient) -> ReportRecipient {
        let kept = write(told, RecipientState::Failed, T0);
        assert!(kept.note.as_deref().unwrap().len() <= 1024);
        read(&kept, T0)
    }

    #[test]
    fn a_note_is_a_line_that_a_person_can_read() {
        let kept =
            write(&told(ReportKind::Failure, "no \"such\"\nuser", "it said no"), RecipientState::Failed, T0);
        let expected = "told 1 failed 5.1.1 1790000000000 1790000000000 mx.b.test 550 5.1.1 \
                        \"no \\\"such\\\"\\nuser\" it said no";
        assert_eq!(kept.note.as_deref(), Some(expected));
        let bare = ReportRecipient::new(
            ReportKind::Success,
            Rcpt::parse("<x@b.test>").unwrap(),
            EnhancedCode::new(2, 0, 0),
            "",
        );
        let kept = write(&bare, RecipientState::Delivered, T0);
        assert_eq!(kept.note.as_deref(), Some("told 1 delivered 2.0.0 1790000000000 - - - "));
        assert_eq!(read(&kept, T0), bare);
    }

    #[test]
    fn what_is_told_comes_back() {
        let kinds = [
            ReportKind::Failure,
            ReportKind::Delay { until: T0 },
            ReportKind::Success,
            ReportKind::Relayed,
            ReportKind::Expanded,
        ];
        for kind in kinds {
            let told = told(kind, "two\nlines", "grün");
            assert_eq!(again(&told), told);
        }
    }

    #[test]
    fn the_longest_that_can_be_told_fits_a_note() {
        let mut long = told(ReportKind::Delay { until: T0 }, &"\"".repeat(9_000), &"ü".repeat(9_000));
        long.remote = Some(Domain::parse(&vec!["x".repeat(60); 4].join(".")).unwrap());
        long.status = EnhancedCode::new(5, 999, 999);
        let told = again(&long);
        assert_eq!(told.remote, long.remote);
        assert!(told.reply.unwrap().text().ends_with("\"..."));
        assert_eq!(told.text.len(), 320);
    }

    #[test]
    fn a_damaged_note_costs_the_details_only() {
        let whole = write(&told(ReportKind::Relayed, "a \\ b", "c"), RecipientState::Failed, T0);
        let note = whole.note.as_deref().unwrap();
        let end = note.rfind('c').unwrap();
        for cut in 0..end {
            let damaged = Recipient { note: Some(note[..cut].into()), ..whole.clone() };
            let told = read(&damaged, T0);
            assert_eq!((told.kind, told.status.to_string()), (ReportKind::Failure, "5.0.0".into()), "{cut}");
            assert_eq!(told.rcpt, whole.rcpt);
        }
        for (state, action) in [
            (RecipientState::Waiting, "delayed"),
            (RecipientState::Delivered, "delivered"),
            (RecipientState::Expired, "failed"),
        ] {
            let later = Recipient { note: Some("told 2 [x]".into()), state, ..whole.clone() };
            assert_eq!(read(&later, T0).kind.action(), action);
            assert_eq!(read(&Recipient { note: None, ..later }, T0).kind.action(), action);
        }
    }

    proptest! {
        #[test]
        fn no_text_forges_a_part_of_a_note(said in "(?s).{0,120}", text in "(?s).{0,120}") {
            let told = told(ReportKind::Failure, &said, &text);
            let again = again(&told);
            prop_assert_eq!((again.kind, &again.remote), (told.kind, &told.remote));
            let kept = again.reply.unwrap();
            prop_assert_eq!(kept.code(), 550);
            let said = told.reply.unwrap();
            prop_assert!(kept == said || kept.text().ends_with("..."));
        }

        #[test]
        fn no_note_is_too_odd_to_be_read(note in "(told 1 )?(failed |delayed )?(?s).{0,60}") {
            let recipient = Recipient {
                note: Some(note.into()),
                ..Recipient::new(Rcpt::parse("<x@b.test>").unwrap())
            };
            read(&recipient, T0);
        }
    }
}
