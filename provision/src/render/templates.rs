//! One struct for each template. Values arrive typed; the template's extension chooses how they
//! are quoted.

use askama::Template;

use super::desired::{DesiredFolder, DesiredUnit, RenderError};
use super::quote::HostNamedText;
use crate::spec::{
    AdvertisedUrl, Backup, Compaction, Defrag, HttpUrl, NodeName, Profile, Resources, Spec,
    TimeSpan,
};

/// Kernel settings that no configuration changes: prefer the page cache over swapping processes.
const SWAPPINESS: u32 = 10;
/// Dirty pages at which the kernel begins to write: a second of a slow SSD.
const DIRTY_BACKGROUND_BYTES: u64 = 64 << 20;
/// Connections that may wait to be accepted: all clients of a large cluster coming back at once.
const CONNECTIONS_WAITING: u32 = 8192;
/// How much longer systemd waits for a maintenance command than the command waits for the server.
const UNIT_GRACE: TimeSpan = TimeSpan::from_secs(60);

#[derive(Template)]
#[template(path = "etc/systemd/system/holdfast.service")]
struct ServerUnit<'a> {
    data_dir: &'a str,
    wal_dir: Option<&'a str>,
    host_named: Vec<HostNamedVariable>,
    nofile: u64,
    nice: i64,
    oom_score_adjust: i64,
    memory_low: Option<u64>,
    /// The data lie where systemd makes the folder by itself.
    state_directory: bool,
}

/// A variable whose value systemd completes with the host's name.
struct HostNamedVariable {
    name: &'static str,
    value: HostNamedText,
}

#[derive(Template)]
#[template(path = "etc/holdfast/holdfast.env")]
struct Environment<'a> {
    name: Option<&'a str>,
    data_dir: &'a str,
    wal_dir: Option<&'a str>,
    listen_client: String,
    advertise_client: Option<String>,
    listen_peer: String,
    advertise_peer: Option<String>,
    listen_metrics: Option<String>,
    initial_cluster: Option<String>,
    token: &'a str,
    quota: u64,
    quota_text: String,
    compaction_mode: &'static str,
    compaction_retention: String,
    snapshot_count: u64,
    heartbeat: u64,
    election: u64,
    request_max: u64,
    operations_per_txn_max: u64,
    log_level: String,
    log_format: String,
}

#[derive(Template)]
#[template(path = "etc/systemd/system/holdfast-defrag.service")]
struct DefragService {
    timeout: String,
}

#[derive(Template)]
#[template(path = "etc/systemd/system/holdfast-defrag.timer")]
struct DefragTimer<'a> {
    on_calendar: &'a str,
    jitter: String,
}

#[derive(Template)]
#[template(path = "etc/systemd/system/holdfast-backup.service")]
struct BackupService<'a> {
    dir: &'a str,
    timeout: String,
}

#[derive(Template)]
#[template(path = "etc/systemd/system/holdfast-backup.timer")]
struct BackupTimer<'a> {
    on_calendar: &'a str,
    jitter: String,
}

#[derive(Template)]
#[template(path = "usr/lib/sysusers.d/holdfast.conf", escape = "sysusers")]
struct Sysusers<'a> {
    home: &'a str,
}

#[derive(Template)]
#[template(path = "usr/lib/tmpfiles.d/holdfast.conf", escape = "tmpfiles")]
struct Tmpfiles<'a> {
    folders: Vec<TmpfilesLine<'a>>,
}

struct TmpfilesLine<'a> {
    path: &'a str,
    mode: String,
    owner: &'static str,
    group: &'static str,
}

#[derive(Template)]
#[template(path = "etc/sysctl.d/60-holdfast.conf", escape = "sysctl")]
struct Sysctl {
    swappiness: u32,
    dirty_background_bytes: u64,
    connections_waiting: u32,
}

#[derive(Template)]
#[template(path = "usr/lib/systemd/system-preset/60-holdfast.preset")]
struct Preset<'a> {
    units: &'a [DesiredUnit],
}

#[derive(Template)]
#[template(path = "etc/holdfast/provision.toml")]
struct InitConfig<'a> {
    profile: Profile,
    data_dir: &'a str,
    token: &'a str,
    client: String,
    peer: String,
    metrics: String,
    quota: String,
    retention: String,
    snapshot_count: u64,
    heartbeat: String,
    election: String,
    request_max: String,
    operations_per_txn_max: u64,
    log_level: String,
    log_format: String,
    defrag: &'a Defrag,
    backup: &'a Backup,
    resources: &'a Resources,
    fsync_p99_warn: String,
    fsync_p99_fail: String,
}

