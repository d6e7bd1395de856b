//! What a server takes at most in one session and in one transaction, where it says so (RFC 9422).
//!
//! No limit is an error: what goes beyond one is left over for the next transaction, or for the next
//! connection.

use super::state::State;
use super::{MAX_RECIPIENTS, RecipientResult, Session};
use crate::smtp::address::{Domain, ForwardPath};
use crate::smtp::params::Rcpt;

impl Session {
    /// Whether the server has had all the transactions that it takes in one session (RFC 9422 §4.1,
    /// MAILMAX). None begins any more; those that are open go on.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.state == State::Ready
            && self.caps.limits.transactions.is_some_and(|most| self.begun >= u64::from(most))
    }

    /// Whether a transaction with these recipients would reach any of them on this session: not when
    /// the server takes so many domains in one session, and these are all others (RFC 9422 §4.3,
    /// RCPTDOMAINMAX).
    #[must_use]
    pub fn takes(&self, recipients: &[Rcpt]) -> bool {
        self.caps.limits.domains.is_none() || recipients.iter().any(|rcpt| self.may_name(rcpt))
    }

    /// A result for each recipient that is not to be named, and none yet for the others.
    pub(super) fn allot(&mut self, recipients: &[Rcpt]) -> Vec<Option<RecipientResult>> {
        let mut results = vec![None; recipients.len()];
        let limits = self.caps.limits;
        let most = limits.recipients.and_then(|most| usize::try_from(most).ok()).unwrap_or(MAX_RECIPIENTS);
        if recipients.len() <= most && limits.domains.is_none() {
            return results;
        }
        let mut named = 0;
        for (slot, rcpt) in results.iter_mut().zip(recipients) {
            if named < most && self.may_name(rcpt) {
                named += 1;
                self.note(rcpt);
            } else {
                *slot = Some(RecipientResult::LeftOver);
            }
        }
        results
    }

    fn may_name(&self, rcpt: &Rcpt) -> bool {
        let (Some(most), Some(domain)) = (self.caps.limits.domains, domain(rcpt)) else { return true };
        let most = usize::try_from(most).unwrap_or(MAX_DOMAINS).min(MAX_DOMAINS);
        self.domains.len() < most || self.domains.contains(domain)
    }

    fn note(&mut self, rcpt: &Rcpt) {
        if let Some(domain) = domain(rcpt)
            && self.caps.limits.domains.is_some()
            && !self.domains.contains(domain)
        {
            self.domains.push(domain.clone());
        }
    }
}

const fn domain(rcpt: &Rcpt) -> Option<&Domain> {
    match &rcpt.to {
        ForwardPath::Postmaster => None,
        ForwardPath::Mailbox(mailbox) => Some(mailbox.domain()),
    }
}

/// Domains that are remembered of a server which limits them. One that takes more gets another
/// connection for the rest.
const MAX_DOMAINS: usize = 256;
