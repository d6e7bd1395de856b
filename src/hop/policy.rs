//! The policy chain: what TLS a host must show for a message, who demands it, and whether a connection
//! shows it. All of it is in this one file; nothing else decides.
//!
//! For one host of a route the first row that applies decides. A [`Demand`] is one row's right side.
//!
//! | when | TLS that must be shown | by |
//! |---|---|---|
//! | the route says [`Require::Cleartext`] | none; it is not even tried | the host program |
//! | the host's TLSA records could not be had | the host is not used for now | DANE |
//! | it has TLSA records | a certificate that matches one; that is as good as a valid one | DANE |
//! | the route says [`Require::Verified`], or the message REQUIRETLS | a certificate valid for its name | MTA-STS, the host program, the message |
//! | none of its TLSA records can be used | TLS, whatever the certificate | DANE |
//! | the route says [`Require::Encrypted`] | TLS, whatever the certificate | the host program |
//! | else | TLS where offered; else, and where the handshake fails, none | nobody |
//!
//! REQUIRETLS takes the first row away: a message that asks for TLS does not go without.
//!
//! [`Demand::admits`] is asked after the handshake and before the first command over TLS, also where a
//! session was resumed, and again before each MAIL: a connection that was opened for one destination
//! never carries another's mail over less than that one demands.

use std::fmt;

use super::{Host, PolicyKind, Refused, Require, Seen, TlsFault, Tlsa};

/// What TLS a host must show for a message, and who demands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Demand {
    /// None; TLS is not even tried.
    Cleartext,
    /// TLS where the host offers it, whatever its certificate; cleartext where it does not, or where
    /// the handshake fails (RFC 7435).
    Opportunistic,
    /// TLS, whatever the certificate.
    Encrypted(PolicyKind),
    /// TLS with a certificate that the trusted roots say is valid for the host's name.
    Verified(PolicyKind),
    /// TLS with a certificate that matches a TLSA record of the host (RFC 7672).
    Dane,
    /// The host is not to be used for now: what DANE demands could not be found out.
    Unknown,
}

impl Demand {
    /// The first row of the table that applies to `host`, where its route requires `require` in the name of
    /// `by`, and the message REQUIRETLS or not.
    #[must_use]
    pub fn of(require: Require, by: PolicyKind, host: &Host, message_requires: bool) -> Self {
        match (require, message_requires, &host.tlsa) {
            (Require::Cleartext, false, _) => Self::Cleartext,
            (_, _, Tlsa::Failed) => Self::Unknown,
            (_, _, Tlsa::Records(_)) => Self::Dane,
            (Require::Verified, _, _) => Self::Verified(by),
            (_, true, _) => Self::Verified(PolicyKind::Message),
            (_, _, Tlsa::Unusable) => Self::Encrypted(PolicyKind::Dane),
            (Require::Encrypted, _, _) => Self::Encrypted(by),
            (Require::Opportunistic, _, Tlsa::Absent) => Self::Opportunistic,
        }
    }

    /// Whether a connection to `host` that showed `seen` may carry a message of which this is demanded. A
    /// connection that showed more is admitted too. A match counts for the TLSA records that it was made
    /// with: whoever keeps connections asks besides whether those are still the host's.
    ///
    /// # Errors
    /// [`Refused`] says what is missing.
    pub fn admits(self, host: &Host, seen: &Seen) -> Result<(), Refused> {
        match (self, &seen.tls) {
            (Self::Unknown, _) => Err(Refused::Unknown),
            (Self::Cleartext | Self::Opportunistic, _) | (Self::Encrypted(_), Some(_)) => Ok(()),
            (Self::Encrypted(_) | Self::Verified(_) | Self::Dane, None) => Err(Refused::NoTls),
            (Self::Verified(_), Some(tls)) if tls.verified.as_ref() == Some(&host.name) => Ok(()),
            (Self::Verified(_), Some(tls)) => {
                Err(Refused::NotVerified(tls.fault.unwrap_or(TlsFault::NotTrusted)))
            }
            (Self::Dane, Some(tls)) if tls.dane => Ok(()),
            (Self::Dane, Some(tls)) => Err(Refused::NoMatch(tls.fault.unwrap_or(TlsFault::NotValid))),
        }
    }

    /// Who demands it.
    #[must_use]
    pub const fn by(self) -> PolicyKind {
        match self {
            Self::Cleartext => PolicyKind::Own,
            Self::Opportunistic => PolicyKind::Opportunistic,
            Self::Encrypted(by) | Self::Verified(by) => by,
            Self::Dane | Self::Unknown => PolicyKind::Dane,
        }
    }

    /// Whether nothing may be sent in clear.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        !matches!(self, Self::Cleartext | Self::Opportunistic)
    }
}

/// What the host program requires, for connections that no route's policies are asked about.
impl From<Require> for Demand {
    fn from(require: Require) -> Self {
        match require {
            Require::Cleartext => Self::Cleartext,
            Require::Opportunistic => Self::Opportunistic,
            Require::Encrypted => Self::Encrypted(PolicyKind::Own),
            Require::Verified => Self::Verified(PolicyKind::Own),
        }
    }
}

