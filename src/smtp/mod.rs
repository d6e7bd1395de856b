//! The protocol: both roles of SMTP as state machines that know no socket and no clock.
pub mod address;
pub mod command;
pub mod data;
pub mod line;
pub mod params;
pub mod reply;
