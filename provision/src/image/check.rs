//! `checks.toml`: what must be true of an image, and whether it is.
//!
//! `[[sealed]]` checks look into the finished file before anything boots it; `[[booted]]` checks
//! run inside the guest, by the image's own `provision image check`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fault::ImageError;
use super::tool::Tool;

/// Output of a command that a verdict shows.
const SHOWN_CHARACTERS_MAX: usize = 300;

/// All that must be true of one image.
#[derive(Debug, PartialEq)]
pub(super) struct Checks {
    pub(super) sealed: Vec<Check>,
    pub(super) booted: Vec<Check>,
}

/// One thing that must be true.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Check {
    File {
        path: String,
        attributes: Attributes,
        empty: Option<bool>,
    },
    Folder {
        path: String,
        attributes: Attributes,
        empty: Option<bool>,
        without_prefix: Option<String>,
    },
    Absent {
        path: String,
    },
    Unit {
        name: String,
        active: Option<String>,
        enabled: Option<String>,
    },
    /// Somebody listens on the TCP port.
    Port(u16),
    Command {
        argv: Vec<String>,
        exit: i32,
        output: Option<String>,
    },
    Sysctl {
        key: String,
        value: String,
    },
}

/// Owner and mode of a file or folder; what is not said may be anything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Attributes {
    mode: Option<u32>,
    /// As in `root:holdfast`.
    owner: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) passed: bool,
    /// What was found.
    pub(super) found: String,
}

/// A file system that can be looked into: that of this host, or the one in an image's file.
pub(super) trait Place {
    /// What lies at a path; nothing when nothing does. Links are not followed.
    fn entry(&self, path: &str) -> Result<Option<Entry>, String>;
    /// Names in a folder.
    fn names(&self, folder: &str) -> Result<Vec<String>, String>;
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Kind and permissions as `st_mode` has them.
    pub(super) mode: u32,
    pub(super) owner: String,
    pub(super) bytes: u64,
}

impl Checks {
    /// Reads a file of checks, or says where it is wrong.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, ImageError> {
        let wrong = |message: String| ImageError::description(name, message);
        let typed: TypedChecks = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let all = |typed: Vec<toml::Spanned<TypedCheck>>, sealed: bool| {
            let checked = typed.into_iter().map(|check| {
                let line = text[..check.span().start].matches('\n').count() + 1;
                check
                    .into_inner()
                    .checked(sealed)
                    .map_err(|message| wrong(format!("line {line}: {message}")))
            });
            checked.collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            sealed: all(typed.sealed, true)?,
            booted: all(typed.booted, false)?,
        })
    }
}

impl Check {
    /// What the check is called in reports.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => format!("file {path}"),
            Self::Folder { path, .. } => format!("folder {path}"),
            Self::Absent { path } => format!("absent {path}"),
            Self::Unit { name, .. } => format!("unit {name}"),
            Self::Port(port) => format!("port {port}"),
            Self::Command { argv, .. } => format!("command {}", argv.join(" ")),
            Self::Sysctl { key, .. } => format!("sysctl {key}"),
        }
    }

    /// Looks whether it is true.
    pub(super) fn verdict(&self, place: &dyn Place) -> Verdict {
        let (passed, found) = match self.look(place) {
            Ok(found) => (true, found),
            Err(found) => (false, found),
        };
        Verdict {
            name: self.name(),
            passed,
            found,
        }
    }

    fn look(&self, place: &dyn Place) -> Result<String, String> {
        match self {
            Self::File {
                path,
                attributes,
                empty,
            } => {
                let entry = place.entry(path)?.ok_or("is not there")?;
                if entry.mode & KIND_BITS != REGULAR_FILE {
                    return Err("is no file".to_owned());
                }
                expect_empty(*empty, entry.bytes == 0, &format!("{} bytes", entry.bytes))?;
                attributes.look(&entry)
            }
            Self::Folder {
                path,
                attributes,
                empty,
                without_prefix,
            } => {
                let entry = place.entry(path)?.ok_or("is not there")?;
                if entry.mode & KIND_BITS != FOLDER {
                    return Err("is no folder".to_owned());
                }
                look_at_names(&place.names(path)?, *empty, without_prefix.as_deref())?;
                attributes.look(&entry)
            }
            Self::Absent { path } => match place.entry(path)? {
                None => Ok("absent".to_owned()),
                Some(_) => Err("is there".to_owned()),
            },
            Self::Unit {
                name,
                active,
                enabled,
            } => look_at_unit(name, active, enabled),
            Self::Port(port) => look_at_port(*port),
            Self::Command { argv, exit, output } => look_at_command(argv, *exit, output.as_deref()),
            Self::Sysctl { key, value } => look_at_sysctl(key, value),
        }
    }
}

