//! A parcel is a job on its way to one of the route's hosts, made to fit where a host lacks something.
//!
//! What the host program gave is never changed: a conversion is made on a copy, after EHLO, for this host
//! and this try. Reading the content whole takes memory, so it has a budget over all runs.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::timeout;

use super::causes::weight;
use super::is_same;
use crate::BoxFuture;
use crate::attempt::budget::{Charge, NoRoom};
use crate::attempt::carrier::{Carrier, Job};
use crate::attempt::{Cause, ConnectFault, Feature, Outcome};
use crate::clock::Gate;
use crate::hop::{Host, Require};
use crate::message::convert::{Unconvertible, has_eight_bit_header, to_seven_bit};
use crate::message::{Content, ReadBody};
use crate::net::Connection;
use crate::smtp::address::Mailbox;
use crate::smtp::client::Transaction;
use crate::smtp::params::BodyKind;

/// A job and what was learnt of it.
pub(super) struct Parcel {
    pub(super) transaction: Transaction,
    pub(super) require: Require,
    pub(super) gate: Option<Gate>,
    content: Source,
    unconvertible: Option<Unconvertible>,
    /// Hosts that cannot carry it, and what they lack.
    lacks: Vec<(Arc<Host>, Feature)>,
}

enum Source {
    Given(Content),
    Kept(Kept),
}

/// Octets held in memory, and the leave to hold them.
struct Kept {
    /// A header that was made anew. It stands before the rest.
    front: Bytes,
    octets: Bytes,
    charge: Charge,
}

/// Why a parcel cannot go to a host.
#[derive(Debug)]
pub(super) enum Misfit {
    /// The host lacks this, and nothing makes up for it.
    Lacks(Feature),
    /// It could not even be tried.
    Later(Cause),
}

impl Parcel {
    pub(super) fn new(job: Job) -> Self {
        let mut transaction = Transaction::new(job.mail, job.recipients, job.content.size());
        // It was looked at when it was taken.
        transaction.is_lines = true;
        Self {
            transaction,
            require: job.require,
            gate: job.gate,
            content: Source::Given(job.content),
            unconvertible: None,
            lacks: Vec::new(),
        }
    }

    pub(super) fn lacks(&mut self, host: &Arc<Host>, feature: Feature) {
        self.lacks.push((Arc::clone(host), feature));
    }

    /// Whether the host was found to lack something.
    pub(super) fn is_refused_by(&self, host: &Host) -> bool {
        self.lacks.iter().any(|(known, _)| is_same(known, host))
    }

    /// The lack that says most, if hosts were asked in vain; the first host's of those that say as much.
    pub(super) fn lack(&self) -> Option<Cause> {
        let most = self.lacks.iter().rev().max_by_key(|(_, feature)| weight(*feature));
        most.map(|(host, feature)| Cause::Lacks { host: Arc::clone(host), feature: *feature })
    }

    /// What it means for it that none of the other hosts could be used. A host that answers later may have
    /// what the others lack; but mail with REQUIRETLS that no host shows TLS for goes back to its sender
    /// (RFC 8689 §4.2.1).
    pub(super) fn stranded(&self, cause: Cause, only_tls: bool) -> Outcome {
        if self.transaction.mail.require_tls && only_tls {
            return Outcome::Failed(cause);
        }
        match (self.lack(), Outcome::unreachable(cause)) {
            (Some(lack), Outcome::Failed(_)) => Outcome::Failed(lack),
            (None, Outcome::Failed(cause)) => Outcome::Deferred(cause),
            (_, outcome) => outcome,
        }
    }

    /// What goes over the wire, when it can go as it is or was made to fit.
    pub(super) fn into_parts(self) -> (Transaction, Content) {
        let content = match self.content {
            Source::Given(content) => content,
            Source::Kept(kept) => kept.into_content(),
        };
        (self.transaction, content)
    }

    /// The same as far as the host can carry it: converted where it takes only seven bits, without
    /// SMTPUTF8 where nothing needs it.
    ///
    /// # Errors
    /// [`Misfit`]; then the parcel is as it was, and can be tried with another host.
    pub(super) async fn fit(
        &mut self,
        carrier: &Carrier,
        connection: &mut Connection,
    ) -> Result<(Transaction, Content), Misfit> {
        let mut transaction = self.transaction.clone();
        let mut copy = None;
        while let Some(feature) = connection.lacks(&transaction) {
            match feature {
                Feature::EightBit | Feature::Binary if transaction.mail.body != BodyKind::SevenBit => {
                    let original = self.read(carrier, connection.host(), feature).await?;
                    let (front, octets) =
                        self.convert(carrier, connection.host(), &original, feature).await?;
                    transaction.mail.body = BodyKind::SevenBit;
                    transaction.size = (front.len() + octets.len()) as u64;
                    copy = Some((front, octets));
                }
                // RFC 6531 §3.2: a domain has a form in ASCII, a local part has none.
                Feature::SmtpUtf8 if transaction.mail.smtputf8 && has_ascii_paths(&transaction) => {
                    let original = self.read(carrier, connection.host(), feature).await?;
                    let needed = aside(&original, has_eight_bit_header).await;
                    if needed.ok_or_else(|| busy(connection.host()))? {
                        return Err(Misfit::Lacks(feature));
                    }
                    transaction.mail.smtputf8 = false;
                }
                feature => return Err(Misfit::Lacks(feature)),
            }
        }
        let nothing = Source::Given(Content::Whole(Bytes::new()));
        let content = match (std::mem::replace(&mut self.content, nothing), copy) {
            (Source::Kept(kept), Some((front, octets))) => Kept { front, octets, ..kept }.into_content(),
            (Source::Kept(kept), None) => kept.into_content(),
            (Source::Given(content), _) => content,
        };
        Ok((transaction, content))
    }

