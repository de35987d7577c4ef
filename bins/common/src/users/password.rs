//! Passwords and tokens as they are kept: argon2id for what people choose, SHA-256 for what machines drew at random.

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// A password's hash, as in the users file.
#[derive(Clone)]
pub(super) struct PasswordDigest(PasswordHash);

/// A token's hash, as in the users file.
#[derive(Clone)]
pub(super) struct TokenDigest([u8; 32]);

/// What costs more than this takes a login's time and the machine's memory too far.
const MEMORY_KIB_MAX: u32 = 1 << 20;

impl PasswordDigest {
    /// Takes `$argon2id$…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hash = PasswordHash::new(text).ok()?;
        let is_known =
            hash.algorithm.as_str() == "argon2id" && hash.salt.is_some() && hash.hash.is_some();
        let params = argon2::Params::try_from(&hash).ok()?;
        (is_known && params.m_cost() <= MEMORY_KIB_MAX && params.t_cost() <= 100)
            .then_some(Self(hash))
    }

    /// Takes tens of milliseconds, as it should.
    pub(super) fn verify(&self, password: &str) -> bool {
        Argon2::default()
            .verify_password(password.as_bytes(), &self.0)
            .is_ok()
    }
}

impl TokenDigest {
    /// Takes `sha256:` and 64 hexadecimal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        Some(Self(digest))
    }

    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// In constant time.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A password's hash for the users file, with a salt of its own. `None` if the system gives no random bytes.
pub fn hash_password(password: &str) -> Option<String> {
    let hash: PasswordHash = Argon2::default().hash_password(password.as_bytes()).ok()?;
    Some(hash.to_string())
}

/// A token's hash for the users file. Tokens are random and long, so that a plain hash is enough.
pub fn hash_token(token: &str) -> String {
    use std::fmt::Write as _;
    TokenDigest::of(token)
        .0
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hashed_verifies() {
        let text = hash_password("correct horse").expect("random bytes");
        assert!(text.starts_with("$argon2id$v=19$"), "{text}");
        assert_ne!(hash_password("correct horse").expect("random bytes"), text);
        let digest = PasswordDigest::parse(&text).expect("own hash");
        assert!(digest.verify("correct horse"));
        assert!(!digest.verify("correct horse "));
        let token = TokenDigest::parse(&hash_token("t")).expect("own hash");
        assert!(token.is(&TokenDigest::of("t")));
        assert!(!token.is(&TokenDigest::of("u")));
    }

    #[test]
    fn other_hashes_are_refused() {
        let bombs = "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA";
        for text in [
            "",
            "hunter2",
            "$2b$12$abc",
            "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            bombs,
        ] {
            assert!(PasswordDigest::parse(text).is_none(), "{text}");
        }
        for text in [
            "",
            "sha256:",
            "sha256:00",
            "md5:00",
            &format!("sha256:{}", "g".repeat(64)),
            &format!("sha256:{}", "é".repeat(32)),
        ] {
            assert!(TokenDigest::parse(text).is_none(), "{text}");
        }
    }
}
