//! Counts of gRPC calls: `grpc_server_*`, `etcd_server_client_requests_total` and the clients'
//! traffic.

use std::collections::HashMap;
use std::sync::RwLock;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Clients name their version themselves; beyond this many names they count as one.
const CLIENT_VERSIONS_MAX: usize = 64;
/// What counts as a client's version when it names none, or one too many.
const CLIENT_VERSION_UNKNOWN: &str = "unknown";
const CLIENT_VERSION_BYTES_MAX: usize = 32;

/// The names of gRPC's codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CODE_UNKNOWN: usize = 2;

const UNARY: &str = "unary";
const SERVER_STREAM: &str = "server_stream";
const BIDI_STREAM: &str = "bidi_stream";

/// Methods of one type.
type Methods = (&'static str, &'static [&'static str]);

/// The services of a client listener: name, and methods by type.
const SERVICES: &[(&str, &[Methods])] = &[
    (
        "etcdserverpb.KV",
        &[(UNARY, &["Range", "Put", "DeleteRange", "Txn", "Compact"])],
    ),
    ("etcdserverpb.Watch", &[(BIDI_STREAM, &["Watch"])]),
    (
        "etcdserverpb.Lease",
        &[
            (
                UNARY,
                &[
                    "LeaseGrant",
                    "LeaseRevoke",
                    "LeaseTimeToLive",
                    "LeaseLeases",
                ],
            ),
            (BIDI_STREAM, &["LeaseKeepAlive"]),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[(
            UNARY,
            &[
                "MemberAdd",
                "MemberRemove",
                "MemberUpdate",
                "MemberList",
                "MemberPromote",
            ],
        )],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            (
                UNARY,
                &[
                    "Alarm",
                    "Status",
                    "Defragment",
                    "Hash",
                    "HashKV",
                    "MoveLeader",
                    "Downgrade",
                ],
            ),
            (SERVER_STREAM, &["Snapshot"]),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[(
            UNARY,
            &[
                "AuthEnable",
                "AuthDisable",
                "AuthStatus",
                "Authenticate",
                "UserAdd",
                "UserGet",
                "UserList",
                "UserDelete",
                "UserChangePassword",
                "UserGrantRole",
                "UserRevokeRole",
                "RoleAdd",
                "RoleGet",
                "RoleList",
                "RoleDelete",
                "RoleGrantPermission",
                "RoleRevokePermission",
            ],
        )],
    ),
    (
        "grpc.health.v1.Health",
        &[(UNARY, &["Check", "List"]), (SERVER_STREAM, &["Watch"])],
    ),
];

type Labels = Vec<(&'static str, String)>;

/// The counts of all calls.
#[derive(Debug)]
pub struct GrpcMetrics {
    methods: HashMap<String, CallMetrics>,
    clients: Family<Labels, Counter>,
    /// By "is a stream" and version. Every name is asked for with each call, so looking one up
    /// must not allocate.
    client_versions: RwLock<[HashMap<String, Counter>; 2]>,
}

/// The counts of one method. Cheap to touch and to copy.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    /// Calls that began.
    pub started: Counter,
    /// Messages that came from clients.
    pub messages_received: Counter,
    /// Messages that went to clients.
    pub messages_sent: Counter,
    /// Whether either side sends any number of messages.
    pub is_stream: bool,
    handled: [Counter; CODES.len()],
}

impl CallMetrics {
    /// Counts a call that ended with this gRPC code. A number that gRPC does not know counts as
    /// Unknown.
    pub fn count_handled(&self, code: u32) {
        let code = usize::try_from(code).unwrap_or(CODE_UNKNOWN);
        self.handled
            .get(code)
            .unwrap_or(&self.handled[CODE_UNKNOWN])
            .inc();
    }
}

impl GrpcMetrics {
    pub(super) fn new(registry: &mut Registry) -> GrpcMetrics {
        let started = family(registry, "started", "RPCs started on the server");
        let received = family(registry, "msg_received", "Messages received from clients");
        let sent = family(registry, "msg_sent", "Messages sent to clients");
        let handled = family(registry, "handled", "RPCs completed on the server, by code");
        let mut methods = HashMap::new();
        for (service, kinds) in SERVICES {
            for (kind, method) in kinds
                .iter()
                .flat_map(|(kind, names)| names.iter().map(move |name| (*kind, *name)))
            {
                let labels = vec![
                    ("grpc_type", kind.to_owned()),
                    ("grpc_service", (*service).to_owned()),
                    ("grpc_method", method.to_owned()),
                ];
                let handled = CODES.map(|code| {
                    let mut labels = labels.clone();
                    labels.push(("grpc_code", code.to_owned()));
                    handled.get_or_create_owned(&labels)
                });
                let call = CallMetrics {
                    started: started.get_or_create_owned(&labels),
                    messages_received: received.get_or_create_owned(&labels),
                    messages_sent: sent.get_or_create_owned(&labels),
                    is_stream: kind != UNARY,
                    handled,
                };
                methods.insert(format!("/{service}/{method}"), call);
            }
        }
        let clients = Family::<Labels, Counter>::default();
        registry.register(
            "etcd_server_client_requests",
            "Client requests by kind and client version",
            clients.clone(),
        );
        GrpcMetrics {
            methods,
            clients,
            client_versions: RwLock::default(),
        }
    }

    /// The counts of the method at this path, as in `/etcdserverpb.KV/Put`.
    pub fn of_path(&self, path: &str) -> Option<&CallMetrics> {
        self.methods.get(path)
    }

    /// Counts a call by the version that the client names in its metadata.
    pub fn count_client(&self, is_stream: bool, version: Option<&str>) {
        let version = version
            .filter(|version| !version.is_empty() && version.len() <= CLIENT_VERSION_BYTES_MAX)
            .unwrap_or(CLIENT_VERSION_UNKNOWN);
        let kind = usize::from(is_stream);
        let known = self
            .client_versions
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(counter) = known[kind].get(version) {
            counter.inc();
            return;
        }
        drop(known);
        let mut known = self
            .client_versions
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let version = if known[kind].len() < CLIENT_VERSIONS_MAX {
            version
        } else {
            CLIENT_VERSION_UNKNOWN
        };
        let labels = vec![
            ("type", if is_stream { "stream" } else { UNARY }.to_owned()),
            ("client_api_version", version.to_owned()),
        ];
        let counter = self.clients.get_or_create_owned(&labels);
        counter.inc();
        known[kind].insert(version.to_owned(), counter);
    }
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Family<Labels, Counter> {
    let family = Family::default();
    registry.register(format!("grpc_server_{name}"), help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::super::exposition;
    use super::*;

    #[test]
    fn each_method_exists_from_the_start_with_every_code() {
        let mut registry = Registry::default();
        let metrics = GrpcMetrics::new(&mut registry);
        let put = metrics.of_path("/etcdserverpb.KV/Put").expect("known");
        put.started.inc();
        put.count_handled(8);
        put.count_handled(99);
        assert!(metrics.of_path("/etcdserverpb.KV/Nonsense").is_none());
        assert!(
            metrics
                .of_path("/etcdserverpb.Watch/Watch")
                .expect("known")
                .is_stream
        );
        let text = exposition::text(&registry).expect("writes");
        let line = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in {text}");
        let put = "grpc_type=\"unary\",grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\"";
        line(&format!("grpc_server_started_total{{{put}}} 1"));
        line(&format!(
            "grpc_server_handled_total{{{put},grpc_code=\"ResourceExhausted\"}} 1"
        ));
        line(&format!(
            "grpc_server_handled_total{{{put},grpc_code=\"Unknown\"}} 1"
        ));
        line(&format!(
            "grpc_server_handled_total{{{put},grpc_code=\"OK\"}} 0"
        ));
        line("# TYPE grpc_server_handled_total counter");
        let handled = text
            .lines()
            .filter(|l| l.starts_with("grpc_server_handled_total{"))
            .count();
        assert_eq!(handled, metrics.methods.len() * CODES.len());
    }

    #[test]
    fn clients_that_invent_versions_do_not_fill_the_memory() {
        let mut registry = Registry::default();
        let metrics = GrpcMetrics::new(&mut registry);
        metrics.count_client(false, None);
        metrics.count_client(true, Some("3.6.0"));
        metrics.count_client(true, Some("3.6.0"));
        for n in 0..10 * CLIENT_VERSIONS_MAX {
            metrics.count_client(false, Some(&n.to_string()));
        }
        metrics.count_client(false, Some(&"9".repeat(10_000)));
        let text = exposition::text(&registry).expect("writes");
        let lines = text
            .lines()
            .filter(|l| l.starts_with("etcd_server_client_requests_total{"));
        assert!(lines.count() <= CLIENT_VERSIONS_MAX + 2);
        let stream =
            "etcd_server_client_requests_total{type=\"stream\",client_api_version=\"3.6.0\"} 2";
        assert!(text.contains(stream), "{text}");
    }
}