pub(super) fn server_unit(spec: &Spec) -> Result<String, RenderError> {
    finish(
        "holdfast.service",
        &ServerUnit {
            data_dir: spec.data_dir.as_str(),
            wal_dir: spec.wal_dir.as_ref().map(|dir| dir.as_str()),
            host_named: host_named(spec),
            nofile: spec.resources.nofile,
            nice: spec.resources.nice,
            oom_score_adjust: spec.resources.oom_score_adjust,
            memory_low: spec.resources.memory_low.map(|size| size.bytes()),
            state_directory: spec.data_dir.as_str() == crate::paths::DATA_DIR,
        },
    )
}

/// What depends on the host's name goes into the unit, since environment files know no specifiers.
fn host_named(spec: &Spec) -> Vec<HostNamedVariable> {
    let listen = &spec.listen;
    let mut variables = Vec::new();
    let mut add = |name, value| variables.push(HostNamedVariable { name, value });
    if spec.name == NodeName::HostName {
        add("ETCD_NAME", HostNamedText::default().host_name());
    }
    if initial_cluster(spec).is_none() {
        let members = joined(&listen.advertise_peer, |text| match &spec.name {
            NodeName::HostName => text.host_name().text('='),
            NodeName::Fixed(name) => text.text(name).text('='),
        });
        add("ETCD_INITIAL_CLUSTER", members);
    }
    if fixed(&listen.advertise_client).is_none() {
        add(
            "ETCD_ADVERTISE_CLIENT_URLS",
            joined(&listen.advertise_client, |text| text),
        );
    }
    if fixed(&listen.advertise_peer).is_none() {
        add(
            "ETCD_INITIAL_ADVERTISE_PEER_URLS",
            joined(&listen.advertise_peer, |text| text),
        );
    }
    variables
}

fn joined(
    urls: &[AdvertisedUrl],
    prefix: impl Fn(HostNamedText) -> HostNamedText,
) -> HostNamedText {
    urls.iter()
        .enumerate()
        .fold(HostNamedText::default(), |text, (index, url)| {
            let text = prefix(if index == 0 { text } else { text.text(',') });
            match url {
                AdvertisedUrl::HostName { port } => text
                    .text("http://")
                    .host_name()
                    .text(format_args!(":{port}")),
                AdvertisedUrl::Fixed(url) => text.text(url),
            }
        })
}

pub(super) fn environment(spec: &Spec) -> Result<String, RenderError> {
    let listen = &spec.listen;
    let (compaction_mode, compaction_retention) = compaction(&spec.compaction);
    finish(
        "holdfast.env",
        &Environment {
            name: match &spec.name {
                NodeName::Fixed(name) => Some(name.as_str()),
                NodeName::HostName => None,
            },
            data_dir: spec.data_dir.as_str(),
            wal_dir: spec.wal_dir.as_ref().map(|dir| dir.as_str()),
            listen_client: comma_joined(&listen.client),
            advertise_client: fixed(&listen.advertise_client),
            listen_peer: comma_joined(&listen.peer),
            advertise_peer: fixed(&listen.advertise_peer),
            listen_metrics: (!listen.metrics.is_empty()).then(|| comma_joined(&listen.metrics)),
            initial_cluster: initial_cluster(spec),
            token: spec.token.as_str(),
            quota: spec.quota.bytes(),
            quota_text: spec.quota.to_string(),
            compaction_mode,
            compaction_retention,
            snapshot_count: spec.snapshot_count,
            heartbeat: spec.heartbeat.as_millis(),
            election: spec.election.as_millis(),
            request_max: spec.request_max.bytes(),
            operations_per_txn_max: spec.operations_per_txn_max,
            log_level: spec.log_level.to_string(),
            log_format: spec.log_format.to_string(),
        },
    )
}

/// `NAME=URL`, when neither depends on the host's name.
fn initial_cluster(spec: &Spec) -> Option<String> {
    let NodeName::Fixed(name) = &spec.name else {
        return None;
    };
    let member = |url: &AdvertisedUrl| match url {
        AdvertisedUrl::Fixed(url) => Some(format!("{name}={url}")),
        AdvertisedUrl::HostName { .. } => None,
    };
    let members: Option<Vec<String>> = spec.listen.advertise_peer.iter().map(member).collect();
    members.map(|members| members.join(","))
}

/// The addresses in one string, when none depends on the host's name.
fn fixed(urls: &[AdvertisedUrl]) -> Option<String> {
    let fixed = |url: &AdvertisedUrl| match url {
        AdvertisedUrl::Fixed(url) => Some(url.to_string()),
        AdvertisedUrl::HostName { .. } => None,
    };
    let urls: Option<Vec<String>> = urls.iter().map(fixed).collect();
    urls.map(|urls| urls.join(","))
}

