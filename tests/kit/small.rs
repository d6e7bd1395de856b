//! A small disk of its own, to be filled up.
#![allow(unreachable_pub, reason = "as in the rest of the kit")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    place: tempfile::TempDir,
}

impl SmallDisk {
    /// One of so many MiB. Where it may not be mounted the test is skipped, loudly; in CI, where it must
    /// be possible, it fails.
    pub fn new(mebibytes: u32) -> Option<Self> {
        let place = tempfile::tempdir().expect("a folder to mount it on");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(place.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "a tmpfs must be mountable in CI");
            eprintln!("\n*** SKIPPED: this test needs to mount a tmpfs, which only root may ***\n");
            return None;
        }
        Some(Self { place })
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Takes all the space that is left, until the file is removed.
    pub fn fill(&self) -> PathBuf {
        let path = self.place.path().join("filler");
        let mut file = File::options().create(true).append(true).open(&path).expect("filler");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.place.path()).status();
    }
}
