//! What the settings mean.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::{AddressError, ClientUrl, MetricsUrl, PeerUrl};
use super::duration;
use super::file::FILE_BYTES_MAX;
use super::note::Note;
use super::refusal::{Refusal, Source};
use super::typed::{self, Setting, Settings, Typed};
use crate::auth::{BCRYPT_COSTS, JwtOptions, TokenSetting};
use crate::http::{TlsSettings, suite};
use crate::space_return;

/// etcd's quota when none is set.
const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// Above this etcd warns: such a database takes long to copy and to start.
const QUOTA_BYTES_RECOMMENDED_MAX: u64 = 8 << 30;
/// Above this etcd warns: one such request keeps all others waiting.
const REQUEST_BYTES_RECOMMENDED_MAX: u64 = 10 << 20;
/// gRPC frames a message with a 32-bit length, and the receive limit lies 512 KiB above this.
const REQUEST_BYTES_MAX: u64 = i32::MAX as u64 - (512 << 10);
/// Each operation costs memory twice, as request and as answer.
const TXN_OPS_MAX: u64 = 1 << 20;
/// etcd's bound: a longer silence is no election but an outage.
const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
/// A follower that knows fewer heartbeats than this calls elections for nothing.
const ELECTION_PER_HEARTBEAT_MIN: u64 = 5;
/// Log entries between snapshots are kept on disk and replayed at start.
const SNAPSHOT_COUNT_MAX: u64 = 100_000_000;
const SNAPSHOT_COUNT_DEFAULT: u64 = 10_000;
const SNAPSHOT_CATCHUP_ENTRIES_DEFAULT: u64 = 5_000;
const BATCH_INTERVAL_DEFAULT: Duration = Duration::from_millis(100);
/// What is not in the database file yet is replayed from the log at start.
const BATCH_INTERVAL_MAX: Duration = Duration::from_secs(60);
const BATCH_LIMIT_DEFAULT: u64 = 10_000;
/// A gigabyte of pages in one commit: nobody wants more.
const SPACE_RETURN_PAGES_MAX: u64 = 1 << 18;
const BATCH_LIMIT_MAX: u64 = 10_000_000;
const TOKEN_SECONDS_DEFAULT: u64 = 300;
/// A token that lives for a year is a password.
const TOKEN_SECONDS_MAX: u64 = 366 * 24 * 3600;
const JWT_LIFETIME_DEFAULT: Duration = Duration::from_secs(5 * 60);
const BCRYPT_COST_DEFAULT: u64 = 10;
const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(10 * 60);
/// More often would only be noise; etcd's bound.
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A retention beyond ten years of hours is a slip of the finger, and off is written as 0.
const RETENTION_HOURS_MAX: u64 = 10 * 366 * 24;
/// URLs of one kind; more would only slow every connection attempt.
const URLS_MAX: usize = 64;
/// Each learner costs the leader as much as a voter does.
const LEARNERS_MAX: u64 = 1_000;
const COMPACT_HASH_CHECK_INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
/// The name is part of every member list; a longer one is no name.
const NAME_BYTES_MAX: usize = 255;
const DEFAULT_NAME: &str = "default";

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Print this to standard output and end with success: help or versions.
    Print(String),
    /// Run a server.
    Serve(Box<Config>),
}

/// The settings of one server, all checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The member's name, not empty.
    pub name: String,
    /// The folder of the member's data.
    pub data_dir: PathBuf,
    /// The folder of the write-ahead log, if it is not below `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// Where clients are served, never empty.
    pub listen_client_urls: Vec<ClientUrl>,
    /// What clients are told, never empty.
    pub advertise_client_urls: Vec<ClientUrl>,
    /// Where other members are served, never empty.
    pub listen_peer_urls: Vec<PeerUrl>,
    /// What other members are told, never empty.
    pub initial_advertise_peer_urls: Vec<PeerUrl>,
    /// All members of the cluster, as long as there is no data; looked at when the member begins.
    pub initial_cluster: Vec<InitialMember>,
    /// Where they are found instead.
    pub discovery_srv: Option<DiscoverySrv>,
    /// Whether the cluster is to be made or joined, as long as there is no data.
    pub initial_cluster_state: InitialClusterState,
    /// Mixed into the ids of the cluster and its members.
    pub initial_cluster_token: String,
    /// Whether changes of the members that would cost the quorum are refused.
    pub strict_reconfig_check: bool,
    /// Learners that the cluster may have at a time.
    pub max_learners: usize,
    /// Whether all other members are dropped from this one's data.
    pub force_new_cluster: bool,
    /// When members compare what they hold.
    pub corruption_checks: CorruptionChecks,
    /// The size of the database that stops writes.
    pub quota: Quota,
    /// The largest request in bytes.
    pub max_request_bytes: u64,
    /// The most operations in one transaction.
    pub max_txn_ops: u64,
    /// When old revisions go by themselves.
    pub auto_compaction: AutoCompaction,
    /// How https is served; `None` when no listener asks for it.
    pub tls: Option<ListenTls>,
    /// How https between members is served and dialed; `None` when no listener asks for it.
    pub peer_tls: Option<ListenTls>,
    /// Whether a dialing member's certificate may name other addresses than the one it dials from.
    pub peer_skip_client_san_verification: bool,
    /// Origins whose pages may call from a browser; `*` is any.
    pub cors: Vec<String>,
    /// Host names by which plain listeners may be called; `*` is any.
    pub host_whitelist: Vec<String>,
    /// Addresses that serve HTTP alone; if there are any, the client URLs serve gRPC alone.
    pub listen_client_http_urls: Vec<ClientUrl>,
    /// Whether there is a JSON gateway.
    pub enable_grpc_gateway: bool,
    /// Calls at once on one connection.
    pub max_concurrent_streams: u32,
    /// After so much silence a client is asked for life; zero for never.
    pub grpc_keepalive_interval: Duration,
    /// How long it may take to answer.
    pub grpc_keepalive_timeout: Duration,
    /// Applying a request longer than this is logged.
    pub warning_apply_duration: Duration,
    /// Answering a request later than this is logged.
    pub warning_unary_request_duration: Duration,
    /// Whether what leases have left is written down from time to time.
    pub lease_checkpoint: bool,
    /// Whether that outlives a restart in clusters before 3.6, too.
    pub lease_checkpoint_persist: bool,
    /// Which tokens users get.
    pub auth_token: TokenSetting,
    /// The cost of hashing a password.
    pub bcrypt_cost: u32,
    /// How often silent watchers are told how far they are.
    pub watch_progress_notify_interval: Duration,
    /// The time between the leader's heartbeats.
    pub heartbeat_interval: Duration,
    /// A follower's patience.
    pub election_timeout: Duration,
    /// Applied entries between two snapshots of the log.
    pub snapshot_count: NonZeroU64,
    /// Entries that stay in memory behind a raft snapshot, for members that lag.
    pub snapshot_catchup_entries: u64,
    /// How many snapshot files stay.
    pub max_snapshots: KeepFiles,
    /// How many log files stay.
    pub max_wals: KeepFiles,
    /// The longest wait before changes go to the database file.
    pub backend_batch_interval: Duration,
    /// The most changes before they go to the database file.
    pub backend_batch_limit: NonZeroU64,
    /// How the database file gives space back.
    pub space_return: space_return::Pace,
    /// Whether the alarm NOSPACE ends by itself when the database is below its quota again.
    pub nospace_auto_disarm: bool,
    /// What is logged.
    pub log_level: LogLevel,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Further addresses for metrics and health.
    pub listen_metrics_urls: Vec<MetricsUrl>,
    /// To be told through the log as soon as there is one.
    pub notes: Vec<Note>,
}

