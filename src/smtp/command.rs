//! A command is one line of the client: a verb and its argument, as a value.
//!
//! A line that is no command is an error that knows the reply it deserves. What may be said *when*
//! is not decided here but by the session.

use std::{fmt, hint};

use super::params::{ArgumentError, Mail, ParamError, Rcpt};
use super::xclient::Xclient;

/// A command of RFC 5321 §4.1 or of an extension.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// EHLO with the client's name.
    Ehlo(Box<str>),
    /// HELO with the client's name.
    Helo(Box<str>),
    /// LHLO with the client's name (RFC 2033 §4.1).
    Lhlo(Box<str>),
    /// MAIL FROM
    Mail(Mail),
    /// RCPT TO
    Rcpt(Rcpt),
    /// DATA
    Data,
    /// BDAT (RFC 3030 §2): so many octets follow the line.
    Bdat {
        /// How many octets.
        size: u64,
        /// Whether they are the last of the message.
        last: bool,
    },
    /// STARTTLS (RFC 3207)
    StartTls,
    /// AUTH (RFC 4954)
    Auth {
        /// The mechanism's name, as it was written.
        mechanism: Box<str>,
        /// The initial response, if there is one.
        initial: Option<InitialResponse>,
    },
    /// RSET
    Rset,
    /// NOOP
    Noop,
    /// QUIT
    Quit,
    /// VRFY
    Vrfy(Lookup),
    /// EXPN
    Expn(Lookup),
    /// HELP
    Help,
    /// XCLIENT, as Postfix defined it
    Xclient(Box<Xclient>),
}

/// The argument of VRFY or EXPN (RFC 5321 §4.1.1.6, §4.1.1.7).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lookup {
    /// What is asked for, as it was written: a user's name, an address, a list's name. Never empty,
    /// without control characters.
    pub text: Box<str>,
    /// Whether the client reads UTF-8 in the reply (RFC 6531 §3.7.4.2).
    pub smtputf8: bool,
}

/// The initial response of AUTH, in Base64 or `=`. Never shown by `Debug`, wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct InitialResponse(Box<[u8]>);

impl InitialResponse {
    pub(super) fn new(octets: &[u8]) -> Self {
        Self(octets.into())
    }

    /// As it was on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for InitialResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InitialResponse(..)")
    }
}

impl Drop for InitialResponse {
    fn drop(&mut self) {
        self.0.fill(0);
        // Nobody reads the zeros; without this the optimiser may leave them out.
        hint::black_box(&self.0);
    }
}

/// A line that is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// No verb that anybody knows, or not even text.
    #[error("unknown command")]
    Unknown,
    /// A verb of RFC 821 or RFC 1985 that is not offered.
    #[error("command not implemented")]
    NotImplemented,
    /// The verb needs an argument, or another one, or none.
    #[error("malformed argument")]
    Argument,
    /// The argument of MAIL.
    #[error("malformed MAIL: {0}")]
    Mail(ArgumentError),
    /// The argument of RCPT.
    #[error("malformed RCPT: {0}")]
    Rcpt(ArgumentError),
    /// A BDAT whose length cannot be read. What follows it can be told from commands no more.
    #[error("malformed BDAT")]
    Bdat,
    /// Another protocol, or a message where commands should be.
    #[error("not SMTP")]
    Foreign,
}

impl Command {
    /// Reads a line, without its CRLF.
    ///
    /// # Errors
    /// [`CommandError`]
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let Ok(line) = std::str::from_utf8(line) else {
            return Err(if is_foreign(line) { CommandError::Foreign } else { CommandError::Unknown });
        };
        // RFC 5321 §4.1.1: blanks before the line end are tolerated.
        let (verb, argument) = line.trim_end_matches([' ', '\t']).split_once(' ').unwrap_or((line, ""));
        let verb = verb.trim_end_matches([' ', '\t']);
        let argument = argument.trim_matches([' ', '\t']);
        let Some(known) = VERBS.iter().find(|(name, _)| name.eq_ignore_ascii_case(verb)) else {
            return Err(if is_foreign(verb.as_bytes()) {
                CommandError::Foreign
            } else {
                CommandError::Unknown
            });
        };
        known.1.read(argument)
    }
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Ehlo,
    Helo,
    Lhlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    StartTls,
    Auth,
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    Xclient,
    Old,
}

