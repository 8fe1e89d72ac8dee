//! `provision status`: configuration, units, member, backups and maintenance at a glance.

use std::path::Path;

use serde_json::json;

use super::prepare::{Prepared, WhenMissing, prepare};
use super::{CommandError, plan};
use crate::cli::Global;
use crate::exit_code::Exit;
use crate::host::{Child, Host};
use crate::maintenance::{self, fragmentation};
use crate::member::{self, Client, MemberStatus};
use crate::output::{Output, StepLine, StepStatus};
use crate::paths;
use crate::plan::Goal;
use crate::render::{BACKUP_TIMER, DEFRAG_TIMER, SERVER_UNIT};
use crate::spec::{ByteSize, Spec};

pub(crate) fn run(global: &Global, output: &Output) -> Result<Exit, CommandError> {
    if global.root.is_some() {
        let message = "status looks at the host it runs on and takes no --root".to_owned();
        return Err(CommandError::Usage(message));
    }
    let prepared = prepare(global, WhenMissing::Refuse)?;
    let in_sync = show_sync(&prepared, output);
    let units = show_units(&prepared, output)?;
    let healthy = show_member(&prepared.configuration.spec, output);
    show_backups(&prepared.configuration.spec, output);
    show_defrag(output);
    output.result(json!({ "in_sync": in_sync, "units": units, "healthy": healthy }));
    Ok(match (healthy && units, in_sync) {
        (false, _) => Exit::Unhealthy,
        (true, false) => Exit::ChangesPending,
        (true, true) => Exit::Done,
    })
}

fn show(output: &Output, good: bool, phase: &str, detail: &str, facts: serde_json::Value) {
    let status = if good {
        StepStatus::Ok
    } else {
        StepStatus::Warning
    };
    output.step(&StepLine {
        status,
        phase,
        detail,
        elapsed: None,
        facts,
    });
}

fn show_sync(prepared: &Prepared, output: &Output) -> bool {
    let plan = plan::make(prepared, Goal::InPlace, false);
    let detail = match (plan.steps.len(), plan.conflicts.len()) {
        (0, 0) => "in sync with the configuration".to_owned(),
        (steps, 0) => format!("{steps} steps pending; see: provision plan"),
        (_, conflicts) => format!("{conflicts} files edited by hand; see: provision plan"),
    };
    let facts = json!({ "pending": plan.steps.len(), "conflicts": plan.conflicts.len() });
    show(output, plan.is_idle(), "config", &detail, facts);
    plan.is_idle()
}

fn show_units(prepared: &Prepared, output: &Output) -> Result<bool, CommandError> {
    let spec = &prepared.configuration.spec;
    let wanted = [
        (SERVER_UNIT, true),
        (DEFRAG_TIMER, spec.defrag.enabled),
        (BACKUP_TIMER, spec.backup.enabled),
    ];
    let mut good = true;
    for (name, wanted) in wanted {
        let unit = prepared.host.unit(name)?;
        let word = |is, yes, no| if is { yes } else { no };
        let next = next_elapse(name)
            .map(|next| format!(", next {next}"))
            .unwrap_or_default();
        let detail = format!(
            "{name} is {} and {}{next}",
            word(unit.active, "active", "not active"),
            word(unit.enabled, "enabled", "not enabled"),
        );
        let as_wanted = unit.active == wanted && unit.enabled == wanted;
        let facts = json!({ "unit": name, "active": unit.active, "enabled": unit.enabled });
        show(output, as_wanted, "units", &detail, facts);
        good &= as_wanted;
    }
    Ok(good)
}

fn next_elapse(name: &str) -> Option<String> {
    if !name.ends_with(".timer") {
        return None;
    }
    let asked = Child::new("systemctl").args([
        "--no-pager",
        "show",
        "--property=NextElapseUSecRealtime",
        "--value",
        name,
    ]);
    let next = asked.succeed().ok()?.output.trim().to_owned();
    (!next.is_empty()).then_some(next)
}

