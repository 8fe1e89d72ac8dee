//! Clusters of real processes, of one product or mixed.

use std::time::Duration;

use proto::etcdserverpb::{HashKvRequest, MemberAddRequest, MemberPromoteRequest};

use crate::client::Client;
use crate::folder::Folder;
use crate::member::{Member, Place, Product, now};
use crate::network::Network;

/// A loaded machine may take this long to elect, to catch up, or to see a change.
const SETTLE_SECONDS_MAX: u64 = 60;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Members that know each other.
#[derive(Debug)]
pub struct Cluster {
    /// In the order in which they were started.
    pub members: Vec<Member>,
    /// Flags that all of them have.
    flags: Vec<String>,
    started: usize,
}

impl Cluster {
    /// Starts a new cluster and waits until every member answers.
    ///
    /// # Panics
    /// If one does not in time.
    pub async fn start(products: &[Product], flags: &[&str]) -> Cluster {
        Cluster::start_in(products, flags, Surroundings::default()).await
    }

    /// Starts a new cluster in other surroundings, and waits until every member answers.
    ///
    /// # Panics
    /// If one does not in time.
    pub async fn start_in(
        products: &[Product],
        flags: &[&str],
        surroundings: Surroundings<'_>,
    ) -> Cluster {
        let folders: Vec<Folder> = products.iter().map(|_| Folder::new()).collect();
        let initial: Vec<String> = folders
            .iter()
            .enumerate()
            .map(|(number, folder)| {
                format!("{}={}", name(number), surroundings.peer_url(folder, number))
            })
            .collect();
        let initial = initial.join(",");
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let start = |(number, (folder, &product)): (usize, (Folder, &Product))| {
            let peer = surroundings.peer_url(&folder, number);
            let own = own_flags(&name(number), &peer, &initial, "new", &flags);
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            let place = surroundings.network.map(|network| Place {
                namespace: network.namespace(number),
                address: network.address(number),
            });
            Member::spawn_at(product, folder, &own, &[], place)
        };
        let members = folders.into_iter().zip(products).enumerate();
        let mut cluster = Cluster {
            members: members.map(start).collect(),
            flags,
            started: products.len(),
        };
        cluster.wait_until_ready().await;
        cluster
    }

    /// Waits until every member answers linearizable reads.
    ///
    /// # Panics
    /// If one does not in time.
    pub async fn wait_until_ready(&mut self) {
        for member in &mut self.members {
            member.wait_until_ready().await;
        }
    }

    /// Starts one more member and waits until it answers. A learner first, it is promoted as soon as it
    /// has what the others have.
    ///
    /// # Panics
    /// If that fails.
    pub async fn join(&mut self, product: Product) {
        let folder = Folder::new();
        let client = self.leader().await.client();
        let request = MemberAddRequest {
            peer_urls: vec![folder.peer_url()],
            is_learner: true,
        };
        let mut cluster = client.cluster.clone();
        let added = retry(async || cluster.clone().member_add(request.clone()).await).await;
        let added = added.into_inner();
        let id = added.member.expect("the new one").id;
        let new_name = name(self.started);
        self.started += 1;
        let listed = added.members.iter().map(|member| {
            let of = if member.id == id {
                &new_name
            } else {
                &member.name
            };
            format!("{of}={}", member.peer_urls[0])
        });
        let initial = listed.collect::<Vec<_>>().join(",");
        let peer = folder.peer_url();
        let own = own_flags(&new_name, &peer, &initial, "existing", &self.flags);
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let mut member = Member::spawn(product, folder, &own);
        let promotion = MemberPromoteRequest { id };
        retry(async || cluster.member_promote(promotion).await).await;
        member.wait_until_ready().await;
        self.members.push(member);
    }

    /// The member that leads.
    ///
    /// # Panics
    /// If none does in time.
    pub async fn leader(&self) -> &Member {
        let place = self.leader_place().await;
        &self.members[place]
    }

    /// The place of the member that leads.
    ///
    /// # Panics
    /// If none does in time.
    pub async fn leader_place(&self) -> usize {
        let deadline = now() + Duration::from_secs(SETTLE_SECONDS_MAX);
        loop {
            for (place, member) in self.members.iter().enumerate() {
                let status = member.client().try_status().await;
                if let Ok(status) = status
                    && status
                        .header
                        .as_ref()
                        .is_some_and(|header| header.member_id == status.leader)
                {
                    return place;
                }
            }
            assert!(now() < deadline, "nobody leads");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until all members have the same history, and returns its hash.
    ///
    /// # Panics
    /// If they differ, or do not agree on a revision in time.
    pub async fn same_hash(&self) -> u32 {
        let deadline = now() + Duration::from_secs(SETTLE_SECONDS_MAX);
        loop {
            let mut hashes = Vec::new();
            for member in &self.members {
                let mut maintenance = member.client().maintenance.clone();
                let answer = maintenance.hash_kv(HashKvRequest { revision: 0 }).await;
                let answer = answer.expect("a hash").into_inner();
                let revision = answer.header.as_ref().expect("a header").revision;
                hashes.push((revision, answer.compact_revision, answer.hash));
            }
            let first = hashes[0];
            if hashes
                .iter()
                .all(|hash| hash.0 == first.0 && hash.1 == first.1)
            {
                assert!(
                    hashes.iter().all(|hash| *hash == first),
                    "the members differ: (revision, compacted, hash) {hashes:?}"
                );
                return first.2;
            }
            assert!(now() < deadline, "the members do not catch up: {hashes:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A client of each member.
    pub fn clients(&self) -> Vec<Client> {
        self.members.iter().map(Member::client).collect()
    }
}

fn name(number: usize) -> String {
    format!("n{}", number + 1)
}

/// Where members live.
#[derive(Debug, Clone, Copy, Default)]
pub struct Surroundings<'n> {
    /// Each on a host of its own, instead of all on the test's.
    pub network: Option<&'n Network>,
    /// With TLS between them, as their flags have it.
    pub https: bool,
}

impl Surroundings<'_> {
    fn peer_url(&self, folder: &Folder, host: usize) -> String {
        let mut url = folder.peer_url();
        if let Some(network) = self.network {
            url = url.replace("127.0.0.1", &network.address(host));
        }
        match self.https {
            true => url.replace("http://", "https://"),
            false => url,
        }
    }
}

fn own_flags(name: &str, peer: &str, initial: &str, state: &str, common: &[String]) -> Vec<String> {
    let own = [
        ("--name", name),
        ("--listen-peer-urls", peer),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", initial),
        ("--initial-cluster-state", state),
    ];
    own.iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .chain(common.iter().cloned())
        .collect()
}

/// Calls until the answer is good.
///
/// # Panics
/// If it is not in time.
pub async fn retry<T>(mut call: impl AsyncFnMut() -> Result<T, tonic::Status>) -> T {
    let deadline = now() + Duration::from_secs(SETTLE_SECONDS_MAX);
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert!(now() < deadline, "still refused: {status}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
