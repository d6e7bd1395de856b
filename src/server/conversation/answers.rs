//! The session's questions, put to the handler, and its answers as they go over the wire.

use std::sync::Arc;

use tracing::field::Empty;
use tracing::{Instrument, Span, debug, debug_span};

use super::{Open, Talk};
use crate::clock::{Clock, SystemClock};
use crate::server::handler::{Conversation, Transaction};
use crate::server::limits::Offence;
use crate::smtp::params::Mail;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::sasl::Login;
use crate::smtp::server::Event;

impl Talk<'_> {
    pub(super) async fn on_event(&mut self, event: Event, conversation: &mut dyn Conversation) {
        match event {
            Event::Hello { name, extended } => {
                self.settle(conversation);
                let info = Arc::make_mut(&mut self.info);
                (info.hello, info.extended) = (Some(name.into()), extended);
            }
            Event::Auth(login) => self.authenticate(&login, conversation).await,
            Event::Mail(mail) => {
                self.settle(conversation);
                let reply = if self.setup.bodies.is_spent() {
                    // RFC 3463 §3.4: more than the system can hold at this moment.
                    Reply::new(452, EnhancedCode::new(4, 3, 1), "too much mail at once, try later")
                } else {
                    self.sender(mail, conversation).await
                };
                self.respond(reply);
            }
            Event::Rcpt(rcpt) => {
                let info = Arc::clone(&self.info);
                let span = self.transaction.as_ref().map_or_else(Span::none, |open| open.span.clone());
                let asked = conversation.recipient(&rcpt, &info).instrument(span.clone());
                let reply = match self.decide(asked).await {
                    Ok(()) => {
                        debug!(parent: &span, recipient = %rcpt.to, "recipient accepted");
                        if let Some(open) = &mut self.transaction {
                            open.recipients.push(rcpt);
                        }
                        Reply::new(250, EnhancedCode::new(2, 1, 5), "recipient ok")
                    }
                    Err(reply) => {
                        let reply = negative(reply);
                        debug!(parent: &span, recipient = %rcpt.to, code = reply.code(), "recipient refused");
                        if reply.is_permanent() {
                            let (peer, now) = (info.peer.address.ip(), SystemClock.mono());
                            self.setup.limits.offends(peer, Offence::RefusedRecipient, now);
                        }
                        reply
                    }
                };
                self.respond(reply);
            }
            Event::MessageStart => {
                if let Some(Open { mail, recipients, span }) = self.transaction.take() {
                    let session = Arc::clone(&self.info);
                    self.message(Transaction { mail, recipients, session }, span, conversation).await;
                }
                conversation.reset();
            }
            Event::Vrfy(lookup) => {
                let info = Arc::clone(&self.info);
                let reply = self.decide(conversation.verify(&lookup, &info)).await;
                self.respond(reply);
            }
            Event::Expn(lookup) => {
                let info = Arc::clone(&self.info);
                let reply = self.decide(conversation.expand(&lookup, &info)).await;
                self.respond(reply);
            }
            Event::Quit => self.quit = true,
            _ => {}
        }
    }

    async fn sender(&mut self, mut mail: Mail, conversation: &mut dyn Conversation) -> Reply {
        let info = Arc::clone(&self.info);
        let wanted = mail.priority;
        mail.priority = wanted.map(|wanted| conversation.priority(wanted, &info));
        let lowered = mail.priority.filter(|given| Some(*given) != wanted);
        let span = debug_span!("transaction", sender = %mail.from, id = Empty);
        match self.decide(conversation.sender(&mail, &info).instrument(span.clone())).await {
            Ok(()) => {
                debug!(parent: &span, "sender accepted");
                self.transaction = Some(Open { mail, recipients: Vec::new(), span });
                match lowered {
                    // RFC 6710 §4.1
                    Some(given) => {
                        let text = format!("{given} is the new priority");
                        Reply::new(250, EnhancedCode::new(2, 3, 6), &text)
                    }
                    None => Reply::new(250, EnhancedCode::new(2, 1, 0), "sender ok"),
                }
            }
            Err(reply) => {
                let reply = negative(reply);
                debug!(parent: &span, code = reply.code(), "sender refused");
                reply
            }
        }
    }

    async fn authenticate(&mut self, login: &Login, conversation: &mut dyn Conversation) {
        let info = Arc::clone(&self.info);
        let peer = info.peer.address.ip();
        match self.decide(conversation.authenticate(login, &info)).await {
            Ok(()) => {
                self.setup.limits.conduct.login_succeeded(peer);
                Span::current().record("user", login.user());
                Arc::make_mut(&mut self.info).user = Some(login.user().into());
                self.respond(Reply::new(235, EnhancedCode::new(2, 7, 0), "authentication succeeded"));
            }
            Err(reply) => {
                let wait = self.setup.limits.conduct.login_failed(peer, SystemClock.mono());
                debug!(%peer, ?wait, "login refused");
                self.decide(Box::pin(tokio::time::sleep(wait))).await;
                self.respond(negative(reply));
            }
        }
    }
}

/// A handler refuses with 4xx or 5xx; anything else from it would say that it accepted.
pub(super) fn negative(reply: Reply) -> Reply {
    if reply.is_transient() || reply.is_permanent() { reply } else { local_error() }
}

/// One reply for several recipients: see [`Verdict::Each`].
pub(super) fn together(replies: Vec<Reply>) -> Reply {
    let rank = |reply: &Reply| match reply {
        reply if reply.is_positive() => 0,
        reply if reply.is_transient() => 1,
        _ => 2,
    };
    replies.into_iter().min_by_key(rank).unwrap_or_else(local_error)
}

pub(super) fn local_error() -> Reply {
    Reply::new(451, EnhancedCode::new(4, 3, 0), "local error in processing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16) -> Reply {
        Reply::plain(code, "x")
    }

    #[test]
    fn one_accepted_recipient_keeps_the_client_from_sending_again() {
        for (codes, one) in [(&[550, 250, 450][..], 250), (&[550, 450], 450), (&[550, 551], 550), (&[], 451)]
        {
            assert_eq!(together(codes.iter().map(|code| reply(*code)).collect()).code(), one, "{codes:?}");
        }
    }

    #[test]
    fn a_refusal_is_never_positive() {
        for (code, said) in [(250, 451), (354, 451), (450, 450), (550, 550)] {
            assert_eq!(negative(reply(code)).code(), said);
        }
    }
}
