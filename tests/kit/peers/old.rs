//! Servers whose TLS is of another time: `tests/peers/old_tls.py`, with papers that `openssl` makes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::kit::process::{Program, have, run};

/// What is old about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It knows TLS 1.0 and 1.1 only.
    Versions,
    /// Its certificate is of X.509 version 1.
    Certificate,
    /// Its key is RSA with 1024 bits.
    Key,
}

/// A server that takes everything.
#[derive(Debug)]
pub struct OldTls {
    program: Program,
    _dir: TempDir,
}

impl OldTls {
    /// All that there are.
    pub const ALL: [Old; 3] = [Old::Versions, Old::Certificate, Old::Key];

    /// Starts one. `None` when Python or openssl is not installed.
    pub fn start(old: Old) -> Option<Self> {
        if !have("python3") || !have("openssl") {
            return None;
        }
        let dir = tempfile::tempdir().expect("temporary folder");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        papers(old, dir.path(), &cert, &key);
        let mut command = Command::new("python3");
        command
            .args(["-W", "ignore"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/old_tls.py"))
            .args([&cert, &key])
            .arg(if old == Old::Versions { "1.1" } else { "1.3" });
        Some(Self { program: Program::ready(command), _dir: dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.program.address()
    }
}

fn papers(old: Old, dir: &Path, cert: &Path, key: &Path) {
    let openssl = |args: &[&str], paths: &[(&str, &Path)]| {
        let mut command = Command::new("openssl");
        command.args(args);
        for (option, path) in paths {
            command.arg(option).arg(path);
        }
        let (code, text) = run(&mut command, b"");
        assert_eq!(code, Some(0), "{command:?}: {text}");
    };
    let bits = if old == Old::Key { "rsa:1024" } else { "rsa:2048" };
    let new = ["req", "-newkey", bits, "-nodes", "-subj", "/CN=old.test"];
    if old == Old::Certificate {
        // Without extensions openssl makes version 1.
        let request = dir.join("request.pem");
        openssl(&new, &[("-keyout", key), ("-out", &request)]);
        openssl(&["x509", "-req", "-days", "3650"], &[("-in", &request), ("-signkey", key), ("-out", cert)]);
    } else {
        let args: Vec<_> = new.into_iter().chain(["-x509", "-days", "3650"]).collect();
        openssl(&args, &[("-keyout", key), ("-out", cert)]);
    }
}
