//! What a member begins with, for every kind of answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;

use state_machine::Members;

use super::join::{Downgrade, are_near};
use super::*;
use crate::config::Invocation;

/// The outside as a table; what is not in it does not answer.
#[derive(Default)]
pub(crate) struct Fake {
    members: BTreeMap<&'static str, RemoteMembers>,
    versions: BTreeMap<&'static str, &'static str>,
    downgrade: bool,
    addresses: BTreeMap<&'static str, &'static str>,
    srv: BTreeMap<&'static str, Vec<SrvRecord>>,
    asked: RefCell<Vec<String>>,
}

impl Fake {
    /// Nobody answers.
    pub(crate) fn silent() -> Fake {
        Fake::default()
    }

    /// The second of the members of [`config`] runs, knows the first one as 7, and is of this version.
    pub(crate) fn running_cluster() -> Fake {
        Fake {
            members: BTreeMap::from([(URLS[1], running(member(7, &[URLS[0]], "")))]),
            versions: BTreeMap::from([(URLS[1], "3.5.0")]),
            ..Fake::default()
        }
    }

    fn answer<T: Clone>(
        &self,
        table: &BTreeMap<&'static str, T>,
        asked: &str,
    ) -> Result<T, AskError> {
        self.asked.borrow_mut().push(asked.to_owned());
        table.get(asked).cloned().ok_or_else(|| AskError {
            asked: asked.to_owned(),
            what: "no answer".to_owned(),
        })
    }
}

impl Ask for Fake {
    fn members(&self, url: &str, _: Duration) -> Result<RemoteMembers, AskError> {
        self.answer(&self.members, url)
    }

    fn cluster_version(&self, url: &str) -> Result<String, AskError> {
        self.answer(&self.versions, url).map(str::to_owned)
    }

    fn downgrade_enabled(&self, url: &str) -> Result<bool, AskError> {
        self.asked.borrow_mut().push(format!("downgrade {url}"));
        Ok(self.downgrade)
    }

    fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, AskError> {
        let address = match host.parse() {
            Ok(address) => address,
            Err(_) => self
                .answer(&self.addresses, host)?
                .parse()
                .expect("an address"),
        };
        Ok(vec![SocketAddr::new(address, port)])
    }

    fn srv(&self, name: &str) -> Result<Vec<SrvRecord>, AskError> {
        self.answer(&self.srv, name)
    }
}

/// Settings whose list of members is the one of the golden values below.
pub(crate) fn config(more: &[&str]) -> Config {
    let of_three = [
        "--name=n1",
        "--data-dir=/data",
        "--initial-cluster-token=tok1",
        "--initial-advertise-peer-urls=http://127.0.0.1:31001",
        "--initial-cluster=n1=http://127.0.0.1:31001,n2=http://127.0.0.1:31002,n3=http://127.0.0.1:31003",
    ];
    flags(&[&of_three[..], more].concat())
}

