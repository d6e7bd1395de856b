//! A body stream is the content of a message while it arrives.
//!
//! It is a bounded queue between the driver of a session and the handler: the driver stops reading
//! the socket while the queue is full, so that a handler that is slow, or does not read at all,
//! stalls its client and grows nothing. All queues of a server together have a
//! [budget](super::budget). Both ends may live in one task or in two.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::budget::{Budget, Share};
use crate::BoxFuture;
use crate::message::ReadBody;

/// The content of a message while it arrives: line ends are CRLF, dot-stuffing is undone. Given to
/// [`Conversation::message`](super::Conversation::message).
pub struct BodyStream(Arc<Queue>);

/// Why content has no end. Nothing of it may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection ended, the client broke the message off, or it sent what is refused.
    #[error("the message was broken off")]
    Aborted,
    /// The content is larger than [`BodyStream::collect`] was to take.
    #[error("the message is larger than asked for")]
    TooLarge,
}

impl BodyStream {
    /// The next piece, never empty; `None` at the end of the message.
    ///
    /// # Errors
    /// [`BodyError::Aborted`], from then on each time.
    ///
    /// # Cancel safety
    /// Safe: a piece is either returned or still in the stream.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// As [`BodyStream::chunk`], for those who poll.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut state = self.0.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            let cost = cost(&chunk);
            state.held = state.held.saturating_sub(cost);
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
            drop(state);
            self.0.share.give_back(cost);
            return Poll::Ready(Some(Ok(chunk)));
        }
        match state.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Aborted) => Poll::Ready(Some(Err(BodyError::Aborted))),
            None => {
                keep(&mut state.reader, cx);
                Poll::Pending
            }
        }
    }

    /// All of the content that is still to come, when it is at most `limit` octets. A message that
    /// came in one piece is not copied.
    ///
    /// # Errors
    /// [`BodyError`]
    ///
    /// # Cancel safety
    /// What was collected is lost: drop the stream with it.
    pub async fn collect(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if first.len() + all.len() + chunk.len() > limit {
                return Err(BodyError::TooLarge);
            }
            if first.is_empty() && all.is_empty() {
                first = chunk;
                continue;
            }
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&chunk);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }
}

impl ReadBody for BodyStream {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(async {
            Self::chunk(self)
                .await
                .transpose()
                .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))
        })
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyStream(..)")
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        // The driver goes on to the end of the message and throws it away.
        let mut state = self.0.lock();
        state.unread = true;
        state.chunks.clear();
        let held = std::mem::take(&mut state.held);
        if let Some(writer) = state.writer.take() {
            writer.wake();
        }
        drop(state);
        self.0.share.give_back(held);
    }
}

/// A stream and the end that fills it.
pub(super) fn stream(budget: &Arc<Budget>) -> (Feed, BodyStream) {
    let queue = Arc::new(Queue { state: Mutex::default(), share: budget.share() });
    (Feed(Arc::clone(&queue)), BodyStream(queue))
}

/// The driver's end. A feed that is dropped before [`Feed::finish`] has broken the message off.
pub(super) struct Feed(Arc<Queue>);

impl Feed {
    /// Adds a piece. The queue may overshoot by what one read brought.
    pub(super) fn push(&self, chunk: Bytes) {
        let mut state = self.0.lock();
        if state.unread || chunk.is_empty() {
            return;
        }
        let cost = cost(&chunk);
        self.0.share.take(cost);
        state.held += cost;
        state.chunks.push_back(chunk);
        state.wake_reader();
    }

    /// The message is whole.
    pub(super) fn finish(&self) {
        self.end(End::Whole);
    }

    /// Ready when another read may be added: when there is room in the window and in the budget of all.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.held >= WINDOW {
            keep(&mut state.writer, cx);
            return Poll::Pending;
        }
        let room = if state.unread { Poll::Ready(()) } else { self.0.share.poll_room(cx) };
        state.in_line |= room.is_pending();
        if room.is_pending() {
            // A reader that goes away makes room, too.
            keep(&mut state.writer, cx);
        }
        room
    }

    fn end(&self, end: End) {
        let mut state = self.0.lock();
        if state.end.is_none() {
            state.end = Some(end);
            state.wake_reader();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if std::mem::take(&mut self.0.lock().in_line) {
            self.0.share.leave();
        }
        self.end(End::Aborted);
    }
}

