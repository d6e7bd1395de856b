//! The accept loop of one listening socket: who gets in is given a task of its own.
//!
//! It never ends because of an error: without descriptors it waits and goes on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::conversation::{self, Start};
use super::handler::{Peer, SessionInfo};
use super::limits::TooMany;
use super::serve::{Current, Setup};
use crate::clock::{Clock, SystemClock};

/// The sessions of one listening socket.
pub(super) type Sessions = JoinSet<()>;

pub(super) async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    // Sets SO_REUSEADDR where that is safe, so that a restart need not wait.
    TcpListener::bind(address).await
}

/// Accepts until told to stop; returns the sessions that still run.
pub(super) async fn accept(
    listener: TcpListener,
    start: Start,
    setup: Current,
    mut stop: watch::Receiver<bool>,
) -> Sessions {
    let mut sessions = Sessions::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = conversation::stopped(&mut stop) => return sessions,
            accepted = listener.accept() => accepted,
        };
        while let Some(ended) = sessions.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                warn!("a session ended in a panic");
            }
        }
        match accepted {
            Ok((stream, address)) => {
                pause = FIRST_PAUSE;
                admit(stream, address, start, &setup.now(), &stop, &mut sessions);
            }
            // These are about one connection, which is gone.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) =>
            {
                debug!(%error, "a connection was gone before it was accepted");
            }
            // No descriptors or no memory: the connection stays in the kernel's queue, and asking
            // again at once would spin.
            Err(error) => {
                warn!(%error, ?pause, "cannot accept");
                tokio::select! {
                    biased;
                    () = conversation::stopped(&mut stop) => return sessions,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn admit(
    stream: TcpStream,
    address: SocketAddr,
    start: Start,
    setup: &Arc<Setup>,
    stop: &watch::Receiver<bool>,
    sessions: &mut Sessions,
) {
    // Whose a proxy's connection is, its header will say.
    let place = if setup.is_proxy(address.ip()) {
        setup.limits.enter_unknown()
    } else {
        setup.limits.enter(address.ip(), SystemClock.mono())
    };
    let place = match place {
        Ok(place) => place,
        Err(why) => {
            setup.refused(address, why);
            if start != Start::Tls {
                dismiss(stream, why);
            }
            return;
        }
    };
    let Ok(local) = stream.local_addr() else { return };
    // Replies leave in one write each flight: waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    setup.counters.connections.fetch_add(1, Relaxed);
    let (setup, stop) = (Arc::clone(setup), stop.clone());
    sessions.spawn(async move {
        let info = SessionInfo::new(Peer { address, local });
        conversation::serve(Box::new(stream), info, start, &setup, stop, Some(place)).await;
    });
}

/// Says why and closes, without waiting: the accept loop must not be held up, and the few octets
/// always fit an empty socket buffer.
fn dismiss(stream: TcpStream, why: TooMany) {
    let mut octets = BytesMut::new();
    why.reply().encode(&mut octets);
    // The runtime's socket only writes when it has heard that it is writable, which a socket this
    // young has not.
    if let Ok(mut stream) = stream.into_std() {
        let _ = io::Write::write(&mut stream, &octets);
    }
}

/// Descriptors come back as sessions end, within moments as a rule.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Short enough that clients in the kernel's queue do not give up.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