const KIND_BITS: u32 = 0o170_000;
const REGULAR_FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;

impl Attributes {
    fn look(&self, entry: &Entry) -> Result<String, String> {
        let mode = entry.mode & 0o7777;
        let found = format!("{mode:04o} {}", entry.owner);
        if self.mode.is_some_and(|wanted| wanted != mode)
            || self
                .owner
                .as_ref()
                .is_some_and(|wanted| *wanted != entry.owner)
        {
            let mode = self
                .mode
                .map_or_else(|| "any mode".to_owned(), |mode| format!("{mode:04o}"));
            let owner = self.owner.as_deref().unwrap_or("any owner");
            return Err(format!("is {found} instead of {mode} {owner}"));
        }
        Ok(found)
    }
}

fn expect_empty(wanted: Option<bool>, is: bool, found: &str) -> Result<(), String> {
    match wanted {
        Some(true) if !is => Err(format!("holds {found}")),
        Some(false) if is => Err("is empty".to_owned()),
        _ => Ok(()),
    }
}

fn look_at_names(
    names: &[String],
    empty: Option<bool>,
    without_prefix: Option<&str>,
) -> Result<(), String> {
    expect_empty(empty, names.is_empty(), &names.join(", "))?;
    let unwanted =
        without_prefix.and_then(|prefix| names.iter().find(|name| name.starts_with(prefix)));
    unwanted.map_or(Ok(()), |name| Err(format!("holds {name}")))
}

fn look_at_unit(
    name: &str,
    active: &Option<String>,
    enabled: &Option<String>,
) -> Result<String, String> {
    let mut found = Vec::new();
    for (verb, wanted) in [("is-active", active), ("is-enabled", enabled)] {
        let Some(wanted) = wanted else { continue };
        let outcome = Tool::new("systemctl")
            .args(["--no-pager", verb, name])
            .outcome(None);
        let state = outcome.map_err(|error| error.to_string())?.text();
        if state != *wanted {
            return Err(format!("{verb}: {state} instead of {wanted}"));
        }
        found.push(state);
    }
    Ok(found.join(", "))
}

fn look_at_port(port: u16) -> Result<String, String> {
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        if listens(&text, port) {
            return Ok("somebody listens".to_owned());
        }
    }
    Err("nobody listens".to_owned())
}

/// `/proc/net/tcp` has `sl local_address rem_address st …`, ports in hexadecimal, 0A for a
/// listener.
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let local = words.get(1).and_then(|address| address.rsplit_once(':'));
        words.get(3) == Some(&"0A")
            && local.is_some_and(|(_, text)| u16::from_str_radix(text, 16) == Ok(port))
    })
}

fn look_at_command(argv: &[String], exit: i32, output: Option<&str>) -> Result<String, String> {
    let outcome = Tool::new(&argv[0])
        .args(&argv[1..])
        .outcome(None)
        .map_err(|error| error.to_string())?;
    let printed: String = outcome.text().chars().take(SHOWN_CHARACTERS_MAX).collect();
    if outcome.status.code() != Some(exit) {
        return Err(format!(
            "{} instead of {exit}: {}",
            outcome.status,
            outcome.tail().trim()
        ));
    }
    if output.is_some_and(|wanted| !outcome.text().contains(wanted)) {
        return Err(format!(
            "printed {printed:?} without {:?}",
            output.unwrap_or_default()
        ));
    }
    Ok(printed)
}

fn look_at_sysctl(key: &str, value: &str) -> Result<String, String> {
    let path = Path::new("/proc/sys").join(key.replace('.', "/"));
    let found =
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
    if found == value {
        Ok(found)
    } else {
        Err(format!("is {found} instead of {value}"))
    }
}

/// The file system of this host.
pub(super) struct ThisHost;

