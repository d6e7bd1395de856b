//! What a server stores instead of a password, and what it shows for users that do not exist.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{Key, MAX_ITERATIONS, MAX_SALT, MIN_ITERATIONS, decoded, hmac, key, salted, sha256};
use crate::smtp::sasl::SaslError;
use crate::smtp::sasl::nonce::random;

/// The keys by which a server checks a SCRAM proof or a password, without holding the password
/// (RFC 5802 §3). Whoever steals them can guess passwords, and can pose as this server; nobody can log in
/// with them. Never shown by `Debug`, and wiped from memory on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(super) salt: Box<[u8]>,
    pub(super) iterations: u32,
    pub(super) stored_key: [u8; 32],
    pub(super) server_key: [u8; 32],
}

impl ScramKeys {
    /// The iterations of [`ScramKeys::of`], the least that RFC 7677 §4 allows: 2 ms of work for each
    /// login. More make stolen keys harder to guess by.
    pub const ITERATIONS: u32 = MIN_ITERATIONS;

    /// The keys of `password` with a salt of the caller's, 1 to 1,024 octets, and from 4,096 to 600,000
    /// iterations. It takes as long as a login by PLAIN: about half a millisecond for each thousand.
    ///
    /// # Errors
    /// [`SaslError::Iterations`], or [`SaslError::Malformed`] for such a salt.
    pub fn new(password: &str, salt: &[u8], iterations: u32) -> Result<Self, SaslError> {
        check(salt, iterations)?;
        Ok(Self::made(password, salt, iterations))
    }

    /// The keys of `password` with a salt of 16 random octets and [`ScramKeys::ITERATIONS`], as
    /// [`Decoy`] shows them for users that do not exist.
    ///
    /// # Errors
    /// [`SaslError::NoRandom`]
    pub fn of(password: &str) -> Result<Self, SaslError> {
        let salt = random::<SALT>().ok_or(SaslError::NoRandom)?;
        Ok(Self::made(password, &salt, Self::ITERATIONS))
    }

    fn made(password: &str, salt: &[u8], iterations: u32) -> Self {
        let salted = salted(password, salt, iterations);
        let client_key = Zeroizing::new(hmac(&salted, &[b"Client Key"]));
        Self {
            salt: salt.into(),
            iterations,
            stored_key: sha256(&*client_key),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }

    /// How costly these keys are to make: with it a [`Decoy`] is made [like](Decoy::like) them.
    #[must_use]
    pub const fn iterations(&self) -> u32 {
        self.iterations
    }

    /// How many octets of salt they have.
    #[must_use]
    pub const fn salt_octets(&self) -> usize {
        self.salt.len()
    }

    /// Reads what [`ScramKeys::to_text`] wrote.
    ///
    /// # Errors
    /// As [`ScramKeys::new`], and [`SaslError::Malformed`] for any other text.
    pub fn parse(text: &str) -> Result<Self, SaslError> {
        let text = text.strip_prefix("SCRAM-SHA-256$").ok_or(SaslError::Malformed)?;
        let (cost, keys) = text.split_once('$').ok_or(SaslError::Malformed)?;
        let (iterations, salt) = cost.split_once(':').ok_or(SaslError::Malformed)?;
        let (stored, server) = keys.split_once(':').ok_or(SaslError::Malformed)?;
        let iterations = iterations.parse().map_err(|_| SaslError::Iterations)?;
        let salt = decoded(salt)?;
        check(&salt, iterations)?;
        Ok(Self { salt: salt.into(), iterations, stored_key: key(stored)?, server_key: key(server)? })
    }

    /// For a file or a database, in the form that PostgreSQL stores too:
    /// `SCRAM-SHA-256$iterations:salt$stored:server`. Keep it like a password's hash.
    #[must_use]
    pub fn to_text(&self) -> String {
        let [salt, stored, server] =
            [&*self.salt, &self.stored_key[..], &self.server_key[..]].map(|octets| STANDARD.encode(octets));
        format!("SCRAM-SHA-256${}:{salt}${stored}:{server}", self.iterations)
    }

    /// Whether this is the password, for PLAIN and LOGIN. It takes as long as [`ScramKeys::new`],
    /// whatever the answer is.
    #[must_use]
    pub fn fits(&self, password: &str) -> bool {
        let given = Self::made(password, &self.salt, self.iterations);
        // HMAC fills keys up with zeros, so that NUL at the end of a password would make no difference.
        bool::from(given.stored_key.ct_eq(&self.stored_key)) && !password.contains('\0')
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.stored_key.zeroize();
        self.server_key.zeroize();
    }
}

fn check(salt: &[u8], iterations: u32) -> Result<(), SaslError> {
    if !(MIN_ITERATIONS..=MAX_ITERATIONS).contains(&iterations) {
        return Err(SaslError::Iterations);
    }
    if (1..=MAX_SALT).contains(&salt.len()) { Ok(()) } else { Err(SaslError::Malformed) }
}

/// Makes keys for users that do not exist, the same for the same name each time, so that nobody learns
/// from an exchange who exists (RFC 5802 §9). They look like those of [`ScramKeys::of`]: where users have
/// other salts or iterations, say so here, or the difference tells.
#[derive(Clone, PartialEq, Eq)]
pub struct Decoy {
    secret: Option<Key>,
    iterations: u32,
    salt: usize,
}

impl Decoy {
    /// From a secret of the host's, which stays the same from start to start and on all its servers, as
    /// the salts of real users do.
    #[must_use]
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret: Some(Zeroizing::new(secret)), iterations: ScramKeys::ITERATIONS, salt: SALT }
    }

    /// From a random secret: whoever comes again after the next start sees other salts for those who do
    /// not exist, and only for them. This is the default.
    #[must_use]
    pub fn random() -> Self {
        Self { secret: random().map(Zeroizing::new), iterations: ScramKeys::ITERATIONS, salt: SALT }
    }

    /// The same with the iterations and octets of salt (32 at most) that the users' keys have.
    #[must_use]
    pub fn like(self, iterations: u32, salt: usize) -> Self {
        Self { iterations, salt: salt.clamp(1, 32), ..self }
    }

    /// Keys that fit no password, for this name.
    ///
    /// # Errors
    /// [`SaslError::NoRandom`] when there was no randomness for a secret.
    pub fn keys(&self, user: &str) -> Result<ScramKeys, SaslError> {
        let secret = self.secret.as_ref().ok_or(SaslError::NoRandom)?;
        let of = |what: &[u8]| hmac(secret, &[what, user.as_bytes()]);
        let salt = of(b"salt\0").iter().copied().take(self.salt).collect();
        Ok(ScramKeys {
            salt,
            iterations: self.iterations,
            stored_key: of(b"stored\0"),
            server_key: of(b"server\0"),
        })
    }
}

impl Default for Decoy {
    fn default() -> Self {
        Self::random()
    }
}

impl fmt::Debug for Decoy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoy(..)")
    }
}

/// RFC 5802 leaves it open; 128 bits make each salt the only one of its kind.
const SALT: usize = 16;
