//! What is asked of a running guest: commands over SSH with a key made for it, and keys through
//! etcdctl.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{ImageError, file};
use super::tool::{Outcome, Tool};

/// An emulated guest answers slowly when the host is busy.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);
/// One attempt to log in while a guest boots.
const LOGIN_LIMIT: Duration = Duration::from_secs(60);
/// One request to the server.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// A pair of keys that opens one guest.
#[derive(Debug, Clone)]
pub(super) struct SshKey {
    pub(super) private: PathBuf,
    pub(super) public_line: String,
}

impl SshKey {
    /// Makes `key` and `key.pub` in a folder, or takes the pair that is there.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, ImageError> {
        let private = folder.join("key");
        let public = folder.join("key.pub");
        if !private.exists() || !public.exists() {
            for old in [&private, &public] {
                // What is not there need not go.
                let _ = fs::remove_file(old);
            }
            Tool::new("ssh-keygen")
                .args([
                    "-q",
                    "-t",
                    "ed25519",
                    "-N",
                    "",
                    "-C",
                    "holdfast-guest",
                    "-f",
                ])
                .arg(&private)
                .run()?;
        }
        let public_line = fs::read_to_string(&public).map_err(file("read", &public))?;
        Ok(Self {
            private,
            public_line: public_line.trim().to_owned(),
        })
    }
}

/// The way into a guest.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) ssh_port: u16,
    pub(super) key: SshKey,
}

impl Guest {
    /// Runs a command as root and expects exit code 0.
    pub(super) fn run(&self, command: &[&str]) -> Result<Outcome, ImageError> {
        self.outcome(command, Vec::new())?.success()
    }

    /// Runs a command as root to whatever end.
    pub(super) fn outcome(&self, command: &[&str], input: Vec<u8>) -> Result<Outcome, ImageError> {
        self.ssh(command)
            .input(input)
            .limit(COMMAND_LIMIT)
            .outcome(None)
    }

    /// What a command prints, or nothing when the guest cannot be reached yet.
    pub(super) fn try_text(&self, command: &[&str]) -> Option<String> {
        let outcome = self.ssh(command).limit(LOGIN_LIMIT).outcome(None).ok()?;
        outcome.status.success().then(|| outcome.text())
    }

    /// Arguments that people can use too.
    pub(super) fn ssh_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-i".to_owned(), self.key.private.display().to_string()];
        arguments.extend(["-p".to_owned(), self.ssh_port.to_string()]);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
        ] {
            arguments.extend(["-o".to_owned(), option.to_owned()]);
        }
        arguments.push("root@127.0.0.1".to_owned());
        arguments
    }

    fn ssh(&self, command: &[&str]) -> Tool {
        let words: Vec<String> = command.iter().map(|word| shell_quoted(word)).collect();
        Tool::new("ssh")
            .args([
                "-F",
                "/dev/null",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=20",
            ])
            .args(["-o", "IdentityAgent=none", "-o", "ServerAliveInterval=30"])
            .args(self.ssh_arguments())
            .arg(words.join(" "))
    }
}

/// Keys through real etcdctl.
#[derive(Debug, Clone)]
pub(super) struct KeyValueClient {
    program: PathBuf,
    endpoint: String,
}

impl KeyValueClient {
    pub(super) fn new(program: &Path, port: u16) -> Self {
        Self {
            program: program.to_owned(),
            endpoint: format!("http://127.0.0.1:{port}"),
        }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn put(&self, key: &str, value: &str) -> Result<(), ImageError> {
        self.request(&["put", key, value]).run().map(drop)
    }

    /// The value of a key; empty when there is none.
    pub(super) fn get(&self, key: &str) -> Result<String, ImageError> {
        self.request(&["get", key, "--print-value-only"])
            .run()
            .map(|outcome| outcome.text())
    }

    fn request(&self, arguments: &[&str]) -> Tool {
        Tool::new(&self.program)
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint, "--command-timeout=20s"])
            .args(arguments)
            .limit(REQUEST_LIMIT)
    }
}

/// The etcdctl that was named, or the project's own, or the one in PATH.
pub(super) fn find_etcdctl(named: Option<&Path>) -> Result<PathBuf, ImageError> {
    const OWN: &str = "target/etcd/3.5/etcdctl";
    let candidates = match named {
        Some(named) => vec![named.to_owned()],
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let in_path = std::env::split_paths(&path).map(|folder| folder.join("etcdctl"));
            std::iter::once(PathBuf::from(OWN)).chain(in_path).collect()
        }
    };
    candidates
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .ok_or_else(|| ImageError::Missing {
            what: "etcdctl",
            path: named.unwrap_or(Path::new(OWN)).to_owned(),
            remedy: "run tests/tools/install-etcd, or name one with --etcdctl".to_owned(),
        })
}

/// For the shell that sshd hands a command line to.
fn shell_quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\ ;|&", ""] {
            let line = format!("printf %s {}", shell_quoted(word));
            let outcome = Tool::new("sh").arg("-c").arg(line).run().expect("sh runs");
            assert_eq!(outcome.output, word.as_bytes());
        }
    }
}
