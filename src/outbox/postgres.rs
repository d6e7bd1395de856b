//! The outbox in a PostgreSQL database that also has a spool's tables.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::Transaction;

use super::OutboxError;
use crate::clock::{Clock, Rng, SystemClock};
use crate::delivery::{Composer, EngineOptions, Retry, SubmitOptions};
use crate::message::{IntoSubmission, MessageId, Sign};
use crate::smtp::address::EhloName;
use crate::spool::PostgresSpool;

/// Takes mail in transactions on the PostgreSQL database that a [`PostgresSpool`] is in, straight into its
/// tables: nothing is copied, and any engine on that spool delivers what is committed.
///
/// ```no_run
/// use postroad::message::{Envelope, RawMessage};
/// use postroad::outbox::PostgresOutbox;
/// use postroad::spool::{PostgresOptions, PostgresSpool};
///
/// # async fn f(mut shop: tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let spool = PostgresSpool::connect("postgres://shop@localhost/shop", PostgresOptions::new()).await?;
/// let outbox = PostgresOutbox::new(spool, postroad::EhloName::new("mail.example.com")?);
///
/// let mut transaction = shop.transaction().await?;
/// transaction.execute("INSERT INTO orders VALUES ('4711')", &[]).await?;
/// let envelope = Envelope::parse("shop@example.com", ["ada@example.org"])?;
/// let mail = RawMessage::new(envelope, "From: shop@example.com\r\nSubject: Your order\r\n\r\nThanks\r\n");
/// outbox.enqueue(&mut transaction, mail, Some("order 4711")).await?;
/// transaction.commit().await?; // from here on it is sent
/// outbox.nudge();
/// # Ok(()) }
/// ```
///
/// What is decided on acceptance (when a message expires, how long its key is remembered) is decided here:
/// give it the options of the engines. What they decide later is theirs.
#[derive(Clone)]
pub struct PostgresOutbox {
    spool: PostgresSpool,
    composer: Composer,
}

impl PostgresOutbox {
    /// An outbox on this spool, whose messages get this name into their Message-ID where they have none: the
    /// engines'.
    #[must_use]
    pub fn new(spool: PostgresSpool, ehlo: EhloName) -> Self {
        let composer = Composer::new(ehlo, Arc::new(SystemClock), Rng::from_entropy());
        Self { spool, composer }
    }

    /// As engines with these options and this retry curve take mail. Default: the defaults.
    #[must_use]
    pub fn options(mut self, options: EngineOptions, retry: Retry) -> Self {
        (self.composer.options, self.composer.retry) = (options, retry);
        self
    }

    /// Signs what it takes; the engines' own signers only see what is submitted to them. Default: nothing
    /// signs.
    #[must_use]
    pub fn signer(mut self, signer: Arc<dyn Sign>) -> Self {
        self.composer.sign(signer);
        self
    }

    /// Goes by another clock than the system's; to be called before [`PostgresOutbox::signer`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.composer.clock = clock;
        self
    }

    /// Takes a message in the caller's transaction. Nothing of it is visible before that is committed, and
    /// nothing ever is when it is rolled back. Call [`PostgresOutbox::nudge`] after the commit.
    ///
    /// With a key, 1 to 255 octets of the caller's own, a message is taken once, as by
    /// [`Engine::submit_once`](crate::Engine::submit_once): enqueuing it again gives the id of the first. Two
    /// open transactions with one key wait for each other: the second goes on when the first has ended.
    ///
    /// # Errors
    /// [`OutboxError`]. It writes inside a savepoint of its own, so that the caller's transaction can go on
    /// after any error but those of the connection.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the message is in the transaction: roll it back.
    pub async fn enqueue(
        &self,
        transaction: &mut Transaction<'_>,
        message: impl IntoSubmission,
        key: Option<&str>,
    ) -> Result<MessageId, OutboxError> {
        let key = key.map(Into::into);
        self.enqueue_with(transaction, message, SubmitOptions { key, ..SubmitOptions::new() }).await
    }

    /// The same with all that can be asked for.
    ///
    /// # Errors
    /// As [`PostgresOutbox::enqueue`].
    ///
    /// # Cancel safety
    /// As [`PostgresOutbox::enqueue`].
    pub async fn enqueue_with(
        &self,
        transaction: &mut Transaction<'_>,
        message: impl IntoSubmission,
        options: SubmitOptions,
    ) -> Result<MessageId, OutboxError> {
        let message = self.composer.compose(message, options).await?;
        let id = message.id;
        let savepoint = transaction.transaction().await?;
        match self.spool.enqueue_in(&savepoint, &[message]).await {
            Ok(known) => {
                savepoint.commit().await?;
                Ok(known.first().map_or(id, |known| known.stored))
            }
            Err(error) => {
                savepoint.rollback().await?;
                Err(error.into())
            }
        }
    }

    /// Tells the engines that there is mail, at most as often as
    /// [`PostgresOptions::notify`](crate::spool::PostgresOptions::notify) lets it. Forgetting it costs
    /// them their poll, a second by default.
    pub fn nudge(&self) {
        self.spool.nudge();
    }
}

impl fmt::Debug for PostgresOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOutbox").field("ehlo", &self.composer.ehlo).finish_non_exhaustive()
    }
}
