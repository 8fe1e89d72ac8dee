//! Whether guests run on the processor (KVM) or are emulated (TCG).
//!
//! `/dev/kvm` can be there, open, and even make a machine that then hangs with no output. So KVM
//! counts only when a small guest really printed something.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;

use super::progress;
use crate::host::clock;

/// A kernel under working KVM prints its first line in well under a second.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// First words of a Linux kernel that runs.
const KERNEL_SIGN: &str = "Linux version";

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub(super) enum AcceleratorChoice {
    /// KVM where it really works, else emulation
    Auto,
    /// KVM, untried
    Kvm,
    /// Emulation
    Tcg,
}

/// What guests run on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// Decides, by a trial boot of `kernel` where the host looks able.
    pub(super) fn choose(choice: AcceleratorChoice, kernel: Option<&Path>) -> Self {
        let (chosen, reason) = match choice {
            AcceleratorChoice::Kvm => (Self::Kvm, "as asked".to_owned()),
            AcceleratorChoice::Tcg => (Self::Tcg, "as asked".to_owned()),
            AcceleratorChoice::Auto => match probe(kernel) {
                Ok(()) => (Self::Kvm, "a trial guest ran".to_owned()),
                Err(reason) => (Self::Tcg, reason),
            },
        };
        progress::skip("guest", format!("runs by {}: {reason}", chosen.name()));
        chosen
    }

    /// Name as QEMU and Packer have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's arguments. cx16=off: kernels of Debian 13 crash under emulation without it.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off"],
        }
    }

    /// Longest time for a guest to boot and answer: ten times what a quiet host needs, because
    /// tests share it.
    pub(super) fn boot_limit(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(120),
            Self::Tcg => Duration::from_secs(600),
        }
    }
}

fn probe(kernel: Option<&Path>) -> Result<(), String> {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !can_virtualise(&processor) {
        return Err("the processor shows neither vmx nor svm".to_owned());
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(|error| format!("/dev/kvm cannot be opened: {error}"))?;
    let kernel = kernel.ok_or("there is no kernel to try KVM with")?;
    trial_boot(kernel)
}

fn can_virtualise(processor: &str) -> bool {
    processor
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

fn trial_boot(kernel: &Path) -> Result<(), String> {
    let log = std::env::temp_dir().join(format!("kvm-probe-{}.log", std::process::id()));
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-M",
            "q35",
            "-nodefaults",
            "-display",
            "none",
            "-m",
            "256",
            "-no-reboot",
        ])
        .args(Accelerator::Kvm.arguments())
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", "console=ttyS0 panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("qemu-system-x86_64 cannot be run: {error}"))?;
    let seen = clock::wait_for(PROBE_LIMIT, || said_hello(&log, &mut child)).unwrap_or(false);
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    let _ = fs::remove_file(&log);
    if seen {
        Ok(())
    } else {
        Err("a trial guest under KVM printed nothing".to_owned())
    }
}

fn said_hello(log: &Path, child: &mut Child) -> Option<bool> {
    let ended = child.try_wait().ok().flatten().is_some();
    let printed = fs::read(log).unwrap_or_default();
    if String::from_utf8_lossy(&printed).contains(KERNEL_SIGN) {
        return Some(true);
    }
    ended.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_virtualises_only_by_its_own_flags() {
        assert!(can_virtualise("model name: x\nflags\t\t: fpu vmx sse\n"));
        assert!(can_virtualise("flags\t\t: svm\n"));
        assert!(!can_virtualise(
            "flags\t\t: fpu sse\nmodel name\t: vmx svm\n"
        ));
        assert!(!can_virtualise("flags\t\t: vmxnet\n"));
        assert!(!can_virtualise(""));
    }
}
