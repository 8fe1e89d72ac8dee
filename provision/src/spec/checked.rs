//! What the declarative file means: every value present, every rule between values held.

use std::ops::Range;

use toml::Spanned;

use super::load::Checking;
use super::nearest::nearest;
use super::typed::{
    CompactionMode, LogFormat, LogLevel, Profile, TypedBackup, TypedCompaction, TypedDefrag,
    TypedLimits, TypedListen, TypedNode, TypedPreflight, TypedResources, TypedSpec, TypedStorage,
    TypedTiming,
};
use super::url::Host;
use super::{
    AbsolutePath, ByteSize, Calendar, CheckId, ClusterToken, HttpUrl, MemberName, TimeSpan,
};
use crate::paths;

/// The format of the declarative file that we read.
const SCHEMA: u64 = 1;
/// Smallest quota that leaves room to work: the server's file alone grows in steps of this size.
const QUOTA_MIN: ByteSize = ByteSize::from_mib(16);
/// The server refuses a longer election timeout.
const ELECTION_MAX: TimeSpan = TimeSpan::from_secs(50);
/// The server refuses an election timeout below this many heartbeats.
const HEARTBEATS_PER_ELECTION: u64 = 5;
/// More addresses than this in one list are a mistake.
const URLS_MAX: usize = 16;
/// Requests beyond this stall the log for everybody.
const REQUEST_MAX: ByteSize = ByteSize::from_mib(64);
/// Below this the server cannot hold its own files and a few clients.
const NOFILE_MIN: u64 = 1024;
/// What Linux allows by default (fs.nr_open is larger).
const NOFILE_MAX: u64 = 1 << 30;
/// Backups kept in one class at most.
const RETENTION_MAX: u32 = 1000;
/// What is kept when the file says nothing.
const RETENTION_DEFAULT: Retention = Retention {
    hourly: 24,
    daily: 7,
    weekly: 4,
};
/// Folders that the units' sandbox hides or empties, or that do not outlive a boot.
const UNFIT_FOLDERS: [&str; 13] = [
    "/home", "/root", "/tmp", "/var/tmp", "/run", "/var/run", "/proc", "/sys", "/dev", "/boot",
    "/etc", "/usr", "/bin",
];

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) profile: Profile,
    pub(crate) name: NodeName,
    pub(crate) data_dir: AbsolutePath,
    /// Absent: below the data folder.
    pub(crate) wal_dir: Option<AbsolutePath>,
    pub(crate) token: ClusterToken,
    pub(crate) listen: Listen,
    pub(crate) quota: ByteSize,
    pub(crate) compaction: Compaction,
    pub(crate) snapshot_count: u64,
    pub(crate) heartbeat: TimeSpan,
    pub(crate) election: TimeSpan,
    pub(crate) request_max: ByteSize,
    pub(crate) operations_per_txn_max: u64,
    pub(crate) log_level: LogLevel,
    pub(crate) log_format: LogFormat,
    pub(crate) defrag: Defrag,
    pub(crate) backup: Backup,
    pub(crate) resources: Resources,
    pub(crate) fsync_p99_warn: TimeSpan,
    pub(crate) fsync_p99_fail: TimeSpan,
    pub(crate) skipped_checks: Vec<SkippedCheck>,
}

/// How the member is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeName {
    /// As the host, when the server starts: one image then serves many hosts.
    HostName,
    /// As the file says.
    Fixed(MemberName),
}

/// Where the server listens, and what it tells others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// At least one.
    pub(crate) client: Vec<HttpUrl>,
    /// At least one.
    pub(crate) peer: Vec<HttpUrl>,
    /// Extra listeners for health and metrics.
    pub(crate) metrics: Vec<HttpUrl>,
    pub(crate) advertise_client: Vec<AdvertisedUrl>,
    pub(crate) advertise_peer: Vec<AdvertisedUrl>,
}

/// An address told to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdvertisedUrl {
    /// The host's own name, as it is when the server starts, and this port.
    HostName { port: u16 },
    /// As given.
    Fixed(HttpUrl),
}

