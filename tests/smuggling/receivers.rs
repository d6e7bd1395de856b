//! Receivers of DATA content as they are and were: one that keeps to RFC 5321, and those that see an
//! end where others see none.

/// What a receiver makes of the octets behind its 354: the messages, and what it takes for commands.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub content: Vec<u8>,
    pub behind: Vec<u8>,
}

/// Only CRLF.CRLF ends content, only a dot behind CRLF is removed (RFC 5321 §4.1.1.4, §4.5.2).
pub fn strict(wire: &[u8]) -> Option<Received> {
    let mut content = Vec::new();
    let mut at = 0;
    while at < wire.len() {
        let line_start = at == 0 || wire[..at].ends_with(b"\r\n");
        if line_start && wire[at..].starts_with(b".\r\n") {
            return Some(Received { content, behind: wire[at + 3..].to_vec() });
        }
        if !(line_start && wire[at] == b'.') {
            content.push(wire[at]);
        }
        at += 1;
    }
    None
}

/// CR, LF and CRLF each end a line; a dot alone on a line ends the content. What it makes of line ends
/// is CRLF.
pub fn lenient(wire: &[u8]) -> Option<Received> {
    let mut content = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let end = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n'))?;
        let (line, tail) = rest.split_at(end);
        rest = tail.strip_prefix(b"\r\n").unwrap_or_else(|| &tail[1..]);
        if line == b"." {
            return Some(Received { content, behind: rest.to_vec() });
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        content.extend_from_slice(b"\r\n");
    }
    None
}

/// The lenient one, which drops NULs before it looks.
pub fn without_nul(wire: &[u8]) -> Option<Received> {
    lenient(&wire.iter().copied().filter(|octet| *octet != 0).collect::<Vec<u8>>())
}
