//! What a session heard is kept for a trace, when somebody asked for one: commands as they came,
//! credentials and content not at all.
//!
//! It is noted here, where each octet's meaning is known. Who guesses from outside which of a client's
//! lines are credentials has guessed wrong when the session refused the AUTH before them.

use crate::smtp::command::{Command, CommandError};
use crate::smtp::sasl::Mechanism;

/// Something that a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Heard {
    /// A command, without its line end. Of AUTH, its mechanism at most.
    Line(Box<[u8]>),
    /// Credentials, or an answer on the way to them.
    Secret,
    /// So many octets of content.
    Content(usize),
    /// A line of so many octets that is no command, and might be anything.
    Unknown(usize),
}

/// Empty, and free, until [`Transcript::begin`].
#[derive(Debug, Default)]
pub(super) struct Transcript(Option<Vec<Heard>>);

impl Transcript {
    pub(super) fn begin(&mut self) {
        self.0.get_or_insert_default();
    }

    pub(super) fn take(&mut self) -> Vec<Heard> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn command(&mut self, line: &[u8], command: &Result<Command, CommandError>) {
        let Some(heard) = &mut self.0 else { return };
        match command {
            Ok(Command::Auth { mechanism, initial }) => {
                // A word in the mechanism's place may be a password in the wrong one.
                match Mechanism::parse(mechanism) {
                    Some(_) => heard.push(Heard::Line(format!("AUTH {mechanism}").into_bytes().into())),
                    None => heard.push(Heard::Line(b"AUTH"[..].into())),
                }
                if initial.is_some() {
                    heard.push(Heard::Secret);
                }
            }
            Ok(_) | Err(CommandError::Mail(_) | CommandError::Rcpt(_) | CommandError::Bdat) => {
                heard.push(Heard::Line(line.into()));
            }
            // A client that goes on with its credentials after its AUTH was refused comes here.
            Err(_) => heard.push(Heard::Unknown(line.len())),
        }
    }

    pub(super) fn secret(&mut self) {
        if let Some(heard) = &mut self.0 {
            heard.push(Heard::Secret);
        }
    }

    pub(super) fn content(&mut self, octets: usize) {
        let Some(heard) = &mut self.0 else { return };
        match heard.last_mut() {
            Some(Heard::Content(before)) => *before = before.saturating_add(octets),
            _ => heard.push(Heard::Content(octets)),
        }
    }
}
