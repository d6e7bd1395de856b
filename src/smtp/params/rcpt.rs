//! RCPT TO and its parameters.

use std::fmt;

use super::{ArgumentError, MAX_ORCPT, ParamError, XText, once, parameters, split_path};
use crate::smtp::address::ForwardPath;

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

/// The original recipient as the sender named it (RFC 3461 §4.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginalRecipient {
    kind: Box<str>,
    address: XText,
}

impl OriginalRecipient {
    /// An address and its type, `rfc822` as a rule.
    ///
    /// # Errors
    /// [`ParamError::Value`] when the type is no word of letters, digits and hyphens, the address is not
    /// printable ASCII, or both are longer than [`MAX_ORCPT`] as they are written.
    pub fn new(kind: &str, address: &str) -> Result<Self, ParamError> {
        let max = MAX_ORCPT.saturating_sub(kind.len() + 1);
        Self::checked(kind, XText::new(address, max)?)
    }

    /// Parses what stands behind `ORCPT=`.
    ///
    /// # Errors
    /// [`ParamError::Value`]
    pub fn parse(value: &str) -> Result<Self, ParamError> {
        let (kind, address) = value.split_once(';').ok_or(ParamError::Value)?;
        Self::checked(kind, XText::decode(address, MAX_ORCPT.saturating_sub(kind.len() + 1))?)
    }

    fn checked(kind: &str, address: XText) -> Result<Self, ParamError> {
        if kind.is_empty() || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(ParamError::Value);
        }
        Ok(Self { kind: kind.into(), address })
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
                "ORCPT" => rcpt.orcpt = Some(OriginalRecipient::parse(value?)?),
                _ => return Err(ParamError::Unknown.into()),
            }
        }
        Ok(rcpt)
    }
}

impl fmt::Display for Rcpt {
    /// The path and its parameters, as behind `RCPT TO:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
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
