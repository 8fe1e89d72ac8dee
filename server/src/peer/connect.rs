//! Connections to other members, over TCP or TLS.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::BoxBody;
use crate::config::{ListenTls, PeerUrl};
use crate::http::TlsSettings;

/// Dials other members. Certificates are read anew each time: dialing is rare, and a renewed one must
/// count at once.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Option<ListenTls>,
    timeout: Duration,
}

impl Dialer {
    /// Speaks TLS, where a URL says so, as `tls` has it; gives up after `timeout`.
    pub(crate) fn new(tls: Option<ListenTls>, timeout: Duration) -> Dialer {
        Dialer { tls, timeout }
    }

    /// A connection to the member at `url`, which is closed when the answer is dropped.
    pub(crate) async fn connect(&self, url: &str) -> Result<SendRequest<BoxBody>, DialError> {
        let connected = tokio::time::timeout(self.timeout, self.connect_to(url)).await;
        connected.map_err(|_| DialError {
            what: format!("no connection within {:?}", self.timeout),
            is_refused: false,
        })?
    }

    async fn connect_to(&self, url: &str) -> Result<SendRequest<BoxBody>, DialError> {
        let url = PeerUrl::to_advertise(url).map_err(|error| error.to_string())?;
        let connected = TcpStream::connect((url.host(), url.port())).await;
        let stream = connected.map_err(|error| DialError {
            is_refused: error.kind() == ErrorKind::ConnectionRefused,
            what: error.to_string(),
        })?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        if !url.is_https() {
            return Ok(speak(stream).await?);
        }
        let connector = TlsConnector::from(dialing_config(self.tls.as_ref())?);
        let name =
            ServerName::try_from(url.host().to_owned()).map_err(|error| error.to_string())?;
        let stream = connector.connect(name, stream).await;
        Ok(speak(stream.map_err(|error| error.to_string())?).await?)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct DialError {
    what: String,
    /// Whether the host answered that nobody listens.
    pub(crate) is_refused: bool,
}

impl From<String> for DialError {
    fn from(what: String) -> DialError {
        DialError {
            what,
            is_refused: false,
        }
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<BoxBody>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to another member ended badly");
        }
    });
    Ok(sender)
}

/// The `Host` of requests to `url`.
pub(super) fn authority(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, host)| host)
}

/// How TLS is spoken to another member.
fn dialing_config(tls: Option<&ListenTls>) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let settings = match tls {
        // Certificates that are signed by themselves prove nothing; etcd does not check them either.
        Some(ListenTls::SelfSigned(_)) => {
            let verifier = Arc::new(AnyCertificate(provider));
            let builder = builder
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            return Ok(Arc::new(builder.with_no_client_auth()));
        }
        Some(ListenTls::Files(settings)) => settings,
        None => return Err("https needs --peer-cert-file and --peer-key-file".to_owned()),
    };
    let Some(authorities) = &settings.authorities else {
        return Err("https needs --peer-trusted-ca-file, the authorities of members".to_owned());
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(authorities)? {
        roots.add(authority).map_err(|error| error.to_string())?;
    }
    let (certificate, key) = dialing_pair(settings);
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
    let config = builder
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(certificate)?, key);
    Ok(Arc::new(config.map_err(|error| error.to_string())?))
}

fn dialing_pair(settings: &TlsSettings) -> (&Path, &Path) {
    let own = (&settings.certificate, &settings.key);
    let pair = settings.dialing_pair.as_ref();
    let (certificate, key) = pair.map_or(own, |(certificate, key)| (certificate, key));
    (certificate, key)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let named = |error| format!("{}: {error}", path.display());
    CertificateDer::pem_file_iter(path)
        .map_err(named)?
        .collect::<Result<_, _>>()
        .map_err(named)
}

/// Lets every certificate pass. Since anybody can make one, it does not matter either whether the other
/// side has its key; the keys that etcd makes (P-521) could not be checked with ring.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.0.signature_verification_algorithms.supported_schemes();
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}
