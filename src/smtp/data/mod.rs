//! The content of a message on the wire between DATA and the final dot.
//!
//! One writer and one reader, so that there is one idea of where a line and a message end: only CRLF
//! ends a line, only CRLF.CRLF ends a message (RFC 5321 §4.1.1.4). Content sent by BDAT is counted
//! instead and passes through neither.

mod decode;
mod encode;
mod lines;

pub use decode::{Decoder, LineRules, Piece};
pub use encode::Encoder;
pub use lines::is_clean;
