//! Makes a backup the beginning of a new cluster.

use bytes::Bytes;
use storage::{Batch, Committed};

use crate::Fault;
use crate::apply::{Position, configuration};
use crate::members::{Member, Members, go_json};
use crate::schema;

/// A cluster that begins with the state of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCluster {
    members: Vec<Member>,
}

impl NewCluster {
    /// A cluster of these members, all of them voters.
    pub fn new(mut members: Vec<Member>) -> NewCluster {
        members.sort_by_key(|member| member.id);
        NewCluster { members }
    }

    /// The members, ascending by id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The last of the entries that its log begins with: one for each member, in term 1.
    pub fn position(&self) -> Position {
        Position {
            index: self.members.len() as u64,
            term: 1,
        }
    }

    /// What must change in a backup, `committed`, to become the state at [`NewCluster::position`]: other
    /// members, and who was removed from the old cluster does not matter any more.
    ///
    /// # Errors
    /// When the backup cannot be read.
    pub fn changes(&self, committed: &Committed) -> Result<Batch, Fault> {
        let mut batch = Batch::new();
        for name in schema::ALL_BUCKETS {
            batch.create_bucket(name);
        }
        for name in [schema::MEMBERS, schema::MEMBERS_REMOVED] {
            if let Some(bucket) = committed.bucket(name)? {
                for pair in bucket.range(&[])? {
                    batch.delete(name, pair?.0);
                }
            }
        }
        for member in &self.members {
            let key = Bytes::from(member.id.to_string());
            batch.put(schema::MEMBERS, key, go_json(member).into());
        }
        let Position { index, term } = self.position();
        let voters: Vec<_> = self.members.iter().map(|member| member.id).collect();
        for (key, value) in [
            (schema::CONSISTENT_INDEX, schema::encode_u64(index)),
            (schema::TERM, schema::encode_u64(term)),
            (schema::CONF_STATE, configuration(&voters, &[])),
        ] {
            batch.put(schema::META, Bytes::from_static(key), value);
        }
        Ok(batch)
    }

    /// The members as the JSON of etcd's old store, for the raft snapshot. Their names come with their
    /// first start, and the cluster's version is decided anew.
    pub fn v2_tree(&self) -> Bytes {
        let unnamed = self.members.iter().map(|member| Member {
            name: String::new(),
            ..member.clone()
        });
        Members::of(unnamed).to_v2_tree(self.position().index)
    }
}
