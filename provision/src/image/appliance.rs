//! A guest that stays: started from a finished image, used, stopped. Its disk is kept between runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::accelerator::{Accelerator, AcceleratorChoice};
use super::digest;
use super::fault::{ImageError, file};
use super::guest::{Guest, KeyValueClient, SshKey};
use super::health;
use super::lock::FolderLock;
use super::machine::{Firmware, Forward, MachinePlan, free_port};
use super::progress::{Step, say, skip};
use super::sealed::SealedImage;
use super::tool::Tool;
use super::trial::make_overlay;
use crate::host::clock;

const NAME: &str = "appliance";
const CLIENT_PORT: u16 = 2379;
const SSH_PORT: u16 = 22;
/// Tried first, because it is easy to remember.
const SSH_PORT_WANTED: u16 = 2222;
const KEY: &str = "hello";
/// A server may take a minute to stop, an emulated guest as long again.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(180);
/// Time for QEMU itself to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How an appliance is started.
#[derive(Debug)]
pub(super) struct AppliancePlan {
    pub(super) image: PathBuf,
    /// Folder for its disk, key and logs.
    pub(super) folder: PathBuf,
    pub(super) etcdctl: PathBuf,
    pub(super) accelerator: AcceleratorChoice,
    pub(super) memory_mib: u32,
}

/// What is known about a running appliance; kept in its folder.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Appliance {
    pub(super) endpoint: String,
    /// Command line that logs in as root.
    pub(super) log_in: String,
    pub(super) process: i32,
    pub(super) disk: PathBuf,
    ssh_port: u16,
    client_port: u16,
}

/// Starts the appliance, or finds it running, and puts and gets a key through it.
pub(super) fn start(plan: &AppliancePlan) -> Result<Appliance, ImageError> {
    if !plan.image.is_file() {
        return Err(ImageError::Missing {
            what: "image",
            path: plan.image.clone(),
            remedy: "make it with `provision image build`".to_owned(),
        });
    }
    let _lock = FolderLock::take(&plan.folder)?;
    let folder = fs::canonicalize(&plan.folder).map_err(file("find", &plan.folder))?;
    let appliance = match running(&folder) {
        Some(appliance) => {
            let process = appliance.process;
            skip(
                "boot",
                format!("the appliance runs already, as process {process}"),
            );
            if appliance.disk != disk_of(&plan.image, &folder)? {
                say("It runs from an earlier image: stop it first to boot the new one.");
            }
            appliance
        }
        None => boot(plan, &folder)?,
    };
    prove(plan, &appliance)?;
    Ok(appliance)
}

/// Stops the appliance: asks the guest to power off, and ends QEMU if it does not.
pub(super) fn stop(folder: &Path) -> Result<(), ImageError> {
    if !folder.exists() {
        skip("stop", "no appliance was ever started here");
        return Ok(());
    }
    let _lock = FolderLock::take(folder)?;
    let folder = fs::canonicalize(folder).map_err(file("find", folder))?;
    let Some(appliance) = running(&folder) else {
        skip("stop", "no appliance runs");
        return Ok(());
    };
    let mut step = Step::begin("stop", "asks the appliance to power off");
    let key = SshKey::in_folder(&folder)?;
    let guest = Guest {
        ssh_port: appliance.ssh_port,
        key,
    };
    // Whether it heard is seen by its end.
    drop(guest.try_text(&["systemctl", "poweroff"]));
    let ended = clock::wait_for(POWER_OFF_LIMIT, || {
        step.tick(String::new);
        (!is_ours(appliance.process, &folder)).then_some(())
    });
    if ended.is_none() && is_ours(appliance.process, &folder) {
        // It may end between the look and the signal.
        let _ = kill(Pid::from_raw(appliance.process), Signal::SIGTERM);
        clock::wait_for(END_LIMIT, || {
            (!is_ours(appliance.process, &folder)).then_some(())
        });
        step.done("it did not, so QEMU was ended");
    } else {
        step.done("");
    }
    for left_over in [pid_file(&folder), state_file(&folder)] {
        // QEMU removes its own.
        let _ = fs::remove_file(left_over);
    }
    say(&format!(
        "Its disk with all keys stays: {}",
        appliance.disk.display()
    ));
    Ok(())
}

fn boot(plan: &AppliancePlan, folder: &Path) -> Result<Appliance, ImageError> {
    let disk = disk_for(&plan.image, folder)?;
    let accelerator = choose_accelerator(plan, folder)?;
    let key = SshKey::in_folder(folder)?;
    let (client_port, ssh_port) = (
        free_port(Some(CLIENT_PORT))?,
        free_port(Some(SSH_PORT_WANTED))?,
    );
    let machine = MachinePlan {
        name: NAME.to_owned(),
        disk: disk.clone(),
        accelerator,
        firmware: Firmware::Bios,
        memory_mib: plan.memory_mib,
        folder: folder.to_owned(),
        forwards: vec![
            Forward {
                host: client_port,
                guest: CLIENT_PORT,
            },
            Forward {
                host: ssh_port,
                guest: SSH_PORT,
            },
        ],
        authorized_key: key.public_line.clone(),
        volatile: false,
    };
    let mut step = Step::begin("boot", format!("boots {}", plan.image.display()));
    Tool::new("qemu-system-x86_64")
        .args(machine.arguments())
        .args(["-daemonize", "-pidfile"])
        .arg(pid_file(folder))
        .run()?;
    let process = read_pid(folder).ok_or_else(|| machine.fault("QEMU left no process id"))?;
    let guest = Guest { ssh_port, key };
    let appliance = Appliance {
        endpoint: format!("http://127.0.0.1:{client_port}"),
        log_in: format!("ssh {}", guest.ssh_arguments().join(" ")),
        process,
        disk,
        ssh_port,
        client_port,
    };
    write_state(folder, &appliance)?;
    let answered = clock::wait_for(accelerator.boot_limit(), || {
        step.tick(String::new);
        if health::is_healthy(client_port) {
            return Some(true);
        }
        (!is_ours(process, folder)).then_some(false)
    });
    match answered {
        Some(true) => {
            step.done("the server answers");
            Ok(appliance)
        }
        Some(false) => Err(machine.fault("QEMU ended before the server answered")),
        None => Err(machine.fault(format!(
            "the server did not answer within {} s; `make appliance-stop` ends the guest",
            accelerator.boot_limit().as_secs()
        ))),
    }
}

