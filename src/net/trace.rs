//! A trace shows the dialogue line by line, without credentials.

use std::fmt;
use std::sync::Arc;

/// One line of the dialogue, or the beginning of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceLine<'a> {
    /// Sent to the server, without line end.
    Sent(&'a [u8]),
    /// Received from the server, without line end.
    Received(&'a [u8]),
    /// Something secret was sent.
    Secret,
    /// So many octets more, of content, were sent.
    Content(usize),
    /// TLS was begun.
    Tls {
        /// The protocol version.
        version: &'a str,
        /// The cipher suite.
        cipher: &'a str,
        /// Whether the certificate is valid for the host.
        verified: bool,
    },
}

/// Is shown each line.
pub type TraceFn = Arc<dyn Fn(TraceLine<'_>) + Send + Sync>;

impl fmt::Display for TraceLine<'_> {
    /// As a protocol listing has it: `C:` and `S:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(line) => write!(f, "C: {}", line.escape_ascii()),
            Self::Received(line) => write!(f, "S: {}", line.escape_ascii()),
            Self::Secret => f.write_str("C: ********"),
            Self::Content(octets) => write!(f, "C: ({octets} more octets)"),
            Self::Tls { version, cipher, verified } => {
                let worth = if *verified { "verified" } else { "not verified" };
                write!(f, "-- {version} {cipher}, {worth}")
            }
        }
    }
}

/// Where trace lines go: to the caller's function and to `tracing`, target `postroad::wire`.
#[derive(Clone, Default)]
pub(super) struct Tracer(pub(super) Option<TraceFn>);

impl Tracer {
    pub(super) fn sent(&self, octets: &[u8]) {
        if self.is_on() {
            let (shown, rest) = octets.split_at(octets.len().min(SHOWN));
            self.lines(shown, TraceLine::Sent);
            if !rest.is_empty() {
                self.show(TraceLine::Content(rest.len()));
            }
        }
    }

    /// During a login what the server challenges with is kept out: with SCRAM's salt and signature, who
    /// reads the trace could guess passwords.
    pub(super) fn received(&self, octets: &[u8], login: bool) {
        if self.is_on() {
            self.lines(octets, |line| match line {
                [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9', b' ' | b'-', ..] if !line.starts_with(b"334") => {
                    TraceLine::Received(line)
                }
                // A challenge, or a piece of one.
                _ if login => TraceLine::Received(b"334 ********"),
                _ => TraceLine::Received(line),
            });
        }
    }

    pub(super) fn show(&self, line: TraceLine<'_>) {
        if let Some(trace) = &self.0 {
            trace(line);
        }
        tracing::trace!(target: "postroad::wire", "{line}");
    }

    fn is_on(&self) -> bool {
        self.0.is_some() || tracing::enabled!(target: "postroad::wire", tracing::Level::TRACE)
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
