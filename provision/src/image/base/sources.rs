//! Where packages come from while the base system is made: the host's own mirror where it has one
//! for the suite, else Debian's. The image itself always names Debian's
//! (`files/etc/apt/sources.list.d`).

use std::fs;
use std::path::Path;

use super::super::fault::ImageError;
use super::super::tool::Tool;

const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
const DEBIAN_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// Mirrors and settings for apt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sources {
    mirror: String,
    security_mirror: String,
    /// Settings of the host's apt without which its mirror cannot be reached.
    pub(super) apt_options: Vec<String>,
}

impl Sources {
    /// Reads the host's apt configuration.
    pub(super) fn of_host(suite: &str) -> Result<Self, ImageError> {
        let mut entries = Vec::new();
        let mut files = vec![Path::new("/etc/apt/sources.list").to_owned()];
        if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(folder.flatten().map(|entry| entry.path()));
        }
        files.sort();
        for path in files {
            // What cannot be read names no mirror; Debian's own remains.
            let text = fs::read_to_string(&path).unwrap_or_default();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("sources") => entries.extend(deb822_entries(&text)),
                Some("list") => entries.extend(one_line_entries(&text)),
                _ => {}
            }
        }
        let dump = Tool::new("apt-config").arg("dump").run()?.text();
        Ok(Self::chosen(&entries, suite, needed_options(&dump)))
    }

    fn chosen(entries: &[Entry], suite: &str, apt_options: Vec<String>) -> Self {
        let find = |wanted: &str, default: &str| {
            entries
                .iter()
                .find(|entry| entry.suite == wanted && entry.uri.starts_with("http"))
                .map_or_else(|| default.to_owned(), |entry| entry.uri.clone())
        };
        Self {
            mirror: find(suite, DEBIAN_MIRROR),
            security_mirror: find(&format!("{suite}-security"), DEBIAN_SECURITY_MIRROR),
            apt_options,
        }
    }

    /// Lines as in sources.list.
    pub(super) fn lines(&self, suite: &str) -> Vec<String> {
        vec![
            format!("deb {} {suite} main", self.mirror),
            format!("deb {} {suite}-updates main", self.mirror),
            format!("deb {} {suite}-security main", self.security_mirror),
        ]
    }

    /// Host name of the mirror, for people.
    pub(super) fn host(&self) -> &str {
        self.mirror.split('/').nth(2).unwrap_or(&self.mirror)
    }
}

#[derive(Debug, PartialEq)]
struct Entry {
    uri: String,
    suite: String,
}

fn one_line_entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            continue;
        };
        let rest = rest.trim();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, after)| after),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            entries.push(Entry {
                uri: trimmed(uri),
                suite: suite.to_owned(),
            });
        }
    }
    entries
}

fn deb822_entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            paragraph.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        if !field("Types").is_some_and(|types| types.split_whitespace().any(|kind| kind == "deb"))
            || field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"))
        {
            continue;
        }
        let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) else {
            continue;
        };
        for uri in uris.split_whitespace() {
            for suite in suites.split_whitespace() {
                entries.push(Entry {
                    uri: trimmed(uri),
                    suite: suite.to_owned(),
                });
            }
        }
    }
    entries
}

fn trimmed(uri: &str) -> String {
    uri.trim_end_matches('/').to_owned()
}

/// Proxies and the checks of a mirror's age, out of `apt-config dump`.
fn needed_options(dump: &str) -> Vec<String> {
    let needed = |line: &&str| {
        let Some(key) = line.split_whitespace().next() else {
            return false;
        };
        let proxy = key.starts_with("Acquire::http") && key.ends_with("::Proxy");
        (proxy || key.starts_with("Acquire::Check-")) && !line.contains("\"\"")
    };
    dump.lines()
        .filter(needed)
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_read() {
        let one_line = "# deb http://no/ bookworm main\n\
            deb [arch=amd64 signed-by=/x] http://mirror.example/debian/ bookworm main\n\
            deb-src http://no/ bookworm main\n";
        let expected = vec![Entry {
            uri: "http://mirror.example/debian".into(),
            suite: "bookworm".into(),
        }];
        assert_eq!(one_line_entries(one_line), expected);

        let deb822 = "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\n\
            Suites: bookworm bookworm-updates\nComponents: main\n\n\
            Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\n";
        let suites: Vec<_> = deb822_entries(deb822)
            .into_iter()
            .map(|entry| entry.suite)
            .collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates"]);
    }

    #[test]
    fn a_suite_that_the_host_does_not_have_comes_from_debian() {
        let entries = vec![Entry {
            uri: "http://mirror.example/debian".into(),
            suite: "bookworm".into(),
        }];
        let found = Sources::chosen(&entries, "bookworm", Vec::new());
        assert_eq!(found.host(), "mirror.example");
        assert_eq!(
            found.lines("bookworm")[2],
            format!("deb {DEBIAN_SECURITY_MIRROR} bookworm-security main")
        );
        assert_eq!(
            Sources::chosen(&entries, "trixie", Vec::new()).mirror,
            DEBIAN_MIRROR
        );
    }

    #[test]
    fn only_what_the_mirror_needs_is_taken_over() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy:3128\";\n\
            Acquire::https::Proxy \"\";\nAcquire::Check-Valid-Until \"false\";\n";
        let expected = [
            "Acquire::http::Proxy \"http://proxy:3128\"",
            "Acquire::Check-Valid-Until \"false\"",
        ];
        assert_eq!(needed_options(dump), expected);
    }
}
