//! What a submitter can say of how a message is handled: setters, the same on an envelope and on a
//! submission.

use std::time::Duration;

use super::{Envelope, Submission};
use crate::clock::Timestamp;
use crate::message::handling::{Tag, Tenant};
use crate::smtp::params::{Hold, Priority};

macro_rules! wishes {
    ($name:ident, $($mail:ident)?, $($handling:ident)?) => {
        impl $name {
            /// The same with one more tag, by which the host program finds its entries again. At most
            /// [`Handling::MAX_TAGS`](crate::message::Handling::MAX_TAGS); an engine refuses more.
            #[must_use]
            pub fn tagged(mut self, tag: Tag) -> Self {
                self$(.$handling)?.tags.push(tag);
                self
            }

            /// The same, sent on behalf of a tenant.
            #[must_use]
            pub fn for_tenant(mut self, tenant: Tenant) -> Self {
                self$(.$handling)?.tenant = Some(tenant);
                self
            }

            /// The same with this priority: above 0 for what someone waits for, below 0 for what can wait.
            #[must_use]
            pub const fn with_priority(mut self, priority: Priority) -> Self {
                self$(.$mail)?.priority = Some(priority);
                self
            }

            /// The same, not sent before this time, in whole seconds. An engine takes no more than
            /// [`EngineOptions::max_hold`](crate::delivery::EngineOptions::max_hold), 30 days by default.
            #[must_use]
            pub const fn release_at(mut self, time: Timestamp) -> Self {
                self$(.$mail)?.hold = Some(Hold::Until(time.as_millis().div_ceil(1000)));
                self
            }

            /// The same, not sent before this long after it is submitted, in whole seconds.
            #[must_use]
            pub fn release_after(mut self, wait: Duration) -> Self {
                let seconds = wait.as_millis().div_ceil(1000);
                self$(.$mail)?.hold = Some(Hold::For(u32::try_from(seconds).unwrap_or(u32::MAX)));
                self
            }
        }
    };
}

wishes!(Envelope, , );
wishes!(Submission, mail, handling);
