//! What a client does, and how that looks on the wire.

/// What a client does, one reply (in LMTP perhaps several) each.
#[derive(Debug, Clone)]
pub enum Move {
    Hello {
        verb: &'static str,
        named: bool,
    },
    Mail(Mail),
    /// The local part of the recipient.
    Rcpt(&'static str),
    Data,
    /// Content behind a 354, unstuffed and without its end.
    Content(Vec<u8>),
    Bdat {
        octets: Vec<u8>,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth {
        mechanism: &'static str,
        initial: Option<Answer>,
    },
    /// Behind a 334.
    AuthAnswer(Answer),
    /// A line that is no command that anybody could obey.
    Garbage(&'static [u8]),
}

#[derive(Debug, Clone, Default)]
pub struct Mail {
    /// The local part; empty for the null path.
    pub from: &'static str,
    pub size: Option<u64>,
    pub binary: bool,
    pub smtputf8: bool,
    pub auth: bool,
    pub unknown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Right,
    Wrong,
    NoBase64,
    Cancel,
}

impl Move {
    /// RFC 3207 §4
    pub fn is_allowed_in_clear(&self) -> bool {
        matches!(
            self,
            Self::Hello { .. }
                | Self::Noop
                | Self::StartTls
                | Self::Quit
                | Self::Content(_)
                | Self::AuthAnswer(_)
        )
    }

    /// As it goes over the wire.
    pub fn wire(&self) -> Vec<u8> {
        let line = |text: String| (text + "\r\n").into_bytes();
        match self {
            Self::Hello { verb, named } => {
                line(format!("{verb}{}", if *named { " client.test" } else { "" }))
            }
            Self::Mail(mail) => {
                let mut text = format!("MAIL FROM:{}", path(mail.from));
                if let Some(size) = mail.size {
                    text += &format!(" SIZE={size}");
                }
                for (on, parameter) in [
                    (mail.binary, " BODY=BINARYMIME"),
                    (mail.smtputf8, " SMTPUTF8"),
                    (mail.auth, " AUTH=<>"),
                    (mail.unknown, " NONSUCH=1"),
                ] {
                    text += if on { parameter } else { "" };
                }
                line(text)
            }
            Self::Rcpt(to) => line(format!("RCPT TO:{}", path(to))),
            Self::Data => line("DATA".into()),
            Self::Content(octets) => stuffed(octets),
            Self::Bdat { octets, last } => {
                let mut wire = line(format!("BDAT {}{}", octets.len(), if *last { " LAST" } else { "" }));
                wire.extend_from_slice(octets);
                wire
            }
            Self::Rset => line("RSET".into()),
            Self::Noop => line("NOOP".into()),
            Self::Quit => line("QUIT".into()),
            Self::Vrfy => line("VRFY yes".into()),
            Self::Expn => line("EXPN yes".into()),
            Self::Help => line("HELP".into()),
            Self::StartTls => line("STARTTLS".into()),
            Self::Auth { mechanism, initial: None } => line(format!("AUTH {mechanism}")),
            Self::Auth { mechanism, initial: Some(answer) } => {
                line(format!("AUTH {mechanism} {}", answer.text()))
            }
            Self::AuthAnswer(answer) => line(answer.text().into()),
            Self::Garbage(octets) => [octets, &b"\r\n"[..]].concat(),
        }
    }
}

impl Answer {
    /// RFC 4954 §4, §6
    pub const fn code(self) -> u16 {
        match self {
            Self::Right => 235,
            Self::Wrong => 535,
            Self::NoBase64 | Self::Cancel => 501,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            // NUL ada NUL right, NUL ada NUL wrong
            Self::Right => "AGFkYQByaWdodA==",
            Self::Wrong => "AGFkYQB3cm9uZw==",
            Self::NoBase64 => "!!!",
            Self::Cancel => "*",
        }
    }
}

/// The path of a local part.
pub fn path(local: &str) -> String {
    if local.is_empty() { "<>".into() } else { format!("<{local}@b.test>") }
}

/// RFC 5321 §4.5.2, with the end that RFC 5321 §4.1.1.4 asks for.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for (at, octet) in content.iter().enumerate() {
        if *octet == b'.' && (at == 0 || content[..at].ends_with(b"\r\n")) {
            wire.push(b'.');
        }
        wire.push(*octet);
    }
    if !wire.is_empty() && !wire.ends_with(b"\r\n") {
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}
