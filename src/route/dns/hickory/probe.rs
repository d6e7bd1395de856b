//! Which source there is: found out with the first question, from the root's own records.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

use super::{HickoryDns, walk::Ask, walk::walk};
use crate::clock::{Clock, SystemClock};
use crate::route::RouteError;
use crate::route::dns::Dnssec;

/// What proves an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Plain,
    Trusted,
    Validated,
}

/// Which source is in use.
pub(super) struct Probe {
    /// Whether all name servers are on this machine.
    local: bool,
    known: Mutex<Known>,
    /// Held by whoever finds out; the others wait for what it finds.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    source: Option<Source>,
    /// When to look again; never where nothing is to be found out.
    until: Option<Instant>,
    warned: bool,
}

impl Probe {
    pub(super) fn new(dnssec: Dnssec, local: bool) -> Self {
        let source = match dnssec {
            Dnssec::Off => Some(Source::Plain),
            Dnssec::Trust => Some(Source::Trusted),
            Dnssec::Validate => Some(Source::Validated),
            Dnssec::Auto => None,
        };
        let known = Mutex::new(Known { source, until: None, warned: false });
        Self { local, known, turn: tokio::sync::Mutex::default() }
    }

    /// The source to ask.
    pub(super) async fn source(&self, dns: &HickoryDns) -> Source {
        if let Some(source) = self.known(SystemClock.mono()) {
            return source;
        }
        let turn = self.turn.lock().await;
        if let Some(source) = self.known(SystemClock.mono()) {
            return source;
        }
        let (source, again) = self.find(dns).await;
        self.settle(dns, source, again);
        drop(turn);
        source
    }

    /// Does this if `source` is still the one in use: what another one said is not to be remembered.
    pub(super) fn while_in_use(&self, source: Source, work: impl FnOnce()) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.source == Some(source) {
            work();
        }
    }

    fn known(&self, now: Instant) -> Option<Source> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.source.filter(|_| known.until.is_none_or(|until| now < until))
    }

    fn settle(&self, dns: &HickoryDns, source: Source, again: Option<Duration>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers of another source may lack the proof that this one has.
        if known.source.is_some_and(|before| before != source) {
            dns.cache.clear();
        }
        known.source = Some(source);
        known.until = again.and_then(|wait| SystemClock.mono().checked_add(wait));
        if again == Some(WITHOUT_DNSSEC) && !known.warned {
            known.warned = true;
            tracing::warn!("the name servers strip DNSSEC: DANE is off");
        }
    }

    /// The best source, and when to look for a better one.
    async fn find(&self, dns: &HickoryDns) -> (Source, Option<Duration>) {
        // The root signs its SOA as all else, so one answer shows whether signatures come through and
        // whether the keys fit.
        let (root, limit) = (Name::root(), dns.servers.limit);
        if self.local {
            let ask = Ask::Trusted(&dns.servers);
            if let Ok(Ok(walked)) = timeout(limit, walk(&ask, &root, RecordType::SOA)).await
                && walked.secure
            {
                return (Source::Trusted, None);
            }
        }
        let validator = dns.validator.afresh();
        let ask = Ask::Validated(&validator);
        match timeout(limit, walk(&ask, &root, RecordType::SOA)).await {
            Ok(Ok(walked)) if walked.secure => (Source::Validated, None),
            Err(_) => (Source::Plain, Some(WITHOUT_ANSWER)),
            Ok(Err(RouteError::Timeout(_) | RouteError::Dns)) => (Source::Plain, Some(WITHOUT_ANSWER)),
            Ok(_) if validator.has_failed() => (Source::Plain, Some(WITHOUT_ANSWER)),
            Ok(_) => (Source::Plain, Some(WITHOUT_DNSSEC)),
        }
    }
}

/// When to look again where the name servers did not answer: they may be starting, as we are.
const WITHOUT_ANSWER: Duration = Duration::from_secs(60);
/// When to look again where they did, without DNSSEC: somebody may have set them up better.
const WITHOUT_DNSSEC: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_source_said_is_not_remembered() {
        let probe = Probe::new(Dnssec::Validate, true);
        for (source, expected) in
            [(Source::Validated, true), (Source::Plain, false), (Source::Trusted, false)]
        {
            let mut done = false;
            probe.while_in_use(source, || done = true);
            assert_eq!(done, expected, "{source:?}");
        }
    }
}
