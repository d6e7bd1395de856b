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
    pub(crate) fn new(signer: Arc<dyn Sign>, clock: Arc<dyn Clock>) -> Self {
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
        self.aside(self.all_of(pieces)).await
    }

    /// The same without a turn, for who has one message at a time and must not wait behind those who come
    /// together, as an engine's reports: every settlement waits for them.
    ///
    /// # Errors
    /// [`SignError`]
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(crate) async fn sign_at_once(&self, pieces: [Bytes; 2]) -> Result<Bytes, SignError> {
        elsewhere(self.all_of(pieces)).await
    }

    fn all_of(&self, pieces: [Bytes; 2]) -> impl FnOnce() -> Result<Bytes, SignError> + Send + 'static {
        let (mut signing, now) = (self.begin(), self.clock.now().wall);
        move || {
            pieces.iter().for_each(|piece| signing.update(piece));
            signing.finish(b"", now)
        }
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
        elsewhere(move || {
            // Its turn ends with the work, not with whoever waits for it.
            let _turn = turn;
            work()
        })
        .await
    }

    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await.ok()?.ok()
    }
}

async fn elsewhere<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SignError> + Send + 'static,
) -> Result<T, SignError> {
    // It panics or is dropped only as the program goes down.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(SignError::Failed))
}

/// A signature takes a millisecond: where thousands wait before this one, it had better come again.
const WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SystemClock, Timestamp};

    /// Puts one field in front of everything.
    #[derive(Debug)]
    struct Stamp;

    impl Sign for Stamp {
        fn begin(&self) -> Box<dyn Signing> {
            Box::new(Self)
        }
        fn renew(&self, _: &[u8], _: &[u8], _: Timestamp) -> Result<Option<Renewed>, SignError> {
            Ok(None)
        }
    }

    impl Signing for Stamp {
        fn update(&mut self, _: &[u8]) {}
        fn finish(self: Box<Self>, _: &[u8], _: Timestamp) -> Result<Bytes, SignError> {
            Ok(Bytes::from_static(b"A: b\r\n"))
        }
    }

    #[tokio::test]
    async fn a_report_is_signed_while_others_wait_for_their_turn() {
        let signatory = Signatory::new(Arc::new(Stamp), Arc::new(SystemClock));
        let turns = u32::try_from(signatory.turns.available_permits()).unwrap();
        let all = signatory.turns.acquire_many(turns).await.unwrap();
        let pieces = || [Bytes::new(), Bytes::new()];
        let mut waits = Box::pin(signatory.sign(pieces()));
        let is_waiting =
            std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending()));
        assert!(is_waiting.await);
        assert_eq!(signatory.sign_at_once(pieces()).await.unwrap(), "A: b\r\n");
        drop(all);
        assert_eq!(waits.await.unwrap(), "A: b\r\n");
    }
}
