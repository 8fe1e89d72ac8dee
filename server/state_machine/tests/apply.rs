//! Entries of the log, and what they do to the state.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use mvcc::{KeyRange, LeaseId, RangeQuery, Revision};
use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    AlarmRequest, AuthEnableRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseCheckpoint,
    LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RequestHeader, RequestOp, TxnRequest,
};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use state_machine::{
    Answer, Applied, Command, CommandError, LEASE_TTL_MAX, LeaseChange, Member, MemberChange,
    MemberId, PasswordCheck, Position, Refusal, Request, RequestId, Settings, StateMachine,
    TxnAnswer, read_position,
};
use storage::disk::Disk;
use storage::disk::simulated::SimulatedDisk;
use storage::{Store, check};

const SETTINGS: Settings = Settings {
    lease_ttl_min: 2,
    persist_lease_checkpoints: false,
    learners_max: 1,
};

/// A state machine over a database on a simulated disk.
struct Home {
    disk: SimulatedDisk,
    store: Option<Store>,
    machine: StateMachine,
    next: u64,
}

impl Home {
    fn new() -> Home {
        let disk = SimulatedDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let store = Store::create(shared, Path::new("/db")).expect("created");
        let machine = StateMachine::open(store.committed().clone(), SETTINGS).expect("empty");
        Home {
            disk,
            store: Some(store),
            machine,
            next: 1,
        }
    }

    fn apply(&mut self, request: InternalRaftRequest) -> Applied {
        self.apply_as("", 0, request)
    }

    /// Applies what a user asked for at a revision of users and roles.
    fn apply_as(
        &mut self,
        user: &str,
        auth_revision: u64,
        request: InternalRaftRequest,
    ) -> Applied {
        let header = Some(RequestHeader {
            id: 900 + self.next,
            username: user.to_owned(),
            auth_revision,
        });
        let data = InternalRaftRequest { header, ..request }.encode_to_vec();
        let position = Position {
            index: self.next,
            term: 2,
        };
        self.next += 1;
        let applied = self
            .machine
            .apply(position, &data.into())
            .expect("no fault");
        let applied = applied.expect("not applied before");
        assert_eq!(applied.id, RequestId(899 + self.next));
        applied
    }

    fn put(&mut self, key: &str, value: &str) -> Applied {
        self.apply(InternalRaftRequest {
            put: Some(put(key, value)),
            ..Default::default()
        })
    }

    fn txn(&mut self, txn: TxnRequest) -> Result<TxnAnswer, Refusal> {
        match self
            .apply(InternalRaftRequest {
                txn: Some(txn),
                ..Default::default()
            })
            .result
        {
            Ok(Answer::Txn(answer)) => Ok(answer),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal),
        }
    }

    fn commit(&mut self) {
        let batch = self.machine.take_batch();
        let committed = self
            .store
            .as_mut()
            .unwrap()
            .commit(batch)
            .expect("committed");
        check(&committed).expect("sound");
        self.machine
            .store()
            .batch_committed(committed)
            .expect("readable");
    }

    /// Everything that was not committed is forgotten.
    fn reopen(&mut self) {
        drop(self.store.take());
        let shared: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let store = Store::open(shared, Path::new("/db")).expect("opened");
        self.machine = StateMachine::open(store.committed().clone(), SETTINGS).expect("sound");
        self.store = Some(store);
    }

    fn keys(&mut self) -> Vec<(String, String)> {
        let answer = self
            .machine
            .view()
            .range(&RangeQuery::new(KeyRange::All))
            .expect("readable");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        answer
            .pairs
            .iter()
            .map(|pair| (text(pair.key()), text(pair.value())))
            .collect()
    }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        ..Default::default()
    }
}

fn put_op(key: &str, value: &str) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestPut(put(key, value))),
    }
}

fn range_op(key: &str, revision: i64) -> RequestOp {
    let key = Bytes::from(key.to_owned());
    RequestOp {
        request: Some(Op::RequestRange(RangeRequest {
            key,
            revision,
            ..Default::default()
        })),
    }
}

/// A condition: key, range end, target, result, operand.
fn compare(key: &str, end: &str, target: i32, result: i32, union: Option<TargetUnion>) -> Compare {
    Compare {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        target,
        result,
        target_union: union,
    }
}

