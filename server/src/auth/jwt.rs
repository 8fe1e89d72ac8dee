//! Signed tokens (RFC 7519): whoever has the public key can read them, and nobody has to keep them.
//!
//! A token names its user, the revision of users and roles at which it was given, and when it ends.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use state_machine::Identity;

use super::{InvalidToken, keys};
use crate::clock;

/// How tokens are signed, as it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtOptions {
    /// The algorithm's name: `RS256` and so on.
    pub method: String,
    /// File of the key that checks signatures, in PEM.
    pub public_key: Option<PathBuf>,
    /// File of the key that signs, in PEM; for HS256 and its kin any bytes.
    pub private_key: Option<PathBuf>,
    /// How long a token counts.
    pub lifetime: Duration,
}

/// Signs and checks tokens.
pub struct JwtTokens {
    algorithm: Algorithm,
    sign: Option<EncodingKey>,
    check: DecodingKey,
    lifetime: Duration,
}

#[derive(Debug, Serialize)]
struct Claims<'a> {
    username: &'a str,
    revision: u64,
    /// Unix time in seconds.
    exp: u64,
}

/// What a token must say; its times are checked before.
#[derive(Debug, Deserialize)]
struct Shown {
    username: String,
    /// Whoever else signs tokens may write it with a point, since JSON has only one kind of number.
    revision: f64,
}

impl JwtTokens {
    /// Reads the keys. A private key has its public half with it, which then counts whatever `pub-key`
    /// is, as with etcd.
    ///
    /// # Errors
    /// What is wrong with the algorithm or a key.
    pub fn new(options: &JwtOptions) -> Result<JwtTokens, String> {
        let algorithm = algorithm(&options.method)?;
        let private = read(options.private_key.as_ref())?;
        let public = read(options.public_key.as_ref())?;
        let unfit = |key: &'static str| {
            let method = options.method.clone();
            move |error: String| format!("{key} holds no key for {method}: {error}")
        };
        if let Some(public) = &public
            && !is_symmetric(algorithm)
        {
            keys::checking(algorithm, public).map_err(unfit("pub-key"))?;
        }
        let (sign, check) = match (private, public) {
            (Some(secret), _) if is_symmetric(algorithm) => (
                Some(EncodingKey::from_secret(&secret)),
                DecodingKey::from_secret(&secret),
            ),
            (Some(pem), _) => {
                let pair = keys::pair(algorithm, &pem).map_err(unfit("priv-key"))?;
                (Some(pair.sign), pair.check)
            }
            (None, Some(pem)) if !is_symmetric(algorithm) => {
                let check = keys::checking(algorithm, &pem).map_err(unfit("pub-key"))?;
                (None, check)
            }
            (None, _) => {
                return Err(format!(
                    "sign-method {} needs priv-key=FILE{}",
                    options.method,
                    match is_symmetric(algorithm) {
                        true => ", the shared secret",
                        false => ", or pub-key=FILE to check tokens only",
                    }
                ));
            }
        };
        Ok(JwtTokens {
            algorithm,
            sign,
            check,
            lifetime: options.lifetime,
        })
    }

    /// Whether there is a key to sign with.
    pub(crate) fn can_give(&self) -> bool {
        self.sign.is_some()
    }

    /// A token for a user; `None` if there is no key to sign it with.
    pub(crate) fn give(&self, user: &str, auth_revision: u64) -> Option<Result<String, String>> {
        let key = self.sign.as_ref()?;
        let claims = Claims {
            username: user,
            revision: auth_revision,
            exp: (clock::since_unix_epoch() + self.lifetime).as_secs(),
        };
        let token = jsonwebtoken::encode(&Header::new(self.algorithm), &claims, key);
        Some(token.map_err(|error| error.to_string()))
    }

    pub(super) fn identity(&self, token: &str) -> Result<Identity, InvalidToken> {
        let mut validation = Validation::new(self.algorithm);
        validation.leeway = 0;
        validation.validate_aud = false;
        validation.validate_nbf = true;
        let read = jsonwebtoken::decode::<Shown>(token, &self.check, &validation);
        let shown = read.map_err(|_| InvalidToken)?.claims;
        Ok(Identity {
            user: shown.username,
            // Towards zero, and never beyond what 64 bits hold.
            auth_revision: shown.revision as u64,
        })
    }
}

