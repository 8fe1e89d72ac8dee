//! GRUB for BIOS and for UEFI, put together by `grub-mkimage`; `grub-install` would want loop
//! devices.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::fault::{ImageError, file};
use super::super::tool::Tool;
use super::layout::{SECTOR_BYTES, Span};

/// Boot code that fits before the MBR's disk signature and partition entries.
pub(super) const BOOT_CODE_BYTES: usize = 440;
/// Where `boot.img` keeps the sector of the core image (LE64).
const CORE_SECTOR_FIELD: usize = 0x5c;
/// Where `boot.img` jumps over a workaround for broken BIOSes; two no-ops let it use the drive it
/// was booted from.
const DRIVE_CHECK_FIELD: usize = 0x66;
/// Where the core image's first sector keeps the sector of the rest (LE64).
const REST_SECTOR_FIELD: usize = 0x1f4;

const MODULES: [&str; 14] = [
    "part_gpt",
    "ext2",
    "fat",
    "search",
    "search_label",
    "configfile",
    "linux",
    "normal",
    "serial",
    "terminal",
    "echo",
    "boot",
    "test",
    "minicmd",
];

/// Finds the root file system by its label and goes on with the configuration in it, which can
/// change with no new boot loader.
const EMBEDDED_CONFIGURATION: &str =
    "search --no-floppy --label root --set=root\nconfigfile ($root)/boot/grub/grub.cfg\n";

/// What the BIOS loads.
pub(super) struct BiosLoader {
    pub(super) boot_code: [u8; BOOT_CODE_BYTES],
    pub(super) core: Vec<u8>,
}

/// Makes the two parts that a BIOS loads, patched for their places on the disk.
pub(super) fn bios(work: &Path, place: Span) -> Result<BiosLoader, ImageError> {
    let boot_image = Path::new("/usr/lib/grub/i386-pc/boot.img");
    let core_image = work.join("core.img");
    make_image("i386-pc", &["biosdisk"], &core_image, work)?;
    let boot = fs::read(boot_image).map_err(file("read", boot_image))?;
    let core = fs::read(&core_image).map_err(file("read", &core_image))?;
    patch(&boot, core, place)
        .map_err(|message| ImageError::description(boot_image.display().to_string(), message))
}

/// Makes the program that UEFI firmware starts.
pub(super) fn uefi(work: &Path) -> Result<PathBuf, ImageError> {
    let program = work.join("BOOTX64.EFI");
    make_image("x86_64-efi", &[], &program, work)?;
    Ok(program)
}

fn make_image(
    format: &str,
    more_modules: &[&str],
    output: &Path,
    work: &Path,
) -> Result<(), ImageError> {
    let configuration = work.join("embedded.cfg");
    fs::write(&configuration, EMBEDDED_CONFIGURATION).map_err(file("write", &configuration))?;
    Tool::new("grub-mkimage")
        .args(["-O", format, "-p", "/boot/grub", "-c"])
        .arg(&configuration)
        .arg("-o")
        .arg(output)
        .args(MODULES)
        .args(more_modules)
        .run()?;
    Ok(())
}

fn patch(boot: &[u8], mut core: Vec<u8>, place: Span) -> Result<BiosLoader, String> {
    let mut boot_code: [u8; BOOT_CODE_BYTES] = boot
        .get(..BOOT_CODE_BYTES)
        .and_then(|code| code.try_into().ok())
        .ok_or("is no boot sector: it is too short")?;
    if core.len() as u64 > place.bytes() {
        return Err(format!(
            "GRUB's core image has {} bytes, the BIOS boot partition {}",
            core.len(),
            place.bytes()
        ));
    }
    if core.len() < SECTOR_BYTES as usize {
        return Err("GRUB's core image is shorter than a sector".to_owned());
    }
    boot_code[CORE_SECTOR_FIELD..CORE_SECTOR_FIELD + 8].copy_from_slice(&place.start.to_le_bytes());
    boot_code[DRIVE_CHECK_FIELD..DRIVE_CHECK_FIELD + 2].copy_from_slice(&[0x90, 0x90]);
    core[REST_SECTOR_FIELD..REST_SECTOR_FIELD + 8]
        .copy_from_slice(&(place.start + 1).to_le_bytes());
    Ok(BiosLoader { boot_code, core })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Span = Span {
        start: 2048,
        count: 2048,
    };

    #[test]
    fn boot_code_points_to_the_core_image_and_the_core_image_to_its_rest() {
        let loader = patch(&[0xee; 512], vec![0xee; 1024], PLACE).expect("it fits");
        assert_eq!(
            loader.boot_code[0x5b..0x65],
            [0xee, 0, 8, 0, 0, 0, 0, 0, 0, 0xee]
        );
        assert_eq!(loader.boot_code[0x65..0x69], [0xee, 0x90, 0x90, 0xee]);
        assert_eq!(
            loader.core[0x1f3..0x1fd],
            [0xee, 1, 8, 0, 0, 0, 0, 0, 0, 0xee]
        );
        assert_eq!(loader.core.len(), 1024);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(patch(&[0; 100], vec![0; 1024], PLACE).is_err());
        assert!(patch(&[0; 512], vec![0; 100], PLACE).is_err());
        assert!(patch(&[0; 512], vec![0; 2048 * 512 + 1], PLACE).is_err());
        assert!(patch(&[0; 512], vec![0; 2048 * 512], PLACE).is_ok());
    }
}
