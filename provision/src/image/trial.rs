//! Proves a finished image: looks into the file, boots it by its own boot loader, uses it as a
//! client and as an operator would, reboots it, and sees that the file did not change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::accelerator::{Accelerator, AcceleratorChoice};
use super::check::{Checks, Verdict};
use super::digest;
use super::fault::{ImageError, file};
use super::guest::{Guest, KeyValueClient, SshKey};
use super::health;
use super::lock::FolderLock;
use super::machine::{Firmware, Forward, Machine, MachinePlan, free_port};
use super::progress::Step;
use super::report::{Case, Figures, Report};
use super::sealed::SealedImage;
use super::tool::Tool;
use crate::host::clock;

/// Port of the server's clients in the guest.
const CLIENT_PORT: u16 = 2379;
/// Port of SSH in the guest.
const SSH_PORT: u16 = 22;
/// What is written before the reboot and read after it.
const KEY: &str = "image-trial/key";
const VALUE: &str = "kept through a reboot";
/// An emulated guest stops its services within seconds; a server may take a minute to hand over.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(240);

/// What is to be proved, and with what.
#[derive(Debug)]
pub(super) struct TrialPlan {
    pub(super) image: PathBuf,
    pub(super) checks: PathBuf,
    /// Folder for disks, logs and reports.
    pub(super) work: PathBuf,
    pub(super) etcdctl: PathBuf,
    pub(super) accelerator: AcceleratorChoice,
    pub(super) firmware: PathBuf,
    pub(super) memory_mib: u32,
    /// In CI a part that cannot run is a failure.
    pub(super) ci: bool,
}

/// Runs the whole trial; the report is complete even if parts failed.
pub(super) fn run(plan: &TrialPlan) -> Result<Report, ImageError> {
    if !plan.image.is_file() {
        return Err(ImageError::Missing {
            what: "image",
            path: plan.image.clone(),
            remedy: "make it with `provision image build`".to_owned(),
        });
    }
    let checks = fs::read_to_string(&plan.checks).map_err(file("read", &plan.checks))?;
    let _lock = FolderLock::take(&plan.work)?;
    let mut trial = Trial::prepare(plan, checks)?;
    trial.look_into_the_file()?;
    let bios = trial.boot("bios", Firmware::Bios);
    trial.by_bios(bios);
    if plan.firmware.is_file() {
        let uefi = trial.boot("uefi", Firmware::Uefi(plan.firmware.clone()));
        trial.by_uefi(uefi);
    } else {
        trial.skip(
            "uefi",
            format!("no firmware at {}: install ovmf", plan.firmware.display()),
        );
    }
    trial.compare_the_file()?;
    Ok(trial.report)
}

struct Trial<'a> {
    plan: &'a TrialPlan,
    work: PathBuf,
    checks_text: String,
    checks: Checks,
    accelerator: Accelerator,
    key: SshKey,
    report: Report,
}

/// A guest that was started, and the ways into it.
struct Started {
    part: &'static str,
    machine: Machine,
    guest: Guest,
    client_port: u16,
    client: KeyValueClient,
    began: Instant,
}

impl<'a> Trial<'a> {
    fn prepare(plan: &'a TrialPlan, checks_text: String) -> Result<Self, ImageError> {
        let checks = Checks::parse(&plan.checks.display().to_string(), &checks_text)?;
        let work = fs::canonicalize(&plan.work).map_err(file("find", &plan.work))?;
        let figures = Figures {
            image_bytes: fs::metadata(&plan.image)
                .map_err(file("look at", &plan.image))?
                .len(),
            disk_bytes: virtual_size(&plan.image)?,
            sha256: digest::of_file(&plan.image)?,
            ..Figures::default()
        };
        let image = plan.image.display().to_string();
        let report = Report {
            image,
            figures,
            cases: Vec::new(),
            skipped: Vec::new(),
        };
        let key = SshKey::in_folder(&work)?;
        // Known after a look into the file; emulation works everywhere.
        let accelerator = Accelerator::Tcg;
        Ok(Self {
            plan,
            work,
            checks_text,
            checks,
            accelerator,
            key,
            report,
        })
    }

    fn look_into_the_file(&mut self) -> Result<(), ImageError> {
        let step = Step::begin("sealed", "looks into the file");
        let sealed = SealedImage::open(&self.plan.image, &self.work)?;
        for check in self.checks.sealed.clone() {
            let began = clock::now();
            let verdict = check.verdict(&sealed);
            self.record("sealed", began, verdict);
        }
        let kernel = sealed.kernel(&self.work)?;
        step.done(format!("{} checks", self.checks.sealed.len()));
        self.accelerator = Accelerator::choose(self.plan.accelerator, kernel.as_deref());
        self.report.figures.accelerator = self.accelerator.name();
        Ok(())
    }