/// One member of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialMember {
    /// Its name.
    pub name: String,
    /// Where other members reach it, sorted.
    pub peer_urls: Vec<PeerUrl>,
}

/// DNS records `_etcd-server-ssl._tcp.DOMAIN` and `_etcd-server._tcp.DOMAIN` that name all members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoverySrv {
    /// The domain.
    pub domain: String,
    /// Follows `etcd-server-ssl` and `etcd-server`, behind a dash.
    pub suffix: Option<String>,
}

/// When members compare what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CorruptionChecks {
    /// Before this member serves.
    pub at_start: bool,
    /// By the leader, in this interval.
    pub interval: Option<Duration>,
    /// By the leader, the hashes that members kept of compactions, in this interval.
    pub compactions: Option<Duration>,
}

/// Whether the cluster exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialClusterState {
    /// It is made by its first members' start.
    New,
    /// It runs, and this member joins.
    Existing,
}

/// The size of the database that stops writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// This many bytes.
    Bytes(u64),
    /// Only the disk is the limit.
    Unlimited,
}

/// When old revisions go by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Never.
    Off,
    /// What was replaced longer ago than this.
    Periodic(Duration),
    /// What is older than this many revisions.
    Revisions(NonZeroU64),
}

/// How many files of a kind stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepFiles {
    /// All of them.
    All,
    /// The newest of them.
    Newest(NonZeroU64),
}

/// The least severe lines that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For developers.
    Debug,
    /// What happens in the life of a server.
    Info,
    /// What somebody should look at.
    Warn,
    /// What failed. etcd's dpanic, panic and fatal, which we have no lines for, mean this too.
    Error,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, with etcd's keys.
    Json,
    /// Text for people and for the journal.
    Text,
}