/// Which history the server drops by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compaction {
    Off,
    /// Older than this.
    Periodic(TimeSpan),
    /// All but this many revisions.
    Revisions(u64),
}

/// When and how the database gives space back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Defrag {
    pub(crate) enabled: bool,
    pub(crate) on_calendar: Calendar,
    pub(crate) jitter: TimeSpan,
    pub(crate) min_size: ByteSize,
    /// The share of the file that must be free, 0 to 1.
    pub(crate) min_fragmentation: f64,
    pub(crate) min_free: ByteSize,
    pub(crate) min_interval: TimeSpan,
    /// The longest expected pause that a timer may cause.
    pub(crate) max_pause: TimeSpan,
    pub(crate) timeout: TimeSpan,
}

/// When backups are made, and which are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backup {
    pub(crate) enabled: bool,
    pub(crate) on_calendar: Calendar,
    pub(crate) jitter: TimeSpan,
    pub(crate) dir: AbsolutePath,
    pub(crate) retention: Retention,
    pub(crate) timeout: TimeSpan,
}

/// The newest backup of each of the last so many hours, days and weeks is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) hourly: u32,
    pub(crate) daily: u32,
    pub(crate) weekly: u32,
}

/// What the server's unit may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) nofile: u64,
    pub(crate) memory_low: Option<ByteSize>,
    pub(crate) oom_score_adjust: i64,
    pub(crate) nice: i64,
}

/// A check that the operator has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SkippedCheck {
    pub(crate) id: CheckId,
    pub(crate) reason: String,
}

impl Spec {
    /// The built-in values of a profile.
    pub(crate) fn defaults(profile: Profile) -> Spec {
        super::parse("", Some(profile)).expect("the built-in values hold our own rules")
    }

    /// The folder of the write-ahead log.
    pub(crate) fn wal_path(&self) -> &AbsolutePath {
        self.wal_dir.as_ref().unwrap_or(&self.data_dir)
    }

    /// The client address to use from the same host.
    pub(crate) fn local_client(&self) -> HttpUrl {
        self.listen.client[0].dialled_locally()
    }

    pub(super) fn check(
        typed: &TypedSpec,
        profile: Option<Profile>,
        checking: &mut Checking<'_>,
    ) -> Spec {
        check_schema(typed, checking);
        let profile = profile.or(typed.profile).unwrap_or(Profile::Prod);
        let (data_dir, wal_dir) = check_folders(&typed.node, checking);
        let listen = check_listen(&typed.listen, checking);
        let (quota, compaction, snapshot_count) = check_storage(&typed.storage, checking);
        let (heartbeat, election) = check_timing(&typed.timing, checking);
        let (request_max, operations_per_txn_max) = check_limits(&typed.limits, checking);
        let defrag = check_defrag(&typed.defrag, checking);
        let backup = check_backup(&typed.backup, &data_dir, checking);
        let resources = check_resources(&typed.resources, checking);
        let (fsync_p99_warn, fsync_p99_fail) = check_fsync(&typed.preflight, checking);
        Spec {
            profile,
            name: typed
                .node
                .name
                .clone()
                .map_or(NodeName::HostName, NodeName::Fixed),
            data_dir,
            wal_dir,
            token: typed.cluster.token.clone().unwrap_or_else(default_token),
            listen,
            quota,
            compaction,
            snapshot_count,
            heartbeat,
            election,
            request_max,
            operations_per_txn_max,
            log_level: typed.log.level.unwrap_or(LogLevel::Info),
            log_format: typed.log.format.unwrap_or(LogFormat::Text),
            defrag,
            backup,
            resources,
            fsync_p99_warn,
            fsync_p99_fail,
            skipped_checks: check_skips(&typed.preflight, checking),
        }
    }
}

fn default_token() -> ClusterToken {
    ClusterToken::try_from("holdfast-cluster".to_owned()).expect("a constant name is well formed")
}

fn check_schema(typed: &TypedSpec, checking: &mut Checking<'_>) {
    if let Some(schema) = &typed.schema
        && *schema.get_ref() != SCHEMA
    {
        let message = format!(
            "schema = {} is not known; this version of provision reads schema = {SCHEMA}",
            schema.get_ref()
        );
        checking.refuse(Some(schema.span()), message);
    }
}

