//! `cargo xtask setup`: fetches the requirements of the demo and the tests to a cache outside the checkout.
//!
//! There are three kinds: ONNX Runtime ([`onnxruntime`], without which nothing runs), Python tools in a virtual
//! environment ([`python_tools`]) and files of Debian packages ([`debian_package`]), which only some tests need. The
//! latter two may fail with a reason that the test prints. Each is fetched once and not checked again.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

/// Version of ONNX Runtime on PyPI, the same for every architecture.
const ONNXRUNTIME: &str = "1.32.0";

/// Path of the shared library inside the wheel; its last part is its name in the cache.
const LIBRARY: &str = "onnxruntime/capi/libonnxruntime.so.1.32.0";

/// Files that the licence requires beside the library.
const LICENCES: [&str; 2] = ["onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"];

/// Maximum size of a file extracted from the wheel, in bytes; the library has 35 MB, and a zip bomb would have more.
const MEMBER_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Python packages of the tests: the reference TUF client, and an independent client of the Open Inference Protocol.
pub(crate) const TEST_TOOLS: [&str; 5] = [
    "tuf==7.0.1",
    "securesystemslib[crypto]==1.6.0",
    "tritonclient[http,grpc]==2.73.0",
    "grpcio-reflection==1.81.1",
    "numpy==2.4.6",
];

/// Python packages that write the wgpu engine's conformance cases, pinned beside the scripts.
const CASE_TOOLS: &str = include_str!("../../shared/engine-wgpu/tools/requirements.txt");

/// Scripts that write those cases to the cache, once: the ONNX suite, ONNX Runtime's outputs, whole models.
const CASE_SCRIPTS: [&str; 3] = ["gen_node_tests.py", "gen_ort_cases.py", "gen_model_cases.py"];

/// Python packages that write the models of wheels and the classical models for the long tests, pinned beside the
/// script.
const FIELD_TOOLS: &str = include_str!("../../models/compress/tools/field_requirements.txt");

/// Python packages that quantize for comparison and evaluate the results, pinned beside the scripts.
const COMPRESS_TOOLS: &str = include_str!("../../models/compress/tools/requirements.txt");

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Architecture to fetch ONNX Runtime for; may be given twice. Default: this machine's.
    #[arg(long, value_enum)]
    arch: Vec<Arch>,
    /// Also fetch the Python tools that some tests use; `cargo xtask test` does so automatically.
    #[arg(long)]
    tools: bool,
}

/// Architecture that ONNX Runtime is fetched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit x86, also known as amd64.
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// 64-bit Arm, also known as arm64.
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

/// The pinned wheel of one architecture.
struct Wheel {
    /// Platform tag of pip.
    platform: &'static str,
    file: &'static str,
    sha256: &'static str,
    /// SHA-256 of the library inside, which detects a damaged cache.
    library_sha256: &'static str,
}

impl Arch {
    /// Returns the architecture of this machine.
    pub(crate) fn host() -> anyhow::Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => bail!("there is no ONNX Runtime wheel for {other}: x86_64 and aarch64 are supported"),
        }
    }

    /// Returns the name in the cache, as Rust and the kernel write it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Returns the wheel to fetch. cp311 is only part of the file name: the used content does not depend on Python.
    const fn wheel(self) -> Wheel {
        match self {
            Self::X86_64 => Wheel {
                platform: "manylinux_2_28_x86_64",
                file: "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
                sha256: "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d",
                library_sha256: "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
            },
            Self::Aarch64 => Wheel {
                platform: "manylinux_2_28_aarch64",
                file: "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl",
                sha256: "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
                library_sha256: "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
            },
        }
    }
}

/// Runs the verb; prints the path of the library, so that a shell can store it in `SANDERLING_ONNXRUNTIME`.
#[expect(clippy::print_stdout, reason = "the path is this command's result")]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let wanted = if args.arch.is_empty() { vec![Arch::host()?] } else { args.arch.clone() };
    for arch in wanted {
        println!("{}", onnxruntime(arch)?.display());
    }
    if args.tools {
        println!("{}", python_tools("tests", &TEST_TOOLS)?.display());
    }
    Ok(())
}

