//! An authenticator says whether a login is right; [`Users`] is a short list that is kept in memory.

use std::collections::HashMap;
use std::{fmt, hint};

use crate::BoxFuture;
use crate::smtp::sasl::{Credentials, Login};

/// Checks logins. A user database, LDAP or an HTTP service is an implementation of this.
pub trait Authenticator: Send + Sync + fmt::Debug + 'static {
    /// Whether name and password belong together. Take the same time for a name that does not
    /// exist, so that nobody learns which ones do.
    fn is_valid<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, bool>;
}

/// Users and their passwords, in memory. For a few accounts that are configured; passwords are held
/// as they are, and wiped when it is dropped.
#[derive(Default, Clone)]
pub struct Users(HashMap<Box<str>, Credentials>);

impl Users {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more; a later one of the same name counts.
    #[must_use]
    pub fn with(mut self, user: &str, password: &str) -> Self {
        self.0.insert(user.into(), Credentials::new(user, password));
        self
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn check(&self, user: &str, password: &str) -> bool {
        let known = self.0.get(user);
        // A stranger's password is compared too, with one that is not empty, as ours seldom are.
        let expected = known.map_or(NOBODY, Credentials::password);
        is_same(expected.as_bytes(), password.as_bytes()) && known.is_some()
    }
}

impl Authenticator for Users {
    fn is_valid<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, bool> {
        Box::pin(async { self.check(login.user(), login.password()) })
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

/// Compares in a time that depends only on the length of `given`, which whoever measures chose.
fn is_same(secret: &[u8], given: &[u8]) -> bool {
    let mut differs = usize::from(secret.len() != given.len());
    let mut expected = secret.iter().chain(std::iter::repeat(&0));
    for octet in given {
        differs |= usize::from(octet ^ expected.next().unwrap_or(&0));
        // Without this the optimiser may stop at the first difference.
        differs = hint::black_box(differs);
    }
    differs == 0
}

const NOBODY: &str = "nobody's password";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_password_of_the_very_user_is_right() {
        let users = Users::new().with("ada", "s3cret").with("bob", "");
        for (user, password, right) in [
            ("ada", "s3cret", true),
            ("bob", "", true),
            ("ada", "s3cre", false),
            ("ada", "s3cret\0", false),
            ("ada", "", false),
            ("ada", "S3cret", false),
            ("Ada", "s3cret", false),
            ("eve", "", false),
            ("eve", NOBODY, false),
            ("bob", "x", false),
        ] {
            assert_eq!(users.check(user, password), right, "{user} {password:?}");
        }
    }
}
