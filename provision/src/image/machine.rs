//! One guest: QEMU's command line, and the running process.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::accelerator::Accelerator;
use super::fault::{ImageError, file};
use super::progress::Step;
use crate::host::clock;

/// Lines of the serial log that an error shows.
const SERIAL_LINES_MAX: usize = 25;
/// The log of a guest that talks for ever is cut here when it is searched.
const SERIAL_BYTES_MAX: usize = 4 << 20;
/// Time between looks at a guest: each look costs it processor time.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// What starts the guest.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Firmware {
    Bios,
    /// A UEFI firmware file.
    Uefi(PathBuf),
}

/// A port of the host's loopback that leads into the guest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Forward {
    pub(super) host: u16,
    pub(super) guest: u16,
}

/// A guest to be started from its own disk by its own boot loader.
#[derive(Debug, Clone)]
pub(super) struct MachinePlan {
    pub(super) name: String,
    pub(super) disk: PathBuf,
    pub(super) accelerator: Accelerator,
    pub(super) firmware: Firmware,
    pub(super) memory_mib: u32,
    /// Where `serial.log` and `qemu.log` go.
    pub(super) folder: PathBuf,
    pub(super) forwards: Vec<Forward>,
    /// Public key that may log in as root.
    pub(super) authorized_key: String,
    /// Whether writes may be lost when the host fails: right for tests alone.
    pub(super) volatile: bool,
}

impl MachinePlan {
    pub(super) fn serial_log(&self) -> PathBuf {
        self.folder.join(format!("{}.serial.log", self.name))
    }

    /// QEMU's arguments.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = [
            "-name",
            &self.name,
            "-M",
            "q35",
            "-nodefaults",
            "-display",
            "none",
            "-smp",
            "2",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        let [accel, accelerator, cpu, model] = self.accelerator.arguments();
        add(accel, accelerator.to_owned());
        add(cpu, model.to_owned());
        add("-m", self.memory_mib.to_string());
        if let Firmware::Uefi(firmware) = &self.firmware {
            add("-bios", firmware.display().to_string());
        }
        add("-serial", format!("file:{}", self.serial_log().display()));
        let cache = if self.volatile { "unsafe" } else { "writeback" };
        let disk = escaped(&self.disk.display().to_string());
        add(
            "-drive",
            format!("file={disk},format=qcow2,if=none,id=root,discard=unmap,cache={cache}"),
        );
        add(
            "-device",
            "virtio-blk-pci,drive=root,bootindex=0".to_owned(),
        );
        let forwards: String = self
            .forwards
            .iter()
            .map(|forward| format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host, forward.guest))
            .collect();
        add("-netdev", format!("user,id=net{forwards}"));
        add("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
        add("-device", "virtio-rng-pci".to_owned());
        let key = base64(format!("{}\n", self.authorized_key.trim()).as_bytes());
        add(
            "-smbios",
            format!("type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={key}"),
        );
        arguments
    }

    /// Starts the guest; it is ended when the value is dropped.
    pub(super) fn start(self) -> Result<Machine, ImageError> {
        let log = self.folder.join(format!("{}.qemu.log", self.name));
        let output = File::create(&log).map_err(file("create", &log))?;
        let errors = output.try_clone().map_err(file("open", &log))?;
        let child = Command::new("qemu-system-x86_64")
            .args(self.arguments())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|_| ImageError::NoTool {
                program: "qemu-system-x86_64".to_owned(),
            })?;
        Ok(Machine { plan: self, child })
    }

    /// An error about this guest, with the end of what it printed.
    pub(super) fn fault(&self, message: impl Into<String>) -> ImageError {
        let log = self.serial_log();
        let printed = fs::read(&log).unwrap_or_default();
        let qemu = fs::read(self.folder.join(format!("{}.qemu.log", self.name)));
        let mut tail = last_lines(&String::from_utf8_lossy(&printed), SERIAL_LINES_MAX);
        for line in String::from_utf8_lossy(&qemu.unwrap_or_default())
            .lines()
            .take(3)
        {
            tail.push_str(&format!("\n  qemu: {line}"));
        }
        ImageError::Guest {
            machine: self.name.clone(),
            message: message.into(),
            log,
            tail,
        }
    }
}

/// A running guest.
pub(super) struct Machine {
    plan: MachinePlan,
    child: Child,
}

impl Machine {
    pub(super) fn plan(&self) -> &MachinePlan {
        &self.plan
    }

