//! The ballast is a file of zeros that is given up when the disk is full, so that there is room to write down
//! what was delivered: a relay that cannot settle would deliver again, and never get empty.
//!
//! Once it is given up, new mail is refused until it could be made again; then there is room for both.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
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
    /// When it is made again, if that is possible then, and how long until the next time if not.
    again: Option<Instant>,
    pause: Duration,
    #[cfg(test)]
    pub(super) disk_is_full: bool,
}

impl Ballast {
    /// Makes it, unless it is there. Where that fails, the disk is full already. One that is not wanted any more
    /// is removed.
    pub(super) fn new(path: PathBuf, octets: u64) -> Self {
        let mut ballast = Self {
            path,
            octets,
            spent: octets > 0,
            again: None,
            pause: FIRST_PAUSE,
            #[cfg(test)]
            disk_is_full: false,
        };
        if octets == 0 {
            match fs::remove_file(&ballast.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "the ballast could not be removed");
                }
                _ => {}
            }
        }
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
        (self.pause, self.again) = (FIRST_PAUSE, Some(SystemClock.mono() + FIRST_PAUSE));
        removed.is_ok()
    }

    /// Makes it again, if there is room now. Tried ever less often, since a full disk is written to for it and
    /// all else waits meanwhile.
    pub(super) fn restore(&mut self) {
        self.restore_at(SystemClock.mono());
    }

    fn restore_at(&mut self, now: Instant) {
        if !self.is_spent() || self.again.is_some_and(|again| now < again) {
            return;
        }
        match self.make() {
            Ok(()) => self.spent = false,
            Err(error) => {
                tracing::warn!(%error, "there is no room for the ballast, new mail is refused");
                let _ = fs::remove_file(&self.path);
                self.again = Some(now + self.pause);
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Whether there is no room on the disk for so many octets. What says that there is none may only be a limit
    /// of the database.
    pub(super) fn is_disk_full(&self, octets: u64) -> bool {
        #[cfg(test)]
        if self.disk_is_full {
            return true;
        }
        let path = self.path.with_extension("probe");
        let probed = fill(&path, octets);
        let _ = fs::remove_file(&path);
        // Any other trouble is not one that giving the ballast up mends.
        probed.is_err_and(|error| super::is_no_room(&error))
    }

    fn make(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.disk_is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if fs::metadata(&self.path).is_ok_and(|found| found.len() == self.octets) {
            return Ok(());
        }
        // More than it keeps, or it would be given up again with the next mail.
        let file = fill(&self.path, self.octets + self.octets / 4)?;
        // Or it would only be promised, and not be there when it is given up.
        file.sync_all()?;
        file.set_len(self.octets)
    }
}

/// Makes a file of zeros.
fn fill(path: &Path, octets: u64) -> io::Result<File> {
    let mut file = File::create(path)?;
    let zeros = vec![0; CHUNK];
    let mut left = octets;
    while left > 0 {
        let part = zeros.get(..usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)).unwrap_or_default();
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    Ok(file)
}

const CHUNK: usize = 1 << 20;

/// The first is for a short peak; after a minute mail is put off for longer by its senders anyway, and half a
/// minute more is no matter.
const FIRST_PAUSE: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(1) };
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_asked_for_it_ever_less_often() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::new(dir.path().join("ballast"), 1 << 20);
        assert!(ballast.give_up());
        ballast.disk_is_full = true;
        ballast.pause = Duration::from_secs(1);
        let mut now = SystemClock.mono();
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            ballast.restore_at(now);
            let again = now + Duration::from_secs(pause);
            ballast.restore_at(again - Duration::from_millis(1));
            assert_eq!(ballast.again, Some(again), "not tried before its time");
            now = again;
        }
        ballast.disk_is_full = false;
        ballast.restore_at(now);
        assert!(!ballast.is_spent() && dir.path().join("ballast").exists());
        // The next time it begins anew.
        assert!(ballast.give_up());
        assert_eq!(ballast.pause, FIRST_PAUSE);
    }
}
