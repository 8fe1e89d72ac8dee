//! The authorization service. No password and no token is ever logged, neither to the write-ahead log
//! nor to the operator's.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::etcdserverpb::auth_server;
use proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
    InternalAuthenticateRequest, InternalRaftRequest, ResponseHeader,
};
use state_machine::{PasswordCheck, ROOT, Refusal};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, async_trait};

use super::caller::Caller;
use super::member::Member;
use super::status::of_refusal;
use crate::auth::{self, SimpleTokens, Tokens};
use crate::requests::NoAnswer;
use crate::views::State;

const NO_PASSWORD: &str = "auth: authentication failed, password was given for no password user";

const VERIFY_ONLY: &str = "auth: token signing attempted with verify-only key";
/// So many passwords are hashed at a time. Anybody may send them, each costs a core 50 ms and more, and
/// the log's threads need cores, too; the others wait.
const HASHES_AT_ONCE_MAX: usize = 2;

/// The service of one member.
pub(super) struct AuthService {
    member: Arc<Member>,
    hashes: Semaphore,
}

impl AuthService {
    /// The service of this member.
    pub(super) fn new(member: Arc<Member>) -> AuthService {
        AuthService {
            member,
            hashes: Semaphore::new(HASHES_AT_ONCE_MAX),
        }
    }

    /// Puts a change into the log; the header after it.
    async fn change<T>(
        &self,
        request: Request<T>,
        into: impl FnOnce(T) -> InternalRaftRequest,
    ) -> Result<Option<ResponseHeader>, Status> {
        let caller = self.member.caller(&request)?;
        let request = into(request.into_inner());
        let (_, revision) = self.member.submit(&caller, request).await?;
        Ok(self.member.header(revision))
    }

    /// A state to read users and roles from, and who wants to.
    async fn read<T>(&self, request: &Request<T>) -> Result<(Caller, Arc<State>), Status> {
        let caller = self.member.caller(request)?;
        Ok((caller, self.member.linearizable_state().await?))
    }

    fn header_of(&self, state: &State) -> Option<ResponseHeader> {
        self.member.header(state.view.revision())
    }

    /// Does what takes a core for long where it keeps nobody from being answered.
    async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let stopped = |_| Status::from(NoAnswer::Stopped);
        let _turn = self.hashes.acquire().await.map_err(stopped)?;
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Status::internal(error.to_string()))
    }

    /// A password's hash as it travels.
    async fn hashed(&self, password: String) -> Result<String, Status> {
        let cost = self.member.limits().bcrypt_cost;
        let hash = self.slowly(move || auth::hash(&password, cost)).await?;
        let hash = hash.map_err(|error| Status::unknown(error.to_string()))?;
        Ok(STANDARD.encode(hash))
    }

    /// Lets a user in: the token and the header after that.
    async fn let_in(
        &self,
        name: &str,
        password: &str,
    ) -> Result<(String, Option<ResponseHeader>), Status> {
        loop {
            // 1. The password, by what is known here.
            let state = self.member.linearizable_state().await?;
            if !state.auth.is_enabled() {
                return Err(of_refusal(Refusal::AuthNotEnabled));
            }
            let hash = match state.auth.password_check(name) {
                PasswordCheck::NoUser => return Err(of_refusal(Refusal::AuthFailed)),
                PasswordCheck::NoPassword => return Err(Status::unknown(NO_PASSWORD)),
                PasswordCheck::Hash(hash) => hash,
            };
            let password = password.to_owned();
            let matches = self.slowly(move || auth::matches(&password, &hash));
            if !matches.await? {
                return Err(of_refusal(Refusal::AuthFailed));
            }

            // 2. The entry of the log, which all members learn the token from.
            let part = match &*self.member.tokens {
                Tokens::Off => return Err(of_refusal(Refusal::AuthFailed)),
                Tokens::Simple(_) => SimpleTokens::first_part()
                    .map_err(|error| Status::internal(error.to_string()))?,
                Tokens::Jwt(tokens) if !tokens.can_give() => {
                    return Err(Status::unknown(VERIFY_ONLY));
                }
                Tokens::Jwt(_) => String::new(),
            };
            let request = InternalRaftRequest {
                authenticate: Some(InternalAuthenticateRequest {
                    name: name.to_owned(),
                    password: String::new(),
                    simple_token: part.clone(),
                }),
                ..Default::default()
            };
            let (answer, revision) = self.member.submit(&Caller::member(), request).await?;

            // 3. Once more if users have changed in between: the password may have, too.
            if self.member.state().auth.revision() != state.auth.revision() {
                continue;
            }
            let header = self.member.header(revision);
            let token = match &*self.member.tokens {
                Tokens::Jwt(tokens) => match tokens.give(name, state.auth.revision()) {
                    Some(Ok(token)) => token,
                    Some(Err(error)) => return Err(Status::internal(error)),
                    None => return Err(Status::unknown(VERIFY_ONLY)),
                },
                Tokens::Off | Tokens::Simple(_) => match answer {
                    state_machine::Answer::Authenticated { index } => format!("{part}.{index}"),
                    other => return Err(super::kv::mixed_up(&other)),
                },
            };
            return Ok((token, header));
        }
    }
}

