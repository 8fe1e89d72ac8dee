//! Compares this member's data with those of the others.
//!
//! All members apply the same entries, so their histories have the same hashes; a difference means that
//! one of them has been damaged. As etcd does, a member may compare before it serves, and the leader may
//! do so again and again: whole histories, which costs reading them, or only the hashes that compactions
//! leave on every member anyway. What is found raises the alarm CORRUPT.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use mvcc::Revision;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, InternalRaftRequest};
use serde::Deserialize;
use state_machine::{Alarm, AlarmKind, MemberId};

use crate::api::{Caller, HashKv, Member};
use crate::config::CorruptionChecks;

/// A member may have to read its whole history for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another member's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Answer {
    header: AnswerHeader,
    #[serde(default)]
    hash: u32,
    #[serde(default)]
    compact_revision: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct AnswerHeader {
    #[serde(default)]
    revision: i64,
}

/// Compares once, before this member serves.
///
/// # Errors
/// With whom it differs.
pub async fn check_at_start(member: &Member) -> Result<(), String> {
    let own = member.hash_kv(Revision(0)).await;
    let own = own.map_err(|status| status.message().to_owned())?;
    for (id, answer) in ask_others(member, own.current).await {
        let is_comparable = answer.compact_revision == own.compact_revision;
        if is_comparable && answer.hash != own.hash {
            return Err(format!(
                "its history up to revision {} has the hash {}, that of member {id} has {}: one of the \
                 two is damaged; compare with the other members (etcdctl endpoint hashkv --cluster), \
                 and replace the damaged one",
                own.current.0, own.hash, answer.hash
            ));
        }
    }
    Ok(())
}

/// Compares as often as it was set, until it is dropped.
pub async fn run(checks: CorruptionChecks, member: Arc<Member>) {
    let whole = async {
        let Some(interval) = checks.interval else {
            return std::future::pending().await;
        };
        loop {
            tokio::time::sleep(interval).await;
            if member.leads() {
                compare_whole(&member).await;
            }
        }
    };
    let compactions = async {
        let Some(interval) = checks.compactions else {
            return std::future::pending().await;
        };
        let mut compared = Revision(0);
        loop {
            tokio::time::sleep(interval).await;
            if member.leads() {
                compare_compactions(&member, &mut compared).await;
            }
        }
    };
    tokio::join!(whole, compactions);
}

/// Compares whole histories.
async fn compare_whole(member: &Member) {
    let Ok(before) = member.hash_kv(Revision(0)).await else {
        return;
    };
    let answers = ask_others(member, before.current).await;
    // Once everything is applied here, nobody can be ahead without a reason.
    if member.linearizable_state().await.is_err() {
        return;
    }
    let Ok(after) = member.hash_kv(before.current).await else {
        // Compacted meanwhile; the next comparison finds out.
        return;
    };
    let view = member.state().view.clone();
    let newest = Newest {
        revision: view.revision().0,
        compacted: view.compact_revision().map_or(-1, |revision| revision.0),
    };
    let own = member.identity().member;
    for suspect in suspects(own, (before, after), newest, &answers) {
        raise(member, suspect).await;
    }
}

/// Where this member is after all answers.
#[derive(Debug, Clone, Copy)]
struct Newest {
    revision: i64,
    compacted: i64,
}

/// Who must be damaged, by etcd's rules: who has changed its past, or is ahead of the leader, or has
/// another history behind the same compaction. `hashes` are this member's before and after the answers.
fn suspects(
    own: MemberId,
    hashes: (HashKv, HashKv),
    newest: Newest,
    answers: &[(MemberId, Answer)],
) -> Vec<MemberId> {
    let (before, after) = hashes;
    let has_changed =
        before.compact_revision == after.compact_revision && before.hash != after.hash;
    let others = answers.iter().filter(|(_, answer)| {
        let is_ahead =
            answer.header.revision > newest.revision || answer.compact_revision > newest.compacted;
        let differs =
            answer.compact_revision == before.compact_revision && answer.hash != before.hash;
        is_ahead || differs
    });
    let own = has_changed.then_some(own);
    own.into_iter().chain(others.map(|(id, _)| *id)).collect()
}

/// Compares the hashes that compactions have left, the newest first, down to the last that was compared.
async fn compare_compactions(member: &Member, compared: &mut Revision) {
    let view = member.state().view.clone();
    let hashes = view.compaction_hashes();
    for own in hashes.iter().rev() {
        if own.revision <= *compared {
            return;
        }
        let answers = ask_others(member, own.revision).await;
        let before = own.compact_revision.map_or(-1, |revision| revision.0);
        let comparable: Vec<(MemberId, u32)> = answers
            .iter()
            .filter(|(_, answer)| answer.compact_revision.max(0) == before.max(0))
            .map(|(id, answer)| (*id, answer.hash))
            .chain([(member.identity().member, own.hash)])
            .collect();
        let members = member.state().members.iter().count();
        for suspect in minority(&comparable) {
            raise(member, suspect).await;
        }
        if comparable.len() == members {
            *compared = own.revision;
            return;
        }
    }
}

