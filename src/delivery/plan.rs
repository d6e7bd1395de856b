//! A plan is how a message that is about to be stored is stored: in which queues, and whether it is claimed
//! from birth, because there is room for it.

use crate::clock::{Now, Timestamp};
use crate::net::source::SourceName;
use crate::smtp::address::Domain;
use crate::smtp::params::Rcpt;
use crate::spool::{Class, QueueName};

use super::care::Care;
use super::core::Core;

/// How a message that is about to be stored is stored.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Per entry: its queue and when it is due.
    pub(crate) places: Vec<(QueueName, Timestamp)>,
    /// Claimed from birth until then, and handed over in memory.
    pub(crate) lease: Option<Timestamp>,
    /// Until when messages are ended under that claim.
    pub(crate) until: Now,
}

impl Core {
    /// Decides how a message with these entries is stored that is not sent before `release`, and keeps
    /// places for them. `sources` has where each goes from, where there are several.
    pub(crate) fn plan(
        &mut self,
        units: &[(Domain, Vec<Rcpt>)],
        sources: &[Option<SourceName>],
        (care, class): (Care, Class),
        release: Timestamp,
        now: Now,
    ) -> Plan {
        let (limits, free) = (self.limits(), self.free_for(class));
        let routes = self.routes.of(care);
        let mut fits = 0;
        let mut places = Vec::with_capacity(units.len());
        for (at, (destination, _)) in units.iter().enumerate() {
            let Some(Ok(routed)) = routes.get(destination, now.mono) else {
                places.push((QueueName::from(destination), release));
                fits += usize::from(routes.waiting_for(destination) < limits.ready / 2);
                continue;
            };
            let queue = routed.queue(sources.get(at).and_then(Option::as_ref));
            let lane = self.lanes.get(&queue);
            let held = lane.and_then(|lane| lane.held_until(now));
            // Half of a lane is left for what waits in the spool.
            let room = lane.is_none_or(|lane| lane.room(class, limits, free) > lane.ahead(class));
            fits += usize::from(held.is_none() && room);
            places.push((queue, held.map_or(release, |held| held.max(release))));
        }
        // One lease covers the whole message: entries without room are given back afterwards.
        let now_or_later = release <= now.wall && !self.closing;
        let lease = now_or_later && free >= units.len() && fits > 0 && fits * 2 >= units.len();
        if lease {
            self.reserved += units.len();
        }
        Plan {
            places,
            lease: lease.then(|| now.wall.after(self.options.lease)),
            until: self.options.gate_until(now),
        }
    }

    /// Gives places back that [`Core::plan`] kept.
    pub(crate) fn unreserve(&mut self, places: usize) {
        self.reserved = self.reserved.saturating_sub(places);
    }
}
