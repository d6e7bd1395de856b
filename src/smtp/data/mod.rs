//! Content on the wire.
mod decode;
pub use decode::{Decoder, LineRules, Piece};
