//! XCLIENT: a trusted proxy names the client behind it, and the handler is asked about that one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Talk;
use super::answers::negative;
use super::opening::NOBODY;
use crate::BoxFuture;
use crate::clock::{Clock, SystemClock};
use crate::server::body::BodyStream;
use crate::server::handler::{Conversation, Peer, SessionInfo, Transaction, Verdict};
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::smtp::xclient::{Attribute, Xclient};

impl Talk<'_> {
    pub(super) async fn introduce(&mut self, told: &Xclient, conversation: &mut Box<dyn Conversation>) {
        self.settle(&mut **conversation);
        let before = Arc::clone(&self.info);
        let mut info = SessionInfo::new(behind(before.peer, told));
        info.protocol = before.protocol;
        info.extended = told.extended.value().is_some_and(|extended| *extended);
        info.hello = match &told.hello {
            Attribute::Is(name) => Some(name.clone()),
            // Several commands for one client.
            Attribute::Untold if self.session.hello().is_none() => before.hello.clone(),
            _ => None,
        };
        let now = SystemClock.mono();
        if !told.address.is_untold()
            && let Some(Err(why)) =
                self.place.as_mut().map(|place| place.belongs_to(info.peer.address.ip(), now))
        {
            self.setup.refused(info.peer.address, why);
            return self.session.close(&why.reply());
        }
        let handler = &self.setup.handler;
        match self.decide(handler.connect(&info.peer)).await {
            Ok(new) => {
                *conversation = new;
                self.respond(Reply::new(250, EnhancedCode::new(2, 0, 0), "welcome"));
                info.user = self.session.user().map(Into::into);
                info.tls = self.session.tls().cloned();
                self.info = Arc::new(info);
            }
            Err(reply) => self.session.refuse(&negative(reply), now),
        }
    }
}

/// The handler's side of a session that was refused: nothing of it is ever asked.
pub(super) struct Nobody;

impl Conversation for Nobody {
    fn message(&mut self, _: Transaction, _: BodyStream) -> BoxFuture<'_, Verdict> {
        Box::pin(async { super::answers::local_error().into() })
    }
}

fn behind(proxy: Peer, told: &Xclient) -> Peer {
    Peer {
        address: socket(proxy.address, &told.address, &told.port),
        local: socket(proxy.local, &told.local_address, &told.local_port),
    }
}

/// What a proxy cannot tell is nobody's: were it the proxy's own, its clients would have its rights.
fn socket(before: SocketAddr, address: &Attribute<IpAddr>, port: &Attribute<u16>) -> SocketAddr {
    let (same, ip) = match address {
        Attribute::Untold => (true, before.ip()),
        Attribute::Is(address) => (false, *address),
        Attribute::Unavailable | Attribute::NotNow => (false, NOBODY.ip()),
    };
    let port = match port {
        Attribute::Untold if same => before.port(),
        Attribute::Is(port) => *port,
        _ => 0,
    };
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_cannot_tell_is_not_taken_from_the_proxy() {
        let (proxy, nobody) = ("10.0.0.1:4000".parse().unwrap(), Attribute::Unavailable);
        let is = |ip: &str| Attribute::Is(ip.parse().unwrap());
        for (address, port, told) in [
            (Attribute::Untold, Attribute::Untold, "10.0.0.1:4000"),
            (Attribute::Untold, Attribute::Is(9), "10.0.0.1:9"),
            (is("192.0.2.1"), Attribute::Is(9), "192.0.2.1:9"),
            (is("192.0.2.1"), Attribute::Untold, "192.0.2.1:0"),
            (nobody, Attribute::Untold, "0.0.0.0:0"),
            (Attribute::NotNow, Attribute::Is(9), "0.0.0.0:9"),
        ] {
            assert_eq!(socket(proxy, &address, &port).to_string(), told);
        }
    }
}
