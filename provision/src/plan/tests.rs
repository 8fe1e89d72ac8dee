//! Plans against a target in memory: what they do, that they converge, that they keep off what is
//! not theirs.

use std::collections::BTreeSet;

use super::{ConflictKind, Goal, Options, Plan, Step, plan};
use crate::facts::Facts;
use crate::host::fake::FakeHost;
use crate::host::{ApplyError, Entry, Held, Host, Target, carry_out};
use crate::paths;
use crate::render::{BACKUP_TIMER, DEFRAG_TIMER, Desired, SERVER_UNIT, desired};
use crate::spec::{self, HttpUrl};

const PLAIN: &str = "";
const OTHER: &str = "[storage]\nquota = \"4GiB\"\n[defrag]\non_calendar = \"Mon 01:00\"\n";

fn wanted(config: &str) -> Desired {
    let spec = spec::parse(config, None).expect("configuration");
    desired(&spec, config).expect("rendered")
}

fn options(goal: Goal) -> Options {
    Options {
        goal,
        overwrite_drift: false,
        client: HttpUrl::on_loopback(2379),
    }
}

fn plan_for(host: &FakeHost, config: &str, goal: Goal) -> Plan {
    let desired = wanted(config);
    let facts = Facts::gather(host, &desired).expect("facts");
    plan(&desired, &facts, &options(goal))
}

fn carry(host: &mut FakeHost, config: &str, goal: Goal) -> Result<Plan, ApplyError> {
    let plan = plan_for(host, config, goal);
    carry_out(host, &wanted(config), &plan, &mut |_| {})?;
    Ok(plan)
}

/// A host that was bootstrapped with `config`.
fn serving(config: &str) -> FakeHost {
    let mut host = FakeHost::fresh(Target::Live);
    carry(&mut host, config, Goal::Serving).expect("bootstrap");
    host.calls.clear();
    host
}

fn tree() -> FakeHost {
    FakeHost::fresh(Target::Tree("/tree".into()))
}

