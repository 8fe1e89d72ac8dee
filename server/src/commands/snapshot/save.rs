//! `holdfast snapshot save`: a backup of a running or a stopped member.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use storage::disk::real::RealDisk;
use storage::{Copy, read_only};

use super::fetch::{self, Source};
use super::file::NewSnapshot;
use crate::commands::Failure;
use crate::data_dir::Paths;

/// Bytes of a stopped member's database that are copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// Saves a backup of one member. It is written to FILE.part (mode 0600), checked by the SHA-256 at its
/// end, synced and renamed; FILE is never half written.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where to.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The member, one URL.
    #[arg(
        long,
        env = "ETCDCTL_ENDPOINTS",
        value_name = "URL",
        default_value = "127.0.0.1:2379"
    )]
    endpoints: String,
    /// Trust members whose certificate one of these authorities has signed.
    #[arg(long, env = "ETCDCTL_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Our certificate, if the member asks for one.
    #[arg(long, env = "ETCDCTL_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, env = "ETCDCTL_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The user, and the password unless --password gives it.
    #[arg(long, env = "ETCDCTL_USER", value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
    /// The user's password.
    #[arg(
        long,
        env = "ETCDCTL_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        requires = "user"
    )]
    password: Option<String>,
    /// Copy the database of a stopped member instead. What stands in its log only, after a crash, is
    /// not part of it.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<String, Failure> {
    let target = &arguments.file;
    let new = NewSnapshot::create(target)?;
    let version = match &arguments.data_dir {
        Some(data_dir) => {
            copy(data_dir, new)?;
            String::new()
        }
        None => fetch::fetch(&arguments.source()?, new)?,
    };
    let mut text = format!("Snapshot saved at {}\n", target.display());
    if !version.is_empty() {
        text.push_str(&format!("Server version {version}\n"));
    }
    Ok(text)
}

impl Arguments {
    fn source(&self) -> Result<Source<'_>, Failure> {
        let user = match (&self.user, &self.password) {
            (None, _) => None,
            (Some(name), Some(password)) => Some((&name[..], &password[..])),
            (Some(user), None) => Some(user.split_once(':').ok_or_else(|| {
                let text = format!("--user={user}: its password is missing; use --password");
                Failure::of_request(text)
            })?),
        };
        let identity = self.cert.as_deref().zip(self.key.as_deref());
        Ok(Source {
            endpoint: &self.endpoints,
            authorities: self.cacert.as_deref(),
            identity,
            user,
        })
    }
}

/// Copies the newest state of a stopped member's database.
fn copy(data_dir: &Path, mut new: NewSnapshot) -> Result<(), Failure> {
    let path = Paths::in_dir(data_dir, None).db;
    let (committed, _lock) = read_only(&RealDisk, &path)?;
    storage::check(&committed)?;
    let mut hash = Sha256::new();
    let mut copy = Copy::of(&committed)?;
    loop {
        let piece = copy.read(PIECE_BYTES)?;
        if piece.is_empty() {
            break;
        }
        hash.update(&piece);
        new.write(&piece)?;
    }
    new.write(&hash.finalize())?;
    new.finish().map(drop)
}
