//! Cleaning copies the last bodies out of a file that holds little else than what was delivered.
//!
//! A part of them goes with each group, as moves that are placed, synced and committed like new mail; the
//! last one leaves the file empty, and it is removed. So new mail waits for a part at the most, and a crash at
//! any point leaves each body where its row says. A body that cannot be read is left where it is: its file
//! stays, and whoever delivers it finds out.

use std::collections::BTreeSet;
use std::io;

use rusqlite::{Connection, params};

use super::calls::Write;
use super::content::read;
use super::files::SegmentFile;
use super::queue::Shared;
use super::schema::count;
use super::segments::{Place, Tally, path};

/// Which files are to be cleaned, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Cleaning {
    sparse: BTreeSet<i64>,
    /// Files with a body that cannot be read.
    hopeless: BTreeSet<i64>,
    under_way: Option<UnderWay>,
    /// A part could not be written: nothing is tried before something else was.
    rests: bool,
}

#[derive(Debug)]
struct UnderWay {
    seg: i64,
    file: Box<dyn SegmentFile>,
    /// The last message that was looked at.
    after: i64,
}

impl Cleaning {
    /// Notes how a file stands that nothing is appended to any more.
    pub(super) fn weigh(&mut self, n: i64, tally: Tally, eager: bool) {
        let least = if eager { LEAST_EAGER } else { LEAST };
        let bytes = count(tally.bytes);
        let sparse = tally.live > 0 && bytes.saturating_mul(100) < tally.size.saturating_mul(least);
        if sparse && !self.hopeless.contains(&n) {
            self.sparse.insert(n);
        } else {
            self.forget(n);
        }
    }

    pub(super) fn forget(&mut self, n: i64) {
        self.sparse.remove(&n);
        if self.under_way.as_ref().is_some_and(|u| u.seg == n) {
            self.under_way = None;
        }
    }

    /// Whether there is anything to do.
    pub(super) fn is_due(&self) -> bool {
        !self.rests && !self.sparse.is_empty()
    }

    /// A group with moves was not committed.
    pub(super) fn rest(&mut self) {
        self.rests = true;
        self.under_way = None;
    }

    /// Something was committed, so there is room, or may be.
    pub(super) fn go_on(&mut self) {
        self.rests = false;
    }

    /// The next part: bodies that are to be moved.
    pub(super) fn part(&mut self, conn: &Connection, shared: &Shared) -> Vec<Write> {
        let mut moves = Vec::new();
        if self.rests {
            return moves;
        }
        let Some(&seg) = self.sparse.first() else { return moves };
        match self.read_part(conn, shared, seg, &mut moves) {
            Ok(true) => {}
            // All were looked at. Those that are moved with the last group are no longer listed.
            Ok(false) => self.give_up(seg),
            Err(error) => {
                tracing::error!(file = %path(&shared.segment_dir, seg).display(), %error,
                    "a file with bodies of the spool cannot be read");
                self.give_up(seg);
            }
        }
        moves
    }

    fn give_up(&mut self, seg: i64) {
        self.hopeless.insert(seg);
        self.forget(seg);
    }

    /// False when no message is left behind those that were looked at.
    fn read_part(
        &mut self,
        conn: &Connection,
        shared: &Shared,
        seg: i64,
        moves: &mut Vec<Write>,
    ) -> io::Result<bool> {
        if self.under_way.as_ref().is_none_or(|u| u.seg != seg) {
            let file = shared.files.open(&path(&shared.segment_dir, seg))?;
            self.under_way = Some(UnderWay { seg, file, after: 0 });
        }
        let Some(under_way) = &mut self.under_way else { return Ok(false) };
        let bodies = bodies(conn, seg, under_way.after).map_err(io::Error::other)?;
        let mut octets_read = 0;
        for body in &bodies {
            under_way.after = body.n;
            let octets = match read(&mut *under_way.file, body.place.off, body.place.len) {
                Ok(octets) if body.crc.is_none_or(|crc| crc == crc32fast::hash(&octets)) => octets,
                _ => {
                    let file = path(&shared.segment_dir, seg);
                    tracing::error!(file = %file.display(), at = body.place.off, "a stored body is damaged");
                    continue;
                }
            };
            octets_read += octets.len();
            moves.push(Write::Move { n: body.n, from: body.place, octets, to: None });
            if octets_read >= PART_OCTETS {
                break;
            }
        }
        Ok(!bodies.is_empty())
    }
}

struct Body {
    n: i64,
    place: Place,
    crc: Option<u32>,
}

fn bodies(conn: &Connection, seg: i64, after: i64) -> rusqlite::Result<Vec<Body>> {
    conn.prepare_cached(BODIES)?
        .query_map(params![seg, after, PART], |row| {
            let place = Place { seg, off: count(row.get(1)?), len: count(row.get(2)?) };
            Ok(Body { n: row.get(0)?, place, crc: row.get(3)? })
        })?
        .collect()
}

const BODIES: &str = "SELECT n, off, len, crc FROM message WHERE seg = ?1 AND n > ?2 ORDER BY n LIMIT ?3";

/// Per cent of a file in use below which it is cleaned: each octet that is copied frees three.
const LEAST: u64 = 25;

/// The same where the spool has a limit of its own, and room is worth more than writing.
const LEAST_EAGER: u64 = 75;

/// What goes with a group at the most: some milliseconds of a slow disk.
const PART: i64 = 64;
const PART_OCTETS: usize = 256 << 10;
