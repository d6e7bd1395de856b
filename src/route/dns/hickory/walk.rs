//! From a name to its records, along its CNAMEs, one at a time.

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::reply::{Link, Reply, What};
use super::servers::Servers;
use super::validate::Validator;
use crate::route::RouteError;
use crate::route::dns::Answer;

/// Who is asked, and whose word counts.
pub(super) enum Ask<'a> {
    /// Nobody's.
    Plain(&'a Servers),
    /// The servers'.
    Trusted(&'a Servers),
    /// Ours.
    Validated(&'a Validator),
}

/// The end of a walk.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) answer: Answer<RData>,
    /// Whether all of the chain and its end is proven.
    pub(super) secure: bool,
    /// Whether the first of the chain is.
    pub(super) secure_start: bool,
    pub(super) end: Name,
    /// In seconds, the least on the way.
    pub(super) ttl: u32,
}

/// Follows a name. A gap in the chain is asked for, and never bridged.
///
/// # Errors
/// What went wrong; [`RouteError::Bogus`] where a proof does not hold.
pub(super) async fn walk(ask: &Ask<'_>, name: &Name, kind: RecordType) -> Result<Walked, RouteError> {
    let mut reply = ask.ask(name, kind).await?;
    let mut at = name.clone();
    let (mut secure, mut secure_start, mut ttl) = (true, None, u32::MAX);
    for _ in 0..=MAX_CHAIN {
        let (answer, is_secure, lives) = loop {
            let link = match reply.at(&at, kind) {
                Err(RouteError::Bogus) => Some(ask.alias_apart(&at).await?),
                link => link?,
            };
            if let Some(link) = link {
                let answer = match link.what {
                    What::Records(records) => Step::End(Answer::Records(records)),
                    What::Alias(target) => Step::On(target),
                };
                break (answer, link.secure, link.ttl);
            }
            if let Some((answer, secure, ttl)) = reply.absence(&at)? {
                break (Step::End(answer), secure, ttl);
            }
            reply = ask.ask(&at, kind).await?;
        };
        secure &= is_secure;
        ttl = ttl.min(lives);
        match answer {
            Step::End(answer) => {
                let secure_start = match secure_start {
                    Some(known) => known || secure,
                    None => secure,
                };
                return Ok(Walked { answer, secure, secure_start, end: at, ttl });
            }
            Step::On(target) => {
                secure_start = match secure_start {
                    // One word for all of a response: that on its first part is asked for apart.
                    None if !is_secure => Some(ask.is_alias_authentic(name).await),
                    None => Some(true),
                    known => known,
                };
                at = target;
            }
        }
    }
    // In circles, or as good as. There is nothing at its end.
    Ok(Walked { answer: Answer::NoData, secure: false, secure_start: false, end: name.clone(), ttl })
}

enum Step {
    End(Answer<RData>),
    On(Name),
}

impl Ask<'_> {
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Reply, RouteError> {
        match self {
            Self::Plain(servers) => servers.ask(name, kind, false).await,
            Self::Trusted(servers) => servers.ask(name, kind, true).await,
            Self::Validated(validator) => validator.ask(name, kind).await,
        }
    }

    /// The CNAME at a name whose proof does not hold in the response to another question: the library
    /// judges some proofs by NSEC3 only where the response has nothing else in it.
    async fn alias_apart(&self, name: &Name) -> Result<Link, RouteError> {
        let link = self.ask(name, RecordType::CNAME).await?.at(name, RecordType::CNAME)?;
        let Some(Link { what: What::Records(records), secure, ttl }) = link else {
            return Err(RouteError::Bogus);
        };
        match records.into_iter().next() {
            Some(RData::CNAME(target)) => Ok(Link { what: What::Alias(target.0), secure, ttl }),
            _ => Err(RouteError::Bogus),
        }
    }

    /// Whether servers whose word counts call the CNAME at a name authentic.
    async fn is_alias_authentic(&self, name: &Name) -> bool {
        let Self::Trusted(servers) = self else { return false };
        let Ok(reply) = servers.ask(name, RecordType::CNAME, true).await else { return false };
        reply.at(name, RecordType::CNAME).ok().flatten().is_some_and(|link| link.secure)
    }
}

/// How many CNAMEs are followed: twice what anybody needs, and as many as other resolvers do.
const MAX_CHAIN: usize = 9;
