//! A Vulkan driver for the tests of the wgpu engine: a GPU of this machine, else Mesa's lavapipe, which computes on the
//! CPU.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Environment variables that name a driver; Vulkan's loader then searches no folder.
const DRIVER_VARIABLES: [&str; 2] = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];

/// Folders that Vulkan's loader searches for drivers.
const DRIVER_FOLDERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];

/// Debian packages with lavapipe and the loader.
const PACKAGES: [&str; 2] = ["mesa-vulkan-drivers", "libvulkan1"];

/// Ensures that there is a driver. Only root may install one, and only if there is none.
///
/// # Errors
/// "... is not available: REASON". Tests then print `skipped:`, because `edge-agent doctor` finds no adapter.
pub(crate) fn driver() -> Result<()> {
    if is_there() {
        return Ok(());
    }
    install().with_context(|| format!("a Vulkan driver ({}) is not available", PACKAGES.join(", ")))
}

fn is_there() -> bool {
    let holds_files = |folder: &&str| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    DRIVER_VARIABLES.iter().any(|name| env::var_os(name).is_some()) || DRIVER_FOLDERS.iter().any(holds_files)
}

fn install() -> Result<()> {
    let user = Command::new("id").arg("-u").output().context("determine the user")?;
    ensure!(user.stdout.trim_ascii() == b"0", "only root can install it: apt-get install {}", PACKAGES.join(" "));
    eprintln!("installing {}", PACKAGES.join(" and "));
    let install = || apt_get(&[&["install", "--yes", "--no-install-recommends"], PACKAGES.as_slice()].concat());
    // The package lists may be missing or old.
    install().or_else(|_old| apt_get(&["update"]).and_then(|()| install()))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    let output = command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").output();
    let output = output.context("run apt-get: is this Debian?")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "apt-get failed: {}", said.lines().last().unwrap_or_default());
    Ok(())
}
