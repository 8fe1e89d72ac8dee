//! Two hundred thousand random requests, odd ones included, to the server under test and to real etcd:
//! every field of every answer, every refusal, and all that watchers are told, must be the same.

use std::collections::HashSet;

use bytes::Bytes;
use holdfast_tests::dice::{self, Dice};
use prost::Message;
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    AlarmRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, AuthenticateRequest, CompactionRequest,
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
};
use proto::v3electionpb::LeaderRequest;
use proto::v3lockpb::UnlockRequest;

use crate::conversation::{Answer, Pair, Request};

/// Requests in one world, a fresh pair of servers.
const REQUESTS: usize = 4_000;
/// Worlds of a whole run: 200,000 requests.
const WORLDS: u64 = 50;
/// Worlds at a time: enough for two cores, and not so many that other tests wait.
const WORLDS_AT_ONCE: usize = 3;
/// Transactions inside transactions.
const DEPTH_MAX: u32 = 3;
/// Requests between two comparisons of what watchers were told.
const SETTLED_EVERY: usize = 250;
/// Tries to make a failing conversation shorter.
const SHRINKING_TRIES: usize = 60;
const USERS: [&str; 3] = ["root", "u", "v"];

/// Where two servers part.
struct Parting {
    number: usize,
    what: String,
}

/// `TEST_SEED` replays one world, and `TEST_KEEP`, a list of numbers, only those of its requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_are_answered_as_etcd_answers_them() {
    const FIRST: u64 = 20_261_126;
    let replayed = std::env::var("TEST_SEED").is_ok();
    let seeds = match replayed {
        true => vec![dice::seed(FIRST)],
        false => (FIRST..FIRST + WORLDS).collect(),
    };
    let keep: Option<Vec<usize>> = std::env::var("TEST_KEEP").ok().map(|list| {
        let numbers = list.split(',').map(|number| number.trim().parse());
        numbers
            .collect::<Result<_, _>>()
            .expect("TEST_KEEP is a list of numbers")
    });
    let all: Vec<usize> = keep.unwrap_or_else(|| (0..REQUESTS).collect());
    let mut running = tokio::task::JoinSet::new();
    let mut counts = Counts::default();
    for seed in seeds {
        if running.len() >= WORLDS_AT_ONCE {
            let done = running.join_next().await.expect("not empty");
            counts.add(&done.expect("no panic"));
        }
        let all = all.clone();
        running.spawn(async move {
            match world(seed, &all).await {
                Ok(counts) => counts,
                Err(parting) => {
                    let kept = all
                        .iter()
                        .copied()
                        .filter(|number| *number <= parting.number);
                    let (kept, parting) = shrink(seed, kept.collect(), parting).await;
                    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
                    panic!(
                        "replay with TEST_SEED={seed} TEST_KEEP={}\nrequest {}: {}",
                        kept.join(","),
                        parting.number,
                        parting.what
                    );
                }
            }
        });
    }
    while let Some(done) = running.join_next().await {
        counts.add(&done.expect("no panic"));
    }
    if !replayed {
        // A run that is refused all the time, or changes nothing, compares nothing.
        assert!(counts.requests >= 200_000, "{counts:?}");
        assert!(counts.refused > counts.requests / 20, "{counts:?}");
        assert!(counts.changed > counts.requests / 10, "{counts:?}");
        assert!(counts.watchers > 300, "{counts:?}");
    }
}

#[derive(Debug, Default)]
struct Counts {
    requests: usize,
    refused: usize,
    changed: usize,
    watchers: usize,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.requests += other.requests;
        self.refused += other.refused;
        self.changed += other.changed;
        self.watchers += other.watchers;
    }
}

/// Leaves out ever smaller parts of a conversation as long as the two still part.
async fn shrink(seed: u64, mut kept: Vec<usize>, mut parting: Parting) -> (Vec<usize>, Parting) {
    let mut part = kept.len().div_ceil(2);
    let mut tries = 0;
    while part > 0 && tries < SHRINKING_TRIES {
        let mut at = 0;
        while at < kept.len() && tries < SHRINKING_TRIES {
            let rest = kept[..at].iter().chain(kept.iter().skip(at + part));
            let rest: Vec<usize> = rest.copied().collect();
            tries += 1;
            match world(seed, &rest).await {
                Err(found) => {
                    kept = rest
                        .into_iter()
                        .filter(|number| *number <= found.number)
                        .collect();
                    parting = found;
                }
                Ok(_) => at += part,
            }
        }
        part /= 2;
    }
    (kept, parting)
}

