//! The command line of `provision image`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::exit_code::Exit;
use crate::output::Output;

use super::accelerator::AcceleratorChoice;
use super::appliance::{self, AppliancePlan};
use super::bake::{self, BakePlan};
use super::base;
use super::check::{Checks, ThisHost, Verdict};
use super::description::Description;
use super::fault::{ImageError, file};
use super::guest::find_etcdctl;
use super::sysprep;
use super::trial::{self, TrialPlan};

/// What `provision image` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Bake an image: base system, Packer, compression, manifest
    Build(BuildArguments),
    /// Boot a finished image and prove it; the file stays as it is
    Test(TestArguments),
    /// Start a finished image as an appliance that stays, and put and get a key through it
    Start(StartArguments),
    /// Stop the appliance; its disk stays
    Stop(StopArguments),
    /// Make only the base system: Debian on a bootable disk, with nothing of ours
    Base(BaseArguments),
    /// Lay ready what Packer carries into the guest: both programs, a key
    Inputs(BuildArguments),
    /// Run the [[booted]] checks of a checks.toml on this host
    Check(CheckArguments),
    /// Inside a guest that is being baked: take out what belongs to it alone
    Sysprep,
}

/// Where an image's description lies and where results go.
#[derive(Debug, Args)]
pub(crate) struct BaseArguments {
    /// Folder that describes the image
    #[arg(long, value_name = "DIR", default_value = "images/single")]
    image: PathBuf,
    /// Folder for the image and what it is made of
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    out: PathBuf,
    /// Folder for what later bakes use again
    #[arg(long, value_name = "DIR", default_value = "target/images/cache")]
    cache: PathBuf,
}

/// What is baked.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    #[command(flatten)]
    base: BaseArguments,
    /// The server
    #[arg(long, value_name = "FILE", default_value = "target/release/holdfast")]
    holdfast: PathBuf,
    /// The provisioner for the guest [default: this program]
    #[arg(long, value_name = "FILE")]
    provision: Option<PathBuf>,
    /// Folder of the Packer template
    #[arg(long, value_name = "DIR", default_value = "packer/image")]
    template: PathBuf,
    /// What the guest runs on
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorChoice,
    /// Bake even if the image was made of the same parts
    #[arg(long)]
    force: bool,
}

/// What is proved.
#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// The finished image
    #[arg(value_name = "IMAGE")]
    image_file: PathBuf,
    /// What must be true of it
    #[arg(long, value_name = "FILE", default_value = "images/single/checks.toml")]
    checks: PathBuf,
    /// Folder for logs and for report.json, report.junit.xml
    #[arg(long, value_name = "DIR", default_value = "target/image-test")]
    work: PathBuf,
    /// A real etcdctl [default: target/etcd/3.5/etcdctl, else from PATH]
    #[arg(long, value_name = "FILE")]
    etcdctl: Option<PathBuf>,
    /// What the guest runs on
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorChoice,
    /// UEFI firmware for the second boot
    #[arg(long, value_name = "FILE", default_value = "/usr/share/ovmf/OVMF.fd")]
    firmware: PathBuf,
    /// Memory of the guest, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = memory())]
    memory: u32,
}

/// What is started.
#[derive(Debug, Args)]
pub(crate) struct StartArguments {
    /// The finished image
    #[arg(value_name = "IMAGE")]
    image_file: PathBuf,
    #[command(flatten)]
    place: StopArguments,
    /// A real etcdctl [default: target/etcd/3.5/etcdctl, else from PATH]
    #[arg(long, value_name = "FILE")]
    etcdctl: Option<PathBuf>,
    /// What the guest runs on
    #[arg(long, value_enum, default_value = "auto")]
    accelerator: AcceleratorChoice,
    /// Memory of the guest, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = memory())]
    memory: u32,
}

/// Where the appliance lives.
#[derive(Debug, Args)]
pub(crate) struct StopArguments {
    /// Folder of its disk, key and logs
    #[arg(long, value_name = "DIR", default_value = "target/appliance")]
    folder: PathBuf,
}

/// What is checked.
#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// A checks.toml, or - for standard input
    #[arg(value_name = "FILE")]
    checks: PathBuf,
}

/// A guest with less does not boot.
const MEMORY_MIB_MIN: i64 = 256;

fn memory() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(MEMORY_MIB_MIN..)
}

/// Carries a command out and says how it ended. Results go to standard output, progress to standard
/// error.
pub(crate) fn run(command: &ImageCommand, output: &Output) -> Exit {
    let ended = match command {
        ImageCommand::Build(arguments) => build(arguments, output),
        ImageCommand::Test(arguments) => test(arguments, output),
        ImageCommand::Start(arguments) => start(arguments, output),
        ImageCommand::Stop(arguments) => appliance::stop(&arguments.folder),
        ImageCommand::Base(arguments) => base(arguments, output),
        ImageCommand::Inputs(arguments) => inputs(arguments, output),
        ImageCommand::Check(arguments) => check(arguments, output),
        ImageCommand::Sysprep => sysprep::run(),
    };
    match ended {
        Ok(()) => Exit::Done,
        Err(error) => {
            output.error(&error.to_string());
            error.exit()
        }
    }
}

