//! Who belongs to the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use storage::{Batch, Committed};

use crate::schema;
use crate::{Fault, Refusal};

/// Identifies a member for its whole life; written in lower-case hexadecimal without leading zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}", self.0)
    }
}

/// A member, in the form of its JSON in bucket `members` and in configuration changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Where its peers reach it. Absent in a promotion.
    #[serde(rename = "peerURLs", deserialize_with = "null_is_empty", default)]
    pub peer_urls: Vec<String>,
    /// Whether it only learns: has no vote and does not count for a quorum.
    #[serde(
        rename = "isLearner",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub learner: bool,
    /// Its name; empty until it has started and said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until it has started and said so.
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// What one committed configuration change asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member, voter or learner.
    Add(Member),
    /// A learner gets a vote.
    Promote(MemberId),
    /// Other peer URLs.
    Update(Member),
    /// The member leaves; its id never comes back.
    Remove(MemberId),
}

/// All members, those that left, and the version that they share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
    version: Option<String>,
    learners_max: LearnersMax,
}

/// How many learners a cluster may have at a time. It must be set alike on all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LearnersMax(usize);

impl Default for LearnersMax {
    /// etcd's default.
    fn default() -> LearnersMax {
        LearnersMax(1)
    }
}

impl Members {
    /// Allows so many learners at a time.
    pub(crate) fn set_learners_max(&mut self, learners_max: usize) {
        self.learners_max = LearnersMax(learners_max);
    }

    /// These, and nobody was removed.
    pub(crate) fn of(members: impl IntoIterator<Item = Member>) -> Members {
        let members = members.into_iter();
        Members {
            members: members.map(|member| (member.id, member)).collect(),
            ..Members::default()
        }
    }

    /// Reads the buckets of a committed state.
    pub(crate) fn load(committed: &Committed) -> Result<Members, Fault> {
        let mut loaded = Members::default();
        if let Some(bucket) = committed.bucket(schema::MEMBERS)? {
            for pair in bucket.range(&[])? {
                let (key, value) = pair?;
                let id = parse_id(schema::MEMBERS, &key)?;
                let member: Member = serde_json::from_slice(&value)
                    .map_err(|error| Fault::record(schema::MEMBERS, &key, &error))?;
                if member.id != id {
                    let what = format!("its JSON names member {}", member.id);
                    return Err(Fault::record(schema::MEMBERS, &key, &what));
                }
                loaded.members.insert(id, member);
            }
        }
        if let Some(bucket) = committed.bucket(schema::MEMBERS_REMOVED)? {
            for pair in bucket.range(&[])? {
                loaded
                    .removed
                    .insert(parse_id(schema::MEMBERS_REMOVED, &pair?.0)?);
            }
        }
        if let Some(bucket) = committed.bucket(schema::CLUSTER)?
            && let Some(version) = bucket.get(schema::CLUSTER_VERSION)?
        {
            let text = std::str::from_utf8(&version)
                .map_err(|error| Fault::record(schema::CLUSTER, schema::CLUSTER_VERSION, &error))?;
            loaded.version = Some(text.to_owned());
        }
        Ok(loaded)
    }

    /// All members, ascending by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// The member with this id.
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether a member with this id was removed.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The version that all members share, `X.Y.0`; `None` before it is decided.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether `change` fits the members as they are; every member decides this alike.
    pub fn check(&self, change: &MemberChange) -> Result<(), Refusal> {
        let id = match change {
            MemberChange::Add(member) | MemberChange::Update(member) => member.id,
            MemberChange::Promote(id) | MemberChange::Remove(id) => *id,
        };
        if self.is_removed(id) {
            return Err(Refusal::MemberNotFound);
        }
        match (change, self.get(id)) {
            (MemberChange::Add(_), Some(_)) => Err(Refusal::MemberExists),
            (MemberChange::Add(member), None) => {
                self.check_urls(member)?;
                match member.learner
                    && self.iter().filter(|member| member.learner).count() >= self.learners_max.0
                {
                    true => Err(Refusal::TooManyLearners),
                    false => Ok(()),
                }
            }
            (_, None) => Err(Refusal::MemberNotFound),
            (MemberChange::Promote(_), Some(member)) if !member.learner => {
                Err(Refusal::MemberNotLearner)
            }
            (MemberChange::Update(member), Some(_)) => self.check_urls(member),
            (MemberChange::Promote(_) | MemberChange::Remove(_), Some(_)) => Ok(()),
        }
    }

    fn check_urls(&self, new: &Member) -> Result<(), Refusal> {
        let taken = self.iter().filter(|other| other.id != new.id).any(|other| {
            other
                .peer_urls
                .iter()
                .any(|url| new.peer_urls.contains(url))
        });
        match taken {
            true => Err(Refusal::PeerUrlExists),
            false => Ok(()),
        }
    }