/// What a world is like at the moment, as far as requests are chosen by it.
struct World {
    revision: i64,
    auth: bool,
    watchers: i64,
    /// Revisions at which etcd must not compact: at 0 it spoils its hashes, and at one that removed a
    /// key and put it again it loses the key and ends.
    spoiled: HashSet<i64>,
}

/// Has a conversation of some requests of a world. Each is chosen by dice of its own, so that leaving
/// one out changes no other.
async fn world(seed: u64, kept: &[usize]) -> Result<Counts, Parting> {
    let mut pair = Pair::start().await;
    pair.begin_to_watch().await;
    let mut world = World {
        revision: 1,
        auth: false,
        watchers: 0,
        spoiled: HashSet::from([0]),
    };
    let mut counts = Counts::default();
    for (place, &number) in kept.iter().enumerate() {
        let at = |what| Parting { number, what };
        let mut dice = Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        dice.word();
        counts.requests += 1;
        let before = world.revision;
        let refused = step(&mut pair, &mut world, &mut dice).await.map_err(at)?;
        counts.refused += usize::from(refused);
        counts.changed += usize::from(world.revision > before);
        if place % SETTLED_EVERY == SETTLED_EVERY - 1 {
            pair.compare_watchers(world.revision).await.map_err(at)?;
        }
    }
    let at = |what| Parting {
        number: kept.last().copied().unwrap_or(0),
        what,
    };
    pair.compare_watchers(world.revision).await.map_err(at)?;
    let user = if world.auth { "root" } else { "" };
    pair.ask_as(user, &Request::HashKv(0)).await.map_err(at)?;
    counts.watchers = usize::try_from(world.watchers).unwrap_or(0);
    Ok(counts)
}

/// One request; whether it was refused.
async fn step(pair: &mut Pair, world: &mut World, dice: &mut Dice) -> Result<bool, String> {
    let user = match world.auth {
        false => "",
        true => dice.pick(&["root", "root", "root", "u", "u", "v", ""]),
    };
    let mut request = match dice.below(100) {
        0..70 => any_request(dice, world.revision),
        70..76 => {
            return any_watch(pair, world, dice).await.map(|()| false);
        }
        76..88 => any_lease_call(dice),
        88..98 => any_auth_call(dice, world.auth),
        98 => any_other_call(dice),
        _ if dice.one_in(6) => return expire(pair, world, user, dice).await.map(|()| false),
        _ if dice.one_in(5) => return out_of_space(pair, world, dice).await.map(|()| false),
        _ if dice.one_in(3) => return switch_auth(pair, world).await.map(|()| false),
        _ => any_other_call(dice),
    };
    if let Request::Compact(compaction) = &mut request {
        // etcd 3.5 lets everybody compact.
        let mine = if world.auth { "root" } else { "" };
        if user != mine {
            return Ok(false);
        }
        while world.spoiled.contains(&compaction.revision) {
            compaction.revision -= 1;
        }
        // Whoever is behind would be cancelled, or not, depending on the time of day.
        pair.compare_watchers(world.revision).await?;
    }
    let answer = pair.ask_as(user, &request).await?;
    world.revision = revision_of(&answer).unwrap_or(world.revision);
    if matches!(&request, Request::Txn(txn) if removes(txn)) {
        world.spoiled.insert(world.revision);
    }
    if let Request::Call("etcdserverpb.Auth/Authenticate", message) = &request {
        let who = AuthenticateRequest::decode(message.clone()).expect("our own");
        pair.is_let_in(&who.name);
    }
    Ok(answer.refusal().is_some())
}

/// A lease that ends by itself, with its keys, before anything else happens.
async fn expire(
    pair: &mut Pair,
    world: &mut World,
    user: &str,
    dice: &mut Dice,
) -> Result<(), String> {
    let id = dice.between(1_000, 1_000_000);
    let grant = LeaseGrantRequest { id, ttl: 1 };
    let granted = pair
        .ask_as(
            user,
            &Request::Call("etcdserverpb.Lease/LeaseGrant", encoded(&grant)),
        )
        .await?;
    if granted.refusal().is_some() {
        return Ok(());
    }
    let mut keys = 0;
    for _ in 0..dice.below(3) {
        let put = PutRequest {
            key: any_key(dice),
            lease: id,
            ..Default::default()
        };
        let answer = pair.ask_as(user, &Request::Put(put)).await?;
        keys += i64::from(answer.refusal().is_none());
        world.revision = revision_of(&answer).unwrap_or(world.revision);
    }
    world.revision += i64::from(keys > 0);
    pair.wait_for_end_of_lease(id, user).await
}