impl fmt::Display for Demand {
    /// As the first half of a sentence: `MTA-STS requires a valid certificate`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cleartext => f.write_str("nothing is required"),
            Self::Opportunistic => f.write_str("TLS is used where it is offered"),
            Self::Encrypted(by) => write!(f, "{by} requires TLS"),
            Self::Verified(by) => write!(f, "{by} requires a valid certificate"),
            Self::Dane => f.write_str("DANE requires a certificate that matches its TLSA records"),
            Self::Unknown => f.write_str("DANE may require a certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::hop::{TlsSeen, TlsaRecord, TlsaSet};
    use crate::smtp::address::Domain;

    fn name(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn host(tlsa: Tlsa) -> Host {
        Host { tlsa, ..Host::new(name("mx.a.test"), 25) }
    }

    fn records() -> Tlsa {
        let record = TlsaRecord::new(3, 1, 1, Bytes::from_static(&[7; 32])).unwrap();
        Tlsa::Records(Arc::new(TlsaSet::new(name("mx.a.test"), vec![record])))
    }

    #[test]
    fn every_combination_of_policies_has_one_demand() {
        use Demand::{Cleartext, Dane, Encrypted, Opportunistic, Unknown, Verified};
        use PolicyKind::{Message, Own, Sts};
        let by_dane = Encrypted(PolicyKind::Dane);
        let verified = [(Tlsa::Absent, 0), (Tlsa::Failed, 1), (records(), 2), (Tlsa::Unusable, 3)];
        // What the route requires, by whom, and what follows for a host whose TLSA records are absent,
        // failed, there, unusable; first for any message, then for one with REQUIRETLS.
        let table = [
            (Require::Cleartext, Own, [Cleartext; 4], [Verified(Message), Unknown, Dane, Verified(Message)]),
            (
                Require::Opportunistic,
                PolicyKind::Opportunistic,
                [Opportunistic, Unknown, Dane, by_dane],
                [Verified(Message), Unknown, Dane, Verified(Message)],
            ),
            (
                Require::Encrypted,
                Own,
                [Encrypted(Own), Unknown, Dane, by_dane],
                [Verified(Message), Unknown, Dane, Verified(Message)],
            ),
            (
                Require::Verified,
                Own,
                [Verified(Own), Unknown, Dane, Verified(Own)],
                [Verified(Own), Unknown, Dane, Verified(Own)],
            ),
            (
                Require::Verified,
                Sts,
                [Verified(Sts), Unknown, Dane, Verified(Sts)],
                [Verified(Sts), Unknown, Dane, Verified(Sts)],
            ),
        ];
        let mut rows = 0;
        for (require, by, usual, required) in table {
            for (tlsa, at) in &verified {
                for (message, expected) in [(false, usual[*at]), (true, required[*at])] {
                    let demand = Demand::of(require, by, &host(tlsa.clone()), message);
                    assert_eq!(demand, expected, "{require:?} {by:?} {tlsa:?} REQUIRETLS={message}");
                    rows += 1;
                }
            }
        }
        assert_eq!(rows, 40);
    }

    #[test]
    fn a_connection_is_admitted_by_what_it_showed_and_by_nothing_else() {
        let tls = |verified: Option<&str>, dane: bool, fault: Option<TlsFault>| {
            let seen = TlsSeen::new("TLSv1.3", "X", verified.map(name), false);
            Seen::tls(TlsSeen { dane, fault, ..seen })
        };
        let showed = [
            Seen::default(),
            tls(None, false, Some(TlsFault::Expired)),
            tls(Some("mx.b.test"), false, None),
            tls(Some("mx.a.test"), false, Some(TlsFault::NotValid)),
            tls(None, true, None),
            tls(Some("mx.a.test"), true, None),
        ];
        let ok = Ok::<(), Refused>(());
        let (no_tls, expired) = (Err(Refused::NoTls), Err(Refused::NotVerified(TlsFault::Expired)));
        let untrusted = Err(Refused::NotVerified(TlsFault::NotTrusted));
        let no_match = Err(Refused::NoMatch(TlsFault::NotValid));
        let old = Err(Refused::NoMatch(TlsFault::Expired));
        for (demand, verdicts) in [
            (Demand::Cleartext, [ok; 6]),
            (Demand::Opportunistic, [ok; 6]),
            (Demand::Encrypted(PolicyKind::Own), [no_tls, ok, ok, ok, ok, ok]),
            (Demand::Verified(PolicyKind::Sts), [no_tls, expired, untrusted, ok, untrusted, ok]),
            (Demand::Dane, [no_tls, old, no_match, no_match, ok, ok]),
            (Demand::Unknown, [Err(Refused::Unknown); 6]),
        ] {
            for (seen, verdict) in showed.iter().zip(verdicts) {
                assert_eq!(demand.admits(&host(Tlsa::Absent), seen), verdict, "{demand:?} {seen:?}");
            }
        }
    }
}