#[test]
fn entries_of_etcd_3_5_and_3_6_are_read_alike() {
    // What etcd 3.5 logs to publish a member and the cluster version: requests of its old API.
    let attributes = proto::etcdserverpb::Request {
        id: Some(7),
        method: Some("PUT".to_owned()),
        path: Some("/0/members/ab12/attributes".to_owned()),
        val: Some(r#"{"name":"n1","clientURLs":["http://a:2379"]}"#.to_owned()),
        dir: Some(false),
        ..Default::default()
    };
    let old = Command::decode(&attributes.encode_to_vec().into()).expect("readable");
    let new = InternalRaftRequest {
        header: Some(RequestHeader {
            id: 7,
            ..Default::default()
        }),
        cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
            member_id: 0xab12,
            member_attributes: Some(Attributes {
                name: "n1".to_owned(),
                client_urls: vec!["http://a:2379".to_owned()],
            }),
        }),
        ..Default::default()
    };
    assert_eq!(Command::decode(&new.encode_to_vec().into()), Ok(old));
    let version = proto::etcdserverpb::Request {
        id: Some(8),
        method: Some("PUT".to_owned()),
        path: Some("/0/version".to_owned()),
        val: Some("3.5.0".to_owned()),
        ..Default::default()
    };
    let old = Command::decode(&version.encode_to_vec().into()).expect("readable");
    assert_eq!(old.request, Request::SetClusterVersion("3.5.0".to_owned()));
    let new = InternalRaftRequest {
        header: Some(RequestHeader {
            id: 8,
            ..Default::default()
        }),
        cluster_version_set: Some(ClusterVersionSetRequest {
            ver: "3.5.0".to_owned(),
        }),
        ..Default::default()
    };
    assert_eq!(Command::decode(&new.encode_to_vec().into()), Ok(old));
}

#[test]
fn what_is_not_carried_out_is_named_and_not_passed_over() {
    let old = proto::etcdserverpb::Request {
        method: Some("PUT".to_owned()),
        path: Some("/1/key".to_owned()),
        ..Default::default()
    };
    let refused = Command::decode(&old.encode_to_vec().into());
    assert_eq!(refused, Err(CommandError::Unsupported("v2")));
    for garbage in [&b"\xff"[..], b"\x08\x01", b"\x22\xff\xff\xff\xff\x0f"] {
        let refused = Command::decode(&Bytes::from_static(garbage));
        assert!(
            matches!(refused, Err(CommandError::Malformed(_))),
            "{garbage:?}: {refused:?}"
        );
    }
}

#[test]
fn an_entry_is_applied_once_however_often_it_is_delivered() {
    let mut home = Home::new();
    home.put("a", "1");
    home.put("a", "2");
    home.commit();
    home.put("a", "3");
    home.reopen();
    assert_eq!(home.machine.applied(), Position { index: 2, term: 2 });
    assert_eq!(home.keys(), [("a".to_owned(), "2".to_owned())]);
    let data = InternalRaftRequest {
        put: Some(put("a", "again")),
        ..Default::default()
    };
    let data: Bytes = data.encode_to_vec().into();
    for index in 1..=2 {
        let applied = home
            .machine
            .apply(Position { index, term: 2 }, &data)
            .expect("no fault");
        assert!(applied.is_none());
    }
    assert_eq!(home.keys(), [("a".to_owned(), "2".to_owned())]);
    assert!(
        home.machine
            .apply(Position { index: 3, term: 2 }, &data)
            .expect("no fault")
            .is_some()
    );
    assert_eq!(home.machine.store().revision(), Revision(4));
}

/// [D1]
#[test]
fn the_applied_index_is_committed_with_what_it_stands_for() {
    let mut home = Home::new();
    for number in 0..20 {
        home.put("key", &number.to_string());
        home.commit();
        let committed = home.store.as_ref().unwrap().committed().clone();
        assert_eq!(
            read_position(&committed).expect("readable").index,
            number + 1
        );
        let reopened = StateMachine::open(committed, SETTINGS).expect("sound");
        let answer = reopened
            .view()
            .range(&RangeQuery::new(KeyRange::All))
            .expect("readable");
        assert_eq!(answer.pairs[0].value(), number.to_string().as_bytes());
    }
}

