//! A running member: opens the rooms, starts the threads, stops them in order.
//!
//! | thread          | owns                                       | asks            |
//! |-----------------|--------------------------------------------|-----------------|
//! | `raft_thread`   | consensus, the write-ahead log             | `apply_thread`  |
//! | `apply_thread`  | the state machine, what readers may see    | both others     |
//! | `commit_thread` | the database file's writing side           | `apply_thread`  |
//! | `watch`         | whom to tell what                          | nobody          |
//! | tokio's         | one connection or call each, nothing shared| all             |

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use consensus::{ConfState, Node as Consensus, NodeId};
use state_machine::MemberId;
use storage::disk::Disk;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::api::{Limits, Member};
use crate::apply_thread::{self, ApplyThread, Beginning, Doors, Pace};
use crate::auth::Tokens;
use crate::commit_thread::CommitThread;
use crate::config::{Config, KeepFiles, Quota};
use crate::data_dir::{self, Opened, Paths, StartError};
use crate::doubtful::Doubtful;
use crate::identity::Identity;
use crate::lessor::{Lessor, LessorPace};
use crate::linearizable::Reads;
use crate::metrics::Metrics;
use crate::peer::{self, Asker, PeerClient, Transport};
use crate::peer_doors::PeerDoors;
use crate::raft_thread::{self, LogFiles, RaftThread};
use crate::requests::{QUEUE_LENGTH_MAX, Requests, first_request_id};
use crate::views::{ConsensusState, State, Views};
use crate::watch::Watches;
use crate::{clock, random};

/// Beside two election timeouts, how long a request may take; etcd's value.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a thread, and so the member, ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The disk, or what it holds.
    #[error(transparent)]
    Storage(#[from] storage::Fault),
    /// The state that the log leads to.
    #[error(transparent)]
    State(#[from] state_machine::Fault),
    /// The cluster has removed this member.
    #[error(
        "the member has been permanently removed from the cluster; remove its data directory before \
         it joins again"
    )]
    Removed,
    /// A mistake of ours.
    #[error("{thread} broke an invariant and panicked; the lines above say where")]
    Panic {
        /// The thread's name.
        thread: &'static str,
    },
}

/// A member whose threads run.
pub struct Node {
    member: Arc<Member>,
    raft: SyncSender<raft_thread::Input>,
    apply: Sender<apply_thread::Input>,
    threads: Vec<JoinHandle<()>>,
    failures: UnboundedReceiver<Failure>,
    new: bool,
}

