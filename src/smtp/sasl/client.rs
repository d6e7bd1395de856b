//! The client's side of an exchange: it is told each challenge and says what to answer.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::credentials::Kind;
use super::scram::{ClientFirst, ClientSent};
use super::secret::Secret;
use super::{Credentials, Mechanism, Nonces, SaslError, oauth};
use crate::smtp::ChannelBinding;

/// One try to log in by one mechanism.
///
/// [`Exchange::initial`] gives what may go with the AUTH command, [`Exchange::challenge`] the answer to
/// each challenge (334), and [`Exchange::succeeded`] says whether the server's word that all is well (235)
/// is to be believed. Never shown by `Debug`; what it gives is wiped when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Exchange {
    mechanism: Mechanism,
    credentials: Credentials,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// The client's first message is to be sent.
    First(Option<Box<ClientFirst>>),
    /// The server's first message is awaited: SCRAM.
    Sent(Box<ClientFirst>),
    /// The server's signature is awaited.
    Signature(ClientSent),
    /// The server has proven that it knows the password.
    Proven,
    /// A challenge is awaited that says why the token is refused.
    Token,
    /// The server asks for the name.
    User,
    /// The server asks for the password.
    Password,
    /// The server sends what is to be hashed.
    Hash,
    /// Nothing is left to be said.
    Done,
}

impl Exchange {
    /// Begins an exchange. `binding` is that of the TLS session, if there is one and it may be used;
    /// SCRAM-SHA-256 with it at hand tells the server that channel binding was not offered, which a
    /// server that did offer it refuses (RFC 5802 §6). `None` when the mechanism cannot carry these
    /// credentials, when the binding it wants is missing, or when there is no randomness for a nonce.
    #[must_use]
    pub fn new(
        mechanism: Mechanism,
        credentials: &Credentials,
        binding: Option<&ChannelBinding>,
        nonces: &Nonces,
    ) -> Option<Self> {
        if !credentials.fit(mechanism) {
            return None;
        }
        let state = match mechanism {
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                let first = ClientFirst::new(mechanism, credentials.user(), binding, nonces)?;
                State::First(Some(Box::new(first)))
            }
            Mechanism::Login => State::User,
            Mechanism::CramMd5 => State::Hash,
            _ => State::First(None),
        };
        Some(Self { mechanism, credentials: credentials.clone(), state })
    }

    /// The mechanism that is tried.
    #[must_use]
    pub const fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What goes with the AUTH command, in Base64: the first message, if the client has it and it is no
    /// longer than `room`. A message that does not go with the command answers the first challenge.
    pub fn initial(&mut self, room: usize) -> Option<Bytes> {
        let State::First(scram) = &self.state else { return None };
        let message = self.first(scram.as_deref());
        // RFC 4954 §4: an empty message is a lone `=` here.
        let message = if message.as_bytes().is_empty() { Bytes::from_static(b"=") } else { message.encode() };
        if message.len() > room {
            return None;
        }
        self.first_sent();
        Some(message)
    }

    /// The answer to a challenge, both in Base64 without line end; the answer may be empty.
    ///
    /// # Errors
    /// [`SaslError`] when the challenge is none of this mechanism's, or shows that the server is not
    /// the one that it says it is. Cancel the exchange then.
    pub fn challenge(&mut self, text: &[u8]) -> Result<Bytes, SaslError> {
        let (answer, next) = match (&self.state, &self.credentials.0) {
            // The server only says that it is ready; some do it in words.
            (State::First(scram), _) => {
                let message = self.first(scram.as_deref());
                self.first_sent();
                return Ok(message.encode());
            }
            (State::Sent(first), Kind::Password { password, .. }) => {
                let (answer, sent) = first.answer(&Secret::decode(text)?, password.as_str())?;
                (answer, State::Signature(sent))
            }
            (State::Signature(sent), _) => {
                sent.verify(&Secret::decode(text)?)?;
                (Secret::default(), State::Proven)
            }
            (State::Token, _) => (oauth::dummy(self.mechanism), State::Done),
            (State::User, Kind::Password { user, .. }) => (user.clone(), State::Password),
            (State::Password, Kind::Password { password, .. }) => (password.clone(), State::Done),
            (State::Hash, Kind::Password { user, password }) => {
                (hashed(user, password, &Secret::decode(text)?)?, State::Done)
            }
            _ => return Err(SaslError::Unexpected),
        };
        self.state = next;
        Ok(answer.encode())
    }

    /// The server says that we are logged in.
    ///
    /// # Errors
    /// [`SaslError::ServerProof`] when it owes the proof that it knows the password (RFC 5802 §3), for
    /// then anybody could say so.
    pub const fn succeeded(&self) -> Result<(), SaslError> {
        let owes = matches!(self.mechanism, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus);
        if owes && !matches!(self.state, State::Proven) { Err(SaslError::ServerProof) } else { Ok(()) }
    }

    fn first(&self, scram: Option<&ClientFirst>) -> Secret {
        match (&self.credentials.0, scram) {
            (_, Some(scram)) => scram.message(),
            // RFC 4616 §2: nobody is named to act as.
            (Kind::Password { user, password }, None) => {
                Secret::joined(&[b"\0", user.as_bytes(), b"\0", password.as_bytes()])
            }
            (Kind::Token { user, token }, None) => oauth::message(self.mechanism, user, token),
            (Kind::Certificate { act_as }, None) => act_as.clone(),
        }
    }

    fn first_sent(&mut self) {
        self.state = match (std::mem::replace(&mut self.state, State::Done), self.mechanism) {
            (State::First(Some(scram)), _) => State::Sent(scram),
            (_, Mechanism::OAuthBearer | Mechanism::XOAuth2) => State::Token,
            _ => State::Done,
        };
    }
}

/// RFC 2195 §2: the name and, in hex, the keyed hash of the challenge.
fn hashed(user: &Secret, password: &Secret, challenge: &Secret) -> Result<Secret, SaslError> {
    if challenge.as_bytes().is_empty() {
        return Err(SaslError::Malformed);
    }
    let mut mac = Hmac::<Md5>::new_from_slice(password.as_bytes()).map_err(|_| SaslError::Malformed)?;
    mac.update(challenge.as_bytes());
    let digest = mac.finalize().into_bytes();
    let hex = digest.iter().fold(String::with_capacity(32), |hex, octet| hex + &format!("{octet:02x}"));
    Ok(Secret::joined(&[user.as_bytes(), b" ", hex.as_bytes()]))
}