impl Config {
    /// What `arguments` (without the program's name) and `environment` ask for. Reads the
    /// configuration file if they name one, and nothing else.
    ///
    /// # Errors
    /// Names the flag, variable or key that cannot be right, its value, and what is allowed.
    pub fn from_process(
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Invocation, Refusal> {
        Config::from_sources(arguments, environment, read_bounded)
    }

    /// [`Config::from_process`] with the file system as an argument.
    pub(super) fn from_sources(
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
        read_file: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Invocation, Refusal> {
        match typed::collect(arguments, environment, read_file)? {
            Typed::Print(text) => Ok(Invocation::Print(text)),
            Typed::Serve(settings) => Ok(Invocation::Serve(Box::new(Config::check(&settings)?))),
        }
    }

    /// The folder of the write-ahead log.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }

    fn check(settings: &Settings) -> Result<Config, Refusal> {
        let mut notes = settings.notes.clone();
        let name = name(settings, &mut notes)?;
        let initial_advertise_peer_urls = urls(
            settings,
            "initial-advertise-peer-urls",
            DEFAULT_PEER_URL,
            PeerUrl::to_advertise,
        )?;
        let (heartbeat_interval, election_timeout) = timeouts(settings)?;
        let gates = gates(settings)?;
        Ok(Config {
            data_dir: data_dir(settings, &name, &mut notes),
            wal_dir: settings
                .get("wal-dir")
                .map(|setting| PathBuf::from(&setting.text)),
            listen_client_urls: urls(
                settings,
                "listen-client-urls",
                DEFAULT_CLIENT_URL,
                ClientUrl::to_listen,
            )?,
            advertise_client_urls: advertise_client_urls(settings)?,
            listen_peer_urls: urls(
                settings,
                "listen-peer-urls",
                DEFAULT_PEER_URL,
                PeerUrl::to_listen,
            )?,
            initial_cluster: initial_cluster(settings, &name, &initial_advertise_peer_urls)?,
            discovery_srv: discovery_srv(settings)?,
            initial_advertise_peer_urls,
            initial_cluster_state: initial_cluster_state(settings)?,
            initial_cluster_token: settings
                .get("initial-cluster-token")
                .map_or_else(|| "etcd-cluster".to_owned(), |setting| setting.text.clone()),
            strict_reconfig_check: boolean(settings, "strict-reconfig-check", true)?,
            max_learners: max_learners(settings)?,
            force_new_cluster: boolean(settings, "force-new-cluster", false)?,
            corruption_checks: corruption_checks(settings, &gates)?,
            quota: quota(settings, &mut notes)?,
            max_request_bytes: max_request_bytes(settings, &mut notes)?,
            max_txn_ops: number(settings, "max-txn-ops", 128, 1, TXN_OPS_MAX)?,
            auto_compaction: auto_compaction(settings)?,
            tls: tls(settings, &mut notes)?,
            peer_tls: peer_tls(settings, &mut notes)?,
            peer_skip_client_san_verification: boolean(
                settings,
                "peer-skip-client-san-verification",
                false,
            )?,
            cors: list(settings, "cors"),
            host_whitelist: list(settings, "host-whitelist"),
            listen_client_http_urls: match settings.get("listen-client-http-urls") {
                Some(setting) => urls_of(setting, "listen-client-http-urls", ClientUrl::to_listen)?,
                None => Vec::new(),
            },
            enable_grpc_gateway: boolean(settings, "enable-grpc-gateway", true)?,
            max_concurrent_streams: u32::try_from(number(
                settings,
                "max-concurrent-streams",
                u64::from(u32::MAX),
                1,
                u64::from(u32::MAX),
            )?)
            .expect("checked"),
            grpc_keepalive_interval: time(
                settings,
                "grpc-keepalive-interval",
                Duration::from_secs(2 * 60 * 60),
            )?,
            grpc_keepalive_timeout: time(
                settings,
                "grpc-keepalive-timeout",
                Duration::from_secs(20),
            )?,
            warning_apply_duration: time(
                settings,
                "warning-apply-duration",
                Duration::from_millis(100),
            )?,
            warning_unary_request_duration: time(
                settings,
                "warning-unary-request-duration",
                Duration::from_millis(300),
            )?,
            lease_checkpoint: gates.lease_checkpoint,
            lease_checkpoint_persist: gates.lease_checkpoint_persist,
            auth_token: auth_token(settings, &mut notes)?,
            bcrypt_cost: bcrypt_cost(settings, &mut notes)?,
            watch_progress_notify_interval: progress_interval(settings, &mut notes)?,
            heartbeat_interval,
            election_timeout,
            snapshot_count: or_default(
                number(settings, "snapshot-count", 0, 0, SNAPSHOT_COUNT_MAX)?,
                SNAPSHOT_COUNT_DEFAULT,
            ),
            snapshot_catchup_entries: number(
                settings,
                "snapshot-catchup-entries",
                SNAPSHOT_CATCHUP_ENTRIES_DEFAULT,
                1,
                SNAPSHOT_COUNT_MAX,
            )?,
            max_snapshots: keep_files(settings, "max-snapshots")?,
            max_wals: keep_files(settings, "max-wals")?,
            backend_batch_interval: batch_interval(settings)?,
            backend_batch_limit: or_default(
                number(settings, "backend-batch-limit", 0, 0, BATCH_LIMIT_MAX)?,
                BATCH_LIMIT_DEFAULT,
            ),
            space_return: space_return::Pace {
                enabled: boolean(settings, "space-return", true)?,
                pages: number(
                    settings,
                    "space-return-pages",
                    256,
                    1,
                    SPACE_RETURN_PAGES_MAX,
                )?,
                disk_percent: u32::try_from(number(
                    settings,
                    "space-return-disk-share",
                    20,
                    1,
                    100,
                )?)
                .expect("a percentage"),
            },
            nospace_auto_disarm: boolean(settings, "nospace-auto-disarm", false)?,
            log_level: log_level(settings)?,
            log_format: log_format(settings)?,
            listen_metrics_urls: match settings.get("listen-metrics-urls") {
                Some(setting) => urls_of(setting, "listen-metrics-urls", MetricsUrl::to_listen)?,
                None => Vec::new(),
            },
            name,
            notes,
        })
    }
}

const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
const DEFAULT_PEER_URL: &str = "http://localhost:2380";

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "the file is larger than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

fn refuse(setting: &Setting, name: &str, reason: impl Display) -> Refusal {
    Refusal::of_value(&setting.source, name, &setting.text, reason)
}

fn name(settings: &Settings, notes: &mut Vec<Note>) -> Result<String, Refusal> {
    let Some(setting) = settings.get("name") else {
        notes.push(Note::DefaultName);
        return Ok(DEFAULT_NAME.to_owned());
    };
    let name = &setting.text;
    if name.len() > NAME_BYTES_MAX
        || name.contains(['=', ','])
        || name.chars().any(char::is_control)
    {
        return Err(refuse(
            setting,
            "name",
            format!(
                "expected at most {NAME_BYTES_MAX} bytes without '=', ',' and control characters"
            ),
        ));
    }
    if name == DEFAULT_NAME {
        notes.push(Note::DefaultName);
    }
    Ok(name.clone())
}

fn data_dir(settings: &Settings, name: &str, notes: &mut Vec<Note>) -> PathBuf {
    match settings.get("data-dir") {
        Some(setting) => PathBuf::from(&setting.text),
        None => {
            let path = PathBuf::from(format!("{}.etcd", name.replace('/', "_")));
            notes.push(Note::DefaultDataDir { path: path.clone() });
            path
        }
    }
}

fn urls<U: Clone + Ord>(
    settings: &Settings,
    name: &str,
    default: &str,
    check: impl Fn(&str) -> Result<U, AddressError>,
) -> Result<Vec<U>, Refusal> {
    match settings.get(name) {
        Some(setting) => urls_of(setting, name, check),
        None => Ok(vec![check(default).expect("the default URLs are valid")]),
    }
}

/// The URLs of a comma-separated text, sorted as etcd sorts them.
fn urls_of<U: Ord>(
    setting: &Setting,
    name: &str,
    check: impl Fn(&str) -> Result<U, AddressError>,
) -> Result<Vec<U>, Refusal> {
    let mut urls = Vec::new();
    for text in setting.text.split(',') {
        let url = check(text).map_err(|error| refuse(setting, name, error))?;
        if urls.contains(&url) {
            return Err(refuse(
                setting,
                name,
                format!("{} is listed twice", text.trim()),
            ));
        }
        if urls.len() == URLS_MAX {
            return Err(refuse(
                setting,
                name,
                format!("expected at most {URLS_MAX} URLs"),
            ));
        }
        urls.push(url);
    }
    urls.sort();
    Ok(urls)
}

fn advertise_client_urls(settings: &Settings) -> Result<Vec<ClientUrl>, Refusal> {
    let name = "advertise-client-urls";
    match (settings.get("listen-client-urls"), settings.get(name)) {
        (Some(listen), None) => Err(refuse(
            listen,
            "listen-client-urls",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        )),
        _ => urls(settings, name, DEFAULT_CLIENT_URL, ClientUrl::to_advertise),
    }
}

/// The place in the initial cluster of the member called `name`.
///
/// # Errors
/// Names both settings.
pub fn own_place(name: &str, initial_cluster: &[InitialMember]) -> Result<usize, Refusal> {
    let place = initial_cluster
        .iter()
        .position(|member| member.name == name);
    place.ok_or_else(|| {
        Refusal::new(format!(
            "couldn't find local name {name:?} in the initial cluster configuration; \
             add {name}=URL to --initial-cluster or change --name"
        ))
    })
}

/// Checks that the member called `name` is in the initial cluster, under the URLs that it tells others;
/// returns its place there.
///
/// # Errors
/// Names both settings and what only one of them has.
pub fn check_own_member(
    name: &str,
    advertised: &[PeerUrl],
    initial_cluster: &[InitialMember],
) -> Result<usize, Refusal> {
    let place = own_place(name, initial_cluster)?;
    let own = &initial_cluster[place];
    for url in &own.peer_urls {
        if !advertised.contains(url) {
            return Err(Refusal::new(format!(
                "--initial-cluster has {url} but missing from \
                 --initial-advertise-peer-urls={}",
                join(advertised)
            )));
        }
    }
    for url in advertised {
        if !own.peer_urls.contains(url) {
            return Err(Refusal::new(format!(
                "--initial-advertise-peer-urls has {url} but missing from \
                 --initial-cluster={}={}",
                own.name,
                join(&own.peer_urls)
            )));
        }
    }
    Ok(place)
}

fn initial_cluster(
    settings: &Settings,
    own_name: &str,
    own_urls: &[PeerUrl],
) -> Result<Vec<InitialMember>, Refusal> {
    let Some(setting) = settings.get("initial-cluster") else {
        let own = InitialMember {
            name: own_name.to_owned(),
            peer_urls: own_urls.to_vec(),
        };
        return Ok(vec![own]);
    };
    InitialMember::list(&setting.text).map_err(|reason| refuse(setting, "initial-cluster", reason))
}

fn discovery_srv(settings: &Settings) -> Result<Option<DiscoverySrv>, Refusal> {
    let suffix = settings.get("discovery-srv-name");
    let Some(setting) = settings.get("discovery-srv") else {
        return match suffix {
            None => Ok(None),
            Some(suffix) => Err(refuse(
                suffix,
                "discovery-srv-name",
                "needs --discovery-srv, the domain of the records",
            )),
        };
    };
    if settings.get("initial-cluster").is_some() {
        let reason = "multiple discovery or bootstrap flags are set. Choose one of \
                      \"initial-cluster\" or \"discovery-srv\"";
        return Err(refuse(setting, "discovery-srv", reason));
    }
    let is_name = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        text.len() <= NAME_BYTES_MAX && text.chars().all(allowed)
    };
    for (name, setting) in [
        ("discovery-srv", Some(setting)),
        ("discovery-srv-name", suffix),
    ] {
        if let Some(setting) = setting.filter(|setting| !is_name(&setting.text)) {
            return Err(refuse(setting, name, "expected a part of a DNS name"));
        }
    }
    Ok(Some(DiscoverySrv {
        domain: setting.text.clone(),
        suffix: suffix.map(|suffix| suffix.text.clone()),
    }))
}

fn max_learners(settings: &Settings) -> Result<usize, Refusal> {
    let number = number(settings, "max-learners", 1, 0, LEARNERS_MAX)?;
    Ok(usize::try_from(number).expect("checked"))
}

fn corruption_checks(settings: &Settings, gates: &Gates) -> Result<CorruptionChecks, Refusal> {
    let interval = time(settings, "corrupt-check-time", Duration::ZERO)?;
    let name = "compact-hash-check-time";
    let compactions = time(settings, name, COMPACT_HASH_CHECK_INTERVAL_DEFAULT)?;
    match settings.get(name) {
        Some(setting) if compactions.is_zero() => {
            let reason = "--compact-hash-check-time must be >0 (set to 0s)";
            Err(refuse(setting, name, reason))
        }
        _ => Ok(CorruptionChecks {
            at_start: gates.initial_corrupt_check,
            interval: Some(interval).filter(|interval| !interval.is_zero()),
            compactions: Some(compactions).filter(|_| gates.compact_hash_check),
        }),
    }
}

impl InitialMember {
    /// Reads `NAME=URL,…`; a member with several URLs is named several times.
    ///
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn list(text: &str) -> Result<Vec<InitialMember>, String> {
        let mut members: Vec<InitialMember> = Vec::new();
        let mut seen = BTreeSet::new();
        for part in text.split(',') {
            let Some((name, url)) = part
                .trim()
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
            else {
                return Err(format!("expected NAME=URL, not {part:?}"));
            };
            let url = PeerUrl::to_advertise(url).map_err(|error| error.to_string())?;
            if !seen.insert(url.clone()) {
                return Err(format!("initial cluster {text} has duplicate url"));
            }
            if seen.len() > URLS_MAX {
                return Err(format!("expected at most {URLS_MAX} URLs"));
            }
            match members.iter_mut().find(|member| member.name == name) {
                Some(member) => member.peer_urls.push(url),
                None => members.push(InitialMember {
                    name: name.to_owned(),
                    peer_urls: vec![url],
                }),
            }
        }
        for member in &mut members {
            member.peer_urls.sort();
        }
        Ok(members)
    }
}

fn initial_cluster_state(settings: &Settings) -> Result<InitialClusterState, Refusal> {
    let Some(setting) = settings.get("initial-cluster-state") else {
        return Ok(InitialClusterState::New);
    };
    match setting.text.as_str() {
        "new" => Ok(InitialClusterState::New),
        "existing" => Ok(InitialClusterState::Existing),
        _ => Err(refuse(
            setting,
            "initial-cluster-state",
            "invalid value, expected new or existing",
        )),
    }
}

/// A whole number in Go's notation: decimal, or with the prefix of another base, and with `_`
/// between digits.
fn parse_number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(&digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

fn number(
    settings: &Settings,
    name: &str,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, Refusal> {
    let Some(setting) = settings.get(name) else {
        return Ok(default);
    };
    parse_number(&setting.text)
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| {
            refuse(
                setting,
                name,
                format!("expected a whole number from {min} to {max}"),
            )
        })
}

/// etcd's "zero means the default".
fn or_default(number: u64, default: u64) -> NonZeroU64 {
    NonZeroU64::new(number)
        .or_else(|| NonZeroU64::new(default))
        .expect("the defaults are not zero")
}

fn keep_files(settings: &Settings, name: &str) -> Result<KeepFiles, Refusal> {
    const KEPT_BY_DEFAULT: u64 = 5;
    let number = number(settings, name, KEPT_BY_DEFAULT, 0, u64::from(u32::MAX))?;
    Ok(NonZeroU64::new(number).map_or(KeepFiles::All, KeepFiles::Newest))
}

fn timeouts(settings: &Settings) -> Result<(Duration, Duration), Refusal> {
    let heartbeat = number(settings, "heartbeat-interval", 100, 0, u64::MAX)?;
    let election = number(settings, "election-timeout", 1000, 0, u64::MAX)?;
    let of = |name: &str, value: u64, reason: String| match settings.get(name) {
        Some(setting) => refuse(setting, name, reason),
        None => Refusal::of_value(&Source::Flag, name, &value.to_string(), reason),
    };
    if heartbeat == 0 {
        let reason = "--heartbeat-interval must be >0 (set to 0ms)".to_owned();
        return Err(of("heartbeat-interval", heartbeat, reason));
    }
    if election == 0 {
        let reason = "--election-timeout must be >0 (set to 0ms)".to_owned();
        return Err(of("election-timeout", election, reason));
    }
    if election > ELECTION_TIMEOUT_MS_MAX {
        let reason = format!(
            "--election-timeout[{election}ms] is too long, and should be set less than \
             {ELECTION_TIMEOUT_MS_MAX}ms"
        );
        return Err(of("election-timeout", election, reason));
    }
    if heartbeat.saturating_mul(ELECTION_PER_HEARTBEAT_MIN) > election {
        let reason = format!(
            "--election-timeout[{election}ms] should be at least as \
             {ELECTION_PER_HEARTBEAT_MIN} times as --heartbeat-interval[{heartbeat}ms]"
        );
        let name = match settings.get("election-timeout") {
            Some(_) => "election-timeout",
            None => "heartbeat-interval",
        };
        let value = if name == "election-timeout" {
            election
        } else {
            heartbeat
        };
        return Err(of(name, value, reason));
    }
    Ok((
        Duration::from_millis(heartbeat),
        Duration::from_millis(election),
    ))
}

fn quota(settings: &Settings, notes: &mut Vec<Note>) -> Result<Quota, Refusal> {
    let name = "quota-backend-bytes";
    let Some(setting) = settings.get(name) else {
        return Ok(Quota::Bytes(QUOTA_BYTES_DEFAULT));
    };
    let bytes = parse_number(&setting.text)
        .and_then(|number| i64::try_from(number).ok())
        .ok_or_else(|| {
            refuse(
                setting,
                name,
                "parse error, expected a whole number of bytes; 0 is the default of 2 GiB, \
                 a negative number is no quota",
            )
        })?;
    match u64::try_from(bytes) {
        Err(_) => Ok(Quota::Unlimited),
        Ok(0) => Ok(Quota::Bytes(QUOTA_BYTES_DEFAULT)),
        Ok(bytes) => {
            if bytes > QUOTA_BYTES_RECOMMENDED_MAX {
                let recommended = QUOTA_BYTES_RECOMMENDED_MAX;
                notes.push(Note::QuotaAboveMaximum { bytes, recommended });
            }
            Ok(Quota::Bytes(bytes))
        }
    }
}

fn max_request_bytes(settings: &Settings, notes: &mut Vec<Note>) -> Result<u64, Refusal> {
    let bytes = number(
        settings,
        "max-request-bytes",
        1_572_864,
        1,
        REQUEST_BYTES_MAX,
    )?;
    if bytes > REQUEST_BYTES_RECOMMENDED_MAX {
        let recommended = REQUEST_BYTES_RECOMMENDED_MAX;
        notes.push(Note::RequestLimitAboveRecommended { bytes, recommended });
    }
    Ok(bytes)
}

fn auto_compaction(settings: &Settings) -> Result<AutoCompaction, Refusal> {
    let name = "auto-compaction-retention";
    let mode = settings
        .get("auto-compaction-mode")
        .map_or("periodic", |s| s.text.as_str());
    if !["periodic", "revision"].contains(&mode) {
        let setting = settings
            .get("auto-compaction-mode")
            .expect("the default mode is known");
        return Err(refuse(
            setting,
            "auto-compaction-mode",
            format!("unknown auto-compaction-mode {mode:?}, expected periodic or revision"),
        ));
    }
    let Some(setting) = settings.get(name) else {
        return Ok(AutoCompaction::Off);
    };
    let unparsed = |reason: String| {
        refuse(
            setting,
            name,
            format!("error parsing CompactionRetention: {reason}"),
        )
    };
    let whole = parse_number(&setting.text).and_then(|number| u64::try_from(number).ok());
    if mode == "revision" {
        let revisions = whole
            .filter(|number| i64::try_from(*number).is_ok())
            .ok_or_else(|| unparsed("expected a number of revisions to keep, 0 for off".into()))?;
        return Ok(
            NonZeroU64::new(revisions).map_or(AutoCompaction::Off, AutoCompaction::Revisions)
        );
    }
    let period = match whole {
        Some(hours) if hours <= RETENTION_HOURS_MAX => Duration::from_secs(hours * 3600),
        Some(hours) => {
            return Err(unparsed(format!(
                "{hours} hours; expected at most {RETENTION_HOURS_MAX} hours, or a time such as 30m"
            )));
        }
        None => duration::parse(&setting.text).map_err(unparsed)?,
    };
    Ok(if period.is_zero() {
        AutoCompaction::Off
    } else {
        AutoCompaction::Periodic(period)
    })
}

fn boolean(settings: &Settings, name: &str, default: bool) -> Result<bool, Refusal> {
    match settings.get(name) {
        Some(setting) => typed::boolean(&setting.source, name, &setting.text),
        None => Ok(default),
    }
}

fn time(settings: &Settings, name: &str, default: Duration) -> Result<Duration, Refusal> {
    let Some(setting) = settings.get(name) else {
        return Ok(default);
    };
    duration::parse(&setting.text).map_err(|reason| {
        refuse(
            setting,
            name,
            format!("{reason}; expected a time such as 100ms"),
        )
    })
}

/// A comma-separated list where nothing stands for anything.
fn list(settings: &Settings, name: &str) -> Vec<String> {
    let text = settings
        .get(name)
        .map_or("*", |setting| setting.text.as_str());
    text.split(',').map(|part| part.trim().to_owned()).collect()
}

/// How https is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a program has two of these, for clients and for members"
)]
pub enum ListenTls {
    /// With the operator's certificate.
    Files(TlsSettings),
    /// With one that is made at the first start and holds for so many years.
    SelfSigned(u64),
}

