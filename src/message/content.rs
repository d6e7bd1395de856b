//! Content is the octets of a message: whole in memory, or read in pieces from where they are kept.

use std::fmt;
use std::io;

use bytes::Bytes;

use crate::BoxFuture;

/// Reads the octets of a message in pieces. Implemented by whatever keeps bodies.
pub trait ReadBody: Send {
    /// The next piece, of any size but zero; `None` at the end.
    ///
    /// # Cancel safety
    /// Dropping the future may lose a piece: drop the reader with it.
    fn chunk(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>>;
}

/// The octets of a message.
pub enum Content {
    /// All of them.
    Whole(Bytes),
    /// To be read; exactly `size` octets, or the delivery is broken off.
    Stream {
        /// How many octets there are.
        size: u64,
        /// Where they come from.
        reader: Box<dyn ReadBody>,
    },
}

impl Content {
    /// How many octets there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Whole(octets) => octets.len() as u64,
            Self::Stream { size, .. } => *size,
        }
    }
}

impl From<Bytes> for Content {
    fn from(octets: Bytes) -> Self {
        Self::Whole(octets)
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} octets)", self.size())
    }
}