fn flags(flags: &[&str]) -> Config {
    let arguments: Vec<OsString> = flags.iter().map(OsString::from).collect();
    match Config::from_process(&arguments, &[]) {
        Ok(Invocation::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn member(id: u64, urls: &[&str], client_url: &str) -> Member {
    Member {
        id: MemberId(id),
        peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        learner: false,
        name: String::new(),
        client_urls: Some(client_url.to_owned())
            .filter(|url| !url.is_empty())
            .into_iter()
            .collect(),
    }
}

const URLS: [&str; 3] = [
    "http://127.0.0.1:31001",
    "http://127.0.0.1:31002",
    "http://127.0.0.1:31003",
];

/// A running cluster of the three members, where `first` is what the first one is.
fn running(first: Member) -> RemoteMembers {
    RemoteMembers {
        cluster: ClusterId(0xabc),
        members: vec![
            member(2, &[URLS[1]], "http://c"),
            first,
            member(3, &[URLS[2]], "http://c"),
        ],
    }
}

/// The first entries that etcd 3.5.30 wrote for the settings of [`config`].
const ENTRIES: [(u64, &str); 3] = [
    (
        6_444_467_272_944_729_417,
        r#"{"id":6444467272944729417,"peerURLs":["http://127.0.0.1:31003"],"name":"n3"}"#,
    ),
    (
        8_665_890_131_966_107_680,
        r#"{"id":8665890131966107680,"peerURLs":["http://127.0.0.1:31001"],"name":"n1"}"#,
    ),
    (
        17_163_953_333_949_424_206,
        r#"{"id":17163953333949424206,"peerURLs":["http://127.0.0.1:31002"],"name":"n2"}"#,
    ),
];

/// [CL-3]
#[test]
fn a_new_cluster_begins_with_the_ids_and_entries_of_etcd() {
    let beginning = begin(&config(&[]), &Fake::default()).unwrap();
    assert_eq!(beginning.identity.member, MemberId(0x7843_6d29_4267_2020));
    assert_eq!(beginning.identity.cluster, ClusterId(0x48e1_7893_9e7c_d4ea));
    assert_eq!(beginning.remotes, []);
    assert_eq!(beginning.entries.len(), 3);
    for (number, (entry, (id, context))) in beginning.entries.iter().zip(ENTRIES).enumerate() {
        assert_eq!(entry.index.0, number as u64 + 1);
        assert_eq!(entry.term.0, 1);
        assert_eq!(entry.kind, EntryKind::ConfigurationChange);
        let change = ConfigurationChange::decode(&entry.data).unwrap();
        assert_eq!(change.kind, ConfigurationChangeKind::AddNode);
        assert_eq!((change.id, change.node_id.0), (0, id));
        assert_eq!(change.context.unwrap(), context);
        assert_eq!(entry.data[..4], [0x08, 0, 0x10, 0], "zeros are written");
    }
}

#[test]
fn the_others_are_asked_whether_this_member_has_begun_before() {
    let own = 0x7843_6d29_4267_2020;
    let with = |first: Member| Fake {
        members: BTreeMap::from([(URLS[2], running(first))]),
        ..Fake::default()
    };
    let served = with(member(own, &[URLS[0]], "http://c"));
    let error = begin(&config(&[]), &served).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "member 78436d2942672020 has already been bootstrapped, and /data does not hold its data"
        ),
        "{error}"
    );
    assert_eq!(*served.asked.borrow(), [URLS[1], URLS[2]]);

    // It never served, or it is not known: it may begin.
    begin(&config(&[]), &with(member(own, &[URLS[0]], ""))).unwrap();
    begin(&config(&[]), &with(member(9, &[URLS[0]], "http://c"))).unwrap();

    // Who is alone asks nobody.
    let fake = Fake::default();
    begin(&flags(&["--name=a"]), &fake).unwrap();
    assert_eq!(fake.asked.borrow().len(), 0);
}

#[test]
fn a_new_member_must_be_in_the_list_under_its_urls_or_their_addresses() {
    let refusal = |arguments: &[&str], ask: &Fake| match begin(&flags(arguments), ask).unwrap_err()
    {
        StartError::Setting(text) => text,
        other => panic!("{other}"),
    };
    let fake = Fake {
        addresses: BTreeMap::from([("a.b", "10.0.0.1"), ("c.d", "10.0.0.2")]),
        ..Fake::default()
    };
    let text = refusal(&["--name=x", "--initial-cluster=a=http://a.b:1"], &fake);
    assert!(text.starts_with("couldn't find local name \"x\""), "{text}");
    let with = |listed: &str, advertised: &str| {
        [
            "--name=x".to_owned(),
            format!("--initial-cluster=x={listed}"),
            format!("--initial-advertise-peer-urls={advertised}"),
        ]
    };
    let arguments = with("http://a.b:1", "http://10.0.0.1:1");
    begin(&flags(&arguments.each_ref().map(String::as_str)), &fake).unwrap();
    for (listed, advertised, expected) in [
        (
            "http://a.b:1",
            "http://c.d:1",
            "--initial-cluster has http://a.b:1 but missing",
        ),
        (
            "http://a.b:1",
            "http://a.b:2",
            "--initial-cluster has http://a.b:1 but missing",
        ),
        (
            "http://a.b:1",
            "https://a.b:1",
            "--initial-cluster has http://a.b:1 but missing",
        ),
        ("http://a.b:1", "http://e.f:1", "e.f: no answer"),
    ] {
        let arguments = with(listed, advertised);
        let text = refusal(&arguments.each_ref().map(String::as_str), &fake);
        assert!(text.contains(expected), "{text}");
    }
}

/// Joins with these answers: of the second member only, as the others are down.
fn join_with(
    remote: RemoteMembers,
    versions: &[(&'static str, &'static str)],
) -> Result<Beginning, String> {
    let fake = Fake {
        members: BTreeMap::from([(URLS[1], remote)]),
        versions: versions.iter().copied().collect(),
        addresses: BTreeMap::from([("one", "127.0.0.1"), ("two", "127.0.0.2")]),
        ..Fake::default()
    };
    join_asking(&fake)
}

fn join_asking(fake: &Fake) -> Result<Beginning, String> {
    match begin(&config(&["--initial-cluster-state=existing"]), fake) {
        Ok(beginning) => Ok(beginning),
        Err(StartError::Cluster(text)) => Err(text),
        Err(other) => panic!("{other}"),
    }
}

const VERSIONS: &[(&str, &str)] = &[(URLS[2], "3.5.0")];

#[test]
fn a_joining_member_takes_its_id_and_the_clusters_from_the_others() {
    for own_url in [URLS[0], "http://one:31001"] {
        let remote = running(member(7, &[own_url], ""));
        let others = [remote.members[0].clone(), remote.members[2].clone()];
        let beginning = join_with(remote, VERSIONS).unwrap();
        assert_eq!(
            beginning.identity,
            Identity {
                cluster: ClusterId(0xabc),
                member: MemberId(7)
            }
        );
        assert_eq!(beginning.entries, []);
        assert_eq!(beginning.remotes, others);
    }
}

#[test]
fn a_joining_member_is_refused_when_the_lists_differ() {
    let check = |remote: RemoteMembers, expected: &str| {
        let text = join_with(remote, VERSIONS).unwrap_err();
        assert!(text.contains(expected), "{text}");
    };
    let mut few = running(member(7, &[URLS[0]], ""));
    few.members.pop();
    check(
        few,
        "error validating peerURLs 2=http://127.0.0.1:31002 7=http://127.0.0.1:31001: member count is \
         unequal",
    );
    check(
        running(member(7, &["http://two:31001"], "")),
        "PeerURLs: no match found for existing member (7, [\"http://two:31001\"]), last resolver error \
         (none)",
    );
    check(
        running(member(7, &["http://three:31001"], "")),
        "last resolver error (three: no answer)",
    );
    check(
        running(member(7, &[URLS[0], "http://two:31001"], "")),
        "no match found for existing member (7,",
    );
    check(
        running(member(7, &["unix:///a:1"], "")),
        "no match found for existing member (7,",
    );
    check(
        RemoteMembers {
            cluster: ClusterId(1),
            members: Vec::new(),
        },
        "failed to get raft cluster member(s) from the given URLs",
    );
    let mut learners = running(member(7, &[URLS[0]], ""));
    learners.members[0].learner = true;
    learners.members[1].learner = true;
    check(learners, "membership: too many learner members in cluster");
    let text = join_asking(&Fake::default()).unwrap_err();
    assert!(
        text.starts_with(
            "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
             given URLs (http://127.0.0.1:31002: no answer; http://127.0.0.1:31003: no answer)"
        ),
        "{text}"
    );
}

#[test]
fn a_joining_member_must_be_near_enough_in_version() {
    let near = |versions: &[&str], downgrade| {
        let versions: Vec<String> = versions.iter().map(|text| (*text).to_owned()).collect();
        are_near(&versions, downgrade)
    };
    for (versions, normally, downgrading) in [
        (&["3.5.0"][..], true, true),
        (&["3.6.0", "3.6.0"], true, true),
        (&["3.0.0"], true, true),
        (&["3.5.0", "not_decided"], true, true),
        (&["3.7.0"], false, true),
        (&["3.8.0"], false, false),
        (&["2.3.0"], false, false),
        (&["3.5.0", "4.0.0"], false, false),
        (&["not_decided"], false, false),
        (&[], false, false),
    ] {
        assert_eq!(near(versions, Downgrade::Off), normally, "{versions:?}");
        assert_eq!(
            near(versions, Downgrade::Enabled),
            downgrading,
            "{versions:?}"
        );
    }

    let remote = || running(member(7, &[URLS[0]], ""));
    let text = join_with(remote(), &[]).unwrap_err();
    assert!(
        text.starts_with("incompatible with current running cluster"),
        "{text}"
    );
    let mut fake = Fake {
        members: BTreeMap::from([(URLS[1], remote())]),
        versions: BTreeMap::from([(URLS[1], "3.7.0")]),
        ..Fake::default()
    };
    join_asking(&fake).unwrap_err();
    fake.downgrade = true;
    join_asking(&fake).unwrap();
    // Who is near enough does not wait for the answer that needs a quorum.
    fake.versions = BTreeMap::from([(URLS[1], "3.6.0")]);
    fake.asked.borrow_mut().clear();
    join_asking(&fake).unwrap();
    let asked = fake.asked.borrow();
    assert!(!asked.iter().any(|asked| asked.starts_with("downgrade")));
}

fn record(host: &str, port: u16) -> SrvRecord {
    SrvRecord {
        priority: 0,
        host: host.to_owned(),
        port,
    }
}

#[test]
fn members_are_found_in_the_name_service() {
    let fake = Fake {
        addresses: BTreeMap::from([
            ("a.x", "10.0.0.1"),
            ("b.x", "10.0.0.2"),
            ("c.x", "10.0.0.3"),
        ]),
        srv: BTreeMap::from([(
            "_etcd-server-ssl-east._tcp.x",
            vec![
                record("c.x", 2380),
                record("a.x", 2380),
                record("b.x", 2380),
            ],
        )]),
        ..Fake::default()
    };
    let arguments = [
        "--name=me",
        "--discovery-srv=x",
        "--discovery-srv-name=east",
        "--initial-advertise-peer-urls=https://10.0.0.2:2380",
    ];
    let beginning = begin(&flags(&arguments), &fake).unwrap();
    let urls = ["https://a.x:2380", "https://b.x:2380", "https://c.x:2380"];
    let ids = urls.map(|url| member_id(&[url.to_owned()], "etcd-cluster"));
    assert_eq!(beginning.identity.member, ids[1]);
    assert_eq!(beginning.identity.cluster, cluster_id(&ids));
    let names: Vec<String> = beginning
        .entries
        .iter()
        .map(|entry| {
            let change = ConfigurationChange::decode(&entry.data).unwrap();
            let member: Member = serde_json::from_slice(&change.context.unwrap()).unwrap();
            format!("{}={}", member.name, member.peer_urls.join(","))
        })
        .collect();
    for expected in [
        "0=https://a.x:2380",
        "me=https://b.x:2380",
        "1=https://c.x:2380",
    ] {
        assert!(names.iter().any(|name| name == expected), "{names:?}");
    }
}

#[test]
fn the_name_service_must_name_this_member_under_its_scheme() {
    let with = |scheme: &str, records: Vec<SrvRecord>| {
        let fake = Fake {
            addresses: BTreeMap::from([("a.x", "10.0.0.1"), ("b.x", "10.0.0.2")]),
            srv: BTreeMap::from([("_etcd-server._tcp.x", records)]),
            ..Fake::default()
        };
        let advertised = format!("--initial-advertise-peer-urls={scheme}://10.0.0.1:1");
        let arguments = ["--name=me", "--discovery-srv=x", &advertised];
        begin(&flags(&arguments), &fake).map_err(|error| error.to_string())
    };
    with("http", vec![record("a.x", 1), record("b.x", 1)]).unwrap();
    let text = with("https", vec![record("a.x", 1)]).unwrap_err();
    assert!(
        text.contains(
            "_etcd-server._tcp.x: http://a.x:1 is this member, which advertises https://"
        ),
        "{text}"
    );
    assert!(
        text.starts_with(
            "error setting up initial cluster: error querying DNS SRV records: \
                          _etcd-server-ssl._tcp.x: "
        ),
        "{text}"
    );
    let text = with("http", vec![record("b.x", 1)]).unwrap_err();
    assert!(
        text.starts_with("couldn't find local name \"me\""),
        "{text}"
    );
    let text = with("http", vec![record("a.x", 1), record("unknown.x", 1)]).unwrap_err();
    assert!(text.contains("unknown.x: no answer"), "{text}");
}

fn change(index: u64, kind: ConfigurationChangeKind, id: u64) -> Entry {
    let change = ConfigurationChange {
        id: 0,
        kind,
        node_id: consensus::NodeId(id),
        context: None,
    };
    Entry {
        kind: EntryKind::ConfigurationChange,
        term: consensus::Term(1),
        index: consensus::Index(index),
        data: change.encode(),
    }
}

/// What member 5 appends when its log begins with these voters and learners at entry 10, goes on with
/// these changes, and is committed up to `commit`.
fn forced(
    (voters, learners): (&[u64], &[u64]),
    changes: &[(ConfigurationChangeKind, u64)],
    commit: u64,
) -> Alone {
    let ids = |ids: &[u64]| ids.iter().copied().map(consensus::NodeId).collect();
    let snapshot = consensus::SnapshotMark {
        index: consensus::Index(10),
        term: consensus::Term(1),
        conf_state: consensus::ConfState {
            voters: ids(voters),
            learners: ids(learners),
        },
    };
    let entries: Vec<Entry> = (11..)
        .zip(changes)
        .map(|(index, (kind, id))| change(index, *kind, *id))
        .collect();
    alone(&Found {
        own: consensus::NodeId(5),
        snapshot: &snapshot,
        hard_state: consensus::HardState {
            term: consensus::Term(4),
            vote: 3,
            commit: consensus::Index(commit),
        },
        applied: consensus::Index(10),
        entries: &entries,
    })
    .unwrap()
}

#[test]
fn a_forced_new_cluster_removes_the_others_and_gives_its_member_a_vote() {
    use ConfigurationChangeKind::{AddLearnerNode, AddNode, RemoveNode, UpdateNode};
    let check =
        |alone: Alone, kept: u64, expected: &[(ConfigurationChangeKind, u64, Option<&str>)]| {
            assert_eq!(alone.kept.0, kept);
            let appended: Vec<_> = alone
                .appended
                .iter()
                .map(|entry| {
                    assert_eq!(entry.term.0, 4);
                    let change = ConfigurationChange::decode(&entry.data).unwrap();
                    assert_eq!(change.id, 0);
                    let context = change
                        .context
                        .map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                    (change.kind, change.node_id.0, context)
                })
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(kind, id, context)| (*kind, *id, context.map(str::to_owned)))
                .collect();
            assert_eq!(appended, expected);
            let indexes: Vec<u64> = alone.appended.iter().map(|entry| entry.index.0).collect();
            let last = kept + expected.len() as u64;
            assert_eq!(indexes, (kept + 1..=last).collect::<Vec<_>>());
            assert_eq!((alone.hard_state.term.0, alone.hard_state.vote), (4, 3));
            assert_eq!(alone.hard_state.commit.0, last);
        };
    // Others are removed in the order of their ids.
    check(
        forced((&[3, 5, 9], &[2]), &[], 10),
        10,
        &[
            (RemoveNode, 2, None),
            (RemoveNode, 3, None),
            (RemoveNode, 9, None),
        ],
    );
    // The log counts up to what is committed; what follows is dropped.
    let changes = [(AddNode, 7), (RemoveNode, 3), (UpdateNode, 8), (AddNode, 1)];
    check(
        forced((&[3, 5], &[]), &changes, 13),
        13,
        &[(RemoveNode, 7, None)],
    );
    // A learner, or one that the log does not know, gets a vote first.
    check(
        forced((&[3], &[5]), &[], 10),
        10,
        &[
            (
                AddNode,
                5,
                Some(r#"{"id":5,"peerURLs":null,"isPromote":true}"#),
            ),
            (RemoveNode, 3, None),
        ],
    );
    check(
        forced((&[3], &[]), &[(AddLearnerNode, 4)], 11),
        11,
        &[
            (
                AddNode,
                5,
                Some(r#"{"id":5,"peerURLs":["http://localhost:2380"]}"#),
            ),
            (RemoveNode, 3, None),
            (RemoveNode, 4, None),
        ],
    );
    // Who is alone already changes nothing, and what is applied counts as committed.
    check(forced((&[5], &[]), &[], 9), 10, &[]);
}

#[test]
fn the_changes_that_force_a_new_cluster_are_ones_that_can_be_applied() {
    let promotion =
        state_machine::member_change(0, 5, br#"{"id":5,"peerURLs":null,"isPromote":true}"#);
    assert_eq!(
        promotion,
        Ok(state_machine::MemberChange::Promote(MemberId(5)))
    );
    let context = br#"{"id":5,"peerURLs":["http://localhost:2380"]}"#;
    let addition = state_machine::member_change(0, 5, context).unwrap();
    assert_eq!(Members::default().check(&addition), Ok(()));
}
