//! Who the other members are, and which way a message takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use consensus::{Envelope, EnvelopeKind, NodeId};
use storage::Committed;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use super::connect::Dialer;
use super::posts::{self, SNAPSHOTS_MAX};
use super::streams::{self, Kind, Outlet};
use super::{Doors, Settings};
use crate::clock;

/// Messages that wait for a post; etcd's value.
const POSTS_WAITING_MAX: usize = 64;
/// Members that may be known before the log tells of them: more than a cluster has.
const REMOTES_MAX: usize = 64;
/// Posts to one member at a time; etcd's value.
const POSTS_AT_ONCE: usize = 4;

/// Carries messages to the other members.
#[derive(Clone)]
pub struct Transport {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) doors: Arc<dyn Doors>,
    pub(super) dialer: Dialer,
    runtime: Handle,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    snapshots: Arc<Semaphore>,
}

/// Another member.
pub(super) struct Peer {
    pub(super) id: NodeId,
    urls: Mutex<Urls>,
    /// What it has dialed for entries.
    pub(super) appends: Outlet,
    /// What it has dialed for all else.
    pub(super) messages: Outlet,
    posts: mpsc::Sender<Envelope>,
    /// Since when messages of it arrive.
    active_since: Mutex<Option<Instant>>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Not a member yet, as far as is known here: it is sent to, but not dialed for its messages.
    is_remote: bool,
}

struct Urls {
    all: Vec<String>,
    picked: usize,
}

impl Transport {
    /// Begins without other members; its tasks run on `runtime`.
    pub fn start(settings: Settings, doors: Arc<dyn Doors>, runtime: Handle) -> Transport {
        let dialer = Dialer::new(settings.tls.clone(), settings.dial_timeout);
        Transport {
            shared: Arc::new(Shared {
                settings,
                doors,
                dialer,
                runtime,
                peers: Mutex::default(),
                snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            }),
        }
    }

    /// Sends messages, each by the way that suits it; of answers to entries only the last one to each
    /// member, which says all that those before say. Never waits: what finds no room is lost, and
    /// reported.
    pub fn send(&self, envelopes: Vec<Envelope>) {
        let last_answers: HashMap<NodeId, usize> = envelopes
            .iter()
            .enumerate()
            .filter(|(_, envelope)| envelope.kind() == EnvelopeKind::AppendResponse)
            .map(|(place, envelope)| (envelope.to(), place))
            .collect();
        let peers = self.shared.peers();
        for (place, envelope) in envelopes.into_iter().enumerate() {
            let is_answer = envelope.kind() == EnvelopeKind::AppendResponse;
            if is_answer && last_answers.get(&envelope.to()) != Some(&place) {
                continue;
            }
            // Who is no member any more needs nothing.
            if let Some(peer) = peers.get(&envelope.to())
                && !peer.send(envelope)
            {
                self.shared.settings.metrics.peers.lost(peer.id);
                self.shared.doors.unreachable(peer.id);
            }
        }
    }

    /// Sends a snapshot: the message, and the database that it is about.
    pub fn send_snapshot(&self, envelope: Envelope, database: Committed) {
        let peer = self.shared.peers().get(&envelope.to()).cloned();
        let Some(peer) = peer else {
            return;
        };
        let shared = self.shared.clone();
        self.shared
            .runtime
            .spawn(posts::send_snapshot(shared, peer, envelope, database));
    }

    /// There is another member.
    pub fn add_peer(&self, id: NodeId, peer_urls: &[String]) {
        let mut peers = self.shared.peers();
        if peers.get(&id).is_some_and(|peer| !peer.is_remote) {
            return;
        }
        let peer = self.shared.peer(id, peer_urls, false);
        peer.run(
            &self.shared,
            streams::read(self.shared.clone(), peer.clone(), Kind::Appends),
        );
        peer.run(
            &self.shared,
            streams::read(self.shared.clone(), peer.clone(), Kind::Messages),
        );
        peer.run(
            &self.shared,
            posts::probe(self.shared.clone(), peer.clone()),
        );
        if let Some(remote) = peers.insert(id, peer) {
            remote.end();
        }
        tracing::info!(peer = %id, ?peer_urls, "added a peer");
    }

