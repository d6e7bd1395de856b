//! A sender is looked at twice: at MAIL, whether reports could go back to it, and at RCPT, where an address
//! that was rewritten for a sender stands for it.
//!
//! The domain of a sender who is a stranger can be looked up as if there were mail for it. A domain that
//! takes none (RFC 7505 §4.2), or is not there at all, has sent nothing either. That is no check of who the
//! sender is.

use std::time::Duration;

use tokio::time::timeout;

use super::Rules;
use crate::clock::Timestamp;
use crate::message::SrsError;
use crate::route::{Resolve, RouteError};
use crate::smtp::address::{ForwardPath, Mailbox, ReversePath};
use crate::smtp::reply::{EnhancedCode, Reply};

impl Rules {
    /// Whether reports could go back to a stranger's address, as far as
    /// [`sender_check`](Rules::sender_check) wants to know.
    pub(super) async fn check_sender(&self, sender: &ReversePath) -> Result<(), Reply> {
        match (&self.sender_check, sender) {
            (Some(resolver), ReversePath::Mailbox(sender)) => look_up(&**resolver, sender).await,
            // Nothing goes back to the null sender.
            _ => Ok(()),
        }
    }

    /// Who gets the mail for an address that was rewritten here; `None` when it is another address.
    pub(super) fn returned(&self, to: &ForwardPath, now: Timestamp) -> Option<Result<Mailbox, SrsError>> {
        let (srs, to) = (self.srs.as_ref()?, to.mailbox()?);
        srs.is_rewritten(to).then(|| srs.reverse(to, now))
    }
}

async fn look_up(resolver: &dyn Resolve, sender: &Mailbox) -> Result<(), Reply> {
    let found = timeout(WAIT, resolver.route(sender.domain())).await;
    let (code, enhanced, text) = match found.unwrap_or(Err(RouteError::Timeout(WAIT))) {
        // RFC 7505 §4.2
        Err(RouteError::NullMx) => (550, (5, 7, 27), "the sender's domain takes no mail"),
        // RFC 3463 §3.2: neither MX nor address records are as good as no domain.
        Err(RouteError::NoSuchDomain | RouteError::NoHost) => {
            (550, (5, 1, 8), "there is no mail server for the sender's domain")
        }
        // Nothing is lost when the client comes again. To believe silence would open the door to whoever
        // lets questions about his name fail, and the reports would stay with us.
        Err(error) if error.is_transient() => (451, (4, 4, 3), "the sender's domain cannot be looked up now"),
        // A way to it, ourselves among them, or a table that does not know.
        Ok(_) | Err(_) => return Ok(()),
    };
    let (class, subject, detail) = enhanced;
    Err(Reply::new(code, EnhancedCode::new(class, subject, detail), text))
}

/// 550 5.1.1, the same for whatever is wrong with an address that was rewritten: nobody is to learn how
/// good a guess was.
pub(super) fn no_such_return() -> Reply {
    Reply::new(550, EnhancedCode::new(5, 1, 1), "no such address")
}

/// The longest that a client waits for the answer to MAIL: two questions in a row, each as long as
/// `MxResolver` takes by default. RFC 5321 §4.5.3.2.2 has clients wait for five minutes.
const WAIT: Duration = Duration::from_secs(20);
