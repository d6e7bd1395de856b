//! OpenSMTPD, unpacked beside an installed Postfix, with which Debian's package does not go together.
//!
//! Its folders, its users and its control socket are compiled in. So it runs as root in a mount
//! namespace, where those folders are its own and `/etc/passwd` has its users.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{Duties, passable};
use crate::kit::process::{Program, free_address, have, peer_folder};

/// An OpenSMTPD of our own.
#[derive(Debug)]
pub struct OpenSmtpd {
    dir: TempDir,
    program: Program,
    implicit: SocketAddr,
}

impl OpenSmtpd {
    /// Starts an OpenSMTPD that hands everything on and offers STARTTLS. `None` when the folder that
    /// `OPENSMTPD` names, else `target/peers/opensmtpd`, holds none, or mount namespaces are not ours
    /// to make.
    pub fn with(duties: &Duties) -> Option<Self> {
        let root = peer_folder("OPENSMTPD", "opensmtpd", "usr/sbin/smtpd")?;
        if !have("unshare") {
            return None;
        }
        let may = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
        if !may.is_ok_and(|status| status.success()) {
            assert!(std::env::var_os("CI").is_none(), "`unshare -m` must be permitted in CI");
            eprintln!("\n*** SKIPPED: this test needs leave to make a mount namespace ***\n");
            return None;
        }
        let dir = passable();
        let (at, root) = (dir.path().display(), root.display());
        let write = |name: &str, text: String| fs::write(dir.path().join(name), text).expect("a file");
        for folder in ["spool/smtpd", "lib/opensmtpd/empty", "run"] {
            fs::create_dir_all(dir.path().join(folder)).expect("folder");
        }
        let _ = Command::new("chmod").arg("711").arg(dir.path().join("spool/smtpd")).status();
        // Its own process refuses a key that others may read.
        fs::copy(&duties.certificate, dir.path().join("cert.pem")).expect("certificate");
        fs::copy(&duties.key, dir.path().join("key.pem")).expect("key");
        let _ = Command::new("chmod").arg("600").arg(dir.path().join("key.pem")).status();
        let system = |name: &str| fs::read_to_string(name).expect("a file of the system");
        let user = |name: &str, id: u32| format!("{name}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n");
        let users = user("opensmtpd", USERS) + &user("opensmtpq", USERS + 1);
        write("passwd", system("/etc/passwd") + &users);
        let groups = format!("opensmtpd:x:{USERS}:\nopensmtpq:x:{}:\n", USERS + 1);
        write("group", system("/etc/group") + &groups);
        let (address, implicit) = (free_address(), free_address());
        write(
            "smtpd.conf",
            format!(
                "pki opensmtpd.test cert \"{at}/cert.pem\"\npki opensmtpd.test key \"{at}/key.pem\"\n\
                 smtp max-message-size 40M\n\
                 listen on 127.0.0.1 port {} hostname opensmtpd.test tls pki opensmtpd.test\n\
                 listen on 127.0.0.1 port {} hostname opensmtpd.test smtps pki opensmtpd.test\n\
                 action next relay host smtp+notls://127.0.0.1:{}\nmatch from any for any action next\n",
                address.port(),
                implicit.port(),
                duties.next.port()
            ),
        );
        write(
            "start",
            format!(
                "set -e\nmount --bind {at}/passwd /etc/passwd\nmount --bind {at}/group /etc/group\n\
                 mount --bind {root}/usr/libexec /usr/libexec\nmount --bind {at}/spool /var/spool\n\
                 mount --bind {at}/lib /var/lib\nmount --bind {at}/run /run\n\
                 LD_LIBRARY_PATH={root}/usr/lib/x86_64-linux-gnu exec {root}/usr/sbin/smtpd -d -f {at}/smtpd.conf \
                 >{at}/log 2>&1\n"
            ),
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh"]).arg(dir.path().join("start"));
        let log = dir.path().join("log");
        let program =
            Program::listening_or(command, address, || fs::read_to_string(&log).unwrap_or_default());
        Some(Self { dir, program, implicit })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.program.address()
    }

    /// Where it listens for TLS from the first octet.
    pub fn implicit(&self) -> SocketAddr {
        self.implicit
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// Two ids that no system gives away by itself.
const USERS: u32 = 64_901;
