//! Ends the alarm NOSPACE by itself, if that is wanted, when compaction and the return of space have brought the
//! database below its quota again.

use std::sync::Arc;
use std::time::Duration;

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, InternalRaftRequest};
use state_machine::{Alarm, AlarmKind};

use crate::api::{Caller, Member};

const INTERVAL: Duration = Duration::from_secs(1);
/// The database must be smaller than this many parts of its quota in a hundred, so that the alarm does not come and
/// go.
const QUOTA_PERCENT: u64 = 90;

/// Runs until it is dropped.
pub async fn run(enabled: bool, member: Arc<Member>) {
    let Some(quota) = member.limits().quota.filter(|_| enabled) else {
        return std::future::pending().await;
    };
    let alarm = Alarm {
        member: member.identity().member,
        kind: AlarmKind::NoSpace,
    };
    loop {
        tokio::time::sleep(INTERVAL).await;
        let state = member.state();
        let raised = state.alarms.iter().any(|active| active == alarm);
        if !raised || state.size >= quota / 100 * QUOTA_PERCENT {
            continue;
        }
        let request = InternalRaftRequest {
            alarm: Some(AlarmRequest {
                action: AlarmAction::Deactivate.into(),
                member_id: alarm.member.0,
                alarm: alarm.kind.to_wire(),
            }),
            ..Default::default()
        };
        match member.submit(&Caller::member(), request).await {
            Ok(_) => {
                member.metrics().space.alarms_cleared.inc();
                tracing::warn!(
                    size = state.size,
                    quota,
                    "the database is below its quota again: the alarm NOSPACE was cleared"
                );
            }
            Err(status) => {
                tracing::warn!(error = status.message(), "cannot clear the alarm NOSPACE");
            }
        }
    }
}
