//! One open transaction: what was written of it, what was answered, and what becomes of each
//! recipient.

use bytes::BufMut;

use super::command::{self, Spelling};
use super::content::Content;
use super::pipeline::{Command, Pipeline};
use super::{Event, Phase, RecipientResult, Transaction, TransactionResult};
use crate::smtp::capability::Capabilities;
use crate::smtp::reply::{EnhancedCode, Reply};

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

#[derive(Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    transaction: Transaction,
    spelling: Spelling,
    pub(super) plan: Plan,
    /// It was begun behind an unanswered one.
    pub(super) chained: bool,
    /// The RSET in front of it was accepted: what is said to MAIL is about this transaction.
    pub(super) reset: bool,
    /// `None` while a recipient is unanswered or accepted; from the start `LeftOver` where it is not
    /// named to the server at all.
    results: Vec<Option<RecipientResult>>,
    pub(super) mail_accepted: bool,
    /// Which recipient the next reply to RCPT is about.
    next: usize,
    /// How many RCPT were accepted.
    pub(super) accepted: usize,
    /// RSET, or the MAIL of a chained one, or a chunk was refused: what the server would make of the
    /// rest is not known.
    pub(super) void: bool,
    /// The refusal that made it void, when it is certainly about this one.
    pub(super) refusal: Option<(Phase, Reply)>,
    pub(super) content: Content,
    /// How many replies to the content came: in LMTP there is one for each accepted recipient.
    pub(super) replies: usize,
    /// All of them were positive.
    pub(super) taken: bool,
}

impl Open {
    pub(super) fn new(
        id: u64,
        transaction: Transaction,
        results: Vec<Option<RecipientResult>>,
        spelling: Spelling,
        plan: Plan,
        content: Content,
        chained: bool,
    ) -> Self {
        let mut open = Self {
            id,
            transaction,
            spelling,
            plan,
            chained,
            reset: false,
            results,
            mail_accepted: false,
            next: 0,
            accepted: 0,
            void: false,
            refusal: None,
            content,
            replies: 0,
            taken: true,
        };
        open.skip_left_over();
        open
    }

    pub(super) fn write_rset(pipe: &mut Pipeline) {
        pipe.command(Command::Rset, |to| to.put_slice(b"RSET\r\n"));
    }

    pub(super) fn write_mail(&self, pipe: &mut Pipeline, caps: &Capabilities) {
        pipe.command(Command::Mail, |to| command::mail(to, caps, &self.transaction, self.spelling));
    }

    pub(super) fn write_every_rcpt(&self, pipe: &mut Pipeline, caps: &Capabilities) {
        for (rcpt, slot) in self.transaction.recipients.iter().zip(&self.results) {
            if slot.is_none() {
                pipe.command(Command::Rcpt, |to| {
                    command::rcpt(to, caps, &self.transaction.mail, rcpt, self.spelling)
                });
            }
        }
    }

    pub(super) fn write_next_rcpt(&self, pipe: &mut Pipeline, caps: &Capabilities) {
        if let Some(rcpt) = self.transaction.recipients.get(self.next) {
            pipe.command(Command::Rcpt, |to| {
                command::rcpt(to, caps, &self.transaction.mail, rcpt, self.spelling)
            });
        }
    }

    /// The slot of the recipient whose RCPT is answered next.
    pub(super) fn next_slot(&mut self) -> Option<&mut Option<RecipientResult>> {
        self.results.get_mut(self.next)
    }

    /// That RCPT was answered.
    pub(super) fn rcpt_answered(&mut self) {
        self.next += 1;
        self.skip_left_over();
    }

    pub(super) fn is_envelope_answered(&self) -> bool {
        self.next >= self.results.len()
    }

    fn skip_left_over(&mut self) {
        while self.results.get(self.next) == Some(&Some(RecipientResult::LeftOver)) {
            self.next += 1;
        }
    }

    /// Gives all recipients that have none the result.
    pub(super) fn settle(&mut self, result: RecipientResult) {
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

    /// Gives the first recipient that has none this reply to the content (RFC 2033 §4.2).
    pub(super) fn judge_next(&mut self, reply: Reply) {
        if let Some(slot) = self.results.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(RecipientResult::Replied { phase: Phase::Content, reply });
        }
    }

    /// The server has not looked at it, or will never; unless it has refused it.
    pub(super) fn give_up(&mut self) {
        match self.refusal.take() {
            Some((phase, reply)) => self.judge(phase, reply),
            None => self.settle(RecipientResult::NotAttempted),
        }
    }

    /// The connection is gone.
    pub(super) fn died(mut self, pipe: &Pipeline) -> Event {
        // Behind a refused chunk nothing is delivered, whatever was sent (RFC 3030 §2).
        let refused = self.content.is_cut() || matches!(self.refusal, Some((Phase::Content, _)));
        match self.content.ends_at() {
            Some(end) if pipe.is_sent(end) && !refused => self.settle(RecipientResult::Unknown),
            _ => self.give_up(),
        }
        self.done()
    }

    pub(super) fn done(mut self) -> Event {
        if self.accepted > 0 {
            self.results.iter_mut().flatten().for_each(leave_over);
        }
        let recipients = self.results.into_iter();
        let recipients = recipients.map(|slot| slot.unwrap_or(RecipientResult::NotAttempted)).collect();
        Event::Done { transaction: self.id, result: TransactionResult { recipients } }
    }
}

/// RFC 5321 §4.5.3.1.10: 452 behind an accepted recipient, or the 552 of older servers, says "no more in
/// this transaction", unless its enhanced code says something else.
fn leave_over(result: &mut RecipientResult) {
    if let RecipientResult::Replied { phase: Phase::Rcpt, reply } = result
        && matches!(reply.code(), 452 | 552)
        && reply.enhanced().is_none_or(is_too_many)
    {
        *result = RecipientResult::LeftOver;
    }
}

/// RFC 3463 §3.6: x.5.3 is "too many recipients".
fn is_too_many(code: EnhancedCode) -> bool {
    code == EnhancedCode::new(4, 5, 3) || code == EnhancedCode::new(5, 5, 3)
}