/// Puts a key that hangs on a lease.
fn put_on(key: &str, lease: i64) -> PutRequest {
    PutRequest {
        lease,
        ..put(key, "v")
    }
}

impl Home {
    fn grant(&mut self, id: i64, ttl: i64) -> Result<Answer, Refusal> {
        self.apply(InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id, ttl }),
            ..Default::default()
        })
        .result
    }

    fn revoke(&mut self, id: i64) -> Result<Answer, Refusal> {
        self.apply(InternalRaftRequest {
            lease_revoke: Some(LeaseRevokeRequest { id }),
            ..Default::default()
        })
        .result
    }

    fn put_on(&mut self, key: &str, lease: i64) -> Result<Answer, Refusal> {
        self.apply(InternalRaftRequest {
            put: Some(put_on(key, lease)),
            ..Default::default()
        })
        .result
    }

    fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        let lease = self.machine.leases().get(LeaseId(lease)).expect("a lease");
        lease.keys().cloned().collect()
    }
}

/// [LE-2], [LE-3], [KV-23]
#[test]
fn a_lease_ends_with_its_keys_in_one_revision() {
    let mut home = Home::new();
    assert_eq!(home.grant(7, 60), Ok(Answer::LeaseGranted(60)));
    assert_eq!(home.grant(7, 60), Err(Refusal::LeaseExists));
    assert_eq!(home.grant(-8, 0), Ok(Answer::LeaseGranted(2)));
    assert_eq!(
        home.grant(9, LEASE_TTL_MAX + 1),
        Err(Refusal::LeaseTtlTooLarge)
    );
    assert_eq!(home.put_on("x", 9), Err(Refusal::LeaseNotFound));
    for key in ["b", "a", "c", "d"] {
        home.put_on(key, 7).expect("a lease that there is");
    }
    // A put without a lease takes the key off it, a put with another one moves it, a deletion too.
    home.put("a", "free");
    home.put_on("d", -8).expect("a lease that there is");
    home.apply(InternalRaftRequest {
        delete_range: Some(DeleteRangeRequest {
            key: "c".into(),
            ..Default::default()
        }),
        ..Default::default()
    });
    assert_eq!(home.keys_of(7), ["b"]);
    home.put_on("bb", 7).expect("a lease that there is");
    let before = home.machine.store().revision();
    assert_eq!(home.revoke(7), Ok(Answer::Done));
    assert_eq!(home.machine.store().revision(), before.next());
    assert_eq!(home.revoke(7), Err(Refusal::LeaseNotFound));
    let names: Vec<String> = home.keys().into_iter().map(|(key, _)| key).collect();
    assert_eq!(names, ["a", "d"]);
    assert_eq!(home.grant(10, 60), Ok(Answer::LeaseGranted(60)));
    assert_eq!(home.revoke(10), Ok(Answer::Done));
    assert_eq!(home.machine.store().revision(), before.next());
    assert_eq!(
        home.machine.take_lease_changes().last(),
        Some(&LeaseChange::Revoked(LeaseId(10)))
    );
}

