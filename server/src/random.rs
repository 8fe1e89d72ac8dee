//! The only place that asks for chance. Everything else is handed a seed.

use std::hash::{BuildHasher, RandomState};

/// A seed that differs between processes and between calls. Good enough to spread elections and
/// ids; no secret may be made of it.
pub fn seed() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed(), seed());
    }
}
