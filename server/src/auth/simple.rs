//! Random tokens, kept in memory: `VfvOfLvVBYRDXaQS.76`, sixteen letters and the index of the entry of
//! the log that let the user in. All members have them alike, each since it applied that entry.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use state_machine::AuthChange;

use crate::{clock, random};

const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LENGTH: usize = 16;
/// So many tokens may be there before those that have run out are looked for.
const SWEPT_FROM: usize = 1024;

/// The tokens that count.
pub struct SimpleTokens {
    /// How long each lives after its last use.
    lifetime: Duration,
    table: Mutex<Table>,
}

struct Table {
    by_token: HashMap<String, Given>,
    /// Tokens from which on a new one sweeps out those that have run out.
    swept_from: usize,
}

struct Given {
    user: String,
    until: Instant,
}

impl SimpleTokens {
    /// None yet.
    pub fn new(lifetime: Duration) -> SimpleTokens {
        SimpleTokens {
            lifetime,
            table: Mutex::new(Table {
                by_token: HashMap::new(),
                swept_from: SWEPT_FROM,
            }),
        }
    }

    /// The first part of a new token. It is as secret as the system's own random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub(crate) fn first_part() -> Result<String, getrandom::Error> {
        let mut part = String::with_capacity(LENGTH);
        while part.len() < LENGTH {
            let mut bytes = [0; LENGTH];
            random::secret(&mut bytes)?;
            // 4 * 52 values, so that every letter is as likely as any other.
            let letters = bytes.iter().filter(|byte| **byte < 208);
            let letters = letters.map(|byte| char::from(LETTERS[usize::from(*byte) % 52]));
            part.extend(letters.take(LENGTH - part.len()));
        }
        Ok(part)
    }

    pub(super) fn follow(&self, change: AuthChange) {
        let mut table = self.lock();
        match change {
            AuthChange::TokenGiven { user, token } => {
                let now = clock::monotonic();
                if table.by_token.len() >= table.swept_from {
                    table.by_token.retain(|_, given| given.until > now);
                    table.swept_from = SWEPT_FROM.max(2 * table.by_token.len());
                }
                let until = now + self.lifetime;
                table.by_token.insert(token, Given { user, until });
            }
            AuthChange::UserTokensDropped(user) => {
                table.by_token.retain(|_, given| given.user != user);
            }
            AuthChange::AllTokensDropped => table.by_token.clear(),
        }
    }

    /// Whose token it is; its time begins anew.
    pub(super) fn user(&self, token: &str) -> Option<String> {
        let now = clock::monotonic();
        let mut table = self.lock();
        let given = table.by_token.get_mut(token)?;
        if given.until <= now {
            table.by_token.remove(token);
            return None;
        }
        given.until = now + self.lifetime;
        Some(given.user.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Whole between any two calls.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(user: &str, token: &str) -> AuthChange {
        AuthChange::TokenGiven {
            user: user.to_owned(),
            token: token.to_owned(),
        }
    }

    /// [AU-10]
    #[test]
    fn tokens_are_letters_and_differ() {
        let part = SimpleTokens::first_part().expect("random numbers");
        assert_eq!(part.len(), LENGTH);
        assert!(part.chars().all(|letter| letter.is_ascii_alphabetic()));
        assert_ne!(part, SimpleTokens::first_part().expect("random numbers"));
    }

    /// [AU-10]
    #[test]
    fn tokens_end_with_their_time_their_user_or_authorization() {
        let tokens = SimpleTokens::new(Duration::from_secs(60));
        tokens.follow(given("a", "one"));
        tokens.follow(given("b", "two"));
        assert_eq!(tokens.user("one").as_deref(), Some("a"));
        assert_eq!(tokens.user("three"), None);
        tokens.follow(AuthChange::UserTokensDropped("a".to_owned()));
        assert_eq!(tokens.user("one"), None);
        assert_eq!(tokens.user("two").as_deref(), Some("b"));
        tokens.follow(AuthChange::AllTokensDropped);
        assert_eq!(tokens.user("two"), None);
        let brief = SimpleTokens::new(Duration::ZERO);
        brief.follow(given("a", "one"));
        assert_eq!(brief.user("one"), None);
    }

    #[test]
    fn tokens_that_have_run_out_do_not_pile_up() {
        let tokens = SimpleTokens::new(Duration::ZERO);
        for number in 0..10 * SWEPT_FROM {
            tokens.follow(given("a", &number.to_string()));
        }
        assert!(tokens.lock().by_token.len() <= SWEPT_FROM);
    }
}
