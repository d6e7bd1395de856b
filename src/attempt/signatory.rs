//! A signatory signs where nobody waits for its thread: aside, and no more at once than there are
//! processors, so that those who come together do not starve what else is done aside.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::message::{Renewed, Sign, SignError, Signing};

/// A signer and its turns. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Signatory {
    signer: Arc<dyn Sign>,
    clock: Arc<dyn Clock>,
    turns: Arc<Semaphore>,
}

impl Signatory {
    pub(super) fn new(signer: Arc<dyn Sign>, clock: Arc<dyn Clock>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { signer, clock, turns: Arc::new(Semaphore::new(processors)) }
    }

    /// Begins to look at a message that comes in pieces.
    pub(crate) fn begin(&self) -> Box<dyn Signing> {
        self.signer.begin()
    }

    /// The signatures of a message of these pieces, all of which are at hand.
    ///
    /// # Errors
    /// [`SignError`]
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(crate) async fn sign(&self, pieces: [Bytes; 2]) -> Result<Bytes, SignError> {
        let (mut signing, now) = (self.begin(), self.clock.now().wall);
        let work = move || {
            pieces.iter().for_each(|piece| signing.update(piece));
            signing.finish(b"", now)
        };
        self.aside(work).await
    }

    /// The signatures of a message that was looked at, behind these fields.
    ///
    /// # Errors
    /// [`SignError`]
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(crate) async fn finish(&self, signing: Box<dyn Signing>, front: Bytes) -> Result<Bytes, SignError> {
        let now = self.clock.now().wall;
        self.aside(move || signing.finish(&front, now)).await
    }

    /// See [`Sign::renew`].
    ///
    /// # Errors
    /// [`SignError`]
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn renew(&self, original: Bytes, copy: Bytes) -> Result<Option<Renewed>, SignError> {
        let (signer, now) = (Arc::clone(&self.signer), self.clock.now().wall);
        self.aside(move || signer.renew(&original, &copy, now)).await
    }

    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SignError> + Send + 'static,
    ) -> Result<T, SignError> {
        let turn = self.turn().await.ok_or(SignError::Failed)?;
        let work = tokio::task::spawn_blocking(move || {
            // Its turn ends with the work, not with whoever waits for it.
            let _turn = turn;
            work()
        });
        // It panics or is dropped only as the program goes down.
        work.await.unwrap_or(Err(SignError::Failed))
    }

    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await.ok()?.ok()
    }
}

/// A signature takes a millisecond: where thousands wait before this one, it had better come again.
const WAIT: Duration = Duration::from_secs(30);
