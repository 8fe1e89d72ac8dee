//! From a folder that describes an image to the finished file: base, Packer, compression, manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::accelerator::{Accelerator, AcceleratorChoice};
use super::base;
use super::description::Description;
use super::digest;
use super::fault::{ImageError, file};
use super::guest::SshKey;
use super::lock::FolderLock;
use super::manifest::{self, Manifest, Program};
use super::progress::{Step, skip};
use super::sealed::SealedImage;
use super::tool::Tool;
use crate::host::clock;

/// Ten times what a bake takes without KVM on a quiet host.
const PACKER_LIMIT: Duration = Duration::from_secs(1500);
const COMPRESS_LIMIT: Duration = Duration::from_secs(300);
/// Part of the stamp: raised when the way of baking changes.
const RECIPE_VERSION: &str = "1";

/// What a bake is made of.
#[derive(Debug)]
pub(super) struct BakePlan {
    pub(super) description: Description,
    pub(super) server: PathBuf,
    pub(super) provisioner: PathBuf,
    /// Folder of the Packer template.
    pub(super) template: PathBuf,
    pub(super) out: PathBuf,
    pub(super) cache: PathBuf,
    pub(super) accelerator: AcceleratorChoice,
    /// Bake even if the image was made of the same parts.
    pub(super) force: bool,
}

/// The finished image and what is known about it.
#[derive(Debug)]
pub(super) struct Baked {
    pub(super) image: PathBuf,
    pub(super) manifest: PathBuf,
}

/// Programs and key, ready to be carried in.
struct Inputs {
    folder: PathBuf,
    server: PathBuf,
    provisioner: PathBuf,
    key: SshKey,
}

/// Makes the image, or finds it made of the same parts.
pub(super) fn build(plan: &BakePlan) -> Result<Baked, ImageError> {
    let _lock = FolderLock::take(&plan.out)?;
    let out = fs::canonicalize(&plan.out).map_err(file("find", &plan.out))?;
    let name = &plan.description.name;
    let baked = Baked {
        image: out.join(format!("{name}.qcow2")),
        manifest: out.join(format!("{name}.manifest.json")),
    };
    let base = base::build(&plan.description, &out, &plan.cache)?;
    let inputs = prepare(plan, &out)?;
    let stamp_file = out.join(format!("{name}.stamp"));
    let stamp = stamp(plan, &base, &inputs)?;
    let same = fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
    if same && !plan.force && baked.image.exists() && baked.manifest.exists() {
        skip(
            "bake",
            format!("{}: made of the same parts", baked.image.display()),
        );
        return Ok(baked);
    }
    let accelerator = Accelerator::choose(plan.accelerator, Some(&base.kernel));
    let disk = run_packer(plan, &base, &inputs, accelerator)?;
    compress(&disk, &baked.image)?;
    write_manifest(plan, &inputs, &baked)?;
    fs::write(&stamp_file, stamp).map_err(file("write", &stamp_file))?;
    let output = inputs.folder.join("packer");
    fs::remove_dir_all(&output).map_err(file("remove", &output))?;
    Ok(baked)
}

/// Lays ready what Packer carries in: both programs without their symbols, and a key for this bake.
pub(super) fn prepare_inputs(plan: &BakePlan) -> Result<PathBuf, ImageError> {
    let _lock = FolderLock::take(&plan.out)?;
    let out = fs::canonicalize(&plan.out).map_err(file("find", &plan.out))?;
    Ok(prepare(plan, &out)?.folder)
}

fn prepare(plan: &BakePlan, out: &Path) -> Result<Inputs, ImageError> {
    let folder = out.join("bake");
    fs::create_dir_all(&folder).map_err(file("create", &folder))?;
    let stripped = |from: &Path, name: &str| {
        if !from.is_file() {
            return Err(ImageError::Missing {
                what: "program",
                path: from.to_owned(),
                remedy: format!("build it with `cargo build --release -p {name}`"),
            });
        }
        let to = folder.join(name);
        Tool::new("strip")
            .arg("-o")
            .arg(&to)
            .arg(from)
            .run()
            .map(|_| to)
    };
    let server = stripped(&plan.server, "holdfast")?;
    let provisioner = stripped(&plan.provisioner, "provision")?;
    let key = SshKey::in_folder(&folder)?;
    Ok(Inputs {
        folder,
        server,
        provisioner,
        key,
    })
}

