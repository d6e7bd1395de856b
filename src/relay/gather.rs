//! Gathering takes a message's content off its stream and puts it where it can wait: in memory while
//! it is small, staged in the spool when it grows, or when all sessions together hold too much.
//!
//! On the way it finds out what the relay must know: the header's limits, loops, and whether the
//! content really has eighth bits, which decides what a next hop must offer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::delivery::SubmitError;
use crate::message::{Header, HeaderError, Signing, SrsError, TLS_REQUIRED};
use crate::server::{BodyError, BodyStream};
use crate::smtp::params::BodyKind;
use crate::spool::{BodyWriter, NewBody, Spool, SpoolError};

/// Content that is ready to be stored.
pub(super) struct Gathered {
    pub(super) body: NewBody,
    /// What the octets are, whatever was declared.
    pub(super) kind: BodyKind,
    /// Whether its header has eighth bits.
    pub(super) utf8_header: bool,
    /// Has seen all of it, if it is to be signed.
    pub(super) signing: Option<Box<dyn Signing>>,
    /// Whether its header says `TLS-Required: No` (RFC 8689).
    pub(super) tls_optional: bool,
    /// The memory that it takes; to be kept for as long as it does.
    pub(super) share: Share,
}

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the message has passed {0} hosts")]
    Loop(usize),
    #[error("too much is being received at once")]
    Busy,
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Engine(#[from] SubmitError),
    #[error(transparent)]
    Return(#[from] SrsError),
}

/// Takes all of `body`.
pub(super) async fn gather(
    mut body: BodyStream,
    declared: BodyKind,
    max_hops: usize,
    memory: &Arc<Semaphore>,
    spool: &dyn Spool,
    mut signing: Option<Box<dyn Signing>>,
) -> Result<Gathered, Unfit> {
    let mut held = Held::default();
    let mut share = Share::default();
    let mut writer: Option<Box<dyn BodyWriter>> = None;
    let mut scan = Scan::default();
    let mut found = Found::default();
    while let Some(chunk) = body.chunk().await {
        let chunk = chunk?;
        scan.add(&chunk);
        // While it is at hand: nothing is read twice.
        if let Some(signing) = &mut signing {
            signing.update(&chunk);
        }
        if let Some(writer) = &mut writer {
            writer.write(chunk).await?;
            continue;
        }
        let fits = share.grow(memory, chunk.len());
        held.add(chunk);
        if held.octets > IN_MEMORY || !fits {
            let octets = std::mem::take(&mut held).join();
            if !fits && !has_whole_header(&octets) {
                return Err(Unfit::Busy);
            }
            found = check_header(&octets, max_hops)?;
            let mut staged = spool.stage().await?;
            staged.write(octets).await?;
            share = Share::default();
            writer = Some(staged);
        }
    }
    let kind = scan.kind(declared);
    // A message of lines ends with the end of one: BDAT can leave it out, DATA cannot carry it so.
    let missing = if kind != BodyKind::Binary && scan.octets > 0 { scan.missing_end() } else { "" };
    if let Some(signing) = &mut signing {
        signing.update(missing.as_bytes());
    }
    let body = match writer {
        Some(mut writer) => {
            if !missing.is_empty() {
                writer.write(Bytes::from_static(missing.as_bytes())).await?;
            }
            NewBody::Staged(writer.finish().await?)
        }
        None => {
            if !missing.is_empty() {
                held.add(Bytes::from_static(missing.as_bytes()));
            }
            let octets = held.join();
            found = check_header(&octets, max_hops)?;
            NewBody::Inline(octets)
        }
    };
    let Found { utf8_header, tls_optional } = found;
    Ok(Gathered { body, kind, utf8_header, tls_optional, signing, share })
}

/// What was staged is not looked at again.
fn has_whole_header(octets: &[u8]) -> bool {
    octets.starts_with(b"\r\n") || memchr::memmem::find(octets, b"\r\n\r\n").is_some()
}

/// What its header says of a message.
#[derive(Default)]
struct Found {
    utf8_header: bool,
    tls_optional: bool,
}

fn check_header(octets: &[u8], max_hops: usize) -> Result<Found, Unfit> {
    let (mut hops, mut asked) = (0, false);
    // Every message passes here: one walk sees whether there is anything to look at.
    let header = Header::scan_with(octets, |field| {
        hops += usize::from(field.is("Received"));
        asked |= field.is(TLS_REQUIRED);
    })?;
    // RFC 5321 §6.3: each host has added one of these.
    if hops > max_hops {
        return Err(Unfit::Loop(hops));
    }
    let tls_optional = asked && header.is_tls_optional();
    Ok(Found { utf8_header: !header.octets().is_ascii(), tls_optional })
}

/// A message's part of the memory of all sessions.
#[derive(Debug, Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Takes more; false when there is none left.
    fn grow(&mut self, memory: &Arc<Semaphore>, octets: usize) -> bool {
        let octets = u32::try_from(octets).unwrap_or(u32::MAX);
        let Ok(more) = Arc::clone(memory).try_acquire_many_owned(octets) else { return false };
        match &mut self.0 {
            Some(share) => share.merge(more),
            None => self.0 = Some(more),
        }
        true
    }
}

