//! A queue is where entries wait: its name, the classes within it, and what is asked of it.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::smtp::address::Domain;
use crate::smtp::params::{Mail, Priority};

/// The name of a queue: a site, or a destination whose site is not known. At most 255 octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(std::sync::Arc<str>);

impl QueueName {
    /// A queue of this name. Longer names than 255 octets are cut, with a digest of the whole behind
    /// the cut, so that two long names stay two queues.
    #[must_use]
    pub fn new(name: &str) -> Self {
        if name.len() <= 255 {
            return Self(name.into());
        }
        // Of a kind that nobody can aim at: the names of hosts are a stranger's to choose, and whose queue
        // is another's shares its hosts. Stored names must stay the same for ever.
        let digest = Sha256::digest(name);
        let hash = digest.iter().take(16).fold(0_u128, |hash, octet| hash << 8 | u128::from(*octet));
        let mut end = 222;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        Self(format!("{}#{hash:032x}", name.get(..end).unwrap_or_default()).into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Domain> for QueueName {
    /// The queue of a destination whose site is not known.
    fn from(domain: &Domain) -> Self {
        Self::new(domain.as_str())
    }
}

/// How urgent an entry is. Each class of a queue is claimed on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Class {
    /// A priority above 0 (RFC 6710): someone waits for it.
    Urgent,
    /// Priority 0, or none.
    #[default]
    Normal,
    /// A priority below 0: it can wait.
    Bulk,
}

impl Class {
    /// All, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// That of a message with this envelope.
    #[must_use]
    pub fn of(mail: &Mail) -> Self {
        match mail.priority.map_or(0, Priority::get) {
            1.. => Self::Urgent,
            0 => Self::Normal,
            _ => Self::Bulk,
        }
    }

    /// As it is stored: 0, 1, 2.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The class of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Urgent),
            1 => Some(Self::Normal),
            2 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// What to claim.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// From where.
    pub queue: QueueName,
    /// And of what class.
    pub class: Class,
    /// Entries due at this time or before.
    pub now: Timestamp,
    /// How many at most.
    pub limit: usize,
    /// Until when they are hidden from other claims.
    pub lease: Timestamp,
}

/// One class of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSummary {
    /// Its name.
    pub queue: QueueName,
    /// The class.
    pub class: Class,
    /// How many entries of this class wait in it, claimed ones included, parked ones not.
    pub entries: u64,
    /// When the first of them can be claimed: its due time, or for a claimed one the end of its
    /// lease if that is later; so a worker that went silent is noticed. [`Timestamp::NEVER`] only
    /// when nothing will become due by itself.
    pub due: Timestamp,
}
