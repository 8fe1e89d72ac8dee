//! What a client's certificate says.

/// The certificate that a client has shown, checked against the trusted authorities. It lies among
/// the extensions of each request of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's common name, which is a user's name.
    pub common_name: String,
}
