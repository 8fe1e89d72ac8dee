//! A snapshot from a running member.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proto::etcdserverpb::auth_client::AuthClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcdserverpb::{AuthenticateRequest, SnapshotRequest};
use storage::Fault;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::file::NewSnapshot;
use crate::commands::Failure;

/// A connection is made in this time or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A member that sends nothing for so long does not go on. The whole may take any time.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// Members send pieces of 32 KiB.
const PIECE_BYTES_MAX: usize = 16 << 20;
/// Authorities that the machine trusts, where Debian and others keep them.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where a snapshot comes from.
pub(super) struct Source<'a> {
    pub(super) endpoint: &'a str,
    pub(super) authorities: Option<&'a Path>,
    /// Certificate and key.
    pub(super) identity: Option<(&'a Path, &'a Path)>,
    /// Name and password.
    pub(super) user: Option<(&'a str, &'a str)>,
}

/// Writes a member's snapshot to `new`; returns the version that it says it has, if it does.
pub(super) fn fetch(source: &Source<'_>, new: NewSnapshot) -> Result<String, Failure> {
    let endpoint = source.endpoint()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failure::of_surroundings(format!("cannot start the client: {error}")))?;
    runtime.block_on(receive(source, endpoint, new))
}

async fn receive(
    source: &Source<'_>,
    endpoint: Endpoint,
    mut new: NewSnapshot,
) -> Result<String, Failure> {
    let channel = endpoint.connect().await.map_err(|error| {
        Failure::of_surroundings(format!(
            "no member answers at {}: {}; name a running one with --endpoints",
            source.endpoint,
            with_causes(&error)
        ))
    })?;
    let mut request = Request::new(SnapshotRequest {});
    if let Some((name, password)) = source.user {
        let token = authenticate(channel.clone(), name, password)
            .await
            .map_err(|status| source.refused("authenticate", &status))?;
        request.metadata_mut().insert("token", token);
    }
    let mut maintenance =
        MaintenanceClient::new(channel).max_decoding_message_size(PIECE_BYTES_MAX);
    let refused = |status| source.refused("send a snapshot", &status);
    let silent = |_| {
        let seconds = SILENCE_LIMIT.as_secs();
        let text = format!(
            "{} sent nothing for {seconds} s; try again",
            source.endpoint
        );
        Failure::of_surroundings(text)
    };
    let answer = tokio::time::timeout(SILENCE_LIMIT, maintenance.snapshot(request)).await;
    let mut pieces = answer.map_err(silent)?.map_err(refused)?.into_inner();
    let mut version = String::new();
    loop {
        let piece = tokio::time::timeout(SILENCE_LIMIT, pieces.message()).await;
        let Some(piece) = piece.map_err(silent)?.map_err(refused)? else {
            break;
        };
        new.write(&piece.blob)?;
        if !piece.version.is_empty() {
            version = piece.version;
        }
    }
    new.finish()?;
    Ok(version)
}

async fn authenticate(
    channel: Channel,
    name: &str,
    password: &str,
) -> Result<AsciiMetadataValue, Status> {
    let request = AuthenticateRequest {
        name: name.to_owned(),
        password: password.to_owned(),
    };
    let answer = AuthClient::new(channel).authenticate(request).await?;
    let token = answer.into_inner().token.parse();
    token.map_err(|_| Status::internal("the token is no text"))
}

impl Source<'_> {
    fn endpoint(&self) -> Result<Endpoint, Failure> {
        let text = self.endpoint;
        if text.contains(',') {
            let reason = "a snapshot is of one member, so name one";
            return Err(Failure::of_request(format!("--endpoints={text}: {reason}")));
        }
        let wants_tls = self.authorities.is_some() || self.identity.is_some();
        let url = match (text.contains("://"), wants_tls) {
            (true, _) => text.to_owned(),
            (false, true) => format!("https://{text}"),
            (false, false) => format!("http://{text}"),
        };
        let unusable = |error: tonic::transport::Error| {
            Failure::of_request(format!("--endpoints={text}: {}", with_causes(&error)))
        };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(unusable)?;
        let endpoint = endpoint.connect_timeout(CONNECT_LIMIT);
        match url.starts_with("https://") {
            true => endpoint.tls_config(self.tls()?).map_err(unusable),
            false => Ok(endpoint),
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let authorities = self.authorities.unwrap_or(Path::new(SYSTEM_AUTHORITIES));
        let authorities = read(authorities)
            .map_err(|failure| failure.with_advice("name the authorities with --cacert"))?;
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities));
        match self.identity {
            None => Ok(tls),
            Some((certificate, key)) => {
                let identity = Identity::from_pem(read(certificate)?, read(key)?);
                Ok(tls.identity(identity))
            }
        }
    }

    fn refused(&self, action: &str, status: &Status) -> Failure {
        let endpoint = self.endpoint;
        Failure::of_surroundings(match std::error::Error::source(status) {
            // The connection broke before the member could answer.
            Some(cause) => format!(
                "{endpoint} did not {action}: {}; if it serves https, name it as https://HOST:PORT, with \
                 the flags --cacert, --cert and --key that it asks for",
                with_causes(cause)
            ),
            None => format!(
                "{endpoint} did not {action}: {} ({})",
                status.message(),
                status.code()
            ),
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(fs::read(path).map_err(Fault::io("read", path))?)
}

/// The text of an error with all that caused it: the connection's own text says little.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
