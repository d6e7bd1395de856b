//! The dialogue of a session, for whoever wants to see it: see
//! [`ServerOptions::trace`](super::ServerOptions::trace). Nobody looking costs one branch a read.

use super::handler::Peer;
use super::options::ServerOptions;
use crate::net::{TraceLine, Tracer};
use crate::smtp::TlsInfo;
use crate::smtp::server::{Heard, Session};

/// `None` when nobody looks, which is decided once a session.
pub(super) struct Trace(Option<Tracer>);

impl Trace {
    pub(super) fn new(options: &ServerOptions, peer: &Peer) -> Self {
        let tracer = Tracer::new(options.trace.as_ref().and_then(|choose| choose(peer)));
        Self(tracer.is_on().then_some(tracer))
    }

    /// Has the session note what it hears, where somebody looks.
    pub(super) fn begin(&self, session: &mut Session) {
        if self.0.is_some() {
            session.listen();
        }
    }

    pub(super) fn secured(&self, tls: &TlsInfo) {
        if let Some(tracer) = &self.0 {
            let (version, cipher) = (&tls.version, &tls.cipher);
            tracer.show(TraceLine::Tls { version, cipher, verified: None });
        }
    }

    pub(super) fn heard(&self, session: &mut Session) {
        let Some(tracer) = &self.0 else { return };
        for heard in session.take_heard() {
            tracer.show(match &heard {
                Heard::Line(line) => TraceLine::Client(line),
                Heard::Secret => TraceLine::Secret,
                Heard::Content(octets) | Heard::Unknown(octets) => TraceLine::Content(*octets),
            });
        }
    }

    pub(super) fn said(&self, octets: &[u8]) {
        if let Some(tracer) = &self.0 {
            tracer.said(octets);
        }
    }
}
