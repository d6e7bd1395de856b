//! A report as a mail (RFC 8460 §5.3).
//!
//! It goes out whatever TLS its recipient's hosts show, since it may be about just that, and its own
//! connection is not counted. Nobody is told when it cannot be delivered: its sender is a program.

use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::mime::{BodyPart, MimePart};
use sha2::{Digest, Sha256};

use super::TlsReport;
use crate::clock::Timestamp;
use crate::message::{
    Envelope, Enveloped, IntoSubmission, MessageId, Submission, SubmitContext, SubmitError,
};
use crate::smtp::address::{EhloName, ForwardPath, Mailbox, ReversePath};
use crate::smtp::params::{Notify, Rcpt};

impl TlsReport {
    /// The id of the mail to this address, which is the same each time.
    #[must_use]
    pub fn mail_id(&self, to: &Mailbox) -> MessageId {
        let digest = Sha256::digest(to.to_string());
        let number = digest.iter().take(4).fold(0_u32, |number, octet| number << 8 | u32::from(*octet));
        self.id().derived(1, number)
    }

    /// The mail, as our host of this name sends it now.
    ///
    /// # Errors
    /// [`SubmitError`], when the submitter or the address can stand in no mail.
    pub fn to_mail(&self, to: &Mailbox, ehlo: &EhloName, now: Timestamp) -> Result<Submission, SubmitError> {
        let (submitter, id) = (&self.submitter, self.mail_id(to));
        let (from, domain, day) = (submitter.contact.to_string(), &self.domain, self.day);
        let text = format!(
            "This is a report about the TLS of connections for mail.\n\n\
             Domain: {domain}\nDay, in UTC: {day}\nBy: {}\nQuestions go to: {from}\n",
            submitter.domain
        );
        let content = self.to_gzip().map_err(|_| SubmitError::FieldValue)?;
        let parts = vec![
            MimePart::new(ContentType::new("text/plain").attribute("charset", "us-ascii"), text),
            MimePart::new(ContentType::new(GZIP), BodyPart::Binary(content.into()))
                .attachment(self.file_name()),
        ];
        let kind = ContentType::new("multipart/report")
            .attribute("report-type", "tlsrpt")
            .attribute("boundary", format!("tlsrpt-{id}"));
        let subject = format!(
            "Report Domain: {domain} Submitter: {} Report-ID: <{}>",
            submitter.domain,
            self.report_id()
        );
        let builder = MessageBuilder::new()
            .from(from)
            .to(to.to_string())
            // As it is: text that is long would be encoded, and programs look for these words.
            .header("Subject", raw(&subject))
            .message_id(format!("{id}@{}", submitter.domain))
            .header("TLS-Report-Domain", raw(domain.as_str()))
            .header("TLS-Report-Submitter", raw(submitter.domain.as_str()))
            // RFC 3834 §5: so that no program answers it.
            .header("Auto-Submitted", raw("auto-generated"))
            .body(MimePart::new(kind, BodyPart::Multipart(parts)));
        let mut recipient = Rcpt::new(ForwardPath::from(to.clone()));
        recipient.notify = Some(Notify::NEVER);
        let envelope = Envelope::new(ReversePath::from(submitter.contact.clone()), vec![recipient]);
        let context = SubmitContext::new(ehlo.clone(), now, id);
        let mut mail = Enveloped { envelope, builder }.into_submission(&context)?;
        // RFC 8460 §3: despite any failure of TLS; §5.3: not counted.
        (mail.handling.tls_optional, mail.handling.uncounted) = (true, true);
        Ok(mail)
    }
}

fn raw(value: &str) -> mail_builder::headers::raw::Raw<'_> {
    mail_builder::headers::raw::Raw::new(value)
}

/// What a report is, compressed (§6.4).
pub(crate) const GZIP: &str = "application/tlsrpt+gzip";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls_rpt::report::tests::report;

    fn mail(to: &str) -> Submission {
        let ehlo = EhloName::new("mail.us.test").unwrap();
        let now = Timestamp::from_millis(1_790_000_000_000);
        report().to_mail(&Mailbox::parse(to).unwrap(), &ehlo, now).unwrap()
    }

    #[test]
    fn the_mail_is_a_report_of_the_rfc() {
        let mail = mail("tls@b.test");
        let text = String::from_utf8([&mail.head[..], &mail.content[..]].concat()).unwrap();
        let unfolded = text.replace("\r\n\t", " ").replace("\r\n ", " ");
        let id = report().id();
        for line in [
            "From: <tls@us.test>".to_owned(),
            "To: <tls@b.test>".to_owned(),
            format!("Subject: Report Domain: b.test Submitter: mail.us.test Report-ID: <{id}@mail.us.test>"),
            "TLS-Report-Domain: b.test".to_owned(),
            "TLS-Report-Submitter: mail.us.test".to_owned(),
            "MIME-Version: 1.0".to_owned(),
            "Auto-Submitted: auto-generated".to_owned(),
        ] {
            let found = unfolded.split("\r\n").any(|found| found == line);
            assert!(found, "{line} in\n{text}");
        }
        let kind = unfolded.split("\r\n").find(|line| line.starts_with("Content-Type: multipart/")).unwrap();
        for part in ["multipart/report", "report-type=\"tlsrpt\"", "boundary=\"tlsrpt-"] {
            assert!(kind.contains(part), "{kind}");
        }
        assert!(unfolded.contains("\r\nContent-Type: application/tlsrpt+gzip\r\n"), "{text}");
        assert!(unfolded.contains(&report().file_name()), "{text}");
        assert!(text.is_ascii() && !mail.mail.smtputf8);
    }

    #[test]
    fn the_mail_ignores_policies_is_not_counted_and_never_bounces() {
        let mail = mail("tls@b.test");
        assert!(mail.handling.tls_optional && mail.handling.uncounted);
        assert_eq!(mail.recipients[0].notify, Some(Notify::NEVER));
        assert_eq!(mail.mail.from.to_string(), "<tls@us.test>");
    }

    #[test]
    fn the_mail_is_the_same_each_time_and_one_to_another_is_another() {
        assert_eq!(mail("tls@b.test"), mail("tls@b.test"));
        let id = |to: &str| report().mail_id(&Mailbox::parse(to).unwrap());
        assert_eq!(id("tls@b.test"), id("tls@b.test"));
        assert_ne!(id("tls@b.test"), id("tls@c.test"));
    }
}