/// An alarm, what it keeps from happening, and its end. Transactions are left out, since etcd 3.5 does
/// not see the puts of those inside, and users but root, whose permissions it does not ask for then.
async fn out_of_space(pair: &mut Pair, world: &mut World, dice: &mut Dice) -> Result<(), String> {
    let alarm = |action| {
        let request = AlarmRequest {
            action,
            member_id: 5,
            alarm: 1,
        };
        Request::Call("etcdserverpb.Maintenance/Alarm", encoded(&request))
    };
    let root = if world.auth { "root" } else { "" };
    pair.ask_as(root, &alarm(1)).await?;
    for request in [
        Request::Put(any_put(dice)),
        Request::DeleteRange(any_delete(dice)),
        any_lease_call(dice),
        Request::Range(any_range(dice, world.revision)),
    ] {
        let answer = pair.ask_as(root, &request).await?;
        world.revision = revision_of(&answer).unwrap_or(world.revision);
    }
    pair.ask_as(root, &alarm(2)).await?;
    Ok(())
}

/// Turns authorization on, with some users and roles, or off.
async fn switch_auth(pair: &mut Pair, world: &mut World) -> Result<(), String> {
    let mut calls = Vec::new();
    if world.auth {
        calls.push(("etcdserverpb.Auth/AuthDisable", Bytes::new()));
    } else {
        for name in USERS {
            let add = AuthUserAddRequest {
                name: name.to_owned(),
                password: name.to_owned(),
                ..Default::default()
            };
            calls.push(("etcdserverpb.Auth/UserAdd", encoded(&add)));
            let change = AuthUserChangePasswordRequest {
                name: name.to_owned(),
                password: name.to_owned(),
                ..Default::default()
            };
            calls.push(("etcdserverpb.Auth/UserChangePassword", encoded(&change)));
        }
        let grant = AuthUserGrantRoleRequest {
            user: "root".to_owned(),
            role: "root".to_owned(),
        };
        calls.push(("etcdserverpb.Auth/UserGrantRole", encoded(&grant)));
        calls.push(("etcdserverpb.Auth/AuthEnable", Bytes::new()));
    }
    for (path, message) in calls {
        pair.ask_as("root", &Request::Call(path, message)).await?;
    }
    world.auth = !world.auth;
    if world.auth {
        for name in USERS {
            let message = encoded(&AuthenticateRequest {
                name: name.to_owned(),
                password: name.to_owned(),
            });
            pair.ask(&Request::Call("etcdserverpb.Auth/Authenticate", message))
                .await?;
            pair.is_let_in(name);
        }
    }
    Ok(())
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

async fn any_watch(pair: &mut Pair, world: &mut World, dice: &mut Dice) -> Result<(), String> {
    if world.watchers > 0 && dice.one_in(3) {
        let id = dice.between(0, world.watchers);
        return pair.cancel(id, world.revision).await;
    }
    let (key, range_end) = any_interval(dice);
    let start_revision = match dice.below(3) {
        0 => 0,
        // One that is still to come would keep all others from being told how far they are.
        _ => some_revision(dice, world.revision).clamp(0, world.revision),
    };
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision,
        filters: match dice.below(6) {
            0 => vec![0],
            1 => vec![1],
            2 => vec![0, 1, 7],
            _ => Vec::new(),
        },
        prev_kv: dice.one_in(2),
        // One that was used before may be free again on one side sooner than on the other.
        watch_id: if dice.one_in(8) {
            10_000 + world.watchers
        } else {
            0
        },
        fragment: dice.one_in(4),
        progress_notify: false,
    };
    world.watchers += 1;
    pair.watch(&create).await;
    Ok(())
}