fn check_folders(
    node: &TypedNode,
    checking: &mut Checking<'_>,
) -> (AbsolutePath, Option<AbsolutePath>) {
    let data_dir = fit_folder("node.data_dir", node.data_dir.as_ref(), checking)
        .unwrap_or_else(|| AbsolutePath::known(paths::DATA_DIR));
    let wal_dir = fit_folder("node.wal_dir", node.wal_dir.as_ref(), checking);
    if let Some(wal) = &wal_dir
        && (wal.is_within(data_dir.as_str()) || data_dir.is_within(wal.as_str()))
    {
        let message = format!(
            "node.wal_dir {wal} and node.data_dir {data_dir} lie within each other; leave wal_dir out to keep the log with the data"
        );
        checking.refuse(node.wal_dir.as_ref().map(Spanned::span), message);
    }
    (data_dir, wal_dir)
}

fn fit_folder(
    key: &str,
    folder: Option<&Spanned<AbsolutePath>>,
    checking: &mut Checking<'_>,
) -> Option<AbsolutePath> {
    let folder = folder?;
    let path = folder.get_ref();
    if let Some(unfit) = UNFIT_FOLDERS.iter().find(|unfit| path.is_within(unfit)) {
        let message = format!(
            "{key} = \"{path}\" cannot be used: the service's sandbox hides or protects {unfit}; choose a folder such as below /var/lib, /srv or a mounted data disk"
        );
        checking.refuse(Some(folder.span()), message);
    }
    Some(path.clone())
}

fn check_listen(typed: &TypedListen, checking: &mut Checking<'_>) -> Listen {
    let client = listeners("listen.client", typed.client.as_ref(), Some(2379), checking);
    let peer = listeners("listen.peer", typed.peer.as_ref(), Some(2380), checking);
    let metrics = match &typed.metrics {
        Some(given) if given.get_ref().is_empty() => Vec::new(),
        given => listeners("listen.metrics", given.as_ref(), Some(2381), checking),
    };
    let mut seen: Vec<(&HttpUrl, &str)> = Vec::new();
    let lists = [
        (&client, "listen.client", &typed.client),
        (&peer, "listen.peer", &typed.peer),
        (&metrics, "listen.metrics", &typed.metrics),
    ];
    for (urls, key, given) in lists {
        for url in urls {
            if let Some((_, other)) = seen.iter().find(|(known, _)| collide(known, url)) {
                let message = format!("{key} has {url}, whose port {other} uses already");
                checking.refuse(given.as_ref().map(Spanned::span), message);
            }
            seen.push((url, key));
        }
    }
    let advertise_client = advertised(
        "listen.advertise_client",
        typed.advertise_client.as_ref(),
        &client,
        checking,
    );
    let advertise_peer = advertised(
        "listen.advertise_peer",
        typed.advertise_peer.as_ref(),
        &peer,
        checking,
    );
    Listen {
        client,
        peer,
        metrics,
        advertise_client,
        advertise_peer,
    }
}

fn collide(left: &HttpUrl, right: &HttpUrl) -> bool {
    left.port() == right.port()
        && (left.host() == right.host() || left.is_wildcard() || right.is_wildcard())
}

fn listeners(
    key: &str,
    given: Option<&Spanned<Vec<HttpUrl>>>,
    default_port: Option<u16>,
    checking: &mut Checking<'_>,
) -> Vec<HttpUrl> {
    let Some(given) = given else {
        return default_port.map(HttpUrl::on_loopback).into_iter().collect();
    };
    let urls = given.get_ref();
    if urls.is_empty() || urls.len() > URLS_MAX {
        checking.refuse(
            Some(given.span()),
            format!("{key} needs 1 to {URLS_MAX} addresses"),
        );
    }
    for url in urls {
        if let Host::Name(name) = url.host()
            && name != "localhost"
        {
            let message = format!(
                "{key} has {url}: an address to listen on must be an IP address of this host, 0.0.0.0 for all of them, or localhost"
            );
            checking.refuse(Some(given.span()), message);
        }
    }
    if urls.is_empty() {
        // The fault is noted; what follows may count on one address.
        return default_port.map(HttpUrl::on_loopback).into_iter().collect();
    }
    urls.clone()
}

