//! Every path we own or read on a target machine, once.

/// The declarative file that everything else is made of.
pub(crate) const CONFIG_FILE: &str = "/etc/holdfast/provision.toml";
/// Folder of the product's configuration; 0750 root:holdfast.
pub(crate) const CONFIG_DIR: &str = "/etc/holdfast";
/// The server's environment (`ETCD_*`), read by its unit.
pub(crate) const ENVIRONMENT_FILE: &str = "/etc/holdfast/holdfast.env";
/// While this file exists, `provision defrag` does nothing.
pub(crate) const DEFRAG_DISABLED: &str = "/etc/holdfast/defrag.disabled";
/// The server's binary.
pub(crate) const SERVER_BINARY: &str = "/usr/bin/holdfast";
/// Default folder of the member's data; the unit's StateDirectory.
pub(crate) const DATA_DIR: &str = "/var/lib/holdfast";
/// Default folder of the backups.
pub(crate) const BACKUP_DIR: &str = "/var/backups/holdfast";

/// What the provisioner remembers.
pub(crate) const PROVISION_DIR: &str = "/var/lib/provision";
/// Files written, with their hashes, and a run that has not ended.
pub(crate) const STATE_FILE: &str = "/var/lib/provision/state.json";
/// Results of `provision check`, newest kept.
pub(crate) const PREFLIGHT_DIR: &str = "/var/lib/provision/preflight";
/// What the maintenance units remember; theirs to write.
pub(crate) const MAINTENANCE_DIR: &str = "/var/lib/provision/maintenance";
/// The last defragmentation, for the forecast of the next.
pub(crate) const DEFRAG_HISTORY: &str = "/var/lib/provision/maintenance/defrag.json";
/// Held by a maintenance command while it works.
pub(crate) const MAINTENANCE_LOCK: &str = "/var/lib/provision/maintenance/lock";
/// Held by a command that changes the host.
pub(crate) const HOST_LOCK: &str = "/run/provision/lock";

/// Declares the service user.
pub(crate) const SYSUSERS_FILE: &str = "/usr/lib/sysusers.d/holdfast.conf";
/// Declares the folders, so that they come back after a wiped `/var`.
pub(crate) const TMPFILES_FILE: &str = "/usr/lib/tmpfiles.d/holdfast.conf";
/// Kernel settings.
pub(crate) const SYSCTL_FILE: &str = "/etc/sysctl.d/60-holdfast.conf";
/// Which units a first boot enables.
pub(crate) const PRESET_FILE: &str = "/usr/lib/systemd/system-preset/60-holdfast.preset";
/// Folder of the units that we render.
pub(crate) const UNIT_DIR: &str = "/etc/systemd/system";

/// The service user and its group.
pub(crate) const SERVICE_ACCOUNT: &str = "holdfast";
