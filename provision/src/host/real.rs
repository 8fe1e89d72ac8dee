//! A live machine, or a directory tree: the same calls below another root.

use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::replace::{self, Ownership};
use super::{
    Entry, Held, Host, HostError, ServiceIds, Target, UnitAction, UnitFacts, clock, file_error,
    systemd,
};
use crate::member;
use crate::paths;
use crate::render::{Access, Account, SERVER_UNIT};
use crate::spec::HttpUrl;

/// Largest file that is compared; ours have a few KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Where units are judged before they are put in place.
const VERIFY_FOLDER: &str = "/run/provision/verify";
/// Between two looks at a server that starts.
const SERVING_POLL: Duration = Duration::from_millis(200);

/// A live machine, or a directory tree.
#[derive(Debug)]
pub(crate) struct RealHost {
    target: Target,
    is_root: bool,
}

impl RealHost {
    /// The machine we run on, or the tree at `root`.
    ///
    /// # Errors
    /// When the tree is not a folder, or a live machine has no systemd in charge.
    pub(crate) fn open(root: Option<&Path>) -> Result<RealHost, HostError> {
        let is_root = nix::unistd::geteuid().is_root();
        let target = match root {
            None if !systemd::is_running() => return Err(HostError::NoSystemd),
            None => Target::Live,
            Some(root) => {
                let root = root
                    .canonicalize()
                    .map_err(file_error("open the tree", root.display()))?;
                std::fs::read_dir(&root).map_err(file_error("open the tree", root.display()))?;
                Target::Tree(root)
            }
        };
        Ok(RealHost { target, is_root })
    }

