//! Starting the example programs and other people's mail programs in a test.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a program may take to come up on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Whether `program` can be run. On a user's machine its absence skips the test, loudly; in CI,
/// where it must be there, it fails it.
pub fn have(program: &str) -> bool {
    let there = Path::new(program).is_file()
        || std::env::var_os("PATH")
            .map(|path| {
                std::env::split_paths(&path)
                    .chain(["/usr/sbin".into(), "/sbin".into()])
                    .any(|dir| dir.join(program).is_file())
            })
            .unwrap_or(false);
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{program} must be installed in CI");
        eprintln!("\n*** SKIPPED: this test needs `{program}`, which is not installed ***\n");
    }
    there
}

/// The folder that a peer's library was installed in: what `variable` names, else `name` in
/// `target/peers`, as `.ci/run` fills it. Without `file` in it the test is skipped, as by [`have`].
pub fn peer_folder(variable: &str, name: &str, file: &str) -> Option<PathBuf> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    let folder = std::env::var_os(variable).map_or_else(|| peers.join(name), PathBuf::from);
    if folder.join(file).exists() {
        return Some(folder);
    }
    assert!(std::env::var_os("CI").is_none(), "{variable} must name a folder with {file} in CI");
    eprintln!("\n*** SKIPPED: this test needs {file} in the folder that {variable} names ***\n");
    None
}

/// The built example program of that name.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let folder = test.parent().and_then(Path::parent).expect("target folder").join("examples");
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built: run `cargo test`, which builds the examples", path.display());
    path
}

/// A running program; killed with everything it started when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    addresses: Vec<SocketAddr>,
    out: mpsc::Receiver<String>,
}

impl Program {
    /// Starts an example that prints a `ready` line, and waits for the line.
    pub fn example(name: &str, args: &[&str]) -> Self {
        let mut command = Command::new(example(name));
        command.args(args).env("RUST_LOG", "warn");
        Self::ready(command)
    }

    /// Starts a program and waits for its `ready` line, which lists the addresses it listens on.
    pub fn ready(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("program starts");
        let lines = BufReader::new(child.stdout.take().expect("stdout"));
        let (to, out) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        let line = loop {
            match out.recv_timeout(START) {
                Ok(line) if line.starts_with("ready") => break line,
                Ok(_) => {}
                Err(_) => {
                    let _ = child.kill();
                    panic!("{command:?} did not get ready: {:?}", child.wait());
                }
            }
        };
        let addresses = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Self { child, addresses, out }
    }

    /// Starts a program that says nothing, and waits until it answers on `address`.
    pub fn listening(command: Command, address: SocketAddr) -> Self {
        Self::listening_or(command, address, String::new)
    }

    /// As [`Program::listening`], for one that keeps a log, which says why it does not come up.
    pub fn listening_or(mut command: Command, address: SocketAddr, log: impl Fn() -> String) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("program starts");
        let mut program = Self { child, addresses: vec![address], out: mpsc::channel().1 };
        wait_until(&format!("{command:?} listens"), || {
            if let Some(status) = program.child.try_wait().expect("child") {
                panic!("{command:?} ended: {status}\n{}", log());
            }
            greets(address)
        });
        program
    }

    /// Where it listens first.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All the addresses it listens on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; waits for the end and returns the exit code and what was printed.
    pub fn terminate(mut self) -> (Option<i32>, Vec<String>) {
        let _ = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status();
        let status = wait_for(&mut self.child);
        // The program is gone, but who reads its last lines may not be done.
        (status, std::iter::from_fn(|| self.out.recv_timeout(START).ok()).collect())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(child: &mut Child) -> Option<i32> {
    let end = now() + START;
    loop {
        match child.try_wait().expect("child") {
            Some(status) => return status.code(),
            None if now() > end => panic!("the program did not end within {START:?} of SIGTERM"),
            None => pause(),
        }
    }
}

/// Whether something on `address` sends a greeting.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut first = [0; 4];
    stream.read_exact(&mut first).is_ok() && first == *b"220 "
}

/// Polls `done` until it holds; real programs cannot be told to wake us.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = now() + START;
    while !done() {
        assert!(now() < end, "{what}: not within {START:?}");
        pause();
    }
}

/// The messages that a dumping sink has kept. It writes each under another name first.
pub fn dumped(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("the sink's folder").map_while(Result::ok);
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "eml")).collect()
}

/// A port that was free a moment ago, for programs that cannot choose one themselves.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// Feeds `input` to a command; returns its exit code and all that it printed.
pub fn run(command: &mut Command, input: &[u8]) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin: ChildStdin = child.stdin.take().expect("stdin");
    let input = input.to_vec();
    std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().expect("output");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[allow(clippy::disallowed_methods, reason = "waits for other processes in real time")]
fn now() -> Instant {
    Instant::now()
}

fn pause() {
    std::thread::park_timeout(Duration::from_millis(20));
}