/// Returns the cache: `$SANDERLING_CACHE`, else `$XDG_CACHE_HOME/sanderling`, else `~/.cache/sanderling`.
///
/// `engine::library::developer_library` uses the same folder.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("SANDERLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("sanderling")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/sanderling")))
        .context("find a folder for the cache: set SANDERLING_CACHE")
}

/// Ensures that ONNX Runtime is in the cache and returns the path of its library, which has its licence files beside
/// it.
///
/// # Errors
/// Fails if it is missing and cannot be fetched; the error names the file to download by other means and its folder.
pub(crate) fn onnxruntime(arch: Arch) -> anyhow::Result<PathBuf> {
    let cache = cache()?;
    let folder = cache.join("onnxruntime").join(ONNXRUNTIME).join(arch.as_str());
    let library = folder.join(base_name(LIBRARY));
    if is_complete(&folder, &library, arch) {
        return Ok(library);
    }
    let _lock = lock(&cache)?;
    // Another setup may have done it while this one waited for the lock.
    if !is_complete(&folder, &library, arch) {
        let wheel = fetched_wheel(&cache, arch)?;
        unpack(&wheel, &folder).with_context(|| format!("unpack {}", wheel.display()))?;
        anyhow::ensure!(
            is_complete(&folder, &library, arch),
            "the library in {} differs from the pinned one",
            wheel.display()
        );
        // 28 MB that are not needed again.
        fs::remove_file(&wheel).with_context(|| format!("remove {}", wheel.display()))?;
    }
    Ok(library)
}

fn base_name(member: &str) -> &str {
    member.rsplit('/').next().unwrap_or(member)
}

fn is_complete(folder: &Path, library: &Path, arch: Arch) -> bool {
    LICENCES.iter().all(|licence| folder.join(base_name(licence)).is_file())
        && sha256_of(library).is_ok_and(|sha256| sha256 == arch.wheel().library_sha256)
}

/// Returns the wheel of that architecture with the pinned hash: from the downloads folder, else from PyPI.
fn fetched_wheel(cache: &Path, arch: Arch) -> anyhow::Result<PathBuf> {
    let wheel = arch.wheel();
    let downloads = cache.join("downloads");
    let path = downloads.join(wheel.file);
    fs::create_dir_all(&downloads).with_context(|| format!("create folder {}", downloads.display()))?;
    if !path.is_file() {
        eprintln!("fetching ONNX Runtime {ONNXRUNTIME} for {} from PyPI", arch.as_str());
        download(&downloads, &wheel).with_context(|| {
            format!(
                "fetch {} with pip: without network, download that file of the PyPI project onnxruntime {ONNXRUNTIME} on another \
                 machine, move it to {} and run `cargo xtask setup` again",
                wheel.file,
                downloads.display()
            )
        })?;
    }
    let found = sha256_of(&path).with_context(|| format!("read {}", path.display()))?;
    if found != wheel.sha256 {
        bail!(
            "{} has the SHA-256 {found}, not the pinned {}: remove it and run `cargo xtask setup` again",
            path.display(),
            wheel.sha256
        );
    }
    Ok(path)
}

fn download(downloads: &Path, wheel: &Wheel) -> anyhow::Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--python-version", "311", "--implementation", "cp", "--platform", wheel.platform, "--dest"])
        .arg(downloads)
        .arg(format!("onnxruntime=={ONNXRUNTIME}"));
    succeed(&mut pip)?;
    anyhow::ensure!(downloads.join(wheel.file).is_file(), "pip downloaded another file than {}", wheel.file);
    Ok(())
}

/// Extracts the library and its licence files from the wheel to a folder that appears complete or not at all.
fn unpack(wheel: &Path, folder: &Path) -> anyhow::Result<()> {
    let parent = folder.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(parent).with_context(|| format!("create folder {}", parent.display()))?;
    let fresh = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(parent)?;
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    for member in LICENCES.iter().chain([&LIBRARY]) {
        let mut source = archive.by_name(member).with_context(|| format!("find {member}"))?.take(MEMBER_BYTES_MAX);
        let mut target = File::create(fresh.path().join(base_name(member)))?;
        io::copy(&mut source, &mut target).with_context(|| format!("unpack {member}"))?;
        target.sync_all()?;
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove the damaged {}", folder.display()))?;
    }
    let fresh = fresh.keep();
    make_readable(&fresh)?;
    fs::rename(&fresh, folder).with_context(|| format!("move into place as {}", folder.display()))
}

