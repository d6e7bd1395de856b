//! Composing: how a message that is handed over becomes one that can be stored. An engine does it, and so
//! does who stores messages for engines elsewhere.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::engine::{NewMail, SubmitError};
use super::journal;
use super::options::EngineOptions;
use super::retry::Retry;
use super::shared::in_front;
use super::terms::{self, Notices};
use super::wishes::{SubmitOptions, Wishes};
use crate::attempt::Signatory;
use crate::clock::{Clock, Rng, Timestamp};
use crate::message::{
    self, IntoSubmission, MessageId, Sign, SignError, Submission, SubmitContext, by_destination,
};
use crate::smtp::address::{Domain, EhloName};
use crate::smtp::params::{Mail, Rcpt};
use crate::spool::{NewBody, NewEntry, NewMessage, QueueName};

/// When a message may be sent, and until when it is tried.
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) release: Timestamp,
    pub(crate) expires: Timestamp,
    notices: Notices,
}

impl Times {
    /// Those of a message that is accepted now. A hold becomes the time of release.
    ///
    /// # Errors
    /// [`SubmitError::Hold`] and [`SubmitError::Release`]
    pub(crate) fn of(
        mail: &mut Mail,
        now: Timestamp,
        options: &EngineOptions,
        retry: &Retry,
    ) -> Result<Self, SubmitError> {
        check_times(mail, now, options.max_hold)?;
        let release = terms::release(mail, now);
        let last = retry.expires(release, &mail.from);
        let expires = terms::return_at(mail, now).map_or(last, |at| at.min(last));
        Ok(Self { release, expires, notices: Notices::of_message(mail, now, options.delay_notice) })
    }

    /// The due time that an entry is stored with which could be tried at `due`: not past the time of a notice
    /// or the last one.
    pub(crate) fn first(&self, due: Timestamp, now: Timestamp) -> Timestamp {
        self.notices.first(due, now).min(self.expires)
    }
}

/// Makes a hold the time of release, if that is soon enough.
///
/// # Errors
/// [`SubmitError::Hold`] and [`SubmitError::Release`]
pub(crate) fn check_times(mail: &mut Mail, now: Timestamp, max_hold: Duration) -> Result<(), SubmitError> {
    terms::fix_release(mail, now);
    let release = terms::release(mail, now);
    if release.since(now) > max_hold.saturating_add(ROUNDED) {
        return Err(SubmitError::Hold);
    }
    match terms::deliver_by(mail, now) {
        Some(by) if mail.hold.is_some() && by <= release => Err(SubmitError::Release),
        _ => Ok(()),
    }
}

/// The host program's message, made complete, with what was asked for.
///
/// # Errors
/// [`SubmitError::Message`]
pub(crate) fn begin(
    message: impl IntoSubmission,
    context: &SubmitContext,
    mut options: SubmitOptions,
) -> Result<(Submission, Wishes), SubmitError> {
    let mut submission = message.into_submission(context)?.handled();
    options.handle(&mut submission.handling);
    let wishes = Wishes::new(options.key, || submission.digest(), options.keep);
    Ok((submission, wishes))
}

/// A head with the signatures of the message in front, where something signs it.
///
/// # Errors
/// [`SignError`]
pub(crate) async fn signed(
    signatory: Option<&Signatory>,
    head: Bytes,
    content: &Bytes,
) -> Result<Bytes, SignError> {
    let Some(signatory) = signatory else { return Ok(head) };
    let fields = signatory.sign([head.clone(), content.clone()]).await?;
    Ok(in_front(fields, head))
}

/// The message as it is stored, whose recipients are sorted into `units` that wait at `places`.
///
/// # Errors
/// [`SubmitError::Key`]
pub(crate) fn message(
    mail: NewMail,
    units: Vec<(Domain, Vec<Rcpt>)>,
    places: &[(QueueName, Timestamp)],
    (now, expires): (Timestamp, Timestamp),
    wishes: &Wishes,
    options: &EngineOptions,
) -> Result<NewMessage, SubmitError> {
    let NewMail { id, mail, handling, head, body, .. } = mail;
    let entry = |((destination, recipients), (queue, due)): (_, &(QueueName, Timestamp))| NewEntry {
        destination,
        queue: queue.clone(),
        due: *due,
        recipients,
    };
    let entries = units.into_iter().zip(places).map(entry).collect();
    let key = wishes.key(handling.tenant.as_ref(), options, now)?;
    Ok(NewMessage {
        id,
        mail,
        handling,
        head,
        body,
        accepted: now,
        expires,
        entries,
        key,
        keep: wishes.keep(options),
        log: options.log.map(|_| journal::accepted(id, now)).into_iter().collect(),
    })
}

/// Composes without an engine, for engines elsewhere: under the same options, or what they decide on
/// acceptance differs.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "only a spool that is shared needs it"))]
pub(crate) struct Composer {
    pub(crate) ehlo: EhloName,
    pub(crate) options: EngineOptions,
    pub(crate) retry: Retry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    signatory: Option<Signatory>,
}

#[cfg_attr(not(feature = "postgres"), allow(dead_code, reason = "only a spool that is shared needs it"))]
impl Composer {
    pub(crate) fn new(ehlo: EhloName, clock: Arc<dyn Clock>, rng: Rng) -> Self {
        Self { ehlo, options: EngineOptions::new(), retry: Retry::new(), clock, rng, signatory: None }
    }

    pub(crate) fn sign(&mut self, signer: Arc<dyn Sign>) {
        self.signatory = Some(Signatory::new(signer, Arc::clone(&self.clock)));
    }

    /// The message as an engine would store it that knows no routes yet.
    ///
    /// # Errors
    /// [`SubmitError`], but none of a spool.
    pub(crate) async fn compose(
        &self,
        message: impl IntoSubmission,
        options: SubmitOptions,
    ) -> Result<NewMessage, SubmitError> {
        let now = self.clock.now().wall;
        let id = options.id.unwrap_or_else(|| MessageId::new(now, &self.rng));
        let mut context = SubmitContext::new(self.ehlo.clone(), now, id);
        context.max_recipients = self.options.max_recipients;
        let (submission, wishes) = begin(message, &context, options)?;
        let Submission { mut mail, handling, recipients, head, content } = submission;
        if recipients.is_empty() {
            return Err(message::SubmitError::NoRecipients.into());
        }
        let times = Times::of(&mut mail, now, &self.options, &self.retry)?;
        let head = signed(self.signatory.as_ref(), head, &content).await?;
        let units = by_destination(recipients, self.ehlo.as_domain());
        let due = times.first(times.release, now);
        let places: Vec<_> = units.iter().map(|(domain, _)| (QueueName::from(domain), due)).collect();
        let mut new = NewMail::new(id, mail, Vec::new(), NewBody::Inline(content));
        (new.head, new.handling) = (head, handling);
        self::message(new, units, &places, (now, times.expires), &wishes, &self.options)
    }
}

/// A release is kept in whole seconds.
const ROUNDED: Duration = Duration::from_secs(1);