    /// All of the content, kept from now on.
    async fn read(&mut self, carrier: &Carrier, host: &Arc<Host>, lack: Feature) -> Result<Bytes, Misfit> {
        let content = match &mut self.content {
            Source::Kept(kept) => return Ok(kept.octets.clone()),
            Source::Given(content) => content,
        };
        let charge = carrier.budget().take(content.size()).await.map_err(|no| match no {
            NoRoom::Ever => Misfit::Lacks(lack),
            NoRoom::Now => busy(host),
        })?;
        let content = std::mem::replace(content, Content::Whole(Bytes::new()));
        let patience = carrier.dialer().options().session.timeouts.block;
        let octets = match content {
            Content::Whole(octets) => Some(octets),
            Content::Stream { size, mut reader } => whole(size, &mut *reader, patience).await,
        };
        let octets = octets.ok_or(Misfit::Later(Cause::Damaged))?;
        self.content = Source::Kept(Kept { front: Bytes::new(), octets: octets.clone(), charge });
        Ok(octets)
    }

    /// A copy in seven bits: a header that was made anew, if any, and the rest.
    async fn convert(
        &mut self,
        carrier: &Carrier,
        host: &Arc<Host>,
        original: &Bytes,
        lack: Feature,
    ) -> Result<(Bytes, Bytes), Misfit> {
        let result = match self.unconvertible {
            Some(known) => Err(known),
            None => aside(original, converted).await.ok_or_else(|| busy(host))?,
        };
        let mut copy = result.map_err(|why| {
            self.unconvertible = Some(why);
            Misfit::Lacks(if why == Unconvertible::Header { Feature::SmtpUtf8 } else { lack })
        })?;
        let Some(signatory) = carrier.signatory() else { return Ok((Bytes::new(), copy)) };
        match signatory.renew(original.clone(), copy.clone()).await {
            Ok(Some(renewed)) => {
                copy.advance(renewed.replaces.min(copy.len()));
                Ok((renewed.header, copy))
            }
            Ok(None) => Ok((Bytes::new(), copy)),
            // Never without what it had.
            Err(_) => Err(busy(host)),
        }
    }
}

fn converted(original: &[u8]) -> Result<Bytes, Unconvertible> {
    to_seven_bit(original)
}

fn has_ascii_paths(transaction: &Transaction) -> bool {
    let is_ascii = |mailbox: Option<&Mailbox>| mailbox.is_none_or(|mailbox| mailbox.local().is_ascii());
    is_ascii(transaction.mail.from.mailbox())
        && transaction.recipients.iter().all(|rcpt| is_ascii(rcpt.to.mailbox()))
}

fn busy(host: &Arc<Host>) -> Misfit {
    Misfit::Later(Cause::Connect { host: Arc::clone(host), fault: ConnectFault::Local })
}

/// Does work over octets, elsewhere where it takes so long that others on this thread would wait for it.
/// `None` when the runtime is going down.
async fn aside<T: Send + 'static>(octets: &Bytes, work: fn(&[u8]) -> T) -> Option<T> {
    if octets.len() <= AT_ONCE {
        return Some(work(octets));
    }
    let octets = octets.clone();
    tokio::task::spawn_blocking(move || work(&octets)).await.ok()
}

async fn whole(size: u64, reader: &mut dyn ReadBody, patience: std::time::Duration) -> Option<Bytes> {
    let size = usize::try_from(size).ok()?;
    let mut octets = BytesMut::with_capacity(size);
    while let Some(chunk) = timeout(patience, reader.chunk()).await.ok()?.ok()? {
        if chunk.len() > size - octets.len() {
            return None;
        }
        octets.extend_from_slice(&chunk);
    }
    (octets.len() == size).then(|| octets.freeze())
}

impl Kept {
    /// The leave is given back with the content, when that is sent or given up.
    fn into_content(mut self) -> Content {
        let size = self.front.len() + self.octets.len();
        self.charge.shrink(size);
        Content::Stream { size: size as u64, reader: Box::new(self) }
    }
}

impl ReadBody for Kept {
    fn chunk(&mut self) -> BoxFuture<'_, std::io::Result<Option<Bytes>>> {
        let chunk = match self.front.is_empty() {
            true => self.octets.split_to(self.octets.len().min(PIECE)),
            false => std::mem::take(&mut self.front),
        };
        Box::pin(std::future::ready(Ok((!chunk.is_empty()).then_some(chunk))))
    }
}

/// Some 0.2 ms of work. More would delay whoever else is served on the thread.
const AT_ONCE: usize = 64 * 1024;
/// How much a connection is given at once, as of any other content.
const PIECE: usize = 256 * 1024;