#[async_trait]
impl auth_server::Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_enable: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_disable: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        _: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let state = self.member.linearizable_state().await?;
        Ok(Response::new(AuthStatusResponse {
            header: self.header_of(&state),
            enabled: state.auth.is_enabled(),
            auth_revision: state.auth.revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let AuthenticateRequest { name, password } = request.into_inner();
        let (token, header) = self.let_in(&name, &password).await?;
        Ok(Response::new(AuthenticateResponse { header, token }))
    }

    async fn user_add(
        &self,
        mut request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let add = request.get_mut();
        let password = std::mem::take(&mut add.password);
        if add.options.is_some_and(|options| options.no_password) {
            add.hashed_password.clear();
        } else {
            add.hashed_password = self.hashed(password).await?;
        }
        let into = |request| InternalRaftRequest {
            auth_user_add: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (caller, state) = self.read(&request).await?;
        let name = request.into_inner().name;
        // With nobody asking, the empty name is its own, as with etcd.
        let own = caller.identity().map_or("", |own| own.user.as_str());
        let is_own = own == name;
        if !is_own {
            caller.require_root(&state)?;
        }
        let user = state.auth.get_user(&name);
        let user = user.ok_or_else(|| of_refusal(Refusal::UserNotFound))?;
        Ok(Response::new(AuthUserGetResponse {
            header: self.header_of(&state),
            roles: user.roles().to_vec(),
        }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (caller, state) = self.read(&request).await?;
        caller.require_root(&state)?;
        Ok(Response::new(AuthUserListResponse {
            header: self.header_of(&state),
            users: state.auth.user_names(),
        }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_user_delete: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        mut request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let change = request.get_mut();
        let password = std::mem::take(&mut change.password);
        if !password.is_empty() || change.hashed_password.is_empty() {
            change.hashed_password = self.hashed(password).await?;
        } else if !is_hash(&change.hashed_password) {
            return Err(Status::unknown(NO_PASSWORD));
        }
        let into = |request| InternalRaftRequest {
            auth_user_change_password: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_user_grant_role: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_user_revoke_role: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_role_add: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (caller, state) = self.read(&request).await?;
        let name = request.into_inner().role;
        let own = caller
            .identity()
            .and_then(|own| state.auth.get_user(&own.user));
        if !own.is_some_and(|user| user.roles().contains(&name)) {
            caller.require_root(&state)?;
        }
        let role = state.auth.get_role(&name);
        let role = role.ok_or_else(|| of_refusal(Refusal::RoleNotFound))?;
        let perm = match name == ROOT {
            true => vec![everything()],
            false => role.permissions().iter().map(Into::into).collect(),
        };
        Ok(Response::new(AuthRoleGetResponse {
            header: self.header_of(&state),
            perm,
        }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (caller, state) = self.read(&request).await?;
        caller.require_root(&state)?;
        Ok(Response::new(AuthRoleListResponse {
            header: self.header_of(&state),
            roles: state.auth.role_names(),
        }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_role_delete: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_role_grant_permission: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let into = |request| InternalRaftRequest {
            auth_role_revoke_permission: Some(request),
            ..Default::default()
        };
        let header = self.change(request, into).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}

fn is_hash(text: &str) -> bool {
    STANDARD
        .decode(text)
        .is_ok_and(|hash| std::str::from_utf8(&hash).is_ok())
}

/// What the role root permits, as etcd shows it.
fn everything() -> proto::authpb::Permission {
    proto::authpb::Permission {
        perm_type: proto::authpb::permission::Type::Readwrite.into(),
        key: bytes::Bytes::new(),
        range_end: bytes::Bytes::from_static(b"\0"),
    }
}
