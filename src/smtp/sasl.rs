//! SASL in SMTP (RFC 4954): the mechanisms PLAIN and LOGIN, encoded and decoded for both roles.
//!
//! Both carry the password as it is, so neither belongs on a connection without TLS; the sessions see
//! to that. Whether a password is right is not decided here.

use std::{fmt, hint};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// A way to prove who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// RFC 4616
    Plain,
    /// draft-murchison-sasl-login; no standard, yet some servers offer nothing else.
    Login,
}

impl Mechanism {
    /// Reads the name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Plain, Self::Login].into_iter().find(|m| m.as_str().eq_ignore_ascii_case(name))
    }

    /// The name as it is announced.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }
}

/// A user name and a password. Never shown by `Debug`, and wiped from memory on drop.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    user: Secret,
    password: Secret,
}

impl Credentials {
    /// The user name and password as the provider gave them.
    #[must_use]
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: Secret(user.into().into_bytes()), password: Secret(password.into().into_bytes()) }
    }

    /// The user name.
    #[must_use]
    pub fn user(&self) -> &str {
        self.user.as_str()
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &str {
        self.password.as_str()
    }

    /// The client's answer number `nth` (from 0) in `mechanism`, in Base64 without line end; `None`
    /// when the mechanism has no such answer, or cannot carry these credentials. PLAIN's only answer
    /// may go with the AUTH command as its initial response.
    #[must_use]
    pub fn answer(&self, mechanism: Mechanism, nth: usize) -> Option<Bytes> {
        let clear = match (mechanism, nth) {
            // RFC 4616 §2: NUL separates, so it cannot be part of either.
            (Mechanism::Plain, 0) if self.fits_plain() => {
                let mut message = Secret(Vec::with_capacity(self.user.0.len() + self.password.0.len() + 2));
                message.0.push(0);
                message.0.extend_from_slice(&self.user.0);
                message.0.push(0);
                message.0.extend_from_slice(&self.password.0);
                message
            }
            (Mechanism::Login, 0) => self.user.clone(),
            (Mechanism::Login, 1) => self.password.clone(),
            _ => return None,
        };
        Some(Bytes::from_owner(Secret(STANDARD.encode(&clear.0).into_bytes())))
    }

    fn fits_plain(&self) -> bool {
        !self.user.0.is_empty() && !self.user.0.contains(&0) && !self.password.0.contains(&0)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// What a client gave to prove who it is, as a server received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    mechanism: Mechanism,
    credentials: Credentials,
}

impl Login {
    /// Decodes the client's message of PLAIN from Base64, without line end. A lone `=` is the empty
    /// message (RFC 4954 §4), which is none of PLAIN's.
    ///
    /// # Errors
    /// [`SaslError`] when it is malformed, or asks to act as somebody else than who logs in.
    pub fn from_plain(response: &[u8]) -> Result<Self, SaslError> {
        let message = decode(response)?;
        let mut parts = message.0.split(|octet| *octet == 0);
        let (Some(act_as), Some(user), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SaslError::Malformed);
        };
        if !act_as.is_empty() && act_as != user {
            return Err(SaslError::ActAs);
        }
        Self::checked(Mechanism::Plain, user, password)
    }

    /// Decodes the client's two answers of LOGIN from Base64, without line ends.
    ///
    /// # Errors
    /// [`SaslError`] when one is malformed.
    pub fn from_login(user: &[u8], password: &[u8]) -> Result<Self, SaslError> {
        let (user, password) = (decode(user)?, decode(password)?);
        if user.0.contains(&0) || password.0.contains(&0) {
            return Err(SaslError::Malformed);
        }
        Self::checked(Mechanism::Login, &user.0, &password.0)
    }

    fn checked(mechanism: Mechanism, user: &[u8], password: &[u8]) -> Result<Self, SaslError> {
        if user.len() > MAX_VALUE || password.len() > MAX_VALUE {
            return Err(SaslError::TooLong);
        }
        let user = std::str::from_utf8(user).map_err(|_| SaslError::Malformed)?;
        let password = std::str::from_utf8(password).map_err(|_| SaslError::Malformed)?;
        if user.is_empty() {
            return Err(SaslError::Malformed);
        }
        Ok(Self { mechanism, credentials: Credentials::new(user, password) })
    }

    /// The mechanism that was used.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Who wants to log in.
    #[must_use]
    pub fn user(&self) -> &str {
        self.credentials.user()
    }

    /// The password to check.
    #[must_use]
    pub fn password(&self) -> &str {
        self.credentials.password()
    }

    /// Both together.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// Why a client's answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SaslError {
    /// Not Base64, or not what the mechanism sends (501 5.5.2).
    #[error("the authentication data is malformed")]
    Malformed,
    /// Longer than any name or password may be (500 5.5.6).
    #[error("the authentication data is too long")]
    TooLong,
    /// One identity wants to act as another, which is not offered (535 5.7.8).
    #[error("acting as another user is not offered")]
    ActAs,
}

