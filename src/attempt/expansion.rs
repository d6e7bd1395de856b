//! An expansion is what a local store says of a recipient that stands for others: an alias, or a list.
//!
//! The difference is who is told when one of the others cannot be reached (RFC 3461 §5.2.7): of an alias, the
//! sender of the message; of a list, its owner, who is the sender of what is sent to the members.

use std::collections::HashSet;

use crate::smtp::address::ReversePath;
use crate::smtp::params::{Notify, Rcpt};

/// To whom a message goes instead of a recipient. Each address gets it once, however often it is named by the
/// recipients of one try; an alias that names itself is expanded again, up to a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expansion {
    /// The others. Of an alias only the paths count: what the sender asked of reports is handed on to them. Of
    /// a list the parameters count, and are those of the list.
    pub recipients: Vec<Rcpt>,
    /// Of a list: who is told of failures. `None` for an alias.
    pub owner: Option<ReversePath>,
}

impl Expansion {
    /// An address that stands for others, at least one.
    #[must_use]
    pub const fn alias(recipients: Vec<Rcpt>) -> Self {
        Self { recipients, owner: None }
    }

    /// A list with members. A message of the null sender keeps that on its way to them, so that no report on a
    /// report comes into being.
    #[must_use]
    pub const fn list(owner: ReversePath, members: Vec<Rcpt>) -> Self {
        Self { recipients: members, owner: Some(owner) }
    }

    /// Whether it stands for several addresses, of whom the sender cannot be told that they all have it.
    #[must_use]
    pub fn is_several(&self) -> bool {
        self.recipients.iter().map(|rcpt| &rcpt.to).collect::<HashSet<_>>().len() > 1
    }

    /// The others, with what is asked of reports about them when `rcpt` stood for them.
    #[must_use]
    pub fn of(&self, rcpt: &Rcpt) -> Vec<Rcpt> {
        if self.owner.is_some() {
            return self.recipients.clone();
        }
        let mut notify = rcpt.notify;
        if self.is_several() {
            // RFC 3461 §5.2.7.3 (c): the success was that of the alias, and is reported as such.
            notify = notify.map(|notify| Notify { success: false, ..notify });
        }
        let handed_on = |other: &Rcpt| {
            let mut other = Rcpt::new(other.to.clone());
            (other.notify, other.orcpt) = (notify, rcpt.orcpt.clone());
            other
        };
        self.recipients.iter().map(handed_on).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rcpts(all: &[&str]) -> Vec<Rcpt> {
        all.iter().map(|rcpt| Rcpt::parse(rcpt).unwrap()).collect()
    }

    #[test]
    fn what_was_asked_of_an_alias_is_asked_of_those_behind_it() {
        // RFC 3461 §5.2.7.2 and §5.2.7.3 (c)
        for (asked, one, several) in [
            ("", "", ""),
            (" NOTIFY=NEVER", " NOTIFY=NEVER", " NOTIFY=NEVER"),
            (" NOTIFY=SUCCESS", " NOTIFY=SUCCESS", " NOTIFY=NEVER"),
            (" NOTIFY=SUCCESS,FAILURE", " NOTIFY=SUCCESS,FAILURE", " NOTIFY=FAILURE"),
            (" NOTIFY=FAILURE,DELAY", " NOTIFY=FAILURE,DELAY", " NOTIFY=FAILURE,DELAY"),
            (" ORCPT=rfc822;o@x.test", " ORCPT=rfc822;o@x.test", " ORCPT=rfc822;o@x.test"),
        ] {
            let asked = Rcpt::parse(&format!("<all@b.test>{asked}")).unwrap();
            let shown = |others: &[&str]| -> Vec<String> {
                let others = Expansion::alias(rcpts(others)).of(&asked);
                others.iter().map(ToString::to_string).collect()
            };
            assert_eq!(shown(&["<1@b.test> NOTIFY=DELAY"]), [format!("<1@b.test>{one}")], "{asked}");
            let both = [format!("<1@b.test>{several}"), format!("<2@c.test>{several}")];
            assert_eq!(shown(&["<1@b.test>", "<2@c.test> ORCPT=rfc822;q@x.test"]), both, "{asked}");
        }
    }

    #[test]
    fn what_was_asked_of_a_list_is_not_asked_of_its_members() {
        // RFC 3461 §5.2.7.1 (b), (c)
        let asked = Rcpt::parse("<list@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x.test").unwrap();
        let members = rcpts(&["<1@b.test> NOTIFY=FAILURE", "<2@c.test>"]);
        let owner = ReversePath::parse("owner@b.test").unwrap();
        assert_eq!(Expansion::list(owner, members.clone()).of(&asked), members);
    }

    #[test]
    fn the_same_address_twice_is_one() {
        assert!(!Expansion::alias(rcpts(&["<1@b.test>", "<1@b.test> NOTIFY=NEVER"])).is_several());
        assert!(Expansion::alias(rcpts(&["<1@b.test>", "<2@b.test>"])).is_several());
    }
}