    /// Starts a guest on a fresh overlay, so that the file itself is only read.
    fn boot(&self, part: &'static str, firmware: Firmware) -> Result<Started, ImageError> {
        let image = fs::canonicalize(&self.plan.image).map_err(file("find", &self.plan.image))?;
        let disk = self.work.join(format!("{part}.qcow2"));
        make_overlay(&image, &disk)?;
        let (ssh_port, client_port) = (free_port(None)?, free_port(None)?);
        let plan = MachinePlan {
            name: part.to_owned(),
            disk,
            accelerator: self.accelerator,
            firmware,
            memory_mib: self.plan.memory_mib,
            folder: self.work.clone(),
            forwards: vec![
                Forward {
                    host: ssh_port,
                    guest: SSH_PORT,
                },
                Forward {
                    host: client_port,
                    guest: CLIENT_PORT,
                },
            ],
            authorized_key: self.key.public_line.clone(),
            volatile: true,
        };
        let began = clock::now();
        let machine = plan.start()?;
        let client = KeyValueClient::new(&self.plan.etcdctl, client_port);
        let guest = Guest {
            ssh_port,
            key: self.key.clone(),
        };
        Ok(Started {
            part,
            machine,
            guest,
            client_port,
            client,
            began,
        })
    }

    /// The long way: everything a client and an operator do.
    fn by_bios(&mut self, started: Result<Started, ImageError>) {
        let Some(mut started) = self.started("bios", started) else {
            return;
        };
        let Some(first_get) = self.first_get(&mut started, "boots and answers a get") else {
            return;
        };
        self.report.figures.first_get_seconds = Some(first_get);
        self.put_and_get(&started);
        if !self.log_in(&mut started) {
            return;
        }
        self.inside(&started);
        self.maintenance(&started);
        self.reboot(&mut started);
        self.power_off(started);
    }

    /// The short way: boots and answers.
    fn by_uefi(&mut self, started: Result<Started, ImageError>) {
        let Some(mut started) = self.started("uefi", started) else {
            return;
        };
        let Some(first_get) = self.first_get(&mut started, "boots and answers a get") else {
            return;
        };
        self.report.figures.first_get_uefi_seconds = Some(first_get);
        if self.log_in(&mut started) {
            self.power_off(started);
        }
    }

    fn started(
        &mut self,
        part: &'static str,
        started: Result<Started, ImageError>,
    ) -> Option<Started> {
        match started {
            Ok(started) => Some(started),
            Err(error) => {
                self.record_result(part, "starts", clock::now(), Err(error));
                None
            }
        }
    }

    fn first_get(&mut self, started: &mut Started, name: &str) -> Option<f64> {
        let Started {
            part,
            machine,
            client_port,
            client,
            began,
            ..
        } = started;
        let (part, port, began) = (*part, *client_port, *began);
        let mut step = Step::begin(part, name);
        let limit = self.accelerator.boot_limit();
        let got = machine
            .wait(&mut step, "the server answered /health", limit, || {
                health::is_healthy(port).then_some(())
            })
            .and_then(|()| client.get(KEY));
        let seconds = began.elapsed().as_secs_f64();
        let answered = got.is_ok();
        if answered {
            step.done("");
        } else {
            step.failed();
        }
        self.record_result(
            part,
            name,
            began,
            got.map(|_| format!("after {seconds:.1} s")),
        );
        answered.then_some(seconds)
    }

    fn put_and_get(&mut self, started: &Started) {
        self.case(started.part, "etcdctl puts and gets", || {
            started.client.put(KEY, VALUE)?;
            expect_value(&started.client)
        });
    }

    /// Waits for SSH; the server may answer before it.
    fn log_in(&mut self, started: &mut Started) -> bool {
        let mut step = Step::begin(started.part, "waits for SSH");
        let began = clock::now();
        let (guest, limit) = (&started.guest, self.accelerator.boot_limit());
        let logged_in = started.machine.wait(&mut step, "SSH let us in", limit, || {
            guest.try_text(&["true"])
        });
        let is_in = logged_in.is_ok();
        if is_in {
            step.done("");
        } else {
            step.failed();
        }
        self.record_result(
            started.part,
            "SSH takes the credential's key",
            began,
            logged_in,
        );
        is_in
    }

