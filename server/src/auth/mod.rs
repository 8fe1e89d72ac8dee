//! Tokens: how a client shows at each call who it is, once it has shown a password.

mod jwt;
mod keys;
mod password;
mod simple;

use std::time::Duration;

use state_machine::{Auth, AuthChange, Identity};

pub use jwt::{JwtOptions, JwtTokens};
pub(crate) use password::{BCRYPT_COSTS, hash, matches};
pub use simple::SimpleTokens;

/// Which tokens are given, as it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSetting {
    /// None at all.
    Off,
    /// Random ones, kept in memory for so long after their last use.
    Simple(Duration),
    /// Signed ones, which nobody has to keep.
    Jwt(JwtOptions),
}

/// Gives tokens and knows them again.
pub enum Tokens {
    /// Gives none and knows none.
    Off,
    /// See [`SimpleTokens`].
    Simple(SimpleTokens),
    /// See [`JwtTokens`].
    Jwt(Box<JwtTokens>),
}

/// A token that is none, or counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidToken;

impl Tokens {
    /// Tokens of the kind that was set.
    ///
    /// # Errors
    /// What is wrong with a key, and what to do.
    pub fn new(setting: &TokenSetting) -> Result<Tokens, String> {
        Ok(match setting {
            TokenSetting::Off => Tokens::Off,
            TokenSetting::Simple(lifetime) => Tokens::Simple(SimpleTokens::new(*lifetime)),
            TokenSetting::Jwt(options) => Tokens::Jwt(Box::new(JwtTokens::new(options)?)),
        })
    }

    /// Takes in what the log has done to tokens.
    pub(crate) fn follow(&self, changes: Vec<AuthChange>) {
        if let Tokens::Simple(tokens) = self {
            for change in changes {
                tokens.follow(change);
            }
        }
    }

    /// Who shows a token.
    pub(crate) fn identity(&self, token: &str, auth: &Auth) -> Result<Identity, InvalidToken> {
        match self {
            Tokens::Off => Err(InvalidToken),
            Tokens::Simple(tokens) => Ok(Identity {
                user: tokens.user(token).ok_or(InvalidToken)?,
                auth_revision: auth.revision(),
            }),
            Tokens::Jwt(tokens) => tokens.identity(token),
        }
    }
}