fn advertised(
    key: &str,
    given: Option<&Spanned<Vec<HttpUrl>>>,
    listeners: &[HttpUrl],
    checking: &mut Checking<'_>,
) -> Vec<AdvertisedUrl> {
    let Some(given) = given else {
        return listeners
            .iter()
            .map(|url| match url.is_wildcard() {
                true => AdvertisedUrl::HostName { port: url.port() },
                false => AdvertisedUrl::Fixed(url.clone()),
            })
            .collect();
    };
    let urls = given.get_ref();
    if urls.is_empty() || urls.len() > URLS_MAX {
        checking.refuse(
            Some(given.span()),
            format!("{key} needs 1 to {URLS_MAX} addresses"),
        );
    }
    if let Some(wildcard) = urls.iter().find(|url| url.is_wildcard()) {
        let message = format!(
            "{key} has {wildcard}, which others cannot dial; name an address of this host, or leave {key} out to tell the host's name"
        );
        checking.refuse(Some(given.span()), message);
    }
    urls.iter().cloned().map(AdvertisedUrl::Fixed).collect()
}

fn check_storage(typed: &TypedStorage, checking: &mut Checking<'_>) -> (ByteSize, Compaction, u64) {
    let quota = spanned_or(typed.quota.as_ref(), ByteSize::from_gib(2));
    if quota < QUOTA_MIN {
        let message = format!("storage.quota = \"{quota}\" is too small; at least {QUOTA_MIN}");
        checking.refuse(span_of(typed.quota.as_ref()), message);
    }
    let snapshot_count = spanned_or(typed.snapshot_count.as_ref(), 10_000);
    if snapshot_count == 0 {
        let message = "storage.snapshot_count must be at least 1".to_owned();
        checking.refuse(span_of(typed.snapshot_count.as_ref()), message);
    }
    (
        quota,
        check_compaction(typed.compaction.as_ref(), checking),
        snapshot_count,
    )
}

fn check_compaction(
    typed: Option<&Spanned<TypedCompaction>>,
    checking: &mut Checking<'_>,
) -> Compaction {
    let default = Compaction::Periodic(TimeSpan::from_hours(1));
    let Some(typed) = typed else { return default };
    let span = Some(typed.span());
    let typed = typed.get_ref();
    let mode = typed.mode.unwrap_or(CompactionMode::Periodic);
    let mut refuse = |message: &str| {
        checking.refuse(span.clone(), format!("storage.compaction: {message}"));
        default.clone()
    };
    match (mode, typed.retention, typed.revisions) {
        (CompactionMode::Periodic, retention, None) => {
            let retention = retention.unwrap_or(TimeSpan::from_hours(1));
            if retention.as_millis() == 0 {
                return refuse(
                    "retention must be longer than nothing; to keep all history write mode = \"off\"",
                );
            }
            Compaction::Periodic(retention)
        }
        (CompactionMode::Revision, None, Some(revisions)) if revisions > 0 => {
            Compaction::Revisions(revisions)
        }
        (CompactionMode::Revision, _, _) => {
            refuse("mode = \"revision\" needs revisions = N, at least 1, and takes no retention")
        }
        (CompactionMode::Periodic, _, Some(_)) => {
            refuse("revisions belongs to mode = \"revision\"; mode = \"periodic\" takes retention")
        }
        (CompactionMode::Off, None, None) => Compaction::Off,
        (CompactionMode::Off, _, _) => {
            refuse("mode = \"off\" takes neither retention nor revisions")
        }
    }
}