fn edit(host: &mut FakeHost, path: &str, text: &str) {
    let entry = host.entries.get_mut(path).expect("a file to edit");
    let Entry::File { content, .. } = entry else {
        panic!("{path} is no file")
    };
    *content = text.as_bytes().to_vec();
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_fresh_host_ends_with_a_running_server_and_ticking_timers() {
    let host = serving(PLAIN);
    let units = set(&[SERVER_UNIT, DEFRAG_TIMER, BACKUP_TIMER]);
    assert_eq!(host.enabled, units);
    assert_eq!(host.active, units);
}

#[test]
fn every_change_of_a_run_is_announced_by_its_plan() {
    let mut host = FakeHost::fresh(Target::Live);
    let announced = plan_for(&host, PLAIN, Goal::Serving);
    let mut carried = Vec::new();
    let desired = wanted(PLAIN);
    carry_out(&mut host, &desired, &announced, &mut |step| {
        carried.push(step.step.clone());
    })
    .expect("bootstrap");
    assert_eq!(carried, announced.steps);
    let written: BTreeSet<&str> = host
        .calls
        .iter()
        .filter_map(|call| call.strip_prefix("write "))
        .filter(|path| *path != paths::STATE_FILE)
        .collect();
    let planned: BTreeSet<&str> = announced
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::WriteFile { file, .. } => Some(file.path.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(written, planned);
}

#[test]
fn the_phases_follow_each_other() {
    let plan = plan_for(&FakeHost::fresh(Target::Live), PLAIN, Goal::Serving);
    let phases: Vec<_> = plan.steps.iter().map(Step::phase).collect();
    assert!(phases.is_sorted(), "{phases:?}");
}

#[test]
fn the_second_run_is_idle_and_touches_nothing() {
    for goal in [Goal::InPlace, Goal::Serving] {
        let mut host = serving(PLAIN);
        let plan = carry(&mut host, PLAIN, goal).expect("second run");
        assert_eq!(plan.steps, []);
        assert_eq!(host.calls, Vec::<String>::new());
    }
    let mut host = tree();
    carry(&mut host, PLAIN, Goal::InPlace).expect("first");
    host.calls.clear();
    assert!(
        carry(&mut host, PLAIN, Goal::InPlace)
            .expect("second")
            .is_idle()
    );
    assert_eq!(host.calls, Vec::<String>::new());
}

#[test]
fn in_a_tree_units_are_enabled_and_nothing_is_started() {
    let mut host = tree();
    carry(&mut host, PLAIN, Goal::InPlace).expect("apply");
    assert_eq!(
        host.enabled,
        set(&[SERVER_UNIT, DEFRAG_TIMER, BACKUP_TIMER])
    );
    assert_eq!(host.active, set(&[]));
}

#[test]
fn a_tree_that_boots_is_in_sync() {
    let mut host = tree();
    carry(&mut host, PLAIN, Goal::InPlace).expect("apply");
    let mut booted = FakeHost::fresh(Target::Live);
    carry(&mut booted, PLAIN, Goal::InPlace).expect("the accounts");
    booted.entries = host.entries.clone();
    booted.enabled = host.enabled.clone();
    booted.boot();
    assert_eq!(plan_for(&booted, PLAIN, Goal::Serving).steps, []);
}

#[test]
fn apply_leaves_a_stopped_server_stopped_and_restarts_a_running_one_only_for_its_own_files() {
    let mut host = FakeHost::fresh(Target::Live);
    carry(&mut host, PLAIN, Goal::InPlace).expect("apply");
    assert_eq!(host.active, set(&[]));

    let mut host = serving(PLAIN);
    carry(&mut host, OTHER, Goal::InPlace).expect("apply");
    assert!(
        host.calls.contains(&format!("restart {SERVER_UNIT}")),
        "{:?}",
        host.calls
    );

    let mut host = serving(PLAIN);
    let timers_only = "[defrag]\non_calendar = \"Mon 01:00\"\n";
    carry(&mut host, timers_only, Goal::InPlace).expect("apply");
    assert!(
        !host.calls.contains(&format!("restart {SERVER_UNIT}")),
        "{:?}",
        host.calls
    );
    assert!(
        host.calls.contains(&format!("restart {DEFRAG_TIMER}")),
        "{:?}",
        host.calls
    );
}

#[test]
fn a_timer_that_is_switched_off_stops() {
    let mut host = serving(PLAIN);
    carry(&mut host, "[backup]\nenabled = false\n", Goal::InPlace).expect("apply");
    assert_eq!(host.enabled, set(&[SERVER_UNIT, DEFRAG_TIMER]));
    assert_eq!(host.active, set(&[SERVER_UNIT, DEFRAG_TIMER]));
}

#[test]
fn an_edited_file_is_kept_until_the_operator_says_otherwise() {
    let mut host = serving(PLAIN);
    edit(&mut host, paths::ENVIRONMENT_FILE, "ETCD_NAME=mine\n");
    let plan = plan_for(&host, PLAIN, Goal::InPlace);
    let kinds: Vec<_> = plan
        .conflicts
        .iter()
        .map(|conflict| &conflict.kind)
        .collect();
    assert_eq!(kinds, [&ConflictKind::Drifted]);

    let desired = wanted(PLAIN);
    let facts = Facts::gather(&host, &desired).expect("facts");
    let overwrite = Options {
        overwrite_drift: true,
        ..options(Goal::InPlace)
    };
    let plan = super::plan(&desired, &facts, &overwrite);
    carry_out(&mut host, &desired, &plan, &mut |_| {}).expect("overwrite");
    let kept: Vec<&Entry> = host
        .entries
        .iter()
        .filter(|(path, _)| path.starts_with("/etc/holdfast/holdfast.env.orig-"))
        .map(|(_, entry)| entry)
        .collect();
    assert!(matches!(kept[..], [Entry::File { content, .. }] if content == b"ETCD_NAME=mine\n"));
    assert!(plan_for(&host, PLAIN, Goal::InPlace).is_idle());
}

#[test]
fn somebody_else_s_file_and_a_masked_unit_are_in_the_way() {
    let held = Held {
        user: 0,
        group: 0,
        mode: 0o644,
    };
    let mut host = FakeHost::fresh(Target::Live);
    let foreign = Entry::File {
        content: b"theirs".to_vec(),
        held,
    };
    host.entries.insert(paths::SYSCTL_FILE.to_owned(), foreign);
    let masked = Entry::Other {
        kind: "a symbolic link to /dev/null".to_owned(),
    };
    host.entries
        .insert(format!("{}/{DEFRAG_TIMER}", paths::UNIT_DIR), masked);
    let plan = plan_for(&host, PLAIN, Goal::Serving);
    let texts: Vec<String> = plan.conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[0].contains("was not written by provision"),
        "{texts:?}"
    );
    assert!(texts[1].contains("/dev/null"), "{texts:?}");
}

#[test]
fn a_wrong_mode_is_set_right_and_a_removed_file_comes_back() {
    let mut host = serving(PLAIN);
    let Some(Entry::File { held, .. }) = host.entries.get_mut(paths::ENVIRONMENT_FILE) else {
        panic!("the environment file is there")
    };
    held.mode = 0o666;
    host.entries.remove(paths::SYSCTL_FILE);
    let plan = carry(&mut host, PLAIN, Goal::InPlace).expect("apply");
    assert_eq!(plan.conflicts, []);
    let Some(Entry::File { held, .. }) = host.entries.get(paths::ENVIRONMENT_FILE) else {
        panic!("the environment file is there")
    };
    assert_eq!(held.mode, 0o640);
    assert!(host.entries.contains_key(paths::SYSCTL_FILE));
}

#[test]
fn what_an_earlier_version_left_is_stopped_and_removed_unless_edited() {
    let mut host = serving(PLAIN);
    let old = format!("{}/holdfast-old.timer", paths::UNIT_DIR);
    leave(&mut host, &old, b"old");
    host.enabled.insert("holdfast-old.timer".to_owned());
    host.active.insert("holdfast-old.timer".to_owned());
    let mut edited = host.clone();
    carry(&mut host, PLAIN, Goal::InPlace).expect("apply");
    assert_eq!(
        host.calls
            .iter()
            .filter(|call| call.contains("holdfast-old"))
            .collect::<Vec<_>>(),
        [
            "stop holdfast-old.timer",
            "disable holdfast-old.timer",
            &format!("remove {old}")
        ]
    );
    assert!(plan_for(&host, PLAIN, Goal::InPlace).is_idle());

    edit(&mut edited, &old, "mine");
    let plan = plan_for(&edited, PLAIN, Goal::InPlace);
    assert_eq!(plan.conflicts.len(), 1);
}

/// Puts a file and the memory of it in place, as an earlier version would have.
fn leave(host: &mut FakeHost, path: &str, content: &[u8]) {
    let mut state = crate::facts::recorded_state(host).expect("state");
    let hash = crate::state::Sha256Hex::of(content);
    state.files.insert(path.to_owned(), hash);
    edit(
        host,
        paths::STATE_FILE,
        &String::from_utf8(state.to_bytes()).expect("JSON"),
    );
    let held = Held {
        user: 0,
        group: 0,
        mode: 0o644,
    };
    host.entries.insert(
        path.to_owned(),
        Entry::File {
            content: content.to_vec(),
            held,
        },
    );
}

#[test]
fn a_power_cut_between_any_two_changes_is_healed_by_the_next_run() {
    for (from, to) in [(None, PLAIN), (Some(PLAIN), OTHER)] {
        let start = || from.map_or_else(|| FakeHost::fresh(Target::Live), serving);
        let mut whole = start();
        carry(&mut whole, to, Goal::Serving).expect("uncut");
        let changes = whole.calls.len();
        assert!(changes > 5, "{changes} changes are no test");
        for cut in 0..changes {
            let mut host = start();
            host.cut_power_after(cut);
            carry(&mut host, to, Goal::Serving).expect_err("the power was cut");
            host.boot();
            let plan = carry(&mut host, to, Goal::Serving)
                .unwrap_or_else(|error| panic!("after {cut} of {changes} changes: {error}"));
            assert_eq!(plan.conflicts, [], "after {cut} changes");
            assert_eq!(host.durable(), whole.durable(), "after {cut} changes");
            assert_eq!(host.active, whole.active, "after {cut} changes");
            assert!(
                plan_for(&host, to, Goal::Serving).is_idle(),
                "after {cut} changes"
            );
        }
    }
}

#[test]
fn a_power_cut_and_another_configuration_are_healed_by_the_next_run() {
    let mut whole = serving(PLAIN);
    carry(&mut whole, OTHER, Goal::Serving).expect("uncut");
    let mut first = FakeHost::fresh(Target::Live);
    let plan = plan_for(&first, PLAIN, Goal::Serving);
    carry_out(&mut first, &wanted(PLAIN), &plan, &mut |_| {}).expect("uncut");
    for cut in 0..first.calls.len() {
        let mut host = FakeHost::fresh(Target::Live);
        host.cut_power_after(cut);
        carry(&mut host, PLAIN, Goal::Serving).expect_err("the power was cut");
        host.boot();
        let plan = carry(&mut host, OTHER, Goal::Serving).expect("next run");
        assert_eq!(plan.conflicts, [], "after {cut} changes");
        assert_eq!(host.durable(), whole.durable(), "after {cut} changes");
    }
}

#[test]
fn a_step_that_fails_before_the_start_leaves_the_host_as_it_was() {
    let unit = format!("write {}/holdfast-backup.timer", paths::UNIT_DIR);
    let enable = format!("enable {SERVER_UNIT}");
    for broken in [
        "verify",
        "create-accounts",
        "write /etc/holdfast/holdfast.env",
        "sysctl",
        &unit,
        "reload",
        &enable,
    ] {
        let mut host = FakeHost::fresh(Target::Live);
        let before = host.clone();
        host.broken = Some(broken.to_owned());
        let error = carry(&mut host, PLAIN, Goal::Serving).expect_err(broken);
        // A manager that cannot read units anew cannot do so for the undo either.
        if broken == "reload" {
            assert!(
                matches!(error, ApplyError::PartlyDone(_)),
                "{broken}: {error}"
            );
        } else {
            assert!(
                matches!(error, ApplyError::TakenBack { .. }),
                "{broken}: {error}"
            );
        }
        assert_eq!(host.durable(), before.durable(), "{broken}");
    }
}

#[test]
fn an_update_that_fails_before_the_restart_gives_the_old_files_back() {
    let mut host = serving(PLAIN);
    let before = host.clone();
    host.broken = Some(format!("write {}/{DEFRAG_TIMER}", paths::UNIT_DIR));
    let error = carry(&mut host, OTHER, Goal::InPlace).expect_err("broken");
    assert!(matches!(error, ApplyError::TakenBack { .. }), "{error}");
    assert_eq!(host.durable(), before.durable());
    assert_eq!(host.active, before.active);
    host.broken = None;
    assert!(plan_for(&host, PLAIN, Goal::InPlace).is_idle());
}

#[test]
fn a_server_that_does_not_start_leaves_everything_in_place_and_says_how_to_go_on() {
    for broken in ["start holdfast.service", "wait"] {
        let mut host = FakeHost::fresh(Target::Live);
        host.broken = Some(broken.to_owned());
        let error = carry(&mut host, PLAIN, Goal::Serving).expect_err(broken);
        let text = error.to_string();
        assert!(matches!(error, ApplyError::PartlyDone(_)), "{text}");
        assert!(
            text.contains("Not done:") && text.contains("provision bootstrap"),
            "{text}"
        );
        host.broken = None;
        carry(&mut host, PLAIN, Goal::Serving).expect("going on");
        assert_eq!(
            host.active,
            set(&[SERVER_UNIT, DEFRAG_TIMER, BACKUP_TIMER]),
            "{broken}"
        );
        let facts = host.service_ids().expect("ids");
        assert!(facts.is_some());
    }
}
