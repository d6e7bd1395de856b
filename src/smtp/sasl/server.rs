//! The server's side of an exchange: it is told each answer and says what comes next.

use bytes::Bytes;

use super::scram::{Asked, Decoy, ScramKeys, ServerFirst, ServerSent};
use super::secret::Secret;
use super::{Login, Mechanism, Nonces, SaslError, oauth};
use crate::smtp::{PeerCertificate, TlsInfo};

/// One try of a client's to log in by one mechanism. An error ends it. Never shown by `Debug`.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    state: State,
}

#[derive(Debug)]
enum State {
    Plain,
    LoginUser,
    LoginPassword(Secret),
    OAuth,
    External(PeerCertificate),
    Scram(ServerFirst),
    /// The host is asked for keys.
    Keys(Box<Asked>),
    Proof(Box<ServerSent>),
    /// Our signature is sent; the client acknowledges it.
    Signed(Box<ServerSent>),
    Over,
}

/// What comes next in an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Send this challenge (334), in Base64, and give the answer to [`Exchange::answer`].
    Challenge(Bytes),
    /// Find the keys of [`Exchange::user`] and give them to [`Exchange::keys`].
    Keys,
    /// All was said: is this login right?
    Login(Login),
}

impl Exchange {
    /// Begins an exchange on a connection with this TLS. `offers_binding` says whether
    /// SCRAM-SHA-256-PLUS is offered on it, so that a client that was kept from seeing it is found out.
    /// `None` for a mechanism that is not for servers, or that lacks what it takes from TLS.
    #[must_use]
    pub fn new(mechanism: Mechanism, tls: Option<&TlsInfo>, offers_binding: bool) -> Option<Self> {
        let binding = tls.and_then(|tls| tls.binding.clone());
        let state = match mechanism {
            Mechanism::Plain => State::Plain,
            Mechanism::Login => State::LoginUser,
            Mechanism::OAuthBearer | Mechanism::XOAuth2 => State::OAuth,
            Mechanism::External => State::External(tls?.certificate.clone()?),
            Mechanism::ScramSha256Plus if binding.is_none() => return None,
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                State::Scram(ServerFirst { mechanism, binding, offers_binding })
            }
            Mechanism::CramMd5 => return None,
        };
        Some(Self { mechanism, state })
    }

    /// The mechanism in use.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// The AUTH command came, with or without an initial response (in Base64, or a lone `=`).
    ///
    /// # Errors
    /// [`SaslError`]
    pub fn begin(&mut self, initial: Option<&[u8]>) -> Result<Step, SaslError> {
        match (initial, &self.state) {
            (Some(initial), _) => self.answer(initial),
            (None, State::LoginUser) => Ok(Step::Challenge(Bytes::from_static(LOGIN_USER))),
            (None, _) => Ok(Step::Challenge(Bytes::new())),
        }
    }

    /// An answer of the client's, without line end. A lone `*`, which cancels, is not for here.
    ///
    /// # Errors
    /// [`SaslError`]
    pub fn answer(&mut self, line: &[u8]) -> Result<Step, SaslError> {
        let answer = Secret::decode(line)?;
        match std::mem::replace(&mut self.state, State::Over) {
            State::Plain => plain(&answer).map(Step::Login),
            State::LoginUser => {
                self.state = State::LoginPassword(answer);
                Ok(Step::Challenge(Bytes::from_static(LOGIN_PASSWORD)))
            }
            State::LoginPassword(user) => {
                Login::password_of(Mechanism::Login, user.as_bytes(), answer.as_bytes()).map(Step::Login)
            }
            State::OAuth => oauth::read(self.mechanism, &answer).map(Step::Login),
            State::External(certificate) => {
                Login::certificate_of(answer.as_bytes(), certificate).map(Step::Login)
            }
            State::Scram(first) => {
                self.state = State::Keys(Box::new(first.read(&answer)?));
                Ok(Step::Keys)
            }
            State::Proof(sent) => match sent.verify(&answer) {
                Ok(signature) => {
                    self.state = State::Signed(sent);
                    Ok(Step::Challenge(signature.encode()))
                }
                Err(error) => {
                    // Whose proof it was is worth knowing.
                    self.state = State::Signed(sent);
                    Err(error)
                }
            },
            // RFC 4954 §4: there is no data with 235, so the signature came as a challenge.
            State::Signed(sent) if answer.as_bytes().is_empty() => {
                Login::proven(sent.mechanism(), sent.user()).map(Step::Login)
            }
            State::Signed(_) => Err(SaslError::Malformed),
            State::Keys(_) | State::Over => Err(SaslError::Unexpected),
        }
    }

    /// The name that the client gave in SCRAM, once it has.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        match &self.state {
            State::Keys(asked) => Some(asked.user()),
            State::Proof(sent) | State::Signed(sent) => Some(sent.user()),
            _ => None,
        }
    }

    /// The keys that [`Step::Keys`] asked for; `None` for a user that does not exist or has none, whose
    /// exchange goes on all the same, and fails at its end.
    ///
    /// # Errors
    /// [`SaslError::NoRandom`], or [`SaslError::Unexpected`] when nobody asked.
    pub fn keys(
        &mut self,
        keys: Option<ScramKeys>,
        nonces: &Nonces,
        decoy: &Decoy,
    ) -> Result<Step, SaslError> {
        let State::Keys(asked) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(SaslError::Unexpected);
        };
        let (challenge, sent) = asked.answer(keys, nonces, decoy)?;
        self.state = State::Proof(Box::new(sent));
        Ok(Step::Challenge(challenge.encode()))
    }

    /// What a client that gave a token is to be told, in a challenge, before the command is refused
    /// (RFC 7628 §3.2.2). Whatever it answers to that means nothing.
    #[must_use]
    pub const fn refusal(mechanism: Mechanism) -> Option<&'static str> {
        oauth::refusal(mechanism)
    }
}

fn plain(message: &Secret) -> Result<Login, SaslError> {
    let mut parts = message.as_bytes().split(|octet| *octet == 0);
    let (Some(act_as), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslError::Malformed);
    };
    if !act_as.is_empty() && act_as != user {
        return Err(SaslError::ActAs);
    }
    Login::password_of(Mechanism::Plain, user, password)
}

/// The first challenge of LOGIN, `Username:`.
const LOGIN_USER: &[u8] = b"VXNlcm5hbWU6";
/// The second challenge of LOGIN, `Password:`.
const LOGIN_PASSWORD: &[u8] = b"UGFzc3dvcmQ6";
