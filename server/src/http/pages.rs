//! The pages: `/health`, `/livez`, `/readyz`, `/version`, `/metrics`, `/debug/vars`.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};

use crate::config::ETCD_VERSION;
use crate::metrics::{HealthEndpoint, Metrics};

/// The outcome of a check that takes time: nothing, or why it failed.
pub type Check<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What the pages need to know about the member.
pub trait Pages: Send + Sync + 'static {
    /// All metrics, which the pages feed too.
    fn metrics(&self) -> &Metrics;

    /// Sets those metrics that are only looked up when somebody asks. Called before each scrape.
    fn refresh_metrics(&self) {}

    /// Whether a leader is known.
    fn has_leader(&self) -> bool;

    /// What a call may be like.
    fn call_limits(&self) -> CallLimits;

    /// Whether users need permissions.
    fn is_auth_enabled(&self) -> bool;

    /// Whether this member is a learner.
    fn is_learner(&self) -> bool;

    /// The alarms that are raised anywhere in the cluster.
    fn alarms(&self) -> Alarms;

    /// Reads a key from this member's own state, within the request timeout.
    fn serializable_read(&self) -> Check<'_>;

    /// Reads a key with the leader's consent, within the request timeout.
    fn linearizable_read(&self) -> Check<'_>;

    /// What `/debug/vars` tells: a JSON object, a member per line.
    fn variables(&self) -> String;

    /// What `/version` tells besides the server's own version.
    fn versions(&self) -> Versions;
}

/// What a call may be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Bytes of one message from a client.
    pub message_bytes: usize,
    /// An answer that takes longer is worth a line in the log.
    pub slow: Duration,
}

/// The alarms that are raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarms {
    /// A member is out of space.
    pub no_space: bool,
    /// A member's data differs from the others'.
    pub corrupt: bool,
}

/// The versions that a member knows of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// The version on which the members agreed, as in `3.6.0`.
    pub cluster: Option<String>,
    /// The version of the data directory's format, as in `3.6.0`.
    pub storage: Option<String>,
}

/// Which listener a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Audience {
    /// A client listener: every page, and browsers may ask from other origins.
    Clients,
    /// A metrics listener: metrics and health only.
    Monitoring,
}

pub(super) type Page = Response<Bytes>;

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const VARIABLES: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static(Metrics::CONTENT_TYPE);
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Tells a browser that pages of an origin may read the answer.
pub(super) fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue) {
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let allowed = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
}