fn tls(settings: &Settings, notes: &mut Vec<Note>) -> Result<Option<ListenTls>, Refusal> {
    let common = common_tls(settings, Some(notes))?;
    let years = self_signed_years(settings)?;
    let uses_https = first_https(
        settings,
        &[
            "listen-client-urls",
            "listen-client-http-urls",
            "listen-metrics-urls",
        ],
    );
    let Some((certificate, key)) = pair(settings, "cert-file", "key-file")? else {
        return match (uses_https, boolean(settings, "auto-tls", false)?) {
            (_, true) => Ok(Some(ListenTls::SelfSigned(years))),
            (None, false) => Ok(None),
            (Some((name, setting)), false) => Err(refuse(
                setting,
                name,
                "https asks for TLS, and there is no certificate: set --cert-file and --key-file, or \
                 --auto-tls",
            )),
        };
    };
    let authorities = path(settings, "trusted-ca-file");
    let client_auth = client_auth(settings, "client-cert-auth", "trusted-ca-file")?;
    if uses_https.is_none() {
        notes.push(certificate_unused(
            settings,
            "listen-client-urls",
            DEFAULT_CLIENT_URL,
        ));
    }
    Ok(Some(ListenTls::Files(TlsSettings {
        certificate,
        key,
        authorities,
        revocations: path(settings, "client-crl-file"),
        client_auth,
        allowed_hostnames: parts(settings, "client-cert-allowed-hostname"),
        ..common
    })))
}