/// [LE-12], [LE-13]
#[test]
fn leases_and_what_hangs_on_them_outlive_a_restart() {
    let mut home = Home::new();
    home.grant(7, 60).expect("granted");
    home.grant(8, 60).expect("granted");
    home.put_on("a", 7).expect("a lease that there is");
    home.put_on("b", 7).expect("a lease that there is");
    home.put("b", "free");
    home.revoke(8).expect("revoked");
    let checkpoint = |home: &mut Home| {
        home.apply(InternalRaftRequest {
            lease_checkpoint: Some(LeaseCheckpointRequest {
                checkpoints: vec![LeaseCheckpoint {
                    id: 7,
                    remaining_ttl: 30,
                }],
            }),
            ..Default::default()
        })
    };
    checkpoint(&mut home).result.expect("noted");
    let lease = home.machine.leases().get(LeaseId(7)).expect("there");
    assert_eq!(lease.remaining, Some(30));
    home.commit();
    home.reopen();
    assert_eq!(home.machine.leases().len(), 1);
    assert_eq!(home.keys_of(7), ["a"]);
    let lease = home.machine.leases().get(LeaseId(7)).expect("there");
    // Not kept by clusters before 3.6.
    assert_eq!((lease.ttl, lease.remaining), (60, None));

    home.apply(InternalRaftRequest {
        cluster_version_set: Some(ClusterVersionSetRequest {
            ver: "3.6.0".to_owned(),
        }),
        ..Default::default()
    });
    checkpoint(&mut home).result.expect("noted");
    home.commit();
    home.reopen();
    let lease = home.machine.leases().get(LeaseId(7)).expect("there");
    assert_eq!(lease.remaining, Some(30));
    let committed = home.store.as_ref().unwrap().committed().clone();
    let longer = Settings {
        lease_ttl_min: 90,
        ..SETTINGS
    };
    let machine = StateMachine::open(committed, longer).expect("sound");
    assert_eq!(machine.leases().get(LeaseId(7)).expect("there").ttl, 90);
}

#[test]
fn compares_see_the_state_before_and_hold_for_every_key_of_a_range() {
    let mut home = Home::new();
    home.put("a", "1");
    home.put("b", "2");
    home.put("b", "2");
    const EQUAL: i32 = 0;
    const GREATER: i32 = 1;
    const NOT_EQUAL: i32 = 3;
    let value = |text: &str| Some(TargetUnion::Value(Bytes::from(text.to_owned())));
    let cases = [
        (
            compare("a", "", 0, EQUAL, Some(TargetUnion::Version(1))),
            true,
        ),
        (
            compare("b", "", 0, EQUAL, Some(TargetUnion::Version(2))),
            true,
        ),
        (
            compare("a", "c", 0, GREATER, Some(TargetUnion::Version(0))),
            true,
        ),
        (
            compare("a", "c", 0, GREATER, Some(TargetUnion::Version(1))),
            false,
        ),
        (compare("a", "", 3, EQUAL, value("1")), true),
        (compare("a", "", 3, NOT_EQUAL, value("2")), true),
        // A key that is not there: its numbers are 0, its value meets no condition.
        (
            compare("x", "", 1, EQUAL, Some(TargetUnion::CreateRevision(0))),
            true,
        ),
        (compare("x", "", 2, EQUAL, None), true),
        (compare("x", "", 3, EQUAL, value("")), false),
        (compare("x", "", 3, NOT_EQUAL, value("")), false),
        // The operand of another target counts as zero, unknown numbers as etcd takes them.
        (
            compare("x", "", 0, EQUAL, Some(TargetUnion::ModRevision(7))),
            true,
        ),
        (compare("a", "", 0, 9, Some(TargetUnion::Version(77))), true),
        (compare("a", "", 9, EQUAL, None), true),
        (compare("a", "", 9, GREATER, None), false),
    ];
    for (number, (condition, expected)) in cases.into_iter().enumerate() {
        let txn = TxnRequest {
            compare: vec![condition.clone()],
            success: vec![put_op("t", "yes")],
            failure: vec![put_op("t", "no")],
        };
        let answer = home.txn(txn).expect("not refused");
        assert_eq!(answer.succeeded, expected, "case {number}: {condition:?}");
    }
}

/// [D6]
#[test]
fn a_refused_transaction_changes_nothing() {
    let mut home = Home::new();
    home.put("a", "1");
    home.put("a", "2");
    home.apply(InternalRaftRequest {
        compaction: Some(CompactionRequest {
            revision: 3,
            physical: false,
        }),
        ..Default::default()
    });
    let revision = home.machine.store().revision();
    let missing = PutRequest {
        key: "none".into(),
        ignore_value: true,
        ..Default::default()
    };
    let leased = PutRequest {
        lease: 5,
        ..put("b", "")
    };
    let cases = [
        (range_op("a", 99), Refusal::FutureRevision),
        (range_op("a", 2), Refusal::Compacted),
        (range_op("a", -1), Refusal::Compacted),
        (
            RequestOp {
                request: Some(Op::RequestPut(missing)),
            },
            Refusal::KeyNotFound,
        ),
        (
            RequestOp {
                request: Some(Op::RequestPut(leased)),
            },
            Refusal::LeaseNotFound,
        ),
    ];
    for (operation, refusal) in cases {
        let nested = TxnRequest {
            success: vec![operation.clone()],
            ..Default::default()
        };
        let nested = RequestOp {
            request: Some(Op::RequestTxn(nested)),
        };
        for last in [operation, nested] {
            let txn = TxnRequest {
                success: vec![put_op("b", "x"), last],
                ..Default::default()
            };
            assert_eq!(home.txn(txn), Err(refusal));
        }
    }
    assert_eq!(home.machine.store().revision(), revision);
    assert_eq!(home.keys(), [("a".to_owned(), "2".to_owned())]);
}