    fn inside(&mut self, started: &Started) {
        let step = Step::begin(started.part, "looks around in the guest");
        let guest = &started.guest;
        self.case(started.part, "systemctl is-system-running", || {
            is_running(guest)
        });
        if let Some(account) = guest.try_text(&["systemd-analyze"]) {
            self.report.figures.multi_user = Some(account.lines().collect::<Vec<_>>().join("; "));
        }
        let began = clock::now();
        match self.ask_guest_for_verdicts(guest) {
            Ok(verdicts) => {
                let share = began.elapsed() / u32::try_from(verdicts.len().max(1)).unwrap_or(1);
                for verdict in verdicts {
                    self.record_share("bios", share, verdict);
                }
            }
            Err(error) => {
                self.record_result(started.part, "checks in the guest", began, Err(error));
            }
        }
        step.done("");
    }

    fn ask_guest_for_verdicts(&self, guest: &Guest) -> Result<Vec<Verdict>, ImageError> {
        let command = ["provision", "image", "check", "--json", "-"];
        let outcome = guest.outcome(&command, self.checks_text.clone().into_bytes())?;
        verdicts_in(&outcome.text()).ok_or_else(|| {
            let message = format!("gave no verdicts:\n{}", outcome.tail());
            failed("provision image check in the guest", &message)
        })
    }

    /// Services that timers start: they must work before anybody relies on the timers.
    fn maintenance(&mut self, started: &Started) {
        let step = Step::begin(started.part, "runs the maintenance services");
        let guest = &started.guest;
        for unit in ["holdfast-defrag.service", "holdfast-backup.service"] {
            self.case(
                started.part,
                &format!("{unit} runs and tells the journal"),
                || run_service(guest, unit),
            );
        }
        self.case(started.part, "a backup lies in its folder", || {
            let listing = guest.run(&["ls", "-A", "/var/backups/holdfast"])?.text();
            if listing.is_empty() {
                return Err(failed("/var/backups/holdfast", "is empty"));
            }
            Ok(listing.lines().collect::<Vec<_>>().join(", "))
        });
        step.done("");
    }

    fn reboot(&mut self, started: &mut Started) {
        let guest = started.guest.clone();
        let boot_id = ["cat", "/proc/sys/kernel/random/boot_id"];
        let Some(before) = guest.try_text(&boot_id) else {
            let lost = Err(failed("reboot", "SSH did not answer before it"));
            return self.record_result(started.part, "reboots", clock::now(), lost);
        };
        started.began = clock::now();
        // The connection may break before the command's end is told.
        drop(guest.outcome(&["systemctl", "reboot"], Vec::new()));
        let mut step = Step::begin(started.part, "reboots");
        let limit = self.accelerator.boot_limit() + POWER_OFF_LIMIT;
        let rebooted =
            started
                .machine
                .wait(&mut step, "it came back from the reboot", limit, || {
                    guest.try_text(&boot_id).filter(|after| *after != before)
                });
        if let Err(error) = rebooted {
            step.failed();
            return self.record_result(started.part, "reboots", started.began, Err(error));
        }
        step.done("");
        if let Some(seconds) = self.first_get(started, "answers a get after the reboot") {
            self.report.figures.reboot_seconds = Some(seconds);
        }
        self.case(started.part, "the value outlived the reboot", || {
            expect_value(&started.client)
        });
        self.case(
            started.part,
            "systemctl is-system-running after the reboot",
            || is_running(&guest),
        );
    }

    fn power_off(&mut self, mut started: Started) {
        let began = clock::now();
        let mut step = Step::begin(started.part, "powers off");
        // The connection may break before the command's end is told.
        drop(
            started
                .guest
                .outcome(&["systemctl", "poweroff"], Vec::new()),
        );
        let ended = started.machine.wait_for_end(&mut step, POWER_OFF_LIMIT);
        match &ended {
            Ok(()) => {
                step.done("");
            }
            Err(_) => step.failed(),
        }
        self.record_result(
            started.part,
            "powers off by itself",
            began,
            ended.map(|()| String::new()),
        );
        let disk = started.machine.plan().disk.clone();
        drop(started);
        // The logs stay; the disk was only for this.
        let _ = fs::remove_file(disk);
    }

    fn compare_the_file(&mut self) -> Result<(), ImageError> {
        let began = clock::now();
        let after = digest::of_file(&self.plan.image)?;
        let same = after == self.report.figures.sha256;
        let found = if same {
            "same sha256".to_owned()
        } else {
            format!("now {after}")
        };
        let name = "the file was not changed by its boots".to_owned();
        self.record(
            "sealed",
            began,
            Verdict {
                name,
                passed: same,
                found,
            },
        );
        Ok(())
    }

