//! Users, roles, and who may do what.
//!
//! Records are etcd's: bucket `authUsers` has an `authpb.User` under each name, `authRoles` an
//! `authpb.Role`, `auth` whether authorization is on and the revision of all this, which counts every
//! change. What a user may read and write is worked out when users or roles change; to check a request
//! takes a look at the user and one at the keys, however many users there are.

mod key_set;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use mvcc::KeyRange;
use prost::Message;
use proto::authpb;
use storage::{Batch, Committed};

use crate::command::{
    AuthRequest, Identity, Operation, Permission, PermissionKind, Put, PutLease, Txn,
};
use crate::error::{Fault, Refusal};
use crate::lease::Leases;
use crate::schema;
use key_set::KeySet;

/// The user, and the role, that may do everything.
pub const ROOT: &str = "root";
/// Revision of a store that nobody has touched.
const FIRST_REVISION: u64 = 1;
/// Cost of hashing a password that an etcd before 3.5 logged as it was typed.
const LEGACY_COST: u32 = 10;

/// Users, roles, and whether they count.
#[derive(Debug, Clone)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: HashMap<String, Arc<User>>,
    roles: HashMap<String, Arc<Role>>,
}

/// A user.
pub struct User {
    /// Hash of the password in bcrypt's form.
    hash: String,
    no_password: bool,
    /// Ascending.
    roles: Vec<String>,
    is_root: bool,
    reads: KeySet,
    writes: KeySet,
}

impl std::fmt::Debug for User {
    /// Without the hash, which is nobody's business.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("User")
            .field("roles", &self.roles)
            .field("no_password", &self.no_password)
            .finish_non_exhaustive()
    }
}

/// A role.
#[derive(Debug, Clone, Default)]
pub struct Role {
    /// By key.
    permissions: Vec<Permission>,
}

/// What became of tokens, told to whoever keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthChange {
    /// A user was let in under this token.
    TokenGiven {
        /// The user's name.
        user: String,
        /// The token; empty when the member that let the user in makes none of this kind.
        token: String,
    },
    /// A user's tokens count no more.
    UserTokensDropped(String),
    /// No token counts any more.
    AllTokensDropped,
}

/// How a password relates to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordCheck {
    /// There is no such user.
    NoUser,
    /// The user has none, and never gets in by one.
    NoPassword,
    /// It must be compared with this hash.
    Hash(String),
}

impl User {
    /// Its roles, ascending.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }
}

impl Role {
    /// What it permits, by key.
    pub fn permissions(&self) -> &[Permission] {
        &self.permissions
    }
}

impl Auth {
    pub(crate) fn load(committed: &Committed) -> Result<Auth, Fault> {
        let mut auth = Auth {
            enabled: false,
            revision: FIRST_REVISION,
            users: HashMap::new(),
            roles: HashMap::new(),
        };
        if let Some(bucket) = committed.bucket(schema::AUTH)? {
            let enabled = bucket.get(schema::AUTH_ENABLED)?;
            auth.enabled = enabled.is_some_and(|value| value.first() == Some(&1));
            if let Some(value) = bucket.get(schema::AUTH_REVISION)? {
                auth.revision = schema::decode_u64(&value).ok_or_else(|| {
                    let what = "not a number of eight bytes";
                    Fault::record(schema::AUTH, schema::AUTH_REVISION, &what)
                })?;
            }
        }
        if let Some(bucket) = committed.bucket(schema::AUTH_ROLES)? {
            for record in bucket.range(&[])? {
                let (key, value) = record?;
                let role = authpb::Role::decode(value)
                    .map_err(|error| Fault::record(schema::AUTH_ROLES, &key, &error))?;
                let permissions = role.key_permission.into_iter().map(Permission::from);
                let role = Role {
                    permissions: permissions.collect(),
                };
                auth.roles.insert(name_of(&key), Arc::new(role));
            }
        }
        if let Some(bucket) = committed.bucket(schema::AUTH_USERS)? {
            for record in bucket.range(&[])? {
                let (key, value) = record?;
                let user = authpb::User::decode(value)
                    .map_err(|error| Fault::record(schema::AUTH_USERS, &key, &error))?;
                let user = auth.user(
                    String::from_utf8_lossy(&user.password).into_owned(),
                    user.options.is_some_and(|options| options.no_password),
                    user.roles,
                );
                auth.users.insert(name_of(&key), Arc::new(user));
            }
        }
        Ok(auth)
    }

