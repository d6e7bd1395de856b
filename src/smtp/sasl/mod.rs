//! SASL in SMTP (RFC 4422, RFC 4954): the ways to prove who one is, for both roles.
//!
//! Each role has one machine, [`client::Exchange`] and [`server::Exchange`], which turns what the other
//! side said into the next message until somebody is logged in or not. They know neither the commands
//! around them nor where passwords are kept.
//!
//! | mechanism | | what goes over the wire |
//! |---|---|---|
//! | SCRAM-SHA-256-PLUS, SCRAM-SHA-256 | RFC 5802, RFC 7677, RFC 9266 | proofs of both sides, no password |
//! | EXTERNAL | RFC 4422 appendix A | nothing: the client's certificate says it |
//! | OAUTHBEARER, XOAUTH2 | RFC 7628 | an access token |
//! | PLAIN, LOGIN | RFC 4616 | the password |
//! | CRAM-MD5, as a client only | RFC 2195 | a hash that a listener can guess passwords by |
//!
//! Whether a password or a token is right is not decided here; a SCRAM proof is, by keys that the host
//! has stored. Nobody acts for somebody else: an authorisation identity is empty or that of who logs in.

pub mod client;
mod credentials;
mod login;
mod nonce;
mod oauth;
mod scram;
mod secret;
pub mod server;
#[cfg(test)]
mod tests;

pub use credentials::Credentials;
pub use login::{Evidence, Login, Refused};
pub use nonce::Nonces;
pub use scram::{Decoy, ScramKeys};
pub(crate) use secret::secret_line;

/// A way to prove who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// SCRAM-SHA-256 bound to the TLS session (RFC 7677, RFC 9266): nobody in between, not even one
    /// with a valid certificate, can pass it on.
    ScramSha256Plus,
    /// RFC 7677: both sides prove that they know the password, and neither sends it.
    ScramSha256,
    /// RFC 4422 appendix A: the client's TLS certificate is the proof.
    External,
    /// RFC 7628: an OAuth access token.
    OAuthBearer,
    /// The same in an older form; no standard, yet some providers offer nothing else.
    XOAuth2,
    /// RFC 4616: the password.
    Plain,
    /// RFC 2195. Servers must hold the password itself for it, so ours never offers it.
    CramMd5,
    /// draft-murchison-sasl-login: the password; no standard, yet some servers offer nothing else.
    Login,
}

impl Mechanism {
    /// All of them, the strongest first.
    pub const ALL: [Self; 8] = [
        Self::ScramSha256Plus,
        Self::ScramSha256,
        Self::External,
        Self::OAuthBearer,
        Self::XOAuth2,
        Self::Plain,
        Self::CramMd5,
        Self::Login,
    ];

    /// What a server offers whose host keeps [`ScramKeys`].
    pub const STORED_KEYS: [Self; 4] = [Self::ScramSha256Plus, Self::ScramSha256, Self::Plain, Self::Login];

    /// Reads the name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.as_str().eq_ignore_ascii_case(name))
    }

    /// The name as it is announced.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::External => "EXTERNAL",
            Self::OAuthBearer => "OAUTHBEARER",
            Self::XOAuth2 => "XOAUTH2",
            Self::Plain => "PLAIN",
            Self::CramMd5 => "CRAM-MD5",
            Self::Login => "LOGIN",
        }
    }
}

/// What is wrong with an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SaslError {
    /// Not Base64, or not what the mechanism sends (a server answers 501 5.5.2).
    #[error("the authentication data is malformed")]
    Malformed,
    /// Longer than any name or password may be (a server answers 500 5.5.6).
    #[error("the authentication data is too long")]
    TooLong,
    /// One identity wants to act as another, which is not offered.
    #[error("acting as another user is not offered")]
    ActAs,
    /// A client's proof does not fit the stored keys.
    #[error("the proof is wrong")]
    Proof,
    /// The client is not at the other end of this TLS session, or did not see that the server offers
    /// channel binding: somebody is in between.
    #[error("the login belongs to another TLS session, or was downgraded")]
    Binding,
    /// A server wants fewer iterations than are safe or more than are reasonable; or keys were to be
    /// made so.
    #[error("the number of iterations is not acceptable")]
    Iterations,
    /// The server did not prove that it knows the password.
    #[error("the server did not prove that it knows the password")]
    ServerProof,
    /// The server said within the exchange that it failed.
    #[error("the server refused within the exchange")]
    Refused,
    /// The other side goes on although all was said.
    #[error("nothing is left to be said")]
    Unexpected,
    /// The system has no randomness to give (a server answers 454 4.7.0).
    #[error("there is no randomness")]
    NoRandom,
}

/// RFC 4954 §4: the longest line of an AUTH exchange, line end included.
pub const MAX_AUTH_LINE: usize = 12_288;

/// RFC 4616 §2 asks for at least 255 octets; passwords that are application tokens are longer.
const MAX_VALUE: usize = 4096;
