//! Who calls, and what that one may do.

use bytes::Bytes;
use mvcc::LeaseId;
use state_machine::{Identity, Txn, key_range};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use super::member::Member;
use super::status::of_refusal;
use crate::http::ClientCertificate;
use crate::views::State;

/// Whoever makes a call. Handlers take it from the call's metadata first of all, and ask it before
/// they do anything on its behalf.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    identity: Option<Identity>,
}

impl Caller {
    /// This member itself, while nobody is asked for permission: what it does of its own accord.
    pub(crate) fn member() -> Caller {
        Caller::default()
    }

    /// What the log keeps of the caller, so that every member checks it alike.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Passes whoever has a valid identity, or anybody while authorization is off.
    pub(crate) fn require_user(&self, state: &State) -> Result<(), Status> {
        state.auth.check_user(self.identity()).map_err(of_refusal)
    }

    /// Passes users with the role `root`, or anybody while authorization is off.
    pub(crate) fn require_root(&self, state: &State) -> Result<(), Status> {
        state.auth.check_root(self.identity()).map_err(of_refusal)
    }

    /// Passes who may read `key`, or all of `key..range_end` in the wire's form.
    pub(crate) fn require_read(
        &self,
        state: &State,
        key: &Bytes,
        end: &Bytes,
    ) -> Result<(), Status> {
        let keys = key_range(key.clone(), end.clone());
        let checked = state.auth.check_read(self.identity(), &keys);
        checked.map_err(of_refusal)
    }

    /// Passes who may write all keys of a lease, if there is such a lease.
    pub(crate) fn require_lease_write(&self, state: &State, id: LeaseId) -> Result<(), Status> {
        let (identity, leases) = (self.identity(), &state.leases);
        let checked = state.auth.check_lease(identity, leases, id);
        checked.map_err(of_refusal)
    }

    /// Passes who may read all keys of a lease, if there is such a lease.
    pub(crate) fn require_lease_read(&self, state: &State, id: LeaseId) -> Result<(), Status> {
        let (identity, leases) = (self.identity(), &state.leases);
        let checked = state.auth.check_lease_read(identity, leases, id);
        checked.map_err(of_refusal)
    }

    /// Passes who may do all of a transaction.
    pub(crate) fn require_txn(&self, state: &State, txn: &Txn) -> Result<(), Status> {
        let checked = state.auth.check_txn(self.identity(), &state.leases, txn);
        checked.map_err(of_refusal)
    }
}

impl Member {
    /// Who makes this call, by its token or certificate. Neither is looked at while authorization is
    /// off.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let state = self.state();
        if !state.auth.is_enabled() {
            return Ok(Caller::default());
        }
        if let Some(token) = token(request.metadata()) {
            let identity = self.tokens.identity(&token, &state.auth);
            let invalid = |_| Status::new(Code::Unauthenticated, "etcdserver: invalid auth token");
            return Ok(Caller {
                identity: Some(identity.map_err(invalid)?),
            });
        }
        // The gateway passes on what it was sent, and its own connection says nothing of the client.
        let of_gateway = request.metadata().contains_key("grpcgateway-accept");
        let certificate = request.extensions().get::<ClientCertificate>();
        let identity = certificate
            .filter(|_| !of_gateway)
            .map(|certificate| Identity {
                user: certificate.common_name.clone(),
                auth_revision: state.auth.revision(),
            });
        Ok(Caller { identity })
    }
}

fn token(metadata: &MetadataMap) -> Option<String> {
    let value = metadata
        .get("token")
        .or_else(|| metadata.get("authorization"))?;
    let text = String::from_utf8_lossy(value.as_bytes());
    Some(text.strip_prefix("Bearer ").unwrap_or(&text).to_owned())
}
