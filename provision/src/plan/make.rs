//! From what is desired and what is so to the steps between them.

use std::time::Duration;

use super::compare::{Conflict, ConflictKind, Standing, compare, fits};
use super::step::{Phase, Reason, Step};
use crate::facts::{Facts, unit_name};
use crate::host::{Entry, UnitAction};
use crate::render::{Desired, DesiredFile, DesiredUnit, FileRole, SERVER_UNIT};
use crate::spec::HttpUrl;
use crate::state::Sha256Hex;

/// How long a server may take until it answers. Replaying a long log takes minutes on a slow disk.
const SERVING_LIMIT: Duration = Duration::from_secs(300);

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Everything in place; a server that runs is restarted if it must be, one that does not stays.
    InPlace,
    /// And the server answers, and the timers tick.
    Serving,
}

/// What a run may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) goal: Goal,
    pub(crate) overwrite_drift: bool,
    /// Where a server that was started must answer.
    pub(crate) client: HttpUrl,
}

/// The steps of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Files that are not as we left them; while there are any, no step is taken.
    pub(crate) conflicts: Vec<Conflict>,
    /// The hash of everything that the server reads when it starts.
    pub(crate) server_inputs: Sha256Hex,
    /// An earlier run was cut off; these steps finish its work.
    pub(crate) resumes: bool,
}

impl Plan {
    /// Whether nothing is to be done.
    pub(crate) fn is_idle(&self) -> bool {
        self.steps.is_empty() && self.conflicts.is_empty()
    }
}

/// The steps that make the target what is desired, in the order in which they are taken.
pub(crate) fn plan(desired: &Desired, facts: &Facts, options: &Options) -> Plan {
    let mut making = Making {
        facts,
        options,
        steps: Vec::new(),
        conflicts: Vec::new(),
    };
    making.accounts(desired);
    making.folders(desired);
    making.files(desired);
    making.unit_files(desired);
    making.start_server(desired);
    making.timers(desired);
    making.verification();
    Plan {
        steps: making.steps,
        conflicts: making.conflicts,
        server_inputs: server_inputs(desired),
        resumes: facts.state.unfinished.is_some(),
    }
}

struct Making<'a> {
    facts: &'a Facts,
    options: &'a Options,
    steps: Vec<Step>,
    conflicts: Vec<Conflict>,
}