fn check_timing(typed: &TypedTiming, checking: &mut Checking<'_>) -> (TimeSpan, TimeSpan) {
    let heartbeat = spanned_or(typed.heartbeat.as_ref(), TimeSpan::from_millis(100));
    let election = spanned_or(typed.election.as_ref(), TimeSpan::from_millis(1000));
    if heartbeat.as_millis() == 0 {
        let message = "timing.heartbeat must be at least 1ms".to_owned();
        checking.refuse(span_of(typed.heartbeat.as_ref()), message);
    }
    if election.as_millis()
        < heartbeat
            .as_millis()
            .saturating_mul(HEARTBEATS_PER_ELECTION)
    {
        let message = format!(
            "timing.election = \"{election}\" must be at least {HEARTBEATS_PER_ELECTION} times timing.heartbeat = \"{heartbeat}\""
        );
        let at = span_of(typed.election.as_ref()).or(span_of(typed.heartbeat.as_ref()));
        checking.refuse(at, message);
    }
    if election > ELECTION_MAX {
        let message =
            format!("timing.election = \"{election}\" is too long; at most {ELECTION_MAX}");
        checking.refuse(span_of(typed.election.as_ref()), message);
    }
    (heartbeat, election)
}

fn check_limits(typed: &TypedLimits, checking: &mut Checking<'_>) -> (ByteSize, u64) {
    let request = spanned_or(typed.request.as_ref(), ByteSize::from_bytes(1_572_864));
    if request.bytes() == 0 || request > REQUEST_MAX {
        let message = format!("limits.request = \"{request}\" must be 1B to {REQUEST_MAX}");
        checking.refuse(span_of(typed.request.as_ref()), message);
    }
    let operations = spanned_or(typed.operations_per_txn.as_ref(), 128);
    if operations == 0 {
        let message = "limits.operations_per_txn must be at least 1".to_owned();
        checking.refuse(span_of(typed.operations_per_txn.as_ref()), message);
    }
    (request, operations)
}

fn check_defrag(typed: &TypedDefrag, checking: &mut Checking<'_>) -> Defrag {
    let min_fragmentation = spanned_or(typed.min_fragmentation.as_ref(), 0.45);
    if !(0.0..=1.0).contains(&min_fragmentation) {
        let message = format!("defrag.min_fragmentation = {min_fragmentation} must be 0 to 1");
        checking.refuse(span_of(typed.min_fragmentation.as_ref()), message);
    }
    Defrag {
        enabled: typed.enabled.unwrap_or(true),
        on_calendar: typed
            .on_calendar
            .clone()
            .unwrap_or_else(|| Calendar::known("Sun 03:00")),
        jitter: typed.jitter.unwrap_or(TimeSpan::from_hours(1)),
        min_size: typed.min_size.unwrap_or(ByteSize::from_mib(100)),
        min_fragmentation,
        min_free: typed.min_free.unwrap_or(ByteSize::from_mib(64)),
        min_interval: typed.min_interval.unwrap_or(TimeSpan::from_hours(6 * 24)),
        max_pause: typed.max_pause.unwrap_or(TimeSpan::from_secs(5)),
        timeout: at_least_a_second("defrag.timeout", typed.timeout.as_ref(), 600, checking),
    }
}

fn check_backup(
    typed: &TypedBackup,
    data_dir: &AbsolutePath,
    checking: &mut Checking<'_>,
) -> Backup {
    let dir = fit_folder("backup.dir", typed.dir.as_ref(), checking)
        .unwrap_or_else(|| AbsolutePath::known(paths::BACKUP_DIR));
    if dir.is_within(data_dir.as_str()) || data_dir.is_within(dir.as_str()) {
        let message =
            format!("backup.dir {dir} and node.data_dir {data_dir} lie within each other");
        checking.refuse(typed.dir.as_ref().map(Spanned::span), message);
    }
    let retention = typed
        .retention
        .as_ref()
        .map_or(RETENTION_DEFAULT, |given| Retention {
            hourly: given.get_ref().hourly.unwrap_or(0),
            daily: given.get_ref().daily.unwrap_or(0),
            weekly: given.get_ref().weekly.unwrap_or(0),
        });
    let classes = [retention.hourly, retention.daily, retention.weekly];
    if classes.iter().all(|kept| *kept == 0) || classes.iter().any(|kept| *kept > RETENTION_MAX) {
        let message = format!(
            "backup.retention must keep at least one backup and at most {RETENTION_MAX} of a class"
        );
        checking.refuse(typed.retention.as_ref().map(Spanned::span), message);
    }
    Backup {
        enabled: typed.enabled.unwrap_or(true),
        on_calendar: typed
            .on_calendar
            .clone()
            .unwrap_or_else(|| Calendar::known("*-*-* 02:00")),
        jitter: typed.jitter.unwrap_or(TimeSpan::from_secs(1800)),
        dir,
        retention,
        timeout: at_least_a_second("backup.timeout", typed.timeout.as_ref(), 3600, checking),
    }
}