    /// Whether permissions count.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Number of changes of users and roles, beginning at 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A user by name.
    pub fn get_user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(Arc::as_ref)
    }

    /// A role by name.
    pub fn get_role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(Arc::as_ref)
    }

    /// Names of all users, in byte order.
    pub fn user_names(&self) -> Vec<String> {
        sorted(self.users.keys())
    }

    /// Names of all roles, in byte order.
    pub fn role_names(&self) -> Vec<String> {
        sorted(self.roles.keys())
    }

    /// What a password of a user must be compared with.
    pub fn password_check(&self, name: &str) -> PasswordCheck {
        match self.users.get(name) {
            None => PasswordCheck::NoUser,
            Some(user) if user.no_password => PasswordCheck::NoPassword,
            Some(user) => PasswordCheck::Hash(user.hash.clone()),
        }
    }

    /// The identity of the member itself, which may do everything; none while nobody is asked.
    pub fn root_identity(&self) -> Option<Identity> {
        self.enabled.then(|| Identity {
            user: ROOT.to_owned(),
            auth_revision: self.revision,
        })
    }

    /// Passes whoever is known, or anybody while authorization is off.
    pub fn check_user(&self, identity: Option<&Identity>) -> Result<(), Refusal> {
        match identity {
            None if self.enabled => Err(Refusal::UserEmpty),
            _ => Ok(()),
        }
    }

    /// Passes those who may do everything.
    pub fn check_root(&self, identity: Option<&Identity>) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        let identity = identity
            .filter(|identity| !identity.user.is_empty())
            .ok_or(Refusal::UserEmpty)?;
        let user = self.users.get(&identity.user);
        match user.ok_or(Refusal::UserNotFound)?.is_root {
            true => Ok(()),
            false => Err(Refusal::PermissionDenied),
        }
    }

    /// Passes those who may read all keys of a range.
    pub fn check_read(&self, identity: Option<&Identity>, keys: &KeyRange) -> Result<(), Refusal> {
        self.check_keys(identity, |user| user.reads.covers(keys))
    }

    /// Passes those who may write all keys of a range.
    pub fn check_write(&self, identity: Option<&Identity>, keys: &KeyRange) -> Result<(), Refusal> {
        self.check_keys(identity, |user| user.writes.covers(keys))
    }

    fn check_keys(
        &self,
        identity: Option<&Identity>,
        may: impl Fn(&User) -> bool,
    ) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        let identity = identity
            .filter(|identity| identity.auth_revision > 0)
            .ok_or(Refusal::UserEmpty)?;
        if identity.auth_revision < self.revision {
            return Err(Refusal::AuthOldRevision);
        }
        match self.users.get(&identity.user) {
            Some(user) if user.is_root || may(user) => Ok(()),
            _ => Err(Refusal::PermissionDenied),
        }
    }

    /// Passes those who may write every key that hangs on a lease.
    pub fn check_lease(
        &self,
        identity: Option<&Identity>,
        leases: &Leases,
        id: mvcc::LeaseId,
    ) -> Result<(), Refusal> {
        self.check_attached(leases, id, identity, |key| self.check_write(identity, key))
    }

    /// Passes those who may read every key that hangs on a lease.
    pub fn check_lease_read(
        &self,
        identity: Option<&Identity>,
        leases: &Leases,
        id: mvcc::LeaseId,
    ) -> Result<(), Refusal> {
        self.check_attached(leases, id, identity, |key| self.check_read(identity, key))
    }

    /// Root passes without a look at the keys, and however old its identity is.
    fn check_attached(
        &self,
        leases: &Leases,
        id: mvcc::LeaseId,
        identity: Option<&Identity>,
        check: impl Fn(&KeyRange) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Some(lease) = leases.get(id) else {
            return Ok(());
        };
        if self.check_root(identity).is_ok() {
            return Ok(());
        }
        let mut keys = lease.keys();
        keys.try_for_each(|key| check(&KeyRange::Single(key.clone())))
    }

    /// Passes those who may make a put.
    pub(crate) fn check_put(
        &self,
        identity: Option<&Identity>,
        leases: &Leases,
        put: &Put,
    ) -> Result<(), Refusal> {
        let key = KeyRange::Single(put.key.clone());
        self.check_write(identity, &key)?;
        if let PutLease::Lease(id) = put.lease {
            self.check_lease(identity, leases, id)?;
        }
        match put.previous {
            true => self.check_read(identity, &key),
            false => Ok(()),
        }
    }

    /// Passes those who may do all of a transaction, whichever way it goes.
    pub fn check_txn(
        &self,
        identity: Option<&Identity>,
        leases: &Leases,
        txn: &Txn,
    ) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        for compare in &txn.compares {
            self.check_read(identity, &compare.keys)?;
        }
        for operation in txn.success.iter().chain(&txn.failure) {
            match operation {
                Operation::Range(range) => self.check_read(identity, &range.query.keys)?,
                Operation::Put(put) => self.check_put(identity, leases, put)?,
                Operation::DeleteRange(delete) => {
                    self.check_delete(identity, &delete.keys, delete.previous)?;
                }
                Operation::Txn(txn) => self.check_txn(identity, leases, txn)?,
            }
        }
        Ok(())
    }

    /// Passes those who may delete the keys of a range, and see them if they ask for that.
    pub(crate) fn check_delete(
        &self,
        identity: Option<&Identity>,
        keys: &KeyRange,
        previous: bool,
    ) -> Result<(), Refusal> {
        self.check_write(identity, keys)?;
        match previous {
            true => self.check_read(identity, keys),
            false => Ok(()),
        }
    }

    /// Lets a user in; `index` is that of the entry that asks for it, and completes the token.
    pub(crate) fn let_in(
        &self,
        user: String,
        token: String,
        index: u64,
    ) -> Result<AuthChange, Refusal> {
        if !self.enabled {
            return Err(Refusal::AuthNotEnabled);
        }
        if !self.users.contains_key(&user) {
            return Err(Refusal::AuthFailed);
        }
        let token = match token.is_empty() {
            true => token,
            false => format!("{token}.{index}"),
        };
        Ok(AuthChange::TokenGiven { user, token })
    }

    /// Carries out a request; `index` is that of its entry. What becomes of tokens is added to
    /// `changes`.
    pub(crate) fn apply(
        &mut self,
        request: AuthRequest,
        index: u64,
        batch: &mut Batch,
        changes: &mut Vec<AuthChange>,
    ) -> Result<(), Refusal> {
        match request {
            AuthRequest::Enable => self.enable(batch),
            AuthRequest::Disable => {
                if self.enabled {
                    self.enabled = false;
                    self.store_enabled(batch);
                    changes.push(AuthChange::AllTokensDropped);
                    self.count(batch);
                }
                Ok(())
            }
            AuthRequest::Authenticate { name, token } => {
                changes.push(self.let_in(name, token, index)?);
                Ok(())
            }
            AuthRequest::UserAdd {
                name,
                hash,
                no_password,
            } => {
                if name.is_empty() {
                    return Err(Refusal::UserEmpty);
                }
                if self.users.contains_key(&name) {
                    return Err(Refusal::UserExists);
                }
                let hash = hash.into_hash(index);
                let user = self.user(hash, no_password, Vec::new());
                self.store_user(name, user, batch);
                self.count(batch);
                Ok(())
            }
            AuthRequest::UserDelete(name) => {
                self.protect_root(name == ROOT)?;
                self.users.remove(&name).ok_or(Refusal::UserNotFound)?;
                batch.delete(schema::AUTH_USERS, name.clone().into());
                changes.push(AuthChange::UserTokensDropped(name));
                self.count(batch);
                Ok(())
            }
            AuthRequest::UserChangePassword { name, hash } => {
                let user = self.users.get(&name).ok_or(Refusal::UserNotFound)?;
                let (roles, no_password) = (user.roles.clone(), user.no_password);
                let user = self.user(hash.into_hash(index), no_password, roles);
                self.store_user(name.clone(), user, batch);
                changes.push(AuthChange::UserTokensDropped(name));
                self.count(batch);
                Ok(())
            }
            AuthRequest::UserGrantRole { name, role } => self.grant_role(name, role, batch),
            AuthRequest::UserRevokeRole { name, role } => self.revoke_role(name, &role, batch),
            AuthRequest::RoleAdd(name) => {
                if name.is_empty() {
                    return Err(Refusal::RoleEmpty);
                }
                if self.roles.contains_key(&name) {
                    return Err(Refusal::RoleExists);
                }
                self.store_role(&name, Role::default(), batch);
                self.count(batch);
                Ok(())
            }
            AuthRequest::RoleDelete(name) => self.delete_role(&name, batch),
            AuthRequest::RoleGrantPermission { role, permission } => {
                self.grant_permission(&role, permission, batch)
            }
            AuthRequest::RoleRevokePermission {
                role,
                key,
                range_end,
            } => {
                let mut changed = self.role_to_change(&role)?;
                let before = changed.permissions.len();
                let is_this = |held: &Permission| held.key == key && held.range_end == range_end;
                changed.permissions.retain(|held| !is_this(held));
                if changed.permissions.len() == before {
                    return Err(Refusal::PermissionNotGranted);
                }
                self.store_role(&role, changed, batch);
                self.count(batch);
                Ok(())
            }
        }
    }

    fn enable(&mut self, batch: &mut Batch) -> Result<(), Refusal> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Refusal::NoRootUser)?;
        if !root.is_root {
            return Err(Refusal::NoRootRole);
        }
        self.enabled = true;
        self.store_enabled(batch);
        Ok(())
    }

    fn grant_role(&mut self, name: String, role: String, batch: &mut Batch) -> Result<(), Refusal> {
        let user = self.users.get(&name).ok_or(Refusal::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(&role) {
            return Err(Refusal::RoleNotFound);
        }
        let Err(place) = user.roles.binary_search(&role) else {
            return Ok(());
        };
        let mut roles = user.roles.clone();
        roles.insert(place, role);
        let user = self.user(user.hash.clone(), user.no_password, roles);
        self.store_user(name, user, batch);
        self.count(batch);
        Ok(())
    }

    fn revoke_role(&mut self, name: String, role: &str, batch: &mut Batch) -> Result<(), Refusal> {
        self.protect_root(name == ROOT && role == ROOT)?;
        let user = self.users.get(&name).ok_or(Refusal::UserNotFound)?;
        let mut roles = user.roles.clone();
        roles.retain(|held| held != role);
        if roles.len() == user.roles.len() {
            return Err(Refusal::RoleNotGranted);
        }
        let user = self.user(user.hash.clone(), user.no_password, roles);
        self.store_user(name, user, batch);
        self.count(batch);
        Ok(())
    }

    fn delete_role(&mut self, name: &str, batch: &mut Batch) -> Result<(), Refusal> {
        self.protect_root(name == ROOT)?;
        self.roles.remove(name).ok_or(Refusal::RoleNotFound)?;
        batch.delete(schema::AUTH_ROLES, name.to_owned().into());
        for holder in self.holders(name) {
            let user = &self.users[&holder];
            let mut roles = user.roles.clone();
            roles.retain(|held| held != name);
            let user = self.user(user.hash.clone(), user.no_password, roles);
            self.store_user(holder, user, batch);
        }
        self.count(batch);
        Ok(())
    }

    fn grant_permission(
        &mut self,
        role: &str,
        permission: Option<Permission>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let permission = permission.ok_or(Refusal::PermissionNotGiven)?;
        if !permission.is_valid() {
            return Err(Refusal::InvalidAuthMgmt);
        }
        let mut changed = self.role_to_change(role)?;
        let permissions = &mut changed.permissions;
        let place = permissions.partition_point(|held| held.key < permission.key);
        match permissions.get_mut(place) {
            Some(held) if held.key == permission.key && held.range_end == permission.range_end => {
                held.kind = permission.kind;
            }
            _ => {
                // Behind those of the same key.
                let same = permissions[place..].iter();
                let same = same.take_while(|held| held.key == permission.key).count();
                permissions.insert(place + same, permission);
            }
        }
        self.store_role(role, changed, batch);
        self.count(batch);
        Ok(())
    }

    fn role_to_change(&self, name: &str) -> Result<Role, Refusal> {
        let role = self.roles.get(name).ok_or(Refusal::RoleNotFound)?;
        Ok(Role::clone(role))
    }

    /// Without root nobody could switch authorization off again.
    fn protect_root(&self, is_about_root: bool) -> Result<(), Refusal> {
        match self.enabled && is_about_root {
            true => Err(Refusal::InvalidAuthMgmt),
            false => Ok(()),
        }
    }

    fn holders(&self, role: &str) -> Vec<String> {
        let holds = |user: &User| user.roles.iter().any(|held| held == role);
        let holders = self.users.iter().filter(|(_, user)| holds(user));
        sorted(holders.map(|(name, _)| name))
    }

    fn user(&self, hash: String, no_password: bool, roles: Vec<String>) -> User {
        let permissions = || {
            let roles = roles.iter().filter_map(|role| self.roles.get(role));
            roles.flat_map(|role| &role.permissions)
        };
        let ranges = |kinds: [PermissionKind; 2]| {
            let held = permissions().filter(move |permission| kinds.contains(&permission.kind));
            KeySet::new(held.map(Permission::keys))
        };
        User {
            is_root: roles.iter().any(|role| role == ROOT),
            reads: ranges([PermissionKind::Read, PermissionKind::ReadWrite]),
            writes: ranges([PermissionKind::Write, PermissionKind::ReadWrite]),
            hash,
            no_password,
            roles,
        }
    }

    fn store_user(&mut self, name: String, user: User, batch: &mut Batch) {
        let record = authpb::User {
            name: name.clone().into(),
            password: user.hash.clone().into(),
            roles: user.roles.clone(),
            options: Some(authpb::UserAddOptions {
                no_password: user.no_password,
            }),
        };
        let key = name.clone().into();
        batch.put(schema::AUTH_USERS, key, record.encode_to_vec().into());
        self.users.insert(name, Arc::new(user));
    }

    /// Whoever has the role may do what it permits from now on.
    fn store_role(&mut self, name: &str, role: Role, batch: &mut Batch) {
        let record = authpb::Role {
            name: name.to_owned().into(),
            key_permission: role.permissions.iter().map(Into::into).collect(),
        };
        let key = name.to_owned().into();
        batch.put(schema::AUTH_ROLES, key, record.encode_to_vec().into());
        self.roles.insert(name.to_owned(), Arc::new(role));
        for holder in self.holders(name) {
            let user = &self.users[&holder];
            let user = self.user(user.hash.clone(), user.no_password, user.roles.clone());
            self.users.insert(holder, Arc::new(user));
        }
    }

    fn store_enabled(&self, batch: &mut Batch) {
        let key = Bytes::from_static(schema::AUTH_ENABLED);
        batch.put(schema::AUTH, key, vec![u8::from(self.enabled)].into());
    }

    fn count(&mut self, batch: &mut Batch) {
        self.revision += 1;
        let key = Bytes::from_static(schema::AUTH_REVISION);
        batch.put(schema::AUTH, key, schema::encode_u64(self.revision));
    }
}

/// A password on its way into a record.
#[derive(Clone, PartialEq, Eq)]
pub enum NewPassword {
    /// Its hash in bcrypt's form, or nothing.
    Hash(String),
    /// As it was typed: what an etcd before 3.5 logged.
    Plain(String),
}

impl std::fmt::Debug for NewPassword {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("NewPassword(..)")
    }
}

impl NewPassword {
    /// `index` salts what must be hashed here: an entry is hashed once, and no other has its index.
    fn into_hash(self, index: u64) -> String {
        match self {
            NewPassword::Hash(hash) => hash,
            NewPassword::Plain(password) => {
                let mut salt = [0; 16];
                salt[..8].copy_from_slice(&index.to_be_bytes());
                let hash = bcrypt::hash_with_salt(password, LEGACY_COST, salt);
                let hash = hash.expect("the cost is one that bcrypt knows");
                hash.format_for_version(bcrypt::Version::TwoA)
            }
        }
    }
}

fn sorted<'n>(names: impl Iterator<Item = &'n String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort_unstable();
    names
}

fn name_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
