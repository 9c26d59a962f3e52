//! Creates a tarball per daemon: the program, ONNX Runtime with its licences, the systemd unit, an example
//! configuration and `install.sh`.
//!
//! The same sources produce the same bytes: entries in order of name, owned by root, dated by the last commit.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};
use testkit::binaries::{BINARIES_ENV, workspace};

use crate::setup;

/// Options of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Cargo profile to build with: `dist` is the shipped one, `release` builds faster.
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Folder for the tarballs and their checksums.
    #[arg(long, value_name = "DIR", default_value = "target/package")]
    out: PathBuf,
    /// Only this daemon's tarball.
    #[arg(long, value_enum)]
    daemon: Option<Daemon>,
}

/// The two daemons, each with its own tarball.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Daemon {
    Agent,
    Hub,
}

impl Daemon {
    const ALL: [Self; 2] = [Self::Agent, Self::Hub];

    const fn binary(self) -> &'static str {
        match self {
            Self::Agent => "edge-agent",
            Self::Hub => "cloud-hub",
        }
    }

    const fn service(self) -> &'static str {
        match self {
            Self::Agent => "sanderling-agent",
            Self::Hub => "sanderling-hub",
        }
    }

    const fn config(self) -> &'static str {
        match self {
            Self::Agent => "agent.toml",
            Self::Hub => "hub.toml",
        }
    }
}

/// Runs the verb to its end.
#[expect(clippy::print_stdout, reason = "digests and paths are this command's result")]
pub(crate) fn run(args: &Args) -> Result<()> {
    let library = setup::onnxruntime(setup::Arch::host()?)?;
    let daemons: Vec<Daemon> = args.daemon.map_or(Daemon::ALL.to_vec(), |daemon| vec![daemon]);
    build(&args.profile, &daemons)?;
    let out = workspace().join(&args.out);
    fs::create_dir_all(&out).with_context(|| format!("make folder {}", out.display()))?;
    for daemon in daemons {
        let tarball = pack(daemon, &args.profile, &library, &out)?;
        let digest = write_checksum(&tarball)?;
        println!("{}  {}", digest, tarball.display());
    }
    Ok(())
}

fn build(profile: &str, daemons: &[Daemon]) -> Result<()> {
    let packages: Vec<&str> = daemons.iter().map(|daemon| daemon.binary()).collect();
    build_packages(profile, &packages)
}

/// Builds packages with a cargo profile; under `cargo xtask test` the debug build already exists.
pub(crate) fn build_packages(profile: &str, packages: &[&str]) -> Result<()> {
    if profile == "dev" && env::var_os(BINARIES_ENV).is_some() {
        return Ok(());
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--locked", "--profile", profile]).current_dir(workspace());
    for package in packages {
        cargo.args(["--package", package]);
    }
    let status = cargo.status().context("run cargo build")?;
    ensure!(status.success(), "cargo build --profile {profile} failed");
    Ok(())
}

/// Returns the folder of cargo's output for `profile`.
pub(crate) fn target_folder(profile: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join(if profile == "dev" { "debug" } else { profile })
}

fn pack(daemon: Daemon, profile: &str, library: &Path, out: &Path) -> Result<PathBuf> {
    let name =
        format!("{}-{}-linux-{}", daemon.service(), env!("CARGO_PKG_VERSION"), env::consts::ARCH.replace('_', "-"));
    let stage = tempfile::tempdir().context("make a folder to pack in")?;
    let root = stage.path().join(&name);
    fill(daemon, profile, library, &root)?;
    let tarball = out.join(format!("{name}.tar.gz"));
    write_tarball(stage.path(), &name, &tarball)?;
    Ok(tarball)
}

fn fill(daemon: Daemon, profile: &str, library: &Path, root: &Path) -> Result<()> {
    let deploy = workspace().join("deploy");
    let docs = format!("share/doc/{}", daemon.service());
    let unit = format!("{}.service", daemon.service());
    let library_name = library.file_name().context("a library with a name")?;
    copy(&target_folder(profile).join(daemon.binary()), &root.join("bin").join(daemon.binary()))?;
    copy(library, &root.join("lib/sanderling").join(library_name))?;
    for (file, packed) in
        [("LICENSE", "LICENSE.onnxruntime"), ("ThirdPartyNotices.txt", "ThirdPartyNotices.onnxruntime.txt")]
    {
        copy(&library.with_file_name(file), &root.join("lib/sanderling").join(packed))?;
    }
    copy(&deploy.join("systemd").join(&unit), &root.join("systemd").join(&unit))?;
    copy(&deploy.join("config").join(daemon.config()), &root.join("config").join(daemon.config()))?;
    copy(&deploy.join("install.sh"), &root.join("install.sh"))?;
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
        copy(&workspace().join(file), &root.join(&docs).join(file))?;
    }
    Ok(())
}

/// Copies a file with its mode, following links and creating folders.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("pack {} as {}", from.display(), to.display()))?;
    Ok(())
}

fn write_tarball(stage: &Path, name: &str, tarball: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{}", dated()?), "--directory"])
        .arg(stage)
        .arg(name)
        .stdout(Stdio::piped())
        .spawn()
        .context("run tar (GNU tar is needed)")?;
    let packed = tar.stdout.take().context("tar's output")?;
    let file = fs::File::create(tarball).with_context(|| format!("make {}", tarball.display()))?;
    // -n: no name and no time in the gzip header.
    let gzip = Command::new("gzip").args(["-n", "-6"]).stdin(packed).stdout(file).status().context("run gzip")?;
    let tar = tar.wait().context("wait for tar")?;
    ensure!(tar.success() && gzip.success(), "packing {} failed", tarball.display());
    Ok(())
}

/// Returns the date of every packed file in seconds since 1970: `SOURCE_DATE_EPOCH`, else the last commit.
fn dated() -> Result<u64> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return epoch.trim().parse().context("read SOURCE_DATE_EPOCH as seconds");
    }
    let commit = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace()).output();
    // A source tree without git can also be packed, dated 1970.
    let text = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    Ok(text.parse().unwrap_or(0))
}

/// Writes `<tarball>.sha256` in the form that `sha256sum --check` reads.
fn write_checksum(tarball: &Path) -> Result<String> {
    let bytes = fs::read(tarball).with_context(|| format!("read {}", tarball.display()))?;
    let digest = hex::encode(Sha256::digest(&bytes));
    let name = tarball.file_name().and_then(|name| name.to_str()).context("a plain file name")?;
    let checksum = tarball.with_file_name(format!("{name}.sha256"));
    fs::write(&checksum, format!("{digest}  {name}\n")).with_context(|| format!("write {}", checksum.display()))?;
    Ok(digest)
}
