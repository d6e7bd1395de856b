//! One domain's report on its way: looked up whether it is wanted, made, handed over and noted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::journal::{Line, sent};
use super::mail::GZIP;
use super::{Day, PostReport, ReportRecord, ReportTo, Submitter, Tally, TallyStore, TlsReport};
use crate::clock::Clock;
use crate::delivery::{Engine, SubmitError};
use crate::route::dns::Dns;
use crate::smtp::address::Domain;

/// One domain to be told of one day.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) day: Day,
    pub(super) domain: Domain,
    tally: Arc<Tally>,
    /// The addresses that are done, be it that they were given up.
    over: HashSet<ReportTo>,
    pub(super) tries: u32,
    /// When it is given up.
    pub(super) until: Instant,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is nothing more to do.
    Over,
    /// Something may work later.
    Again,
}

impl Job {
    pub(super) fn new(day: Day, domain: Domain, tally: Arc<Tally>, until: Instant) -> Self {
        Self { day, domain, tally, over: HashSet::new(), tries: 0, until }
    }
}

/// What sending needs.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) engine: Engine,
    pub(super) dns: Arc<dyn Dns>,
    pub(super) post: Option<Arc<dyn PostReport>>,
    pub(super) store: Arc<dyn TallyStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) submitter: Submitter,
}

impl Sender {
    /// Sends what is not sent yet, to each address that the domain names now.
    pub(super) async fn send(&self, job: &mut Job) -> Progress {
        let record = match ReportRecord::look_up(&*self.dns, &job.domain).await {
            Ok(Some(record)) => record,
            Ok(None) => return Progress::Over,
            Err(_) => return Progress::Again,
        };
        let Some(report) = TlsReport::new(job.day, &job.domain, &job.tally, &self.submitter) else {
            return Progress::Over;
        };
        let mut progress = Progress::Over;
        for to in record.to {
            if job.over.contains(&to) || job.tally.is_sent(&job.domain, &to) {
                continue;
            }
            match self.hand_over(&report, &to).await {
                Handed::Over => self.note(job.day, &sent(&job.domain, &to)).await,
                Handed::Never => {}
                Handed::NotYet => {
                    progress = Progress::Again;
                    continue;
                }
            }
            job.over.insert(to);
        }
        progress
    }

    async fn hand_over(&self, report: &TlsReport, to: &ReportTo) -> Handed {
        let domain = &report.domain;
        match to {
            ReportTo::Mail(mailbox) => {
                let mail = match report.to_mail(mailbox, self.engine.ehlo(), self.clock.now().wall) {
                    Ok(mail) => mail,
                    Err(error) => {
                        tracing::error!(%error, %domain, "a TLS report cannot be made a mail");
                        return Handed::Never;
                    }
                };
                match self.engine.submit_as(report.mail_id(mailbox), mail).await {
                    Ok(_) => Handed::Over,
                    Err(SubmitError::Spool(_) | SubmitError::Closed) => Handed::NotYet,
                    Err(error) => {
                        tracing::error!(%error, %domain, "a TLS report was not taken");
                        Handed::Never
                    }
                }
            }
            ReportTo::Https(uri) => {
                let (Some(post), Ok(body)) = (&self.post, report.to_gzip()) else { return Handed::Never };
                match post.post(uri, GZIP, Bytes::from(body)).await {
                    Ok(()) => Handed::Over,
                    Err(error) if error.is_transient() => Handed::NotYet,
                    Err(error) => {
                        tracing::warn!(%error, %domain, uri, "a TLS report was refused");
                        Handed::Never
                    }
                }
            }
        }
    }

    /// Notes what was done. Not noted, it may be done again after a restart.
    pub(super) async fn note(&self, day: Day, line: &Line) {
        if let Err(error) = self.store.append(day, line.to_text()).await {
            tracing::error!(%error, %day, "what was done about TLS reports could not be noted");
        }
    }
}

enum Handed {
    Over,
    NotYet,
    Never,
}
