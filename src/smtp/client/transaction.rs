//! One open transaction: what was written of it, what was answered, and what becomes of each
//! recipient.

use bytes::{BufMut, Bytes};

use super::command::{self, Spelling};
use super::pipeline::{COPY_BELOW, Command, Pipeline};
use super::{Event, Failure, Phase, RecipientResult, Session, Transaction, TransactionResult};
use crate::smtp::data::{Encoder, LineRules};
use crate::smtp::error::{Misuse, ProtocolError};
use crate::smtp::params::BodyKind;
use crate::smtp::reply::Reply;

/// How content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Data,
    Bdat,
}

/// How the commands are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// All in one write, with DATA or with the content by BDAT.
    Flight,
    /// The envelope in one write; BDAT when it is answered.
    Held,
    /// Each when the one before is answered.
    Steps,
}

/// How far the content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    NotYet,
    /// The server waits for it.
    Wanted,
    /// The same, and the caller was asked for a chunk.
    Asked,
    /// All of it is written, up to this offset.
    Given {
        end: u64,
    },
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    transaction: Transaction,
    spelling: Spelling,
    plan: Plan,
    pub(super) verb: Verb,
    /// It was begun behind an unanswered one.
    chained: bool,
    /// The RSET in front of it was accepted: what is said to MAIL is about this transaction.
    reset: bool,
    /// `None` while a recipient is unanswered or accepted.
    results: Vec<Option<RecipientResult>>,
    mail_accepted: bool,
    /// How many RCPT are answered.
    answered: usize,
    /// How many of them positively.
    accepted: usize,
    /// RSET, or the MAIL of a chained one, was refused: under which envelope the server sees the rest
    /// is not known.
    void: bool,
    /// The refusal of its MAIL, when that is what made it void and it is certainly about this one.
    refusal: Option<Reply>,
    content: Content,
    given: u64,
    rules: LineRules,
    encoder: Encoder,
}

impl Open {
    pub(super) fn new(
        id: u64,
        transaction: Transaction,
        spelling: Spelling,
        plan: Plan,
        verb: Verb,
        chained: bool,
    ) -> Self {
        Self {
            id,
            results: vec![None; transaction.recipients.len()],
            transaction,
            spelling,
            plan,
            verb,
            chained,
            reset: false,
            mail_accepted: false,
            answered: 0,
            accepted: 0,
            void: false,
            refusal: None,
            content: Content::NotYet,
            given: 0,
            rules: LineRules::default(),
            encoder: Encoder::new(),
        }
    }

    /// True once for each chunk that is wanted.
    pub(super) fn ask(&mut self) -> bool {
        let wanted = self.content == Content::Wanted;
        if wanted {
            self.content = Content::Asked;
        }
        wanted
    }

    pub(super) fn is_asked(&self) -> bool {
        self.content == Content::Asked
    }

    pub(super) fn is_wanted(&self) -> bool {
        matches!(self.content, Content::Wanted | Content::Asked)
    }

    pub(super) const fn is_given(&self) -> bool {
        matches!(self.content, Content::Given { .. })
    }

    /// Writes a chunk.
    pub(super) fn take(&mut self, pipe: &mut Pipeline, chunk: Bytes) -> Result<(), Misuse> {
        let given = self.given.saturating_add(chunk.len() as u64);
        if given > self.transaction.size {
            return Err(Misuse::TooLong);
        }
        if self.transaction.mail.body != BodyKind::Binary {
            self.rules.check(&chunk);
        }
        if self.rules.is_refused() {
            return Err(Misuse::LineEnd);
        }
        self.given = given;
        self.content = Content::Wanted;
        match self.verb {
            Verb::Bdat => pipe.octets(chunk),
            Verb::Data if chunk.len() < COPY_BELOW => {
                // The end and some doubled dots included: growing for them would copy it all again.
                pipe.reserve(chunk.len() + 64);
                pipe.write(|to| self.encoder.encode_into(&chunk, to));
                pipe.flush_if_full();
            }
            Verb::Data => self.encoder.encode(&chunk, |piece| pipe.octets(piece)),
        }
        Ok(())
    }

    /// Ends the content.
    pub(super) fn end(&mut self, pipe: &mut Pipeline) -> Result<(), Misuse> {
        if self.given != self.transaction.size {
            return Err(Misuse::TooShort);
        }
        self.rules.finish();
        if self.rules.is_refused() {
            return Err(Misuse::LineEnd);
        }
        if self.verb == Verb::Data {
            let end = self.encoder.end();
            pipe.write(|to| to.put_slice(end));
            pipe.end_last();
        }
        self.content = Content::Given { end: pipe.written() };
        Ok(())
    }

    /// Gives all recipients that have none the result.
    fn settle(&mut self, result: RecipientResult) {
        let mut slots = self.results.iter_mut().filter(|slot| slot.is_none()).peekable();
        while let Some(slot) = slots.next() {
            if slots.peek().is_none() {
                *slot = Some(result);
                return;
            }
            *slot = Some(result.clone());
        }
    }

