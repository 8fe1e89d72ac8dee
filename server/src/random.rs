//! The only place that asks for chance. Everything else is handed a seed.

use std::hash::{BuildHasher, RandomState};

/// A seed that differs between processes and between calls. Good enough to spread elections and
/// ids; for secrets there is [`secret`].
pub fn seed() -> u64 {
    RandomState::new().hash_one(0u8)
}

/// Fills `bytes` with what nobody can guess.
///
/// # Errors
/// When the system has no random numbers.
pub fn secret(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    getrandom::fill(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed(), seed());
    }
}