fn peer_tls(settings: &Settings, notes: &mut Vec<Note>) -> Result<Option<ListenTls>, Refusal> {
    let common = common_tls(settings, None)?;
    let years = self_signed_years(settings)?;
    let (common_names, hostnames) = ("peer-cert-allowed-cn", "peer-cert-allowed-hostname");
    let allowed_common_names = parts(settings, common_names);
    let allowed_hostnames = parts(settings, hostnames);
    if let (Some(setting), false) = (settings.get(common_names), allowed_hostnames.is_empty()) {
        let reason = format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive ({allowed_hostnames:?})"
        );
        return Err(refuse(setting, common_names, reason));
    }
    let dialing_pair = pair(settings, "peer-client-cert-file", "peer-client-key-file")?;
    let uses_https = first_https(settings, &["listen-peer-urls"]);
    let authorities = path(settings, "peer-trusted-ca-file");
    let Some((certificate, key)) = pair(settings, "peer-cert-file", "peer-key-file")? else {
        return match (uses_https, boolean(settings, "peer-auto-tls", false)?) {
            (_, true) => Ok(Some(ListenTls::SelfSigned(years))),
            (None, false) => {
                notes.extend(authorities.map(|_| Note::FlagIgnored {
                    name: "--peer-trusted-ca-file".to_owned(),
                }));
                Ok(None)
            }
            (Some((name, setting)), false) => Err(refuse(
                setting,
                name,
                "https asks for TLS, and KeyFile and CertFile are not presented: set --peer-cert-file \
                 and --peer-key-file, or --peer-auto-tls",
            )),
        };
    };
    let client_auth = client_auth(settings, "peer-client-cert-auth", "peer-trusted-ca-file")?;
    if uses_https.is_none() {
        notes.push(certificate_unused(
            settings,
            "listen-peer-urls",
            DEFAULT_PEER_URL,
        ));
    }
    Ok(Some(ListenTls::Files(TlsSettings {
        certificate,
        key,
        // With authorities alone etcd, too, serves nobody without a certificate.
        client_auth: client_auth || authorities.is_some(),
        authorities,
        revocations: path(settings, "peer-crl-file"),
        allowed_hostnames,
        allowed_common_names,
        dialing_pair,
        ..common
    })))
}

