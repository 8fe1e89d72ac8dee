//! Names that reach the server and the cluster.

use std::fmt;

use serde::Deserialize;

/// Longest name of a member or token. Host names end at 64 bytes; nothing needs more.
const NAME_BYTES_MAX: usize = 64;

/// A member's name. `=` and `,` separate members in the server's flags, so a name has neither.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct MemberName(String);

/// The word that is mixed into the ids of cluster and members.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ClusterToken(String);

impl MemberName {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterToken {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for MemberName {
    type Error = String;

    fn try_from(text: String) -> Result<MemberName, String> {
        check_name("member name", &text)?;
        Ok(MemberName(text))
    }
}

impl TryFrom<String> for ClusterToken {
    type Error = String;

    fn try_from(text: String) -> Result<ClusterToken, String> {
        check_name("cluster token", &text)?;
        Ok(ClusterToken(text))
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for ClusterToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn check_name(what: &str, text: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
        return Err(format!(
            "{text:?} is not a {what}; use 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-'"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_nothing_that_separates_members() {
        assert!(MemberName::try_from("node-1.example".to_owned()).is_ok());
        for bad in ["", "a=b", "a,b", "a b", "a\nb", "ü", &"a".repeat(65)] {
            assert!(
                MemberName::try_from(bad.to_owned()).is_err(),
                "{bad:?} was taken"
            );
        }
    }
}