impl Verb {
    fn read(self, argument: &str) -> Result<Command, CommandError> {
        let alone = |command| if argument.is_empty() { Ok(command) } else { Err(CommandError::Argument) };
        match self {
            Self::Ehlo => name(argument).map(Command::Ehlo),
            Self::Helo => name(argument).map(Command::Helo),
            Self::Lhlo => name(argument).map(Command::Lhlo),
            Self::Mail => {
                let path = behind(argument, "FROM:").ok_or(CommandError::Argument)?;
                Mail::parse(path).map(Command::Mail).map_err(CommandError::Mail)
            }
            Self::Rcpt => {
                let path = behind(argument, "TO:").ok_or(CommandError::Argument)?;
                Rcpt::parse(path).map(Command::Rcpt).map_err(CommandError::Rcpt)
            }
            Self::Bdat => chunk(argument).ok_or(CommandError::Bdat),
            Self::Auth => auth(argument).ok_or(CommandError::Argument),
            Self::Data => alone(Command::Data),
            Self::StartTls => alone(Command::StartTls),
            Self::Rset => alone(Command::Rset),
            Self::Quit => alone(Command::Quit),
            Self::Noop => Ok(Command::Noop),
            Self::Vrfy => lookup(argument).map(Command::Vrfy).ok_or(CommandError::Argument),
            Self::Expn => lookup(argument).map(Command::Expn).ok_or(CommandError::Argument),
            Self::Help => Ok(Command::Help),
            Self::Xclient => Xclient::parse(argument)
                .map(|told| Command::Xclient(Box::new(told)))
                .ok_or(CommandError::Argument),
            Self::Old => Err(CommandError::NotImplemented),
        }
    }
}

impl CommandError {
    /// What a server answers, with its enhanced code.
    #[must_use]
    pub const fn reply(self) -> &'static str {
        use super::address::AddressError;
        match self {
            Self::Unknown => "500 5.5.2 Command not recognised",
            Self::NotImplemented => "502 5.5.1 Command not implemented",
            Self::Argument => "501 5.5.4 Malformed argument",
            Self::Mail(ArgumentError::Param(e)) | Self::Rcpt(ArgumentError::Param(e)) => match e {
                // RFC 5321 §4.1.1.11
                ParamError::Unknown => "555 5.5.4 Parameter not recognised",
                ParamError::Value => "501 5.5.4 Malformed parameter value",
                ParamError::Twice => "501 5.5.4 Parameter given twice",
            },
            Self::Mail(ArgumentError::Path) => "501 5.5.4 Syntax: MAIL FROM:<address>",
            Self::Rcpt(ArgumentError::Path) => "501 5.5.4 Syntax: RCPT TO:<address>",
            Self::Mail(ArgumentError::Address(AddressError::NoDomain)) => "501 5.1.7 A domain is needed",
            Self::Rcpt(ArgumentError::Address(AddressError::NoDomain)) => "501 5.1.3 A domain is needed",
            Self::Mail(ArgumentError::Address(_)) => "501 5.1.7 Malformed sender address",
            Self::Rcpt(ArgumentError::Address(_)) => "501 5.1.3 Malformed recipient address",
            Self::Bdat => "501 5.5.4 Malformed BDAT, closing connection",
            Self::Foreign => "421 4.7.0 This is SMTP, closing connection",
        }
    }
}

/// The client's name goes into Received fields and logs: one word of printable ASCII that cannot
/// end a comment or a quoted string. More is not asked of it (RFC 5321 §4.1.4).
pub(super) fn name(argument: &str) -> Result<Box<str>, CommandError> {
    let fits = (1..=MAX_NAME).contains(&argument.len())
        && argument.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;\\\"".contains(&b));
    if fits { Ok(argument.into()) } else { Err(CommandError::Argument) }
}

/// What follows `word`. Blanks behind the colon are no part of the grammar, but clients send them.
fn behind<'a>(argument: &'a str, word: &str) -> Option<&'a str> {
    let (start, rest) = argument.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then(|| rest.trim_start_matches(' '))
}