/// What holds for clients and members alike: versions and cipher suites of TLS.
fn common_tls(settings: &Settings, notes: Option<&mut Vec<Note>>) -> Result<TlsSettings, Refusal> {
    let version = |name| match settings.get(name) {
        None => Ok(None),
        Some(setting) if setting.text == "TLS1.2" => Ok(Some(2)),
        Some(setting) if setting.text == "TLS1.3" => Ok(Some(3)),
        Some(setting) => Err(refuse(setting, name, "expected TLS1.2 or TLS1.3")),
    };
    let (oldest, newest) = (version("tls-min-version")?, version("tls-max-version")?);
    if let (Some(3), Some(2)) = (oldest, newest) {
        let reason = "min version (TLS1.3) is greater than max version (TLS1.2)".to_owned();
        return Err(Refusal::new(reason));
    }
    let (cipher_suites, unknown) = parts(settings, "cipher-suites")
        .into_iter()
        .partition::<Vec<_>, _>(|name| suite(name).is_some());
    if let Some(notes) = notes {
        notes.extend(
            unknown
                .into_iter()
                .map(|name| Note::CipherSuiteUnknown { name }),
        );
    }
    Ok(TlsSettings {
        cipher_suites,
        only_1_3: oldest == Some(3),
        only_1_2: newest == Some(2),
        ..TlsSettings::default()
    })
}

