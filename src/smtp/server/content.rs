//! The receiving of content: DATA and BDAT, from the command to the reply.
//!
//! Content that is refused on the way is read to its end, so that none of it is taken for commands,
//! but not without limit.

use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::Event;
use super::config::Protocol;
use super::session::Session;
use super::state::{Chunk, Question, Reception, State};
use crate::smtp::data::Decoder;

impl Session {
    /// DATA (RFC 5321 §4.1.1.4)
    pub(super) fn data(&mut self, now: Instant) {
        let lmtp = self.config.protocol == Protocol::Lmtp;
        let Some(transaction) = &mut self.transaction else { return self.consequence(NEED_MAIL) };
        if transaction.dead {
            return self.fault(DEAD);
        }
        if transaction.content.is_some() {
            // RFC 3030 §2: never both for one message.
            return self.fault("503 5.5.1 BDAT was used for this message");
        }
        if transaction.binary {
            // RFC 3030 §3
            return self.fault("503 5.5.1 BINARYMIME needs BDAT");
        }
        if transaction.recipients == 0 {
            // RFC 5321 §3.3; RFC 2033 §4.2
            return self.consequence(if lmtp { "503 5.5.1 No valid recipients" } else { NO_RECIPIENTS });
        }
        transaction.content = Some(Reception::new(now));
        self.state = State::Data(Decoder::default());
        self.timer.content_begun(now, now);
        self.events.push_back(Event::MessageStart);
        self.say("354 End with <CR><LF>.<CR><LF>");
    }

    /// Reads content of DATA; false when there is too little to go on.
    pub(super) fn read_data(&mut self, now: Instant, input: &mut BytesMut) -> bool {
        let State::Data(decoder) = &mut self.state else { return false };
        let before = input.len();
        let piece = decoder.decode(input);
        let bare = decoder.is_refused();
        let taken = before - input.len();
        if taken == 0 {
            return false;
        }
        self.timer.content_read(now, taken as u64);
        self.heard.content(taken);
        let Some(content) = self.transaction.as_mut().and_then(|t| t.content.as_mut()) else { return false };
        content.octets = content.octets.saturating_add(piece.octets.len() as u64);
        if content.refused.is_none() {
            let refused = if bare {
                Some(BARE)
            } else if content.octets > self.config.size_limit() {
                Some(TOO_LARGE)
            } else {
                None
            };
            if refused.is_some() {
                content.refused = refused;
                self.events.push_back(Event::MessageAborted);
            } else if !piece.octets.is_empty() {
                self.events.push_back(Event::Body(piece.octets));
            }
        }
        let refused = content.refused.is_some();
        if piece.end {
            self.timer.content_ended(now);
            self.state = State::Command;
            self.message_complete();
        } else if refused && self.timer.content_octets() > self.discard_limit() {
            self.end("552 5.3.4 Message far too large, closing connection");
        }
        true
    }

    /// BDAT (RFC 3030 §2). From here on `size` octets are content, whatever becomes of them.
    pub(super) fn bdat(&mut self, now: Instant, size: u64, last: bool, refused: Option<&'static str>) {
        let refused = refused.or_else(|| self.bdat_refusal(size));
        if size > self.discard_limit() {
            return self.end("552 5.3.4 Chunk far too large, closing connection");
        }
        let mut started = now;
        if let (None, Some(transaction)) = (refused, &mut self.transaction) {
            match &transaction.content {
                Some(content) => started = content.started,
                None => {
                    transaction.content = Some(Reception::new(now));
                    self.events.push_back(Event::MessageStart);
                }
            }
        }
        self.timer.content_begun(started, now);
        if self.timer.deadline(&self.config.timeouts, false).is_some_and(|deadline| deadline <= now) {
            // A client that sends chunk after tiny chunk is as slow as one that drips.
            return self.end(TIMED_OUT);
        }
        self.state = State::Chunk(Chunk { left: size, last, refused, taken: 0 });
        if size == 0 {
            self.chunk_complete(now);
        }
    }