    pub(super) fn judge(&mut self, phase: Phase, reply: Reply) {
        self.settle(RecipientResult::Replied { phase, reply });
    }

    /// The server has not looked at it, or will never; unless it refused the MAIL.
    pub(super) fn give_up(&mut self) {
        match self.refusal.take() {
            Some(reply) => self.judge(Phase::Mail, reply),
            None => self.settle(RecipientResult::NotAttempted),
        }
    }

    /// The connection is gone.
    pub(super) fn died(mut self, pipe: &Pipeline) -> Event {
        match self.content {
            Content::Given { end } if pipe.is_sent(end) => self.settle(RecipientResult::Unknown),
            _ => self.give_up(),
        }
        self.done()
    }

    fn done(self) -> Event {
        let recipients = self.results.into_iter();
        let recipients = recipients.map(|slot| slot.unwrap_or(RecipientResult::NotAttempted)).collect();
        Event::Done { transaction: self.id, result: TransactionResult { recipients } }
    }

    fn rset(&self, pipe: &mut Pipeline) {
        pipe.command(Command::Rset, |to| to.put_slice(b"RSET\r\n"));
    }
}

impl Session {
    /// Writes the youngest transaction's envelope, as far as its plan goes.
    pub(super) fn write_envelope(&mut self, reset: bool) {
        let Self { open, pipe, caps, .. } = self;
        let Some(open) = open.back_mut() else { return };
        if reset {
            open.rset(pipe);
        }
        if open.plan == Plan::Steps && reset {
            return;
        }
        pipe.command(Command::Mail, |to| command::mail(to, caps, &open.transaction, open.spelling));
        if open.plan == Plan::Steps {
            return;
        }
        for rcpt in &open.transaction.recipients {
            pipe.command(Command::Rcpt, |to| command::rcpt(to, caps, rcpt, open.spelling));
        }
        if open.plan == Plan::Flight {
            open.write_content_verb(pipe);
        }
    }

    /// A positive reply to RSET, MAIL or RCPT.
    pub(super) fn accepted(&mut self, command: Command) {
        let Self { open, pipe, caps, .. } = self;
        let Some(open) = open.front_mut() else { return };
        open.reset |= command == Command::Rset;
        match command {
            Command::Rset if open.plan == Plan::Steps => {
                pipe.command(Command::Mail, |to| command::mail(to, caps, &open.transaction, open.spelling));
            }
            Command::Mail => {
                open.mail_accepted = true;
                if open.plan == Plan::Steps {
                    self.next_rcpt();
                }
            }
            Command::Rcpt => {
                open.accepted += usize::from(open.mail_accepted);
                self.next_rcpt_after_reply();
            }
            _ => {}
        }
    }

    /// A reply to one of the oldest transaction's commands.
    pub(super) fn transaction_reply(&mut self, command: Command, reply: Reply) {
        let wrong = reply.is_intermediate() && command != Command::Data && command != Command::LoneDot
            || reply.is_positive() && command == Command::Data;
        match command {
            _ if wrong => self.wrong_class(command, reply),
            Command::Rset | Command::Mail | Command::Rcpt if reply.is_positive() => self.accepted(command),
            Command::Rset => self.void(reply),
            Command::Mail => self.mail_refused(reply),
            Command::Rcpt => self.rcpt_refused(reply),
            Command::Data if reply.is_intermediate() => self.data_accepted(),
            Command::Data => self.content_refused(Phase::Data, reply),
            Command::Content if reply.is_positive() => self.content_accepted(reply),
            Command::Content => self.content_refused(Phase::Content, reply),
            _ => self.finish(reply.is_positive()),
        }
    }

    /// The oldest transaction's unsettled recipients get this reply; a chained one whose MAIL is not
    /// accepted was not attempted.
    pub(super) fn judge_front(&mut self, phase: Phase, reply: Reply) {
        let Some(open) = self.open.front_mut() else { return };
        if open.void || (open.chained && phase == Phase::Mail) {
            open.give_up();
        } else {
            open.judge(phase, reply);
        }
    }

    /// After such a reply nobody knows what the server takes the next octets for.
    fn wrong_class(&mut self, command: Command, reply: Reply) {
        match command {
            Command::Mail => self.judge_front(Phase::Mail, reply),
            Command::Rcpt => {
                // Only this one; what the others would have been told is not known.
                if let Some(slot) = self.open.front_mut().and_then(Open::next_slot) {
                    *slot = Some(RecipientResult::Replied { phase: Phase::Rcpt, reply });
                }
            }
            Command::Data => self.judge_front(Phase::Data, reply),
            Command::Content => self.judge_front(Phase::Content, reply),
            _ => {}
        }
        self.fail(Failure::Protocol(ProtocolError::WrongClass));
    }