impl Place for ThisHost {
    fn entry(&self, path: &str) -> Result<Option<Entry>, String> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(Some(Entry {
                mode: metadata.permissions().mode(),
                owner: format!(
                    "{}:{}",
                    user_name(metadata.uid()),
                    group_name(metadata.gid())
                ),
                bytes: metadata.len(),
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn names(&self, folder: &str) -> Result<Vec<String>, String> {
        let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
        Ok(entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }
}

fn user_name(id: u32) -> String {
    let user = nix::unistd::User::from_uid(id.into()).ok().flatten();
    user.map_or_else(|| id.to_string(), |user| user.name)
}

fn group_name(id: u32) -> String {
    let group = nix::unistd::Group::from_gid(id.into()).ok().flatten();
    group.map_or_else(|| id.to_string(), |group| group.name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypedChecks {
    #[serde(default)]
    sealed: Vec<toml::Spanned<TypedCheck>>,
    #[serde(default)]
    booted: Vec<toml::Spanned<TypedCheck>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TypedCheck {
    file: Option<String>,
    folder: Option<String>,
    absent: Option<String>,
    unit: Option<String>,
    port: Option<u16>,
    command: Option<Vec<String>>,
    sysctl: Option<String>,
    mode: Option<String>,
    owner: Option<String>,
    empty: Option<bool>,
    without_prefix: Option<String>,
    active: Option<String>,
    enabled: Option<String>,
    exit: Option<i32>,
    output: Option<String>,
    value: Option<String>,
}

impl TypedCheck {
    fn checked(self, sealed: bool) -> Result<Check, String> {
        self.one_subject()?;
        let attributes = self.attributes()?;
        let check = match self {
            Self {
                file: Some(path),
                empty,
                ..
            } => Check::File {
                path: absolute(path)?,
                attributes,
                empty,
            },
            Self {
                folder: Some(path),
                empty,
                without_prefix,
                ..
            } => Check::Folder {
                path: absolute(path)?,
                attributes,
                empty,
                without_prefix,
            },
            Self {
                absent: Some(path), ..
            } => Check::Absent {
                path: absolute(path)?,
            },
            Self {
                unit: Some(_),
                active: None,
                enabled: None,
                ..
            } => {
                return Err("unit needs active or enabled".to_owned());
            }
            Self {
                unit: Some(name),
                active,
                enabled,
                ..
            } => Check::Unit {
                name,
                active,
                enabled,
            },
            Self {
                port: Some(port), ..
            } => Check::Port(port),
            Self {
                command: Some(argv),
                exit,
                output,
                ..
            } => {
                if argv.is_empty() {
                    return Err("command needs a program".to_owned());
                }
                Check::Command {
                    argv,
                    exit: exit.unwrap_or(0),
                    output,
                }
            }
            Self {
                sysctl: Some(key),
                value,
                ..
            } => Check::Sysctl {
                key,
                value: value.ok_or("sysctl needs a value")?,
            },
            _ => return Err("a check needs a subject".to_owned()),
        };
        let looks_at_files = matches!(
            check,
            Check::File { .. } | Check::Folder { .. } | Check::Absent { .. }
        );
        if sealed && !looks_at_files {
            return Err(format!(
                "{:?} needs a running system: say [[booted]]",
                check.name()
            ));
        }
        Ok(check)
    }

    /// Exactly one subject, and only words that belong to it.
    fn one_subject(&self) -> Result<(), String> {
        let subjects = [
            ("file", self.file.is_some(), &["mode", "owner", "empty"][..]),
            (
                "folder",
                self.folder.is_some(),
                &["mode", "owner", "empty", "without_prefix"],
            ),
            ("absent", self.absent.is_some(), &[]),
            ("unit", self.unit.is_some(), &["active", "enabled"]),
            ("port", self.port.is_some(), &[]),
            ("command", self.command.is_some(), &["exit", "output"]),
            ("sysctl", self.sysctl.is_some(), &["value"]),
        ];
        let mut named = subjects.iter().filter(|(_, is_named, _)| *is_named);
        let (Some((subject, _, allowed)), None) = (named.next(), named.next()) else {
            let names: Vec<_> = subjects.iter().map(|(name, ..)| *name).collect();
            return Err(format!("a check has exactly one of {}", names.join(", ")));
        };
        let words = [
            ("mode", self.mode.is_some()),
            ("owner", self.owner.is_some()),
            ("empty", self.empty.is_some()),
            ("without_prefix", self.without_prefix.is_some()),
            ("active", self.active.is_some()),
            ("enabled", self.enabled.is_some()),
            ("exit", self.exit.is_some()),
            ("output", self.output.is_some()),
            ("value", self.value.is_some()),
        ];
        match words
            .iter()
            .find(|(word, is_said)| *is_said && !allowed.contains(word))
        {
            Some((word, _)) => Err(format!("{word} says nothing about a {subject}")),
            None => Ok(()),
        }
    }

    fn attributes(&self) -> Result<Attributes, String> {
        let mode = match &self.mode {
            Some(text) => Some(
                u32::from_str_radix(text, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777 && text.len() == 4)
                    .ok_or_else(|| {
                        format!("mode {text:?} must be four octal digits, as in 0640")
                    })?,
            ),
            None => None,
        };
        if let Some(owner) = &self.owner
            && !owner.contains(':')
        {
            return Err(format!(
                "owner {owner:?} must name user and group, as in root:holdfast"
            ));
        }
        Ok(Attributes {
            mode,
            owner: self.owner.clone(),
        })
    }
}

fn absolute(path: String) -> Result<String, String> {
    if path.starts_with('/') && (path.len() == 1 || !path.ends_with('/')) {
        return Ok(path);
    }
    Err(format!(
        "path {path:?} must begin with a slash and not end with one"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<Check, &str>) {
        match (
            Checks::parse("checks.toml", &format!("[[booted]]\n{text}")),
            expected,
        ) {
            (Ok(checks), Ok(expected)) => assert_eq!(checks.booted, [expected]),
            (Err(error), Err(part)) => {
                let message = error.to_string();
                assert!(message.starts_with("checks.toml: "), "{message}");
                assert!(message.contains(part), "{message}");
            }
            (got, wanted) => panic!("{text}: {got:?} instead of {wanted:?}"),
        }
    }

    #[test]
    fn checks_are_read_or_refused_with_the_reason() {
        let attributes = Attributes {
            mode: Some(0o640),
            owner: Some("root:holdfast".to_owned()),
        };
        check(
            "file = '/a'\nmode = '0640'\nowner = 'root:holdfast'",
            Ok(Check::File {
                path: "/a".to_owned(),
                attributes,
                empty: None,
            }),
        );
        check("port = 2379", Ok(Check::Port(2379)));
        check(
            "absent = '/a'",
            Ok(Check::Absent {
                path: "/a".to_owned(),
            }),
        );
        check("unit = 'a.service'", Err("needs active or enabled"));
        check(
            "unit = 'a.service'\nmode = '0640'",
            Err("mode says nothing about a unit"),
        );
        check("file = 'a'", Err("must begin with a slash"));
        check("file = '/a'\nmode = '640'", Err("four octal digits"));
        check("file = '/a'\nmode = '9999'", Err("four octal digits"));
        check("file = '/a'\nowner = 'root'", Err("user and group"));
        check("file = '/a'\nport = 1", Err("exactly one of"));
        check("", Err("line 1: a check has exactly one of"));
        check("command = []", Err("needs a program"));
        check("sysctl = 'a.b'", Err("needs a value"));
        check("colour = 'red'", Err("unknown field"));
    }

    #[test]
    fn the_finished_file_can_only_be_asked_about_its_files() {
        let error =
            Checks::parse("checks.toml", "\n\n[[sealed]]\nport = 1\n").expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("line 3: \"port 1\" needs a running system"),
            "{error}"
        );
    }

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            0: 00000000:094B 00000000:0000 0A 00000000:00000000\n\
            1: 0100007F:094C 0100007F:1234 01 00000000:00000000\n";
        assert!(listens(table, 2379));
        assert!(!listens(table, 2380));
        assert!(!listens(table, 2381));
    }

    #[test]
    fn this_host_is_seen_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("file");
        fs::write(&path, "x").expect("it can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
        let path = path.display().to_string();
        let verdict = |mode: u32, empty| {
            let attributes = Attributes {
                mode: Some(mode),
                owner: None,
            };
            Check::File {
                path: path.clone(),
                attributes,
                empty,
            }
            .verdict(&ThisHost)
        };
        assert!(verdict(0o640, Some(false)).passed);
        assert!(verdict(0o600, None).found.contains("0640"));
        assert!(!verdict(0o640, Some(true)).passed);

        let folder = folder.path().display().to_string();
        let names = |without: &str| Check::Folder {
            path: folder.clone(),
            attributes: Attributes::default(),
            empty: None,
            without_prefix: Some(without.to_owned()),
        };
        assert!(!names("fi").verdict(&ThisHost).passed);
        assert!(names("other").verdict(&ThisHost).passed);
        assert!(!Check::Absent { path }.verdict(&ThisHost).passed);
    }

    #[test]
    fn commands_are_judged_by_code_and_output() {
        let verdict = |line: &str, exit, output: Option<&str>| {
            let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
            Check::Command {
                argv,
                exit,
                output: output.map(str::to_owned),
            }
            .verdict(&ThisHost)
            .passed
        };
        assert!(verdict("echo yes", 0, Some("yes")));
        assert!(!verdict("echo no", 0, Some("yes")));
        assert!(verdict("exit 3", 3, None));
        assert!(!verdict("exit 3", 0, None));
    }

    #[test]
    fn the_checks_of_every_image_can_be_read() {
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
        for entry in fs::read_dir(images).expect("images is there") {
            let path = entry.expect("it can be listed").path().join("checks.toml");
            let text = fs::read_to_string(&path).expect("every image has checks");
            let checks = Checks::parse(&path.display().to_string(), &text).expect("they are right");
            assert!(!checks.sealed.is_empty() && !checks.booted.is_empty());
        }
    }
}