    /// There is a member of which the log has not told yet.
    pub fn add_remote(&self, id: NodeId, peer_urls: &[String]) {
        let mut peers = self.shared.peers();
        let remotes = peers.values().filter(|peer| peer.is_remote).count();
        if id == self.shared.settings.id || peers.contains_key(&id) || remotes >= REMOTES_MAX {
            return;
        }
        peers.insert(id, self.shared.peer(id, peer_urls, true));
    }

    /// A member is reached elsewhere.
    pub fn update_peer(&self, id: NodeId, peer_urls: &[String]) {
        if let Some(peer) = self.shared.peers().get(&id) {
            *peer.urls() = Urls {
                all: peer_urls.to_vec(),
                picked: 0,
            };
            tracing::info!(peer = %id, ?peer_urls, "updated the URLs of a peer");
        }
    }

    /// A member is none any more.
    pub fn remove_peer(&self, id: NodeId) {
        let mut peers = self.shared.peers();
        if let Some(peer) = peers.remove(&id) {
            drop(peers);
            peer.end();
            tracing::info!(peer = %id, "removed a peer");
        }
    }

    /// For how long a member's messages have been arriving without a break.
    pub fn active_for(&self, id: NodeId) -> Option<Duration> {
        let peers = self.shared.peers();
        let since = *peers.get(&id)?.active_since();
        since.map(|since| clock::monotonic() - since)
    }

    /// Ends all connections.
    pub fn stop(&self) {
        for (_, peer) in self.shared.peers().drain() {
            peer.end();
        }
    }
}

impl Shared {
    /// Permits to send snapshots.
    pub(super) fn snapshots(&self) -> Arc<Semaphore> {
        self.snapshots.clone()
    }

    /// The other member of this id.
    pub(super) fn find(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers().get(&id).cloned()
    }

    fn peer(self: &Arc<Shared>, id: NodeId, urls: &[String], is_remote: bool) -> Arc<Peer> {
        let (posts, waiting) = mpsc::channel(POSTS_WAITING_MAX);
        let peer = Arc::new(Peer {
            id,
            urls: Mutex::new(Urls {
                all: urls.to_vec(),
                picked: 0,
            }),
            appends: Outlet::default(),
            messages: Outlet::default(),
            posts,
            active_since: Mutex::new(None),
            tasks: Mutex::default(),
            is_remote,
        });
        let waiting = Arc::new(tokio::sync::Mutex::new(waiting));
        for _ in 0..POSTS_AT_ONCE {
            peer.run(
                self,
                posts::post(self.clone(), peer.clone(), waiting.clone()),
            );
        }
        peer
    }

    /// Takes note that messages of a peer arrive, or have stopped to.
    pub(super) fn set_active(&self, peer: &Peer, is_active: bool, why: &str) {
        let mut since = peer.active_since();
        if since.is_some() == is_active {
            return;
        }
        *since = is_active.then(clock::monotonic);
        drop(since);
        if is_active {
            tracing::info!(peer = %peer.id, "peer became active");
        } else {
            tracing::warn!(peer = %peer.id, why, "peer became inactive");
        }
        self.settings
            .metrics
            .peers
            .set_active(self.settings.id, peer.id, is_active);
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, Arc<Peer>>> {
        // Whole between any two calls.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Puts a message on its way; false if it is lost.
    fn send(&self, envelope: Envelope) -> bool {
        let appends = self.appends.sender().filter(|_| envelope.is_append());
        let way = appends.or_else(|| self.messages.sender());
        way.as_ref()
            .unwrap_or(&self.posts)
            .try_send(envelope)
            .is_ok()
    }

    /// Whether it is not a member yet, as far as is known here.
    pub(super) fn is_remote(&self) -> bool {
        self.is_remote
    }

    /// Where it is tried next.
    pub(super) fn url(&self) -> Option<String> {
        let urls = self.urls();
        urls.all.get(urls.picked).cloned()
    }

    /// It was not reached at `url`: the next one is tried.
    pub(super) fn failed_at(&self, url: &str) {
        let mut urls = self.urls();
        if urls
            .all
            .get(urls.picked)
            .is_some_and(|picked| picked == url)
        {
            urls.picked = (urls.picked + 1) % urls.all.len();
        }
    }

    fn run(&self, shared: &Shared, task: impl Future<Output = ()> + Send + 'static) {
        let task = shared.runtime.spawn(task);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task.abort_handle());
    }

    fn end(&self) {
        self.appends.close();
        self.messages.close();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.drain(..) {
            task.abort();
        }
    }

    fn urls(&self) -> MutexGuard<'_, Urls> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn active_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.active_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
