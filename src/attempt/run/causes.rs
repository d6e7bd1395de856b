//! What went wrong with a host, as a cause.

use std::sync::Arc;

use crate::attempt::{Cause, ConnectFault, Feature, Phase};
use crate::hop::{Demand, Host, Refused, TlsSeen};
use crate::net::OpenError;
use crate::net::connect::ConnectError;
use crate::net::tls::HandshakeError;
use crate::smtp::client::{self, Failure};

pub(super) const fn phase_of(phase: client::Phase) -> Phase {
    match phase {
        client::Phase::Mail => Phase::Mail,
        client::Phase::Rcpt => Phase::Rcpt,
        client::Phase::Data => Phase::Data,
        client::Phase::Content => Phase::Content,
    }
}

/// `seen` is the TLS that was shown, as far as it is known.
pub(super) fn cause_of(host: &Arc<Host>, error: OpenError, demand: Demand, seen: Option<TlsSeen>) -> Cause {
    let host = Arc::clone(host);
    let tls = |host, refused| Cause::Tls { host, demand, refused, seen: seen.map(Arc::new) };
    let said = |host, phase, reply| Cause::Reply { host: Some(host), phase, reply };
    let fault = match error {
        OpenError::Refused(refused) => return tls(host, refused),
        OpenError::Connect(error) => match error {
            ConnectError::NoAddress => ConnectFault::NoAddress,
            ConnectError::Refused => ConnectFault::Refused,
            ConnectError::TimedOut => ConnectFault::TimedOut,
            ConnectError::Unreachable => ConnectFault::Unreachable,
            ConnectError::Proxy => ConnectFault::Proxy,
            ConnectError::Local => ConnectFault::Local,
        },
        OpenError::Handshake(HandshakeError::TimedOut) => ConnectFault::TimedOut,
        OpenError::Handshake(_) => ConnectFault::Handshake,
        OpenError::Credentials(_) => ConnectFault::NoLogin,
        OpenError::Session(failure) => match failure {
            Failure::Greeting(reply) => return said(host, Phase::Greeting, reply),
            Failure::Hello(reply) | Failure::Closing(reply) => return said(host, Phase::Hello, reply),
            Failure::Auth(Some(reply)) => return said(host, Phase::Auth, reply),
            Failure::Auth(None) => ConnectFault::NoLogin,
            Failure::AuthInClear | Failure::NoTls | Failure::TlsRefused(_) => {
                return tls(host, Refused::NoTls);
            }
            Failure::TimedOut => ConnectFault::TimedOut,
            Failure::Lost => ConnectFault::Lost,
            _ => ConnectFault::Protocol,
        },
    };
    Cause::Connect { host, fault }
}

/// How much a cause says about why a route cannot be used. A permanent reply counts least: while any
/// other host of the route may take the mail later, it is not refused for good.
pub(super) const fn telling(cause: &Cause) -> u8 {
    match cause {
        Cause::Reply { reply, .. } if reply.is_permanent() => 0,
        Cause::Reply { .. } => 6,
        Cause::Tls { .. } => 5,
        Cause::Connect { fault, .. } => match fault {
            ConnectFault::Handshake | ConnectFault::Protocol | ConnectFault::NoLogin => 4,
            ConnectFault::Lost | ConnectFault::TimedOut => 3,
            ConnectFault::Refused | ConnectFault::Unreachable => 2,
            _ => 1,
        },
        _ => 1,
    }
}

/// How much the lack of a feature says about why no host of a route can carry a message, where each
/// lacks another: what the sender asked for first, then what only another message would not need.
pub(super) const fn weight(feature: Feature) -> u8 {
    match feature {
        Feature::RequireTls => 5,
        Feature::SmtpUtf8 => 4,
        Feature::DeliverBy | Feature::FutureRelease => 3,
        Feature::Size => 2,
        _ => 1,
    }
}
