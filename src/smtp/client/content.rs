//! Content on its way out: by DATA with its dots doubled, or by BDAT, in chunks where it is large.
//!
//! A large message goes out as several BDATs, each written when the one before has all its octets,
//! none waiting for a reply. When one of them is refused, the octets it or the next still lacks are
//! sent, for the server counts them; no further chunk is begun, and so no LAST is ever said.

use bytes::{BufMut, Bytes};

use super::command;
use super::pipeline::{COPY_BELOW, Command, Pipeline};
use crate::smtp::data::{Encoder, LineRules};
use crate::smtp::error::Misuse;

/// How content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Data,
    /// In one chunk.
    Bdat,
    /// In chunks of [`CHUNK`].
    Chunks,
}

/// How far the content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    NotYet,
    /// The server waits for it.
    Wanted,
    /// The same, and the caller was asked for a piece.
    Asked,
    /// All of it that is to be sent is written.
    Given,
}

#[derive(Debug)]
pub(super) struct Content {
    pub(super) verb: Verb,
    stage: Stage,
    size: u64,
    given: u64,
    /// Octets that the chunk which was begun still lacks.
    left: u64,
    /// LAST was said.
    last: bool,
    /// Where the server takes it for a whole message: behind its dot, or behind the octets that LAST
    /// announced. Known for LAST before those octets are.
    ends_at: Option<u64>,
    /// Replies awaited to chunks that are not the last.
    unanswered: usize,
    /// A chunk was refused before LAST was said: no other is begun.
    cut: bool,
    encoder: Encoder,
    /// Of what goes by BDAT; none where it may be anything, or is known to be lines.
    rules: Option<LineRules>,
}

impl Content {
    pub(super) fn new(verb: Verb, size: u64, any: bool) -> Self {
        Self {
            verb,
            stage: Stage::NotYet,
            size,
            given: 0,
            left: 0,
            last: false,
            ends_at: None,
            unanswered: 0,
            cut: false,
            encoder: Encoder::new(),
            rules: (!any && verb != Verb::Data).then(LineRules::default),
        }
    }

    /// True once for each piece that is wanted.
    pub(super) fn ask(&mut self) -> bool {
        let wanted = self.stage == Stage::Wanted && self.unanswered < MAX_UNANSWERED;
        if wanted {
            self.stage = Stage::Asked;
        }
        wanted
    }

    /// Whether a piece may be given: it was asked for, or was until the server refused it.
    pub(super) fn takes(&self) -> bool {
        self.stage == Stage::Asked || self.cut
    }

    /// Whether the end may be given.
    pub(super) fn takes_end(&self) -> bool {
        matches!(self.stage, Stage::Wanted | Stage::Asked) || self.cut
    }

    pub(super) const fn is_given(&self) -> bool {
        matches!(self.stage, Stage::Given)
    }

    /// Where the server takes it for a whole message.
    pub(super) const fn ends_at(&self) -> Option<u64> {
        self.ends_at
    }

    /// DATA; or BDAT, behind which the content is expected at once.
    pub(super) fn begin(&mut self, pipe: &mut Pipeline) {
        if self.verb == Verb::Data {
            pipe.command(Command::Data, |to| to.put_slice(b"DATA\r\n"));
        } else {
            self.begin_chunk(pipe);
            self.stage = Stage::Wanted;
        }
    }

    /// DATA was accepted.
    pub(super) fn go_ahead(&mut self, pipe: &mut Pipeline) {
        self.stage = Stage::Wanted;
        // Where it ends is known when it is given.
        pipe.expect(Command::Content, u64::MAX);
    }

    fn begin_chunk(&mut self, pipe: &mut Pipeline) {
        let rest = self.size.saturating_sub(self.given);
        self.left = if self.verb == Verb::Chunks { rest.min(CHUNK) } else { rest };
        self.last = self.left == rest;
        let (size, last) = (self.left, self.last);
        pipe.write(|to| command::bdat(to, size, last));
        self.unanswered += usize::from(!last);
        let command = if last { Command::Content } else { Command::Chunk };
        let end = pipe.written().saturating_add(size);
        self.ends_at = last.then_some(end);
        pipe.expect(command, end);
    }

    /// Writes a piece.
    pub(super) fn take(&mut self, pipe: &mut Pipeline, piece: Bytes) -> Result<(), Misuse> {
        if self.given.saturating_add(piece.len() as u64) > self.size {
            return Err(Misuse::TooLong);
        }
        if !self.is_given() {
            self.stage = Stage::Wanted;
        }
        match self.verb {
            Verb::Bdat | Verb::Chunks => {
                if let Some(rules) = &mut self.rules {
                    rules.check(&piece);
                    if rules.is_refused() {
                        return Err(Misuse::LineEnd);
                    }
                }
                self.take_octets(pipe, piece);
            }
            Verb::Data => {
                self.given += piece.len() as u64;
                if piece.len() < COPY_BELOW {
                    // The end and some doubled dots included: growing for them would copy it all again.
                    pipe.reserve(piece.len() + 64);
                    pipe.write(|to| self.encoder.encode_into(&piece, to));
                    pipe.flush_if_full();
                } else {
                    self.encoder.encode(&piece, |octets| pipe.octets(octets));
                }
                if self.encoder.is_refused() {
                    return Err(Misuse::LineEnd);
                }
            }
        }
        Ok(())
    }

    fn take_octets(&mut self, pipe: &mut Pipeline, mut piece: Bytes) {
        while !piece.is_empty() {
            if self.left == 0 {
                if self.cut {
                    break;
                }
                self.begin_chunk(pipe);
            }
            let room = usize::try_from(self.left).unwrap_or(usize::MAX);
            let octets = piece.split_to(piece.len().min(room));
            self.left -= octets.len() as u64;
            self.given += octets.len() as u64;
            pipe.octets(octets);
        }
        self.stop_at_border();
    }

    /// Ends the content.
    pub(super) fn end(&mut self, pipe: &mut Pipeline) -> Result<(), Misuse> {
        if self.cut && self.left == 0 {
            return Ok(());
        }
        if self.given != self.size {
            return Err(Misuse::TooShort);
        }
        if let Some(rules) = &mut self.rules {
            rules.finish();
            if rules.is_refused() {
                return Err(Misuse::LineEnd);
            }
        }
        if self.verb == Verb::Data {
            if self.encoder.ends_in_cr() {
                return Err(Misuse::LineEnd);
            }
            let end = self.encoder.end();
            pipe.write(|to| to.put_slice(end));
            pipe.end_last();
            self.ends_at = Some(pipe.written());
        }
        self.stage = Stage::Given;
        Ok(())
    }

    /// A chunk that is not the last was answered.
    pub(super) fn chunk_answered(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    /// A chunk was refused: no other is begun.
    pub(super) fn cut(&mut self) {
        self.cut = !self.last;
        self.stop_at_border();
    }

    fn stop_at_border(&mut self) {
        if self.cut && self.left == 0 {
            self.stage = Stage::Given;
        }
    }

    /// Whether it was cut off: it never becomes a message.
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether it was cut off and all that was sent of it is answered.
    pub(super) const fn is_over(&self) -> bool {
        self.cut && self.left == 0 && self.unanswered == 0
    }
}

/// Octets of one BDAT. Large enough that its command and its reply cost nothing beside it; small enough
/// that a message which is refused at once is refused for the price of two of them.
pub(super) const CHUNK: u64 = 1024 * 1024;
/// Chunks that may be unanswered before no more content is asked for: what is on the way at 1 Gbit/s
/// over 130 ms. A server that has taken more without a word may never say one.
const MAX_UNANSWERED: usize = 16;