/// Pieces, joined only when they are more than one.
#[derive(Default)]
struct Held {
    first: Bytes,
    rest: BytesMut,
    octets: usize,
}

impl Held {
    fn add(&mut self, chunk: Bytes) {
        self.octets += chunk.len();
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = chunk;
            return;
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&chunk);
    }

    fn join(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}

/// What all of the octets together are.
#[derive(Default)]
struct Scan {
    octets: u64,
    eight_bit: bool,
    /// The last two octets.
    last: [u8; 2],
}

impl Scan {
    fn add(&mut self, chunk: &[u8]) {
        self.octets += chunk.len() as u64;
        self.eight_bit = self.eight_bit || !chunk.is_ascii();
        let [_, last] = self.last;
        self.last = match chunk {
            [.., a, b] => [*a, *b],
            [b] => [last, *b],
            [] => self.last,
        };
    }

    fn kind(&self, declared: BodyKind) -> BodyKind {
        match declared {
            // Only the sender knows that the ends of lines mean nothing.
            BodyKind::Binary => BodyKind::Binary,
            _ if self.eight_bit => BodyKind::EightBit,
            _ => BodyKind::SevenBit,
        }
    }

    fn missing_end(&self) -> &'static str {
        match self.last {
            [b'\r', b'\n'] => "",
            _ => "\r\n",
        }
    }
}

/// Most messages are smaller. What all sessions together hold is bounded by [`Rules`](super::Rules).
const IN_MEMORY: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(chunks: &[&str]) -> Scan {
        let mut scan = Scan::default();
        chunks.iter().for_each(|chunk| scan.add(chunk.as_bytes()));
        scan
    }

    #[test]
    fn the_kind_follows_from_the_octets_unless_only_the_sender_can_know() {
        for (declared, content, kind) in [
            (BodyKind::EightBit, "plain", BodyKind::SevenBit),
            (BodyKind::SevenBit, "gr\u{fc}n", BodyKind::EightBit),
            (BodyKind::EightBit, "gr\u{fc}n", BodyKind::EightBit),
            (BodyKind::Binary, "plain", BodyKind::Binary),
        ] {
            assert_eq!(scanned(&[content]).kind(declared), kind, "{declared:?} {content}");
        }
    }

    #[test]
    fn a_missing_line_end_is_seen_across_pieces() {
        for (chunks, missing) in [
            (&["a\r\n"][..], ""),
            (&["a\r", "\n"], ""),
            (&["a", "\r", "", "\n"], ""),
            (&["a"], "\r\n"),
            (&["a\r\n", "b"], "\r\n"),
        ] {
            assert_eq!(scanned(chunks).missing_end(), missing, "{chunks:?}");
        }
    }
}