#[test]
fn a_put_that_keeps_the_value_of_a_key_removed_before_it_is_refused() {
    let mut home = Home::new();
    home.put("a", "1");
    let everything = DeleteRangeRequest {
        key: "a".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let delete = RequestOp {
        request: Some(Op::RequestDeleteRange(everything)),
    };
    let keep = PutRequest {
        key: "a".into(),
        ignore_value: true,
        ..Default::default()
    };
    let keep = RequestOp {
        request: Some(Op::RequestPut(keep)),
    };
    let txn = |success| TxnRequest {
        success,
        ..Default::default()
    };
    let refused = home.txn(txn(vec![delete.clone(), keep.clone()]));
    assert_eq!(refused, Err(Refusal::KeyNotFound));
    assert_eq!(home.keys(), [("a".to_owned(), "1".to_owned())]);
    home.txn(txn(vec![keep, delete]))
        .expect("it is there when it is kept");
    assert_eq!(home.keys(), []);
}

#[test]
fn a_compaction_below_zero_is_refused() {
    let mut home = Home::new();
    for revision in [-1, i64::MIN] {
        let compaction = CompactionRequest {
            revision,
            physical: false,
        };
        let applied = home.apply(InternalRaftRequest {
            compaction: Some(compaction),
            ..Default::default()
        });
        assert_eq!(applied.result, Err(Refusal::Compacted));
    }
    home.commit();
    home.reopen();
}

/// [KV-4]
#[test]
fn all_changes_of_a_transaction_share_one_revision() {
    let mut home = Home::new();
    home.put("old", "1");
    let delete = DeleteRangeRequest {
        key: "old".into(),
        prev_kv: true,
        ..Default::default()
    };
    let inner = TxnRequest {
        success: vec![put_op("c", "3"), range_op("b", 0)],
        ..Default::default()
    };
    let txn = TxnRequest {
        success: vec![
            put_op("b", "2"),
            RequestOp {
                request: Some(Op::RequestDeleteRange(delete)),
            },
            RequestOp {
                request: Some(Op::RequestTxn(inner)),
            },
        ],
        ..Default::default()
    };
    let answer = home.txn(txn).expect("not refused");
    assert_eq!(answer.operations.len(), 3);
    assert_eq!(home.machine.store().revision(), Revision(3));
    let pairs = home
        .machine
        .view()
        .range(&RangeQuery::new(KeyRange::All))
        .expect("readable")
        .pairs;
    assert!(pairs.iter().all(|pair| pair.mod_revision == Revision(3)));
    assert_eq!(pairs.len(), 2);
}

#[test]
fn a_full_database_takes_no_puts_until_the_alarm_is_cleared() {
    let mut home = Home::new();
    home.put("a", "1");
    let alarm = |action| InternalRaftRequest {
        alarm: Some(AlarmRequest {
            action,
            member_id: 5,
            alarm: 1,
        }),
        ..Default::default()
    };
    home.apply(alarm(1));
    home.commit();
    home.reopen();
    assert_eq!(home.put("b", "2").result, Err(Refusal::NoSpace));
    let with_put = TxnRequest {
        failure: vec![put_op("b", "2")],
        ..Default::default()
    };
    assert_eq!(home.txn(with_put), Err(Refusal::NoSpace));
    let delete = DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    };
    let deleted = home.apply(InternalRaftRequest {
        delete_range: Some(delete),
        ..Default::default()
    });
    assert!(deleted.result.is_ok());
    home.apply(alarm(2));
    assert!(home.put("b", "2").result.is_ok());
}