fn algorithm(method: &str) -> Result<Algorithm, String> {
    match method {
        "HS256" => Ok(Algorithm::HS256),
        "HS384" => Ok(Algorithm::HS384),
        "HS512" => Ok(Algorithm::HS512),
        "RS256" => Ok(Algorithm::RS256),
        "RS384" => Ok(Algorithm::RS384),
        "RS512" => Ok(Algorithm::RS512),
        "PS256" => Ok(Algorithm::PS256),
        "PS384" => Ok(Algorithm::PS384),
        "PS512" => Ok(Algorithm::PS512),
        "ES256" => Ok(Algorithm::ES256),
        "ES384" => Ok(Algorithm::ES384),
        "EdDSA" => Ok(Algorithm::EdDSA),
        "ES512" => Err(
            "sign-method ES512 is not part of this version; use ES256, ES384 or EdDSA".to_owned(),
        ),
        "" => Err("sign-method is missing; RS256 is the common one".to_owned()),
        other => Err(format!(
            "unknown sign-method {other}; known are HS, RS and PS with 256, 384 or 512, ES256, \
             ES384 and EdDSA"
        )),
    }
}

fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512
    )
}

fn read(path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = path else {
        return Ok(None);
    };
    let content = std::fs::read(path);
    content
        .map(Some)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &[u8] = b"a secret of the tests";

    fn tokens() -> JwtTokens {
        JwtTokens {
            algorithm: Algorithm::HS256,
            sign: Some(EncodingKey::from_secret(SECRET)),
            check: DecodingKey::from_secret(SECRET),
            lifetime: Duration::from_secs(60),
        }
    }

    fn signed(algorithm: Algorithm, claims: &Value) -> String {
        let key = EncodingKey::from_secret(SECRET);
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("signed")
    }

    /// [AU-11]
    #[test]
    fn a_token_is_known_again() {
        let token = tokens().give("u", 7).expect("a key").expect("signed");
        let expected = Identity {
            user: "u".to_owned(),
            auth_revision: 7,
        };
        assert_eq!(tokens().identity(&token), Ok(expected.clone()));
        let in_a_minute = clock::since_unix_epoch().as_secs_f64() + 60.5;
        let of_others = json!({"username": "u", "revision": 7.0, "exp": in_a_minute, "aud": "x"});
        let token = signed(Algorithm::HS256, &of_others);
        assert_eq!(tokens().identity(&token), Ok(expected));
    }

    /// [AU-11]
    #[test]
    fn a_token_that_says_too_little_or_too_much_is_none() {
        let now = clock::since_unix_epoch().as_secs();
        let (past, later) = (now - 5, now + 60);
        let good = json!({"username": "u", "revision": 7, "exp": later});
        let other_method = signed(Algorithm::HS384, &good);
        let unsigned = {
            let token = signed(Algorithm::HS256, &good);
            let (said, _) = token.rsplit_once('.').expect("three parts");
            format!("{said}.")
        };
        let bad = [
            json!({"username": "u", "revision": 7}),
            json!({"username": "u", "revision": 7, "exp": past}),
            json!({"username": "u", "revision": 7, "exp": later, "nbf": later}),
            json!({"username": 1, "revision": 7, "exp": later}),
            json!({"username": "u", "revision": "7", "exp": later}),
            json!({"revision": 7, "exp": later}),
            json!({"username": "u", "exp": later}),
        ];
        let bad = bad.iter().map(|claims| signed(Algorithm::HS256, claims));
        for token in bad.chain([other_method, unsigned, String::new()]) {
            assert_eq!(tokens().identity(&token), Err(InvalidToken), "{token}");
        }
        let good = signed(Algorithm::HS256, &good);
        tokens().identity(&good).expect("the others differ from it");
    }
}
