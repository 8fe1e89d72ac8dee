//! Passwords and their hashes, by bcrypt as etcd has it.

use std::ops::RangeInclusive;

/// Costs that bcrypt knows: 2 to this power rounds.
pub(crate) const BCRYPT_COSTS: RangeInclusive<u32> = 4..=31;
/// bcrypt looks at no more of a password.
const BYTES_MAX: usize = 72;

/// Why a password has no hash.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// It is too long; the text is that of etcd's library.
    #[error("bcrypt: password length exceeds 72 bytes")]
    TooLong,
    /// The system has no random numbers.
    #[error("cannot make a salt: {0}")]
    Salt(#[from] getrandom::Error),
    /// Anything else, without the password.
    #[error("cannot hash a password")]
    Hash,
}

/// A password's hash, `$2a$…`. It takes long on purpose, so it belongs on a thread that may.
pub(crate) fn hash(password: &str, cost: u32) -> Result<String, PasswordError> {
    if password.len() > BYTES_MAX {
        return Err(PasswordError::TooLong);
    }
    let mut salt = [0; 16];
    crate::random::secret(&mut salt)?;
    let parts = bcrypt::hash_with_salt(password, cost, salt).map_err(|_| PasswordError::Hash)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoA))
}

/// Whether a password is the one of a hash; as slow as [`hash`].
pub(crate) fn matches(password: &str, hash: &str) -> bool {
    bcrypt::verify(password, hash).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [AU-5]
    #[test]
    fn a_password_is_known_by_its_hash_and_no_other_is() {
        let hashed = hash("secret", 4).expect("hashed");
        assert!(hashed.starts_with("$2a$04$"), "{hashed}");
        assert!(matches("secret", &hashed));
        assert!(!matches("Secret", &hashed));
        assert!(!matches("secret", ""));
        let empty = hash("", 4).expect("hashed");
        assert!(matches("", &empty) && !matches("x", &empty));
    }

    /// [AU-5]
    #[test]
    fn a_password_of_more_than_72_bytes_is_refused() {
        hash(&"p".repeat(72), 4).expect("hashed");
        let error = hash(&"p".repeat(73), 4).expect_err("too long");
        assert_eq!(
            error.to_string(),
            "bcrypt: password length exceeds 72 bytes"
        );
    }

    /// What Go's library has made is known here.
    #[test]
    fn hashes_of_etcd_are_known() {
        let of_go = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(matches("allmine", of_go));
    }
}
