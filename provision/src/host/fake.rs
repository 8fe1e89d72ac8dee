//! A target in memory, whose power can be cut before any change.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Entry, Held, Host, HostError, ServiceIds, Target, UnitAction, UnitFacts};
use crate::render::{Access, Account};
use crate::spec::HttpUrl;

const SERVICE: ServiceIds = ServiceIds {
    user: 990,
    group: 991,
};

/// A target in memory.
#[derive(Clone, Debug)]
pub(crate) struct FakeHost {
    target: Target,
    pub(crate) entries: BTreeMap<String, Entry>,
    has_accounts: bool,
    pub(crate) enabled: BTreeSet<String>,
    pub(crate) active: BTreeSet<String>,
    /// Unit files that changed since systemd read them.
    stale: BTreeSet<String>,
    /// What happened, in order.
    pub(crate) calls: Vec<String>,
    /// After so many changes more the power is cut.
    power_left: Cell<Option<usize>>,
    /// The change that fails, by the beginning of its call's name.
    pub(crate) broken: Option<String>,
}

impl FakeHost {
    /// A fresh Debian host, or the tree of one.
    pub(crate) fn fresh(target: Target) -> FakeHost {
        let held = Held {
            user: 0,
            group: 0,
            mode: 0o755,
        };
        let folders = [
            "/etc",
            "/etc/systemd",
            "/etc/systemd/system",
            "/etc/sysctl.d",
            "/usr",
            "/usr/lib",
            "/usr/lib/sysusers.d",
            "/usr/lib/tmpfiles.d",
            "/usr/lib/systemd",
            "/var",
            "/var/lib",
            "/var/backups",
        ];
        FakeHost {
            target,
            entries: folders
                .map(|path| (path.to_owned(), Entry::Folder { held }))
                .into(),
            has_accounts: false,
            enabled: BTreeSet::new(),
            active: BTreeSet::new(),
            stale: BTreeSet::new(),
            calls: Vec::new(),
            power_left: Cell::new(None),
            broken: None,
        }
    }

    /// Cuts the power after so many changes.
    pub(crate) fn cut_power_after(&mut self, changes: usize) {
        self.power_left.set(Some(changes));
    }

    /// The power is back; what ran is gone, what is enabled runs again.
    pub(crate) fn boot(&mut self) {
        self.power_left.set(None);
        self.active = self.enabled.clone();
        self.stale.clear();
        self.calls.clear();
    }

    /// Everything that outlives a reboot.
    pub(crate) fn durable(&self) -> (&BTreeMap<String, Entry>, &BTreeSet<String>) {
        (&self.entries, &self.enabled)
    }

    fn change(&mut self, call: String) -> Result<(), HostError> {
        match self.power_left.get() {
            Some(0) => return Err(HostError::PowerOff),
            Some(left) => self.power_left.set(Some(left - 1)),
            None => {}
        }
        if self
            .broken
            .as_ref()
            .is_some_and(|broken| call.starts_with(broken.as_str()))
        {
            return Err(HostError::UnitsRefused(format!("{call} is broken")));
        }
        self.calls.push(call);
        Ok(())
    }

    fn held(&self, access: Access) -> Held {
        let needs = [access.owner, access.group].contains(&Account::Service);
        assert!(
            !needs || self.has_accounts,
            "the service account is used before it is made"
        );
        let user = if access.owner == Account::Root {
            0
        } else {
            SERVICE.user
        };
        let group = if access.group == Account::Root {
            0
        } else {
            SERVICE.group
        };
        Held {
            user,
            group,
            mode: access.mode,
        }
    }

    fn assert_parent(&self, path: &str) {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let there = matches!(self.entries.get(parent), Some(Entry::Folder { .. }));
        assert!(there || parent.is_empty(), "{path} has no folder to lie in");
    }
}

impl Host for FakeHost {
    fn target(&self) -> &Target {
        &self.target
    }

    fn entry(&self, path: &str) -> Result<Entry, HostError> {
        Ok(self.entries.get(path).cloned().unwrap_or(Entry::Missing))
    }

    fn service_ids(&self) -> Result<Option<ServiceIds>, HostError> {
        Ok(self.has_accounts.then_some(SERVICE))
    }

