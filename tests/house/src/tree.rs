//! Lists and reads the files of the checkout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that builds and tools create.
const MADE: [&str; 4] = ["target", ".git", "node_modules", "__pycache__"];

/// Returns the root folder of the checkout.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Returns the project's own files, relative to the root: those that git tracks or would track; in a tarball without
/// git, all files that are not in a folder which a build creates.
///
/// # Errors
/// Fails when a folder cannot be listed.
pub fn files() -> Result<Vec<String>, String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root());
    let listed = git.output().ok().filter(|output| output.status.success());
    let mut files = Vec::new();
    match listed {
        Some(output) => {
            let names = String::from_utf8(output.stdout).map_err(|error| format!("git ls-files: {error}"))?;
            // A file that was removed and not yet committed is still listed.
            files.extend(names.split('\0').filter(|name| root().join(name).is_file()).map(str::to_owned));
        }
        None => walk(&root(), "", &mut files)?,
    }
    if files.len() < 20 {
        return Err(format!("found only {} files under {}", files.len(), root().display()));
    }
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("list {}: {error}", folder.display()))?;
    for entry in entries {
        let entry = entry.map_err(|error| format!("list {}: {error}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            if !MADE.contains(&name.as_str()) {
                walk(&entry.path(), &format!("{path}/"), files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns the text of a file of the checkout.
///
/// # Errors
/// Fails when it cannot be read.
pub fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{path} cannot be read: {error}"))
}

/// Returns the texts of all files whose path has this suffix.
///
/// # Errors
/// Fails when one cannot be read.
pub fn texts(ending: &str) -> Result<Vec<(String, String)>, String> {
    let paths = files()?.into_iter().filter(|path| path.ends_with(ending));
    paths.map(|path| read(&path).map(|text| (path, text))).collect()
}

/// Returns the folders of all packages, relative to the root, without the workspace itself.
///
/// # Errors
/// Fails when the files cannot be listed.
pub fn crates() -> Result<Vec<String>, String> {
    Ok(files()?.iter().filter_map(|path| Some(path.strip_suffix("/Cargo.toml")?.to_owned())).collect())
}