/// Makes a folder readable for all: temporary folders are private, but the cache may serve daemons of another user.
fn make_readable(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
        hasher.update(read);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Ensures that a virtual environment of this name with exactly these packages is in the cache; returns the path of its
/// `python`. Requirements must be pinned (`name==version`): another list creates another environment.
///
/// # Errors
/// "... is not available: REASON", for the caller to print as the reason of a skipped test.
pub(crate) fn python_tools(name: &str, requirements: &[&str]) -> anyhow::Result<PathBuf> {
    let digest = hex::encode(Sha256::digest(requirements.join("\n")));
    let folder = cache()?.join("python").join(format!("{name}-{}", digest.get(..12).unwrap_or(&digest)));
    let (python, ready) = (folder.join("bin/python"), folder.join(".complete"));
    if ready.is_file() {
        return Ok(python);
    }
    let _lock = lock(&cache()?)?;
    if !ready.is_file() {
        eprintln!("fetching the Python packages {}", requirements.join(", "));
        make_environment(&folder, &python, requirements)
            .with_context(|| format!("the Python tools {} are not available", requirements.join(", ")))?;
        File::create(&ready).and_then(|mut file| file.write_all(requirements.join("\n").as_bytes()))?;
    }
    Ok(python)
}

/// Ensures that the wgpu engine's conformance cases are in the cache.
///
/// # Errors
/// Fails if a script or its environment is not available: the tests then report that they are skipped.
pub(crate) fn conformance_cases(workspace: &Path) -> anyhow::Result<()> {
    let requirements: Vec<&str> = CASE_TOOLS.lines().collect();
    let python = python_tools("onnx", &requirements)?;
    for script in CASE_SCRIPTS {
        let path = workspace.join("shared/engine-wgpu/tools").join(script);
        succeed(Command::new(&python).arg(path)).with_context(|| format!("write the cases of {script}"))?;
    }
    Ok(())
}

/// Ensures that the corpus of the compression tests and ONNX Runtime's own quantizer are in the cache; returns the
/// `python` with the quantizer and the folder of the corpus.
///
/// # Errors
/// Fails if the script or its environment is not available: the tests then report that they are skipped.
pub(crate) fn compress_corpus(workspace: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let requirements: Vec<&str> = COMPRESS_TOOLS.lines().collect();
    let python = python_tools("compress", &requirements)?;
    let script = workspace.join("models/compress/tools/corpus.py");
    let said = succeed(Command::new(&python).arg(script)).context("write the corpus of the compression tests")?;
    let folder = said.lines().last().map(PathBuf::from).context("corpus.py names no folder")?;
    Ok((python, folder))
}

/// Writes the pairs of model files for `cargo xtask bench delta` into the cache, once; returns their folder.
///
/// # Errors
/// When a wheel cannot be had or the script fails.
pub(crate) fn delta_pairs(workspace: &Path) -> anyhow::Result<PathBuf> {
    let (python, _corpus) = compress_corpus(workspace)?;
    let script = workspace.join("models/tools/tools/delta_pairs.py");
    let said = succeed(Command::new(&python).arg(script)).context("write the pairs of model files")?;
    said.lines().last().map(PathBuf::from).context("delta_pairs.py names no folder")
}

/// Ensures that the models of wheels for the long tests of compression are in the cache; returns their folder.
///
/// # Errors
/// Fails if the script or its environment is not available: the tests then report that they are skipped.
pub(crate) fn compress_field(workspace: &Path) -> anyhow::Result<PathBuf> {
    let requirements: Vec<&str> = FIELD_TOOLS.lines().collect();
    let python = python_tools("field", &requirements)?;
    let script = workspace.join("models/compress/tools/field.py");
    let said = succeed(Command::new(&python).arg(script)).context("write the models of wheels")?;
    said.lines().last().map(PathBuf::from).context("field.py names no folder")
}

/// Ensures that the networks which `cargo xtask bench` runs are in the cache.
///
/// # Errors
/// Fails if the script or its environment is not available.
pub(crate) fn bench_models(workspace: &Path) -> anyhow::Result<()> {
    let requirements: Vec<&str> = CASE_TOOLS.lines().collect();
    let python = python_tools("onnx", &requirements)?;
    let script = workspace.join("tests/bench/tools/bench_models.py");
    succeed(Command::new(&python).arg(script)).map(drop).context("write the networks of the benchmark")
}

fn make_environment(folder: &Path, python: &Path, requirements: &[&str]) -> anyhow::Result<()> {
    // Without its mark it is the remainder of an interrupted attempt.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove the unfinished {}", folder.display()))?;
    }
    succeed(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    succeed(
        Command::new(python)
            .args(["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--only-binary=:all:"])
            .args(requirements),
    )
    .map(drop)
}

/// Ensures that the files of a Debian package are in the cache; returns the folder that replaces `/`. Installs nothing
/// on the system, needs no root, and follows no dependencies: the package must need only libc.
///
/// # Errors
/// "... is not available: REASON", for the caller to print as the reason of a skipped test.
pub(crate) fn debian_package(name: &str) -> anyhow::Result<PathBuf> {
    let cache = cache()?;
    let folder = cache.join("debian").join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let _lock = lock(&cache)?;
    if !folder.is_dir() {
        unpack_debian(name, &folder).with_context(|| format!("the Debian package {name} is not available"))?;
    }
    Ok(folder)
}

fn unpack_debian(name: &str, folder: &Path) -> anyhow::Result<()> {
    eprintln!("fetching the Debian package {name}");
    let parent = folder.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(parent)?;
    let fresh = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(parent)?;
    let download = || succeed(Command::new("apt-get").args(["download", "--quiet", name]).current_dir(fresh.path()));
    if let Err(first) = download() {
        // The package lists may be missing or old; only root can update them.
        succeed(Command::new("apt-get").args(["update", "--quiet"])).map_err(|_renewal| first)?;
        download()?;
    }
    let mut files = fs::read_dir(fresh.path())?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = files.find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let package = package.context("apt-get downloaded no package file")?;
    let root = fresh.path().join("root");
    succeed(Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&root))?;
    make_readable(&root)?;
    fs::rename(&root, folder).with_context(|| format!("move into place as {}", folder.display()))
}

