//! Logins remembered for a short while: a hundred connections of one user in a row cost one argon2.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use proto_core::auth::UserName;
use proto_core::connect::ProxyCredentials;
use sha2::Sha256;

use super::{User, Users};

/// How long a login is remembered.
const AGE_MAX: Duration = Duration::from_secs(30);
/// How many are remembered.
const ENTRIES_MAX: usize = 1_024;

/// What is known of a login at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// The answer.
    Known(Option<Arc<User>>),
    /// It takes an argon2: ask [`Logins::verify`] on a thread that may be held up.
    Slow,
}

/// The users of the moment, and who of them was here lately. New users replace the old ones and all that was remembered.
pub struct Logins {
    state: Mutex<State>,
    /// What is remembered can't be tried against by who reads this memory without the key, nor collided with.
    key: [u8; 64],
}

struct State {
    users: Arc<Users>,
    remembered: BTreeMap<[u8; 32], Remembered>,
}

struct Remembered {
    user: Arc<User>,
    since: Instant,
}

impl Logins {
    /// Starts with these users. An error if the system gives no random bytes.
    pub fn new(users: Users) -> std::io::Result<Self> {
        let mut key = [0; 64];
        getrandom::fill(&mut key).map_err(std::io::Error::other)?;
        Ok(Self {
            state: Mutex::new(State {
                users: Arc::new(users),
                remembered: BTreeMap::new(),
            }),
            key,
        })
    }

    /// From now on these users and no others.
    pub fn replace(&self, users: Users) {
        let mut state = self.lock();
        state.users = Arc::new(users);
        state.remembered.clear();
    }

    /// What can be said without an argon2.
    pub fn quick(&self, credentials: &ProxyCredentials, now: Instant) -> Login {
        let Some(tag) = self.tag(credentials) else {
            let users = self.lock().users.clone();
            return Login::Known(users.verify(credentials));
        };
        let state = self.lock();
        match state.remembered.get(&tag) {
            Some(known) if is_fresh(known, now) => Login::Known(Some(known.user.clone())),
            _ => Login::Slow,
        }
    }

    /// Who this is; `None` if the credentials are wrong. May take tens of milliseconds.
    pub fn verify(&self, credentials: &ProxyCredentials, now: Instant) -> Option<Arc<User>> {
        if let Login::Known(answer) = self.quick(credentials, now) {
            return answer;
        }
        let users = self.lock().users.clone();
        let user = users.verify(credentials)?;
        let mut state = self.lock();
        // Users may have been replaced while the hash was made: then this answer is the last of its kind.
        if let Some(tag) = self.tag(credentials)
            && Arc::ptr_eq(&users, &state.users)
        {
            state.remember(tag, user.clone(), now);
        }
        Some(user)
    }

    /// A user by name, for those whom a certificate proves.
    pub fn by_name(&self, name: &UserName) -> Option<Arc<User>> {
        self.lock().users.by_name(name)
    }

    /// `None` for what is quick anyway.
    fn tag(&self, credentials: &ProxyCredentials) -> Option<[u8; 32]> {
        let ProxyCredentials::Basic { user, password } = credentials else {
            return None;
        };
        let mut mac = Hmac::<Sha256>::new(&self.key.into());
        mac.update(user.as_str().as_bytes());
        mac.update(&[0]);
        mac.update(password.expose().as_bytes());
        Some(mac.finalize().into_bytes().into())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remember(&mut self, tag: [u8; 32], user: Arc<User>, now: Instant) {
        if self.remembered.len() >= ENTRIES_MAX {
            self.remembered.retain(|_, known| is_fresh(known, now));
        }
        if self.remembered.len() >= ENTRIES_MAX {
            let oldest = self
                .remembered
                .iter()
                .min_by_key(|(_, known)| known.since)
                .map(|(tag, _)| *tag);
            if let Some(oldest) = oldest {
                self.remembered.remove(&oldest);
            }
        }
        self.remembered.insert(tag, Remembered { user, since: now });
    }
}

fn is_fresh(known: &Remembered, now: Instant) -> bool {
    now.saturating_duration_since(known.since) < AGE_MAX
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Logins")
            .field("users", &state.users)
            .field("remembered", &state.remembered.len())
            .finish()
    }
}

impl Drop for Logins {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

#[cfg(test)]
mod tests {
    use proto_core::auth::Secret;

    use super::*;
    use crate::users::hash_password;

    #[test]
    fn a_login_is_slow_once_in_a_while() {
        let logins = Logins::new(users("pw")).expect("random bytes");
        let start = Instant::now();
        assert_eq!(logins.quick(&basic("ann", "pw"), start), Login::Slow);
        assert!(logins.verify(&basic("ann", "pw"), start).is_some());
        assert!(matches!(
            logins.quick(&basic("ann", "pw"), start),
            Login::Known(Some(_))
        ));
        assert_eq!(logins.quick(&basic("ann", "px"), start), Login::Slow);
        assert_eq!(logins.quick(&basic("annp", "w"), start), Login::Slow);
        assert_eq!(
            logins.quick(&basic("ann", "pw"), start + AGE_MAX),
            Login::Slow
        );
        assert_eq!(
            logins.quick(&ProxyCredentials::Unreadable, start),
            Login::Known(None)
        );
    }

    #[test]
    fn new_users_end_old_logins() {
        let logins = Logins::new(users("pw")).expect("random bytes");
        let start = Instant::now();
        assert!(logins.verify(&basic("ann", "pw"), start).is_some());
        logins.replace(users("other"));
        assert_eq!(logins.verify(&basic("ann", "pw"), start), None);
        // A wrong password is never remembered.
        assert_eq!(logins.quick(&basic("ann", "pw"), start), Login::Slow);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut state = State {
            users: Arc::default(),
            remembered: BTreeMap::new(),
        };
        let user = Arc::new(User {
            name: UserName::parse("a").expect("name"),
            rights: Default::default(),
            resume: true,
            is_admin: false,
        });
        let start = Instant::now();
        for index in 0..2 * ENTRIES_MAX as u64 {
            let mut tag = [0; 32];
            tag[..8].copy_from_slice(&index.to_be_bytes());
            state.remember(tag, user.clone(), start + Duration::from_nanos(index));
        }
        assert_eq!(state.remembered.len(), ENTRIES_MAX);
        assert!(!state.remembered.contains_key(&[0; 32]));
    }

    fn users(password: &str) -> Users {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("users.toml");
        let hash = hash_password(password).expect("random bytes");
        std::fs::write(
            &path,
            format!("[[user]]\nname = \"ann\"\npassword = \"{hash}\"\n"),
        )
        .expect("write");
        Users::read(&path).expect("good").value
    }

    fn basic(user: &str, password: &str) -> ProxyCredentials {
        ProxyCredentials::Basic {
            user: UserName::parse(user).expect("name"),
            password: Secret::new(password.to_owned()),
        }
    }
}
