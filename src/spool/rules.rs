//! Rules are what every spool checks before it takes something, so that all refuse the same.
//!
//! A wrong message is refused as a whole at the call that brought it, never found later.

use std::time::Duration;

use super::{NewMessage, RecipientState, Settlement, SpoolError, Then};

/// Refuses a message that could never be delivered or settled.
pub(crate) fn check_message(message: &NewMessage) -> Result<(), SpoolError> {
    if message.entries.is_empty() {
        return Err(SpoolError::Invalid("it has no entry"));
    }
    if message.entries.len() > MAX_ENTRIES {
        return Err(SpoolError::TooLarge);
    }
    if message.entries.iter().any(|entry| entry.recipients.is_empty()) {
        return Err(SpoolError::Invalid("an entry has no recipient"));
    }
    Ok(())
}

/// Refuses a settlement that would lose a recipient.
pub(crate) fn check_settlement(settlement: &Settlement) -> Result<(), SpoolError> {
    let waiting = settlement.recipients.iter().any(|r| r.state == RecipientState::Waiting);
    match settlement.then {
        Then::Remove if waiting => {
            return Err(SpoolError::Invalid("a removed entry has a waiting recipient"));
        }
        Then::Retry(_) | Then::Park(_) if settlement.recipients.is_empty() => {
            return Err(SpoolError::Invalid("an entry has no recipient"));
        }
        _ => {}
    }
    // A conflict could not be told to anybody.
    if settlement.submit.iter().any(|message| message.key.is_some()) {
        return Err(SpoolError::Invalid("a message that a settlement submits has a key"));
    }
    settlement.submit.iter().try_for_each(check_message)
}

/// As much of a note as is kept.
pub(crate) fn cut(note: &str) -> &str {
    let mut end = note.len().min(MAX_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.get(..end).unwrap_or_default()
}

/// What [`super::Recipient::note`] promises: enough for a reply of several lines.
const MAX_NOTE: usize = 1024;

/// When the time of a key is over and its message still waits, the key is looked at again after this.
pub(crate) const KEY_AGAIN: Duration = Duration::from_secs(86_400);

/// More destinations than any server takes recipients, and few enough to number in 20 bits.
pub(crate) const MAX_ENTRIES: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = format!("x{}", "é".repeat(600));
        assert_eq!(cut(&long).len(), 1023);
    }
}