impl Making<'_> {
    fn accounts(&mut self, desired: &Desired) {
        for file in desired
            .files
            .iter()
            .filter(|file| file.role == FileRole::Accounts)
        {
            self.file(file);
        }
        if self.facts.service_ids.is_none() {
            self.steps.push(Step::CreateAccounts);
        }
    }

    fn folders(&mut self, desired: &Desired) {
        for folder in &desired.folders {
            match self
                .facts
                .entries
                .get(&folder.path)
                .unwrap_or(&Entry::Missing)
            {
                Entry::Missing => self.steps.push(Step::MakeFolder {
                    path: folder.path.clone(),
                    access: folder.access,
                }),
                Entry::Folder { held } => {
                    if !fits(*held, folder.access, self.facts) {
                        self.steps.push(Step::SetAccess {
                            phase: Phase::Folders,
                            path: folder.path.clone(),
                            access: folder.access,
                        });
                    }
                }
                Entry::File { .. } => self.not_a_folder(&folder.path, "a file"),
                Entry::Other { kind } => self.not_a_folder(&folder.path, kind),
            }
        }
    }

    fn not_a_folder(&mut self, path: &str, kind: &str) {
        let kind = ConflictKind::NotAFile(format!("{kind}, where a folder is needed"));
        self.conflicts.push(Conflict {
            path: path.to_owned(),
            kind,
        });
    }

    fn files(&mut self, desired: &Desired) {
        for file in &desired.files {
            match file.role {
                FileRole::Accounts | FileRole::Unit { .. } => {}
                FileRole::KernelSettings => {
                    self.file(file);
                    if self.facts.is_live() && self.writes(|role| role == FileRole::KernelSettings)
                    {
                        self.steps.push(Step::SetKernelSettings);
                    }
                }
                FileRole::Configuration | FileRole::ServerInput | FileRole::NextBoot => {
                    self.file(file);
                }
            }
        }
    }

    fn unit_files(&mut self, desired: &Desired) {
        let mut removed = self.removals(desired);
        let is_unit = |role| matches!(role, FileRole::Unit { .. });
        for file in desired.files.iter().filter(|file| is_unit(file.role)) {
            self.file(file);
        }
        self.steps.append(&mut removed);
        let changed = self.writes(is_unit)
            || self
                .steps
                .iter()
                .any(|step| matches!(step, Step::RemoveFile { .. }));
        let stale = self.facts.units.values().any(|unit| unit.needs_reload);
        if self.facts.is_live() && (changed || stale) {
            self.steps.push(Step::ReloadManager);
        }
        for unit in desired.units.iter().filter(|unit| unit.name == SERVER_UNIT) {
            self.enablement(Phase::Units, unit);
        }
    }

    /// What an earlier version or configuration left that is no longer wanted.
    fn removals(&mut self, desired: &Desired) -> Vec<Step> {
        let mut steps = Vec::new();
        for path in self.facts.state.files.keys() {
            if desired.files.iter().any(|file| file.path == *path) {
                continue;
            }
            match self.facts.entries.get(path) {
                Some(Entry::File { content, .. }) => {
                    let ours = self.facts.state.wrote(path, &Sha256Hex::of(content));
                    if !ours && !self.options.overwrite_drift {
                        let kind = ConflictKind::Drifted;
                        self.conflicts.push(Conflict {
                            path: path.clone(),
                            kind,
                        });
                        continue;
                    }
                }
                _ => continue,
            }
            if let Some(name) = unit_name(path) {
                let unit = self.facts.unit(name);
                let mut act = |action| {
                    let unit = name.to_owned();
                    steps.push(Step::ActOnUnit {
                        phase: Phase::Units,
                        unit,
                        action,
                    });
                };
                if unit.active {
                    act(UnitAction::Stop);
                }
                if unit.enabled {
                    act(UnitAction::Disable);
                }
            }
            steps.push(Step::RemoveFile { path: path.clone() });
        }
        steps
    }

    fn start_server(&mut self, desired: &Desired) {
        if !self.facts.is_live() {
            return;
        }
        let active = self.facts.unit(SERVER_UNIT).active;
        let inputs = server_inputs(desired);
        let started_with = self.facts.state.server_started_with.as_ref();
        let stale = self.writes(is_server_input)
            || started_with.is_some_and(|started_with| *started_with != inputs);
        let action = match (active, self.options.goal) {
            (true, _) if stale => UnitAction::Restart,
            (false, Goal::Serving) => UnitAction::Start,
            _ => return,
        };
        let unit = SERVER_UNIT.to_owned();
        self.steps.push(Step::ActOnUnit {
            phase: Phase::Start,
            unit,
            action,
        });
        self.steps.push(Step::WaitUntilServing {
            client: self.options.client.clone(),
            limit: SERVING_LIMIT,
        });
    }

    fn timers(&mut self, desired: &Desired) {
        let running = self.facts.unit(SERVER_UNIT).active || self.options.goal == Goal::Serving;
        for unit in desired.units.iter().filter(|unit| unit.name != SERVER_UNIT) {
            self.enablement(Phase::Timers, unit);
            let active = self.facts.unit(unit.name).active;
            let action = match (unit.enabled, active) {
                (true, false) if running && self.facts.is_live() => UnitAction::Start,
                // Its times may have changed; a timer takes them up when it starts anew.
                (true, true) if self.writes_unit(unit.name) => UnitAction::Restart,
                (false, true) => UnitAction::Stop,
                _ => continue,
            };
            let unit = unit.name.to_owned();
            self.steps.push(Step::ActOnUnit {
                phase: Phase::Timers,
                unit,
                action,
            });
        }
    }

    fn enablement(&mut self, phase: Phase, unit: &DesiredUnit) {
        let action = match (unit.enabled, self.facts.unit(unit.name).enabled) {
            (true, false) => UnitAction::Enable,
            (false, true) => UnitAction::Disable,
            _ => return,
        };
        self.steps.push(Step::ActOnUnit {
            phase,
            unit: unit.name.to_owned(),
            action,
        });
    }

    /// Before everything else, and only when units change: a refusal must leave no trace.
    fn verification(&mut self) {
        if !self.facts.is_live() || !self.writes(|role| matches!(role, FileRole::Unit { .. })) {
            return;
        }
        let unit = |step: &Step| match step {
            Step::WriteFile { file, .. } => {
                unit_name(&file.path).map(|name| (name.to_owned(), file.content.clone()))
            }
            _ => None,
        };
        let units = self.steps.iter().filter_map(unit).collect();
        self.steps.insert(0, Step::VerifyUnits { units });
    }

    fn file(&mut self, file: &DesiredFile) {
        let reason = match compare(file, self.facts) {
            Standing::InSync => return,
            Standing::WrongAccess => {
                self.steps.push(Step::SetAccess {
                    phase: Phase::of_file(file.role),
                    path: file.path.clone(),
                    access: file.access,
                });
                return;
            }
            Standing::Missing => Reason::Missing,
            Standing::Pending => Reason::Changed,
            Standing::Conflict(ConflictKind::Drifted | ConflictKind::Foreign)
                if self.options.overwrite_drift =>
            {
                Reason::Overwrite
            }
            Standing::Conflict(kind) => {
                self.conflicts.push(Conflict {
                    path: file.path.clone(),
                    kind,
                });
                return;
            }
        };
        self.steps.push(Step::WriteFile {
            file: file.clone(),
            reason,
        });
    }

    fn writes(&self, role: impl Fn(FileRole) -> bool) -> bool {
        self.steps
            .iter()
            .any(|step| matches!(step, Step::WriteFile { file, .. } if role(file.role)))
    }

    fn writes_unit(&self, name: &str) -> bool {
        let is = |path: &str| unit_name(path) == Some(name);
        self.steps
            .iter()
            .any(|step| matches!(step, Step::WriteFile { file, .. } if is(&file.path)))
    }
}

fn is_server_input(role: FileRole) -> bool {
    matches!(
        role,
        FileRole::ServerInput | FileRole::Unit { server: true }
    )
}

fn server_inputs(desired: &Desired) -> Sha256Hex {
    let mut bytes = Vec::new();
    for file in desired
        .files
        .iter()
        .filter(|file| is_server_input(file.role))
    {
        bytes.extend_from_slice(file.path.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(file.content.as_bytes());
        bytes.push(0);
    }
    Sha256Hex::of(&bytes)
}