fn self_signed_years(settings: &Settings) -> Result<u64, Refusal> {
    let name = "self-signed-cert-validity";
    let years = number(settings, name, 1, 0, 100)?;
    match settings.get(name) {
        Some(setting) if years == 0 => {
            let reason = "selfSignedCertValidity is invalid,it should be greater than 0";
            Err(refuse(setting, name, reason))
        }
        _ => Ok(years),
    }
}

/// A certificate and its key: both or none.
fn pair(
    settings: &Settings,
    certificate: &str,
    key: &str,
) -> Result<Option<(PathBuf, PathBuf)>, Refusal> {
    match (path(settings, certificate), path(settings, key)) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        _ => {
            let set = |name| Some((name, settings.get(name)?));
            let (name, setting) = set(certificate).or_else(|| set(key)).expect("one is set");
            let reason = format!(
                "KeyFile and CertFile must both be present; set --{certificate} and --{key}"
            );
            Err(refuse(setting, name, reason))
        }
    }
}

fn client_auth(settings: &Settings, name: &str, authorities: &str) -> Result<bool, Refusal> {
    let on = boolean(settings, name, false)?;
    match settings.get(name) {
        Some(setting) if on && settings.get(authorities).is_none() => {
            let reason = format!("needs --{authorities}, the authorities of those who dial");
            Err(refuse(setting, name, reason))
        }
        _ => Ok(on),
    }
}

fn certificate_unused(settings: &Settings, name: &str, default: &str) -> Note {
    let url = settings.get(name);
    let url = url.map_or(default, |setting| setting.text.as_str());
    Note::CertificateUnused {
        url: url.to_owned(),
    }
}

fn path(settings: &Settings, name: &str) -> Option<PathBuf> {
    let setting = settings.get(name)?;
    Some(PathBuf::from(&setting.text))
}

