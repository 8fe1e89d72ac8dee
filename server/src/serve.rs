//! `holdfast serve`: from a configuration to a member that serves, until a signal ends it.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use storage::disk::Disk;
use storage::disk::real::RealDisk;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{Api, Member};
use crate::config::{Config, ETCD_VERSION, HOLDFAST_VERSION, ListenTls};
use crate::data_dir::StartError;
use crate::http::{
    self, ConnectionLimits, ConnectionSlots, Listening, Pages, Policy, Serves, Tls, TlsSettings,
};
use crate::member_pages::MemberPages;
use crate::metrics::Metrics;
use crate::node::{Failure, Node};
use crate::peer;
use crate::service_notify::ServiceNotify;
use crate::{auto_compaction, cluster_version, corruption, lessor, logging, publish, relief};

/// Exit code when the disk has failed, or what it holds is damaged or not for this server: starting
/// again would not help, so a service manager must not do so.
pub const EXIT_STORAGE: u8 = 3;
/// While a start takes longer than systemd would wait, it is asked for more time in such steps.
const START_EXTENSION: Duration = Duration::from_secs(30);

/// Connections of other members, which must not wait for those of clients: a member needs about ten.
const PEER_CONNECTIONS_MAX: usize = 128;
/// How long a member goes on after its removal; etcd's value.
const REMOVED_GOES_ON: Duration = Duration::from_secs(1);

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    /// It never began.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It could not go on.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// Something around it.
    #[error("cannot {action}: {source}")]
    System { action: String, source: io::Error },
    /// The cluster has another member in its place, or none: it is done.
    #[error(transparent)]
    Removed(Failure),
    /// Its data differ from those of others.
    #[error("this member does not serve: {0}")]
    Corrupt(String),
    /// The cluster did not take what this member told it.
    #[error("cannot publish this member: {0}")]
    Publish(String),
}

impl ServeError {
    fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
        let action = action.into();
        move |source| ServeError::System { action, source }
    }

    fn exit_code(&self) -> u8 {
        match self {
            ServeError::Start(StartError::Setting(_)) => crate::config::Refusal::EXIT_CODE,
            ServeError::Start(StartError::Cluster(_)) => 1,
            ServeError::Corrupt(_)
            | ServeError::Start(_)
            | ServeError::Failure(Failure::Storage(_) | Failure::State(_)) => EXIT_STORAGE,
            _ => 1,
        }
    }
}