fn chunk(argument: &str) -> Option<Command> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let digits = words.next()?;
    // RFC 3030 §2: 1*20DIGIT; no sign.
    if digits.len() > 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let size = digits.parse().ok()?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case("LAST") => true,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Command::Bdat { size, last })
}

fn auth(argument: &str) -> Option<Command> {
    let mut words = argument.split(' ').filter(|word| !word.is_empty());
    let mechanism = words.next()?.into();
    let initial = words.next().map(|word| InitialResponse::new(word.as_bytes()));
    words.next().is_none().then_some(Command::Auth { mechanism, initial })
}

fn lookup(argument: &str) -> Option<Lookup> {
    // RFC 6531 §3.7.4.2: the parameter stands behind the string, never in its place.
    let (text, smtputf8) = match argument.rsplit_once(' ') {
        Some((text, word)) if word.eq_ignore_ascii_case("SMTPUTF8") => (text.trim_end_matches(' '), true),
        _ => (argument, false),
    };
    let fits = !text.is_empty() && !text.chars().any(char::is_control);
    fits.then(|| Lookup { text: text.into(), smtputf8 })
}

/// Whether a line that is no command shows that the peer speaks another protocol, or goes on with a
/// message whose DATA was refused. Answering such lines one by one has let web pages send mail.
fn is_foreign(line: &[u8]) -> bool {
    let verb = line.split(|b| *b == b' ').next().unwrap_or_default();
    verb.ends_with(b":")
        || verb.starts_with(b"SSH-")
        || FOREIGN.iter().any(|name| verb.eq_ignore_ascii_case(name.as_bytes()))
}

/// The longest domain there is, and then some.
const MAX_NAME: usize = 255;

const VERBS: [(&str, Verb); 22] = [
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("RSET", Verb::Rset),
    ("EHLO", Verb::Ehlo),
    ("HELO", Verb::Helo),
    ("LHLO", Verb::Lhlo),
    ("QUIT", Verb::Quit),
    ("NOOP", Verb::Noop),
    ("STARTTLS", Verb::StartTls),
    ("AUTH", Verb::Auth),
    ("VRFY", Verb::Vrfy),
    ("EXPN", Verb::Expn),
    ("HELP", Verb::Help),
    ("XCLIENT", Verb::Xclient),
    // RFC 5321 appendix F; RFC 1985
    ("SEND", Verb::Old),
    ("SOML", Verb::Old),
    ("SAML", Verb::Old),
    ("TURN", Verb::Old),
    ("ETRN", Verb::Old),
    ("ATRN", Verb::Old),
];

