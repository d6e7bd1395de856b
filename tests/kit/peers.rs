//! Real mail servers of other people: Postfix and Exim, each in a folder of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Program, free_address, have, run, wait_until};

/// A Postfix with its own configuration and queue.
#[derive(Debug)]
pub struct Postfix {
    dir: TempDir,
    address: SocketAddr,
}

impl Postfix {
    /// Starts a Postfix that hands everything to `relay_to`, or throws it away. `None` when Postfix
    /// is not installed.
    pub fn start(relay_to: Option<SocketAddr>) -> Option<Self> {
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
        let next = match relay_to {
            Some(to) => format!("relayhost = [127.0.0.1]:{}", to.port()),
            None => "default_transport = discard:".into(),
        };
        fs::write(
            dir.path().join("conf/main.cf"),
            format!(
                "compatibility_level = 3.6\nqueue_directory = {at}/queue\ndata_directory = {at}/data\n\
                 command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\nmail_owner = postfix\n\
                 setgid_group = postdrop\nmaillog_file = {at}/log\nmaillog_file_prefixes = {at}\n\
                 myhostname = postfix.test\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmydestination =\n\
                 alias_maps =\nalias_database =\nlocal_recipient_maps =\nmynetworks = 127.0.0.0/8\n\
                 smtpd_relay_restrictions = permit_mynetworks, reject\nsmtpd_peername_lookup = no\n\
                 smtpd_client_connection_count_limit = 0\nin_flow_delay = 0\n{next}\n"
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
        fs::write(dir.path().join("conf/master.cf"), master).expect("master.cf");
        let postfix = Self { dir, address };
        let (code, text) = postfix.control("start");
        assert_eq!(code, Some(0), "postfix start: {text}\n{}", postfix.log());
        wait_until("postfix listens", || std::net::TcpStream::connect(address).is_ok());
        Some(postfix)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
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

/// An Exim that keeps what it accepts in its queue, unpacked beside an installed Postfix.
#[derive(Debug)]
pub struct Exim {
    dir: TempDir,
    program: Program,
}

impl Exim {
    /// Starts an Exim. `None` when there is none: `EXIM` names the binary, and `EXIM_LIBS` a folder
    /// of libraries that it needs and the system lacks, else `exim4` is looked for.
    pub fn start() -> Option<Self> {
        let binary = std::env::var("EXIM").unwrap_or_else(|_| "exim4".into());
        if !have(&binary) {
            return None;
        }
        let binary = if Path::new(&binary).is_absolute() { PathBuf::from(binary) } else { find(&binary)? };
        let exim = || {
            let mut command = Command::new(&binary);
            if let Ok(libs) = std::env::var("EXIM_LIBS") {
                command.env("LD_LIBRARY_PATH", libs);
            }
            command
        };
        // An unpacked one may lack a library, or the user that Debian's was built for.
        let (code, text) = run(exim().arg("-bV"), b"");
        if code != Some(0) && !text.contains("Exim version") {
            assert!(std::env::var_os("CI").is_none(), "{} must run in CI: {text}", binary.display());
            eprintln!("\n*** SKIPPED: {} does not run: {text} ***\n", binary.display());
            return None;
        }
        let dir = passable();
        let at = dir.path().display();
        for folder in ["spool", "log"] {
            fs::create_dir(dir.path().join(folder)).expect("folder");
        }
        let _ = Command::new("chown").args(["-R", "mail:mail"]).arg(dir.path()).status();
        let conf = dir.path().join("exim.conf");
        fs::write(
            &conf,
            format!(
                "exim_path = {}\nexim_user = mail\nexim_group = mail\nnever_users =\nspool_directory = {at}/spool\n\
                 log_file_path = {at}/log/%slog\nprimary_hostname = exim.test\nhost_lookup =\nrfc1413_query_timeout = 0s\n\
                 tls_advertise_hosts =\nsmtp_accept_max_per_connection = 0\nchunking_advertise_hosts = *\n\
                 pipelining_advertise_hosts = *\nqueue_only = true\nacl_smtp_rcpt = rcpt\nlog_selector = +received_recipients\n\
                 begin acl\nrcpt:\n  deny local_parts = nobody\n  accept\n\
                 begin routers\nall:\n  driver = redirect\n  data = :blackhole:\nbegin transports\nbegin retry\n* * F,1h,1m\n",
                binary.display()
            ),
        )
        .expect("exim.conf");
        let address = free_address();
        let mut command = exim();
        command.arg("-C").arg(&conf).args(["-bdf", "-oX", &format!("127.0.0.1.{}", address.port())]);
        let program = Program::listening(command, address);
        Some(Self { dir, program })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.program.address()
    }

    /// The lines of its main log that say that a message was accepted.
    pub fn accepted(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.path().join("log/mainlog")).unwrap_or_default();
        log.lines().filter(|line| line.contains(" <= ")).map(Into::into).collect()
    }

    /// What it accepted and keeps, in the order of its log: sender, recipients and body, without the
    /// header.
    pub fn kept(&self) -> Vec<(String, String, String)> {
        let kept = |line: String| {
            let (front, recipients) = line.rsplit_once(" for ").expect("+received_recipients");
            let mut words = front.split_whitespace().skip(2);
            let (id, sender) = (words.next().expect("id"), words.nth(1).expect("sender"));
            let body = fs::read_to_string(self.dir.path().join(format!("spool/input/{id}-D"))).expect("body");
            // Its first line is its own name.
            let body = body.split_once('\n').expect("a line").1;
            (sender.to_owned(), recipients.to_owned(), body.to_owned())
        };
        self.accepted().into_iter().map(kept).collect()
    }
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// A folder that the servers' own users can pass.
fn passable() -> TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    let _ = Command::new("chmod").arg("755").arg(dir.path()).status();
    dir
}