/// The server's first challenge of LOGIN: `Username:`.
pub const LOGIN_USER: &str = "VXNlcm5hbWU6";
/// The server's second challenge of LOGIN: `Password:`.
pub const LOGIN_PASSWORD: &str = "UGFzc3dvcmQ6";
/// RFC 4954 §4: the longest line of an AUTH exchange, line end included.
pub const MAX_AUTH_LINE: usize = 12_288;

/// RFC 4616 §2 asks for at least 255 octets; passwords that are application tokens are longer.
const MAX_VALUE: usize = 4096;

/// A line that holds an answer, wiped when the last handle to it is gone.
pub(crate) fn secret_line(before: &str, answer: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(before.len() + answer.len() + 2);
    line.extend_from_slice(before.as_bytes());
    line.extend_from_slice(answer);
    line.extend_from_slice(b"\r\n");
    Bytes::from_owner(Secret(line))
}

fn decode(response: &[u8]) -> Result<Secret, SaslError> {
    match response {
        _ if response.len() > MAX_AUTH_LINE => Err(SaslError::TooLong),
        b"=" => Ok(Secret(Vec::new())),
        _ => STANDARD.decode(response).map(Secret).map_err(|_| SaslError::Malformed),
    }
}

/// Octets that are overwritten before they are freed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Secret(Vec<u8>);

impl Secret {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // Nobody reads the zeros; without this the optimiser may leave them out.
        hint::black_box(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_answers_is_what_a_server_reads() {
        for (user, password) in [("ada", "s3cret"), ("ada@x.test", ""), ("grün", "pässwörd "), ("a", "=")]
        {
            let ada = Credentials::new(user, password);
            let plain = Login::from_plain(&ada.answer(Mechanism::Plain, 0).unwrap()).unwrap();
            assert_eq!((plain.user(), plain.password()), (user, password));
            let of = |nth| ada.answer(Mechanism::Login, nth).unwrap();
            assert_eq!(Login::from_login(&of(0), &of(1)).unwrap().credentials(), &ada);
        }
    }

    #[test]
    fn the_wire_is_that_of_the_rfc() {
        // RFC 4616 §4, without its authorisation identity
        let tim = Credentials::new("tim", "tanstaaftanstaaf");
        assert_eq!(&tim.answer(Mechanism::Plain, 0).unwrap()[..], b"AHRpbQB0YW5zdGFhZnRhbnN0YWFm");
        assert_eq!(&tim.answer(Mechanism::Login, 0).unwrap()[..], b"dGlt");
        assert_eq!(tim.answer(Mechanism::Plain, 1), None);
        assert_eq!(tim.answer(Mechanism::Login, 2), None);
        assert_eq!(STANDARD.decode(LOGIN_USER).unwrap(), b"Username:");
        assert_eq!(STANDARD.decode(LOGIN_PASSWORD).unwrap(), b"Password:");
    }

    #[test]
    fn a_nul_cannot_move_the_border_between_name_and_password() {
        assert_eq!(Credentials::new("a\0b", "c").answer(Mechanism::Plain, 0), None);
        assert_eq!(Credentials::new("a", "b\0c").answer(Mechanism::Plain, 0), None);
        assert_eq!(Credentials::new("", "c").answer(Mechanism::Plain, 0), None);
        let wire = |clear: &[u8]| STANDARD.encode(clear).into_bytes();
        assert_eq!(Login::from_plain(&wire(b"\0a\0b\0c")), Err(SaslError::Malformed));
        assert_eq!(Login::from_login(&wire(b"a\0b"), &wire(b"c")), Err(SaslError::Malformed));
    }

    #[test]
    fn malformed_answers_are_refused() {
        let wire = |clear: &[u8]| STANDARD.encode(clear).into_bytes();
        for (response, error) in [
            (b"=".to_vec(), SaslError::Malformed),
            (b"".to_vec(), SaslError::Malformed),
            (b"AGEAYg".to_vec(), SaslError::Malformed), // no padding
            (b"AGEAYg==\r".to_vec(), SaslError::Malformed),
            (b"AGE AYg==".to_vec(), SaslError::Malformed),
            (wire(b"a\0b"), SaslError::Malformed),
            (wire(b"\0\0b"), SaslError::Malformed),
            (wire(b"\0\xff\0b"), SaslError::Malformed),
            (wire(b"root\0ada\0b"), SaslError::ActAs),
            (wire(&[&b"\0"[..], &[b'a'; MAX_VALUE + 1], b"\0b"].concat()), SaslError::TooLong),
            (vec![b'A'; MAX_AUTH_LINE + 1], SaslError::TooLong),
        ] {
            assert_eq!(Login::from_plain(&response).unwrap_err(), error, "{response:?}");
        }
        assert!(Login::from_plain(&wire(b"ada\0ada\0b")).is_ok());
    }

    #[test]
    fn credentials_are_never_shown() {
        let ada = Credentials::new("ada", "s3cret");
        let login = Login::from_plain(&ada.answer(Mechanism::Plain, 0).unwrap()).unwrap();
        let shown = format!("{ada:?} {login:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("ada"), "{shown}");
    }
}
