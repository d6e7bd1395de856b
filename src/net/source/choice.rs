//! The choice of a source: rules by sender, tenant and destination, the first that matches; then by
//! weight among the sources that it names.
//!
//! The choice is a function of the message's id, the rules and the weights, and of nothing else: each try
//! of a message, also after a restart, comes from the same source. A host that puts off what it sees for
//! the first time (greylisting) knows a message by the address that it comes from.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Source, SourceName};
use crate::message::{Handling, MessageId, Tenant};
use crate::smtp::address::{Domain, Mailbox, ReversePath};

/// What is sent, as far as a source is chosen by it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Sending<'a> {
    /// The message.
    pub message: MessageId,
    /// Its sender.
    pub sender: &'a ReversePath,
    /// How it is handled: on whose behalf it is sent.
    pub handling: &'a Handling,
    /// Where it goes: the domain of recipients, not a host.
    pub destination: &'a Domain,
}

impl<'a> Sending<'a> {
    /// All of it.
    #[must_use]
    pub const fn new(
        message: MessageId,
        sender: &'a ReversePath,
        handling: &'a Handling,
        destination: &'a Domain,
    ) -> Self {
        Self { message, sender, handling, destination }
    }

    /// A report of our own: without a sender and on nobody's behalf, or one about TLS.
    const fn is_report(&self) -> bool {
        self.handling.uncounted
            || (matches!(self.sender, ReversePath::Null) && self.handling.tenant.is_none())
    }
}

/// When a rule applies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// The sender has this address. Its domain is compared without regard to case, its local part with.
    Sender(Mailbox),
    /// The sender's address is in this domain, itself and not one below it.
    SenderDomain(Domain),
    /// It is sent on behalf of this tenant.
    Tenant(Tenant),
    /// It goes to this domain or one below it.
    Destination(Domain),
}

impl When {
    fn applies(&self, sending: &Sending<'_>) -> bool {
        match (self, sending.sender) {
            (Self::Sender(mailbox), ReversePath::Mailbox(sender)) => mailbox == sender,
            (Self::SenderDomain(domain), ReversePath::Mailbox(sender)) => domain == sender.domain(),
            (Self::Sender(_) | Self::SenderDomain(_), _) => false,
            (Self::Tenant(tenant), _) => sending.handling.tenant.as_ref() == Some(tenant),
            (Self::Destination(domain), _) => {
                let below = sending.destination.as_str().strip_suffix(domain.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

/// The host program's own choice of a source, asked before the rules. It is called once for each try of a
/// message, on the engine's tasks: it must be quick, and say the same for a message each time.
pub trait ChooseSource: Send + Sync + fmt::Debug + 'static {
    /// The name of one of the sources. The rules choose where it is `None`, or no source has that name.
    fn choose(&self, sending: &Sending<'_>) -> Option<SourceName>;
}

/// Several sources, and which mail comes from which.
///
/// ```
/// use postroad::EhloName;
/// use postroad::net::connect::TcpConnect;
/// use postroad::net::source::{Source, Sources, When};
///
/// # fn run() -> Result<Sources, Box<dyn std::error::Error>> {
/// let source = |name: &str, ip: &str, ehlo: &str| -> Result<Source, Box<dyn std::error::Error>> {
///     Ok(Source::new(name.parse()?, EhloName::new(ehlo)?, TcpConnect::from_address(ip.parse()?)))
/// };
/// let all = vec![
///     source("a", "192.0.2.1", "a.example.com")?,
///     source("b", "192.0.2.2", "b.example.com")?,
///     source("news", "192.0.2.3", "news.example.com")?,
/// ];
/// // Three in four messages from a, and what the newsletter sends from an address of its own.
/// let sources = Sources::new(all, &[("a", 3), ("b", 1)])?
///     .rule(When::SenderDomain("news.example.com".parse()?), &[("news", 1)])?;
/// # Ok(sources) }
/// # run().unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct Sources {
    all: Vec<Source>,
    default: Pool,
    rules: Vec<(When, Pool)>,
    own: Option<Arc<dyn ChooseSource>>,
}

/// Why sources are not to be had like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Two sources have one name.
    #[error("two sources have the same name")]
    Twice,
    /// A pool names a source that there is not.
    #[error("a pool names a source that there is not")]
    Unknown,
    /// None of a pool's sources has any weight: nothing could be sent.
    #[error("no source of a pool has any weight")]
    Weightless,
    /// More than 1,000 sources or rules: rules are gone through for each message. Use [`ChooseSource`].
    #[error("too many sources or rules")]
    TooMany,
}

/// Places in the list of sources, with their weights.
#[derive(Debug, Clone)]
struct Pool {
    of: Vec<(usize, u32)>,
    total: u64,
}

impl Sources {
    /// These sources, of which `pool` gives those for mail that no rule is about, with their weights. A
    /// source with twice the weight of another is chosen twice as often; one with weight 0 never.
    ///
    /// Reports of the engine go by this pool too, whatever the rules say.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(all: Vec<Source>, pool: &[(&str, u32)]) -> Result<Self, SetupError> {
        if all.len() > MAX_SOURCES {
            return Err(SetupError::TooMany);
        }
        let mut names: Vec<_> = all.iter().map(|source| &source.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(SetupError::Twice);
        }
        let default = Pool::new(&all, pool)?;
        Ok(Self { all, default, rules: Vec::new(), own: None })
    }

    /// These sources, each with the same weight.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn equal(all: Vec<Source>) -> Result<Self, SetupError> {
        let names: Vec<_> = all.iter().map(|source| source.name.clone()).collect();
        Self::new(all, &names.iter().map(|name| (name.as_str(), 1)).collect::<Vec<_>>())
    }

    /// The same with one more rule, behind those that there are: the first that applies decides.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn rule(mut self, when: When, pool: &[(&str, u32)]) -> Result<Self, SetupError> {
        if self.rules.len() >= MAX_RULES {
            return Err(SetupError::TooMany);
        }
        self.rules.push((when, Pool::new(&self.all, pool)?));
        Ok(self)
    }

