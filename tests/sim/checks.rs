//! What must hold at every step, whatever happens.

use std::collections::BTreeMap;

use consensus::Role;

use crate::applier::Digest;
use crate::host::Host;
use crate::model::Model;

#[derive(Default)]
pub(crate) struct Checks {
    /// Who has led which term.
    leaders: BTreeMap<u64, u64>,
    /// The state at an index, as the first member to get there had it.
    digests: BTreeMap<u64, (u64, Digest)>,
}

/// What was seen of a member.
#[derive(Default)]
pub(crate) struct Shown {
    /// Stands for where it is.
    pub(crate) mixed: u64,
    /// The term that it leads since just now.
    pub(crate) new_leader_of: Option<u64>,
}

impl Checks {
    /// Looks at what a member shows after it did something.
    ///
    /// # Errors
    /// When that cannot be.
    pub(crate) fn look_at(&mut self, host: &mut Host, model: &Model) -> Result<Shown, String> {
        let Some(member) = &host.member else {
            return Ok(Shown::default());
        };
        let id = host.id;
        let status = member.node.status();
        let (term, commit) = (status.term.0, status.commit.0);
        let mut new_leader_of = None;
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(term).or_insert_with(|| {
                new_leader_of = Some(term);
                id
            });
            if leader != id {
                return Err(format!("both {leader} and {id} lead term {term}"));
            }
        }
        let seen = &mut host.seen;
        if commit < seen.commit || term < seen.term {
            return Err(format!(
                "member {id} fell from term {} and commit {} to {term} and {commit}",
                seen.term, seen.commit
            ));
        }
        if status.applied > status.persisted {
            return Err(format!(
                "member {id} has applied {}, but only {} is synced",
                status.applied, status.persisted
            ));
        }
        let applier = &member.applier;
        let (index, revision) = (applier.published_index, applier.view.revision().0);
        if revision < seen.revision {
            return Err(format!(
                "member {id} fell from revision {} to {revision}",
                seen.revision
            ));
        }
        let expected = model.revision_at(index);
        if expected != Some(revision) {
            return Err(format!(
                "member {id} has revision {revision} at entry {index}, the model {expected:?}"
            ));
        }
        (seen.commit, seen.term, seen.revision) = (commit, term, revision);
        Ok(Shown {
            mixed: id << 56 ^ term << 40 ^ commit << 20 ^ index,
            new_leader_of,
        })
    }

    /// [P2] Members that have applied the same entries hold the same.
    ///
    /// # Errors
    /// When they do not.
    pub(crate) fn compare_digest(
        &mut self,
        id: u64,
        index: u64,
        digest: Digest,
    ) -> Result<(), String> {
        let Some((first, expected)) = self.digests.get(&index) else {
            self.digests.insert(index, (id, digest));
            return Ok(());
        };
        match *expected == digest {
            true => Ok(()),
            false => Err(format!(
                "members {first} and {id} differ at entry {index}: {expected:?} and {digest:?}"
            )),
        }
    }

    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }
}
