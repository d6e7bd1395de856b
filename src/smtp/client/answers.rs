//! What each reply to a transaction's commands means for it and for its recipients.

use bytes::BufMut;

use super::pipeline::Command;
use super::transaction::{Open, Plan};
use super::{Failure, Phase, Protocol, RecipientResult, Session};
use crate::smtp::error::ProtocolError;
use crate::smtp::reply::Reply;

impl Session {
    /// Writes the youngest transaction's envelope, as far as its plan goes.
    pub(super) fn write_envelope(&mut self, reset: bool) {
        let Self { open, pipe, caps, .. } = self;
        let Some(open) = open.back_mut() else { return };
        if reset {
            Open::write_rset(pipe);
        }
        if open.plan == Plan::Steps && reset {
            return;
        }
        open.write_mail(pipe, caps);
        if open.plan == Plan::Steps {
            return;
        }
        open.write_every_rcpt(pipe, caps);
        if open.plan == Plan::Flight {
            open.content.begin(pipe);
        }
    }

    /// A positive reply to RSET, MAIL or RCPT.
    pub(super) fn accepted(&mut self, command: Command) {
        let Self { open, pipe, caps, .. } = self;
        let Some(open) = open.front_mut() else { return };
        open.reset |= command == Command::Rset;
        match command {
            Command::Rset if open.plan == Plan::Steps => open.write_mail(pipe, caps),
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
            Command::Chunk => self.chunk_answered(reply),
            Command::Content if self.config.protocol == Protocol::Lmtp => self.content_answered_once(reply),
            Command::Content if reply.is_positive() => self.content_accepted(reply),
            Command::Content => self.content_refused(Phase::Content, reply),
            _ => self.finish(reply.is_positive()),
        }
    }

    /// The oldest transaction's unsettled recipients get this reply; a chained one whose MAIL is not
    /// accepted was not attempted.
    pub(super) fn judge_front(&mut self, phase: Phase, reply: Reply) {
        let one_each = phase == Phase::Content && self.config.protocol == Protocol::Lmtp;
        let Some(open) = self.open.front_mut() else { return };
        if open.void || (open.chained && phase == Phase::Mail) {
            open.give_up();
        } else if one_each {
            open.judge_next(reply);
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
            Command::Chunk | Command::Content => self.judge_front(Phase::Content, reply),
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
            open.refusal = (open.reset && reply.code() != 503).then(|| (Phase::Mail, reply.clone()));
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
            && self.open.front().is_some_and(|open| {
                open.plan != Plan::Steps && !open.chained && !open.void && open.mail_accepted
            })
    }

    fn next_rcpt_after_reply(&mut self) {
        let Some(open) = self.open.front_mut() else { return };
        open.rcpt_answered();
        if open.plan != Plan::Flight {
            self.next_rcpt();
        }
    }

    /// The next RCPT of a transaction that goes in steps; behind the last, the content.
    fn next_rcpt(&mut self) {
        let Self { open, pipe, caps, .. } = self;
        let Some(open) = open.front_mut() else { return };
        if !open.is_envelope_answered() {
            if open.plan == Plan::Steps {
                open.write_next_rcpt(pipe, caps);
            }
        } else if open.accepted > 0 && !open.void {
            open.content.begin(pipe);
        } else {
            // Of a void one no content was sent that could have been taken.
            open.give_up();
            self.finish(false);
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
            open.content.go_ahead(pipe);
        }
    }

    /// A reply to a chunk that is not the last. A refusal kills the transaction, and it alone: no more
    /// of it is begun, what was sent is answered, and RSET stands in front of the next (RFC 3030 §2).
    fn chunk_answered(&mut self, reply: Reply) {
        let out_of_order = self.is_out_of_order(&reply);
        let open = &mut self.open;
        let Some(open) = open.front_mut() else { return };
        open.content.chunk_answered();
        if !reply.is_positive() {
            if !open.void && !out_of_order {
                open.refusal = Some((Phase::Content, reply));
            }
            open.void = true;
            open.content.cut();
            self.pipelining_broken |= out_of_order;
        }
        if open.content.is_over() {
            open.give_up();
            self.finish(false);
        }
    }

    fn content_accepted(&mut self, reply: Reply) {
        let Some(open) = self.open.front_mut() else { return };
        let clean = !open.void;
        if open.void {
            open.settle(RecipientResult::Unknown);
        } else {
            open.judge(Phase::Content, reply);
        }
        self.finish(clean);
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

    /// One of the replies to content in LMTP, where there is one for each accepted recipient, in the
    /// order of the RCPT commands (RFC 2033 §4.2); and one where none was accepted.
    fn content_answered_once(&mut self, reply: Reply) {
        let Self { open, pipe, .. } = self;
        let Some(open) = open.front_mut() else { return };
        open.replies += 1;
        open.taken &= reply.is_positive();
        if !open.void {
            open.judge_next(reply);
        } else if reply.is_positive() {
            open.settle(RecipientResult::Unknown);
        }
        if open.replies < open.accepted {
            return pipe.expect_again(Command::Content);
        }
        if open.void {
            open.give_up();
        }
        let clean = open.taken;
        self.finish(clean);
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
