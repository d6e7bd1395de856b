//! Tables keyed by ids and numbers of our own, and by sites, of which a pool knows no more than it has connections
//! and waiters.
//!
//! The hash of the standard library's tables holds against strangers who look for keys that collide. This one is
//! seeded too, at random, but takes a fraction of the time, and every message passes some thirty lookups.

use std::collections::HashMap;
#[cfg(feature = "disk")]
use std::collections::HashSet;

use foldhash::fast::RandomState;

/// A hash map of such keys.
pub(crate) type Table<K, V> = HashMap<K, V, RandomState>;

/// A hash set of such keys.
#[cfg(feature = "disk")]
pub(crate) type Numbers<K> = HashSet<K, RandomState>;
