//! A PostgreSQL of a test's own: a private cluster in a temporary folder, reached by a socket in it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of the kit")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A cluster. It is stopped and removed when the process that started it ends, however that ends.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    /// More options of the server's.
    settings: String,
    port: u16,
    /// Ends when its input does.
    undertaker: Option<(Child, ChildStdin)>,
}

impl Cluster {
    /// Starts a cluster. `None` where PostgreSQL is not installed, which is said aloud, and fails in CI.
    pub fn start() -> Option<Self> {
        Self::start_with("-c listen_addresses=", &[])
    }

    /// The same on a port of loopback, where it speaks TLS with this certificate and key, PEM.
    pub fn with_tls(chain: &str, key: &str) -> Option<Self> {
        let settings =
            "-c listen_addresses=127.0.0.1 -c ssl=on -c ssl_cert_file=../cert -c ssl_key_file=../key";
        Self::start_with(settings, &[("cert", chain), ("key", key)])
    }

    fn start_with(settings: &str, files: &[(&str, &str)]) -> Option<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("pg").tempdir().unwrap().keep();
        let port = if files.is_empty() { 5432 } else { free_port() };
        let mut cluster = Self { folder, programs, settings: settings.to_owned(), port, undertaker: None };
        for (name, text) in files {
            let path = cluster.folder.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        if is_root() {
            // It refuses to be run by root.
            let owned = Command::new("chown").args(["-R", "postgres"]).arg(&cluster.folder).status().unwrap();
            assert!(owned.success(), "the user postgres is needed");
        }
        let mut undertaker = Command::new("sh")
            .args(["-c", "cat >/dev/null; cd /; eval \"$0\"; rm -rf \"$1\""])
            .arg(cluster.shell("pg_ctl", &["-D", &cluster.data(), "-m", "immediate", "stop"]))
            .arg(&cluster.folder)
            // Whoever ends the test with all that it started must not end this.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = undertaker.stdin.take().unwrap();
        cluster.undertaker = Some((undertaker, input));
        let data = cluster.data();
        cluster.run(
            "initdb",
            &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"],
        );
        cluster.begin();
        Some(cluster)
    }

    /// One for all tests of a file, each of which takes a schema of its own.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.folder.display(), self.port)
    }

    /// The same as a program wants it that tells spools by their scheme.
    pub fn scheme_url(&self) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{folder}:{}/postgres", self.port)
    }

    /// Its port, of loopback where it listens there.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A schema that nobody else uses.
    pub fn schema(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("test {}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts the server.
    pub fn begin(&self) {
        let (log, data) = (self.folder.join("log"), self.data());
        // Durability is on, as it is what is tested; notices of the server's own are in the log.
        let (port, folder) = (self.port, self.folder.display());
        let options = format!("-p {port} -c unix_socket_directories={folder} {}", self.settings);
        self.run(
            "pg_ctl",
            &["-D", &data, "-w", "-t", "60", "-l", &log.display().to_string(), "-o", &options, "start"],
        );
    }

    /// Ends the server as a crash would.
    pub fn kill(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
    }

    /// The process that all of the server's are children of.
    pub fn postmaster(&self) -> u32 {
        let file = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        file.lines().next().and_then(|line| line.trim().parse().ok()).unwrap()
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    /// A command for a shell, run by a user whom PostgreSQL accepts.
    fn shell(&self, program: &str, args: &[&str]) -> String {
        let program = self.programs.join(program);
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let words: Vec<_> = [program.to_str().unwrap()].iter().chain(args).map(|word| quoted(word)).collect();
        let user = if is_root() { "runuser -u postgres -- " } else { "" };
        format!("{user}{}", words.join(" "))
    }

    fn run(&self, program: &str, args: &[&str]) {
        let out = self.folder.join("out");
        // What a server that goes on inherits must not be a pipe that somebody reads to its end.
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("cd /; {}", self.shell(program, args)))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::options().append(true).open(&out).unwrap())
            .status()
            .unwrap();
        let said = || {
            fs::read_to_string(&out).unwrap_or_default()
                + &fs::read_to_string(self.folder.join("log")).unwrap_or_default()
        };
        assert!(status.success(), "{program}: {}", said());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some((mut child, input)) = self.undertaker.take() {
            drop(input);
            let _ = child.wait();
        }
    }
}

/// The folder of the programs: what `PG_BIN` names, Debian's newest, or one on the path.
fn programs() -> Option<PathBuf> {
    let has =
        |folder: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file());
    let named = std::env::var_os("PG_BIN").map(PathBuf::from);
    let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .collect();
    debian.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).chain([Path::new("/usr/local/bin").into()]);
    let found = named.into_iter().chain(debian.into_iter().rev()).chain(path).find(has);
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "PostgreSQL must be installed in CI, or PG_BIN name its programs"
        );
        eprintln!(
            "\n*** SKIPPED: this needs PostgreSQL (initdb, pg_ctl, postgres), which is not installed ***\n"
        );
    }
    found
}

/// A port that was free a moment ago: the server cannot choose one itself.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap().port()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}