impl Node {
    /// Opens the data directory and starts the threads.
    pub fn start(
        config: &Config,
        disk: &Arc<dyn Disk>,
        metrics: Arc<Metrics>,
    ) -> Result<Node, StartError> {
        let ask = Asker::new(config.peer_tls.clone())
            .map_err(|source| StartError::Setting(format!("cannot ask other members: {source}")))?;
        let opened = data_dir::open(config, disk, &ask)?;
        let Opened {
            identity,
            store,
            mut machine,
            log,
            initial,
            remotes,
            new,
        } = opened;

        // 1. The cores.
        let snapshot_index = initial.snapshot.index.0;
        let applied = consensus::Index(machine.applied().index);
        let (consensus, configuration) =
            start_consensus(config, &identity, initial, applied, &store)?;
        let views = Arc::new(Views::new(State::of(&mut machine)));
        let state = Arc::new(ConsensusState::default());

        // 2. The doors between the threads.
        let (raft, raft_inbox) = sync_channel(QUEUE_LENGTH_MAX);
        let (apply, apply_inbox) = channel();
        let (jobs, jobs_inbox) = sync_channel(1);
        let (outcomes, outcomes_inbox) = channel();
        let (failure, failures) = unbounded_channel();
        let started = u64::try_from(clock::since_unix_epoch().as_millis()).unwrap_or_default();
        let limits = limits(config);
        let requests = Arc::new(Requests::new(
            raft.clone(),
            first_request_id(identity.member.0, started),
            REQUEST_TIMEOUT + 2 * config.election_timeout,
            limits.request_bytes,
        ));

        let pace = LessorPace {
            election_timeout: config.election_timeout,
            retry: requests.timeout(),
            checkpoints: config.lease_checkpoint,
        };
        let lessor = Arc::new(Lessor::new(machine.leases(), pace, metrics.clone()));

        let tokens = Tokens::new(&config.auth_token);
        let tokens = tokens.map_err(|what| StartError::Setting(format!("--auth-token: {what}")))?;
        let tokens = Arc::new(tokens);
        let watches = Arc::new(Watches::new(machine.view().revision(), metrics.clone()));

        let peer_doors = Arc::new(PeerDoors {
            raft: raft.clone(),
            failure: failure.clone(),
            views: views.clone(),
            member: OnceLock::new(),
        });
        let transport = start_transport(config, identity, disk, &metrics, peer_doors.clone());
        let members = machine.members();
        for other in members.iter().filter(|other| other.id != identity.member) {
            transport.add_peer(NodeId(other.id.0), &other.peer_urls);
        }
        for other in &remotes {
            transport.add_remote(NodeId(other.id.0), &other.peer_urls);
        }

        // 3. The threads.
        let commit_thread = CommitThread {
            store,
            jobs: jobs_inbox,
            outcomes,
            apply: apply.clone(),
            metrics: metrics.clone(),
        };
        let doors = Doors {
            transport: transport.clone(),
            failure: failure.clone(),
            inbox: apply_inbox,
            raft: raft.clone(),
            jobs,
            outcomes: outcomes_inbox,
            requests: requests.clone(),
            views: views.clone(),
            lessor: lessor.clone(),
            watches: watches.clone(),
            tokens: tokens.clone(),
            metrics: metrics.clone(),
        };
        let pace = Pace {
            commit_interval: config.backend_batch_interval,
            commit_operations: config.backend_batch_limit.get(),
            snapshot_count: config.snapshot_count.get(),
            slow_apply: config.warning_apply_duration,
        };
        let beginning = Beginning {
            id: identity.node(),
            machine,
            settings: data_dir::settings(config),
            configuration,
            snapshot_index,
            snapshot_folder: Paths::of(config).snap,
            space_return: config.space_return,
        };
        let apply_thread = ApplyThread::new(beginning, pace, doors);
        let raft_thread = RaftThread {
            node: consensus,
            log,
            files: log_files(config, disk),
            transport: transport.clone(),
            reads: Reads::new(first_request_id(identity.member.0, started)),
            doubtful: Doubtful::default(),
            held: VecDeque::new(),
            inbox: raft_inbox,
            apply: apply.clone(),
            requests: requests.clone(),
            state: state.clone(),
            heartbeat_interval: config.heartbeat_interval,
            metrics: metrics.clone(),
            unwritten: None,
        };
        let threads = vec![
            spawn("raft", &failure, move || Ok(raft_thread.run()?))?,
            spawn("apply", &failure, move || Ok(apply_thread.run()?))?,
            spawn("commit", &failure, move || {
                commit_thread.run();
                Ok(())
            })?,
            spawn("watch", &failure, {
                let watches = watches.clone();
                move || {
                    watches.run();
                    Ok(())
                }
            })?,
        ];
        let member = Member {
            identity,
            views,
            consensus: state,
            requests,
            transport,
            peer_client: Arc::new(PeerClient::new(
                config.peer_tls.clone(),
                dial_timeout(config),
            )),
            apply: apply.clone(),
            lessor,
            watches,
            tokens,
            limits,
            metrics,
        };
        let member = Arc::new(member);
        let _ = peer_doors.member.set(Arc::downgrade(&member));
        Ok(Node {
            member,
            raft,
            apply,
            threads,
            failures,
            new,
        })
    }