fn comma_joined(urls: &[HttpUrl]) -> String {
    urls.iter()
        .map(HttpUrl::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn compaction(compaction: &Compaction) -> (&'static str, String) {
    match compaction {
        Compaction::Off => ("periodic", "0".to_owned()),
        Compaction::Periodic(retention) => ("periodic", retention.go_duration()),
        Compaction::Revisions(revisions) => ("revision", revisions.to_string()),
    }
}

pub(super) fn defrag_service(spec: &Spec) -> Result<String, RenderError> {
    finish(
        "holdfast-defrag.service",
        &DefragService {
            timeout: spec.defrag.timeout.plus(UNIT_GRACE).systemd(),
        },
    )
}

pub(super) fn defrag_timer(spec: &Spec) -> Result<String, RenderError> {
    finish(
        "holdfast-defrag.timer",
        &DefragTimer {
            on_calendar: spec.defrag.on_calendar.as_str(),
            jitter: spec.defrag.jitter.systemd(),
        },
    )
}

pub(super) fn backup_service(spec: &Spec) -> Result<String, RenderError> {
    finish(
        "holdfast-backup.service",
        &BackupService {
            dir: spec.backup.dir.as_str(),
            timeout: spec.backup.timeout.plus(UNIT_GRACE).systemd(),
        },
    )
}

pub(super) fn backup_timer(spec: &Spec) -> Result<String, RenderError> {
    finish(
        "holdfast-backup.timer",
        &BackupTimer {
            on_calendar: spec.backup.on_calendar.as_str(),
            jitter: spec.backup.jitter.systemd(),
        },
    )
}

pub(super) fn sysusers(spec: &Spec) -> Result<String, RenderError> {
    finish(
        "sysusers.d/holdfast.conf",
        &Sysusers {
            home: spec.data_dir.as_str(),
        },
    )
}

pub(super) fn tmpfiles(folders: &[DesiredFolder]) -> Result<String, RenderError> {
    let folders = folders.iter().map(tmpfiles_line).collect();
    finish("tmpfiles.d/holdfast.conf", &Tmpfiles { folders })
}

fn tmpfiles_line(folder: &DesiredFolder) -> TmpfilesLine<'_> {
    let DesiredFolder { path, access } = folder;
    TmpfilesLine {
        path,
        mode: format!("{:04o}", access.mode),
        owner: access.owner.name(),
        group: access.group.name(),
    }
}

pub(super) fn sysctl() -> Result<String, RenderError> {
    finish(
        "60-holdfast.conf",
        &Sysctl {
            swappiness: SWAPPINESS,
            dirty_background_bytes: DIRTY_BACKGROUND_BYTES,
            connections_waiting: CONNECTIONS_WAITING,
        },
    )
}

pub(super) fn preset(units: &[DesiredUnit]) -> Result<String, RenderError> {
    finish("60-holdfast.preset", &Preset { units })
}

/// The commented configuration that holds a profile's defaults.
///
/// # Errors
/// A value that TOML cannot hold; the defaults have none.
pub(crate) fn init_config(profile: Profile) -> Result<String, RenderError> {
    let spec = Spec::defaults(profile);
    finish(
        "provision.toml",
        &InitConfig {
            profile,
            data_dir: spec.data_dir.as_str(),
            token: spec.token.as_str(),
            client: toml_list(&spec.listen.client),
            peer: toml_list(&spec.listen.peer),
            metrics: toml_list(&spec.listen.metrics),
            quota: spec.quota.to_string(),
            retention: match spec.compaction {
                Compaction::Periodic(retention) => retention.to_string(),
                Compaction::Off | Compaction::Revisions(_) => {
                    unreachable!("the default compaction is periodic")
                }
            },
            snapshot_count: spec.snapshot_count,
            heartbeat: spec.heartbeat.to_string(),
            election: spec.election.to_string(),
            request_max: spec.request_max.to_string(),
            operations_per_txn_max: spec.operations_per_txn_max,
            log_level: spec.log_level.to_string(),
            log_format: spec.log_format.to_string(),
            defrag: &spec.defrag,
            backup: &spec.backup,
            resources: &spec.resources,
            fsync_p99_warn: spec.fsync_p99_warn.to_string(),
            fsync_p99_fail: spec.fsync_p99_fail.to_string(),
        },
    )
}

/// Quoted by hand, since a list is more than one string: addresses have no character to escape.
fn toml_list(urls: &[HttpUrl]) -> String {
    urls.iter()
        .map(|url| format!("\"{url}\""))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The template's text, ended by one line break. `name` is the template's, for errors.
fn finish(name: &'static str, template: &impl Template) -> Result<String, RenderError> {
    let mut text = template
        .render()
        .map_err(|_| RenderError { template: name })?;
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(text)
}
