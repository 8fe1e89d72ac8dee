//! Which path of the gateway stands for which call.

/// Each service, with the paths of its methods.
const PATHS: &[(&str, &[(&str, &str)])] = &[
    (
        "etcdserverpb.KV",
        &[
            ("/v3/kv/range", "Range"),
            ("/v3/kv/put", "Put"),
            ("/v3/kv/deleterange", "DeleteRange"),
            ("/v3/kv/txn", "Txn"),
            ("/v3/kv/compaction", "Compact"),
        ],
    ),
    ("etcdserverpb.Watch", &[("/v3/watch", "Watch")]),
    (
        "etcdserverpb.Lease",
        &[
            ("/v3/lease/grant", "LeaseGrant"),
            ("/v3/lease/revoke", "LeaseRevoke"),
            ("/v3/kv/lease/revoke", "LeaseRevoke"),
            ("/v3/lease/keepalive", "LeaseKeepAlive"),
            ("/v3/lease/timetolive", "LeaseTimeToLive"),
            ("/v3/kv/lease/timetolive", "LeaseTimeToLive"),
            ("/v3/lease/leases", "LeaseLeases"),
            ("/v3/kv/lease/leases", "LeaseLeases"),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("/v3/cluster/member/add", "MemberAdd"),
            ("/v3/cluster/member/remove", "MemberRemove"),
            ("/v3/cluster/member/update", "MemberUpdate"),
            ("/v3/cluster/member/list", "MemberList"),
            ("/v3/cluster/member/promote", "MemberPromote"),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("/v3/maintenance/alarm", "Alarm"),
            ("/v3/maintenance/status", "Status"),
            ("/v3/maintenance/defragment", "Defragment"),
            ("/v3/maintenance/hash", "Hash"),
            ("/v3/maintenance/hashkv", "HashKV"),
            ("/v3/maintenance/snapshot", "Snapshot"),
            ("/v3/maintenance/transfer-leadership", "MoveLeader"),
            ("/v3/maintenance/downgrade", "Downgrade"),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("/v3/auth/enable", "AuthEnable"),
            ("/v3/auth/disable", "AuthDisable"),
            ("/v3/auth/status", "AuthStatus"),
            ("/v3/auth/authenticate", "Authenticate"),
            ("/v3/auth/user/add", "UserAdd"),
            ("/v3/auth/user/get", "UserGet"),
            ("/v3/auth/user/list", "UserList"),
            ("/v3/auth/user/delete", "UserDelete"),
            ("/v3/auth/user/changepw", "UserChangePassword"),
            ("/v3/auth/user/grant", "UserGrantRole"),
            ("/v3/auth/user/revoke", "UserRevokeRole"),
            ("/v3/auth/role/add", "RoleAdd"),
            ("/v3/auth/role/get", "RoleGet"),
            ("/v3/auth/role/list", "RoleList"),
            ("/v3/auth/role/delete", "RoleDelete"),
            ("/v3/auth/role/grant", "RoleGrantPermission"),
            ("/v3/auth/role/revoke", "RoleRevokePermission"),
        ],
    ),
    (
        "v3lockpb.Lock",
        &[("/v3/lock/lock", "Lock"), ("/v3/lock/unlock", "Unlock")],
    ),
    (
        "v3electionpb.Election",
        &[
            ("/v3/election/campaign", "Campaign"),
            ("/v3/election/proclaim", "Proclaim"),
            ("/v3/election/leader", "Leader"),
            ("/v3/election/observe", "Observe"),
            ("/v3/election/resign", "Resign"),
        ],
    ),
];

/// The service and method of a path.
pub(super) fn find(path: &str) -> Option<(&'static str, &'static str)> {
    PATHS.iter().find_map(|(service, methods)| {
        let found = methods.iter().find(|(known, _)| *known == path);
        found.map(|(_, method)| (*service, *method))
    })
}

/// All of them.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    let methods = |(service, methods): &(&'static str, &'static [(&str, &'static str)])| {
        let service = *service;
        methods.iter().map(move |(_, method)| (service, *method))
    };
    PATHS.iter().flat_map(methods)
}
