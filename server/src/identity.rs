//! Ids of members and clusters, as etcd computes them for a new cluster.

use consensus::NodeId;
use sha1::{Digest, Sha1};
use state_machine::MemberId;

/// Identifies a cluster for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub u64);

/// Who this member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub member: MemberId,
}

impl Identity {
    /// The member as consensus knows it.
    pub fn node(&self) -> NodeId {
        NodeId(self.member.0)
    }
}

/// The id of a new member: SHA-1 over its peer URLs, sorted, and a salt: for the first members of a
/// cluster that one's token, for later ones the time at which they are added, in Unix seconds.
pub fn member_id(peer_urls: &[String], salt: &str) -> MemberId {
    let mut sorted = peer_urls.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for part in sorted.iter().map(String::as_str).chain([salt]) {
        hash.update(part.as_bytes());
    }
    MemberId(first_eight_bytes(hash))
}

/// The id of a cluster: SHA-1 over the ids of its first members, ascending.
pub fn cluster_id(members: &[MemberId]) -> ClusterId {
    let mut sorted = members.to_vec();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for member in sorted {
        hash.update(member.0.to_be_bytes());
    }
    ClusterId(first_eight_bytes(hash))
}

fn first_eight_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(*digest.first_chunk().expect("SHA-1 has twenty bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [CL-3]
    #[test]
    fn ids_are_those_that_etcd_computes() {
        let member = member_id(&["http://127.0.0.1:21002".to_owned()], "tok1");
        assert_eq!(member.to_string(), "2361f4b98672e2cb");
        assert_eq!(cluster_id(&[member]), ClusterId(0x2d73_8815_55f9_6ed9));
    }
}