    fn bdat_refusal(&self, size: u64) -> Option<&'static str> {
        let Some(transaction) = &self.transaction else { return Some(NEED_MAIL) };
        if transaction.dead {
            return Some(DEAD);
        }
        if transaction.recipients == 0 {
            return Some(NO_RECIPIENTS);
        }
        let octets = transaction.content.as_ref().map_or(0, |content| content.octets);
        (octets.saturating_add(size) > self.config.size_limit()).then_some(TOO_LARGE)
    }

    /// Reads content of BDAT; false when there is too little to go on.
    pub(super) fn read_chunk(&mut self, now: Instant, input: &mut BytesMut) -> bool {
        let State::Chunk(chunk) = &mut self.state else { return false };
        let take = usize::try_from(chunk.left).unwrap_or(usize::MAX).min(input.len());
        if take == 0 {
            return false;
        }
        chunk.left -= take as u64;
        chunk.taken += take as u64;
        let complete = chunk.left == 0;
        self.timer.content_read(now, take as u64);
        self.heard.content(take);
        match self.transaction.as_mut().map(|t| (t.binary, t.content.as_mut())) {
            Some((binary, Some(content))) if chunk.refused.is_none() => {
                let piece = input.split_to(take).freeze();
                content.octets = content.octets.saturating_add(take as u64);
                if !binary {
                    content.rules.check(&piece);
                }
                if content.rules.is_refused() {
                    chunk.refused = Some(BARE);
                    content.refused = Some(BARE);
                    self.events.push_back(Event::MessageAborted);
                } else {
                    self.events.push_back(Event::Body(piece));
                }
            }
            _ => input.advance(take),
        }
        if complete {
            self.chunk_complete(now);
        }
        true
    }

    fn chunk_complete(&mut self, now: Instant) {
        self.timer.content_ended(now);
        let State::Chunk(chunk) = std::mem::replace(&mut self.state, State::Command) else { return };
        match chunk.refused {
            None if chunk.last => {
                let Some(transaction) = &mut self.transaction else { return };
                if let Some(content) = transaction.content.as_mut().filter(|_| !transaction.binary) {
                    content.rules.finish();
                    if content.rules.is_refused() {
                        content.refused = Some(BARE);
                        self.events.push_back(Event::MessageAborted);
                    }
                }
                self.message_complete();
            }
            None => self.say(&format!("250 2.0.0 {} octets received", chunk.taken)),
            Some(reply) => {
                self.abort_message();
                match &mut self.transaction {
                    // The last chunk is the end of the message, as the final dot is.
                    Some(transaction) if chunk.last && !transaction.dead && transaction.recipients > 0 => {
                        self.refuse_message(reply);
                    }
                    Some(transaction) => {
                        transaction.dead = true;
                        transaction.content = None;
                        self.chunk_refused(reply);
                    }
                    None => self.chunk_refused(reply),
                }
            }
        }
    }

    /// What stands behind it may be on its way already.
    fn chunk_refused(&mut self, reply: &str) {
        if [NEED_MAIL, NO_RECIPIENTS, DEAD].contains(&reply) {
            self.consequence(reply);
        } else {
            self.fault(reply);
        }
        self.refused_before = true;
    }

    /// The last octet of the content is read.
    fn message_complete(&mut self) {
        match self.transaction.as_ref().and_then(|t| t.content.as_ref()).and_then(|c| c.refused) {
            Some(reply) => self.refuse_message(reply),
            None => {
                self.events.push_back(Event::MessageEnd);
                self.question = Some(Question::Message);
            }
        }
    }

    /// The session refuses a message that the host was told to drop.
    fn refuse_message(&mut self, reply: &'static str) {
        let recipients = self.transaction.take().map_or(1, |t| t.recipients);
        if self.config.protocol == Protocol::Lmtp {
            // RFC 2033 §4.2: one reply each, the last of them below.
            for _ in 1..recipients {
                self.say(reply);
            }
        }
        self.fault(reply);
    }

    /// Tells the host to drop what it has of a message that will not be completed.
    pub(super) fn abort_message(&mut self) {
        if matches!(self.question, Some(Question::Message)) {
            return;
        }
        if let Some(content) = self.transaction.as_mut().and_then(|t| t.content.as_mut())
            && content.refused.is_none()
        {
            content.refused = Some(DEAD);
            self.events.push_back(Event::MessageAborted);
        }
    }

    /// Octets of content that are read, though refused, for the sake of an orderly reply.
    fn discard_limit(&self) -> u64 {
        self.config.size_limit().saturating_add(DISCARD)
    }
}

pub(super) const NEED_MAIL: &str = "503 5.5.1 MAIL is needed first";
pub(super) const CONTENT_BEGUN: &str = "503 5.5.1 The content has begun already";
pub(super) const DEAD: &str = "503 5.5.1 The transaction has failed, RSET is needed";
const NO_RECIPIENTS: &str = "554 5.5.1 No valid recipients";
pub(super) const TIMED_OUT: &str = "421 4.4.2 Timed out, closing connection";
const TOO_LARGE: &str = "552 5.3.4 Message too large";
const BARE: &str = "554 5.6.0 Content contains a bare CR or LF, or a line that begins with NUL";

/// A client that ignores SIZE sends its whole message before it reads the refusal; beyond this much
/// it is cheaper for both to part.
const DISCARD: u64 = 64 * 1024 * 1024;
