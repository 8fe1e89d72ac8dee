//! Folders on the target that the operator names.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

/// Longest path; Linux takes 4096 bytes with the names that we append.
const PATH_BYTES_MAX: usize = 1024;

/// An absolute path without `.` and `..`, of characters that unit files, environment files and
/// tmpfiles.d hold alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct AbsolutePath(String);

impl AbsolutePath {
    /// A path that is known to be well formed.
    pub(crate) fn known(path: &'static str) -> AbsolutePath {
        AbsolutePath::try_from(path.to_owned()).expect("constant paths are well formed")
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Whether this path is `other` or lies below it.
    pub(crate) fn is_within(&self, other: &str) -> bool {
        self.as_path().starts_with(other)
    }
}

impl TryFrom<String> for AbsolutePath {
    type Error = String;

    fn try_from(text: String) -> Result<AbsolutePath, String> {
        let refuse = |why: &str| Err(format!("{text:?} cannot be used as a path: {why}"));
        if !text.starts_with('/') || text == "/" {
            return refuse("write a whole path below /, such as \"/var/lib/holdfast\"");
        }
        if text.len() > PATH_BYTES_MAX {
            return refuse("it is longer than 1024 bytes");
        }
        if text
            .split('/')
            .skip(1)
            .any(|part| matches!(part, "" | "." | ".."))
        {
            return refuse(
                "it has an empty part, '.' or '..'; write it out, without a '/' at its end",
            );
        }
        if text
            .chars()
            .any(|character| character.is_control() || "\"'\\$`".contains(character))
        {
            return refuse("quotes, backslashes, '$', '`' and control characters break unit files");
        }
        Ok(AbsolutePath(text))
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_whole_and_free_of_quotes() {
        for good in ["/data", "/srv/100% sure/x", "/a b/ü"] {
            assert!(
                AbsolutePath::try_from(good.to_owned()).is_ok(),
                "{good:?} was refused"
            );
        }
        for bad in [
            "", "/", "data", "/a/../b", "/a//b", "/a/", "/a\"b", "/a\nb", "/a$b", "/a\\b",
        ] {
            assert!(
                AbsolutePath::try_from(bad.to_owned()).is_err(),
                "{bad:?} was taken"
            );
        }
    }
}
