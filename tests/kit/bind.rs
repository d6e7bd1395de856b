//! Other people's name servers for tests: BIND signs and serves a tree of zones, unbound validates it.
//!
//! They have what hickory-server's fixtures lack: wildcards, NSEC3, and the AD bit. Zones are written as
//! zone files; keys, delegations, SOA and NS are added.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the kit")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process::{free_address, have, run, wait_until};

/// How a zone is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    Nsec,
    Nsec3,
    Unsigned,
}

/// A running BIND, and unbound once it is asked for; both end when dropped.
pub struct Bind {
    folder: tempfile::TempDir,
    address: SocketAddr,
    anchors: String,
    children: Vec<Child>,
}

impl Bind {
    /// Serves `(origin, proof, zone file)`; the root and `test` are added. `None` where a program is not
    /// installed.
    pub fn start(zones: &[(&str, Proof, &str)]) -> Option<Self> {
        let programs = ["named", "unbound", "dnssec-keygen", "dnssec-dsfromkey", "dnssec-signzone"];
        if !programs.iter().all(|program| have(program)) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        // Parents after their children, whose DS they hold.
        let mut all: Vec<(&str, Proof, String)> =
            zones.iter().map(|(origin, proof, text)| (*origin, *proof, (*text).to_owned())).collect();
        let server = "ns.test. A 127.0.0.1";
        all.push(("test", Proof::Nsec, server.to_owned()));
        all.push((".", Proof::Nsec, server.to_owned()));
        let mut below: BTreeMap<&str, String> = BTreeMap::new();
        let (mut config, mut anchors) = (String::new(), String::new());
        for (origin, proof, text) in &all {
            let dot = if *origin == "." { ".".to_owned() } else { format!("{origin}.") };
            let file = dir.join(format!("zone.{origin}"));
            let mut zone = format!(
                "$TTL 60\n$ORIGIN {dot}\n@ SOA ns.test. x.test. 1 60 60 60 60\n@ NS ns.test.\n{text}\n{}",
                below.remove(origin).unwrap_or_default()
            );
            let parent = if *origin == "test" { "." } else { "test" };
            let delegation = below.entry(parent).or_default();
            delegation.push_str(&format!("{dot} NS ns.test.\n"));
            let signed = if *proof == Proof::Unsigned {
                fs::write(&file, zone).unwrap();
                file
            } else {
                let key = said(dir, "dnssec-keygen", &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", origin]);
                let key_file = format!("{}.key", key.trim());
                let line = fs::read_to_string(dir.join(&key_file)).unwrap();
                let line = line.lines().find(|line| line.contains("DNSKEY")).unwrap().to_owned();
                zone.push_str(&format!("{line}\n"));
                fs::write(&file, zone).unwrap();
                delegation.push_str(&said(dir, "dnssec-dsfromkey", &["-2", &key_file]));
                if *origin == "." {
                    anchors = format!("{line}\n");
                }
                let signed = dir.join(format!("signed.{origin}"));
                let (out, file) = (signed.to_str().unwrap(), file.to_str().unwrap());
                let mut args = vec!["-q", "-P", "-z", "-o", origin, "-f", out];
                if *proof == Proof::Nsec3 {
                    args.extend(["-3", "-", "-H", "0"]);
                }
                args.extend([file, key.trim()]);
                said(dir, "dnssec-signzone", &args);
                signed
            };
            config.push_str(&format!(
                "zone \"{origin}\" {{ type primary; file \"{}\"; }};\n",
                signed.display()
            ));
        }
        let address = free_address();
        let text = format!(
            "options {{ directory \"{}\"; listen-on port {} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
             recursion no; dnssec-validation no; pid-file none; session-keyfile none; }};\ncontrols {{ }};\n{config}",
            dir.display(),
            address.port(),
        );
        fs::write(dir.join("named.conf"), text).unwrap();
        let named = start(dir, "named", &["-g", "-c", "named.conf"], address);
        Some(Self { address, anchors, children: vec![named], folder })
    }

    /// The authority.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root's key, as a line of a zone file.
    pub fn anchors(&self) -> &str {
        &self.anchors
    }

    /// What the servers wrote to their logs, for a test that fails.
    pub fn logs(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("named.log") + &read("unbound.log")
    }

    /// Starts a resolver in front of it, which validates where it knows the root's key.
    pub fn resolver(&mut self, validates: bool) -> SocketAddr {
        let dir = self.folder.path().to_path_buf();
        let address = free_address();
        fs::write(dir.join("root.key"), &self.anchors).unwrap();
        let anchor = if validates {
            format!(
                "  module-config: \"validator iterator\"\n  trust-anchor-file: \"{}/root.key\"\n",
                dir.display()
            )
        } else {
            "  module-config: \"iterator\"\n".to_owned()
        };
        let text = format!(
            "server:\n  interface: 127.0.0.1\n  port: {}\n  do-ip6: no\n  use-syslog: no\n  chroot: \"\"\n  \
             username: \"\"\n  pidfile: \"\"\n  directory: \"{}\"\n  do-not-query-localhost: no\n  \
             num-threads: 1\n  local-zone: \"test.\" nodefault\n{anchor}\
             forward-zone:\n  name: \".\"\n  forward-addr: 127.0.0.1@{}\nremote-control:\n  control-enable: no\n",
            address.port(),
            dir.display(),
            self.address.port(),
        );
        fs::write(dir.join("unbound.conf"), text).unwrap();
        self.children.push(start(&dir, "unbound", &["-d", "-c", "unbound.conf"], address));
        address
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Debian keeps servers where a user's path does not lead.
fn command(dir: &Path, program: &str, args: &[&str]) -> Command {
    let at = PathBuf::from("/usr/sbin").join(program);
    let mut command = if at.is_file() { Command::new(at) } else { Command::new(program) };
    command.current_dir(dir).args(args);
    command
}

fn said(dir: &Path, program: &str, args: &[&str]) -> String {
    let (status, text) = run(&mut command(dir, program, args), b"");
    assert_eq!(status, Some(0), "{program}: {text}");
    text
}

fn start(dir: &Path, program: &str, args: &[&str], address: SocketAddr) -> Child {
    let log = dir.join(format!("{program}.log"));
    let file = fs::File::create(&log).unwrap();
    let mut command = command(dir, program, args);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    wait_until(&format!("{program} listens"), || {
        if let Some(status) = child.try_wait().unwrap() {
            panic!("{program} ended: {status}\n{}", fs::read_to_string(&log).unwrap());
        }
        TcpStream::connect(address).is_ok()
    });
    child
}