fn prove(plan: &AppliancePlan, appliance: &Appliance) -> Result<(), ImageError> {
    let step = Step::begin("prove", "etcdctl puts and gets a key");
    let client = KeyValueClient::new(&plan.etcdctl, appliance.client_port);
    let value = format!("from make appliance, at second {}", clock::unix_seconds());
    client.put(KEY, &value)?;
    let got = client.get(KEY)?;
    if got != value {
        step.failed();
        let message = format!("put {value:?} and got {got:?}");
        return Err(ImageError::description(client.endpoint(), message));
    }
    step.done(format!("{KEY} = {got:?}"));
    Ok(())
}

/// The disk that belongs to this image. Each image's disk lies over its own link to the file, so
/// that baking a new image never pulls the ground from under an older disk.
fn disk_for(image: &Path, folder: &Path) -> Result<PathBuf, ImageError> {
    let disk = disk_of(image, folder)?;
    if disk.exists() {
        skip(
            "boot",
            format!("goes on with the keys in {}", disk.display()),
        );
        return Ok(disk);
    }
    for earlier in earlier_disks(folder)? {
        say(&format!(
            "The disk of an earlier image stays: {}",
            earlier.display()
        ));
    }
    let ground = folder.join(format!("image-{}.qcow2", mark(image)?));
    // Left by a run that was cut short.
    let _ = fs::remove_file(&ground);
    if fs::hard_link(image, &ground).is_err() {
        // Another file system: a copy does as well.
        fs::copy(image, &ground).map_err(file("copy", image))?;
    }
    make_overlay(&ground, &disk)?;
    Ok(disk)
}

fn disk_of(image: &Path, folder: &Path) -> Result<PathBuf, ImageError> {
    Ok(folder.join(format!("disk-{}.qcow2", mark(image)?)))
}

/// Tells images apart in names of files.
fn mark(image: &Path) -> Result<String, ImageError> {
    Ok(digest::of_file(image)?[..12].to_owned())
}

fn earlier_disks(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let entries = fs::read_dir(folder).map_err(file("list", folder))?;
    let is_disk = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("disk-"))
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_disk)
        .collect())
}

fn choose_accelerator(plan: &AppliancePlan, folder: &Path) -> Result<Accelerator, ImageError> {
    // Looking into the image for a kernel is needed only where KVM may work at all.
    if plan.accelerator != AcceleratorChoice::Auto || !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::choose(plan.accelerator, None));
    }
    let kernel = SealedImage::open(&plan.image, folder)?.kernel(folder)?;
    Ok(Accelerator::choose(plan.accelerator, kernel.as_deref()))
}

/// The appliance of this folder, if its process lives.
fn running(folder: &Path) -> Option<Appliance> {
    let text = fs::read_to_string(state_file(folder)).ok()?;
    let appliance: Appliance = serde_json::from_str(&text).ok()?;
    is_ours(appliance.process, folder).then_some(appliance)
}

/// Whether a process is the QEMU of this folder: numbers of processes come again.
fn is_ours(process: i32, folder: &Path) -> bool {
    let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let mark = pid_file(folder).display().to_string();
    String::from_utf8_lossy(&command)
        .split('\0')
        .any(|word| word == mark)
}

fn read_pid(folder: &Path) -> Option<i32> {
    fs::read_to_string(pid_file(folder))
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn write_state(folder: &Path, appliance: &Appliance) -> Result<(), ImageError> {
    let path = state_file(folder);
    let text = serde_json::to_string_pretty(appliance).expect("it has only plain values");
    fs::write(&path, text).map_err(file("write", &path))
}

fn pid_file(folder: &Path) -> PathBuf {
    folder.join("qemu.pid")
}

fn state_file(folder: &Path) -> PathBuf {
    folder.join("appliance.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_has_a_disk_of_its_own_that_outlives_the_image() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let image = folder.path().join("baked.qcow2");
        let create = |path: &Path, size: &str| {
            let tool = Tool::new("qemu-img").args(["create", "-q", "-f", "qcow2"]);
            tool.arg(path).arg(size).run().expect("qemu-img runs");
        };
        create(&image, "1M");
        let first = disk_for(&image, folder.path()).expect("it can be made");
        assert_eq!(disk_for(&image, folder.path()).expect("it is there"), first);
        fs::remove_file(&image).expect("it is there");
        create(&image, "2M");
        let second = disk_for(&image, folder.path()).expect("it can be made");
        assert_ne!(first, second);
        for disk in [first, second] {
            Tool::new("qemu-img")
                .arg("check")
                .arg(disk)
                .run()
                .expect("its ground is there");
        }
    }

    #[test]
    fn a_process_of_somebody_else_is_never_ours() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let own = i32::try_from(std::process::id()).expect("it is small");
        assert!(!is_ours(own, folder.path()));
        assert!(running(folder.path()).is_none());
    }
}
