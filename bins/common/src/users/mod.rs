//! The users of the CONNECT port and the API: who they are, what proves it, what they may reach.

mod cache;
mod password;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use proto_core::auth::{Glob, Ports, Rights, UserName};
use proto_core::connect::ProxyCredentials;
use serde::{Deserialize, de};

pub use cache::{Login, Logins};
use password::{PasswordDigest, TokenDigest};
pub use password::{hash_password, hash_token};

use crate::config::{ConfigError, Mistake, load_plain};
use crate::secrets::{Checked, exposure};

/// A user whose credentials were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: UserName,
    /// What may be reached.
    pub rights: Rights,
    /// Whether this user's streams may outlive their links.
    pub resume: bool,
    /// Whether the API shows everything to this user.
    pub is_admin: bool,
}

/// Everybody in the users file.
#[derive(Clone, Default)]
pub struct Users {
    by_name: BTreeMap<UserName, Entry>,
    /// Somebody's password: an unknown user is compared with it, and refused whatever comes of it.
    decoy: Option<PasswordDigest>,
}

#[derive(Clone)]
struct Entry {
    user: Arc<User>,
    password: Option<PasswordDigest>,
    tokens: Vec<TokenDigest>,
}

impl Users {
    /// Reads the users file.
    pub fn read(path: &Path) -> Result<Checked<Self>, ConfigError> {
        let file = load_plain::<File>(path)?;
        let warnings = std::fs::metadata(path)
            .ok()
            .and_then(|about| exposure(path, &about))
            .into_iter()
            .collect();
        let mut users = Self::default();
        let mut mistakes: Vec<Mistake> = Vec::new();
        for (index, row) in file.value.user.into_iter().enumerate() {
            let added = users.add(row);
            mistakes.extend(
                added
                    .err()
                    .map(|(key, text)| file.places.mistake(&format!("user.{index}.{key}"), text)),
            );
        }
        if mistakes.is_empty() {
            Ok(Checked {
                value: users,
                warnings,
            })
        } else {
            Err(ConfigError::new(mistakes))
        }
    }

    /// Who this is; `None` if the credentials are wrong, for an unknown user after the same work as for a wrong password.
    ///
    /// A token is also taken as the password of its own user: most ssh helpers can send nothing but Basic.
    /// May take tens of milliseconds; [`Logins`] remembers.
    pub fn verify(&self, credentials: &ProxyCredentials) -> Option<Arc<User>> {
        match credentials {
            ProxyCredentials::Basic { user, password } => {
                let entry = self.by_name.get(user);
                let digest = TokenDigest::of(password.expose());
                if let Some(entry) = entry
                    && entry.holds(&digest)
                {
                    return Some(entry.user.clone());
                }
                let own = entry.and_then(|entry| entry.password.as_ref());
                let is_right = own
                    .or(self.decoy.as_ref())
                    .is_some_and(|hash| hash.verify(password.expose()));
                entry
                    .filter(|_| own.is_some() && is_right)
                    .map(|entry| entry.user.clone())
            }
            ProxyCredentials::Bearer(token) => {
                let digest = TokenDigest::of(token.expose());
                // No early end: how long it takes tells nothing of whose token it is.
                self.by_name.values().fold(None, |found, entry| {
                    if entry.holds(&digest) {
                        Some(entry.user.clone())
                    } else {
                        found
                    }
                })
            }
            ProxyCredentials::Unreadable => None,
        }
    }

    /// A user by name, for those whom a certificate proves.
    pub fn by_name(&self, name: &UserName) -> Option<Arc<User>> {
        self.by_name.get(name).map(|entry| entry.user.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// True if there is nobody.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn add(&mut self, row: Row) -> Result<(), (&'static str, String)> {
        let name = UserName::parse(&row.name)
            .filter(|name| !name.as_str().contains(':'))
            .ok_or_else(|| {
                (
                    "name",
                    "expected 1 to 253 printable ASCII characters without spaces and colons"
                        .to_owned(),
                )
            })?;
        let password = match &row.password {
            Some(Hash(text)) => Some(PasswordDigest::parse(text).ok_or_else(|| {
                (
                    "password",
                    "expected \"$argon2id$…\" as tunnel-cloud hash-password prints it".to_owned(),
                )
            })?),
            None => None,
        };
        let tokens: Vec<TokenDigest> = row
            .tokens
            .iter()
            .map(|Hash(text)| TokenDigest::parse(text))
            .collect::<Option<_>>()
            .ok_or_else(|| ("tokens", "expected \"sha256:\" and 64 hexadecimal digits, as tunnel-cloud hash-password prints it".to_owned()))?;
        if tokens
            .iter()
            .any(|token| self.by_name.values().any(|entry| entry.holds(token)))
        {
            return Err(("tokens", "another user has the same token".to_owned()));
        }
        let nodes = row
            .nodes
            .iter()
            .map(|text| {
                Glob::parse(text).map_err(|error| ("nodes", format!("\"{text}\": {error}")))
            })
            .collect::<Result<_, _>>()?;
        if self.by_name.contains_key(&name) {
            return Err(("name", format!("{name} is in the file already")));
        }
        self.decoy = self.decoy.take().or_else(|| password.clone());
        let user = Arc::new(User {
            name: name.clone(),
            rights: Rights::new(nodes, row.ports.0),
            resume: row.resume.unwrap_or(true),
            is_admin: row.admin,
        });
        self.by_name.insert(
            name,
            Entry {
                user,
                password,
                tokens,
            },
        );
        Ok(())
    }
}

impl Entry {
    fn holds(&self, token: &TokenDigest) -> bool {
        self.tokens
            .iter()
            .fold(false, |found, own| found | own.is(token))
    }
}

/// Tells who there is, and no hashes.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    user: Vec<Row>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Row {
    name: String,
    password: Option<Hash>,
    tokens: Vec<Hash>,
    nodes: Vec<String>,
    ports: PortList,
    admin: bool,
    resume: Option<bool>,
}