    /// The same with the host program's own choice before the rules.
    #[must_use]
    pub fn chosen_by(self, own: impl ChooseSource) -> Self {
        Self { own: Some(Arc::new(own)), ..self }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Source] {
        &self.all
    }

    /// The source that a message comes from. `None` cannot be: there is always one.
    pub(crate) fn choose(&self, sending: &Sending<'_>) -> Option<&Source> {
        if let Some(own) = &self.own {
            // What it leaves half-done is its own.
            match catch_unwind(AssertUnwindSafe(|| own.choose(sending))) {
                Ok(name) => {
                    if let Some(named) = self.all.iter().find(|source| Some(&source.name) == name.as_ref()) {
                        return Some(named);
                    }
                }
                Err(_) => tracing::error!("a choice of sources panicked"),
            }
        }
        let rule = || self.rules.iter().find(|(when, _)| when.applies(sending)).map(|(_, pool)| pool);
        let pool = if sending.is_report() { None } else { rule() }.unwrap_or(&self.default);
        self.all.get(pool.pick(sending.message)?)
    }
}

impl Pool {
    fn new(all: &[Source], pool: &[(&str, u32)]) -> Result<Self, SetupError> {
        // Each names one of them, but nothing keeps it from naming one twice.
        if pool.len() > MAX_SOURCES {
            return Err(SetupError::TooMany);
        }
        let place = |(name, weight): &(&str, u32)| {
            let place = all.iter().position(|source| source.name.as_str() == *name);
            place.map(|place| (place, *weight)).ok_or(SetupError::Unknown)
        };
        let of = pool.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let total = of.iter().map(|(_, weight)| u64::from(*weight)).sum();
        if total == 0 { Err(SetupError::Weightless) } else { Ok(Self { of, total }) }
    }

    fn pick(&self, message: MessageId) -> Option<usize> {
        let mut rest = spread(message).checked_rem(self.total)?;
        for (place, weight) in &self.of {
            match rest.checked_sub(u64::from(*weight)) {
                Some(left) => rest = left,
                None => return Some(*place),
            }
        }
        None
    }
}

/// A number that is as likely as any other, and must stay the same for ever: FNV-1a, and its high half,
/// which all octets have had a part in, folded into the low one.
fn spread(message: MessageId) -> u64 {
    let hash = message
        .to_octets()
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

/// A rack's worth of addresses: beyond that, it is a proxy's business.
const MAX_SOURCES: usize = 1_000;
/// Compared in turn, for each try of a message: some ten microseconds.
const MAX_RULES: usize = 1_000;

#[cfg(test)]
mod tests;
