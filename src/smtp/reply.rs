//! A reply is what a server said: a code, an enhanced code where one was given, and text.
//!
//! A reply of any class is data, never an error: what it means for a recipient is decided in one
//! place above this layer.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::decimal::push_number;

/// An enhanced status code (RFC 3463), such as 5.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about.
    pub subject: u16,
    /// What exactly.
    pub detail: u16,
}

impl EnhancedCode {
    /// The code `class.subject.detail`.
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// The code, when `text` is one and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::split(text).filter(|_| !text.contains(' ')).map(|(code, _)| code)
    }

    /// Reads the code at the start of `text` and returns it with what follows it.
    fn split(text: &str) -> Option<(Self, &str)> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = word.split('.');
        let class = match parts.next()? {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        // RFC 3463 §2: one to three digits each.
        let mut number = || {
            parts
                .next()
                .filter(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))?
                .parse()
                .ok()
        };
        let code = Self { class, subject: number()?, detail: number()? };
        parts.next().is_none().then_some((code, rest))
    }

    fn push_to(self, text: &mut String) {
        for (number, end) in self.parts() {
            push_number(text, number, 1);
            text.push_str(end);
        }
    }

    fn parts(self) -> [(u64, &'static str); 3] {
        [(self.class.into(), "."), (self.subject.into(), "."), (self.detail.into(), "")]
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity("2.100.100".len());
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    /// One or more lines, joined by LF, without code or enhanced code.
    text: Box<str>,
}

impl Reply {
    /// A reply with an enhanced code. Control characters in `text` become spaces (LF starts a new
    /// line of the reply), so that no text can forge another reply.
    #[must_use]
    pub fn new(code: u16, enhanced: EnhancedCode, text: &str) -> Self {
        Self { code: valid(code), enhanced: Some(enhanced), text: clean(text) }
    }

    /// A reply that carries no enhanced code: greeting, EHLO, 3xx (RFC 2034 §4).
    #[must_use]
    pub fn plain(code: u16, text: &str) -> Self {
        Self { code: valid(code), enhanced: None, text: clean(text) }
    }

    /// The three digits.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code, if it was given.
    #[must_use]
    pub const fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The text, lines joined by LF, without the codes.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines of the text; at least one.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// 2xx: done.
    #[must_use]
    pub const fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3xx: go on.
    #[must_use]
    pub const fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4xx: not now.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5xx: never like this.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Writes the reply as it goes over the wire, the enhanced code on each line (RFC 2034 §4).
    pub fn encode(&self, to: &mut BytesMut) {
        // In one piece, since every piece that is put asks for room.
        let mut octets = String::with_capacity(self.text.len() + "250 2.100.100 \r\n".len());
        let mut lines = self.lines().peekable();
        while let Some(line) = lines.next() {
            push_number(&mut octets, self.code.into(), 1);
            octets.push(if lines.peek().is_some() { '-' } else { ' ' });
            if let Some(enhanced) = self.enhanced {
                enhanced.push_to(&mut octets);
                octets.push(' ');
            }
            octets.push_str(line);
            octets.push_str("\r\n");
        }
        to.put_slice(octets.as_bytes());
    }
}

impl fmt::Display for Reply {
    /// On one line, as a person reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written for every delivery: a string that grows piece by piece would be allocated four times.
        let mut line = String::with_capacity(self.text.len() + "250 2.100.100 ".len());
        push_number(&mut line, self.code.into(), 1);
        if let Some(code) = self.enhanced {
            line.push(' ');
            code.push_to(&mut line);
        }
        self.lines().for_each(|text| {
            line.push(' ');
            line.push_str(text);
        });
        f.write_str(&line)
    }
}

/// Why what a server sent is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// Not three digits from 200 to 599, or not a separator behind them.
    #[error("the server sent something that is not a reply")]
    Malformed,
    /// The lines of one reply carry different codes.
    #[error("the lines of a reply carry different codes")]
    MixedCodes,
    /// The reply passes [`ReplyParser`]'s limits.
    #[error("the server's reply is longer than any reply may be")]
    TooLong,
}

/// RFC 5321 §4.5.3.1.5 says 512; servers in use send more, and this bounds what we hold.
pub const MAX_REPLY_LINE: usize = 4096;
/// More lines than any EHLO or HELP in use.
pub const MAX_REPLY_LINES: usize = 512;
/// A whole reply in octets.
pub const MAX_REPLY: usize = 64 * 1024;

/// Reads replies from octets as they come, a line at a time, within fixed limits.
#[derive(Debug, Default)]
pub struct ReplyParser {
    code: Option<u16>,
    enhanced: Option<EnhancedCode>,
    text: String,
    lines: usize,
    octets: usize,
}

