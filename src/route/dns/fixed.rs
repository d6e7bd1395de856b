//! A table of answers, for tests and for networks that never change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Answer, Dns, DnsName, Found, Record, RecordKind};
use crate::BoxFuture;
use crate::route::RouteError;

/// Answers out of a table. What is not in it does not exist. Clones share the table, which may be changed
/// while it is in use.
#[derive(Debug, Clone, Default)]
pub struct StaticDns(Arc<Mutex<HashMap<(DnsName, RecordKind), Found>>>);

impl StaticDns {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds records to a name, in place of those of their kind. `secure`: as if DNSSEC had proven them.
    pub fn set(&self, name: &DnsName, kind: RecordKind, records: Vec<Record>, secure: bool) {
        self.put(name, kind, Found::new(Answer::Records(records), secure, name.clone()));
    }

    /// Lets a question fail.
    pub fn fail(&self, name: &DnsName, kind: RecordKind, error: RouteError) {
        self.put(name, kind, Found::new(Answer::Failed(error), false, name.clone()));
    }

    /// Sets the answer to a question.
    pub fn put(&self, name: &DnsName, kind: RecordKind, found: Found) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((name.clone(), kind), found);
    }
}

impl Dns for StaticDns {
    fn look_up<'a>(&'a self, name: &'a DnsName, kind: RecordKind) -> BoxFuture<'a, Found> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = table.get(&(name.clone(), kind)).cloned().unwrap_or_else(|| {
            let known = table.keys().any(|(known, _)| known == name);
            Found::new(if known { Answer::NoData } else { Answer::NoName }, false, name.clone())
        });
        Box::pin(std::future::ready(found))
    }
}