/// HTTP, its second version's preface, SIP and RTSP.
const FOREIGN: [&str; 16] = [
    "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE", "PRI", "INVITE",
    "REGISTER", "DESCRIBE", "SETUP", "PLAY", "PROPFIND",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.as_bytes())
    }

    #[test]
    fn commands_are_read_without_regard_to_case_and_trailing_blanks() {
        let mail = Command::Mail(Mail::parse("<a@b>").unwrap());
        for line in ["MAIL FROM:<a@b>", "mail from:<a@b>", "Mail From: <a@b>  ", "MAIL  FROM:<a@b>\t"] {
            assert_eq!(parse(line), Ok(mail.clone()), "{line}");
        }
        let rcpt = Command::Rcpt(Rcpt::parse("<a@b> NOTIFY=NEVER").unwrap());
        assert_eq!(parse("rcpt to:<a@b> notify=never"), Ok(rcpt));
        assert_eq!(parse("EHLO [IPv6:::1]"), Ok(Command::Ehlo("[IPv6:::1]".into())));
        assert_eq!(parse("quit "), Ok(Command::Quit));
        assert_eq!(parse("noop whatever it is"), Ok(Command::Noop));
        assert_eq!(parse("bdat 0 last"), Ok(Command::Bdat { size: 0, last: true }));
        assert_eq!(parse("BDAT 18446744073709551615"), Ok(Command::Bdat { size: u64::MAX, last: false }));
        let auth = |initial: Option<&str>| Command::Auth {
            mechanism: "PLAIN".into(),
            initial: initial.map(|word| InitialResponse::new(word.as_bytes())),
        };
        assert_eq!(parse("AUTH PLAIN"), Ok(auth(None)));
        assert_eq!(parse("auth PLAIN ="), Ok(auth(Some("="))));
        assert_eq!(parse("auth PLAIN AGEAYg=="), Ok(auth(Some("AGEAYg=="))));
    }

    #[test]
    fn what_is_looked_up_may_ask_for_utf8() {
        for (line, text, smtputf8) in [
            ("VRFY ada", "ada", false),
            ("vrfy Ada Lovelace <ada@b.test>  ", "Ada Lovelace <ada@b.test>", false),
            ("VRFY gr\u{fc}n  smtputf8", "gr\u{fc}n", true),
            ("VRFY SMTPUTF8", "SMTPUTF8", false),
        ] {
            assert_eq!(parse(line), Ok(Command::Vrfy(Lookup { text: text.into(), smtputf8 })), "{line}");
        }
        let list = Lookup { text: "list".into(), smtputf8: true };
        assert_eq!(parse("EXPN list SMTPUTF8"), Ok(Command::Expn(list)));
        for line in ["VRFY", "EXPN  ", "VRFY a\u{7}b"] {
            assert_eq!(parse(line), Err(CommandError::Argument), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_no_command_knows_its_reply() {
        for (line, reply) in [
            ("", "500 5.5.2"),
            ("FOO", "500 5.5.2"),
            (" NOOP", "500 5.5.2"),
            ("MAILFROM:<a@b>", "500 5.5.2"),
            ("EHLO", "501 5.5.4"),
            ("EHLO two words", "501 5.5.4"),
            ("EHLO a(b", "501 5.5.4"),
            ("EHLO gr\u{fc}n", "501 5.5.4"),
            ("MAIL", "501 5.5.4"),
            ("MAIL TO:<a@b>", "501 5.5.4"),
            ("MAIL FROM:a@b", "501 5.5.4"),
            ("MAIL FROM:<a>", "501 5.1.7"),
            ("MAIL FROM:<a..b@c>", "501 5.1.7"),
            ("MAIL FROM:<a@b> FOO=1", "555 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=x", "501 5.5.4"),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=1", "501 5.5.4"),
            ("RCPT TO:<>", "501 5.1.3"),
            ("RCPT TO:<a>", "501 5.1.3"),
            ("RCPT TO:<a@b> SIZE=1", "555 5.5.4"),
            ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("DATA now", "501 5.5.4"),
            ("RSET now", "501 5.5.4"),
            ("QUIT now", "501 5.5.4"),
            ("STARTTLS now", "501 5.5.4"),
            ("AUTH", "501 5.5.4"),
            ("AUTH PLAIN a b", "501 5.5.4"),
            ("BDAT", "501 5.5.4"),
            ("BDAT x", "501 5.5.4"),
            ("BDAT +1", "501 5.5.4"),
            ("BDAT -1 LAST", "501 5.5.4"),
            ("BDAT 1 LAST LAST", "501 5.5.4"),
            ("BDAT 18446744073709551616", "501 5.5.4"),
            ("VRFY", "501 5.5.4"),
            ("EXPN", "501 5.5.4"),
            ("XCLIENT", "501 5.5.4"),
            ("XCLIENT FOO=1", "501 5.5.4"),
            ("TURN", "502 5.5.1"),
            ("ETRN x", "502 5.5.1"),
            ("ATRN", "502 5.5.1"),
            ("SEND FROM:<a@b>", "502 5.5.1"),
            ("SAML FROM:<a@b>", "502 5.5.1"),
            ("SOML FROM:<a@b>", "502 5.5.1"),
            ("GET / HTTP/1.1", "421 4.7.0"),
            ("post /", "421 4.7.0"),
            ("Host: example.org", "421 4.7.0"),
            ("Subject: a message whose DATA was refused", "421 4.7.0"),
            ("SSH-2.0-x", "421 4.7.0"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.reply().starts_with(reply), "{line}: {}", error.reply());
        }
        assert_eq!(Command::parse(b"NOOP \xff"), Err(CommandError::Unknown));
        assert_eq!(Command::parse(b"X-A: \xff"), Err(CommandError::Foreign));
    }
}