    /// The oldest transaction's envelope is not the one the server has.
    fn void(&mut self, reply: Reply) {
        let Some(open) = self.open.front_mut() else { return };
        open.void = true;
        self.chain_refused |= open.chained && reply.code() == 503;
        let steps = open.plan == Plan::Steps;
        self.ending.get_or_insert(Failure::ChainRefused(reply));
        if steps {
            self.finish(false);
        }
    }

    fn mail_refused(&mut self, reply: Reply) {
        let Some(open) = self.open.front_mut() else { return };
        if open.chained {
            // 503 is about the order of commands, never about the sender.
            open.refusal = (open.reset && reply.code() != 503).then(|| reply.clone());
            return self.void(reply);
        }
        if !open.void {
            open.judge(Phase::Mail, reply);
        }
        if open.plan == Plan::Steps {
            self.finish(false);
        }
    }

    fn rcpt_refused(&mut self, reply: Reply) {
        let out_of_order = self.is_out_of_order(&reply);
        let Some(open) = self.open.front_mut() else { return };
        if !open.void
            && let Some(slot @ None) = open.next_slot()
        {
            *slot = Some(if out_of_order {
                RecipientResult::NotAttempted
            } else {
                RecipientResult::Replied { phase: Phase::Rcpt, reply }
            });
        }
        self.pipelining_broken |= out_of_order;
        self.next_rcpt_after_reply();
    }

    /// 503 to what was in order: the server lost count within a pipelined envelope.
    fn is_out_of_order(&self, reply: &Reply) -> bool {
        reply.code() == 503
            && !self.pipelining_works
            && self
                .open
                .front()
                .is_some_and(|open| open.plan != Plan::Steps && !open.chained && open.mail_accepted)
    }

    fn next_rcpt_after_reply(&mut self) {
        let Some(open) = self.open.front_mut() else { return };
        open.answered += 1;
        if open.plan != Plan::Flight {
            self.next_rcpt();
        }
    }

    /// The next RCPT of a transaction that goes in steps; behind the last, the content.
    fn next_rcpt(&mut self) {
        let Self { open, pipe, caps, .. } = self;
        let Some(open) = open.front_mut() else { return };
        match open.transaction.recipients.get(open.answered) {
            Some(rcpt) if open.plan == Plan::Steps => {
                pipe.command(Command::Rcpt, |to| command::rcpt(to, caps, rcpt, open.spelling));
            }
            Some(_) => {}
            None if open.accepted > 0 && !open.void => open.write_content_verb(pipe),
            None => self.finish(false),
        }
    }

    fn data_accepted(&mut self) {
        let Self { open, pipe, .. } = self;
        let Some(open) = open.front_mut() else { return };
        if open.void {
            let failure = self.ending.take().unwrap_or(Failure::Abandoned);
            self.fail(failure);
        } else if open.accepted == 0 {
            // RFC 2920 §3.1
            pipe.command(Command::LoneDot, |to| to.put_slice(b".\r\n"));
        } else {
            open.content = Content::Wanted;
            // Where it ends is known when it is given.
            pipe.expect(Command::Content, u64::MAX);
        }
    }

    fn content_accepted(&mut self, reply: Reply) {
        let Some(open) = self.open.front_mut() else { return };
        if open.void {
            open.settle(RecipientResult::Unknown);
        } else {
            open.judge(Phase::Content, reply);
        }
        self.finish(true);
    }

    fn content_refused(&mut self, phase: Phase, reply: Reply) {
        let out_of_order = self.is_out_of_order(&reply);
        let Some(open) = self.open.front_mut() else { return };
        if open.accepted > 0 && out_of_order {
            open.give_up();
            self.pipelining_broken = true;
        }
        self.judge_front(phase, reply);
        self.finish(false);
    }

    /// All replies to the oldest transaction are there.
    fn finish(&mut self, clean: bool) {
        let Some(open) = self.open.pop_front() else { return };
        self.dirty = !clean;
        if open.accepted > 0 {
            self.refused_in_a_row = 0;
            self.pipelining_works |= open.plan != Plan::Steps && !self.pipelining_broken;
        } else if open.mail_accepted {
            self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        }
        self.pipe.event(open.done());
        self.rest();
    }
}

impl Open {
    /// DATA; or BDAT, behind which the content is expected at once.
    fn write_content_verb(&mut self, pipe: &mut Pipeline) {
        match self.verb {
            Verb::Data => pipe.command(Command::Data, |to| to.put_slice(b"DATA\r\n")),
            Verb::Bdat => {
                pipe.write(|to| command::bdat(to, self.transaction.size));
                pipe.expect(Command::Content, pipe.written().saturating_add(self.transaction.size));
                self.content = Content::Wanted;
            }
        }
    }

    /// The slot of the recipient whose reply came.
    fn next_slot(&mut self) -> Option<&mut Option<RecipientResult>> {
        self.results.get_mut(self.answered)
    }
}
