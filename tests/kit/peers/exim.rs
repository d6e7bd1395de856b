//! Exim, unpacked beside an installed Postfix, with which Debian's package does not go together.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Duties, passable};
use crate::kit::process::{Program, free_address, have, run};

/// An Exim of our own.
#[derive(Debug)]
pub struct Exim {
    dir: TempDir,
    program: Program,
    implicit: SocketAddr,
}

impl Exim {
    /// Starts an Exim that keeps what it accepts in its queue. `None` when there is none: `EXIM` names
    /// the binary, and `EXIM_LIBS` a folder of libraries that it needs and the system lacks, else
    /// `exim4` is looked for.
    pub fn start() -> Option<Self> {
        Self::run(|_, _| {
            "tls_advertise_hosts =\nqueue_only = true\n\
             begin routers\nall:\n  driver = redirect\n  data = :blackhole:\nbegin transports\n"
                .into()
        })
    }

    /// Starts an Exim that does these duties: it offers STARTTLS, and AUTH under TLS.
    pub fn with(duties: &Duties) -> Option<Self> {
        Self::run(|dir, implicit| {
            let at = dir.display();
            fs::copy(&duties.certificate, dir.join("cert.pem")).expect("certificate");
            fs::copy(&duties.key, dir.join("key.pem")).expect("key");
            let (user, password) = (&duties.user, &duties.password);
            let right = |name: u8, word: u8| {
                format!("${{if and{{{{eq{{$auth{name}}}{{{user}}}}}{{eq{{$auth{word}}}{{{password}}}}}}}}}")
            };
            format!(
                "tls_advertise_hosts = *\ntls_certificate = {at}/cert.pem\ntls_privatekey = {at}/key.pem\n\
                 tls_on_connect_ports = {}\nauth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}\n\
                 message_size_limit = 40M\nsmtputf8_advertise_hosts = *\nkeep_environment = LD_LIBRARY_PATH\n\
                 deliver_drop_privilege = true\n\
                 begin authenticators\n\
                 plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n\
                 \x20 server_condition = {}\n\
                 login:\n  driver = plaintext\n  public_name = LOGIN\n\
                 \x20 server_prompts = Username:: : Password::\n  server_condition = {}\n\
                 begin routers\nall:\n  driver = manualroute\n  route_list = * 127.0.0.1\n  self = send\n\
                 \x20 transport = next\n\
                 begin transports\nnext:\n  driver = smtp\n  port = {}\n  allow_localhost = true\n",
                implicit.port(),
                right(2, 3),
                right(1, 2),
                duties.next.port()
            )
        })
    }

    /// Starts an Exim whose configuration ends as `more` says, for its folder and its second address.
    fn run(more: impl FnOnce(&Path, SocketAddr) -> String) -> Option<Self> {
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
        let (address, implicit) = (free_address(), free_address());
        let more = more(dir.path(), implicit);
        let _ = Command::new("chown").args(["-R", "mail:mail"]).arg(dir.path()).status();
        let conf = dir.path().join("exim.conf");
        fs::write(
            &conf,
            format!(
                "exim_path = {}\nexim_user = mail\nexim_group = mail\nnever_users =\nspool_directory = {at}/spool\n\
                 log_file_path = {at}/log/%slog\nprimary_hostname = exim.test\nhost_lookup =\nrfc1413_query_timeout = 0s\n\
                 smtp_accept_max_per_connection = 0\nchunking_advertise_hosts = *\n\
                 pipelining_advertise_hosts = *\nacl_smtp_rcpt = rcpt\nlog_selector = +received_recipients\n\
                 {more}begin acl\nrcpt:\n  deny local_parts = nobody\n  accept\n\
                 begin retry\n* * F,1h,1m\n",
                binary.display()
            ),
        )
        .expect("exim.conf");
        let mut command = exim();
        let ports = format!("127.0.0.1.{} : 127.0.0.1.{}", address.port(), implicit.port());
        command.arg("-C").arg(&conf).args(["-bdf", "-oX", &ports]);
        let program = Program::listening(command, address);
        Some(Self { dir, program, implicit })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.program.address()
    }

    /// Where it listens for TLS from the first octet; used with duties only.
    pub fn implicit(&self) -> SocketAddr {
        self.implicit
    }

    /// Its logs so far.
    pub fn log(&self) -> String {
        ["main", "reject", "panic"]
            .map(|name| {
                fs::read_to_string(self.dir.path().join(format!("log/{name}log"))).unwrap_or_default()
            })
            .concat()
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