fn show_member(spec: &Spec, output: &Output) -> bool {
    let url = spec.local_client();
    let health = match member::health(&url) {
        Ok(health) => health,
        Err(error) => {
            show(
                output,
                false,
                "member",
                &error.to_string(),
                json!({ "healthy": false }),
            );
            return false;
        }
    };
    let status = Client::connect(&url).and_then(|mut client| client.status());
    let healthy = health.is_healthy();
    match status {
        Ok(status) => {
            let word = if healthy {
                "healthy".to_owned()
            } else {
                health.reason
            };
            let text = format!("{url} {word}, {}", describe(&status));
            show(
                output,
                healthy,
                "member",
                &text,
                json!({ "healthy": healthy }),
            );
            show_database(spec, &status, output);
            healthy
        }
        Err(error) => {
            show(
                output,
                false,
                "member",
                &error.to_string(),
                json!({ "healthy": false }),
            );
            false
        }
    }
}

fn describe(status: &MemberStatus) -> String {
    let role = match status.leader_id {
        Some(leader) if leader == status.member_id => "leader",
        Some(_) if status.is_learner => "learner",
        Some(_) => "follower",
        None => "without a leader",
    };
    let errors = match status.errors.is_empty() {
        true => String::new(),
        false => format!(", says: {}", status.errors.join("; ")),
    };
    format!(
        "member {:x} of cluster {:x}, {role}, etcd {}, term {}, applied {}, revision {}{errors}",
        status.member_id,
        status.cluster_id,
        status.version,
        status.term,
        status.applied_index,
        status.revision
    )
}

fn show_database(spec: &Spec, status: &MemberStatus, output: &Output) {
    let quota = status.quota.unwrap_or(spec.quota);
    let share = status.size.bytes() as f64 / quota.bytes().max(1) as f64 * 100.0;
    let detail = format!(
        "{} in the file, {} in use ({:.0} % free), {share:.1} % of the quota of {}",
        status.size.rounded(),
        status.in_use.rounded(),
        fragmentation(status) * 100.0,
        quota.rounded()
    );
    let facts = json!({ "size": status.size.bytes(), "in_use": status.in_use.bytes() });
    show(output, share < 80.0, "database", &detail, facts);
}

fn show_backups(spec: &Spec, output: &Output) {
    if !spec.backup.enabled {
        show(
            output,
            true,
            "backup",
            "switched off by the configuration",
            json!({}),
        );
        return;
    }
    match maintenance::list(spec.backup.dir.as_path()) {
        Ok(backups) => match backups.last() {
            Some(newest) => {
                let size = ByteSize::from_bytes(newest.size).rounded();
                let text = format!(
                    "{} backups, the newest of {} ({size}, revision {})",
                    backups.len(),
                    newest.time,
                    newest.revision
                );
                show(
                    output,
                    true,
                    "backup",
                    &text,
                    json!({ "count": backups.len() }),
                );
            }
            None => {
                let text = "none yet; make one with: systemctl start holdfast-backup.service";
                show(output, true, "backup", text, json!({ "count": 0 }));
            }
        },
        Err(error) => show(output, false, "backup", &error.to_string(), json!({})),
    }
}

fn show_defrag(output: &Output) {
    match maintenance::last_defrag(Path::new(paths::DEFRAG_HISTORY)) {
        Ok(Some(last)) => {
            let text = format!(
                "last run {}: {} to {}, took {:.3} s",
                maintenance::rfc3339(last.unix_seconds),
                ByteSize::from_bytes(last.size_before).rounded(),
                ByteSize::from_bytes(last.size_after).rounded(),
                std::time::Duration::from_millis(last.took_ms).as_secs_f64()
            );
            show(output, true, "defrag", &text, json!({ "last": last }));
        }
        Ok(None) => show(output, true, "defrag", "not needed so far", json!({})),
        Err(error) => show(output, false, "defrag", &error.to_string(), json!({})),
    }
}
