//! The two ends of a talk, a proxy's header before it, and the step from clear text to TLS.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::field::display;
use tracing::{Span, debug};

use super::Talk;
use crate::clock::{Clock, SystemClock};
use crate::net::connect::Io;
use crate::server::handler::Peer;
use crate::server::limits::{Place, TooMany};
use crate::server::proxy::{self, Header, Parsed};
use crate::server::serve::Setup;
use crate::server::wire::{Read, Wire};
use crate::smtp::reply::Reply;
use crate::smtp::{Input, TlsInfo};

impl Talk<'_> {
    /// Before the greeting no client may talk (RFC 5321 §4.3.1); one that does is no mail server.
    pub(super) async fn listen_first(&mut self, now: Instant) {
        let delay = self.setup.options.greeting_delay;
        let until = (!delay.is_zero()).then(|| now + delay);
        let read = poll_fn(|cx| match self.wire.poll_read(cx, until, false) {
            Poll::Pending if until.is_none() => Poll::Ready(Read::TimedOut),
            read => read,
        });
        match read.await {
            Read::TimedOut => {}
            Read::Octets => self.feed(),
            Read::Eof => self.session.handle(SystemClock.mono(), Input::Eof),
        }
    }

    pub(super) async fn upgrade(&mut self) {
        while self.wire.has_output() {
            let taken = poll_fn(|cx| self.poll_write(cx)).await;
            self.wrote(taken);
        }
        // CVE-2011-0411: what was sent in the clear behind STARTTLS must never be read as if it had
        // come inside. The session refuses it too; here it cannot even be left over.
        if !self.wire.input.is_empty() {
            self.wire.kill();
        }
        match handshake(&mut self.wire, self.setup).await {
            Some(tls) => {
                self.trace.secured(&tls);
                let info = Arc::make_mut(&mut self.info);
                // RFC 3207 §4.2: nothing learnt before survives.
                (info.tls, info.hello, info.extended, info.user) = (Some(tls.clone()), None, false, None);
                self.session.handle(SystemClock.mono(), Input::TlsReady(tls));
            }
            None => {
                self.wire.kill();
                self.session.handle(SystemClock.mono(), Input::Eof);
            }
        }
    }
}

/// Reads the header of a proxy, which says who the peer is; an error says why there is no session, or
/// nothing when nothing is to be said. Not an octet of what comes behind the header is read.
pub(super) async fn introduced(
    wire: &mut Wire,
    peer: &mut Peer,
    place: &mut Option<Place>,
) -> Result<(), Option<TooMany>> {
    let mut io = wire.take();
    let header = match tokio::time::timeout(HEADER, header(&mut io)).await {
        Ok(Ok(header)) => header,
        Ok(Err(error)) => {
            debug!(%error, "no PROXY header");
            return Err(None);
        }
        Err(_) => {
            debug!("no PROXY header in time");
            return Err(None);
        }
    };
    wire.put(io);
    match header {
        Header::Local => return Ok(()),
        Header::Proxied { source, destination } => (peer.address, peer.local) = (source, destination),
        // Had it the proxy's address, it would have the proxy's rights.
        Header::Unknown => peer.address = NOBODY,
    }
    Span::current().record("client", display(peer.address));
    match place {
        Some(place) => place.belongs_to(peer.address.ip(), SystemClock.mono()).map_err(Some),
        None => Ok(()),
    }
}

async fn header(io: &mut Box<dyn Io>) -> io::Result<Header> {
    let mut octets = Vec::new();
    loop {
        match proxy::parse(&octets).map_err(io::Error::other)? {
            Parsed::Whole { header, .. } => return Ok(header),
            Parsed::Missing(count) => {
                // No more than that, and no waiting for all of it: what is no header shows early.
                if io.take(count as u64).read_buf(&mut octets).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

pub(super) fn encoded(reply: &Reply) -> Bytes {
    let mut octets = BytesMut::new();
    reply.encode(&mut octets);
    octets.freeze()
}

/// The TLS handshake on what the wire holds; `None` when it failed or took too long.
pub(super) async fn handshake(wire: &mut Wire, setup: &Setup) -> Option<TlsInfo> {
    let tls = setup.tls.as_ref()?;
    match tokio::time::timeout(setup.options.tls_handshake, tls.accept(wire.take())).await {
        Ok(Ok((io, info))) => {
            wire.put(Box::new(io));
            Span::current().record("tls", &*info.version);
            Some(info)
        }
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("TLS handshake took too long");
            None
        }
    }
}

/// Closes, after what was said last has gone out. With `linger` it reads on for a moment: closing a
/// socket with unread octets resets the connection, and the client may never see the reply.
pub(super) async fn finish(mut wire: Wire, linger: bool) {
    while wire.has_output() {
        poll_fn(|cx| wire.poll_write(cx)).await;
    }
    if wire.is_dead() {
        return;
    }
    let mut io = wire.take();
    let close = async {
        if io.shutdown().await.is_ok() && linger {
            let _ = tokio::io::copy(&mut (&mut io).take(LINGER_OCTETS), &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(LINGER, close).await;
}

/// The address of who is not known, which no rule gives any right.
pub(super) const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// A proxy sends its header at once; a lost segment is there again by then (haproxy's specification,
/// §2, wants 3 s at least).
const HEADER: Duration = Duration::from_secs(5);
/// A client that keeps sending after its end holds a connection this long at most.
const LINGER: Duration = Duration::from_secs(2);
/// More than a client has in flight when it stops at a refusal.
const LINGER_OCTETS: u64 = 1024 * 1024;