fn any_lease_call(dice: &mut Dice) -> Request {
    let id = dice.pick(&[1, 2, 3, -1, 77]);
    match dice.below(8) {
        0..3 => {
            let ttl = dice.pick(&[1_000, 100_000, 9_000_000_000, 9_000_000_001]);
            let grant = LeaseGrantRequest { id, ttl };
            Request::Call("etcdserverpb.Lease/LeaseGrant", encoded(&grant))
        }
        3 | 4 => {
            let revoke = LeaseRevokeRequest { id };
            Request::Call("etcdserverpb.Lease/LeaseRevoke", encoded(&revoke))
        }
        5 | 6 => {
            let keys = dice.one_in(2);
            let ask = LeaseTimeToLiveRequest { id, keys };
            Request::Call("etcdserverpb.Lease/LeaseTimeToLive", encoded(&ask))
        }
        _ => Request::Call("etcdserverpb.Lease/LeaseLeases", Bytes::new()),
    }
}

fn any_auth_call(dice: &mut Dice, auth: bool) -> Request {
    let user = |dice: &mut Dice| dice.pick(&["u", "v", "w", "root", ""]).to_owned();
    let role = |dice: &mut Dice| dice.pick(&["r", "s", "t", ""]).to_owned();
    let (path, message) = match dice.below(16) {
        0 => (
            "UserAdd",
            encoded(&AuthUserAddRequest {
                name: user(dice),
                password: "u".to_owned(),
                options: dice
                    .one_in(4)
                    .then_some(UserAddOptions { no_password: true }),
                ..Default::default()
            }),
        ),
        1 => ("UserGet", encoded(&AuthUserGetRequest { name: user(dice) })),
        2 => ("UserList", Bytes::new()),
        3 => (
            "UserDelete",
            encoded(&AuthUserDeleteRequest {
                // Whoever is root stays, or nobody could go on.
                name: dice.pick(&["w", "w", "v", "x"]).to_owned(),
            }),
        ),
        4 => (
            "UserGrantRole",
            encoded(&AuthUserGrantRoleRequest {
                user: user(dice),
                role: role(dice),
            }),
        ),
        5 => (
            "UserRevokeRole",
            encoded(&AuthUserRevokeRoleRequest {
                name: user(dice),
                role: role(dice),
            }),
        ),
        6 => ("RoleAdd", encoded(&AuthRoleAddRequest { name: role(dice) })),
        7 => ("RoleGet", encoded(&AuthRoleGetRequest { role: role(dice) })),
        8 => ("RoleList", Bytes::new()),
        9 => (
            "RoleDelete",
            encoded(&AuthRoleDeleteRequest { role: role(dice) }),
        ),
        10..13 => {
            let (key, range_end) = any_interval(dice);
            (
                "RoleGrantPermission",
                encoded(&AuthRoleGrantPermissionRequest {
                    name: role(dice),
                    perm: (!dice.one_in(12)).then(|| Permission {
                        perm_type: dice.between(0, 2) as i32,
                        key,
                        range_end,
                    }),
                }),
            )
        }
        13 => {
            let (key, range_end) = any_interval(dice);
            (
                "RoleRevokePermission",
                encoded(&AuthRoleRevokePermissionRequest {
                    role: role(dice),
                    key,
                    range_end,
                }),
            )
        }
        14 if auth => (
            "Authenticate",
            encoded(&AuthenticateRequest {
                name: dice.pick(&USERS).to_owned(),
                password: dice.pick(&USERS).to_owned(),
            }),
        ),
        _ => ("AuthStatus", Bytes::new()),
    };
    let paths = [
        "etcdserverpb.Auth/UserAdd",
        "etcdserverpb.Auth/UserGet",
        "etcdserverpb.Auth/UserList",
        "etcdserverpb.Auth/UserDelete",
        "etcdserverpb.Auth/UserGrantRole",
        "etcdserverpb.Auth/UserRevokeRole",
        "etcdserverpb.Auth/RoleAdd",
        "etcdserverpb.Auth/RoleGet",
        "etcdserverpb.Auth/RoleList",
        "etcdserverpb.Auth/RoleDelete",
        "etcdserverpb.Auth/RoleGrantPermission",
        "etcdserverpb.Auth/RoleRevokePermission",
        "etcdserverpb.Auth/Authenticate",
        "etcdserverpb.Auth/AuthStatus",
    ];
    let path = paths
        .into_iter()
        .find(|whole| whole.ends_with(&format!("/{path}")));
    Request::Call(path.expect("listed"), message)
}