/// Runs a member until SIGTERM or SIGINT, or until it cannot go on.
pub fn run(config: Config) -> ExitCode {
    if let Err(error) = logging::start(config.log_level, config.log_format) {
        eprintln!("holdfast: {error}");
        return ExitCode::FAILURE;
    }
    for note in &config.notes {
        note.log();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = runtime
        .map_err(ServeError::system("start the runtime"))
        .and_then(|runtime| runtime.block_on(serve(config)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Removed(removed)) => {
            tracing::warn!("{removed}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%error, "the member has stopped");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn serve(config: Config) -> Result<(), ServeError> {
    let notify =
        ServiceNotify::of_process().map_err(ServeError::system("reach the service manager"))?;
    tracing::info!(
        version = HOLDFAST_VERSION, etcd_version = ETCD_VERSION, name = config.name,
        data_dir = %config.data_dir.display(), "starting holdfast"
    );

    // 1. Open the data directory; the threads start.
    notify.status("opening the data directory");
    notify.extend_timeout(START_EXTENSION);
    let metrics = Arc::new(Metrics::new());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (node, config) = tokio::task::spawn_blocking({
        let metrics = metrics.clone();
        move || (Node::start(&config, &disk, metrics), config)
    })
    .await
    .expect("opening does not panic");
    let mut node = node?;
    let identity = node.member().identity();
    metrics.server.set_member_id(identity.member.0);
    metrics.server.quota_backend_bytes.set(
        node.member()
            .limits()
            .quota
            .map_or(-1, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
    );
    tracing::info!(
        member_id = %identity.member, cluster_id = format!("{:x}", identity.cluster.0),
        new = node.is_new(), "opened the data directory"
    );

    // 2. Serve, then say so, until something ends it. Up to here a signal ends the process at once.
    let mut signals = Signals::taken()?;
    let (mut of_clients, mut of_peers) = (Listeners::none(), Listeners::none());
    let member = node.member().clone();
    let ended = {
        let serving = async {
            listen_to_peers(&config, &member, &mut of_peers).await?;
            listen_and_publish(&config, &member, &notify, &mut of_clients).await?;
            Box::pin(go_on(&config, &member, &notify)).await
        };
        tokio::select! {
            ended = serving => ended,
            failure = node.failure() => Err(failed(failure).await),
            signal = signals.next() => {
                tracing::info!(signal, "received a signal; stopping");
                member.hand_over_to_anybody().await;
                Ok(())
            }
        }
    };

    // 3. No new calls, the running ones end, then the connections to other members, then the threads.
    notify.stopping("stopping");
    if ended.is_err() {
        // Nobody is left to answer the running calls; they need not wait to learn it.
        member.requests.stop();
    }
    of_clients.end().await;
    member.transport().stop();
    of_peers.end().await;
    drop(member);
    let stopped = tokio::task::spawn_blocking(|| node.stop())
        .await
        .expect("stopping does not panic");
    ended?;
    stopped?;
    tracing::info!("stopped");
    Ok(())
}

/// Listeners that end together.
struct Listeners {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Listeners {
    fn none() -> Listeners {
        Listeners {
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
        }
    }

    fn until_end(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.stop.subscribe();
        async move {
            // The sender outlives all listeners; if it were gone, stopping would be right too.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    async fn end(&mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

fn slots() -> Result<ConnectionSlots, ServeError> {
    ConnectionSlots::of_process().map_err(|error| ServeError::System {
        action: "serve".to_owned(),
        source: io::Error::other(error),
    })
}

fn connection_limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        streams: config.max_concurrent_streams,
        keepalive_interval: config.grpc_keepalive_interval,
        keepalive_timeout: config.grpc_keepalive_timeout,
    }
}

async fn listen_to_peers(
    config: &Config,
    member: &Member,
    listeners: &mut Listeners,
) -> Result<(), ServeError> {
    let tls = peer_tls(config)?;
    let slots = ConnectionSlots::new(PEER_CONNECTIONS_MAX);
    for url in &config.listen_peer_urls {
        let listening = Listening {
            listener: bind(url.host(), url.port(), url.as_str()).await?,
            tls: tls.clone().filter(|_| url.is_https()),
            slots: slots.clone(),
            limits: connection_limits(config),
        };
        let until_end = listeners.until_end();
        let transport = member.transport().clone();
        listeners
            .tasks
            .spawn(peer::serve(listening, transport, until_end));
        tracing::info!(address = url.as_str(), "serving peer traffic");
    }
    Ok(())
}

async fn listen_and_publish(
    config: &Config,
    member: &Arc<Member>,
    notify: &ServiceNotify,
    listeners: &mut Listeners,
) -> Result<(), ServeError> {
    let slots = slots()?;
    let pages: Arc<dyn Pages> = Arc::new(MemberPages {
        member: member.clone(),
    });
    let tls = tls(config)?;
    let listening = async |url: &str, host: &str, port, is_https: bool| {
        Ok::<_, ServeError>(Listening {
            listener: bind(host, port, url).await?,
            tls: tls.clone().filter(|_| is_https),
            slots: slots.clone(),
            limits: connection_limits(config),
        })
    };
    let http_urls = &config.listen_client_http_urls;
    let of_clients = match http_urls.is_empty() {
        true => Serves::All,
        false => Serves::Calls,
    };
    let mut client_listeners = Vec::new();
    for (urls, serves) in [
        (&config.listen_client_urls, of_clients),
        (http_urls, Serves::Pages),
    ] {
        for url in urls {
            let (host, port) = (url.host(), url.port());
            let listening = listening(url.as_str(), host, port, url.is_https()).await?;
            client_listeners.push((listening, serves, url));
        }
    }
    for url in &config.listen_metrics_urls {
        let (host, port) = (url.host(), url.port());
        let listening = listening(url.as_str(), host, port, url.is_https()).await?;
        let until_end = listeners.until_end();
        listeners
            .tasks
            .spawn(http::serve_metrics(listening, pages.clone(), until_end));
        tracing::info!(address = url.as_str(), "serving metrics");
    }

    // Clients are served once the member has a leader and is known to its cluster.
    notify.status("waiting for a leader");
    let mut published = pin!(publish::publish(config, member));
    loop {
        match tokio::time::timeout(START_EXTENSION / 2, &mut published).await {
            Ok(told) => {
                told.map_err(|status| ServeError::Publish(status.message().to_owned()))?;
                break;
            }
            Err(_) => {
                tracing::warn!("no quorum of members answers yet; waiting for them");
                notify.extend_timeout(START_EXTENSION);
            }
        }
    }
    if config.corruption_checks.at_start {
        let compared = corruption::check_at_start(member).await;
        compared.map_err(ServeError::Corrupt)?;
    }
    for (listening, serves, url) in client_listeners {
        let api = Api::new(member.clone());
        let policy = Policy {
            serves,
            origins: config.cors.clone(),
            hosts: config.host_whitelist.clone(),
            gateway: config.enable_grpc_gateway,
        };
        let until_end = listeners.until_end();
        listeners.tasks.spawn(http::serve(
            listening,
            api,
            pages.clone(),
            policy,
            until_end,
        ));
        tracing::info!(address = url.as_str(), "serving client traffic");
    }
    let addresses: Vec<&str> = config
        .listen_client_urls
        .iter()
        .map(|url| url.as_str())
        .collect();
    notify.ready(&format!("serving clients on {}", addresses.join(", ")));
    tracing::info!("ready to serve client requests");
    Ok(())
}

/// What a member that serves does by itself, for ever.
async fn go_on(
    config: &Config,
    member: &Arc<Member>,
    notify: &ServiceNotify,
) -> Result<(), ServeError> {
    let compaction = auto_compaction::run(config.auto_compaction, member.clone());
    let relief = relief::run(config.nospace_auto_disarm, member.clone());
    let corruption = corruption::run(config.corruption_checks, member.clone());
    tokio::select! {
        () = corruption => unreachable!("comparing goes on for ever"),
        () = cluster_version::run(member.clone()) => unreachable!("it goes on for ever"),
        () = relief => unreachable!("it goes on for ever"),
        () = compaction => unreachable!("compaction goes on for ever"),
        () = lessor::run(member.clone()) => unreachable!("leases run out for ever"),
        () = keep_alive(notify, member) => unreachable!("the watchdog goes on for ever"),
    }
}

/// What the failure of a thread means for the member.
async fn failed(failure: Failure) -> ServeError {
    match failure {
        Failure::Removed => {
            // Whoever asked for the removal gets an answer, and the other members learn of it.
            tokio::time::sleep(REMOVED_GOES_ON).await;
            ServeError::Removed(failure)
        }
        other => other.into(),
    }
}

/// The signals that end a member in order.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn taken() -> Result<Signals, ServeError> {
        let take =
            |kind, name: &str| signal(kind).map_err(ServeError::system(format!("wait for {name}")));
        Ok(Signals {
            terminate: take(SignalKind::terminate(), "SIGTERM")?,
            interrupt: take(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    /// Waits for one; returns its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells systemd's watchdog that the member works: all its threads have answered.
async fn keep_alive(notify: &ServiceNotify, member: &Member) {
    let Some(interval) = notify.alive_interval() else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(interval).await;
        if member.answers().await {
            notify.alive();
        }
    }
}

/// TLS for clients as it was set, if it was.
fn tls(config: &Config) -> Result<Option<Arc<Tls>>, ServeError> {
    let urls = config.listen_client_urls.iter();
    let urls = urls.chain(&config.advertise_client_urls);
    let hosts = urls.map(|url| url.host().to_owned()).collect();
    tls_of(config, config.tls.as_ref(), "client", hosts)
}

/// TLS for other members as it was set, if it was.
fn peer_tls(config: &Config) -> Result<Option<Arc<Tls>>, ServeError> {
    let urls = config.listen_peer_urls.iter();
    let urls = urls.chain(&config.initial_advertise_peer_urls);
    let hosts = urls.map(|url| url.host().to_owned()).collect();
    tls_of(config, config.peer_tls.as_ref(), "peer", hosts)
}

fn tls_of(
    config: &Config,
    tls: Option<&ListenTls>,
    folder: &str,
    hosts: Vec<String>,
) -> Result<Option<Arc<Tls>>, ServeError> {
    let settings = match tls {
        None => return Ok(None),
        Some(ListenTls::Files(settings)) => settings.clone(),
        Some(ListenTls::SelfSigned(years)) => {
            let folder = config.data_dir.join("fixtures").join(folder);
            let made = http::self_signed(&folder, hosts, *years);
            let (certificate, key) = made.map_err(ServeError::system(format!(
                "make a certificate in {}",
                folder.display()
            )))?;
            TlsSettings {
                certificate,
                key,
                ..TlsSettings::default()
            }
        }
    };
    let tls = Tls::new(settings);
    Ok(Some(Arc::new(tls.map_err(|error| {
        StartError::Setting(format!("cannot serve TLS: {error}"))
    })?)))
}

async fn bind(host: &str, port: u16, url: &str) -> Result<TcpListener, ServeError> {
    TcpListener::bind((host, port))
        .await
        .map_err(ServeError::system(format!("listen on {url}")))
}
