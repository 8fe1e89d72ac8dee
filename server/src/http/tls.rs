//! TLS for clients. Certificate, key, authorities and revocations are read again whenever one of their
//! files has changed, so that a renewal needs no restart; what cannot be read then is told, and what was
//! read before stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client_certificate::ClientCertificate;

/// Protocols by which clients may go on: gRPC needs the first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where certificates lie, and what is asked of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The server's certificate and those up to an authority, in PEM.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
    /// The authorities that clients' certificates come from, in PEM.
    pub authorities: Option<PathBuf>,
    /// Certificates that were revoked, in PEM or DER.
    pub revocations: Option<PathBuf>,
    /// Whether a client must show a certificate; its common name is then a user's name.
    pub client_auth: bool,
    /// Names of which a client's certificate must bear one; none allows any.
    pub allowed_hostnames: Vec<String>,
    /// Common names of which a client's certificate must bear one; none allows any.
    pub allowed_common_names: Vec<String>,
    /// The certificate that is shown when dialing, and its key; the server's own if there is none.
    pub dialing_pair: Option<(PathBuf, PathBuf)>,
    /// Names of cipher suites for TLS 1.2; none stands for all.
    pub cipher_suites: Vec<String>,
    /// Without TLS 1.2.
    pub only_1_3: bool,
    /// Without TLS 1.3.
    pub only_1_2: bool,
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Key and certificate do not belong together, or a setting contradicts another.
    #[error("{0}")]
    Settings(String),
}

/// Serves TLS as it was set.
pub struct Tls {
    settings: TlsSettings,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    stamps: Vec<Stamp>,
}

/// What tells a file from the one that was there before.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads all files.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn new(settings: TlsSettings) -> Result<Tls, TlsError> {
        let stamps = settings.stamps();
        let config = settings.load()?;
        Ok(Tls {
            settings,
            current: Mutex::new(Current { config, stamps }),
        })
    }

    /// What the next connection is served with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let stamps = self.settings.stamps();
        // A panic elsewhere leaves it whole.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps != current.stamps {
            // Another try only when a file changes once more.
            current.stamps = stamps;
            match self.settings.load() {
                Ok(config) => {
                    current.config = config;
                    tracing::info!(
                        certificate = %self.settings.certificate.display(),
                        "read the TLS files again"
                    );
                }
                Err(error) => tracing::warn!(
                    %error,
                    "cannot use the changed TLS files; those that were read before stay in use"
                ),
            }
        }
        TlsAcceptor::from(current.config.clone())
    }

    /// What the client's certificate says, or why the client is not served.
    pub(super) fn client(
        &self,
        certificates: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<ClientCertificate>, String> {
        let Some(leaf) = certificates.and_then(<[_]>::first) else {
            return Ok(None);
        };
        if !self.settings.allowed_hostnames.is_empty() && !self.bears_allowed_name(leaf) {
            return Err("its certificate bears none of the allowed host names".to_owned());
        }
        if !self.settings.client_auth {
            return Ok(None);
        }
        let (_, parsed) =
            X509Certificate::from_der(leaf).map_err(|error| format!("its certificate: {error}"))?;
        // Of several it is the last that counts, as with etcd.
        let common_name = parsed.subject().iter_common_name().last();
        let common_name = common_name
            .and_then(|name| name.as_str().ok())
            .unwrap_or("");
        let allowed = &self.settings.allowed_common_names;
        if !allowed.is_empty() && !allowed.iter().any(|name| name == common_name) {
            return Err(format!(
                "the common name {common_name:?} of its certificate is none of the allowed ones"
            ));
        }
        Ok(Some(ClientCertificate {
            common_name: common_name.to_owned(),
        }))
    }

    fn bears_allowed_name(&self, leaf: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = webpki::EndEntityCert::try_from(leaf) else {
            return false;
        };
        self.settings.allowed_hostnames.iter().any(|name| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
        })
    }
}

impl TlsSettings {
    fn stamps(&self) -> Vec<Stamp> {
        let files = [
            Some(&self.certificate),
            Some(&self.key),
            self.authorities.as_ref(),
            self.revocations.as_ref(),
        ];
        let stamp = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        files.into_iter().flatten().map(stamp).collect()
    }

    fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        // 1. Our own certificate.
        let certificates = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| content(&self.key, format!("no private key in PEM: {error}")))?;

        // 2. Versions and ciphers.
        let provider = Arc::new(rustls::crypto::CryptoProvider {
            cipher_suites: self.suites()?,
            ..ring::default_provider()
        });
        let versions: &[_] = match (self.only_1_2, self.only_1_3) {
            (true, _) => &[&rustls::version::TLS12],
            (_, true) => &[&rustls::version::TLS13],
            _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
        };
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::Settings(error.to_string()))?;

        // 3. What is asked of clients.
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in self::certificates(path)? {
                    roots
                        .add(authority)
                        .map_err(|error| content(path, format!("an authority: {error}")))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .with_crls(self.revocations()?)
                        .allow_unknown_revocation_status();
                let verifier = match self.client_auth {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| content(path, error.to_string()))?,
                )
            }
        };
        let mut config = builder
            .with_single_cert(certificates, key)
            .map_err(|error| {
                TlsError::Settings(format!(
                    "{} and {} cannot be used together: {error}",
                    self.certificate.display(),
                    self.key.display()
                ))
            })?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }

    fn suites(&self) -> Result<Vec<SupportedCipherSuite>, TlsError> {
        let all = ring::ALL_CIPHER_SUITES;
        if self.cipher_suites.is_empty() {
            return Ok(all.to_vec());
        }
        // Those of TLS 1.3 are not chosen, as with etcd.
        let mut chosen: Vec<_> = all
            .iter()
            .copied()
            .filter(|suite| suite.tls13().is_some())
            .collect();
        let of_1_3 = chosen.len();
        chosen.extend(self.cipher_suites.iter().filter_map(|name| suite(name)));
        if chosen.len() == of_1_3 && self.only_1_2 {
            return Err(TlsError::Settings(
                "none of --cipher-suites is one that this version has for TLS 1.2".to_owned(),
            ));
        }
        Ok(chosen)
    }

    fn revocations(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        let Some(path) = &self.revocations else {
            return Ok(Vec::new());
        };
        let bytes = read(path)?;
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        match lists {
            Ok(lists) if !lists.is_empty() => Ok(lists),
            Ok(_) => Ok(vec![CertificateRevocationListDer::from(bytes)]),
            Err(error) => Err(content(path, format!("no revocation list: {error}"))),
        }
    }
}

/// The cipher suite of TLS 1.2 by its name in Go or at IANA.
pub(crate) fn suite(name: &str) -> Option<SupportedCipherSuite> {
    Some(match name {
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => {
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        }
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => {
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        }
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => {
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        }
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => {
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        }
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        }
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305"
        | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        }
        _ => return None,
    })
}

/// Makes a certificate that is signed by itself, for `hosts`, unless there is one: `cert.pem` and
/// `key.pem` in `folder`.
///
/// # Errors
/// What could not be made or written.
pub fn self_signed(
    folder: &Path,
    hosts: Vec<String>,
    years: u64,
) -> io::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let made = (|| {
        let mut parameters = rcgen::CertificateParams::new(hosts)?;
        let now = time::OffsetDateTime::from(crate::clock::wall());
        parameters.not_before = now;
        parameters.not_after = now + time::Duration::days(365 * i64::try_from(years).unwrap_or(1));
        let pair = rcgen::KeyPair::generate()?;
        Ok((parameters.self_signed(&pair)?.pem(), pair.serialize_pem()))
    })();
    let (certificate_pem, key_pem) = made.map_err(|error: rcgen::Error| io::Error::other(error))?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(&certificate, certificate_pem)?;
    write_secret(&key, key_pem.as_bytes())?;
    Ok((certificate, key))
}

fn write_secret(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(content)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(content(path, "no certificate in PEM".to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(content(path, format!("no certificate in PEM: {error}"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn content(path: &Path, what: String) -> TlsError {
    TlsError::Content {
        path: path.to_owned(),
        what,
    }
}
