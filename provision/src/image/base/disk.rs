//! Puts a tree, a boot loader and a partition table into one disk file.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::fault::{ImageError, file};
use super::super::tool::Tool;
use super::boot_loader::{self, BiosLoader};
use super::layout::Layout;

/// Copied at a time; a run of zeros of this length becomes a hole.
const CHUNK_BYTES: usize = 64 << 10;

/// Makes a qcow2 disk of a tree. `work` takes the intermediate files and needs room for the tree.
pub(super) fn assemble(
    tree: &Path,
    disk_bytes: u64,
    work: &Path,
    output: &Path,
) -> Result<(), ImageError> {
    let layout = Layout::of_disk(disk_bytes);
    let raw = work.join("disk.raw");
    let esp = work.join("esp.img");

    let disk = sparse_file(&raw, layout.disk_bytes)?;
    make_root(tree, &layout, &raw)?;
    make_esp(work, &layout, &esp)?;
    Tool::new("sfdisk")
        .arg("--quiet")
        .arg(&raw)
        .input(layout.sfdisk_script())
        .run()?;
    copy_sparse(&esp, &disk, &raw, layout.esp.offset_bytes())?;
    let BiosLoader { boot_code, core } = boot_loader::bios(work, layout.bios_boot)?;
    disk.write_all_at(&boot_code, 0)
        .map_err(file("write", &raw))?;
    disk.write_all_at(&core, layout.bios_boot.offset_bytes())
        .map_err(file("write", &raw))?;
    drop(disk);

    Tool::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(&raw)
        .arg(output)
        .run()?;
    Ok(())
}

/// Makes the root file system in its place on the disk. Journal and inode tables are written now,
/// so that no kernel thread does it while the server starts.
fn make_root(tree: &Path, layout: &Layout, disk: &Path) -> Result<(), ImageError> {
    let offset = layout.root.offset_bytes();
    Tool::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-E"])
        .arg(format!(
            "lazy_itable_init=0,lazy_journal_init=0,offset={offset}"
        ))
        .arg("-d")
        .arg(tree)
        .arg(disk)
        .arg(format!("{}k", layout.root.bytes() / 1024))
        .run()?;
    Ok(())
}

fn make_esp(work: &Path, layout: &Layout, image: &Path) -> Result<(), ImageError> {
    let program = boot_loader::uefi(work)?;
    sparse_file(image, layout.esp.bytes())?;
    Tool::new("mformat")
        .arg("-i")
        .arg(image)
        .args(["-F", "-v", "ESP", "::"])
        .run()?;
    Tool::new("mmd")
        .arg("-i")
        .arg(image)
        .args(["::/EFI", "::/EFI/BOOT"])
        .run()?;
    Tool::new("mcopy")
        .arg("-i")
        .arg(image)
        .arg(&program)
        .arg("::/EFI/BOOT/BOOTX64.EFI")
        .run()?;
    Ok(())
}

fn sparse_file(path: &Path, bytes: u64) -> Result<File, ImageError> {
    let made = File::create(path).map_err(file("create", path))?;
    made.set_len(bytes)
        .map_err(file("set the length of", path))?;
    Ok(made)
}

/// Copies a part to its place and leaves holes where it has only zeros. The target must be zero
/// there.
fn copy_sparse(part: &Path, disk: &File, disk_path: &Path, offset: u64) -> Result<(), ImageError> {
    let mut source = File::open(part).map_err(file("open", part))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = offset;
    loop {
        let read = source.read(&mut chunk).map_err(file("read", part))?;
        if read == 0 {
            break;
        }
        if chunk[..read].iter().any(|byte| *byte != 0) {
            disk.write_all_at(&chunk[..read], at)
                .map_err(file("write", disk_path))?;
        }
        at += read as u64;
    }
    fs::remove_file(part).map_err(file("remove", part))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copied_part_lies_in_its_place_and_zeros_take_no_room() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let part = folder.path().join("part");
        let mut content = vec![0_u8; 4 << 20];
        content[3 << 20] = 7;
        fs::write(&part, &content).expect("it can be written");
        let disk_path = folder.path().join("disk");
        let disk = sparse_file(&disk_path, 8 << 20).expect("it can be made");
        copy_sparse(&part, &disk, &disk_path, 1 << 20).expect("it can be copied");

        let got = fs::read(&disk_path).expect("it can be read");
        let at: Vec<usize> = (0..got.len()).filter(|index| got[*index] != 0).collect();
        assert_eq!(at, [4 << 20]);
        let taken = fs::metadata(&disk_path).expect("it is there").blocks() * 512;
        assert!(taken <= 1 << 20, "{taken} bytes taken");
    }
}