    /// Looks until `look` sees something. A guest that ended or whose kernel gave up is an error at
    /// once.
    pub(super) fn wait<T>(
        &mut self,
        step: &mut Step,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, ImageError> {
        let deadline = clock::now() + limit;
        loop {
            if let Some(seen) = look() {
                return Ok(seen);
            }
            if let Some(status) = self.child.try_wait().ok().flatten() {
                return Err(self
                    .plan
                    .fault(format!("QEMU ended with {status} before {what}")));
            }
            if self.kernel_gave_up() {
                return Err(self.plan.fault(format!("its kernel gave up before {what}")));
            }
            if clock::now() >= deadline {
                let seconds = limit.as_secs();
                return Err(self.plan.fault(format!("not within {seconds} s: {what}")));
            }
            step.tick(|| self.latest_line());
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Waits until the guest has powered itself off.
    pub(super) fn wait_for_end(
        &mut self,
        step: &mut Step,
        limit: Duration,
    ) -> Result<(), ImageError> {
        let deadline = clock::now() + limit;
        while clock::now() < deadline {
            if let Some(status) = self.child.try_wait().ok().flatten() {
                if status.success() {
                    return Ok(());
                }
                return Err(self.plan.fault(format!("QEMU ended with {status}")));
            }
            step.tick(|| self.latest_line());
            std::thread::sleep(clock::POLL_INTERVAL);
        }
        Err(self
            .plan
            .fault(format!("did not power off within {} s", limit.as_secs())))
    }

    fn kernel_gave_up(&self) -> bool {
        let printed = fs::read(self.plan.serial_log()).unwrap_or_default();
        let end = &printed[printed.len().saturating_sub(SERIAL_BYTES_MAX)..];
        String::from_utf8_lossy(end).contains("Kernel panic")
    }

    fn latest_line(&self) -> String {
        let printed = fs::read(self.plan.serial_log()).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&printed), 1)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback that nobody listens on now: the wanted one, or one that the system
/// chooses.
pub(super) fn free_port(wanted: Option<u16>) -> Result<u16, ImageError> {
    let listener = wanted
        .and_then(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .map_or_else(|| TcpListener::bind(("127.0.0.1", 0)), Ok);
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(file("find a free port on", Path::new("127.0.0.1")))
}

/// The last lines that say something, without what steers a terminal, each indented.
fn last_lines(text: &str, count: usize) -> String {
    let plain = without_control(text);
    let lines: Vec<&str> = plain
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let first = lines.len().saturating_sub(count);
    let indented = lines[first..]
        .iter()
        .map(|line| format!("  {}", line.trim_end()));
    indented.collect::<Vec<_>>().join("\n")
}

/// Drops control characters and sequences like `ESC [ 1 ; 1 H`, which boot loaders print.
fn without_control(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\x1b' && letters.next_if_eq(&'[').is_some() {
            while letters
                .next_if(|next| !('@'..='~').contains(next))
                .is_some()
            {}
            letters.next();
        } else if letter == '\n' || !letter.is_control() {
            plain.push(letter);
        }
    }
    plain
}

/// QEMU takes a comma for the end of a value unless it stands twice.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, index| {
            bits << 8 | u32::from(group.get(index).copied().unwrap_or_default())
        });
        for position in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * position) & 63) as usize];
            text.push(if position <= group.len() {
                char::from(letter)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> MachinePlan {
        MachinePlan {
            name: "bios".to_owned(),
            disk: PathBuf::from("/work,1/disk.qcow2"),
            accelerator: Accelerator::Tcg,
            firmware: Firmware::Bios,
            memory_mib: 512,
            folder: PathBuf::from("/logs"),
            forwards: vec![
                Forward {
                    host: 40001,
                    guest: 22,
                },
                Forward {
                    host: 40002,
                    guest: 2379,
                },
            ],
            authorized_key: "ssh-ed25519 AAAA x".to_owned(),
            volatile: true,
        }
    }

    fn value_of(arguments: &[String], name: &str) -> Vec<String> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == name);
        pairs.map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn a_guest_boots_from_its_disk_and_is_reached_on_the_loopback_alone() {
        let arguments = plan().arguments();
        assert_eq!(
            value_of(&arguments, "-drive"),
            ["file=/work,,1/disk.qcow2,format=qcow2,if=none,id=root,discard=unmap,cache=unsafe"]
        );
        assert_eq!(
            value_of(&arguments, "-netdev"),
            ["user,id=net,hostfwd=tcp:127.0.0.1:40001-:22,hostfwd=tcp:127.0.0.1:40002-:2379"]
        );
        assert_eq!(value_of(&arguments, "-cpu"), ["max,cx16=off"]);
        assert!(
            !arguments
                .iter()
                .any(|argument| argument == "-kernel" || argument == "-bios")
        );
    }

    #[test]
    fn the_key_arrives_as_a_credential() {
        let smbios = value_of(&plan().arguments(), "-smbios").remove(0);
        let (_, credential) = smbios.split_once("root=").expect("it is the last field");
        assert_eq!(credential, "c3NoLWVkMjU1MTkgQUFBQSB4Cg==");
    }

    #[test]
    fn uefi_and_kvm_change_only_what_they_must() {
        let mut changed = plan();
        changed.firmware = Firmware::Uefi(PathBuf::from("/firmware.fd"));
        changed.accelerator = Accelerator::Kvm;
        changed.volatile = false;
        let arguments = changed.arguments();
        assert_eq!(value_of(&arguments, "-bios"), ["/firmware.fd"]);
        assert_eq!(value_of(&arguments, "-accel"), ["kvm"]);
        assert!(value_of(&arguments, "-drive")[0].ends_with("cache=writeback"));
    }

    #[test]
    fn base64_pads_as_the_standard_says() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_tail_of_a_log_is_readable() {
        let log = "one\r\n\x1b[2J\x1b[01;01Htwo\x1b\n\n  \n\x1b[H\x1b[J\nthree [x]\n\x1b[";
        assert_eq!(last_lines(log, 2), "  two\n  three [x]");
        assert_eq!(last_lines("", 2), "");
    }

    #[test]
    fn a_taken_port_is_not_given_out() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("there is a free one");
        let taken = holder.local_addr().expect("it is bound").port();
        assert_ne!(free_port(Some(taken)).expect("another is free"), taken);
    }
}
