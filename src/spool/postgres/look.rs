//! Looking: what can be claimed, what waits where, what stands in an entry.

use std::sync::PoisonError;

use tokio_postgres::types::ToSql;

use super::super::{
    Claim, ClaimRequest, Class, EntrySummary, QueueName, QueueSummary, Selection, SetAside, Token,
};
use super::Inner;
use super::count::Delta;
use super::error::Failure;
use super::rows;
use super::tables::Call;
use super::value::{Id, column, count, entry_column, lease_column, time};
use crate::clock::Timestamp;
use crate::message::{MessageId, Tag, Tenant};
use crate::smtp::address::Domain;

impl Inner {
    pub(super) async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claim>, Failure> {
        let queue = request.queue.as_str();
        // No queue has such a name.
        if queue.contains('\0') || request.limit == 0 {
            return Ok(Vec::new());
        }
        let busy = self.counts.begin();
        let class = i16::from(request.class.number());
        let (now, lease) = (column(request.now.as_millis()), lease_column(request.lease));
        let limit = column(request.limit as u64);
        let params: [&(dyn ToSql + Sync); 6] = [&queue, &class, &now, &limit, &lease, &self.sent()];
        let found = self.run_once(Call::Claim, &params).await?;
        let (mut claims, mut damaged, mut at, mut held) =
            (Vec::with_capacity(found.len()), Vec::new(), Vec::new(), 0);
        for row in &found {
            // A hold was carried out.
            if row.try_get::<_, Option<&str>>(12)?.is_some() {
                held += 1;
            } else if let Some(claim) = rows::claim(row) {
                claims.push(claim);
            } else if let Some((message, entry)) = rows::place(row) {
                tracing::error!(%message, entry, "an entry is damaged and is set aside");
                damaged.push(Id(message));
                at.push(entry_column(entry));
            }
        }
        if !damaged.is_empty() {
            for row in self.run_once(Call::SetAside, &[&damaged, &at, &DAMAGED]).await? {
                let (Id(message), entry): (Id, i32) = (row.try_get(0)?, row.try_get(1)?);
                let entry = u32::try_from(entry).unwrap_or_default();
                self.note_aside(SetAside::new(Some(message), entry, request.queue.clone(), DAMAGED.into()));
                held += 1;
            }
        }
        busy.add(Delta { parked: held, ..Delta::default() });
        Ok(claims)
    }

    /// Notes what was set aside, unless nobody asks.
    fn note_aside(&self, aside: SetAside) {
        let mut asides = self.asides.lock().unwrap_or_else(PoisonError::into_inner);
        if asides.len() < MAX_ASIDES {
            asides.push(aside);
        }
    }

    pub(super) fn take_asides(&self) -> Vec<SetAside> {
        std::mem::take(&mut *self.asides.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn extend(&self, tokens: &[Token], lease: Timestamp) -> Result<Vec<Token>, Failure> {
        let messages: Vec<_> = tokens.iter().map(|token| Id(token.message)).collect();
        let entries: Vec<_> = tokens.iter().map(|token| entry_column(token.entry)).collect();
        let numbers: Vec<_> = tokens.iter().map(|token| column(token.number)).collect();
        let lease = lease_column(lease);
        let params: [&(dyn ToSql + Sync); 5] = [&messages, &entries, &numbers, &lease, &self.sent()];
        let found = self.run_once(Call::Extend, &params).await?;
        let mut good = std::collections::HashSet::new();
        for row in found {
            let (Id(message), entry, claim): (Id, i32, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            good.insert((message, entry, claim));
        }
        let is_old = |token: &&Token| {
            !good.contains(&(token.message, entry_column(token.entry), column(token.number)))
        };
        Ok(tokens.iter().filter(is_old).copied().collect())
    }

    pub(super) async fn queues(
        &self,
        after: Option<&(QueueName, Class)>,
        limit: usize,
    ) -> Result<Vec<QueueSummary>, Failure> {
        // No name is before the empty one, and no class before the first.
        let (queue, class) =
            after.map_or(("", -1), |(queue, class)| (queue.as_str(), i16::from(class.number())));
        let limit = column(limit as u64);
        let found = self.run_once(Call::Queues, &[&queue, &class, &limit]).await?;
        let mut queues = Vec::with_capacity(found.len());
        for row in found {
            let class = u8::try_from(row.try_get::<_, i16>(1)?).ok().and_then(Class::from_number);
            queues.push(QueueSummary {
                queue: QueueName::new(row.try_get(0)?),
                class: class.unwrap_or_default(),
                entries: count(row.try_get(2)?),
                due: time(row.try_get(3)?),
            });
        }
        Ok(queues)
    }

    pub(super) async fn scan(
        &self,
        which: &Selection,
        after: Option<(MessageId, u32)>,
        limit: usize,
    ) -> Result<Vec<EntrySummary>, Failure> {
        // Behind nothing is behind an entry that comes before all.
        let (mut message, mut entry) =
            after.map_or((MessageId::from_octets([0; 16]), -1), |(id, entry)| (id, entry_column(entry)));
        let mut all = Vec::new();
        loop {
            let wanted = limit - all.len();
            let found = self
                .run_once(
                    Call::Scan,
                    &[
                        &Id(message),
                        &entry,
                        &which.message.map(Id),
                        &which.destination.as_ref().map(Domain::as_str),
                        &which.queue.as_ref().map(QueueName::as_str),
                        &which.tenant.as_ref().map(Tenant::as_str),
                        &which.tag.as_ref().map(Tag::as_str),
                        &which.parked,
                        &column(wanted as u64),
                    ],
                )
                .await?;
            all.extend(found.iter().filter_map(rows::summary));
            // A page that is not full is the last, so what cannot be read must not make one of it.
            match found.last().filter(|_| found.len() >= wanted && all.len() < limit).and_then(rows::place) {
                Some(last) => (message, entry) = (last.0, entry_column(last.1)),
                None => return Ok(all),
            }
        }
    }
}

/// What is written to an entry that cannot be read.
const DAMAGED: &str = "damaged: this row could not be read";

/// Told to observers with the next claim; a host that drives the spool by itself may never ask.
const MAX_ASIDES: usize = 1_000;