    /// What the services need of it.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// Whether its data directory was made by this start.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Waits until a thread ends by itself.
    pub async fn failure(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Stops the threads: no more proposals, all that is committed applied, all of that durable.
    pub fn stop(self) -> Result<(), Failure> {
        let Node {
            raft,
            apply,
            threads,
            mut failures,
            member,
            ..
        } = self;
        let mut threads = threads.into_iter();
        // The doors of a thread that has failed are closed; its failure is told below.
        let _ = raft.send(raft_thread::Input::Stop);
        for thread in threads.by_ref().take(1) {
            let _ = thread.join();
        }
        let _ = apply.send(apply_thread::Input::Stop);
        member.watches.stop();
        drop((apply, raft));
        for thread in threads {
            let _ = thread.join();
        }
        member.requests.stop();
        match failures.try_recv() {
            Ok(failure) => Err(failure),
            Err(_) => Ok(()),
        }
    }
}

/// Goes on behind what the database holds, with the members that it has recorded; also returns those.
fn start_consensus(
    config: &Config,
    identity: &Identity,
    initial: consensus::Initial,
    applied: consensus::Index,
    store: &storage::Store,
) -> Result<(Consensus, ConfState), StartError> {
    let ticks = config.election_timeout.as_millis() / config.heartbeat_interval.as_millis().max(1);
    let recorded = match applied > initial.snapshot.index {
        true => recorded_members(store)?,
        false => None,
    };
    let options = consensus::Options {
        id: identity.node(),
        election_ticks: usize::try_from(ticks).unwrap_or(10).max(2),
        heartbeat_ticks: 1,
        seed: random::seed(),
        // Without recorded members (etcd before 3.5) they come out of the log: entries that the database
        // holds already pass by without another effect.
        applied: match recorded {
            Some(_) => applied,
            None => initial.snapshot.index,
        },
    };
    let members = recorded.unwrap_or_else(|| initial.snapshot.conf_state.clone());
    let started = match options.applied > initial.snapshot.index {
        true => Consensus::resume(&options, initial, &members),
        false => Consensus::new(&options, initial),
    };
    match started {
        Ok(consensus) => Ok((consensus, members)),
        Err(error) => Err(StartError::Refused {
            path: Paths::of(config).wal,
            what: format!("its log contradicts itself: {error}; restore this member from a backup"),
        }),
    }
}

/// The members at the database's position.
fn recorded_members(store: &storage::Store) -> Result<Option<ConfState>, StartError> {
    let recorded = state_machine::read_configuration(store.committed());
    let recorded = recorded.map_err(|source| StartError::Database {
        path: store.path().to_owned(),
        source,
    })?;
    let ascending = |ids: Vec<MemberId>| {
        let mut ids: Vec<NodeId> = ids.into_iter().map(|id| NodeId(id.0)).collect();
        ids.sort_unstable();
        ids
    };
    Ok(recorded.map(|recorded| ConfState {
        voters: ascending(recorded.voters),
        learners: ascending(recorded.learners),
    }))
}

/// Needs to be called within a runtime, on which the transport's tasks then run.
fn start_transport(
    config: &Config,
    identity: Identity,
    disk: &Arc<dyn Disk>,
    metrics: &Arc<Metrics>,
    doors: Arc<PeerDoors>,
) -> Transport {
    let advertised = config.initial_advertise_peer_urls.iter();
    let settings = peer::Settings {
        id: identity.node(),
        cluster: identity.cluster.0,
        peer_urls: advertised.map(ToString::to_string).collect(),
        tls: config.peer_tls.clone(),
        dial_timeout: dial_timeout(config),
        snapshot_folder: Paths::of(config).snap,
        disk: disk.clone(),
        metrics: metrics.clone(),
    };
    Transport::start(settings, doors, tokio::runtime::Handle::current())
}

/// etcd's value.
fn dial_timeout(config: &Config) -> Duration {
    Duration::from_secs(1) + config.election_timeout
}

fn limits(config: &Config) -> Limits {
    Limits {
        quota: match config.quota {
            Quota::Bytes(bytes) => Some(bytes),
            Quota::Unlimited => None,
        },
        request_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        txn_operations: usize::try_from(config.max_txn_ops).unwrap_or(usize::MAX),
        bcrypt_cost: config.bcrypt_cost,
        strict_reconfiguration: config.strict_reconfig_check,
        election_timeout: config.election_timeout,
        slow_request: config.warning_unary_request_duration,
        progress_interval: config.watch_progress_notify_interval,
    }
}

fn log_files(config: &Config, disk: &Arc<dyn Disk>) -> LogFiles {
    let count = |keep: KeepFiles| match keep {
        KeepFiles::All => 0,
        KeepFiles::Newest(count) => usize::try_from(count.get()).unwrap_or(usize::MAX),
    };
    LogFiles {
        disk: disk.clone(),
        snapshot_folder: Paths::of(config).snap,
        segments_max: count(config.max_wals),
        entries_kept: config.snapshot_catchup_entries,
        snapshots_max: count(config.max_snapshots),
    }
}

/// Starts a thread that reports how it ended, unless that was well.
fn spawn(
    name: &'static str,
    failures: &UnboundedSender<Failure>,
    work: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<JoinHandle<()>, StartError> {
    let failures = failures.clone();
    let run = move || {
        // After a panic nothing of the thread is used again.
        let ended = std::panic::catch_unwind(AssertUnwindSafe(work));
        let failure = match ended {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Panic { thread: name },
        };
        // The receiver is gone only when the member has stopped.
        let _ = failures.send(failure);
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source: io::Error| {
            StartError::Setting(format!("cannot start a thread: {source}"))
        })
}
