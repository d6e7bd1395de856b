//! What a spool remembers of a letter beside its mail: a key, results, and what happened in the log.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use postroad::clock::Timestamp;
use postroad::message::MessageId;
use postroad::spool::{DiskSpool, Key, LogEvent, LogKind, NewMessage, Spool, SpoolError, Token, contract};

use crate::story::{Held, Letter};

/// What is remembered of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Events in the log.
    pub logged: u32,
    /// Recipients that are settled, of how many.
    pub settled: u32,
    pub recipients: u32,
}

/// Has a message remembered.
pub(crate) fn remember(message: &mut NewMessage, n: u64) {
    message.key = Key::new(None, &format!("letter {n}"), [7; 32], Timestamp::NEVER).ok();
    message.keep = Some(Duration::from_secs(1 << 40));
    message.log.push(event(Token { message: message.id, entry: 0, number: 0 }, LogKind::Accepted));
}

pub(crate) fn event(of: Token, kind: LogKind) -> LogEvent {
    let (at, entry) = (Timestamp::from_millis(1), Some(of.entry));
    LogEvent { at, message: of.message, entry, kind, recipient: None, attempt: 1, note: None }
}

/// What is remembered of all letters.
pub(crate) async fn read(
    spool: &DiskSpool,
    letters: &HashMap<MessageId, Letter>,
) -> Result<BTreeMap<MessageId, Memory>, String> {
    let failed = |error: SpoolError| format!("what is remembered cannot be read: {error:?}");
    let mut memories = BTreeMap::new();
    for (at, logged) in (1..).zip(spool.log(0, 10_000).await.map_err(failed)?) {
        if logged.number != at {
            return Err(format!("number {} of the log stands in place {at}", logged.number));
        }
        let none = Memory { logged: 0, settled: 0, recipients: 0 };
        memories.entry(logged.event.message).or_insert(none).logged += 1;
    }
    for letter in letters.values().filter(|letter| letter.is_remembered()) {
        let Some(results) = spool.results(letter.id()).await.map_err(failed)? else { continue };
        let memory = memories.get_mut(&letter.id()).ok_or("there are results of what was never logged")?;
        memory.recipients = u32::try_from(results.recipients.len()).unwrap();
        let settled = results.recipients.iter().filter(|recipient| recipient.state.is_terminal()).count();
        memory.settled = u32::try_from(settled).unwrap();
    }
    Ok(memories)
}

/// Submits everything that is remembered again, which must store nothing.
pub(crate) async fn check_keys(
    spool: &DiskSpool,
    found: &Held,
    letters: &HashMap<MessageId, Letter>,
) -> Result<(), String> {
    for id in found.1.keys() {
        let letter = letters.get(id).ok_or("something is logged of a letter that never was")?;
        let mut again = contract::sample((1 << 25) + letter.n);
        remember(&mut again, letter.n);
        let enqueued = spool.enqueue(vec![again], None).await.map_err(|error| format!("{error:?}"))?;
        if !enqueued.known.iter().any(|known| known.stored == *id) {
            return Err(format!("the key of {id} is forgotten"));
        }
    }
    Ok(())
}
