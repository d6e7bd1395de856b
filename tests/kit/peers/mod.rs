//! Real mail servers of other people, each in a folder of its own.

mod aiosmtpd;
mod exim;
mod old;
mod opensmtpd;
mod postfix;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

pub use aiosmtpd::Aiosmtpd;
pub use exim::Exim;
pub use old::{Old, OldTls};
pub use opensmtpd::OpenSmtpd;
pub use postfix::Postfix;

/// What a server has to do: hand everything on, show a certificate, know one user.
#[derive(Debug, Clone)]
pub struct Duties {
    /// Where everything goes, in clear.
    pub next: SocketAddr,
    /// The certificate and its key, PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub user: String,
    pub password: String,
}

/// A folder that the servers' own users can pass.
fn passable() -> TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    let _ = Command::new("chmod").arg("755").arg(dir.path()).status();
    dir
}
