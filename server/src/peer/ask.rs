//! What a member that begins asks others: over HTTP, or of the name service.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use state_machine::Member;
use tokio::runtime::Runtime;

use super::{CLUSTER_ID, PeerClient};
use crate::bootstrap::{Ask, AskError, RemoteMembers, SrvRecord};
use crate::config::ListenTls;
use crate::identity::ClusterId;

/// A version is told at once by a member that runs.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);
/// Names of members that are started together may become known while this one begins: etcd's
/// patience, too, in seconds.
const RESOLVE_TRIES: usize = 30;
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);

/// Asks in earnest. Its calls block, so they must not be made on a thread of a runtime.
pub struct Asker {
    tls: Option<ListenTls>,
    runtime: Runtime,
}

impl Asker {
    /// Asks over TLS, where a URL says so, as `tls` has it.
    ///
    /// # Errors
    /// When the machine has no resources for it.
    pub fn new(tls: Option<ListenTls>) -> std::io::Result<Asker> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Asker { tls, runtime })
    }

    fn get(&self, url: &str, path: &str, patience: Duration) -> Result<Answer, AskError> {
        let client = PeerClient::new(self.tls.clone(), patience);
        let asked = self.runtime.block_on(client.get(url, path, patience));
        let failed = |what: String| AskError {
            asked: format!("{url}{path}"),
            what,
        };
        let (head, body) = asked.map_err(failed)?.into_parts();
        if !head.status.is_success() {
            return Err(failed(format!("it answered {}", head.status)));
        }
        let cluster = head.headers.get(CLUSTER_ID);
        let cluster = cluster.and_then(|value| value.to_str().ok());
        Ok(Answer {
            cluster: cluster.map(str::to_owned),
            body,
        })
    }
}

impl Ask for Asker {
    fn members(&self, url: &str, patience: Duration) -> Result<RemoteMembers, AskError> {
        let answer = self.get(url, "/members", patience)?;
        let parsed = (|| {
            let cluster = answer.cluster.as_deref().unwrap_or_default();
            let cluster = u64::from_str_radix(cluster, 16)
                .map_err(|_| format!("its cluster id is {cluster:?}"))?;
            let members: Vec<Member> =
                serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            Ok(RemoteMembers {
                cluster: ClusterId(cluster),
                members,
            })
        })();
        parsed.map_err(|what: String| AskError {
            asked: format!("{url}/members"),
            what,
        })
    }

    fn cluster_version(&self, url: &str) -> Result<String, AskError> {
        #[derive(serde::Deserialize)]
        struct Versions {
            #[serde(default)]
            etcdcluster: String,
        }
        let answer = self.get(url, "/version", VERSION_PATIENCE)?;
        match serde_json::from_slice::<Versions>(&answer.body) {
            Ok(versions) => Ok(versions.etcdcluster),
            Err(error) => Err(AskError {
                asked: format!("{url}/version"),
                what: error.to_string(),
            }),
        }
    }

    fn downgrade_enabled(&self, url: &str) -> Result<bool, AskError> {
        let answer = self.get(url, "/downgrade/enabled", VERSION_PATIENCE)?;
        Ok(answer.body.trim_ascii() == b"true")
    }

    fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, AskError> {
        let resolving = async {
            let mut tries = 0;
            loop {
                tries += 1;
                match tokio::net::lookup_host((host, port)).await {
                    Ok(addresses) => return Ok(addresses.collect()),
                    Err(error) if tries == RESOLVE_TRIES => return Err(error),
                    Err(error) => {
                        tracing::warn!(host, %error, "cannot resolve the name of a member yet");
                        tokio::time::sleep(RESOLVE_PAUSE).await;
                    }
                }
            }
        };
        self.runtime.block_on(resolving).map_err(|error| AskError {
            asked: host.to_owned(),
            what: error.to_string(),
        })
    }