/// Who has another hash than the majority; "nobody" (id 0) stands for all when there is no majority.
fn minority(hashes: &[(MemberId, u32)]) -> Vec<MemberId> {
    let mut groups: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, hash) in hashes {
        *groups.entry(*hash).or_default() += 1;
    }
    if groups.len() < 2 {
        return Vec::new();
    }
    let majority = groups
        .iter()
        .find(|(_, count)| **count > hashes.len() / 2)
        .map(|(hash, _)| *hash);
    match majority {
        None => vec![MemberId(0)],
        Some(majority) => {
            let others = hashes.iter().filter(|(_, hash)| *hash != majority);
            others.map(|(id, _)| *id).collect()
        }
    }
}

/// The hash of every other member that answers, at `revision`.
async fn ask_others(member: &Member, revision: Revision) -> Vec<(MemberId, Answer)> {
    let state = member.state();
    let own = member.identity().member;
    let question = Bytes::from(format!("{{\"revision\":{}}}", revision.0));
    let mut answers = Vec::new();
    for other in state.members.iter().filter(|other| other.id != own) {
        for url in &other.peer_urls {
            let asked = member
                .peer_client()
                .get_with(url, "/members/hashkv", question.clone(), PATIENCE)
                .await;
            match asked {
                Ok(response) if response.status() == StatusCode::OK => {
                    if let Ok(answer) = serde_json::from_slice(response.body()) {
                        answers.push((other.id, answer));
                    }
                    break;
                }
                // Compacted or not applied there.
                Ok(response) => {
                    let text = String::from_utf8_lossy(response.body()).trim().to_owned();
                    tracing::debug!(member = %other.id, text, "no hash to compare with");
                    break;
                }
                Err(error) => {
                    tracing::warn!(member = %other.id, url, error, "cannot compare with a member");
                }
            }
        }
    }
    answers
}

async fn raise(member: &Member, suspect: MemberId) {
    let alarm = Alarm {
        member: suspect,
        kind: AlarmKind::Corrupt,
    };
    if member.state().alarms.iter().any(|active| active == alarm) {
        return;
    }
    tracing::error!(
        member = %suspect,
        "the data of a member differ from those of the others: raising the alarm CORRUPT; replace it"
    );
    let request = InternalRaftRequest {
        alarm: Some(AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: suspect.0,
            alarm: AlarmKind::Corrupt.to_wire(),
        }),
        ..Default::default()
    };
    if let Err(status) = member.submit(&Caller::member(), request).await {
        tracing::error!(error = status.message(), "cannot raise the alarm CORRUPT");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ahead_or_has_another_past_is_suspected() {
        let hash = |hash, compact_revision| HashKv {
            current: Revision(100),
            revision: Revision(100),
            hash,
            compact_revision,
        };
        let answer = |revision, hash, compact_revision| Answer {
            header: AnswerHeader { revision },
            hash,
            compact_revision,
        };
        let newest = Newest {
            revision: 110,
            compacted: 50,
        };
        let check = |after, answer, expected: &[u64]| {
            let answers = [(MemberId(2), answer)];
            let found = suspects(MemberId(1), (hash(7, 50), after), newest, &answers);
            let found: Vec<u64> = found.into_iter().map(|id| id.0).collect();
            assert_eq!(found, expected);
        };
        check(hash(7, 50), answer(105, 7, 50), &[]);
        check(hash(8, 50), answer(105, 7, 50), &[1]);
        check(hash(7, 50), answer(105, 8, 50), &[2]);
        check(hash(7, 50), answer(111, 7, 50), &[2]);
        check(hash(7, 50), answer(105, 7, 51), &[2]);
        // It has not compacted yet.
        check(hash(7, 50), answer(105, 8, 40), &[]);
    }

    #[test]
    fn whoever_differs_from_the_majority_is_suspected() {
        let of = |hashes: &[u32]| {
            let numbered = hashes.iter().zip(1..);
            let hashes: Vec<_> = numbered.map(|(hash, id)| (MemberId(id), *hash)).collect();
            let found = minority(&hashes);
            found.into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(of(&[7, 7, 7]), [0_u64; 0]);
        assert_eq!(of(&[7, 8, 7]), [2]);
        assert_eq!(of(&[7, 8, 7, 9, 7]), [2, 4]);
        assert_eq!(of(&[7, 8]), [0]);
        assert_eq!(of(&[7, 8, 9]), [0]);
        assert_eq!(of(&[7]), [0_u64; 0]);
    }
}
