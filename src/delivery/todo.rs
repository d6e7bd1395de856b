//! What follows from a change of the core, collected under its lock and done after it: entries to
//! settle, runs to start, news to tell.

use std::time::Duration;

use crate::attempt::{Cause, Outcome};
use crate::spool::QueueName;

use super::lane::Entry;
use super::settle::{Finished, Verdict};

/// What is to be done when the lock is gone.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    pub(crate) finished: Vec<Finished>,
    /// Lanes that may want a run.
    pub(crate) starts: Vec<QueueName>,
    pub(crate) news: Vec<SiteNews>,
    /// Whether the dispatcher has something to look at.
    pub(crate) wake: bool,
}

impl Todo {
    pub(crate) fn finish(&mut self, entry: Entry, verdict: Verdict) {
        self.finished.push(Finished { entry, verdict });
    }

    /// How many of those that came behind the first `before` were put off without a try.
    pub(crate) fn put_off_since(&self, before: usize) -> usize {
        let puts_off = |finished: &&Finished| {
            matches!(finished.verdict, Verdict::All(Outcome::Deferred(_)) | Verdict::Back { .. })
        };
        self.finished.iter().skip(before).filter(puts_off).count()
    }

    pub(crate) fn start(&mut self, site: &QueueName) {
        if self.starts.last() != Some(site) {
            self.starts.push(site.clone());
        }
    }
}

/// Something that happened to a site.
#[derive(Debug)]
pub(crate) enum SiteNews {
    Held { site: QueueName, cause: Cause, wait: Duration },
    Released { site: QueueName },
}
