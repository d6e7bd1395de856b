//! The content of a message: fed to the handler while it comes, until there is a verdict.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tracing::{Instrument, Span, debug, warn};

use super::answers::{local_error, together};
use super::{Drained, Talk};
use crate::server::body;
use crate::server::handler::{Conversation, Transaction, Verdict};
use crate::smtp::server::{Event, Protocol};

impl Talk<'_> {
    /// `span` is the transaction's.
    pub(super) async fn message(
        &mut self,
        transaction: Transaction,
        span: Span,
        conversation: &mut dyn Conversation,
    ) {
        let recipients = transaction.recipients.len() as u64;
        let (feed, stream) = body::stream(&self.setup.bodies);
        let mut octets = 0;
        let mut verdict = None;
        let mut future = conversation.message(transaction, stream).instrument(span.clone());
        let whole = loop {
            match self.drain() {
                Drained::Event(Event::Body(chunk)) => {
                    octets += chunk.len() as u64;
                    feed.push(chunk);
                }
                Drained::Event(Event::MessageEnd) => break true,
                Drained::Event(Event::MessageAborted) | Drained::StartTls | Drained::Closed => break false,
                Drained::Event(_) => {}
                Drained::Waits => tokio::select! {
                    biased;
                    given = &mut future, if verdict.is_none() => verdict = Some(given),
                    () = self.turn(Some(&feed)) => {}
                },
            }
        };
        if !whole {
            debug!(parent: &span, octets, "message broken off");
            drop(feed);
            if verdict.is_none() {
                // The handler learns of it and tidies up; it may not keep the session for ever.
                let _ = tokio::time::timeout(TIDY, future).await;
            }
            return;
        }
        feed.finish();
        let verdict = match verdict {
            Some(verdict) => verdict,
            None => self.decide(future).await,
        };
        let taken = match &verdict {
            Verdict::All(reply) if reply.is_positive() => recipients,
            Verdict::All(_) => 0,
            Verdict::Each(replies) => replies.iter().filter(|reply| reply.is_positive()).count() as u64,
        };
        debug!(parent: &span, octets, recipients, taken, "message answered");
        if taken > 0 {
            let counters = &self.setup.counters;
            counters.messages.fetch_add(1, Relaxed);
            counters.recipients.fetch_add(taken, Relaxed);
            counters.octets.fetch_add(octets, Relaxed);
        }
        match verdict {
            Verdict::All(reply) => self.respond(reply),
            Verdict::Each(replies) if self.info.protocol == Protocol::Lmtp => {
                if let Err(error) = self.session.respond_each(&replies) {
                    warn!(%error, "the handler gave another number of replies than there are recipients");
                    self.respond(local_error());
                }
            }
            Verdict::Each(replies) => self.respond(together(replies)),
        }
    }
}

/// Enough for a handler to drop what it staged.
const TIDY: Duration = Duration::from_secs(10);