/// A hash as written. What stands there instead may be the secret itself, so no error repeats it.
struct Hash(String);

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(from)? {
            toml::Value::String(text) => Ok(Self(text)),
            _ => Err(de::Error::custom("expected a hash in quotes")),
        }
    }
}

/// `[22, 5900]`, or `"*"` for all.
struct PortList(Ports);

impl Default for PortList {
    fn default() -> Self {
        Self(Ports::Of([22].into()))
    }
}

impl<'de> Deserialize<'de> for PortList {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Some(Vec<u16>),
            All(String),
        }
        match Written::deserialize(from) {
            Ok(Written::Some(ports)) if !ports.contains(&0) => {
                Ok(Self(Ports::Of(ports.into_iter().collect())))
            }
            Ok(Written::All(text)) if text == "*" => Ok(Self(Ports::Any)),
            _ => Err(de::Error::custom(
                "expected a list of ports from 1 to 65535, such as [22], or \"*\"",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto_core::auth::Secret;
    use proto_core::name::NodeName;

    use super::*;

    #[test]
    fn users_are_told_apart_by_what_they_hold() {
        let password = hash_password("pw").expect("random bytes");
        let users = read(&format!(
            "[[user]]\nname = \"ann\"\npassword = \"{password}\"\ntokens = [\"{}\"]\nnodes = [\"edge-*\"]\nadmin = true\n[[user]]\nname = \"bot\"\ntokens = [\"{}\"]\nnodes = [\"*\"]\nports = \"*\"\n",
            hash_token("ann's"),
            hash_token("bot's")
        ))
        .expect("good");
        let name = |user: Option<Arc<User>>| user.map(|user| user.name.as_str().to_owned());
        assert_eq!(
            name(users.verify(&basic("ann", "pw"))).as_deref(),
            Some("ann")
        );
        assert_eq!(
            name(users.verify(&basic("ann", "ann's"))).as_deref(),
            Some("ann")
        );
        assert_eq!(
            name(users.verify(&basic("bot", "bot's"))).as_deref(),
            Some("bot")
        );
        assert_eq!(name(users.verify(&bearer("bot's"))).as_deref(), Some("bot"));
        for wrong in [
            basic("ann", "x"),
            basic("bot", "pw"),
            basic("eve", "pw"),
            basic("ann", "bot's"),
            bearer("pw"),
            bearer(""),
            ProxyCredentials::Unreadable,
        ] {
            assert_eq!(users.verify(&wrong), None, "{wrong:?}");
        }
        let ann = users
            .by_name(&UserName::parse("ann").expect("name"))
            .expect("ann");
        let node = |name: &str| NodeName::parse(name).expect("name");
        assert!(
            ann.is_admin
                && ann.rights.allows(&node("edge-1"), 22)
                && !ann.rights.allows(&node("edge-1"), 23)
        );
        assert!(
            users
                .verify(&bearer("bot's"))
                .expect("bot")
                .rights
                .allows(&node("x"), 5900)
        );
        assert!(!format!("{users:?}").contains("argon2id"));
    }

    #[test]
    fn mistakes_are_placed_and_secrets_not_repeated() {
        for (text, expected) in [
            (
                "[[user]]\nname = \"a:b\"",
                "users.toml:2:1: user.0.name: expected",
            ),
            (
                "[[user]]\nname = \"a\"\npassword = \"hunter2\"",
                "users.toml:3:1: user.0.password: expected \"$argon2id$…\"",
            ),
            (
                "[[user]]\nname = \"a\"\npassword = 7777777",
                "users.toml:3:1: user.0.password: expected a hash in quotes",
            ),
            (
                "[[user]]\nname = \"a\"\ntokens = [\"hunter2\"]",
                "users.toml:3:1: user.0.tokens: expected \"sha256:\"",
            ),
            (
                "[[user]]\nname = \"a\"\n[[user]]\nname = \"a\"",
                "users.toml:4:1: user.1.name: a is in the file already",
            ),
            (
                "[[user]]\nname = \"a\"\nnodes = [\"a/b\"]",
                "users.toml:3:1: user.0.nodes: \"a/b\"",
            ),
            (
                "[[user]]\nname = \"a\"\nports = [0]",
                "users.toml:3:1: user.0.ports: expected a list of ports",
            ),
            (
                "[[user]]\nname = \"a\"\nrole = 1",
                "users.toml:3:1: user.0.role: unknown key",
            ),
            (
                "[[users]]\nname = \"a\"",
                "users.toml:1:3: users: unknown key",
            ),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{error}");
            assert!(
                !error.contains("hunter2") && !error.contains("7777777"),
                "{error}"
            );
        }
    }

    fn read(text: &str) -> Result<Users, ConfigError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("users.toml");
        std::fs::write(&path, text).expect("write");
        Users::read(&path).map(|users| users.value)
    }

    fn basic(user: &str, password: &str) -> ProxyCredentials {
        ProxyCredentials::Basic {
            user: UserName::parse(user).expect("name"),
            password: Secret::new(password.to_owned()),
        }
    }

    fn bearer(token: &str) -> ProxyCredentials {
        ProxyCredentials::Bearer(Secret::new(token.to_owned()))
    }
}
