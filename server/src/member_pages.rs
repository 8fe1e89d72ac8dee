//! What the pages tell about this member.

use std::future::ready;
use std::sync::Arc;

use mvcc::{KeyRange, RangeQuery};
use state_machine::AlarmKind;

use crate::api::Member;
use crate::http::{Alarms, Check, Pages, Versions};
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

    fn is_learner(&self) -> bool {
        false
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
        let state = self.member.linearizable_state();
        let answer = state
            .map_err(|status| status.message().to_owned())
            .and_then(|_| self.read());
        Box::pin(ready(answer))
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
