//! Postfix, installed, with a configuration and a queue of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Duties, passable};
use crate::kit::process::{free_address, have, run, wait_until};

/// A Postfix with its own configuration and queue.
#[derive(Debug)]
pub struct Postfix {
    dir: TempDir,
    address: SocketAddr,
    implicit: Option<SocketAddr>,
}

impl Postfix {
    /// Starts a Postfix that hands everything to `relay_to`, or throws it away. `None` when Postfix
    /// is not installed.
    pub fn start(relay_to: Option<SocketAddr>) -> Option<Self> {
        let next = match relay_to {
            Some(to) => format!("relayhost = [127.0.0.1]:{}", to.port()),
            None => "default_transport = discard:".into(),
        };
        Self::run(&next, None)
    }

    /// Starts a Postfix that does these duties: it offers STARTTLS, and AUTH under TLS by way of Cyrus
    /// SASL. `None` when either is not installed.
    pub fn with(duties: &Duties) -> Option<Self> {
        if !have("saslpasswd2") {
            return None;
        }
        let (certificate, key) = (duties.certificate.display(), duties.key.display());
        // SMTPUTF8 is the default at a newer compatibility level only.
        let main = format!(
            "relayhost = [127.0.0.1]:{}\nmessage_size_limit = 40000000\nmailbox_size_limit = 0\n\
             smtputf8_enable = yes\nsmtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n\
             smtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes\nsmtpd_tls_session_cache_database =\n\
             smtpd_sasl_auth_enable = yes\nsmtpd_sasl_local_domain = postfix.test",
            duties.next.port()
        );
        Self::run(&main, Some(duties))
    }

    /// Starts a Postfix that shows a certificate, has these settings besides, and throws away what it
    /// takes. `None` when it is not installed.
    pub fn showing(certificate: &Path, key: &Path, settings: &str) -> Option<Self> {
        let main = format!(
            "default_transport = discard:\nsmtpd_tls_security_level = may\nsmtpd_tls_cert_file = {}\n\
             smtpd_tls_key_file = {}\nsmtpd_tls_loglevel = 1\n{settings}",
            certificate.display(),
            key.display()
        );
        Self::run(&main, None)
    }

    fn run(more: &str, duties: Option<&Duties>) -> Option<Self> {
        if !have("postfix") {
            return None;
        }
        let dir = passable();
        let address = free_address();
        let at = dir.path().display();
        for folder in ["conf", "queue", "data"] {
            fs::create_dir(dir.path().join(folder)).expect("folder");
        }
        let _ = Command::new("chown").arg("postfix").arg(dir.path().join("data")).status();
        fs::write(
            dir.path().join("conf/main.cf"),
            format!(
                "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
                 command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\n\
                 setgid_group = postdrop\nmaillog_file = {at}/log\nmaillog_file_prefixes = {at}\n\
                 myhostname = postfix.test\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmydestination =\n\
                 alias_maps =\nalias_database =\nlocal_recipient_maps =\nmynetworks = 127.0.0.0/8\n\
                 smtpd_relay_restrictions = permit_mynetworks, reject\nsmtpd_peername_lookup = no\n\
                 smtpd_client_connection_count_limit = 0\nin_flow_delay = 0\n{more}\n"
            ),
        )
        .expect("main.cf");
        let stock = fs::read_to_string("/usr/share/postfix/master.cf.dist").expect("Debian's master.cf.dist");
        let mut master = format!(
            "127.0.0.1:{} inet n - n - - smtpd\npostlog unix-dgram n - n - 1 postlogd\n",
            address.port()
        );
        for line in stock
            .lines()
            .filter(|l| !l.starts_with("smtp ") || !l.contains("inet"))
            .filter(|l| !l.starts_with("postlog"))
        {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                [name, kind @ ("unix" | "fifo"), private, privileged, _chroot, rest @ ..]
                    if !line.starts_with(['#', ' ']) =>
                {
                    master += &format!("{name} {kind} {private} {privileged} n {}\n", rest.join(" "));
                }
                _ if line.starts_with(['#', ' ']) || line.is_empty() => {}
                _ => master += &format!("{line}\n"),
            }
        }
        let implicit = duties.map(|duties| {
            let address = free_address();
            master +=
                &format!("127.0.0.1:{} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes\n", address.port());
            users(&dir.path().join("conf"), duties);
            address
        });
        fs::write(dir.path().join("conf/master.cf"), master).expect("master.cf");
        let postfix = Self { dir, address, implicit };
        let (code, text) = postfix.control("start");
        assert_eq!(code, Some(0), "postfix start: {text}\n{}", postfix.log());
        wait_until("postfix listens", || std::net::TcpStream::connect(address).is_ok());
        Some(postfix)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for TLS from the first octet.
    pub fn implicit(&self) -> SocketAddr {
        self.implicit.expect("with duties")
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn control(&self, verb: &str) -> (Option<i32>, String) {
        run(Command::new("postfix").arg("-c").arg(self.dir.path().join("conf")).arg(verb), b"")
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let _ = self.control("abort");
    }
}

/// Cyrus SASL's book of users, and the file that says where it is: Debian's Postfix looks in `sasl`
/// beside its configuration.
fn users(conf: &Path, duties: &Duties) {
    let conf = conf.join("sasl");
    fs::create_dir(&conf).expect("folder");
    let book = conf.join("sasldb2");
    let mut add = Command::new("saslpasswd2");
    add.args(["-p", "-c", "-u", "postfix.test", "-f"]).arg(&book).arg(&duties.user);
    let (code, text) = run(&mut add, duties.password.as_bytes());
    assert_eq!(code, Some(0), "saslpasswd2: {text}");
    let _ = Command::new("chown").arg("postfix").arg(&book).status();
    let says = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {}\n\
         mech_list: PLAIN LOGIN SCRAM-SHA-256\n",
        book.display()
    );
    fs::write(conf.join("smtpd.conf"), says).expect("smtpd.conf");
}