    /// Carries out a change that [`Members::check`] let pass.
    pub(crate) fn apply(&mut self, change: MemberChange, batch: &mut Batch) {
        match change {
            MemberChange::Add(member) => self.store(member, batch),
            MemberChange::Promote(id) => self.revise(id, batch, |member| member.learner = false),
            MemberChange::Update(new) => {
                self.revise(new.id, batch, |member| member.peer_urls = new.peer_urls);
            }
            MemberChange::Remove(id) => {
                self.members.remove(&id);
                self.removed.insert(id);
                batch.delete(schema::MEMBERS, id.to_string().into());
                batch.put(
                    schema::MEMBERS_REMOVED,
                    id.to_string().into(),
                    Bytes::from("removed"),
                );
            }
        }
    }

    /// A member that has started says its name and where clients reach it. Of a removed member
    /// this is ignored.
    pub(crate) fn set_attributes(
        &mut self,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
        batch: &mut Batch,
    ) {
        self.revise(id, batch, |member| {
            member.name = name;
            member.client_urls = client_urls;
        });
    }

    /// Major and minor number of [`Members::version`].
    pub fn version_numbers(&self) -> Option<(u64, u64)> {
        let mut parts = self.version()?.split('.').map(str::parse);
        match (parts.next()?, parts.next()?) {
            (Ok(major), Ok(minor)) => Some((major, minor)),
            _ => None,
        }
    }

    /// Whether the version that all members share is this one or a later one.
    pub(crate) fn is_version_since(&self, major: u64, minor: u64) -> bool {
        self.version_numbers() >= Some((major, minor))
    }

    pub(crate) fn set_version(&mut self, version: String, batch: &mut Batch) {
        let key = Bytes::from_static(schema::CLUSTER_VERSION);
        batch.put(schema::CLUSTER, key, version.clone().into());
        self.version = Some(version);
    }

    fn revise(&mut self, id: MemberId, batch: &mut Batch, revise: impl FnOnce(&mut Member)) {
        if let Some(mut member) = self.members.get(&id).cloned() {
            revise(&mut member);
            self.store(member, batch);
        }
    }

    fn store(&mut self, member: Member, batch: &mut Batch) {
        let json = go_json(&member);
        batch.put(schema::MEMBERS, member.id.to_string().into(), json.into());
        self.members.insert(member.id, member);
    }

    /// The members as they tell each other about them: a JSON array, ascending by id.
    pub fn to_json(&self) -> Vec<u8> {
        let members: Vec<&Member> = self.iter().collect();
        go_json(&members).into_bytes()
    }

    /// The membership as the JSON of etcd's old store, which a raft snapshot carries: etcd 3.5
    /// takes its members from there. `index` is the snapshot's.
    pub fn to_v2_tree(&self, index: u64) -> Bytes {
        let members = self
            .iter()
            .map(|member| (member.id.to_string(), member_node(index, member)));
        let removed = self.removed.iter().map(|id| {
            let path = format!("/0/removed_members/{id}");
            (id.to_string(), leaf(index, &path, "removed"))
        });
        let mut cluster = vec![
            ("members".to_owned(), folder(index, "/0/members", members)),
            (
                "removed_members".to_owned(),
                folder(index, "/0/removed_members", removed),
            ),
        ];
        if let Some(version) = self.version() {
            cluster.push(("version".to_owned(), leaf(index, "/0/version", version)));
        }
        let top = [
            ("0".to_owned(), folder(index, "/0", cluster)),
            // Keys of clients of the old API: there are none.
            ("1".to_owned(), folder(index, "/1", [])),
        ];
        let root = folder(index, "/", top);
        go_json(&json!({ "Root": root, "CurrentIndex": index, "CurrentVersion": 2 })).into()
    }
}

fn member_node(index: u64, member: &Member) -> serde_json::Value {
    let path = format!("/0/members/{}", member.id);
    let raft = match member.learner {
        true => json!({ "peerURLs": member.peer_urls, "isLearner": true }),
        false => json!({ "peerURLs": member.peer_urls }),
    };
    let raft = leaf(index, &format!("{path}/raftAttributes"), &go_json(&raft));
    let mut children = vec![("raftAttributes".to_owned(), raft)];
    if !member.name.is_empty() {
        let own = json!({ "name": member.name, "clientURLs": member.client_urls });
        let own = leaf(index, &format!("{path}/attributes"), &go_json(&own));
        children.push(("attributes".to_owned(), own));
    }
    folder(index, &path, children)
}

