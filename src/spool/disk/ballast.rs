//! The ballast is a file of zeros that is given up when the disk is full, so that there is room to write down
//! what was delivered: a relay that cannot settle would deliver again, and never get empty.
//!
//! Once it is given up, new mail is refused until it could be made again; then there is room for both.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clock::{Clock, SystemClock};

/// See the module.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    /// 0: there is none.
    octets: u64,
    /// It was given up.
    spent: bool,
    tried: Option<Instant>,
    #[cfg(test)]
    pub(super) disk_is_full: bool,
}

impl Ballast {
    /// Makes it, unless it is there. Where that fails, the disk is full already.
    pub(super) fn new(path: PathBuf, octets: u64) -> Self {
        let mut ballast = Self {
            path,
            octets,
            spent: octets > 0,
            tried: None,
            #[cfg(test)]
            disk_is_full: false,
        };
        ballast.restore();
        ballast
    }

    /// Whether new mail is to be refused.
    pub(super) const fn is_spent(&self) -> bool {
        self.spent
    }

    /// Gives it up. False when there is none.
    pub(super) fn give_up(&mut self) -> bool {
        if self.octets == 0 || self.is_spent() {
            return false;
        }
        let removed = fs::remove_file(&self.path);
        if let Err(error) = &removed {
            tracing::warn!(%error, "the ballast could not be removed");
        } else {
            tracing::error!("the disk is full: new mail is refused until there is room again");
        }
        self.spent = true;
        // What was made free is for settlements first.
        self.tried = Some(SystemClock.mono());
        removed.is_ok()
    }

    /// Makes it again, if there is room now. Tried once a second, since a full disk is written to for it.
    pub(super) fn restore(&mut self) {
        let now = SystemClock.mono();
        if !self.is_spent() || self.tried.is_some_and(|tried| now.saturating_duration_since(tried) < AGAIN) {
            return;
        }
        self.tried = Some(now);
        match self.make() {
            Ok(()) => self.spent = false,
            Err(error) => {
                tracing::warn!(%error, "there is no room for the ballast, new mail is refused");
                let _ = fs::remove_file(&self.path);
            }
        }
    }

    fn make(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.disk_is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.octets) {
            return Ok(());
        }
        let mut file = File::create(&self.path)?;
        let zeros = vec![0; CHUNK];
        // More than it keeps, or it would be given up again with the next mail.
        let mut left = self.octets + self.octets / 4;
        while left > 0 {
            let part = zeros.get(..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)).unwrap_or_default();
            file.write_all(part)?;
            left -= part.len() as u64;
        }
        // Or it would only be promised, and not be there when it is given up.
        file.sync_all()?;
        file.set_len(self.octets)
    }
}

const CHUNK: usize = 1 << 20;
const AGAIN: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };
