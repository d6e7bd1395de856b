//! Local delivery gives a message to a store of ours, for good.
//!
//! [`Deliver`] is the seam; [`Maildir`] is the one that ships. Unlike a host, a store answers at once and
//! for each recipient apart, and nothing about it is uncertain except through a crash: then a message may
//! be there twice, never not at all.

mod files;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::files::{Files, LineEnds};
use super::{Accepted, Cause, LocalFault, Outcome};
use crate::BoxFuture;
use crate::clock::{Clock, Gate, Rng, Timestamp};
use crate::message::{Content, MessageId};
use crate::smtp::address::{Domain, ForwardPath};
use crate::smtp::params::{Mail, Rcpt};

/// A message on its way to a local store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalItem {
    /// The message's id, the same on each try: with the recipient it tells a store that it has this
    /// already, as after a crash.
    pub id: MessageId,
    /// The sender and the parameters.
    pub mail: Mail,
    /// The recipients, all at `destination`.
    pub recipients: Vec<Rcpt>,
    /// The domain they are at.
    pub destination: Domain,
    /// When the message was accepted.
    pub accepted: Timestamp,
    gate: Option<Gate>,
}

impl LocalItem {
    /// A message for these recipients.
    #[must_use]
    pub const fn new(
        id: MessageId,
        mail: Mail,
        recipients: Vec<Rcpt>,
        destination: Domain,
        accepted: Timestamp,
    ) -> Self {
        Self { id, mail, recipients, destination, accepted, gate: None }
    }

    /// The same, for as long as this gate is open.
    #[must_use]
    pub fn until(self, gate: Gate) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Whether the message is still ours to deliver. A store asks right before what makes it visible: once
    /// this is false, somebody else may be delivering it, and the store is to leave it and answer that it
    /// failed. That is no attempt then.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.gate.as_ref().is_none_or(Gate::is_open)
    }
}

/// Delivers for good.
pub trait Deliver: Send + Sync + fmt::Debug + 'static {
    /// Stores a message durably and says for each recipient, in order, what became of it. An outcome
    /// that is missing counts as a failure of the store. Of a recipient that is an alias or a list,
    /// [`Outcome::expanded`] says for whom it stands.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the message delivered to some of the recipients.
    fn deliver<'a>(&'a self, item: &'a LocalItem, content: Content) -> BoxFuture<'a, Vec<Outcome>>;
}

/// A Maildir: one file per message and recipient, complete and synced before it is seen.
///
/// Each copy begins with `Return-Path` (RFC 5321 §4.4) and `Delivered-To`; lines end in LF, as the readers
/// of a Maildir expect. File names hold nothing that a sender chose.
#[derive(Debug, Clone)]
pub struct Maildir {
    path: Arc<Path>,
    clock: Arc<dyn Clock>,
    rng: Rng,
}

impl Maildir {
    /// The Maildir at `path`, made if it is not there.
    ///
    /// # Errors
    /// The operating system's, when it cannot be made.
    pub fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let path: PathBuf = path.into();
        for folder in ["tmp", "new", "cur"] {
            std::fs::create_dir_all(path.join(folder))?;
        }
        Ok(Self { path: path.into(), clock, rng: Rng::from_entropy() })
    }

    async fn store(&self, item: &LocalItem, content: Content) -> Result<Vec<io::Result<()>>, io::Error> {
        let heads: Vec<_> = item.recipients.iter().map(|rcpt| head(item, rcpt)).collect();
        let (path, seconds, rng) =
            (Arc::clone(&self.path), self.clock.now().wall.as_secs(), self.rng.clone());
        let mut files = blocking(move || Ok(Files::create(&path, &heads, seconds, &rng))).await?;
        let mut line_ends = LineEnds::default();
        let (size, mut written) = (content.size(), 0);
        let mut pieces = Pieces::of(content);
        loop {
            // Several small pieces in one trip to another thread.
            let mut batch = BytesMut::new();
            while batch.len() < BATCH
                && let Some(piece) = pieces.next().await?
            {
                written += piece.len() as u64;
                line_ends.convert(&piece, &mut batch);
            }
            if batch.is_empty() {
                break;
            }
            files = blocking(move || {
                files.write(&batch);
                Ok(files)
            })
            .await?;
        }
        if written != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (last, gate) = (line_ends.end(), item.gate.clone());
        blocking(move || {
            files.write(last);
            Ok(files.publish(gate.as_ref()))
        })
        .await
    }
}

impl Deliver for Maildir {
    fn deliver<'a>(&'a self, item: &'a LocalItem, content: Content) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            match self.store(item, content).await {
                Ok(stored) => stored.into_iter().map(outcome).collect(),
                Err(error) => {
                    let failed = outcome(Err(error));
                    vec![failed; item.recipients.len()]
                }
            }
        })
    }
}

fn outcome(stored: io::Result<()>) -> Outcome {
    let fault = match stored {
        Ok(()) => return Outcome::Delivered(Accepted::locally()),
        Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => LocalFault::MailboxFull,
        Err(_) => LocalFault::Storage,
    };
    Outcome::Deferred(Cause::Local(fault))
}

/// What stands above the message. Addresses hold no control characters, so they cannot add fields.
fn head(item: &LocalItem, rcpt: &Rcpt) -> Bytes {
    let path = item.mail.from.mailbox().map(ToString::to_string).unwrap_or_default();
    let to = match &rcpt.to {
        ForwardPath::Postmaster => format!("postmaster@{}", item.destination),
        ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
    };
    format!("Return-Path: <{path}>\nDelivered-To: {to}\n").into()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

enum Pieces {
    Whole(Option<Bytes>),
    Stream(Box<dyn crate::message::ReadBody>),
}

impl Pieces {
    fn of(content: Content) -> Self {
        match content {
            Content::Whole(octets) => Self::Whole(Some(octets)),
            Content::Stream { reader, .. } => Self::Stream(reader),
        }
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Whole(octets) => {
                let Some(rest) = octets else { return Ok(None) };
                let piece = rest.split_to(rest.len().min(BATCH));
                Ok((!piece.is_empty()).then_some(piece))
            }
            Self::Stream(reader) => {
                let piece = reader.chunk().await?;
                if piece.is_none() {
                    *self = Self::Whole(None);
                }
                Ok(piece)
            }
        }
    }
}

/// Octets written in one trip to the blocking threads: large against the trip's cost of some 10 us.
const BATCH: usize = 256 * 1024;

#[cfg(test)]
mod tests;
