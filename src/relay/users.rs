//! An authenticator says whether a login is right; [`Users`] is a short list that is kept in memory.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::BoxFuture;
use crate::smtp::sasl::{Decoy, Evidence, Login, ScramKeys};

/// Checks logins. A user database, LDAP or an HTTP service is an implementation of this.
pub trait Authenticator: Send + Sync + fmt::Debug + 'static {
    /// Whether this evidence is right for this user; what kind of evidence is not known here is not. Take
    /// the same time for a name that does not exist, so that nobody learns which ones do.
    fn is_valid<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, bool>;

    /// The stored keys of a user, where SCRAM is offered; `None` for a user that does not exist or has
    /// none, as always by default.
    fn keys<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Option<ScramKeys>> {
        let _ = user;
        Box::pin(async { None })
    }
}

/// Users and the keys of their passwords, in memory, for a few accounts that are configured. The passwords
/// themselves are not kept. They can log in by SCRAM, PLAIN and LOGIN:
/// [`Mechanism::STORED_KEYS`](crate::smtp::sasl::Mechanism::STORED_KEYS).
#[derive(Clone)]
pub struct Users {
    keys: HashMap<Box<str>, ScramKeys>,
    decoy: Decoy,
    /// A place for each check under way.
    room: Arc<Semaphore>,
}

impl Users {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self { keys: HashMap::new(), decoy: Decoy::random(), room: Arc::new(Semaphore::new(MAX_CHECKS)) }
    }

    /// One more; a later one of the same name counts. Making the keys takes some milliseconds. Without
    /// randomness in the system there are no keys, and the user is left out.
    #[must_use]
    pub fn with(self, user: &str, password: &str) -> Self {
        match ScramKeys::of(password) {
            Ok(keys) => self.with_keys(user, keys),
            Err(_) => self,
        }
    }

    /// The same with keys that were made before, of which [`ScramKeys::parse`] reads the stored text.
    /// Give all users the same iterations and octets of salt: what is shown for a name that does not
    /// exist looks like the last one's, and others can be told from it.
    #[must_use]
    pub fn with_keys(mut self, user: &str, keys: ScramKeys) -> Self {
        self.decoy = self.decoy.like(keys.iterations(), keys.salt_octets());
        self.keys.insert(user.into(), keys);
        self
    }

    /// For [`Config::decoy`](crate::smtp::server::Config::decoy), so that SCRAM shows no difference
    /// either; needed where [`Users::with_keys`] was given keys unlike those of [`ScramKeys::of`].
    #[must_use]
    pub fn decoy(&self) -> Decoy {
        self.decoy.clone()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys to compare with, and whether they are somebody's: a stranger's password is as much work.
    fn find(&self, user: &str) -> Option<(ScramKeys, bool)> {
        match self.keys.get(user) {
            Some(keys) => Some((keys.clone(), true)),
            None => Some((self.decoy.keys(user).ok()?, false)),
        }
    }

    async fn check(&self, user: &str, password: &str) -> bool {
        let Some((keys, is_known)) = self.find(user) else { return false };
        let Ok(place) = Arc::clone(&self.room).acquire_owned().await else { return false };
        let password = Zeroizing::new(password.to_owned());
        // A hash of many rounds, which must not hold up the sessions on this thread. It goes on when
        // nobody waits for it any more, and keeps its place for as long.
        let fits = tokio::task::spawn_blocking(move || {
            let _place = place;
            keys.fits(&password)
        })
        .await;
        fits.unwrap_or(false) && is_known
    }
}

impl Default for Users {
    fn default() -> Self {
        Self::new()
    }
}

impl Authenticator for Users {
    fn is_valid<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, bool> {
        Box::pin(async {
            match login.evidence() {
                Evidence::Password(password) => self.check(login.user(), password).await,
                Evidence::Proven => self.keys.contains_key(login.user()),
                _ => false,
            }
        })
    }

    fn keys<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Option<ScramKeys>> {
        Box::pin(async { self.keys.get(user).cloned() })
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.keys.len())
    }
}

/// Passwords checked at once, over all sessions. Each takes a processor for some milliseconds; more at
/// once would only slow each other down.
const MAX_CHECKS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_whole_password_of_the_very_user_is_right() {
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
            ("eve", "s3cret", false),
            ("bob", "x", false),
        ] {
            assert_eq!(users.check(user, password).await, right, "{user} {password:?}");
        }
    }

    #[tokio::test]
    async fn no_password_is_kept() {
        let users = Users::new().with("ada", "s3cret");
        let keys = users.keys("ada").await.unwrap();
        assert!(keys.fits("s3cret") && !keys.to_text().contains("s3cret"));
        assert!(users.keys("eve").await.is_none());
        let twice = users.clone().with("ada", "other");
        assert!(twice.check("ada", "other").await && !twice.check("ada", "s3cret").await);
    }

    #[test]
    fn a_stranger_costs_and_shows_as_much_as_a_user() {
        let keys = ScramKeys::new("s3cret", b"8 octets", 10_000).unwrap();
        let users = Users::new().with_keys("ada", keys);
        for (eve, is_known) in [users.find("eve").unwrap(), (users.decoy().keys("eve").unwrap(), false)] {
            assert_eq!((eve.iterations(), eve.salt_octets(), is_known), (10_000, 8, false));
        }
    }

    #[test]
    fn a_check_that_nobody_waits_for_keeps_its_place_to_its_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let users = Users::new().with("ada", "s3cret");
            let (go_on, wait) = std::sync::mpsc::channel::<()>();
            let before = tokio::task::spawn_blocking(move || wait.recv());
            let mut check = Box::pin(users.check("ada", "s3cret"));
            let begun =
                std::future::poll_fn(|cx| std::task::Poll::Ready(check.as_mut().poll(cx).is_pending()));
            assert!(begun.await);
            drop(check);
            assert_eq!(users.room.available_permits(), MAX_CHECKS - 1);
            go_on.send(()).unwrap();
            before.await.unwrap().unwrap();
            drop(users.room.acquire_many(u32::try_from(MAX_CHECKS).unwrap()).await.unwrap());
        });
    }

    #[tokio::test]
    async fn checks_beyond_the_limit_wait_for_a_place() {
        let users = Users::new().with("ada", "s3cret");
        let places = users.room.acquire_many(u32::try_from(MAX_CHECKS).unwrap()).await.unwrap();
        let mut check = Box::pin(users.check("ada", "s3cret"));
        let waits = std::future::poll_fn(|cx| std::task::Poll::Ready(check.as_mut().poll(cx).is_pending()));
        assert!(waits.await && users.room.available_permits() == 0);
        drop(places);
        assert!(check.await);
        assert_eq!(users.room.available_permits(), MAX_CHECKS);
    }
}
