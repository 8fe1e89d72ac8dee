//! The rules of authorization, put to the server under test and to real etcd alike.

use std::process::Command;

use bytes::Bytes;
use holdfast_tests::client::Client;
use holdfast_tests::etcdctl::etcdctl;
use holdfast_tests::folder::Folder;
use holdfast_tests::member::{Member, Product};
use holdfast_tests::tools::EtcdVersion;
use holdfast_tests::watching::{Watching, watch};
use proto::authpb::permission::Type::{Read, Readwrite, Write};
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Operation;
use proto::etcdserverpb::{
    AlarmRequest, AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest,
    AuthRoleGetRequest, AuthRoleGrantPermissionRequest, AuthRoleListRequest,
    AuthRoleRevokePermissionRequest, AuthStatusRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGetRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest, AuthenticateRequest,
    CompactionRequest, Compare, DefragmentRequest, DeleteRangeRequest, HashKvRequest,
    LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    MemberListRequest, PutRequest, RangeRequest, RequestOp, StatusRequest, TxnRequest,
};
use proto::v3lockpb::LockRequest;
use tonic::{Request, Status};

const DENIED: &str = "PermissionDenied: etcdserver: permission denied";
const USER_EMPTY: &str = "InvalidArgument: etcdserver: user name is empty";
const INVALID_TOKEN: &str = "Unauthenticated: etcdserver: invalid auth token";
const OLD_REVISION: &str = "InvalidArgument: etcdserver: revision of auth store is old";
const AUTH_FAILED: &str =
    "InvalidArgument: etcdserver: authentication failed, invalid user ID or password";
const INVALID_MANAGEMENT: &str = "InvalidArgument: etcdserver: invalid auth management";

const ROLE_R: &str =
    "Role r\nKV Read:\n\t[a/, a0) (prefix a/)\nKV Write:\n\t[a/, a0) (prefix a/)\n";

fn both() -> [Product; 2] {
    [Product::subject(), Product::Etcd(EtcdVersion::V3_5)]
}

