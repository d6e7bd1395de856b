//! A sender is looked at twice: at MAIL, whether reports could go back to it, and at RCPT, where an address
//! that was rewritten for a sender stands for it.
//!
//! The domain of a sender who is a stranger can be looked up as if there were mail for it. A domain that
//! takes none (RFC 7505 §4.2), or is not there at all, has sent nothing either. That is no check of who the
//! sender is.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Rules;
use crate::clock::Timestamp;
use crate::message::SrsError;
use crate::route::dns::{Answer, Dns, DnsName, Record, RecordKind};
use crate::route::mx::Exchange;
use crate::smtp::address::{Domain, ForwardPath, Mailbox, ReversePath};
use crate::smtp::reply::{EnhancedCode, Reply};

/// How the domains of strangers' senders are looked up at MAIL.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SenderCheck {
    /// Where to look: the [`MxResolver`](crate::route::MxResolver)'s own is at hand.
    pub dns: Arc<dyn Dns>,
    /// Refuse senders of domains that have no mail server either (550 5.1.8), and put those off that
    /// cannot be looked up (451 4.4.3). Default: `false`, only a domain that says that it takes no mail
    /// is refused. Set it where little but such mail is unwanted: while the own name servers are down,
    /// all mail of strangers then waits.
    pub unknown: bool,
    /// How long the client waits for the answer to MAIL at most. Default: 10 s, which is how long one
    /// question takes by default. RFC 5321 §4.5.3.2.2 has clients wait for five minutes.
    pub wait: Duration,
}

impl SenderCheck {
    /// Senders of domains that take no mail are refused.
    #[must_use]
    pub fn new(dns: Arc<dyn Dns>) -> Self {
        Self { dns, unknown: false, wait: Duration::from_secs(10) }
    }

    async fn look_up(&self, domain: &Domain) -> Result<(), Reply> {
        let Some(name) = DnsName::of(domain) else { return Ok(()) };
        let found = timeout(self.wait, self.ask(&name)).await.unwrap_or(Sender::NotKnown);
        let (code, enhanced, text) = match found {
            Sender::Reachable => return Ok(()),
            // RFC 7505 §4.2
            Sender::Nobody => (550, EnhancedCode::new(5, 7, 27), "the sender's domain takes no mail"),
            _ if !self.unknown => return Ok(()),
            // RFC 3463 §3.2: neither MX nor address records are as good as no domain.
            Sender::Nowhere => {
                (550, EnhancedCode::new(5, 1, 8), "there is no mail server for the sender's domain")
            }
            // Nothing is lost when the client comes again. To believe silence would open the door to
            // whoever lets questions about his name fail.
            Sender::NotKnown => {
                (451, EnhancedCode::new(4, 4, 3), "the sender's domain cannot be looked up now")
            }
        };
        Err(Reply::new(code, enhanced, text))
    }

    async fn ask(&self, name: &DnsName) -> Sender {
        match self.dns.look_up(name, RecordKind::Mx).await.answer {
            Answer::Records(found) if !found.is_empty() => {
                let null =
                    |record: &Record| matches!(record, Record::Mx(mx) if mx.exchange == Exchange::Null);
                return if found.iter().all(null) { Sender::Nobody } else { Sender::Reachable };
            }
            Answer::NoName => return Sender::Nowhere,
            Answer::Failed(_) => return Sender::NotKnown,
            Answer::Records(_) | Answer::NoData => {}
        }
        if !self.unknown {
            return Sender::Reachable;
        }
        let mut known = true;
        for kind in [RecordKind::A, RecordKind::Aaaa] {
            match self.dns.look_up(name, kind).await.answer {
                Answer::Records(found) if !found.is_empty() => return Sender::Reachable,
                Answer::Failed(_) => known = false,
                Answer::Records(_) | Answer::NoData | Answer::NoName => {}
            }
        }
        if known { Sender::Nowhere } else { Sender::NotKnown }
    }
}

/// Whether something could go back to a sender.
enum Sender {
    Reachable,
    /// The domain says that it takes no mail.
    Nobody,
    /// It has no host for mail.
    Nowhere,
    NotKnown,
}

impl Rules {
    /// Whether reports could go back to a stranger's address, as far as
    /// [`sender_check`](Rules::sender_check) wants to know.
    pub(super) async fn check_sender(&self, sender: &ReversePath) -> Result<(), Reply> {
        match (&self.sender_check, sender) {
            (Some(check), ReversePath::Mailbox(sender)) => check.look_up(sender.domain()).await,
            // Nothing goes back to the null sender.
            _ => Ok(()),
        }
    }

    /// Who gets the mail for an address that was rewritten here; `None` when it is another address.
    pub(super) fn returned(
        &self,
        to: &ForwardPath,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Result<Mailbox, SrsError>> {
        let (srs, to) = (self.srs.as_ref()?, to.mailbox()?);
        srs.is_rewritten(to).then(|| srs.reverse(to, now()))
    }
}

/// 550 5.1.1, the same for whatever is wrong with an address that was rewritten: nobody is to learn how
/// good a guess was.
pub(super) fn no_such_return() -> Reply {
    Reply::new(550, EnhancedCode::new(5, 1, 1), "no such address")
}
