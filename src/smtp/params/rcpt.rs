//! RCPT TO and its parameters.

use std::fmt;

use super::xtext::unescape;
use super::{ArgumentError, MAX_ORCPT, ParamError, XText, once, parameters, split_path};
use crate::smtp::address::{ForwardPath, Mailbox};

/// When the sender wants a report about a recipient (RFC 3461 §4.1). The default is failures only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Notify {
    /// On delivery.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

impl Notify {
    /// `NOTIFY=NEVER`
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let mut wanted = wanted.iter().filter(|(on, _)| *on).map(|(_, name)| *name);
        f.write_str(wanted.next().unwrap_or("NEVER"))?;
        wanted.try_for_each(|name| write!(f, ",{name}"))
    }
}

/// The original recipient as the sender named it (RFC 3461 §4.2). An address in UTF-8 (RFC 6533 §3) is
/// kept as it travels in ASCII, its characters as `\x{...}`, so that any hop can be given it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginalRecipient {
    kind: Box<str>,
    address: XText,
}

impl OriginalRecipient {
    /// An address in ASCII and its type, `rfc822` as a rule, `utf-8` where that cannot name the address.
    ///
    /// # Errors
    /// [`ParamError::Value`] when the type is no word of letters, digits and hyphens, the address is not
    /// printable ASCII, or both are longer than [`MAX_ORCPT`] as they are written.
    pub fn new(kind: &str, address: &str) -> Result<Self, ParamError> {
        if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ParamError::Value);
        }
        let address = XText::new(address, MAX_ORCPT.saturating_sub(kind.len() + 1))?;
        Ok(Self { kind: kind.into(), address })
    }

    /// A mailbox under its own name; `None` where that is not ASCII or longer than the 500 octets that
    /// the parameter may have.
    #[must_use]
    pub fn rfc822(mailbox: &Mailbox) -> Option<Self> {
        let (local, domain) = (mailbox.local(), mailbox.domain().as_str());
        if local.is_ascii() { Self::new("rfc822", &[local, "@", domain].concat()).ok() } else { None }
    }

    /// Parses what stands behind `ORCPT=`; `None` when it is longer in ASCII than any hop takes: nobody's
    /// mail is worth less for what only reports show.
    ///
    /// # Errors
    /// [`ParamError::Value`]
    pub fn parse(value: &str) -> Result<Option<Self>, ParamError> {
        let (kind, address) = value.split_once(';').ok_or(ParamError::Value)?;
        if value.len() > MAX_ORCPT {
            return Err(ParamError::Value);
        }
        let text =
            unescape(address).and_then(|octets| String::from_utf8(octets).ok()).ok_or(ParamError::Value)?;
        if text.is_ascii() {
            return Self::new(kind, &text).map(Some);
        }
        // Postfix 3.7 says rfc822 of every address, and escapes its octets.
        if !["utf-8", "rfc822"].iter().any(|known| kind.eq_ignore_ascii_case(known)) {
            return Err(ParamError::Value);
        }
        let ascii = embedded(&text).ok_or(ParamError::Value)?;
        Ok(Self::new("utf-8", &ascii).ok())
    }

    /// The address type.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The address, decoded.
    #[must_use]
    pub fn address(&self) -> &str {
        self.address.as_str()
    }
}

impl fmt::Display for OriginalRecipient {
    /// As behind `ORCPT=`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.kind, self.address)
    }
}

/// RCPT TO with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rcpt {
    /// The forward path.
    pub to: ForwardPath,
    /// `NOTIFY=`
    pub notify: Option<Notify>,
    /// `ORCPT=`
    pub orcpt: Option<OriginalRecipient>,
}

impl Rcpt {
    /// RCPT TO without parameters.
    #[must_use]
    pub const fn new(to: ForwardPath) -> Self {
        Self { to, notify: None, orcpt: None }
    }

    /// Parses what stands behind `RCPT TO:`, from the opening bracket on.
    ///
    /// # Errors
    /// [`ArgumentError`] with what is wrong.
    pub fn parse(argument: &str) -> Result<Self, ArgumentError> {
        let (path, rest) = split_path(argument)?;
        let mut rcpt = Self::new(ForwardPath::parse(path)?);
        let mut seen = Vec::new();
        for (keyword, value) in parameters(rest) {
            once(&mut seen, keyword)?;
            let value = value.ok_or(ParamError::Value);
            match keyword.to_ascii_uppercase().as_str() {
                "NOTIFY" => rcpt.notify = Some(notify(value?)?),
                "ORCPT" => rcpt.orcpt = OriginalRecipient::parse(value?)?,
                _ => return Err(ParamError::Unknown.into()),
            }
        }
        Ok(rcpt)
    }
}

impl fmt::Display for Rcpt {
    /// The path and its parameters, as behind `RCPT TO:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to, f)?;
        if let Some(notify) = &self.notify {
            write!(f, " NOTIFY={notify}")?;
        }
        if let Some(orcpt) = &self.orcpt {
            write!(f, " ORCPT={orcpt}")?;
        }
        Ok(())
    }
}

fn notify(value: &str) -> Result<Notify, ParamError> {
    // RFC 3461 §4.1: NEVER stands alone.
    if value.eq_ignore_ascii_case("NEVER") {
        return Ok(Notify::NEVER);
    }
    let mut wanted = Notify::NEVER;
    for word in value.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "SUCCESS" => &mut wanted.success,
            "FAILURE" => &mut wanted.failure,
            "DELAY" => &mut wanted.delay,
            _ => return Err(ParamError::Value),
        };
        if std::mem::replace(flag, true) {
            return Err(ParamError::Twice);
        }
    }
    Ok(wanted)
}

/// RFC 6533 §3: what is not ASCII as `\x{...}`; `None` for control characters.
fn embedded(address: &str) -> Option<String> {
    let mut ascii = String::with_capacity(address.len());
    for c in address.chars() {
        match c {
            ' '..='~' => ascii.push(c),
            _ if c.is_control() => return None,
            _ => ascii.push_str(&format!("\\x{{{:X}}}", u32::from(c))),
        }
    }
    Some(ascii)
}
