//! Submitting: how the host program's own messages come in, and how it learns later what became of them.

use std::sync::Arc;

use crate::message::{IntoSubmission, MessageId, SubmitContext};
use crate::spool::{Logged, NewBody, SpoolError};

use super::compose;
use super::engine::{Engine, NewMail, SubmitError, Watched};
use super::receipt::{Receipt, ReceiptError};
use super::wishes::SubmitOptions;

impl Engine {
    /// Takes a message of the host program. When it returns `Ok`, the message is on stable storage
    /// and will be delivered, or its sender told. It is signed, if the engine has a signer that signs for
    /// who it is from.
    ///
    /// # Errors
    /// [`SubmitError`]: the message is wrong or cannot be signed, the spool does not take it, or the engine is shut down.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the message is stored.
    pub async fn submit(&self, message: impl IntoSubmission) -> Result<Receipt, SubmitError> {
        self.submit_with(message, SubmitOptions::new()).await
    }

    /// The same, once: while `key` is remembered ([`EngineOptions::keep_keys`](super::EngineOptions), 7 days
    /// by default), submitting the message again under it sends nothing and gives the receipt of the first,
    /// even when that was delivered long ago. So whoever does not know whether a message was submitted, after
    /// a crash or an error, does it over. Date, Message-ID and the boundaries of parts may differ.
    ///
    /// `key` is the caller's own name for the message, 1 to 255 octets, such as an order's number; each tenant
    /// has keys of its own.
    ///
    /// # Errors
    /// [`SubmitError`]; [`SubmitError::KeyConflict`] when the key stands for another content.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the message is stored: submit it again.
    pub async fn submit_once(&self, key: &str, message: impl IntoSubmission) -> Result<Receipt, SubmitError> {
        self.submit_with(message, SubmitOptions::once(key)).await
    }

    /// The same under an id of the caller's making. Submitting it again stores nothing while the spool
    /// has it, so that whoever does not know whether it was stored can do it over.
    ///
    /// # Errors
    /// [`SubmitError`]
    ///
    /// # Cancel safety
    /// As [`Engine::submit`].
    pub async fn submit_as(
        &self,
        id: MessageId,
        message: impl IntoSubmission,
    ) -> Result<Receipt, SubmitError> {
        self.submit_with(message, SubmitOptions { id: Some(id), ..SubmitOptions::new() }).await
    }

    /// The same with all that can be asked for.
    ///
    /// # Errors
    /// [`SubmitError`]
    ///
    /// # Cancel safety
    /// As [`Engine::submit`].
    pub async fn submit_with(
        &self,
        message: impl IntoSubmission,
        options: SubmitOptions,
    ) -> Result<Receipt, SubmitError> {
        let shared = self.shared();
        let watched = if options.id.is_some() { Watched::Again } else { Watched::Once };
        let id = options.id.unwrap_or_else(|| self.new_id());
        let mut context = SubmitContext::new(shared.ehlo.clone(), shared.now().wall, id);
        context.max_recipients = shared.settings().options.max_recipients;
        let (submission, wishes) = compose::begin(message, &context, options)?;
        // One recipient, as most messages have, is in order.
        let several = submission.recipients.iter().filter(|_| submission.recipients.len() > 1);
        let order = several.map(|rcpt| rcpt.to.clone()).collect();
        let head = shared.signed(submission.head, &submission.content).await?;
        let body = NewBody::Inline(submission.content);
        let mut mail = NewMail::new(id, submission.mail, submission.recipients, body);
        (mail.head, mail.handling) = (head, submission.handling);
        let stored = self.store(mail, &wishes, watched).await?;
        match stored.known {
            None if stored.repeated => {
                // The watch is kept until the spool has said what is left, so that nothing is missed between.
                let Ok(found) = Receipt::find(id, &shared.recall, &shared.watchers).await else {
                    // It is stored, whatever the spool says now: the receipt asks again.
                    return Ok(Receipt::new(id, Arc::clone(&shared.recall), None, order));
                };
                let settled = || {
                    stored.watch.iter().for_each(|watch| watch.opened(0..0));
                    Receipt::new(id, Arc::clone(&shared.recall), stored.watch, Vec::new())
                };
                Ok(found.unwrap_or_else(settled).in_order(order))
            }
            None => Ok(Receipt::new(id, Arc::clone(&shared.recall), stored.watch, order)),
            Some(first) => {
                let Ok(found) = Receipt::find(first, &shared.recall, &shared.watchers).await else {
                    return Ok(Receipt::new(first, Arc::clone(&shared.recall), None, Vec::new()).known(order));
                };
                let gone = || Receipt::forgotten(first, Arc::clone(&shared.recall));
                Ok(found.unwrap_or_else(gone).known(order))
            }
        }
    }

    /// A receipt for a message: after a restart, where none was kept, or where another process on the same
    /// spool took it. Of recipients that were settled before, it tells what the spool remembers: all where
    /// results are kept ([`SubmitOptions::keep`]), even when the message is gone, and otherwise what the
    /// message's remaining entries have. It lists the outcomes by entry.
    ///
    /// # Errors
    /// [`ReceiptError`]: nothing is known of the message, or the spool could not say.
    pub async fn receipt(&self, id: MessageId) -> Result<Receipt, ReceiptError> {
        let shared = self.shared();
        Receipt::find(id, &shared.recall, &shared.watchers).await?.ok_or(ReceiptError::NotWaiting)
    }

    /// The durable log from behind the number `after` on, at most `limit` events, in order: what was
    /// accepted, put off, settled and reported, each stored in the transaction in which it became true. For
    /// consumers that must miss nothing: read, deal with it, remember the last number with that, read on from
    /// there. Empty at the end: ask again later. What was read and not remembered comes again, with the same
    /// number; the same event may rarely come under two numbers, when an answer of the spool was lost, and is
    /// then known by message, entry, recipient, kind and attempt.
    ///
    /// There is a log where [`EngineOptions::log`](super::EngineOptions::log) is set. What it does not keep is
    /// gone: a consumer that was away for longer sees a first number that is not the next.
    ///
    /// # Errors
    /// [`SpoolError`]
    pub async fn log(&self, after: u64, limit: usize) -> Result<Vec<Logged>, SpoolError> {
        self.shared().spool.log(after, limit).await
    }
}
