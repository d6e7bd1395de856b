#![allow(missing_docs)]
use super::Outcome;
use crate::smtp::address::ForwardPath;
#[derive(Debug, Clone)]
pub struct Delivery {
    pub recipients: Vec<(ForwardPath, Outcome)>,
}
