//! What a token says of itself. Nothing of it is believed before the API server has said that the token is good; before that it
//! only saves questions whose answer is clear, and chooses how to ask.
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The middle part of a JSON Web Token.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Claims {
    aud: Audiences,
    exp: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Audiences {
        Audiences::Many(Vec::new())
    }
}

impl Claims {
    /// `None`: it is no such token.
    pub(super) fn of(token: &str) -> Option<Claims> {
        let mut parts = token.split('.');
        let (_, middle, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let json = URL_SAFE_NO_PAD.decode(middle).ok()?;
        serde_json::from_slice(&json).ok()
    }

    /// Whether it is made for `audience`, among others perhaps.
    pub(super) fn is_for(&self, audience: &str) -> bool {
        match &self.aud {
            Audiences::One(one) => one == audience,
            Audiences::Many(many) => many.iter().any(|one| one == audience),
        }
    }

    /// How long it is still good for. `None`: it doesn't say.
    pub(super) fn left(&self) -> Option<Duration> {
        let end = UNIX_EPOCH + Duration::from_secs(self.exp?.min(u64::from(u32::MAX)));
        Some(
            end.duration_since(std::time::SystemTime::now())
                .unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_audience_or_several() {
        for aud in [r#""tunnel""#, r#"["other", "tunnel"]"#] {
            let claims = Claims::of(&token(&format!(r#"{{"aud": {aud}, "exp": 1}}"#)));
            let claims = claims.expect("a token");
            assert!(claims.is_for("tunnel") && !claims.is_for("tunne"));
            assert_eq!(claims.left(), Some(Duration::ZERO));
        }
        let silent = Claims::of(&token("{}")).expect("a token");
        assert!(!silent.is_for("tunnel") && silent.left().is_none());
        let endless = format!(r#"{{"exp": {}}}"#, u64::MAX);
        assert!(Claims::of(&token(&endless)).is_some_and(|claims| claims.left().is_some()));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for text in [
            "",
            "..",
            "a.b",
            "a.b.c",
            &token("7"),
            &(token("{}") + ".d"),
            &token("{\"aud\": 1}"),
        ] {
            assert!(Claims::of(text).is_none(), "{text}");
        }
    }

    fn token(middle: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(middle))
    }
}
