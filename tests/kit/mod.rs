//! What the tests share. Each test file takes what it needs.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "every test file uses a part of the kit")]

pub mod peers;
pub mod process;
