//! A trace shows the dialogue line by line, without credentials.

use std::fmt;
use std::sync::Arc;

/// One line of the dialogue, or the beginning of one. The same on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceLine<'a> {
    /// The client's, without line end.
    Client(&'a [u8]),
    /// The server's, without line end.
    Server(&'a [u8]),
    /// The client sent something secret.
    Secret,
    /// The server's side of an AUTH exchange: the reply's code is all that is shown.
    Challenge(&'a [u8]),
    /// The client sent so many octets of content, or of what is no command.
    Content(usize),
    /// TLS was begun.
    Tls {
        /// The protocol version.
        version: &'a str,
        /// The cipher suite.
        cipher: &'a str,
        /// Whether the server's certificate is valid for the host; `None` on the server's own side.
        verified: Option<bool>,
    },
}

/// Is shown each line.
pub type TraceFn = Arc<dyn Fn(TraceLine<'_>) + Send + Sync>;

impl fmt::Display for TraceLine<'_> {
    /// As a protocol listing has it: `C:` and `S:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(line) => write!(f, "C: {}", line.escape_ascii()),
            Self::Server(line) => write!(f, "S: {}", line.escape_ascii()),
            Self::Secret => f.write_str("C: ********"),
            Self::Challenge(code) => write!(f, "S: {} ********", code.escape_ascii()),
            Self::Content(octets) => write!(f, "C: ({octets} more octets)"),
            Self::Tls { version, cipher, verified } => {
                write!(f, "-- {version} {cipher}")?;
                match verified {
                    Some(true) => f.write_str(", verified"),
                    Some(false) => f.write_str(", not verified"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Where trace lines go: to the caller's function and to `tracing`, target `postroad::wire`.
#[derive(Clone, Default)]
pub(crate) struct Tracer {
    to: Option<TraceFn>,
    /// An AUTH exchange goes on. What the server says in it may repeat what the client said.
    hidden: bool,
    /// The code of a hidden reply, while its line is incomplete.
    code: Vec<u8>,
}

impl Tracer {
    pub(crate) fn new(to: Option<TraceFn>) -> Self {
        Self { to, ..Self::default() }
    }

    /// The client's side: octets were sent.
    pub(super) fn sent(&mut self, octets: &[u8]) {
        if self.is_on() {
            self.hidden |= octets.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
            let (shown, rest) = octets.split_at(octets.len().min(SHOWN));
            self.lines(shown, TraceLine::Client);
            if !rest.is_empty() {
                self.show(TraceLine::Content(rest.len()));
            }
        }
    }

    /// The client's side: a secret was sent.
    pub(super) fn secret(&mut self) {
        self.hidden = true;
        self.show(TraceLine::Secret);
    }

    /// The client's side: octets came, cut anywhere.
    pub(super) fn received(&mut self, octets: &[u8]) {
        if !self.is_on() {
            return;
        }
        let mut octets = octets.iter();
        while self.hidden {
            let Some(octet) = octets.next() else { return };
            match octet {
                b'\n' => {
                    let code = std::mem::take(&mut self.code);
                    self.show(TraceLine::Challenge(code.get(..3).unwrap_or(&code)));
                    // The exchange ends with the first reply that asks for nothing more.
                    self.hidden = code.starts_with(b"334") || code.get(3) == Some(&b'-');
                }
                octet if self.code.len() < CODE => self.code.push(*octet),
                _ => {}
            }
        }
        self.lines(octets.as_slice(), TraceLine::Server);
    }

    /// The server's side: octets were said.
    pub(crate) fn said(&self, octets: &[u8]) {
        if self.is_on() {
            self.lines(octets, |line| match line.get(..3) {
                // RFC 4954 §4: only AUTH has this reply.
                Some(code @ b"334") => TraceLine::Challenge(code),
                _ => TraceLine::Server(line),
            });
        }
    }

    pub(crate) fn show(&self, line: TraceLine<'_>) {
        if let Some(trace) = &self.to {
            trace(line);
        }
        tracing::trace!(target: "postroad::wire", "{line}");
    }

    pub(crate) fn is_on(&self) -> bool {
        self.to.is_some() || tracing::enabled!(target: "postroad::wire", tracing::Level::TRACE)
    }

    fn lines<'a>(&self, octets: &'a [u8], line: impl Fn(&'a [u8]) -> TraceLine<'a>) {
        for part in octets.split_inclusive(|octet| *octet == b'\n') {
            let part = part.strip_suffix(b"\n").unwrap_or(part);
            self.show(line(part.strip_suffix(b"\r").unwrap_or(part)));
        }
    }
}

/// An envelope with some ten recipients fits; the content behind it is of no use in a trace.
const SHOWN: usize = 2048;
/// A reply's code and the octet behind it.
const CODE: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn traced(play: impl FnOnce(&mut Tracer)) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        play(&mut Tracer::new(Some(Arc::new(move |line| sink.lock().unwrap().push(line.to_string())))));
        Arc::into_inner(lines).unwrap().into_inner().unwrap()
    }

    #[test]
    fn what_a_server_says_within_auth_is_hidden_however_it_is_cut() {
        let said = b"334 aGVsbG8=\r\n334-a\r\n334 b\r\n535-5.7.8 no s3cret\r\n535 5.7.8 s3cret\r\n250 ok\r\n";
        let mut first = None;
        for cut in 0..said.len() {
            let lines = traced(|tracer| {
                tracer.sent(b"AUTH LOGIN\r\n");
                let (one, two) = said.split_at(cut);
                tracer.received(one);
                tracer.secret();
                tracer.received(two);
            });
            assert!(!lines.iter().any(|line| line.contains("s3cret") || line.contains("aGV")), "{lines:?}");
            let shown: Vec<_> = lines.iter().filter(|line| line.starts_with("S: ")).cloned().collect();
            if cut < said.len() - 8 {
                assert_eq!(&shown, first.get_or_insert_with(|| shown.clone()), "cut at {cut}");
            }
        }
        let first = first.unwrap();
        assert_eq!(first[2], "S: 334 ********");
        assert_eq!(first[4..], ["S: 535 ********", "S: 250 ok"]);
    }

    #[test]
    fn a_challenge_is_hidden_on_the_servers_side() {
        let lines = traced(|tracer| tracer.said(b"250-x\r\n334 VXNlcm5hbWU6\r\n235 ok\r\n"));
        assert_eq!(lines, ["S: 250-x", "S: 334 ********", "S: 235 ok"]);
    }
}
