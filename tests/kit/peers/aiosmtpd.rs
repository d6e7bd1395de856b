//! aiosmtpd, a library: `tests/peers/receive.py` makes a server of it that keeps what comes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::Duties;
use crate::kit::process::{Program, dumped, free_address, have, peer_folder};

/// A server made of aiosmtpd. It hands nothing on.
#[derive(Debug)]
pub struct Aiosmtpd {
    dir: TempDir,
    address: SocketAddr,
    implicit: SocketAddr,
    _program: Program,
}

/// A message that it kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Who was logged in, or `-`; the sender; the parameters of MAIL; the recipients, each in a line.
    pub envelope: String,
    /// The content.
    pub octets: Vec<u8>,
}

impl Aiosmtpd {
    /// Starts one. `None` when the folder that `AIOSMTPD` names, else `target/peers/python`, does not
    /// hold the library.
    pub fn with(duties: &Duties) -> Option<Self> {
        let folder = peer_folder("AIOSMTPD", "python", "aiosmtpd")?;
        if !have("python3") {
            return None;
        }
        let dir = tempfile::tempdir().expect("temporary folder");
        let (address, implicit) = (free_address(), free_address());
        let mut command = Command::new("python3");
        command
            .env("PYTHONPATH", folder)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/receive.py"))
            .args([address.port().to_string(), implicit.port().to_string()])
            .args([&duties.certificate, &duties.key])
            .args([&duties.user, &duties.password])
            .arg(dir.path());
        Some(Self { dir, address, implicit, _program: Program::ready(command) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for TLS from the first octet.
    pub fn implicit(&self) -> SocketAddr {
        self.implicit
    }

    /// What it kept since this was asked last, in order.
    pub fn take(&self) -> Vec<Kept> {
        let mut files = dumped(self.dir.path());
        files.sort();
        let kept = |path| {
            let octets = fs::read(&path).expect("what it kept");
            fs::remove_file(path).expect("what it kept");
            let end = octets.windows(2).position(|pair| pair == b"\n\n").expect("an empty line");
            let envelope = String::from_utf8_lossy(&octets[..end]).into_owned();
            Kept { envelope, octets: octets[end + 2..].to_vec() }
        };
        files.into_iter().map(kept).collect()
    }
}
