//! SPF says which hosts may send under a domain (RFC 7208): [`check_host`] asks as a receiver does.
//!
//! It is here so that a sender learns before its receivers do; a host that wants to know whether the sender
//! of a message is who it says may use it as well. Explanations (`exp`) are not fetched, as they are the
//! domain's words in our mouth.
//!
//! All limits of RFC 7208 §4.6.4 hold: ten terms that ask, two of them in vain, ten hosts of an
//! MX and ten names of an address. So one check asks some two hundred questions at most, each as long as
//! the [`Dns`] takes.

mod advice;
mod eval;
mod macros;
mod record;

use std::net::IpAddr;

use crate::route::RouteError;
use crate::route::dns::{Dns, DnsName};
use crate::smtp::address::{Domain, EhloName, ReversePath};

pub(super) use advice::check;
pub(super) use eval::address;

/// What a domain says of a host (RFC 7208 §2.6).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpfResult {
    /// There is no record, or no domain that can have one.
    None,
    /// The domain does not say.
    Neutral,
    /// The host may send.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// The question could not be asked; again later.
    TempError(RouteError),
    /// The record at this name is at fault.
    PermError(SpfFault, DnsName),
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SpfFault {
    /// A term does not read (RFC 7208 §12).
    #[error("a term of the SPF record does not read")]
    Syntax,
    /// The record has more than 8,192 octets.
    #[error("the SPF record is too long")]
    TooLong,
    /// `redirect` or `exp` is there twice.
    #[error("a modifier of the SPF record is there twice")]
    Twice,
    /// The domain has more than one record.
    #[error("there are several SPF records")]
    Several,
    /// The domain of an `include` or a `redirect` has no record.
    #[error("the SPF record leads to a domain without one")]
    NoRecord,
    /// More than ten terms that ask DNS.
    #[error("the SPF record takes more than ten look-ups")]
    LookUps,
    /// More than two terms whose questions have no answer.
    #[error("the SPF record asks for more than two names without records")]
    Void,
    /// An MX with more than ten hosts.
    #[error("the SPF record asks for more than ten hosts of an MX")]
    Hosts,
}

/// What a check found out on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evaluation {
    /// The result.
    pub result: SpfResult,
    /// How many terms asked DNS, up to the one that matched. Ten are allowed.
    pub look_ups: usize,
    /// Whether it came by a `ptr`, which is slow, and not to be published (RFC 7208 §5.5).
    pub used_ptr: bool,
}

/// Whether the host at `ip` may send under `domain`, with this sender, having said this in EHLO
/// (RFC 7208 §4).
///
/// `domain` is the sender's; for the null sender, and where the host itself is to be checked, the name in
/// EHLO. `sender` counts for macros only; the null sender becomes `postmaster` at the name in EHLO.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn check_host(
    dns: &dyn Dns,
    ip: IpAddr,
    domain: &Domain,
    sender: &ReversePath,
    helo: &EhloName,
) -> SpfResult {
    evaluate(dns, ip, domain, sender, helo).await.result
}

/// The same, with what it took.
///
/// # Cancel safety
/// May be dropped at any time.
pub async fn evaluate(
    dns: &dyn Dns,
    ip: IpAddr,
    domain: &Domain,
    sender: &ReversePath,
    helo: &EhloName,
) -> Evaluation {
    let (local, sender_domain) = match sender {
        ReversePath::Mailbox(mailbox) => (mailbox.local(), mailbox.domain()),
        // RFC 7208 §2.4
        ReversePath::Null => ("postmaster", helo.as_domain()),
    };
    let mut eval = eval::Eval::new(dns, ip.to_canonical(), local, sender_domain.as_str(), helo.as_str());
    // RFC 7208 §4.3: an address literal has no record, and neither has a name of one label.
    let result = match DnsName::of(domain).filter(|name| name.as_str().contains('.')) {
        Some(name) => eval.check(name).await,
        None => SpfResult::None,
    };
    eval.finish(result)
}