struct Queue {
    state: Mutex<State>,
    share: Share,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    held: usize,
    end: Option<End>,
    /// Nobody reads any more.
    unread: bool,
    /// The budget was spent when there was something to read.
    in_line: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    Aborted,
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

/// What a piece holds: BDAT can make very small ones, each with a place in the queue and a share of
/// the buffer that it was read into.
const fn cost(chunk: &Bytes) -> usize {
    chunk.len() + PIECE
}

/// A place in the queue and the octets of its command, which stay in the buffer.
const PIECE: usize = 64;
/// Two reads' worth: one that the handler works on, one that comes in the meantime.
const WINDOW: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn plenty() -> Arc<Budget> {
        Budget::new(usize::MAX)
    }

    #[tokio::test]
    async fn content_comes_out_as_it_went_in() {
        let (feed, mut body) = stream(&plenty());
        feed.push(Bytes::from_static(b"one"));
        feed.push(Bytes::new());
        feed.push(Bytes::from_static(b"two"));
        feed.finish();
        drop(feed);
        assert_eq!(body.collect(6).await.unwrap(), "onetwo");
        assert!(body.chunk().await.is_none());
    }

    #[tokio::test]
    async fn a_broken_off_message_never_looks_whole() {
        let (feed, mut body) = stream(&plenty());
        feed.push(Bytes::from_static(b"half"));
        drop(feed);
        assert_eq!(body.chunk().await, Some(Ok(Bytes::from_static(b"half"))));
        assert_eq!(body.chunk().await, Some(Err(BodyError::Aborted)));
        assert_eq!(body.collect(9).await, Err(BodyError::Aborted));
    }

    #[tokio::test]
    async fn collect_has_a_limit() {
        let (feed, mut body) = stream(&plenty());
        feed.push(Bytes::from_static(b"1234"));
        feed.push(Bytes::from_static(b"5"));
        feed.finish();
        assert_eq!(body.collect(4).await, Err(BodyError::TooLarge));
    }

    #[tokio::test]
    async fn a_full_queue_waits_for_its_reader_and_an_abandoned_one_for_nobody() {
        let (feed, mut body) = stream(&plenty());
        let room = |feed: &Feed| feed.poll_room(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(room(&feed));
        feed.push(Bytes::from(vec![0; WINDOW]));
        assert!(!room(&feed));
        assert!(body.chunk().await.is_some());
        assert!(room(&feed));
        feed.push(Bytes::from(vec![0; WINDOW]));
        drop(body);
        assert!(room(&feed));
        feed.push(Bytes::from(vec![0; WINDOW]));
        assert!(room(&feed));
    }

    #[tokio::test]
    async fn small_pieces_count_for_what_they_hold() {
        let (feed, mut body) = stream(&plenty());
        let room = |feed: &Feed| feed.poll_room(&mut Context::from_waker(Waker::noop())).is_ready();
        let mut pieces = 0;
        while room(&feed) {
            feed.push(Bytes::from_static(b"x"));
            pieces += 1;
        }
        assert!(pieces <= WINDOW / PIECE, "{pieces}");
        feed.finish();
        assert_eq!(body.collect(WINDOW).await.unwrap().len(), pieces);
        assert_eq!(body.0.lock().held, 0);
    }

    #[tokio::test]
    async fn no_stream_is_given_more_while_the_budget_of_all_is_spent() {
        let budget = Budget::new(1000);
        let ((one, mut read_one), (two, mut read_two)) = (stream(&budget), stream(&budget));
        let room = |feed: &Feed| feed.poll_room(&mut Context::from_waker(Waker::noop())).is_ready();
        one.push(Bytes::from(vec![0; 2000]));
        assert!(!room(&one) && !room(&two) && budget.is_spent());
        read_one.chunk().await;
        assert!(room(&one) && room(&two));
        two.push(Bytes::from(vec![0; 2000]));
        assert!(!room(&one));
        drop((two, one));
        assert!(budget.is_spent(), "what a handler may still read is held");
        read_two.chunk().await;
        assert!(!budget.is_spent());
        let (three, read_three) = stream(&budget);
        three.push(Bytes::from(vec![0; 2000]));
        drop(read_three);
        assert!(!budget.is_spent() && room(&three), "what nobody will read is not held");
    }
}
