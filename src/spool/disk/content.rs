//! Content is a body as it is given out: small ones whole, large ones in pieces, so that memory is bounded.
//!
//! Its check sum is compared when all of it was read: at once where it is whole, else behind the last piece,
//! which is then not given out. A reader keeps its file open, so a file that is removed meanwhile (the message
//! was settled, the body was copied elsewhere) does not end it.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rusqlite::{Connection, params};

use super::super::{BodyRef, SpoolError};
use super::PIECE;
use super::bodies::{Kept, find};
use super::files::SegmentFile;
use super::prepared::Prepared;
use super::reader::Readers;
use super::schema::{SHIFT, column};
use super::segments::{Place, path};
use crate::BoxFuture;
use crate::message::{Content, ReadBody};

impl Readers {
    pub(super) async fn body(self: &Arc<Self>, body: &BodyRef) -> Result<Content, SpoolError> {
        if let Some(octets) = &body.at_hand {
            return Ok(Content::Whole(octets.clone()));
        }
        if body.size == 0 {
            return Ok(Content::Whole(Bytes::new()));
        }
        let (n, size) = (column(body.number), body.size);
        let small = size <= PIECE as u64;
        // It may be copied into another file between the look and the opening, more than once only if the
        // disk is very slow.
        for _ in 0..TRIES {
            let found = self.run(move |conn| {
                let kept = find(&mut Prepared::new(conn), n)?;
                match kept {
                    Some(Kept { place: None, .. }) if small => Ok((kept, Some(read_table(conn, n)?))),
                    _ => Ok((kept, None)),
                }
            });
            match found.await? {
                (None, _) => return Err(SpoolError::Corrupt),
                (Some(kept), Some(octets)) => return whole(octets, size, kept.crc),
                (Some(Kept { place: None, crc }), None) => {
                    let from = From::Table { n, next: n << SHIFT };
                    return Ok(stream(self, from, size, crc));
                }
                (Some(Kept { place: Some(place), crc }), None) => {
                    if place.len != size {
                        return Err(SpoolError::Corrupt);
                    }
                    let read = self.open(place, small).await;
                    match read {
                        Ok((_, Some(octets))) => return whole(octets, size, crc),
                        Ok((file, None)) => {
                            let from = From::File { file: Some(file), at: place.off };
                            return Ok(stream(self, from, size, crc));
                        }
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                            return Err(SpoolError::Corrupt);
                        }
                        Err(error) => return Err(SpoolError::Storage(error)),
                    }
                }
            }
        }
        Err(SpoolError::Corrupt)
    }

    /// Opens the file of a body, and reads it where it is small.
    async fn open(
        self: &Arc<Self>,
        place: Place,
        small: bool,
    ) -> io::Result<(Box<dyn SegmentFile>, Option<Bytes>)> {
        let shared = Arc::clone(self.shared());
        let path = path(&shared.segment_dir, place.seg);
        self.blocking(move || {
            let mut file = shared.files.open(&path)?;
            let octets = if small { Some(read(&mut *file, place.off, place.len)?) } else { None };
            Ok((file, octets))
        })
        .await
    }
}

fn whole(octets: Bytes, size: u64, crc: Option<u32>) -> Result<Content, SpoolError> {
    let same = octets.len() as u64 == size && crc.is_none_or(|crc| crc == crc32fast::hash(&octets));
    if same { Ok(Content::Whole(octets)) } else { Err(SpoolError::Corrupt) }
}

fn stream(readers: &Arc<Readers>, from: From, size: u64, crc: Option<u32>) -> Content {
    let reader = BodyReader {
        readers: Arc::clone(readers),
        from,
        left: size,
        crc: crc.map(|crc| (crc32fast::Hasher::new(), crc)),
    };
    Content::Stream { size, reader: Box::new(reader) }
}

/// Reads exactly so many octets.
pub(super) fn read(file: &mut dyn SegmentFile, mut at: u64, len: u64) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut octets = BytesMut::zeroed(len);
    let mut left: &mut [u8] = &mut octets;
    while !left.is_empty() {
        let got = match file.read_at(at, left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            got => got?,
        };
        at += got as u64;
        left = match left.split_at_mut_checked(got) {
            Some((read, rest)) if !read.is_empty() => rest,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
    }
    Ok(octets.freeze())
}

fn read_table(conn: &Connection, n: i64) -> rusqlite::Result<Bytes> {
    let mut pieces = conn.prepare_cached(PIECES)?;
    let mut pieces = pieces.query(params![n << SHIFT, (n + 1) << SHIFT])?;
    let mut whole = BytesMut::new();
    while let Some(row) = pieces.next()? {
        whole.extend_from_slice(row.get_ref(1)?.as_blob()?);
    }
    Ok(whole.freeze())
}

/// Reads a large body piece by piece.
#[derive(Debug)]
struct BodyReader {
    readers: Arc<Readers>,
    from: From,
    left: u64,
    /// What was read so far, and what it must come to.
    crc: Option<(crc32fast::Hasher, u32)>,
}

#[derive(Debug)]
enum From {
    /// Pieces in the table, as earlier versions stored large bodies.
    Table {
        n: i64,
        next: i64,
    },
    File {
        file: Option<Box<dyn SegmentFile>>,
        at: u64,
    },
}

impl BodyReader {
    async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let octets = match &mut self.from {
            From::Table { n, next } => {
                let octets = table_piece(&self.readers, *n, *next).await?;
                *next += 1;
                octets
            }
            From::File { file, at } => {
                let mut open = file.take().ok_or_else(damaged)?;
                let (from, len) = (*at, self.left.min(PIECE as u64));
                let (open, octets) = self
                    .readers
                    .blocking(move || {
                        let octets = read(&mut *open, from, len);
                        Ok((open, octets))
                    })
                    .await?;
                *file = Some(open);
                *at += len;
                octets.map_err(|e| if e.kind() == io::ErrorKind::UnexpectedEof { damaged() } else { e })?
            }
        };
        self.left = self.left.checked_sub(octets.len() as u64).ok_or_else(damaged)?;
        if let Some((sum, expected)) = &mut self.crc {
            sum.update(&octets);
            if self.left == 0 && sum.clone().finalize() != *expected {
                return Err(damaged());
            }
        }
        Ok(Some(octets))
    }
}

async fn table_piece(readers: &Arc<Readers>, n: i64, next: i64) -> io::Result<Bytes> {
    let read = move |conn: &Connection| {
        let mut piece = conn.prepare_cached(PIECES)?;
        let mut piece = piece.query(params![next, (n + 1) << SHIFT])?;
        let Some(row) = piece.next()? else { return Ok(None) };
        Ok(Some((row.get::<_, i64>(0)?, Bytes::from(row.get::<_, Vec<u8>>(1)?))))
    };
    // Pieces are numbered without gaps.
    match readers.run(read).await.map_err(io::Error::other)? {
        Some((k, octets)) if k == next && !octets.is_empty() => Ok(octets),
        _ => Err(damaged()),
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, SpoolError::Corrupt)
}

impl ReadBody for BodyReader {
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(self.piece())
    }
}

const PIECES: &str = "SELECT k, data FROM body WHERE k >= ?1 AND k < ?2 ORDER BY k";

const TRIES: usize = 4;