fn any_other_call(dice: &mut Dice) -> Request {
    match dice.below(4) {
        0 => Request::Call("etcdserverpb.Maintenance/Alarm", Bytes::new()),
        1 => Request::Call("etcdserverpb.Cluster/MemberList", Bytes::new()),
        2 => Request::Call(
            "v3electionpb.Election/Leader",
            encoded(&LeaderRequest { name: "k".into() }),
        ),
        _ => Request::Call(
            "v3lockpb.Lock/Unlock",
            encoded(&UnlockRequest { key: any_key(dice) }),
        ),
    }
}

fn revision_of(answer: &Answer) -> Option<i64> {
    let header = match answer {
        Answer::Range(found) => &found.header,
        Answer::Put(found) => &found.header,
        Answer::DeleteRange(found) => &found.header,
        Answer::Txn(found) => &found.header,
        Answer::Compact(found) => &found.header,
        Answer::HashKv(found) => &found.header,
        Answer::Told(told) => return told["header"]["revision"].as_str()?.parse().ok(),
        Answer::Refused { .. } => return None,
    };
    header.as_ref().map(|header| header.revision)
}

fn any_request(dice: &mut Dice, revision: i64) -> Request {
    match dice.below(100) {
        0..30 => Request::Put(any_put(dice)),
        30..42 => Request::DeleteRange(any_delete(dice)),
        42..65 => Request::Range(any_range(dice, revision)),
        65..96 => {
            let mut txn = any_txn(dice, revision, DEPTH_MAX);
            if removes(&txn) {
                keep_nothing(&mut txn);
            }
            Request::Txn(txn)
        }
        96..98 => Request::HashKv(some_revision(dice, revision).max(0)),
        _ => {
            let compacted = revision - dice.between(-1, 60);
            Request::Compact(CompactionRequest {
                revision: compacted,
                // Deletion in the background would race with the hashes.
                physical: true,
            })
        }
    }
}

fn any_put(dice: &mut Dice) -> PutRequest {
    let ignore_value = dice.one_in(8);
    PutRequest {
        key: any_key(dice),
        value: if ignore_value && !dice.one_in(4) {
            Bytes::new()
        } else {
            any_value(dice)
        },
        lease: if dice.one_in(6) {
            dice.pick(&[1, 2, 3, -1, i64::MAX])
        } else {
            0
        },
        prev_kv: dice.one_in(3),
        ignore_value,
        ignore_lease: dice.one_in(8),
    }
}

fn any_delete(dice: &mut Dice) -> DeleteRangeRequest {
    let (key, range_end) = any_interval(dice);
    DeleteRangeRequest {
        key,
        range_end,
        prev_kv: dice.one_in(2),
    }
}

fn any_range(dice: &mut Dice, revision: i64) -> RangeRequest {
    let (key, range_end) = any_interval(dice);
    let filter = |dice: &mut Dice| {
        if dice.one_in(10) {
            some_revision(dice, revision)
        } else {
            0
        }
    };
    RangeRequest {
        key,
        range_end,
        limit: if dice.one_in(2) {
            dice.between(-1, 6)
        } else {
            0
        },
        revision: if dice.one_in(3) {
            some_revision(dice, revision)
        } else {
            0
        },
        sort_order: dice.between(0, 2) as i32,
        sort_target: if dice.one_in(3) {
            dice.between(0, 4) as i32
        } else {
            0
        },
        serializable: dice.one_in(4),
        keys_only: dice.one_in(5),
        count_only: dice.one_in(8),
        min_mod_revision: filter(dice),
        max_mod_revision: filter(dice),
        min_create_revision: filter(dice),
        max_create_revision: filter(dice),
    }
}

fn any_txn(dice: &mut Dice, revision: i64, depth: u32) -> TxnRequest {
    let compares = dice.below(3);
    TxnRequest {
        compare: (0..compares).map(|_| any_compare(dice, revision)).collect(),
        success: any_operations(dice, revision, depth),
        failure: any_operations(dice, revision, depth),
    }
}

/// A txn that removes a key and then puts it with its old value or lease ends etcd itself, whose check
/// sees the key still there; the rules of KV have a test that it does not end holdfast.
fn keep_nothing(txn: &mut TxnRequest) {
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut operation.request {
            Some(Operation::RequestPut(put)) => {
                (put.ignore_value, put.ignore_lease) = (false, false);
            }
            Some(Operation::RequestTxn(txn)) => keep_nothing(txn),
            _ => {}
        }
    }
}