    fn unit(&self, name: &str) -> Result<UnitFacts, HostError> {
        Ok(UnitFacts {
            enabled: self.enabled.contains(name),
            active: self.active.contains(name),
            needs_reload: self.target == Target::Live && self.stale.contains(name),
        })
    }

    fn can_set_owners(&self) -> bool {
        true
    }

    fn replace_file(
        &mut self,
        path: &str,
        content: &[u8],
        access: Access,
    ) -> Result<(), HostError> {
        self.change(format!("write {path}"))?;
        self.assert_parent(path);
        let held = self.held(access);
        if let Some(name) = crate::facts::unit_name(path) {
            self.stale.insert(name.to_owned());
        }
        self.entries.insert(
            path.to_owned(),
            Entry::File {
                content: content.to_vec(),
                held,
            },
        );
        Ok(())
    }

    fn remove_file(&mut self, path: &str) -> Result<(), HostError> {
        self.change(format!("remove {path}"))?;
        assert!(
            matches!(self.entries.remove(path), Some(Entry::File { .. })),
            "{path} is no file"
        );
        Ok(())
    }

    fn make_folder(&mut self, path: &str, access: Access) -> Result<(), HostError> {
        self.change(format!("make {path}"))?;
        self.assert_parent(path);
        let held = self.held(access);
        self.entries.insert(path.to_owned(), Entry::Folder { held });
        Ok(())
    }

    fn remove_empty_folder(&mut self, path: &str) -> Result<(), HostError> {
        self.change(format!("remove-folder {path}"))?;
        let below = format!("{path}/");
        if !self.entries.keys().any(|other| other.starts_with(&below)) {
            self.entries.remove(path);
        }
        Ok(())
    }

    fn set_access(&mut self, path: &str, access: Access) -> Result<(), HostError> {
        let held = self.held(access);
        self.restore_held(path, held)
    }

    fn restore_held(&mut self, path: &str, wanted: Held) -> Result<(), HostError> {
        self.change(format!("access {path}"))?;
        match self.entries.get_mut(path) {
            Some(Entry::File { held, .. } | Entry::Folder { held }) => *held = wanted,
            other => panic!("{path} is {other:?}"),
        }
        Ok(())
    }

    fn create_accounts(&mut self, sysusers_file: &str) -> Result<(), HostError> {
        self.change("create-accounts".to_owned())?;
        assert!(
            self.entries.contains_key(sysusers_file),
            "{sysusers_file} is made first"
        );
        self.has_accounts = true;
        Ok(())
    }

    fn verify_units(&mut self, units: &[(String, String)]) -> Result<(), HostError> {
        self.change(format!("verify {}", units.len()))
    }

    fn reload_manager(&mut self) -> Result<(), HostError> {
        assert_eq!(self.target, Target::Live, "a tree has no manager");
        self.change("reload".to_owned())?;
        self.stale.clear();
        Ok(())
    }

    fn act_on_unit(&mut self, name: &str, action: UnitAction) -> Result<(), HostError> {
        self.change(format!("{} {name}", crate::plan::verb(action)))?;
        match action {
            UnitAction::Enable => {
                let path = format!("{}/{name}", crate::paths::UNIT_DIR);
                assert!(
                    self.entries.contains_key(&path),
                    "{name} is enabled before it is there"
                );
                self.enabled.insert(name.to_owned());
            }
            UnitAction::Disable => {
                self.enabled.remove(name);
            }
            UnitAction::Start | UnitAction::Restart => {
                assert_eq!(self.target, Target::Live, "nothing is started in a tree");
                assert!(
                    self.stale.is_empty(),
                    "{name} starts with a unit that systemd has not read"
                );
                self.active.insert(name.to_owned());
            }
            UnitAction::Stop => {
                self.active.remove(name);
            }
        }
        Ok(())
    }

    fn set_kernel_settings(&mut self, sysctl_file: &str) -> Result<(), HostError> {
        assert_eq!(self.target, Target::Live, "a tree has no kernel");
        self.change(format!("sysctl {sysctl_file}"))
    }

    fn wait_until_serving(&mut self, _client: &HttpUrl, _limit: Duration) -> Result<(), HostError> {
        self.change("wait".to_owned())?;
        assert!(
            self.active.contains(crate::render::SERVER_UNIT),
            "nobody started the server"
        );
        Ok(())
    }
}
