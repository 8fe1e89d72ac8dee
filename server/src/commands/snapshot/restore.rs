//! `holdfast snapshot restore`: the data directory of a new cluster's member, from a backup.

use std::path::PathBuf;
use std::sync::Arc;

use state_machine::{MemberId, NewCluster};
use storage::disk::Disk;
use storage::disk::real::RealDisk;

use super::rebuild::{Bump, HashCheck, Plan, rebuild};
use crate::bootstrap::first_members;
use crate::commands::Failure;
use crate::config::{InitialMember, PeerUrl, check_own_member};
use crate::identity::{Identity, cluster_id};

/// Makes the data directory of a member of a new cluster out of a backup. Run it once for each member,
/// with the same backup, --initial-cluster and --initial-cluster-token. The directory appears whole or
/// not at all.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The directory to make; NAME.etcd unless given.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The folder for its log, if that is to lie elsewhere.
    #[arg(long, value_name = "DIR")]
    wal_dir: Option<PathBuf>,
    /// This member's name.
    #[arg(long, default_value = "default", value_name = "NAME")]
    name: String,
    /// All members of the new cluster.
    #[arg(
        long,
        default_value = "default=http://localhost:2380",
        value_name = "NAME=URL,..."
    )]
    initial_cluster: String,
    /// Where the others will reach this member.
    #[arg(long, default_value = "http://localhost:2380", value_name = "URL,...")]
    initial_advertise_peer_urls: String,
    /// Tells clusters apart that have the same URLs.
    #[arg(long, default_value = "etcd-cluster", value_name = "TOKEN")]
    initial_cluster_token: String,
    /// Do without the hash at the backup's end, as a database copied from a data directory has none.
    #[arg(long)]
    skip_hash_check: bool,
    /// Raise the revision by so much, so that it lies above all that clients have seen.
    #[arg(long, default_value_t = 0, value_name = "N")]
    bump_revision: u64,
    /// Tell all who watch from an older revision that it was compacted. Belongs to --bump-revision.
    #[arg(long)]
    mark_compacted: bool,
    /// Accepted for the sake of etcdutl's callers; it changes nothing.
    #[arg(long, hide = true)]
    initial_memory_map_size: Option<u64>,
}

pub(super) fn run(arguments: &Arguments) -> Result<String, Failure> {
    let plan = plan(arguments)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let revision = rebuild(&disk, &plan)?;
    let (member, cluster) = (plan.identity.member, plan.identity.cluster.0);
    Ok(format!(
        "restored {} into {}\nmember {member} of the new cluster {cluster:x}; revision {revision}\n",
        plan.snapshot.display(),
        plan.data_dir.display()
    ))
}

/// What the arguments ask for.
fn plan(arguments: &Arguments) -> Result<Plan, Failure> {
    let flag = |name: &str, text: &str, reason: &dyn std::fmt::Display| {
        Failure::of_request(format!("--{name}={text}: {reason}"))
    };
    let text = &arguments.initial_cluster;
    let listed = InitialMember::list(text);
    let listed = listed.map_err(|reason| flag("initial-cluster", text, &reason))?;
    let text = &arguments.initial_advertise_peer_urls;
    let advertised: Result<Vec<PeerUrl>, _> = text.split(',').map(PeerUrl::to_advertise).collect();
    let advertised =
        advertised.map_err(|reason| flag("initial-advertise-peer-urls", text, &reason))?;
    let own = check_own_member(&arguments.name, &advertised, &listed)?;

    let members = first_members(&listed, &arguments.initial_cluster_token);
    let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
    let identity = Identity {
        cluster: cluster_id(&ids),
        member: ids[own],
    };
    let bump = match (arguments.bump_revision, arguments.mark_compacted) {
        (0, false) => None,
        (amount, true) if amount > 0 => Some(Bump { amount }),
        _ => {
            let text = "--bump-revision and --mark-compacted belong together: history below a raised \
                        revision has a hole, and nobody may read across it; give both or none";
            return Err(Failure::of_request(text));
        }
    };
    let default_dir = || PathBuf::from(format!("{}.etcd", arguments.name));
    Ok(Plan {
        snapshot: arguments.file.clone(),
        hash_check: match arguments.skip_hash_check {
            true => HashCheck::Skipped,
            false => HashCheck::Required,
        },
        data_dir: arguments.data_dir.clone().unwrap_or_else(default_dir),
        wal_dir: arguments.wal_dir.clone(),
        identity,
        cluster: NewCluster::new(members),
        bump,
    })
}