fn removes(txn: &TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .any(|operation| match &operation.request {
            Some(Operation::RequestDeleteRange(_)) => true,
            Some(Operation::RequestTxn(txn)) => removes(txn),
            _ => false,
        })
}

fn any_operations(dice: &mut Dice, revision: i64, depth: u32) -> Vec<RequestOp> {
    let count = dice.below(4);
    (0..count)
        .map(|_| any_operation(dice, revision, depth))
        .collect()
}

fn any_operation(dice: &mut Dice, revision: i64, depth: u32) -> RequestOp {
    let request = match dice.below(20) {
        0..8 => Operation::RequestPut(any_put(dice)),
        8..11 => Operation::RequestDeleteRange(any_delete(dice)),
        11..16 => Operation::RequestRange(any_range(dice, revision)),
        _ if depth > 0 => Operation::RequestTxn(any_txn(dice, revision, depth - 1)),
        _ => return RequestOp { request: None },
    };
    RequestOp {
        request: Some(request),
    }
}

fn any_compare(dice: &mut Dice, revision: i64) -> Compare {
    let union = match dice.below(7) {
        0 => None,
        1 => Some(TargetUnion::CreateRevision(some_revision(dice, revision))),
        2 => Some(TargetUnion::ModRevision(some_revision(dice, revision))),
        3 => Some(TargetUnion::Value(any_value(dice))),
        4 => Some(TargetUnion::Lease(dice.between(-1, 1))),
        _ => Some(TargetUnion::Version(dice.between(0, 3))),
    };
    let fitting = match &union {
        None | Some(TargetUnion::Version(_)) => 0,
        Some(TargetUnion::CreateRevision(_)) => 1,
        Some(TargetUnion::ModRevision(_)) => 2,
        Some(TargetUnion::Value(_)) => 3,
        Some(TargetUnion::Lease(_)) => 4,
    };
    let (key, range_end) = any_interval(dice);
    Compare {
        result: if dice.one_in(20) {
            9
        } else {
            dice.between(0, 3) as i32
        },
        target: if dice.one_in(6) {
            dice.between(0, 5) as i32
        } else {
            fitting
        },
        key,
        target_union: union,
        range_end: if dice.one_in(3) {
            range_end
        } else {
            Bytes::new()
        },
    }
}

/// Mostly near the newest one; sometimes none, or one that cannot be.
fn some_revision(dice: &mut Dice, newest: i64) -> i64 {
    match dice.below(12) {
        0 => 0,
        1 => dice.pick(&[-1, i64::MIN, i64::MAX, newest + 1]),
        2 => dice.between(1, newest),
        _ => (newest - dice.between(0, 20)).max(1),
    }
}

fn any_interval(dice: &mut Dice) -> (Bytes, Bytes) {
    let key = any_key(dice);
    let range_end = match dice.below(6) {
        0 | 1 => Bytes::new(),
        2 => Bytes::from_static(b"\0"),
        3 => [&key[..], b"\xff"].concat().into(),
        _ => any_key(dice),
    };
    // A range that ends before it begins holds nothing; whether a user may read that depends on the shape
    // of a tree in etcd.
    match &range_end[..] != b"\0" && !range_end.is_empty() && range_end <= key {
        true if range_end == key => (key, Bytes::new()),
        true => (range_end, key),
        false => (key, range_end),
    }
}

fn any_key(dice: &mut Dice) -> Bytes {
    let keys: [&'static [u8]; 16] = [
        b"a",
        b"b",
        b"c",
        b"d",
        b"aa",
        b"ab",
        b"b\0",
        b"ba",
        b"\0",
        b"\0\0",
        b"\xff",
        b"\xff\xff",
        b"k/1",
        b"k/2",
        b"k/10",
        b"k/",
    ];
    if dice.one_in(60) {
        Bytes::new()
    } else {
        Bytes::from_static(dice.pick(&keys))
    }
}

fn any_value(dice: &mut Dice) -> Bytes {
    match dice.below(10) {
        0 => Bytes::new(),
        1 => vec![b'v'; dice.below(5_000) as usize].into(),
        _ => format!("{}", dice.below(30)).into(),
    }
}
