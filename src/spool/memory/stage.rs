//! Staging in memory: the octets wait in the state, where they count, until a message takes them.

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;

use super::super::{BodyWriter, SpoolError, Staged, StagedGuard};
use super::Shared;
use crate::BoxFuture;

/// Holds the room of a staged body until a message takes it over.
pub(super) struct Hold {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
}

impl StagedGuard for Hold {}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.number)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(octets) = state.staged.remove(&self.number) {
            state.other_octets = state.other_octets.saturating_sub(octets.len() as u64);
        }
    }
}

pub(super) struct Writer {
    pub(super) hold: Hold,
}

impl Writer {
    fn add(&mut self, octets: &Bytes) -> Result<(), SpoolError> {
        let mut state = self.hold.shared.lock();
        let more = octets.len() as u64;
        if state.stats.octets + state.other_octets + more > self.hold.shared.options.max_octets {
            return Err(SpoolError::Full);
        }
        state.other_octets += more;
        // Kept in the state and not here, so that what is counted goes with the hold.
        state.staged.entry(self.hold.number).or_default().extend_from_slice(octets);
        Ok(())
    }
}

impl BodyWriter for Writer {
    fn write(&mut self, octets: Bytes) -> BoxFuture<'_, Result<(), SpoolError>> {
        Box::pin(ready(self.add(&octets)))
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<Staged, SpoolError>> {
        let size = self.hold.shared.lock().staged.get(&self.hold.number).map_or(0, |o| o.len() as u64);
        let staged = Staged { number: self.hold.number, size, guard: Some(Box::new(self.hold)) };
        Box::pin(ready(Ok(staged)))
    }
}