fn at_least_a_second(
    key: &str,
    given: Option<&Spanned<TimeSpan>>,
    default_seconds: u64,
    checking: &mut Checking<'_>,
) -> TimeSpan {
    let span = spanned_or(given, TimeSpan::from_secs(default_seconds));
    if span < TimeSpan::from_secs(1) {
        checking.refuse(
            span_of(given),
            format!("{key} = \"{span}\" must be at least 1s"),
        );
    }
    span
}

fn check_resources(typed: &TypedResources, checking: &mut Checking<'_>) -> Resources {
    let nofile = spanned_or(typed.nofile.as_ref(), 1 << 20);
    if !(NOFILE_MIN..=NOFILE_MAX).contains(&nofile) {
        let message = format!("resources.nofile = {nofile} must be {NOFILE_MIN} to {NOFILE_MAX}");
        checking.refuse(span_of(typed.nofile.as_ref()), message);
    }
    let oom_score_adjust = spanned_or(typed.oom_score_adjust.as_ref(), -900);
    if !(-1000..=1000).contains(&oom_score_adjust) {
        let message =
            format!("resources.oom_score_adjust = {oom_score_adjust} must be -1000 to 1000");
        checking.refuse(span_of(typed.oom_score_adjust.as_ref()), message);
    }
    let nice = spanned_or(typed.nice.as_ref(), -10);
    if !(-20..=19).contains(&nice) {
        let message = format!("resources.nice = {nice} must be -20 to 19");
        checking.refuse(span_of(typed.nice.as_ref()), message);
    }
    Resources {
        nofile,
        memory_low: typed.memory_low,
        oom_score_adjust,
        nice,
    }
}

fn check_fsync(typed: &TypedPreflight, checking: &mut Checking<'_>) -> (TimeSpan, TimeSpan) {
    let warn = spanned_or(typed.fsync_p99_warn.as_ref(), TimeSpan::from_millis(10));
    let fail = spanned_or(typed.fsync_p99_fail.as_ref(), TimeSpan::from_millis(150));
    if warn > fail {
        let message = format!(
            "preflight.fsync_p99_warn = \"{warn}\" must not be above preflight.fsync_p99_fail = \"{fail}\""
        );
        let at = span_of(typed.fsync_p99_warn.as_ref()).or(span_of(typed.fsync_p99_fail.as_ref()));
        checking.refuse(at, message);
    }
    (warn, fail)
}

fn check_skips(typed: &TypedPreflight, checking: &mut Checking<'_>) -> Vec<SkippedCheck> {
    let mut skips = Vec::new();
    for skip in &typed.skip {
        let name = skip.name.get_ref();
        let reason = skip.reason.get_ref();
        if reason.trim().is_empty() {
            let message = format!("preflight.skip of {name:?} needs a reason; the report shows it");
            checking.refuse(Some(skip.reason.span()), message);
        }
        match CheckId::by_name(name) {
            Some(id) => skips.push(SkippedCheck {
                id,
                reason: reason.clone(),
            }),
            None => {
                let known = CheckId::ALL.map(CheckId::name);
                let hint = match nearest(name, known) {
                    Some(word) => format!("did you mean {word:?}?"),
                    None => format!("known: {}", known.join(", ")),
                };
                let message = format!("preflight.skip names the unknown check {name:?}; {hint}");
                checking.refuse(Some(skip.name.span()), message);
            }
        }
    }
    skips
}

fn span_of<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
    value.map(Spanned::span)
}

fn spanned_or<T: Copy>(value: Option<&Spanned<T>>, default: T) -> T {
    value.map_or(default, |value| *value.get_ref())
}
