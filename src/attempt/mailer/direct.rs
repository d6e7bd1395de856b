//! Sending to each domain's own hosts: a message is split by domain, and every part goes its own way.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Mailer, SendError, unused};
use crate::attempt::{Cause, ConnectFault, Delivery, LocalFault, Outcome};
use crate::message::{MessageId, Submission, by_destination};
use crate::route::{Resolve, Route};
use crate::smtp::address::Domain;
use crate::smtp::params::Rcpt;

impl Mailer {
    /// To the hosts of each recipient's domain, all domains at once: a host that does not answer delays
    /// nobody else. As many at once as there are recipients, of which a submission has a limit; the
    /// pool's limits bound the connections.
    pub(super) async fn send_direct(
        &self,
        resolver: &Arc<dyn Resolve>,
        mut submission: Submission,
        id: MessageId,
    ) -> Delivery {
        let recipients = std::mem::take(&mut submission.recipients);
        let places: HashMap<_, _> =
            recipients.iter().enumerate().map(|(place, rcpt)| (rcpt.to.clone(), place)).collect();
        // A bare postmaster is our own.
        let own = self.options.carrier.client.session.ehlo.as_domain();
        let mut tries = JoinSet::new();
        for (domain, recipients) in by_destination(recipients, own) {
            let (mailer, resolver) = (self.clone(), Arc::clone(resolver));
            let part = Submission { recipients, ..submission.clone() };
            tries.spawn(async move { mailer.send_to(&domain, &*resolver, part, id).await });
        }
        let mut delivered = Vec::with_capacity(places.len());
        while let Some(done) = tries.join_next().await {
            match done {
                Ok(delivery) => delivered.extend(delivery.recipients),
                // Ours to hand on: nobody else aborts these tasks.
                Err(error) => {
                    if let Ok(panic) = error.try_into_panic() {
                        std::panic::resume_unwind(panic)
                    }
                }
            }
        }
        delivered.sort_by_key(|(to, _)| places.get(to).copied());
        Delivery { recipients: delivered }
    }

    async fn send_to(
        &self,
        domain: &Domain,
        resolver: &dyn Resolve,
        part: Submission,
        id: MessageId,
    ) -> Delivery {
        let recipients = part.recipients.clone();
        let outcome = match resolver.route(domain).await {
            Ok(Route::Hosts(hosts)) => match self.carry(&hosts, part, id).await {
                Ok(delivery) => {
                    if delivery.recipients.iter().any(|(_, outcome)| outcome.is_by_policy()) {
                        resolver.policy_failed(domain);
                    }
                    return delivery;
                }
                Err(SendError::Unreachable(cause)) => Outcome::unreachable(cause),
                Err(SendError::Busy(_) | SendError::Message(_)) => {
                    Outcome::Deferred(unused(&hosts, ConnectFault::Busy))
                }
            },
            // It has no store of its own.
            Ok(Route::Local(_)) => Outcome::Deferred(Cause::Local(LocalFault::NotSetUp)),
            Err(error) if error.is_transient() => Outcome::Deferred(Cause::Route(error)),
            Err(error) => Outcome::Failed(Cause::Route(error)),
        };
        if outcome.is_by_policy() {
            resolver.policy_failed(domain);
        }
        for_all(recipients, &outcome)
    }
}

fn for_all(recipients: Vec<Rcpt>, outcome: &Outcome) -> Delivery {
    Delivery { recipients: recipients.into_iter().map(|rcpt| (rcpt.to, outcome.clone())).collect() }
}
