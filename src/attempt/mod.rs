//! One try, now.
mod outcome;
pub use outcome::{Accepted, Cause, ConnectFault, Feature, LocalFault, Outcome, Phase};
mod stub;
pub use stub::*;
