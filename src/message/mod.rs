//! The message as a value.
mod content;
mod id;

pub use content::{Content, ReadBody};
pub use id::{MessageId, NotAnId};
