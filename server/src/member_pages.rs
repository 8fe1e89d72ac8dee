//! What the pages tell about this member.

use std::future::ready;
use std::sync::Arc;

use mvcc::{KeyRange, RangeQuery};
use state_machine::AlarmKind;

use crate::api::{MESSAGE_OVERHEAD, Member};
use crate::http::{Alarms, CallLimits, Check, Pages, Versions};
use crate::metrics::Metrics;

/// The pages of one member.
pub struct MemberPages {
    /// The member.
    pub member: Arc<Member>,
}

impl MemberPages {
    fn read(&self) -> Result<(), String> {
        // Any key will do; this one need not exist.
        let query = RangeQuery::new(KeyRange::Single("health".into()));
        let answer = self.member.state().view.range(&query);
        answer.map(drop).map_err(|error| error.to_string())
    }
}

impl Pages for MemberPages {
    fn metrics(&self) -> &Metrics {
        self.member.metrics()
    }

    fn refresh_metrics(&self) {
        let metrics = self.member.metrics();
        let state = self.member.state();
        let leads = self.member.leader() == self.member.identity().member.0;
        metrics.server.has_leader.set(i64::from(self.has_leader()));
        metrics.server.is_leader.set(i64::from(leads));
        metrics
            .server
            .proposals_committed
            .set(self.member.commit_index());
        metrics.server.proposals_applied.set(state.applied.index);
        let pending = i64::try_from(self.member.pending_requests()).unwrap_or(i64::MAX);
        metrics.server.proposals_pending.set(pending);
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let view = &state.view;
        metrics.mvcc.keys.set(gauge(view.live_keys()));
        metrics.mvcc.current_revision.set(view.revision().0);
        let compacted = view.compact_revision().map_or(-1, |revision| revision.0);
        metrics.mvcc.compact_revision.set(compacted);
        metrics.mvcc.auth_revision.set(gauge(state.auth.revision()));
        metrics.mvcc.db_total_size_in_bytes.set(state.size);
        metrics
            .mvcc
            .db_total_size_in_use_in_bytes
            .set(state.size_in_use);
        if let Some(version) = state.members.version() {
            metrics.server.set_cluster_version(version);
        }
    }

    fn has_leader(&self) -> bool {
        self.member.leader() != 0
    }

    fn call_limits(&self) -> CallLimits {
        let limits = self.member.limits();
        CallLimits {
            message_bytes: limits.request_bytes + MESSAGE_OVERHEAD,
            slow: limits.slow_request,
        }
    }

    fn is_auth_enabled(&self) -> bool {
        self.member.state().auth.is_enabled()
    }

    fn is_learner(&self) -> bool {
        self.member.is_learner()
    }

    fn alarms(&self) -> Alarms {
        let state = self.member.state();
        Alarms {
            no_space: state.alarms.any(AlarmKind::NoSpace),
            corrupt: state.alarms.any(AlarmKind::Corrupt),
        }
    }

    fn serializable_read(&self) -> Check<'_> {
        Box::pin(ready(self.read()))
    }

    fn linearizable_read(&self) -> Check<'_> {
        Box::pin(async {
            let state = self.member.linearizable_state().await;
            state.map_err(|status| status.message().to_owned())?;
            self.read()
        })
    }

    fn variables(&self) -> String {
        let member = &self.member;
        let state = member.state();
        let leads = member.leader() == member.identity().member.0;
        let status = serde_json::json!({
            "id": member.identity().member.to_string(),
            "term": member.consensus.term(),
            "vote": format!("{:x}", member.leader()),
            "commit": member.commit_index(),
            "lead": format!("{:x}", member.leader()),
            "raftState": if leads { "StateLeader" } else { "StateFollower" },
            "applied": state.applied.index,
            "progress": {},
            "leadtransferee": "0",
        });
        let arguments: Vec<String> = std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let files = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let members = [
            ("cmdline", serde_json::json!(arguments)),
            (
                "file_descriptor_limit",
                serde_json::json!(files.map_or(0, |(soft, _)| soft)),
            ),
            ("memstats", serde_json::json!({})),
            ("raft.status", status),
        ];
        let lines: Vec<String> = members
            .into_iter()
            .map(|(name, value)| format!("{:?}: {value}", name))
            .collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }

    fn versions(&self) -> Versions {
        let version = self.member.state().members.version().map(str::to_owned);
        // The file's fields stay at the level of the cluster.
        Versions {
            cluster: version.clone(),
            storage: version,
        }
    }
}
