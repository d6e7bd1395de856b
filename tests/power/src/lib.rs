//! Cuts the power under a disk spool, everywhere, and looks at what is left.
//!
//! A [`Disk`] is a directory whose every change is recorded, in one order over all files: what SQLite does
//! by its VFS, what the spool does to its segments by their seam. Between the steps stands what callers
//! were told ([`Note`]). From every prefix of such a record a [`Platter`] knows what must be on the disk,
//! since it was synced, and what may be: any part of the rest. An *image* is one such choice, written into
//! a directory of its own. [`check`](story::check) opens a spool on it and compares it with what was
//! acknowledged up to there, to the octet.
//!
//! What counts as acknowledged is what was answered *before* the cut. A sync that is under way when the
//! power goes may still answer well, and proves nothing.
//!
//! The model is harsher than disks are: writes that were not synced reach it in any order, torn at sectors
//! of 512 octets; a name is there only once its directory was synced; a sync that failed has lost an
//! unknown part of what it was for, and no later sync of the same file brings that back, though who reads
//! the file without a power cut in between still sees it (so Linux does).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod cuts;
mod disk;
mod orders;
mod platter;
mod remembered;
mod segments;
pub mod story;
pub mod tales;
mod vfs;

pub use cuts::{Effort, Record, Tried, cut, fast_folder, somewhere};
pub use disk::{Disk, Ended, Fault, Note, Step};
pub use platter::{Image, Keep, Platter};