/// Go's answer for a path that there is not.
pub(super) fn not_found() -> Page {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// For a request that was meant for another server, or comes from a page that wants us to think so.
pub(super) fn misdirected(host: &str) -> Page {
    let text = format!(
        "The server was called by a host name that it does not answer to: {host:?}.\n\
         Call it by one of --host-whitelist, or add this name to that list, or use TLS."
    );
    error(StatusCode::MISDIRECTED_REQUEST, &text)
}

/// Answers one request that is no gRPC call.
pub(super) async fn answer(
    pages: &dyn Pages,
    audience: Audience,
    method: &Method,
    uri: &Uri,
) -> Page {
    let path = uri.path();
    if path == "/metrics" {
        pages.refresh_metrics();
        return with_type(StatusCode::OK, METRICS, pages.metrics().text());
    }
    let query = Query::parse(uri.query().unwrap_or_default());
    let Some(resource) = Resource::find(path, audience) else {
        return not_found();
    };
    if *method != Method::GET {
        let mut page = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        page.headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return page;
    }
    match resource {
        Resource::Version => version(pages),
        Resource::Variables => with_type(StatusCode::OK, VARIABLES, pages.variables()),
        Resource::Health => health(pages, &query).await,
        Resource::Checks(endpoint, checks) => {
            let excluded: &[String] = if path.matches('/').count() == 1 {
                &query.exclude
            } else {
                &[]
            };
            run_checks(pages, endpoint, checks, excluded, query.verbose).await
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Resource {
    Version,
    Variables,
    Health,
    Checks(HealthEndpoint, &'static [HealthCheck]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HealthCheck {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[HealthCheck] = &[HealthCheck::SerializableRead];
const READYZ: &[HealthCheck] = &[
    HealthCheck::DataCorruption,
    HealthCheck::SerializableRead,
    HealthCheck::LinearizableRead,
    HealthCheck::NonLearner,
];

impl Resource {
    fn find(path: &str, audience: Audience) -> Option<Resource> {
        match path {
            "/debug/vars" => (audience == Audience::Clients).then_some(Resource::Variables),
            "/version" => (audience == Audience::Clients).then_some(Resource::Version),
            "/health" => Some(Resource::Health),
            _ => {
                let mut parts = path.strip_prefix('/')?.splitn(2, '/');
                let (endpoint, checks) = match parts.next()? {
                    "livez" => (HealthEndpoint::Livez, LIVEZ),
                    "readyz" => (HealthEndpoint::Readyz, READYZ),
                    _ => return None,
                };
                let Some(name) = parts.next() else {
                    return Some(Resource::Checks(endpoint, checks));
                };
                let at = checks.iter().position(|check| check.name() == name)?;
                Some(Resource::Checks(endpoint, &checks[at..=at]))
            }
        }
    }
}

impl HealthCheck {
    fn name(self) -> &'static str {
        match self {
            HealthCheck::DataCorruption => "data_corruption",
            HealthCheck::SerializableRead => "serializable_read",
            HealthCheck::LinearizableRead => "linearizable_read",
            HealthCheck::NonLearner => "non_learner",
        }
    }

    async fn run(self, pages: &dyn Pages) -> Result<(), String> {
        match self {
            HealthCheck::DataCorruption if pages.alarms().corrupt => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            HealthCheck::NonLearner if pages.is_learner() => {
                Err("not supported for learner".to_owned())
            }
            HealthCheck::DataCorruption | HealthCheck::NonLearner => Ok(()),
            HealthCheck::SerializableRead => pages.serializable_read().await,
            HealthCheck::LinearizableRead => pages.linearizable_read().await,
        }
    }
}

fn version(pages: &dyn Pages) -> Page {
    let versions = pages.versions();
    let body = format!(
        "{{\"etcdserver\":{},\"etcdcluster\":{},\"storage\":{}}}",
        json(ETCD_VERSION),
        json(versions.cluster.as_deref().unwrap_or("not_decided")),
        json(versions.storage.as_deref().unwrap_or("unknown")),
    );
    with_type(StatusCode::OK, JSON, body)
}

async fn health(pages: &dyn Pages, query: &Query) -> Page {
    let reason = unhealthy(pages, query).await;
    let counts = &pages.metrics().server;
    match reason {
        None => {
            counts.health_success.inc();
            with_type(
                StatusCode::OK,
                PLAIN,
                "{\"health\":\"true\",\"reason\":\"\"}".to_owned(),
            )
        }
        Some(reason) => {
            counts.health_failures.inc();
            tracing::warn!(reason, "serving /health false");
            let body = format!("{{\"health\":\"false\",\"reason\":{}}}", json(&reason));
            error(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

/// The first reason why `/health` is false.
async fn unhealthy(pages: &dyn Pages, query: &Query) -> Option<String> {
    let alarms = pages.alarms();
    for (raised, name) in [(alarms.no_space, "NOSPACE"), (alarms.corrupt, "CORRUPT")] {
        if raised && !query.exclude.iter().any(|excluded| excluded == name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if query.serializable {
        return pages
            .serializable_read()
            .await
            .err()
            .map(|error| format!("RANGE ERROR:{error}"));
    }
    if !pages.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    pages
        .linearizable_read()
        .await
        .err()
        .map(|error| format!("RANGE ERROR:{error}"))
}

/// Runs `checks` one after the other; a failed one does not keep the next from running.
async fn run_checks(
    pages: &dyn Pages,
    endpoint: HealthEndpoint,
    checks: &[HealthCheck],
    excluded: &[String],
    verbose: bool,
) -> Page {
    let mut lines = String::new();
    let mut healthy = true;
    for check in checks {
        let name = check.name();
        if excluded.iter().any(|other| other == name) {
            continue;
        }
        let outcome = check.run(pages).await;
        pages
            .metrics()
            .server
            .count_health_check(endpoint, name, outcome.is_ok());
        match outcome {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(error) => {
                healthy = false;
                lines.push_str(&format!("[-]{name} failed: {error}\n"));
            }
        }
    }
    if !healthy {
        tracing::warn!(
            path = endpoint.name(),
            output = lines.trim_end(),
            "Health check error"
        );
        return error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    let body = if verbose {
        lines + "ok\n"
    } else {
        "ok\n".to_owned()
    };
    let mut page = with_type(StatusCode::OK, PLAIN, body);
    page.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    page
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: String) -> Page {
    let mut page = Response::new(Bytes::from(body));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, content_type);
    page
}

/// An error as Go's servers write it: plain text with a final line break.
fn error(status: StatusCode, text: &str) -> Page {
    let mut page = with_type(status, PLAIN, format!("{text}\n"));
    page.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    page
}

/// The parameters that the pages know.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    exclude: Vec<String>,
    serializable: bool,
    verbose: bool,
}

impl Query {
    /// Reads `name=value&…`. Of `serializable` the first value counts, as in Go.
    fn parse(text: &str) -> Query {
        let mut query = Query::default();
        let mut serializable = None;
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match decode(name).as_str() {
                "exclude" => query.exclude.push(decode(value)),
                "verbose" => query.verbose = true,
                "serializable" => {
                    serializable.get_or_insert(decode(value) == "true");
                }
                _ => {}
            }
        }
        query.serializable = serializable.unwrap_or(false);
        query
    }
}

/// Undoes percent-encoding; what is not encoded properly stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after
            .get(..2)
            .and_then(|pair| std::str::from_utf8(pair).ok());
        let encoded = pair.filter(|pair| pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (first, encoded) {
            (b'%', Some(digits)) => {
                bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_reads_them() {
        let query = Query::parse("exclude=NOSPACE&exclude=a%5Fb+c&verbose&serializable=true");
        assert_eq!(query.exclude, ["NOSPACE", "a_b c"]);
        assert!(query.verbose && query.serializable);
        assert!(!Query::parse("serializable=false&serializable=true").serializable);
        assert!(!Query::parse("serializable=1").serializable);
        assert_eq!(Query::parse(""), Query::default());
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