impl ReplyParser {
    /// Takes one reply off the front of `input`, or as many of its lines as are there. `None` when
    /// more octets are needed; what was taken is kept.
    ///
    /// # Errors
    /// [`ReplyError`]; after it the connection cannot be used.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
        loop {
            let Some(end) = memchr::memchr(b'\n', input) else {
                return if input.len() > MAX_REPLY_LINE { Err(ReplyError::TooLong) } else { Ok(None) };
            };
            let line = input.split_to(end + 1);
            if line.len() > MAX_REPLY_LINE {
                return Err(ReplyError::TooLong);
            }
            // Servers that end lines with a bare LF exist, and a reply carries nothing that could
            // be smuggled by it.
            let line = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(&line);
            if self.line(line)? {
                let done = std::mem::take(self);
                return Ok(done.code.map(|code| Reply {
                    code,
                    enhanced: done.enhanced,
                    text: done.text.into_boxed_str(),
                }));
            }
        }
    }

    /// Whether part of a reply has been read.
    #[must_use]
    pub const fn is_inside(&self) -> bool {
        self.code.is_some()
    }

    /// True when the line is the last of its reply.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Malformed)?;
        let code = std::str::from_utf8(digits)
            .ok()
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse::<u16>().ok());
        let code = code.filter(|c| (200..600).contains(c)).ok_or(ReplyError::Malformed)?;
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::Malformed),
        };
        self.lines += 1;
        self.octets += line.len();
        if self.lines > MAX_REPLY_LINES || self.octets > MAX_REPLY {
            return Err(ReplyError::TooLong);
        }
        match self.code {
            None => self.code = Some(code),
            Some(first) if first == code => self.text.push('\n'),
            Some(_) => return Err(ReplyError::MixedCodes),
        }
        let text = String::from_utf8_lossy(text);
        // RFC 2034 §4: the same class as the reply, else it is just text.
        let (enhanced, text) = match EnhancedCode::split(&text) {
            Some((e, rest)) if u16::from(e.class) == code / 100 => (Some(e), rest),
            _ => (None, &*text),
        };
        if self.enhanced.is_none() {
            self.enhanced = enhanced;
        }
        push_clean(&mut self.text, text);
        Ok(last)
    }
}

/// A code that is no reply code would desynchronise the peer; it becomes "transient local error".
const fn valid(code: u16) -> u16 {
    if code >= 200 && code < 600 { code } else { 451 }
}

/// Appends a line with spaces for its control characters.
fn push_clean(to: &mut String, line: &str) {
    if is_clean(line) {
        to.push_str(line);
    } else {
        to.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
}

/// Whether text is fit as it is, as nearly every one is. Without a way out in the middle several octets are looked
/// at in one step.
fn is_clean(text: &str) -> bool {
    text.bytes().fold(true, |fine, b| fine & (b' '..=b'~').contains(&b))
}

fn clean(text: &str) -> Box<str> {
    let text = text.trim_end_matches(['\r', '\n']);
    if is_clean(text) {
        return text.into();
    }
    text.replace("\r\n", "\n").chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(wire: &str) -> Result<Option<Reply>, ReplyError> {
        ReplyParser::default().next(&mut BytesMut::from(wire))
    }

    #[test]
    fn a_reply_reads_the_same_wherever_it_is_cut() {
        let wire = b"250-2.1.5 one\r\n250-2.1.5 two\r\n250 2.1.5 three\r\n";
        for cut in 0..wire.len() {
            let (mut parser, mut input) = (ReplyParser::default(), BytesMut::from(&wire[..cut]));
            assert_eq!(parser.next(&mut input).unwrap(), None);
            input.extend_from_slice(&wire[cut..]);
            let reply = parser.next(&mut input).unwrap().unwrap();
            assert_eq!((reply.code(), reply.text()), (250, "one\ntwo\nthree"));
            assert_eq!(reply.enhanced(), Some(EnhancedCode::new(2, 1, 5)));
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error_and_never_a_success() {
        for wire in [
            "hello\r\n",
            "25\r\n",
            "250x\r\n",
            "2500 ok\r\n",
            "999 x\r\n",
            "199 x\r\n",
            "\r\n",
            " 250 ok\r\n",
            "25\u{0661} x\r\n",
        ] {
            assert_eq!(parse(wire), Err(ReplyError::Malformed), "{wire}");
        }
        assert_eq!(parse("250-a\r\n550 b\r\n"), Err(ReplyError::MixedCodes));
        assert_eq!(parse("250-a\r\n"), Ok(None));
    }

    #[test]
    fn endless_replies_end_in_an_error() {
        assert_eq!(parse(&"x".repeat(MAX_REPLY_LINE + 1)), Err(ReplyError::TooLong));
        assert_eq!(parse(&"250-x\r\n".repeat(MAX_REPLY_LINES + 1)), Err(ReplyError::TooLong));
        assert_eq!(parse(&format!("250-{}\r\n", "y".repeat(4000)).repeat(20)), Err(ReplyError::TooLong));
    }

    #[test]
    fn text_cannot_forge_a_line() {
        let mut wire = BytesMut::new();
        Reply::new(550, EnhancedCode::new(5, 1, 1), "no\r250 ok\0").encode(&mut wire);
        assert_eq!(&wire[..], b"550 5.1.1 no 250 ok \r\n");
    }

    #[test]
    fn each_line_carries_the_enhanced_code() {
        // RFC 2034 §4
        let mut wire = BytesMut::new();
        Reply::new(452, EnhancedCode::new(4, 3, 1), "one\r\ntwo").encode(&mut wire);
        assert_eq!(&wire[..], b"452-4.3.1 one\r\n452 4.3.1 two\r\n");
        assert_eq!(
            parse(std::str::from_utf8(&wire).unwrap()).unwrap().unwrap().to_string(),
            "452 4.3.1 one two"
        );
    }

    #[test]
    fn an_enhanced_code_of_another_class_is_text() {
        assert_eq!(parse("550 2.0.0 odd\r\n").unwrap().unwrap().text(), "2.0.0 odd");
    }
}