fn stamp(plan: &BakePlan, base: &base::BaseFiles, inputs: &Inputs) -> Result<String, ImageError> {
    let made_of = fs::read_to_string(&base.stamp).map_err(file("read", &base.stamp))?;
    let mut parts = vec![RECIPE_VERSION.to_owned(), made_of];
    for path in [
        &inputs.server,
        &inputs.provisioner,
        &plan.description.provision_file(),
    ] {
        parts.push(digest::of_file(path)?);
    }
    let mut templates: Vec<PathBuf> = fs::read_dir(&plan.template)
        .map_err(file("list", &plan.template))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    templates.sort();
    for template in templates {
        parts.push(digest::of_file(&template)?);
    }
    Ok(digest::of_parts(parts))
}

fn run_packer(
    plan: &BakePlan,
    base: &base::BaseFiles,
    inputs: &Inputs,
    accelerator: Accelerator,
) -> Result<PathBuf, ImageError> {
    let output = inputs.folder.join("packer");
    let name = &plan.description.name;
    let provision_file = plan.description.provision_file();
    let provision_file =
        fs::canonicalize(&provision_file).map_err(file("find", &provision_file))?;
    let variables = [
        ("base_image", absolute(&base.disk)?),
        (
            "base_checksum",
            format!("sha256:{}", digest::of_file(&base.disk)?),
        ),
        ("holdfast_binary", inputs.server.display().to_string()),
        ("provision_binary", inputs.provisioner.display().to_string()),
        ("provision_file", provision_file.display().to_string()),
        ("ssh_key", inputs.key.private.display().to_string()),
        ("output_dir", output.display().to_string()),
        ("image_name", name.clone()),
        ("accelerator", accelerator.name().to_owned()),
    ];
    let mut packer = Tool::new("packer").args(["build", "-color=false", "-force"]);
    for (variable, value) in variables {
        packer = packer.arg("-var").arg(format!("{variable}={value}"));
    }
    packer
        .arg(&plan.template)
        // Reports to its makers otherwise.
        .env("CHECKPOINT_DISABLE", "1")
        .env("PACKER_CACHE_DIR", plan.cache.join("packer"))
        .log(&inputs.folder.join("packer.log"))
        .limit(PACKER_LIMIT)
        .run_as(Step::begin(
            "bake",
            format!("Packer bakes {name} by {}", accelerator.name()),
        ))?;
    Ok(output.join(format!("{name}.qcow2")))
}

fn compress(disk: &Path, image: &Path) -> Result<(), ImageError> {
    let part = image.with_extension("part");
    Tool::new("qemu-img")
        .args([
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd",
        ])
        .arg(disk)
        .arg(&part)
        .limit(COMPRESS_LIMIT)
        .run_as(Step::begin("bake", "compresses the image"))?;
    // Renamed, not written over: a guest may still run from the earlier file.
    fs::rename(&part, image).map_err(file("rename", &part))
}

fn write_manifest(plan: &BakePlan, inputs: &Inputs, baked: &Baked) -> Result<(), ImageError> {
    let step = Step::begin("bake", "writes the manifest");
    let sealed = SealedImage::open(&baked.image, &inputs.folder)?;
    let packages = manifest::packages(&sealed.read_text("/var/lib/dpkg/status")?);
    drop(sealed);
    let sha256 = digest::of_file(&baked.image)?;
    let file_name = format!("{}.qcow2", plan.description.name);
    let manifest = Manifest {
        schema: 1,
        name: plan.description.name.clone(),
        file: file_name.clone(),
        sha256: sha256.clone(),
        bytes: length(&baked.image)?,
        disk_bytes: plan.description.disk_bytes,
        suite: plan.description.suite.clone(),
        created: clock::unix_seconds(),
        server: program(&inputs.server)?,
        provisioner: program(&inputs.provisioner)?,
        packages,
    };
    let text = serde_json::to_string_pretty(&manifest).expect("a manifest has only plain values");
    fs::write(&baked.manifest, text + "\n").map_err(file("write", &baked.manifest))?;
    let sums = baked.image.with_extension("qcow2.sha256");
    fs::write(&sums, format!("{sha256}  {file_name}\n")).map_err(file("write", &sums))?;
    step.done(format!(
        "{}, {:.1} MiB, {} packages",
        baked.image.display(),
        f64::from(u32::try_from(manifest.bytes >> 10).unwrap_or(u32::MAX)) / 1024.0,
        manifest.packages.len()
    ));
    Ok(())
}

fn program(path: &Path) -> Result<Program, ImageError> {
    let said = Tool::new(path).arg("--version").run()?.text();
    Ok(Program {
        version: said.lines().next().unwrap_or_default().to_owned(),
        sha256: digest::of_file(path)?,
        bytes: length(path)?,
    })
}

fn length(path: &Path) -> Result<u64, ImageError> {
    Ok(fs::metadata(path).map_err(file("look at", path))?.len())
}

fn absolute(path: &Path) -> Result<String, ImageError> {
    Ok(fs::canonicalize(path)
        .map_err(file("find", path))?
        .display()
        .to_string())
}
