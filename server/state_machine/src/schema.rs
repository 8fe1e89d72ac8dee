//! Names of the buckets and of their fixed keys, as etcd 3.4 to 3.7 have them.

use bytes::Bytes;

/// Records of the key space, by revision; `mvcc` reads and writes them.
pub const KEY: &str = "key";
/// Applied index, configuration, compaction marks.
pub const META: &str = "meta";
/// Leases by id.
pub const LEASE: &str = "lease";
/// Active alarms; each key is an encoded `AlarmMember`, values are empty.
pub const ALARM: &str = "alarm";
/// Whether authorization is on, and its revision.
pub const AUTH: &str = "auth";
/// Users by name.
pub const AUTH_USERS: &str = "authUsers";
/// Roles by name.
pub const AUTH_ROLES: &str = "authRoles";
/// Members by hexadecimal id; values are JSON.
pub const MEMBERS: &str = "members";
/// Ids of members that were removed.
pub const MEMBERS_REMOVED: &str = "members_removed";
/// Cluster version and downgrade state.
pub const CLUSTER: &str = "cluster";

/// All buckets; every one of them exists from the first start on.
pub const ALL_BUCKETS: [&str; 10] = [
    KEY,
    META,
    LEASE,
    ALARM,
    AUTH,
    AUTH_USERS,
    AUTH_ROLES,
    MEMBERS,
    MEMBERS_REMOVED,
    CLUSTER,
];

/// In [`META`]: raft index of the last applied entry, 8 bytes, big endian.
pub const CONSISTENT_INDEX: &[u8] = b"consistent_index";
/// In [`META`]: raft term of that entry, 8 bytes, big endian.
pub const TERM: &[u8] = b"term";
/// In [`META`]: raft's configuration as JSON.
pub const CONF_STATE: &[u8] = b"confState";
/// In [`META`]: level of the file's fields as text; absent at the level of etcd 3.5.
pub const STORAGE_VERSION: &[u8] = b"storageVersion";
/// In [`CLUSTER`]: the cluster's version as text, `X.Y.0`.
pub const CLUSTER_VERSION: &[u8] = b"clusterVersion";
/// In [`CLUSTER`]: a downgrade under way, as JSON.
pub const DOWNGRADE: &[u8] = b"downgrade";
/// In [`AUTH`]: one byte, 1 when authorization is on.
pub const AUTH_ENABLED: &[u8] = b"authEnabled";
/// In [`AUTH`]: 8 bytes, big endian; 1 in a fresh store.
pub const AUTH_REVISION: &[u8] = b"authRevision";

/// Eight bytes, big endian, as [`META`] and [`AUTH`] keep numbers.
pub fn encode_u64(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// Reads [`encode_u64`]'s form; `None` unless eight bytes are given.
pub fn decode_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