/// Locks the cache against other setups until dropped.
fn lock(cache: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(cache).with_context(|| format!("create folder {}", cache.display()))?;
    let path = cache.join("setup.lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Runs a command to its end and returns its output; the end of its error output becomes the error.
fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {program}: is it installed?"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
    let last: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = last.get(last.len().saturating_sub(3)..).unwrap_or_default().join("; ");
    bail!("{program} failed ({}): {last}", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a wheel with these members in the folder that `fetched_wheel` searches.
    fn wheel_with(folder: &Path, members: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join("test.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in members {
            archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    #[test]
    fn only_the_library_and_its_licences_are_kept() {
        let cache = tempfile::tempdir().unwrap();
        let members: [(&str, &[u8]); 4] =
            [(LIBRARY, b"library"), (LICENCES[0], b"a"), (LICENCES[1], b"b"), ("onnxruntime/other.py", b"c")];
        let wheel = wheel_with(cache.path(), &members);
        let folder = cache.path().join("made/x86_64");
        unpack(&wheel, &folder).unwrap();
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["LICENSE", "ThirdPartyNotices.txt", "libonnxruntime.so.1.32.0"]);
    }

    #[test]
    fn a_wheel_without_the_library_leaves_nothing_behind() {
        let cache = tempfile::tempdir().unwrap();
        let wheel = wheel_with(cache.path(), &[(LICENCES[0], b"a")]);
        let folder = cache.path().join("made/x86_64");
        assert!(unpack(&wheel, &folder).is_err());
        assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_placed_wheel_with_another_hash_is_refused_and_named() {
        let cache = tempfile::tempdir().unwrap();
        let downloads = cache.path().join("downloads");
        fs::create_dir_all(&downloads).unwrap();
        fs::write(downloads.join(Arch::X86_64.wheel().file), b"not a wheel").unwrap();
        let message = fetched_wheel(cache.path(), Arch::X86_64).unwrap_err().to_string();
        assert!(message.contains("not the pinned 5a34fc4d"), "{message}");
        assert!(message.contains("remove it"), "{message}");
    }
}
