//! Locations of installed config files.

use std::path::{Path, PathBuf};

/// Folder of the config files that packages install.
const SYSTEM_FOLDER: &str = "/etc/sanderling";

/// Returns the path of an installed config file: `../etc/sanderling` beside the program's folder if the file exists
/// there, as after `install.sh --prefix`, else `/etc/sanderling`.
#[must_use]
pub fn installed_file(name: &str) -> PathBuf {
    let program = std::env::current_exe().ok();
    let prefix = program.as_deref().and_then(Path::parent).and_then(Path::parent);
    let in_prefix = prefix.map(|prefix| prefix.join("etc/sanderling").join(name)).filter(|file| file.is_file());
    in_prefix.unwrap_or_else(|| Path::new(SYSTEM_FOLDER).join(name))
}