    /// The path on this machine of a path on the target.
    ///
    /// In a tree, a folder on the way may be a link; one that leads out of the tree is refused,
    /// since writing there would change the machine that bakes the image.
    fn locate(&self, path: &str) -> Result<PathBuf, HostError> {
        let Target::Tree(root) = &self.target else {
            return Ok(PathBuf::from(path));
        };
        let full = root.join(path.trim_start_matches('/'));
        let mut above = full.parent();
        while let Some(folder) = above {
            match folder.canonicalize() {
                Ok(real) if real.starts_with(root) => return Ok(full),
                Ok(_) => {
                    let root = root.display().to_string();
                    return Err(HostError::LeavesTree {
                        path: path.to_owned(),
                        root,
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    // A dangling link is not a missing folder: it would be written through.
                    if folder.is_symlink() {
                        let root = root.display().to_string();
                        return Err(HostError::LeavesTree {
                            path: path.to_owned(),
                            root,
                        });
                    }
                    above = folder.parent();
                }
                Err(error) => return Err(file_error("look at", folder.display())(error)),
            }
        }
        Ok(full)
    }

    fn ownership(&self, access: Access) -> Result<Ownership, HostError> {
        if !self.can_set_owners() {
            return Ok(Ownership {
                ids: None,
                mode: access.mode,
            });
        }
        let needs_service = [access.owner, access.group].contains(&Account::Service);
        let service = match needs_service {
            true => Some(
                self.service_ids()?
                    .ok_or(HostError::NoServiceAccount(paths::SERVICE_ACCOUNT))?,
            ),
            false => None,
        };
        let id = |account, of: fn(ServiceIds) -> u32| match account {
            Account::Root => 0,
            Account::Service => service.map_or(0, of),
        };
        let user = id(access.owner, |ids| ids.user);
        let group = id(access.group, |ids| ids.group);
        Ok(Ownership {
            ids: Some((user, group)),
            mode: access.mode,
        })
    }
}

impl Host for RealHost {
    fn target(&self) -> &Target {
        &self.target
    }

    fn entry(&self, path: &str) -> Result<Entry, HostError> {
        let full = self.locate(path)?;
        let metadata = match std::fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Entry::Missing);
            }
            Err(error) => return Err(file_error("look at", full.display())(error)),
        };
        let held = Held {
            user: metadata.uid(),
            group: metadata.gid(),
            mode: metadata.mode() & 0o7777,
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Ok(Entry::Folder { held });
        }
        if kind.is_file() {
            return Ok(Entry::File {
                content: read_bounded(&full)?,
                held,
            });
        }
        let kind = if kind.is_symlink() {
            let to = std::fs::read_link(&full).map_err(file_error("read", full.display()))?;
            format!("a symbolic link to {}", to.display())
        } else if kind.is_socket() {
            "a socket".to_owned()
        } else {
            "a device or pipe".to_owned()
        };
        Ok(Entry::Other { kind })
    }

    fn service_ids(&self) -> Result<Option<ServiceIds>, HostError> {
        let user = self.id_in("/etc/passwd")?;
        let group = self.id_in("/etc/group")?;
        Ok(user
            .zip(group)
            .map(|(user, group)| ServiceIds { user, group }))
    }

    fn unit(&self, name: &str) -> Result<UnitFacts, HostError> {
        systemd::unit(&self.target, name)
    }

    fn can_set_owners(&self) -> bool {
        // On a live machine an ordinary user is told by the first call that needs more.
        self.is_root || self.target == Target::Live
    }

    fn replace_file(
        &mut self,
        path: &str,
        content: &[u8],
        access: Access,
    ) -> Result<(), HostError> {
        replace::replace_file(&self.locate(path)?, content, self.ownership(access)?)
    }

    fn remove_file(&mut self, path: &str) -> Result<(), HostError> {
        let full = self.locate(path)?;
        std::fs::remove_file(&full).map_err(file_error("remove", full.display()))?;
        replace::sync_parent(&full)
    }

    fn make_folder(&mut self, path: &str, access: Access) -> Result<(), HostError> {
        let full = self.locate(path)?;
        match std::fs::create_dir(&full) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(file_error("make", full.display())(error));
            }
            _ => {}
        }
        replace::set_ownership(&full, self.ownership(access)?)?;
        replace::sync_parent(&full)
    }

    fn remove_empty_folder(&mut self, path: &str) -> Result<(), HostError> {
        let full = self.locate(path)?;
        match std::fs::remove_dir(&full) {
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(file_error("remove", full.display())(error))
            }
            _ => Ok(()),
        }
    }

    fn set_access(&mut self, path: &str, access: Access) -> Result<(), HostError> {
        replace::set_ownership(&self.locate(path)?, self.ownership(access)?)
    }

    fn restore_held(&mut self, path: &str, held: Held) -> Result<(), HostError> {
        let ids = self.can_set_owners().then_some((held.user, held.group));
        replace::set_ownership(
            &self.locate(path)?,
            Ownership {
                ids,
                mode: held.mode,
            },
        )
    }

    fn create_accounts(&mut self, sysusers_file: &str) -> Result<(), HostError> {
        systemd::create_accounts(&self.target, sysusers_file)
    }

    fn verify_units(&mut self, units: &[(String, String)]) -> Result<(), HostError> {
        systemd::verify(Path::new(VERIFY_FOLDER), units)
    }

    fn reload_manager(&mut self) -> Result<(), HostError> {
        systemd::reload()
    }

    fn act_on_unit(&mut self, name: &str, action: UnitAction) -> Result<(), HostError> {
        systemd::act(&self.target, name, action)
    }

    fn set_kernel_settings(&mut self, sysctl_file: &str) -> Result<(), HostError> {
        systemd::set_kernel_settings(sysctl_file)
    }

    fn wait_until_serving(&mut self, client: &HttpUrl, limit: Duration) -> Result<(), HostError> {
        let deadline = clock::now() + limit;
        loop {
            let health = member::health(client);
            if health.is_ok_and(|health| health.is_healthy()) {
                return Ok(());
            }
            let state = systemd::server_state(SERVER_UNIT)?;
            if state.active_state == "failed" {
                return Err(HostError::NotServing(why_failed(&state)));
            }
            if clock::now() >= deadline {
                return Err(HostError::NotServing(format!(
                    "{client} does not answer after {} s; {SERVER_UNIT} is {}{}",
                    limit.as_secs(),
                    state.active_state,
                    said(&state.status_text)
                )));
            }
            std::thread::sleep(SERVING_POLL);
        }
    }
}

impl RealHost {
    /// The service account's number in a passwd(5) or group(5) file: name, password, number.
    fn id_in(&self, path: &str) -> Result<Option<u32>, HostError> {
        let Entry::File { content, .. } = self.entry(path)? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&content);
        let id = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == paths::SERVICE_ACCOUNT).then_some(())?;
            fields.nth(1)?.parse().ok()
        });
        Ok(id)
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, HostError> {
    let mut content = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content))
        .map_err(file_error("read", path.display()))?;
    Ok(content)
}

fn why_failed(state: &systemd::ServerState) -> String {
    let advice = match state.exit_code {
        Some(2) => "the server refuses its settings; correct them in /etc/holdfast/provision.toml",
        Some(3) => {
            "the server refuses its data, or its disk failed; the log names the file. Do not remove data before you have a copy"
        }
        _ => "the log says why",
    };
    let code = state
        .exit_code
        .map(|code| format!(" with exit code {code}"))
        .unwrap_or_default();
    let log = systemd::journal_tail(SERVER_UNIT);
    let log = if log.is_empty() {
        log
    } else {
        format!("\nIts last lines:\n{log}")
    };
    format!(
        "{SERVER_UNIT} ended{code} ({}): {advice}{}{log}",
        state.result,
        said(&state.status_text)
    )
}

fn said(status: &str) -> String {
    if status.is_empty() {
        String::new()
    } else {
        format!(", and says: {status}")
    }
}