    fn case(
        &mut self,
        part: &'static str,
        name: &str,
        try_it: impl FnOnce() -> Result<String, ImageError>,
    ) {
        let began = clock::now();
        let result = try_it();
        self.record_result(part, name, began, result);
    }

    fn skip(&mut self, part: &'static str, reason: String) {
        if self.plan.ci {
            let verdict = Verdict {
                name: "can be tried here".to_owned(),
                passed: false,
                found: reason,
            };
            self.record(part, clock::now(), verdict);
        } else {
            self.report.skipped.push(format!("{part}: {reason}"));
        }
    }

    fn record_result(
        &mut self,
        part: &'static str,
        name: &str,
        began: Instant,
        result: Result<String, ImageError>,
    ) {
        let (passed, found) = match result {
            Ok(found) => (true, found),
            Err(error) => (false, error.to_string()),
        };
        self.record(
            part,
            began,
            Verdict {
                name: name.to_owned(),
                passed,
                found,
            },
        );
    }

    fn record(&mut self, part: &'static str, began: Instant, verdict: Verdict) {
        self.record_share(part, began.elapsed(), verdict);
    }

    fn record_share(&mut self, part: &'static str, time: Duration, verdict: Verdict) {
        let Verdict {
            name,
            passed,
            found,
        } = verdict;
        let seconds = time.as_secs_f64();
        self.report.cases.push(Case {
            part,
            name,
            passed,
            found,
            seconds,
        });
    }
}

/// A fresh disk that keeps only what differs from the image.
pub(super) fn make_overlay(image: &Path, disk: &Path) -> Result<(), ImageError> {
    // An earlier run may have left one.
    let _ = fs::remove_file(disk);
    Tool::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .arg(image)
        .arg(disk)
        .run()
        .map(drop)
}

fn virtual_size(image: &Path) -> Result<u64, ImageError> {
    let said = Tool::new("qemu-img")
        .args(["info", "--output=json"])
        .arg(image)
        .run()?
        .text();
    let info: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
    info["virtual-size"].as_u64().ok_or_else(|| {
        ImageError::description(
            image.display().to_string(),
            "qemu-img does not say its size",
        )
    })
}

fn expect_value(client: &KeyValueClient) -> Result<String, ImageError> {
    let value = client.get(KEY)?;
    if value == VALUE {
        Ok(value)
    } else {
        Err(failed(KEY, &format!("has the value {value:?}")))
    }
}

fn is_running(guest: &Guest) -> Result<String, ImageError> {
    let state = guest
        .outcome(&["systemctl", "is-system-running", "--wait"], Vec::new())?
        .text();
    if state == "running" {
        return Ok(state);
    }
    let units = guest
        .run(&[
            "systemctl",
            "--failed",
            "--no-pager",
            "--plain",
            "--no-legend",
        ])?
        .text();
    Err(failed(
        "the system",
        &format!("is {state}; failed units:\n{units}"),
    ))
}

fn run_service(guest: &Guest, unit: &str) -> Result<String, ImageError> {
    let run = guest.outcome(&["systemctl", "start", unit], Vec::new())?;
    let invocation = guest
        .run(&["systemctl", "show", "-P", "InvocationID", unit])?
        .text();
    let lines = guest
        .run(&[
            "journalctl",
            "--no-pager",
            "-o",
            "cat",
            &format!("_SYSTEMD_INVOCATION_ID={invocation}"),
        ])?
        .text();
    if !run.status.success() {
        return Err(failed(unit, &format!("failed; its journal:\n{lines}")));
    }
    match lines.lines().last() {
        Some(last) => Ok(last.to_owned()),
        None => Err(failed(unit, "left no line in the journal")),
    }
}

/// The verdicts in what `provision image check --json` prints: one JSON object a line, one of them
/// the result.
fn verdicts_in(printed: &str) -> Option<Vec<Verdict>> {
    printed.lines().find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        serde_json::from_value(event.get("result")?.clone()).ok()
    })
}

fn failed(subject: &str, message: &str) -> ImageError {
    ImageError::description(subject, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_found_among_other_events() {
        let printed = "{\"v\":1,\"phase\":\"x\"}\n\
            {\"v\":1,\"result\":[{\"name\":\"port 1\",\"passed\":false,\"found\":\"nobody\"}]}\n\
            {\"v\":1,\"error\":\"1 of 1 failed\"}";
        let found = verdicts_in(printed).expect("there are some");
        assert_eq!(found.len(), 1);
        assert!(!found[0].passed);
        assert_eq!(verdicts_in("sh: provision: not found"), None);
    }
}