/// [D18]
#[test]
fn members_and_configuration_are_committed_together() {
    let mut home = Home::new();
    let member = Member {
        id: MemberId(5),
        peer_urls: vec!["http://a:2380".to_owned()],
        learner: false,
        name: "n1".to_owned(),
        client_urls: Vec::new(),
    };
    let position = Position { index: 1, term: 1 };
    home.machine
        .apply_member_change(position, MemberChange::Add(member.clone()))
        .expect("fits");
    home.machine.set_configuration(&[MemberId(5)], &[]);
    home.commit();
    home.reopen();
    assert_eq!(home.machine.applied(), position);
    assert_eq!(home.machine.members().get(MemberId(5)), Some(&member));
    let committed = home.store.as_ref().unwrap().committed();
    let meta = committed.bucket("meta").expect("readable").expect("there");
    let configuration = meta.get(b"confState").expect("readable").expect("there");
    assert_eq!(&configuration[..], br#"{"voters":[5],"auto_leave":false}"#);
}

fn user_add(name: &str, password: &str) -> InternalRaftRequest {
    InternalRaftRequest {
        auth_user_add: Some(AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A home with authorization on, at revision 3.
fn guarded() -> Home {
    let mut home = Home::new();
    let grant = AuthUserGrantRoleRequest {
        user: "root".to_owned(),
        role: "root".to_owned(),
    };
    let requests = [
        user_add("root", "pw"),
        InternalRaftRequest {
            auth_user_grant_role: Some(grant),
            ..Default::default()
        },
        InternalRaftRequest {
            auth_enable: Some(AuthEnableRequest {}),
            ..Default::default()
        },
    ];
    for request in requests {
        assert_eq!(home.apply(request).result, Ok(Answer::Done));
    }
    home
}

/// [AU-6]: an entry of etcd 3.4 carries the password itself. Each member makes the same hash of it, and
/// has it still after a replay.
#[test]
fn a_password_that_was_logged_plainly_is_hashed_when_it_is_applied() {
    let (one, other) = (guarded(), guarded());
    let hash = |home: &Home| match home.machine.auth().password_check("root") {
        PasswordCheck::Hash(hash) => hash,
        other => panic!("{other:?}"),
    };
    assert!(hash(&one).starts_with("$2a$10$"), "{}", hash(&one));
    assert_eq!(hash(&one), hash(&other));
    assert!(bcrypt::verify("pw", &hash(&one)).expect("a hash"));
}

/// [AU-15], [AU-16], [AU-17]: whoever was allowed to when the request came may be so no longer.
#[test]
fn permission_counts_when_an_entry_is_applied() {
    let mut home = guarded();
    assert_eq!(home.machine.auth().revision(), 3);
    let put = || InternalRaftRequest {
        put: Some(put("a", "1")),
        ..Default::default()
    };
    assert_eq!(home.apply(put()).result, Err(Refusal::UserEmpty));
    let refused = [
        ("root", 2, Refusal::AuthOldRevision),
        ("nobody", 3, Refusal::PermissionDenied),
        ("", 3, Refusal::PermissionDenied),
        ("root", 0, Refusal::UserEmpty),
    ];
    for (user, revision, refusal) in refused {
        let applied = home.apply_as(user, revision, put());
        assert_eq!(applied.result, Err(refusal), "{user} at {revision}");
        assert_eq!(applied.revision, Revision(1));
    }
    assert!(home.apply_as("root", 3, put()).result.is_ok());
    let management = [
        ("", 0, Refusal::UserEmpty),
        ("nobody", 3, Refusal::UserNotFound),
    ];
    for (user, revision, refusal) in management {
        let applied = home.apply_as(user, revision, user_add("x", "y"));
        assert_eq!(applied.result, Err(refusal), "{user}");
    }
    // Whoever is root needs no revision to manage users, as with etcd.
    assert!(home.apply_as("root", 1, user_add("x", "y")).result.is_ok());
    assert_eq!(home.machine.auth().revision(), 4);
}