type Children = serde_json::Map<String, serde_json::Value>;

fn leaf(index: u64, path: &str, value: &str) -> serde_json::Value {
    node(index, path, value, None)
}

fn folder(
    index: u64,
    path: &str,
    children: impl IntoIterator<Item = (String, serde_json::Value)>,
) -> serde_json::Value {
    node(index, path, "", Some(&children.into_iter().collect()))
}

/// A node of the old store: a leaf when it has no children, not even none.
fn node(index: u64, path: &str, value: &str, children: Option<&Children>) -> serde_json::Value {
    json!({
        "Path": path,
        "CreatedIndex": index,
        "ModifiedIndex": index,
        "ExpireTime": "0001-01-01T00:00:00Z",
        "Value": value,
        "Children": children,
    })
}

/// JSON text with the three characters escaped that Go's encoder escapes.
///
/// # Panics
/// When a map has keys that are no texts.
pub fn go_json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).expect("maps have text keys only");
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

fn parse_id(bucket: &str, key: &[u8]) -> Result<MemberId, Fault> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .map(MemberId)
        .ok_or_else(|| Fault::record(bucket, key, &"its key is no hexadecimal member id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, url: &str) -> Member {
        Member {
            id: MemberId(id),
            peer_urls: vec![url.to_owned()],
            learner: false,
            name: name.to_owned(),
            client_urls: Vec::new(),
        }
    }

    #[test]
    fn the_json_of_a_member_is_that_of_etcd() {
        let text = r#"{"id":15947373293893513531,"peerURLs":["http://127.0.0.1:21882"],"isLearner":true,"name":"g1","clientURLs":["http://127.0.0.1:21881"]}"#;
        let parsed: Member = serde_json::from_str(text).expect("valid");
        assert_eq!(parsed.id, MemberId(15_947_373_293_893_513_531));
        assert!(parsed.learner);
        assert_eq!(serde_json::to_string(&parsed).expect("valid"), text);
        let promotion: Member =
            serde_json::from_str(r#"{"id":7,"peerURLs":null,"isPromote":true}"#).expect("valid");
        assert_eq!(promotion.peer_urls, Vec::<String>::new());
    }

    #[test]
    fn changes_are_checked_against_the_members_as_they_are() {
        let mut members = Members::default();
        let mut batch = Batch::new();
        let first = member(1, "a", "http://a:2380");
        assert_eq!(members.check(&MemberChange::Add(first.clone())), Ok(()));
        members.apply(MemberChange::Add(first.clone()), &mut batch);
        let refused = [
            (MemberChange::Add(first), Refusal::MemberExists),
            (
                MemberChange::Add(member(2, "b", "http://a:2380")),
                Refusal::PeerUrlExists,
            ),
            (MemberChange::Remove(MemberId(3)), Refusal::MemberNotFound),
            (
                MemberChange::Promote(MemberId(1)),
                Refusal::MemberNotLearner,
            ),
        ];
        for (change, refusal) in refused {
            assert_eq!(members.check(&change), Err(refusal), "{change:?}");
        }
        members.apply(MemberChange::Remove(MemberId(1)), &mut batch);
        let back = MemberChange::Add(member(1, "a", "http://b:2380"));
        assert_eq!(members.check(&back), Err(Refusal::MemberNotFound));
    }

    #[test]
    fn the_old_tree_names_members_removed_ones_and_version() {
        let mut members = Members::default();
        let mut batch = Batch::new();
        members.apply(
            MemberChange::Add(member(0xabc, "n<1>", "http://a:2380")),
            &mut batch,
        );
        members.apply(
            MemberChange::Add(member(0xdef, "", "http://b:2380")),
            &mut batch,
        );
        members.apply(MemberChange::Remove(MemberId(0xdef)), &mut batch);
        members.set_version("3.5.0".to_owned(), &mut batch);
        let text = members.to_v2_tree(9);
        let tree: serde_json::Value = serde_json::from_slice(&text).expect("valid JSON");
        let cluster = &tree["Root"]["Children"]["0"]["Children"];
        let own = &cluster["members"]["Children"]["abc"]["Children"];
        assert_eq!(
            own["raftAttributes"]["Value"],
            r#"{"peerURLs":["http://a:2380"]}"#
        );
        assert!(
            own["attributes"]["Value"]
                .as_str()
                .expect("text")
                .contains(r"n\u003c1\u003e")
        );
        assert_eq!(
            cluster["removed_members"]["Children"]["def"]["Value"],
            "removed"
        );
        assert_eq!(cluster["version"]["Value"], "3.5.0");
        assert!(tree["Root"]["Children"]["1"]["Children"].is_object());
    }
}