/// The parts of a comma-separated list that may be empty.
fn parts(settings: &Settings, name: &str) -> Vec<String> {
    let text = settings
        .get(name)
        .map_or("", |setting| setting.text.as_str());
    let parts = text.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The first of these settings of listeners' URLs that asks for TLS.
fn first_https<'s>(
    settings: &'s Settings,
    names: &[&'static str],
) -> Option<(&'static str, &'s Setting)> {
    let mut set = names
        .iter()
        .filter_map(|name| Some((*name, settings.get(name)?)));
    set.find(|(_, setting)| {
        let mut urls = setting.text.split(',');
        urls.any(|url| url.trim().starts_with("https://"))
    })
}

/// The feature gates that change anything here.
#[derive(Default)]
struct Gates {
    compact_hash_check: bool,
    initial_corrupt_check: bool,
    lease_checkpoint: bool,
    lease_checkpoint_persist: bool,
}

/// etcd's feature gates.
const GATES: [&str; 11] = [
    "AllAlpha",
    "AllBeta",
    "CompactHashCheck",
    "FastLeaseKeepAlive",
    "InitialCorruptCheck",
    "LeaseCheckpoint",
    "LeaseCheckpointPersist",
    "PriorityRequest",
    "SetMemberLocalAddr",
    "StopGRPCServiceOnDefrag",
    "TxnModeWriteWithSharedBuffer",
];

fn gates(settings: &Settings) -> Result<Gates, Refusal> {
    let name = "feature-gates";
    let mut gates = Gates::default();
    let Some(setting) = settings.get(name) else {
        return Ok(gates);
    };
    for part in setting
        .text
        .split(',')
        .filter(|part| !part.trim().is_empty())
    {
        let Some((gate, on)) = part.trim().split_once('=') else {
            let reason = format!("missing bool value for {}", part.trim());
            return Err(refuse(setting, name, reason));
        };
        let on = typed::boolean(&setting.source, name, on)
            .map_err(|_| refuse(setting, name, format!("invalid value of {gate}={on}")))?;
        match gate {
            "CompactHashCheck" => gates.compact_hash_check = on,
            "InitialCorruptCheck" => gates.initial_corrupt_check = on,
            "LeaseCheckpoint" => gates.lease_checkpoint = on,
            "LeaseCheckpointPersist" => gates.lease_checkpoint_persist = on,
            known if GATES.contains(&known) => {}
            _ => {
                let reason = format!("unrecognized feature gate: {gate}");
                return Err(refuse(setting, name, reason));
            }
        }
    }
    if gates.lease_checkpoint_persist && !gates.lease_checkpoint {
        let reason = "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
                      LeaseCheckpoint";
        return Err(refuse(setting, name, reason));
    }
    Ok(gates)
}

fn auth_token(settings: &Settings, notes: &mut Vec<Note>) -> Result<TokenSetting, Refusal> {
    let lifetime = number(
        settings,
        "auth-token-ttl",
        TOKEN_SECONDS_DEFAULT,
        1,
        TOKEN_SECONDS_MAX,
    )?;
    let simple = TokenSetting::Simple(Duration::from_secs(lifetime));
    let Some(setting) = settings.get_even_if_empty("auth-token") else {
        return Ok(simple);
    };
    let mut parts = setting.text.split(',');
    match parts.next() {
        Some("") | None => return Ok(TokenSetting::Off),
        Some("simple") => return Ok(simple),
        Some("jwt") => {}
        Some(_) => {
            return Err(refuse(
                setting,
                "auth-token",
                "auth: invalid auth options; expected simple, or jwt with its options",
            ));
        }
    }
    let mut options = JwtOptions {
        method: String::new(),
        public_key: None,
        private_key: None,
        lifetime: JWT_LIFETIME_DEFAULT,
    };
    for part in parts {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match name {
            "sign-method" => options.method = value.to_owned(),
            "pub-key" => options.public_key = Some(PathBuf::from(value)),
            "priv-key" => options.private_key = Some(PathBuf::from(value)),
            "ttl" => {
                let parsed = duration::parse(value).map_err(|reason| {
                    let reason = format!("ttl: {reason}; expected a time such as 10m");
                    refuse(setting, "auth-token", reason)
                })?;
                options.lifetime = parsed;
            }
            _ => notes.push(Note::TokenOptionUnknown {
                name: name.to_owned(),
            }),
        }
    }
    Ok(TokenSetting::Jwt(options))
}

fn bcrypt_cost(settings: &Settings, notes: &mut Vec<Note>) -> Result<u32, Refusal> {
    let cost = number(settings, "bcrypt-cost", BCRYPT_COST_DEFAULT, 0, u64::MAX)?;
    match u32::try_from(cost)
        .ok()
        .filter(|cost| BCRYPT_COSTS.contains(cost))
    {
        Some(cost) => Ok(cost),
        None => {
            notes.push(Note::Adjusted {
                name: "bcrypt-cost",
                typed: cost.to_string(),
                used: BCRYPT_COST_DEFAULT.to_string(),
            });
            Ok(u32::try_from(BCRYPT_COST_DEFAULT).expect("small"))
        }
    }
}

fn progress_interval(settings: &Settings, notes: &mut Vec<Note>) -> Result<Duration, Refusal> {
    let name = "watch-progress-notify-interval";
    let Some(setting) = settings.get(name) else {
        return Ok(PROGRESS_INTERVAL_DEFAULT);
    };
    let interval = duration::parse(&setting.text).map_err(|reason| {
        refuse(
            setting,
            name,
            format!("{reason}; expected a time such as 5s"),
        )
    })?;
    if interval.is_zero() {
        return Ok(PROGRESS_INTERVAL_DEFAULT);
    }
    if interval < PROGRESS_INTERVAL_MIN {
        notes.push(Note::Adjusted {
            name: "watch-progress-notify-interval",
            typed: setting.text.clone(),
            used: format!("{}ms", PROGRESS_INTERVAL_MIN.as_millis()),
        });
    }
    Ok(interval.max(PROGRESS_INTERVAL_MIN))
}

fn batch_interval(settings: &Settings) -> Result<Duration, Refusal> {
    let name = "backend-batch-interval";
    let Some(setting) = settings.get(name) else {
        return Ok(BATCH_INTERVAL_DEFAULT);
    };
    let interval = duration::parse(&setting.text).map_err(|reason| {
        refuse(
            setting,
            name,
            format!("{reason}; expected a time such as 100ms"),
        )
    })?;
    if interval > BATCH_INTERVAL_MAX {
        let max = BATCH_INTERVAL_MAX.as_secs();
        return Err(refuse(setting, name, format!("expected at most {max}s")));
    }
    Ok(if interval.is_zero() {
        BATCH_INTERVAL_DEFAULT
    } else {
        interval
    })
}

fn log_level(settings: &Settings) -> Result<LogLevel, Refusal> {
    let Some(setting) = settings.get("log-level") else {
        return Ok(LogLevel::Info);
    };
    match setting.text.as_str() {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
        text => Err(refuse(
            setting,
            "log-level",
            format!(
                "unrecognized level: {text:?}, expected debug, info, warn, error, dpanic, panic \
                 or fatal"
            ),
        )),
    }
}

fn log_format(settings: &Settings) -> Result<LogFormat, Refusal> {
    let Some(setting) = settings.get("log-format") else {
        return Ok(LogFormat::Json);
    };
    match setting.text.as_str() {
        "json" => Ok(LogFormat::Json),
        "text" | "console" => Ok(LogFormat::Text),
        text => Err(refuse(
            setting,
            "log-format",
            format!("unknown log format: {text}, supported values json, console, text"),
        )),
    }
}

fn join<T: Display>(urls: &[T]) -> String {
    urls.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}