    fn srv(&self, name: &str) -> Result<Vec<SrvRecord>, AskError> {
        let asking = async {
            let resolver = TokioResolver::builder_tokio()?.build()?;
            // The dot at the end keeps search domains out.
            let lookup = resolver.srv_lookup(format!("{name}.")).await?;
            let records = lookup.answers().iter().filter_map(|record| {
                let RData::SRV(srv) = &record.data else {
                    return None;
                };
                let target = srv.target.to_utf8();
                Some(SrvRecord {
                    priority: srv.priority,
                    host: target.trim_end_matches('.').to_owned(),
                    port: srv.port,
                })
            });
            Ok::<_, hickory_resolver::net::NetError>(records.collect())
        };
        self.runtime.block_on(asking).map_err(|error| AskError {
            asked: name.to_owned(),
            what: error.to_string(),
        })
    }
}

struct Answer {
    /// What the header says about the cluster.
    cluster: Option<String>,
    body: Bytes,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Answers one request with `answer`; returns the URL, and the request's first line afterwards.
    fn answering(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1];
                stream.read_exact(&mut piece).unwrap();
                request.push(piece[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            let request = String::from_utf8(request).unwrap();
            request.lines().next().unwrap_or_default().to_owned()
        });
        (url, answering)
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn members_and_versions_are_read_from_what_etcd_answers() {
        let asker = Asker::new(None).unwrap();
        let (url, answering_thread) = answering(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Etcd-Cluster-Id: cdf818194e3a8c32\r\n\
             Connection: close\r\n\r\n\
             [{\"id\":17163953333949424206,\"peerURLs\":[\"http://127.0.0.1:2380\"],\"name\":\"n2\",\
             \"clientURLs\":[\"http://127.0.0.1:2379\"]},{\"id\":7,\"peerURLs\":[\"http://a:1\"],\
             \"isLearner\":true}]\n",
        );
        let remote = asker.members(&url, PATIENCE).unwrap();
        assert_eq!(answering_thread.join().unwrap(), "GET /members HTTP/1.1");
        assert_eq!(remote.cluster, ClusterId(0xcdf8_1819_4e3a_8c32));
        assert_eq!(remote.members[0].id.0, 17_163_953_333_949_424_206);
        assert!(remote.members[1].learner);

        let (url, _) = answering(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\
             {\"etcdserver\":\"3.5.30\",\"etcdcluster\":\"3.5.0\"}\n",
        );
        assert_eq!(asker.cluster_version(&url).unwrap(), "3.5.0");
        let (url, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue");
        assert!(asker.downgrade_enabled(&url).unwrap());
    }

    #[test]
    fn other_answers_are_told_with_what_was_asked() {
        let asker = Asker::new(None).unwrap();
        let check = |answer: &'static str, expected: &str| {
            let (url, _) = answering(answer);
            let error = asker.members(&url, PATIENCE).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{url}/members: ")), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        check("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404");
        check("no HTTP\r\n\r\n", "");
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
            "its cluster id is \"\"",
        );
        check(
            "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-ID: 1\r\nContent-Length: 2\r\n\r\n{}",
            "invalid type",
        );

        // Nobody is there, or nobody says a word.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let error = asker.members(&url, Duration::from_millis(50)).unwrap_err();
        assert!(error.what.starts_with("no answer within"), "{error}");
        drop(silent);
        asker.members(&url, PATIENCE).unwrap_err();
        asker.members("unix://a", PATIENCE).unwrap_err();
        let error = asker.members("https://127.0.0.1:1", PATIENCE).unwrap_err();
        assert!(!error.what.is_empty());
    }

    #[test]
    fn addresses_need_no_name_service() {
        let asker = Asker::new(None).unwrap();
        let found = asker.addresses("127.0.0.1", 80).unwrap();
        assert_eq!(found, ["127.0.0.1:80".parse().unwrap()]);
        let found = asker.addresses("::1", 80).unwrap();
        assert_eq!(found, ["[::1]:80".parse().unwrap()]);
    }
}