fn bake_plan(arguments: &BuildArguments) -> Result<BakePlan, ImageError> {
    let provisioner = match &arguments.provision {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(file("find", Path::new("provision")))?,
    };
    Ok(BakePlan {
        description: Description::read(&arguments.base.image)?,
        server: arguments.holdfast.clone(),
        provisioner,
        template: arguments.template.clone(),
        out: arguments.base.out.clone(),
        cache: arguments.base.cache.clone(),
        accelerator: arguments.accelerator,
        force: arguments.force,
    })
}

fn build(arguments: &BuildArguments, output: &Output) -> Result<(), ImageError> {
    let baked = bake::build(&bake_plan(arguments)?)?;
    let text = fs::read_to_string(&baked.manifest).map_err(file("read", &baked.manifest))?;
    output.line(&baked.image.display().to_string());
    output.result(serde_json::from_str(&text).unwrap_or_default());
    Ok(())
}

fn base(arguments: &BaseArguments, output: &Output) -> Result<(), ImageError> {
    let description = Description::read(&arguments.image)?;
    let made = base::build(&description, &arguments.out, &arguments.cache)?;
    output.line(&made.disk.display().to_string());
    output.result(json!({ "disk": made.disk, "kernel": made.kernel }));
    Ok(())
}

fn inputs(arguments: &BuildArguments, output: &Output) -> Result<(), ImageError> {
    let folder = bake::prepare_inputs(&bake_plan(arguments)?)?;
    output.line(&folder.display().to_string());
    output.result(json!({ "folder": folder }));
    Ok(())
}

fn test(arguments: &TestArguments, output: &Output) -> Result<(), ImageError> {
    let plan = TrialPlan {
        image: arguments.image_file.clone(),
        checks: arguments.checks.clone(),
        work: arguments.work.clone(),
        etcdctl: find_etcdctl(arguments.etcdctl.as_deref())?,
        accelerator: arguments.accelerator,
        firmware: arguments.firmware.clone(),
        memory_mib: arguments.memory,
        ci: std::env::var("CI").is_ok_and(|value| value == "true"),
    };
    let report = trial::run(&plan)?;
    for (name, text) in [
        ("report.json", report.json()),
        ("report.junit.xml", report.junit()),
    ] {
        let path = plan.work.join(name);
        fs::write(&path, text).map_err(file("write", &path))?;
    }
    output.line(report.table().trim_end());
    output.result(json!(report));
    let names: Vec<String> = report
        .failures()
        .iter()
        .map(|case| case.name.clone())
        .collect();
    verified(&report.image, &names, report.cases.len())
}

fn start(arguments: &StartArguments, output: &Output) -> Result<(), ImageError> {
    let plan = AppliancePlan {
        image: arguments.image_file.clone(),
        folder: arguments.place.folder.clone(),
        etcdctl: find_etcdctl(arguments.etcdctl.as_deref())?,
        accelerator: arguments.accelerator,
        memory_mib: arguments.memory,
    };
    let appliance = appliance::start(&plan)?;
    let etcdctl = plan.etcdctl.display();
    let (endpoint, log_in) = (&appliance.endpoint, &appliance.log_in);
    output.line(&format!(
        "\nThe appliance runs.\n\
         \x20 reach it   ETCDCTL_API=3 {etcdctl} --endpoints {endpoint} get --prefix \"\"\n\
         \x20 health     curl {endpoint}/health\n\
         \x20 log in     {log_in}\n\
         \x20 stop it    make appliance-stop\n\
         \x20 its disk   {}",
        appliance.disk.display()
    ));
    output.result(json!(appliance));
    Ok(())
}

fn check(arguments: &CheckArguments, output: &Output) -> Result<(), ImageError> {
    let path = &arguments.checks;
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .lock()
            .read_to_string(&mut text)
            .map_err(file("read", path))?;
        text
    } else {
        fs::read_to_string(path).map_err(file("read", path))?
    };
    let checks = Checks::parse(&path.display().to_string(), &text)?;
    let verdicts: Vec<Verdict> = checks
        .booted
        .iter()
        .map(|check| check.verdict(&ThisHost))
        .collect();
    for Verdict {
        name,
        passed,
        found,
    } in &verdicts
    {
        let word = if *passed { "ok" } else { "FAIL" };
        output.line(&format!("{word:<4}  {name:<58}  {found}"));
    }
    output.result(json!(verdicts));
    let failed = verdicts.iter().filter(|verdict| !verdict.passed);
    let names: Vec<String> = failed.map(|verdict| verdict.name.clone()).collect();
    verified("this host", &names, verdicts.len())
}

fn verified(image: &str, failed: &[String], total: usize) -> Result<(), ImageError> {
    if failed.is_empty() {
        return Ok(());
    }
    Err(ImageError::Verification {
        image: image.to_owned(),
        failed: failed.len(),
        total,
        names: failed.join(", "),
    })
}