/// A request, made by whoever holds a token.
enum Ask<'a> {
    Enable,
    Disable,
    Status,
    UserAdd(&'a str, &'a str),
    UserAddNoPassword(&'a str),
    UserGet(&'a str),
    UserList,
    UserDelete(&'a str),
    ChangePassword(&'a str, &'a str),
    GrantRole(&'a str, &'a str),
    RevokeRole(&'a str, &'a str),
    RoleAdd(&'a str),
    RoleGet(&'a str),
    RoleList,
    RoleDelete(&'a str),
    Grant(&'a str, Option<(i32, &'a str, &'a str)>),
    Revoke(&'a str, &'a str, &'a str),
    Get(&'a str, &'a str),
    Put(&'a str),
    PutPrevious(&'a str),
    PutOn(&'a str, i64),
    Delete(&'a str, &'a str),
    DeletePrevious(&'a str),
    /// Compares a key, then gets one and puts another, or deletes one.
    Txn {
        compare: &'a str,
        get: &'a str,
        put: &'a str,
        else_delete: &'a str,
    },
    Compact(i64),
    LeaseGrant(i64),
    LeaseRevoke(i64),
    LeaseTimeToLive(i64, bool),
    LeaseList,
    MemberList,
    MemberStatus,
    AlarmList,
    Defragment,
    HashKv,
}

fn said<T>(answer: Result<tonic::Response<T>, Status>, what: impl FnOnce(T) -> String) -> String {
    match answer {
        Ok(answer) => what(answer.into_inner()),
        Err(status) => refused(&status),
    }
}

fn refused(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn ok<T>(_: T) -> String {
    "ok".to_owned()
}

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        request
            .metadata_mut()
            .insert("token", token.parse().expect("ASCII"));
    }
    request
}

fn key(text: &str) -> Bytes {
    text.to_owned().into()
}

async fn ask(client: &Client, token: &str, what: Ask<'_>) -> String {
    let mut auth = client.auth.clone();
    let mut kv = client.kv.clone();
    let mut lease = client.lease.clone();
    let mut maintenance = client.maintenance.clone();
    let name = ToString::to_string;
    match what {
        Ask::Enable => said(
            auth.auth_enable(with(token, AuthEnableRequest {})).await,
            ok,
        ),
        Ask::Disable => said(
            auth.auth_disable(with(token, AuthDisableRequest {})).await,
            ok,
        ),
        Ask::Status => said(
            auth.auth_status(with(token, AuthStatusRequest {})).await,
            |answer| format!("{} at {}", answer.enabled, answer.auth_revision),
        ),
        Ask::UserAdd(user, password) => {
            let request = AuthUserAddRequest {
                name: name(&user),
                password: name(&password),
                ..Default::default()
            };
            said(auth.user_add(with(token, request)).await, ok)
        }
        Ask::UserAddNoPassword(user) => {
            let request = AuthUserAddRequest {
                name: name(&user),
                options: Some(UserAddOptions { no_password: true }),
                ..Default::default()
            };
            said(auth.user_add(with(token, request)).await, ok)
        }
        Ask::UserGet(user) => {
            let request = AuthUserGetRequest { name: name(&user) };
            said(auth.user_get(with(token, request)).await, |answer| {
                answer.roles.join(",")
            })
        }
        Ask::UserList => said(
            auth.user_list(with(token, AuthUserListRequest {})).await,
            |answer| answer.users.join(","),
        ),
        Ask::UserDelete(user) => {
            let request = AuthUserDeleteRequest { name: name(&user) };
            said(auth.user_delete(with(token, request)).await, ok)
        }
        Ask::ChangePassword(user, password) => {
            let request = AuthUserChangePasswordRequest {
                name: name(&user),
                password: name(&password),
                ..Default::default()
            };
            said(auth.user_change_password(with(token, request)).await, ok)
        }
        Ask::GrantRole(user, role) => {
            let (user, role) = (name(&user), name(&role));
            let request = AuthUserGrantRoleRequest { user, role };
            said(auth.user_grant_role(with(token, request)).await, ok)
        }
        Ask::RevokeRole(user, role) => {
            let request = AuthUserRevokeRoleRequest {
                name: name(&user),
                role: name(&role),
            };
            said(auth.user_revoke_role(with(token, request)).await, ok)
        }
        Ask::RoleAdd(role) => {
            let request = AuthRoleAddRequest { name: name(&role) };
            said(auth.role_add(with(token, request)).await, ok)
        }
        Ask::RoleGet(role) => {
            let request = AuthRoleGetRequest { role: name(&role) };
            said(auth.role_get(with(token, request)).await, |answer| {
                let permission = |permission: &Permission| {
                    let (key, end) = (&permission.key, &permission.range_end);
                    format!("{:?} {key:?}..{end:?}", permission.perm_type())
                };
                let permissions: Vec<String> = answer.perm.iter().map(permission).collect();
                permissions.join(", ")
            })
        }
        Ask::RoleList => said(
            auth.role_list(with(token, AuthRoleListRequest {})).await,
            |answer| answer.roles.join(","),
        ),
        Ask::RoleDelete(role) => {
            let request = AuthRoleDeleteRequest { role: name(&role) };
            said(auth.role_delete(with(token, request)).await, ok)
        }
        Ask::Grant(role, permission) => {
            let perm = permission.map(|(kind, from, end)| Permission {
                perm_type: kind,
                key: key(from),
                range_end: key(end),
            });
            let request = AuthRoleGrantPermissionRequest {
                name: name(&role),
                perm,
            };
            said(auth.role_grant_permission(with(token, request)).await, ok)
        }
        Ask::Revoke(role, from, end) => {
            let request = AuthRoleRevokePermissionRequest {
                role: name(&role),
                key: key(from),
                range_end: key(end),
            };
            said(auth.role_revoke_permission(with(token, request)).await, ok)
        }
        Ask::Get(from, end) => {
            let request = RangeRequest {
                key: key(from),
                range_end: key(end),
                serializable: from.len() % 2 == 0,
                ..Default::default()
            };
            said(kv.range(with(token, request)).await, ok)
        }
        Ask::Put(at) => {
            let request = PutRequest {
                key: key(at),
                ..Default::default()
            };
            said(kv.put(with(token, request)).await, ok)
        }
        Ask::PutPrevious(at) => {
            let request = PutRequest {
                key: key(at),
                prev_kv: true,
                ..Default::default()
            };
            said(kv.put(with(token, request)).await, ok)
        }
        Ask::PutOn(at, lease) => {
            let request = PutRequest {
                key: key(at),
                lease,
                ..Default::default()
            };
            said(kv.put(with(token, request)).await, ok)
        }
        Ask::Delete(from, end) => {
            let request = DeleteRangeRequest {
                key: key(from),
                range_end: key(end),
                prev_kv: false,
            };
            said(kv.delete_range(with(token, request)).await, ok)
        }
        Ask::DeletePrevious(at) => {
            let request = DeleteRangeRequest {
                key: key(at),
                prev_kv: true,
                ..Default::default()
            };
            said(kv.delete_range(with(token, request)).await, ok)
        }
        Ask::Txn {
            compare,
            get,
            put,
            else_delete,
        } => {
            let op = |operation| RequestOp {
                request: Some(operation),
            };
            let request = TxnRequest {
                compare: vec![Compare {
                    key: key(compare),
                    result: CompareResult::Greater.into(),
                    target: CompareTarget::Version.into(),
                    target_union: Some(TargetUnion::Version(-1)),
                    ..Default::default()
                }],
                success: vec![
                    op(Operation::RequestRange(RangeRequest {
                        key: key(get),
                        ..Default::default()
                    })),
                    op(Operation::RequestPut(PutRequest {
                        key: key(put),
                        ..Default::default()
                    })),
                ],
                failure: vec![op(Operation::RequestDeleteRange(DeleteRangeRequest {
                    key: key(else_delete),
                    ..Default::default()
                }))],
            };
            said(kv.txn(with(token, request)).await, ok)
        }
        Ask::Compact(revision) => {
            let request = CompactionRequest {
                revision,
                physical: false,
            };
            said(kv.compact(with(token, request)).await, ok)
        }
        Ask::LeaseGrant(id) => {
            let request = LeaseGrantRequest { id, ttl: 600 };
            said(lease.lease_grant(with(token, request)).await, ok)
        }
        Ask::LeaseRevoke(id) => {
            let request = LeaseRevokeRequest { id };
            said(lease.lease_revoke(with(token, request)).await, ok)
        }
        Ask::LeaseTimeToLive(id, keys) => {
            let request = LeaseTimeToLiveRequest { id, keys };
            said(lease.lease_time_to_live(with(token, request)).await, ok)
        }
        Ask::LeaseList => said(
            lease.lease_leases(with(token, LeaseLeasesRequest {})).await,
            ok,
        ),
        Ask::MemberList => {
            let request = MemberListRequest { linearizable: true };
            said(
                client
                    .cluster
                    .clone()
                    .member_list(with(token, request))
                    .await,
                ok,
            )
        }
        Ask::MemberStatus => said(maintenance.status(with(token, StatusRequest {})).await, ok),
        Ask::AlarmList => said(
            maintenance
                .alarm(with(token, AlarmRequest::default()))
                .await,
            ok,
        ),
        Ask::Defragment => said(
            maintenance
                .defragment(with(token, DefragmentRequest {}))
                .await,
            ok,
        ),
        Ask::HashKv => said(
            maintenance
                .hash_kv(with(token, HashKvRequest { revision: 0 }))
                .await,
            ok,
        ),
    }
}

async fn authenticate(client: &Client, user: &str, password: &str) -> Result<String, String> {
    let request = AuthenticateRequest {
        name: user.to_owned(),
        password: password.to_owned(),
    };
    match client.auth.clone().authenticate(request).await {
        Ok(answer) => Ok(answer.into_inner().token),
        Err(status) => Err(refused(&status)),
    }
}

/// Asks a list of things of a fresh member, and compares what is said.
async fn expect(product: Product, client: &Client, token: &str, list: Vec<(Ask<'_>, &str)>) {
    for (number, (what, expected)) in list.into_iter().enumerate() {
        let answer = ask(client, token, what).await;
        assert_eq!(answer, expected, "{product:?}, number {number}");
    }
}

/// Bcrypt takes as little time as it may.
const CHEAP: [&str; 2] = ["--bcrypt-cost", "4"];

async fn start(product: Product) -> (Member, Client) {
    let member = Member::start_on(product, Folder::new(), &CHEAP).await;
    let client = member.client();
    (member, client)
}

/// A root with a password, authorization on, and root's token.
async fn enabled(product: Product) -> (Member, Client, String) {
    let (member, client) = start(product).await;
    let list = vec![
        (Ask::UserAdd("root", "rootpw"), "ok"),
        (Ask::GrantRole("root", "root"), "ok"),
        (Ask::Enable, "ok"),
    ];
    expect(product, &client, "", list).await;
    let root = authenticate(&client, "root", "rootpw")
        .await
        .expect("let in");
    (member, client, root)
}

/// [AU-1], [AU-2], [AU-3], [AU-4], [AU-13]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_and_roles_are_kept_as_etcd_keeps_them() {
    let exists = "FailedPrecondition: etcdserver: user name already exists";
    let no_user = "FailedPrecondition: etcdserver: user name not found";
    let no_role = "FailedPrecondition: etcdserver: role name not found";
    let (read, write, both_kinds) = (Read as i32, Write as i32, Readwrite as i32);
    for product in both() {
        let (_member, client) = start(product).await;
        let list = vec![
            (Ask::Status, "false at 1"),
            (
                Ask::Enable,
                "FailedPrecondition: etcdserver: root user does not exist",
            ),
            (Ask::UserAdd("", "x"), USER_EMPTY),
            (Ask::UserAdd("zoe", "pw"), "ok"),
            (Ask::UserAdd("zoe", "pw"), exists),
            (Ask::UserAddNoPassword("adam"), "ok"),
            (Ask::UserAdd("root", ""), "ok"),
            (Ask::UserList, "adam,root,zoe"),
            (Ask::Status, "false at 4"),
            (
                Ask::Enable,
                "FailedPrecondition: etcdserver: root user does not have root role",
            ),
            (Ask::UserGet("nobody"), no_user),
            (
                Ask::RoleAdd(""),
                "InvalidArgument: etcdserver: role name is empty",
            ),
            (Ask::RoleAdd("r"), "ok"),
            (Ask::RoleAdd("q"), "ok"),
            (
                Ask::RoleAdd("r"),
                "FailedPrecondition: etcdserver: role name already exists",
            ),
            (Ask::RoleList, "q,r"),
            (Ask::RoleGet("root"), no_role),
            (Ask::GrantRole("zoe", "nothing"), no_role),
            (Ask::GrantRole("nobody", "r"), no_user),
            (Ask::GrantRole("zoe", "r"), "ok"),
            (Ask::GrantRole("zoe", "q"), "ok"),
            (Ask::Status, "false at 8"),
            (Ask::GrantRole("zoe", "r"), "ok"),
            (Ask::Status, "false at 8"),
            (Ask::UserGet("zoe"), "q,r"),
            (Ask::GrantRole("root", "root"), "ok"),
            (
                Ask::RevokeRole("zoe", "root"),
                "FailedPrecondition: etcdserver: role is not granted to the user",
            ),
            (Ask::RevokeRole("zoe", "q"), "ok"),
            (
                Ask::Grant("r", None),
                "InvalidArgument: etcdserver: permission not given",
            ),
            (Ask::Grant("none", Some((read, "a", ""))), no_role),
            (Ask::Grant("r", Some((read, "", ""))), INVALID_MANAGEMENT),
            (Ask::Grant("r", Some((read, "b", "a"))), INVALID_MANAGEMENT),
            (Ask::Grant("r", Some((read, "b", "b"))), INVALID_MANAGEMENT),
            (Ask::Grant("r", Some((read, "b", "c"))), "ok"),
            (Ask::Grant("r", Some((write, "a", ""))), "ok"),
            (Ask::Grant("r", Some((both_kinds, "z", "\0"))), "ok"),
            (Ask::Grant("r", Some((both_kinds, "b", "c"))), "ok"),
            (
                Ask::RoleGet("r"),
                r#"Write b"a"..b"", Readwrite b"b"..b"c", Readwrite b"z"..b"\0""#,
            ),
            (
                Ask::Revoke("r", "b", "d"),
                "FailedPrecondition: etcdserver: permission is not granted to the role",
            ),
            (Ask::Revoke("none", "b", "c"), no_role),
            (Ask::Revoke("r", "b", "c"), "ok"),
            (
                Ask::RoleGet("r"),
                r#"Write b"a"..b"", Readwrite b"z"..b"\0""#,
            ),
            (Ask::RoleDelete("none"), no_role),
            (Ask::RoleDelete("r"), "ok"),
            (Ask::UserGet("zoe"), ""),
            (Ask::ChangePassword("nobody", "x"), no_user),
            (Ask::ChangePassword("zoe", "x"), "ok"),
            (Ask::UserDelete("nobody"), no_user),
            (Ask::UserDelete("zoe"), "ok"),
            (Ask::Status, "false at 18"),
            (Ask::Disable, "ok"),
            (Ask::Enable, "ok"),
        ];
        expect(product, &client, "", list).await;
        let root = authenticate(&client, "root", "")
            .await
            .expect("an empty password");
        let list = vec![
            (Ask::Enable, "ok"),
            (Ask::Status, "true at 18"),
            (Ask::UserDelete("root"), INVALID_MANAGEMENT),
            (Ask::RevokeRole("root", "root"), INVALID_MANAGEMENT),
            (Ask::RoleDelete("root"), INVALID_MANAGEMENT),
            (Ask::RoleAdd("root"), "ok"),
            (Ask::Disable, "ok"),
            (Ask::Status, "false at 20"),
        ];
        expect(product, &client, &root, list).await;
    }
}

/// [AU-5], [AU-7], [AU-8], [AU-9], [AU-10], [AU-16]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_come_in_by_password_and_stay_by_token() {
    for product in both() {
        let (_member, client) = start(product).await;
        let off = "FailedPrecondition: etcdserver: authentication is not enabled";
        assert_eq!(authenticate(&client, "a", "b").await, Err(off.to_owned()));
        // Whatever token comes is not looked at.
        expect(product, &client, "nonsense", vec![(Ask::Put("a"), "ok")]).await;
        let (_member, client, root) = enabled(product).await;
        let (letters, index) = root.split_once('.').expect("two parts");
        assert!(
            letters.len() == 16 && letters.bytes().all(|b| b.is_ascii_alphabetic()),
            "{root}"
        );
        assert!(index.parse::<u64>().is_ok(), "{root}");
        for (user, password) in [("root", "wrong"), ("root", ""), ("nobody", "rootpw")] {
            let refused = authenticate(&client, user, password).await;
            assert_eq!(refused, Err(AUTH_FAILED.to_owned()), "{product:?}");
        }
        let list = vec![
            (Ask::UserAddNoPassword("cn"), "ok"),
            (Ask::UserAdd("u", "pw"), "ok"),
        ];
        expect(product, &client, &root, list).await;
        let no_password =
            "Unknown: auth: authentication failed, password was given for no password user";
        assert_eq!(
            authenticate(&client, "cn", "x").await,
            Err(no_password.to_owned())
        );
        let long = "p".repeat(73);
        let too_long = "Unknown: bcrypt: password length exceeds 72 bytes";
        let list = vec![(Ask::UserAdd("long", &long), too_long)];
        expect(product, &client, &root, list).await;
        let user = authenticate(&client, "u", "pw").await.expect("let in");
        expect(product, &client, &user, vec![(Ask::UserGet("u"), "")]).await;
        expect(
            product,
            &client,
            &root,
            vec![(Ask::ChangePassword("u", "other"), "ok")],
        )
        .await;
        // Its tokens end with its password.
        expect(
            product,
            &client,
            &user,
            vec![(Ask::UserGet("u"), INVALID_TOKEN)],
        )
        .await;
        let list = vec![(Ask::Put("a"), USER_EMPTY), (Ask::UserList, USER_EMPTY)];
        expect(product, &client, "", list).await;
        expect(
            product,
            &client,
            "nonsense",
            vec![(Ask::Put("a"), INVALID_TOKEN)],
        )
        .await;
        let mut request = Request::new(AuthUserListRequest {});
        let token = root.parse().expect("ASCII");
        request.metadata_mut().insert("authorization", token);
        let listed = client.auth.clone().user_list(request).await;
        listed.expect("the token of root");
        expect(
            product,
            &client,
            &root,
            vec![(Ask::Disable, "ok"), (Ask::Put("a"), "ok")],
        )
        .await;
        expect(product, &client, "", vec![(Ask::Put("a"), "ok")]).await;
    }
}

/// [AU-3], [AU-14], [AU-15], [AU-17], [AU-18]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_do_what_their_roles_permit_and_nothing_else() {
    let (read, write) = (Read as i32, Write as i32);
    for product in both() {
        let (_member, client, root) = enabled(product).await;
        let list = vec![
            (Ask::UserAdd("u", "pw"), "ok"),
            (Ask::RoleAdd("r"), "ok"),
            (Ask::RoleAdd("s"), "ok"),
            (Ask::GrantRole("u", "r"), "ok"),
            (Ask::GrantRole("u", "s"), "ok"),
            (Ask::Grant("r", Some((read, "a", "c"))), "ok"),
            (Ask::Grant("s", Some((read, "c", "f"))), "ok"),
            (Ask::Grant("r", Some((write, "w", "x"))), "ok"),
            (Ask::Grant("s", Some((Readwrite as i32, "z", ""))), "ok"),
            (Ask::LeaseGrant(7), "ok"),
            (Ask::LeaseGrant(8), "ok"),
            (Ask::PutOn("forbidden", 7), "ok"),
            (Ask::Put("a"), "ok"),
        ];
        expect(product, &client, &root, list).await;
        let user = authenticate(&client, "u", "pw").await.expect("let in");
        let txn = |compare, get, put, else_delete| Ask::Txn {
            compare,
            get,
            put,
            else_delete,
        };
        let list = vec![
            (Ask::Get("a", ""), "ok"),
            (Ask::Get("bb", "e"), "ok"),
            (Ask::Get("a", "g"), DENIED),
            (Ask::Get("a", "\0"), DENIED),
            (Ask::Get("ww", ""), DENIED),
            (Ask::Get("z", ""), "ok"),
            (Ask::Get("z", "zz"), DENIED),
            (Ask::Put("w"), "ok"),
            (Ask::Put("a"), DENIED),
            (Ask::PutPrevious("w"), DENIED),
            (Ask::PutPrevious("z"), "ok"),
            (Ask::Delete("w", "wz"), "ok"),
            (Ask::Delete("v", "wz"), DENIED),
            (Ask::DeletePrevious("w"), DENIED),
            (Ask::DeletePrevious("z"), "ok"),
            (txn("a", "b", "w", "z"), "ok"),
            (txn("x", "b", "w", "z"), DENIED),
            (txn("a", "x", "w", "z"), DENIED),
            (txn("a", "b", "b", "z"), DENIED),
            (txn("a", "b", "w", "b"), DENIED),
            (Ask::PutOn("w", 8), "ok"),
            (Ask::PutOn("w", 7), DENIED),
            (
                Ask::PutOn("w", 99),
                "NotFound: etcdserver: requested lease not found",
            ),
            (Ask::LeaseGrant(9), "ok"),
            (Ask::LeaseTimeToLive(7, false), "ok"),
            (Ask::LeaseTimeToLive(7, true), DENIED),
            (Ask::LeaseRevoke(7), DENIED),
            (Ask::LeaseRevoke(8), "ok"),
            (Ask::LeaseList, DENIED),
            (Ask::MemberList, "ok"),
            (Ask::UserList, DENIED),
            (Ask::UserGet("u"), "r,s"),
            (Ask::UserGet("root"), DENIED),
            (Ask::RoleGet("r"), r#"Read b"a"..b"c", Write b"w"..b"x""#),
            (Ask::RoleGet("none"), DENIED),
            (Ask::UserAdd("v", ""), DENIED),
            (Ask::Disable, DENIED),
        ];
        expect(product, &client, &user, list).await;
        let list = vec![
            (Ask::Get("a", "\0"), "ok"),
            (Ask::LeaseList, "ok"),
            (Ask::LeaseRevoke(7), "ok"),
            (Ask::Compact(2), "ok"),
            (Ask::Defragment, "ok"),
            (Ask::HashKv, "ok"),
        ];
        expect(product, &client, &root, list).await;
        let list = vec![
            (Ask::Get("a", ""), USER_EMPTY),
            (Ask::LeaseGrant(10), USER_EMPTY),
            (Ask::MemberList, USER_EMPTY),
        ];
        expect(product, &client, "", list).await;
    }
}

/// [AU-9], [AU-18], [KV-41]: as etcd 3.7 has it. The etcd of the tests lets everybody compact, and asks
/// for root where any user will do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_permissions_are_those_of_later_releases() {
    let (_member, client, root) = enabled(Product::Holdfast).await;
    let list = vec![(Ask::UserAdd("u", "pw"), "ok"), (Ask::Put("a"), "ok")];
    expect(Product::Holdfast, &client, &root, list).await;
    let user = authenticate(&client, "u", "pw").await.expect("let in");
    let list = vec![
        (Ask::Compact(2), DENIED),
        (Ask::Defragment, DENIED),
        (Ask::HashKv, DENIED),
        (Ask::Status, "true at 4"),
        (Ask::MemberStatus, "ok"),
        (Ask::AlarmList, "ok"),
    ];
    expect(Product::Holdfast, &client, &user, list).await;
    let list = vec![
        (Ask::Status, "true at 4"),
        (Ask::MemberStatus, USER_EMPTY),
        (Ask::AlarmList, USER_EMPTY),
    ];
    expect(Product::Holdfast, &client, "", list).await;
    let list = vec![
        (Ask::Compact(2), "ok"),
        (Ask::RoleAdd("root"), "ok"),
        (Ask::RoleGet("root"), r#"Readwrite b""..b"\0""#),
    ];
    expect(Product::Holdfast, &client, &root, list).await;
    let mut request = Request::new(AuthUserListRequest {});
    let bearer = format!("Bearer {root}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", bearer);
    let listed = client.auth.clone().user_list(request).await;
    listed.expect("the token of root");
}

/// [WA-4], [WA-5], [W12]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_needs_permission_when_it_is_created_and_not_later() {
    for product in both() {
        let (_member, client, root) = enabled(product).await;
        let list = vec![
            (Ask::UserAdd("u", "pw"), "ok"),
            (Ask::RoleAdd("r"), "ok"),
            (Ask::GrantRole("u", "r"), "ok"),
            (Ask::Grant("r", Some((Read as i32, "a", "c"))), "ok"),
        ];
        expect(product, &client, &root, list).await;
        let user = authenticate(&client, "u", "pw").await.expect("let in");
        let mut stream = Watching::open_with(&client, &user, watch("a", "b", 0)).await;
        assert!(!stream.created().await.canceled, "{product:?}");
        stream.create(watch("a", "d", 0));
        let denied = stream.created().await;
        let text = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(
            (denied.watch_id, denied.cancel_reason.as_str()),
            (-1, text),
            "{product:?}"
        );
        let list = vec![(Ask::RevokeRole("u", "r"), "ok"), (Ask::Put("a"), "ok")];
        expect(product, &client, &root, list).await;
        assert_eq!(stream.next().await.events.len(), 1, "{product:?}");

        let mut nobody = Watching::open(&client, watch("a", "", 0)).await;
        let text = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
        assert_eq!(nobody.created().await.cancel_reason, text, "{product:?}");
        let mut stranger = Watching::open_with(&client, "nonsense", watch("a", "", 0)).await;
        let text = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        assert_eq!(stranger.created().await.cancel_reason, text, "{product:?}");
    }
}

/// A lease ends with its keys although nobody asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_run_out_with_authorization_on() {
    for product in both() {
        let (_member, client, root) = enabled(product).await;
        let request = LeaseGrantRequest { id: 5, ttl: 2 };
        client
            .lease
            .clone()
            .lease_grant(with(&root, request))
            .await
            .expect("granted");
        expect(product, &client, &root, vec![(Ask::PutOn("a", 5), "ok")]).await;
        let started = tokio::time::Instant::now();
        loop {
            let request = RangeRequest {
                key: key("a"),
                ..Default::default()
            };
            let found = client
                .kv
                .clone()
                .range(with(&root, request))
                .await
                .expect("root reads");
            if found.into_inner().kvs.is_empty() {
                break;
            }
            assert!(started.elapsed().as_secs() < 20, "{product:?}");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

/// [AU-1], [AU-10]: with authorization on, a directory moves both ways; tokens stay behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_move_with_the_data_directory_both_ways() {
    let ours = Product::Holdfast;
    let theirs = Product::Etcd(EtcdVersion::V3_5);
    for (from, to) in [(ours, theirs), (theirs, ours)] {
        let (member, client, root) = enabled(from).await;
        let list = vec![
            (Ask::UserAdd("u", "pw"), "ok"),
            (Ask::RoleAdd("r"), "ok"),
            (Ask::GrantRole("u", "r"), "ok"),
            (Ask::Grant("r", Some((Write as i32, "a", "c"))), "ok"),
        ];
        expect(from, &client, &root, list).await;
        let folder = member.stop();
        let member = Member::start_on(to, folder, &CHEAP).await;
        let client = member.client();
        expect(to, &client, &root, vec![(Ask::Put("a"), INVALID_TOKEN)]).await;
        let user = authenticate(&client, "u", "pw").await.expect("let in");
        let list = vec![(Ask::Put("b"), "ok"), (Ask::Put("c"), DENIED)];
        expect(to, &client, &user, list).await;
    }
}

/// Runs the conversation of an operator with etcd's own tool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_manages_users_and_roles() {
    for product in both() {
        let (member, _) = start(product).await;
        let run = |user: &str, arguments: &str| {
            let user = (!user.is_empty()).then(|| format!("--user={user}"));
            let arguments = arguments.split(' ').map(ToString::to_string);
            etcdctl(
                EtcdVersion::V3_5,
                &member.endpoint(),
                user.into_iter().chain(arguments),
            )
        };
        let conversation = [
            (
                "",
                "auth status",
                "Authentication Status: false\nAuthRevision: 1\n",
            ),
            ("", "user add root:pw", "User root created\n"),
            (
                "",
                "user grant-role root root",
                "Role root is granted to user root\n",
            ),
            ("", "auth enable", "Authentication Enabled\n"),
            ("root:pw", "role add r", "Role r created\n"),
            (
                "root:pw",
                "role grant-permission r --prefix=true readwrite a/",
                "Role r updated\n",
            ),
            ("root:pw", "user add u:pw", "User u created\n"),
            (
                "root:pw",
                "user grant-role u r",
                "Role r is granted to user u\n",
            ),
            ("root:pw", "user list", "root\nu\n"),
            ("root:pw", "user get u", "User: u\nRoles: r\n"),
            ("root:pw", "role list", "r\n"),
            ("u:pw", "put a/1 x", "OK\n"),
            ("u:pw", "get --prefix a/", "a/1\nx\n"),
            ("u:pw", "role get r", ROLE_R),
            (
                "root:pw",
                "role revoke-permission r --prefix=true a/",
                "Permission of range [a/, a0) is revoked from role r\n",
            ),
            (
                "root:pw",
                "user revoke-role u r",
                "Role r is revoked from user u\n",
            ),
            ("root:pw", "role delete r", "Role r deleted\n"),
            ("root:pw", "user delete u", "User u deleted\n"),
            (
                "root:pw",
                "auth status",
                "Authentication Status: true\nAuthRevision: 11\n",
            ),
            ("root:pw", "auth disable", "Authentication Disabled\n"),
            ("", "get a/1", "a/1\nx\n"),
        ];
        for (user, arguments, expected) in conversation {
            assert_eq!(run(user, arguments), expected, "{product:?}: {arguments}");
        }
    }
}

/// [AU-18]: Lock and Election need what they do on behalf of their client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_needs_permission_for_its_keys() {
    for product in both() {
        let (_member, client, root) = enabled(product).await;
        let list = vec![
            (Ask::UserAdd("u", "pw"), "ok"),
            (Ask::RoleAdd("r"), "ok"),
            (Ask::GrantRole("u", "r"), "ok"),
            (Ask::Grant("r", Some((Readwrite as i32, "a", "b"))), "ok"),
        ];
        expect(product, &client, &root, list).await;
        let user = authenticate(&client, "u", "pw").await.expect("let in");
        let lock = async |token: &str, name: &str| {
            let request = LockRequest {
                name: key(name),
                lease: 0,
            };
            said(client.lock.clone().lock(with(token, request)).await, ok)
        };
        assert_eq!(lock(&user, "a").await, "ok", "{product:?}");
        for (token, name) in [(user.as_str(), "c"), ("", "a"), ("nonsense", "a")] {
            let refused = lock(token, name).await;
            let expected = match token {
                "" => USER_EMPTY,
                "nonsense" => INVALID_TOKEN,
                _ => DENIED,
            };
            assert!(
                refused.ends_with(expected.split_once(": ").expect("a text").1),
                "{product:?}: {refused}"
            );
        }
    }
}

fn openssl(folder: &Folder, arguments: &str) {
    let status = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder.beside("."))
        .status();
    assert!(
        status.expect("openssl runs").success(),
        "openssl {arguments}"
    );
}

/// [AU-11], [AU-12]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signed_tokens_hold_until_users_change() {
    let keys = Folder::new();
    openssl(&keys, "genpkey -quiet -algorithm RSA -out RS256");
    openssl(
        &keys,
        "genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ES256",
    );
    openssl(&keys, "genpkey -quiet -algorithm ED25519 -out EdDSA");
    std::fs::write(keys.beside("HS256"), "a secret of the tests").expect("written");
    for method in ["RS256", "ES256", "EdDSA", "HS256"] {
        let private = keys.beside(method);
        let mut setting = format!("jwt,sign-method={method},priv-key={}", private.display());
        if method != "HS256" {
            openssl(
                &keys,
                &format!("pkey -in {method} -pubout -out {method}.pub"),
            );
            setting += &format!(",pub-key={}.pub", private.display());
        }

        // etcd has EdDSA from 3.6 on.
        let products = match method {
            "EdDSA" => vec![Product::Holdfast],
            _ => both().to_vec(),
        };
        for product in products {
            let flags = [CHEAP[0], CHEAP[1], "--auth-token", &setting];
            let member = Member::start_on(product, Folder::new(), &flags).await;
            let client = member.client();
            let list = vec![
                (Ask::UserAdd("root", "pw"), "ok"),
                (Ask::GrantRole("root", "root"), "ok"),
                (Ask::Enable, "ok"),
            ];
            expect(product, &client, "", list).await;
            let token = authenticate(&client, "root", "pw").await.expect("let in");
            assert_eq!(token.split('.').count(), 3, "{token}");
            let forged = token.replacen('.', ".A", 2);
            let list = vec![(Ask::Put("a"), INVALID_TOKEN)];
            expect(product, &client, &forged, list).await;
            let list = vec![
                (Ask::Put("a"), "ok"),
                (Ask::UserAdd("u", "pw"), "ok"),
                (Ask::Put("a"), OLD_REVISION),
            ];
            expect(product, &client, &token, list).await;
            // It counts after a restart: nobody has to keep it.
            let token = authenticate(&client, "root", "pw").await.expect("let in");
            let folder = member.stop();
            let member = Member::start_on(product, folder, &flags).await;
            expect(
                product,
                &member.client(),
                &token,
                vec![(Ask::Put("a"), "ok")],
            )
            .await;
        }
    }
}

/// [AU-11]: a private key has the public one with it, and comes in the forms that openssl writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_key_alone_signs_and_checks() {
    let keys = Folder::new();
    let other = "-out other";
    openssl(&keys, "genrsa -traditional -out RS256 2048");
    openssl(&keys, "genpkey -quiet -algorithm RSA -out PS384");
    openssl(&keys, "ecparam -name prime256v1 -genkey -noout -out ES256");
    openssl(&keys, "ecparam -name secp384r1 -genkey -noout -out ES384");
    openssl(&keys, "genpkey -quiet -algorithm ED25519 -out EdDSA");
    openssl(&keys, &format!("genpkey -quiet -algorithm RSA {other}"));
    openssl(&keys, "pkey -in other -pubout -out other.pub");
    for method in ["RS256", "PS384", "ES256", "ES384", "EdDSA"] {
        let private = keys.beside(method);
        let mut setting = format!(
            "--auth-token=jwt,sign-method={method},priv-key={}",
            private.display()
        );
        if method == "RS256" {
            // Of another key, it does not count.
            setting += &format!(",pub-key={}", keys.beside("other.pub").display());
        }
        let products = match method {
            "EdDSA" => vec![Product::Holdfast],
            _ => both().to_vec(),
        };
        for product in products {
            let flags = [CHEAP[0], CHEAP[1], &setting];
            let member = Member::start_on(product, Folder::new(), &flags).await;
            let client = member.client();
            let list = vec![
                (Ask::UserAdd("root", "pw"), "ok"),
                (Ask::GrantRole("root", "root"), "ok"),
                (Ask::LeaseGrant(7), "ok"),
                (Ask::PutOn("a", 7), "ok"),
                (Ask::Enable, "ok"),
            ];
            expect(product, &client, "", list).await;
            let token = authenticate(&client, "root", "pw").await.expect("let in");
            let list = vec![
                (Ask::Put("b"), "ok"),
                (Ask::RoleAdd("r"), "ok"),
                // Linearizable, then serializable.
                (Ask::Get("a", ""), OLD_REVISION),
                (Ask::Get("aa", ""), OLD_REVISION),
                (Ask::RoleAdd("s"), "ok"),
                (Ask::LeaseTimeToLive(7, true), "ok"),
                (Ask::LeaseList, "ok"),
                (Ask::LeaseRevoke(7), "ok"),
            ];
            expect(product, &client, &token, list).await;
        }
    }
}

/// [AU-11], [AU-12]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_to_sign_or_without_tokens_nobody_comes_in() {
    let keys = Folder::new();
    openssl(&keys, "genpkey -quiet -algorithm RSA -out key");
    openssl(&keys, "pkey -in key -pubout -out pub");
    let public = keys.beside("pub");
    let verify_only = format!("jwt,sign-method=RS256,pub-key={}", public.display());
    let cases = [
        (
            verify_only.as_str(),
            "Unknown: auth: token signing attempted with verify-only key",
        ),
        ("", AUTH_FAILED),
    ];
    for (setting, expected) in cases {
        // etcd 3.5 does not start without tokens.
        let products = match setting.is_empty() {
            true => vec![Product::Holdfast],
            false => both().to_vec(),
        };
        for product in products {
            let setting = format!("--auth-token={setting}");
            let flags = [CHEAP[0], CHEAP[1], &setting];
            let member = Member::start_on(product, Folder::new(), &flags).await;
            let client = member.client();
            let off = "FailedPrecondition: etcdserver: authentication is not enabled";
            let refused = authenticate(&client, "root", "pw").await;
            assert_eq!(refused, Err(off.to_owned()), "{product:?}, {setting}");
            let list = vec![
                (Ask::UserAdd("root", "pw"), "ok"),
                (Ask::GrantRole("root", "root"), "ok"),
                (Ask::Enable, "ok"),
            ];
            expect(product, &client, "", list).await;
            let refused = authenticate(&client, "root", "wrong").await;
            assert_eq!(
                refused,
                Err(AUTH_FAILED.to_owned()),
                "{product:?}, {setting}"
            );
            let refused = authenticate(&client, "root", "pw").await;
            assert_eq!(refused, Err(expected.to_owned()), "{product:?}, {setting}");
        }
    }
}

/// Neither in the operator's log, at its most talkative, nor in the log of writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_password_and_no_token_is_ever_written_down() {
    let flags = [CHEAP[0], CHEAP[1], "--log-level", "debug"];
    let member = Member::start_on(Product::Holdfast, Folder::new(), &flags).await;
    let client = member.client();
    let list = vec![
        (Ask::UserAdd("root", "very-secret-1"), "ok"),
        (Ask::GrantRole("root", "root"), "ok"),
        (Ask::Enable, "ok"),
    ];
    expect(Product::Holdfast, &client, "", list).await;
    let token = authenticate(&client, "root", "very-secret-1")
        .await
        .expect("let in");
    authenticate(&client, "root", "very-secret-2")
        .await
        .expect_err("another password");
    let list = vec![
        (Ask::ChangePassword("root", "very-secret-3"), "ok"),
        (Ask::Put("a"), INVALID_TOKEN),
    ];
    expect(Product::Holdfast, &client, &token, list).await;
    let (letters, _) = token.split_once('.').expect("two parts");
    let log = member.log();
    for secret in ["very-secret", letters] {
        assert!(!log.contains(secret), "the log holds a secret");
    }
    let folder = member.stop();
    let mut files = vec![folder.data()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("readable");
            files.extend(entries.map(|entry| entry.expect("readable").path()));
            continue;
        }
        let content = std::fs::read(&path).expect("readable");
        let holds = |secret: &[u8]| content.windows(secret.len()).any(|part| part == secret);
        assert!(
            !holds(b"very-secret"),
            "{} holds a password",
            path.display()
        );
    }
}
