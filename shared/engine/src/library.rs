//! Finds the shared library of ONNX Runtime.
//!
//! It is not linked: packages ship it beside the daemon, a developer's checkout takes it from the cache that
//! `cargo xtask setup` fills. A place that somebody named is the only one tried; only defaults are searched in turn.

use std::fmt;
use std::path::{Path, PathBuf};

/// Environment variable that names the library, or the folder it lies in.
pub const LIBRARY_VARIABLE: &str = "SANDERLING_ONNXRUNTIME";

/// Version of ONNX Runtime that `cargo xtask setup` fetches and that packages ship.
pub const LIBRARY_VERSION: &str = "1.32.0";

/// File name without its version.
const LIBRARY_NAME: &str = "libonnxruntime.so";

/// Folder of the library in a distribution package.
const SYSTEM_FOLDER: &str = "/usr/lib/sanderling";

/// Places to search for the library.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LibrarySearch {
    /// The library's file or folder as the configuration names it; then nothing else is tried.
    pub configured: Option<PathBuf>,
}

/// The library is in none of the places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryNotFound {
    /// Paths that were tried, in order.
    pub tried: Vec<PathBuf>,
}

impl fmt::Display for LibraryNotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ONNX Runtime was not found, tried ")?;
        for (at, place) in self.tried.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, place.display())?;
        }
        write!(
            f,
            ": install the package, or run `cargo xtask setup` in a checkout and set {LIBRARY_VARIABLE} to the file it prints"
        )
    }
}

impl std::error::Error for LibraryNotFound {}

impl LibrarySearch {
    /// Finds the file: the configured place, else the one in [`LIBRARY_VARIABLE`], else `lib/sanderling` beside the
    /// executable's folder, else `/usr/lib/sanderling`.
    ///
    /// # Errors
    /// With the places that were tried.
    pub fn find(&self) -> Result<PathBuf, LibraryNotFound> {
        let named = self.configured.clone().or_else(|| {
            let named = std::env::var_os(LIBRARY_VARIABLE).filter(|named| !named.is_empty());
            named.map(PathBuf::from)
        });
        let tried = named.map_or_else(default_places, |named| vec![named]);
        tried.iter().find_map(|place| look_in(place)).ok_or(LibraryNotFound { tried })
    }
}

/// The file that `cargo xtask setup` leaves for this machine's architecture, whether or not it is there.
///
/// For tests and `xtask`; a daemon never looks here by itself.
#[must_use]
pub fn developer_library() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("SANDERLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("sanderling")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/sanderling")))?;
    let folder = cache.join("onnxruntime").join(LIBRARY_VERSION).join(std::env::consts::ARCH);
    Some(folder.join(format!("{LIBRARY_NAME}.{LIBRARY_VERSION}")))
}

fn default_places() -> Vec<PathBuf> {
    let executable = std::env::current_exe().ok();
    let beside = executable.as_deref().and_then(Path::parent).map(|folder| folder.join("../lib/sanderling"));
    beside.into_iter().chain([PathBuf::from(SYSTEM_FOLDER)]).collect()
}

/// A file is taken as it is; a folder is searched for the library, the newest name first.
fn look_in(place: &Path) -> Option<PathBuf> {
    if place.is_file() {
        return Some(place.to_path_buf());
    }
    let entries = std::fs::read_dir(place).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let library =
        |name: &String| name.strip_prefix(LIBRARY_NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let newest = names.filter(library).max_by_key(|name| version_of(name));
    newest.map(|name| place.join(name)).filter(|file| file.is_file())
}

/// `libonnxruntime.so.1.32.0` is newer than `libonnxruntime.so.1.9.1`, and both than a name without a version.
fn version_of(name: &str) -> Vec<u32> {
    name.trim_start_matches(LIBRARY_NAME).split('.').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_place_without_the_library_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let search = LibrarySearch { configured: Some(folder.path().to_path_buf()) };
        let message = search.find().unwrap_err().to_string();
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
        assert!(message.contains("cargo xtask setup"), "{message}");
    }

    #[test]
    fn the_newest_library_of_a_folder_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime.so.1.9.1", "libonnxruntime.so.1.32.0", "libonnxruntime_providers.so", "x"] {
            std::fs::write(folder.path().join(name), []).unwrap();
        }
        let search = LibrarySearch { configured: Some(folder.path().to_path_buf()) };
        assert_eq!(search.find().unwrap(), folder.path().join("libonnxruntime.so.1.32.0"));
        let file = folder.path().join("x");
        assert_eq!(LibrarySearch { configured: Some(file.clone()) }.find().unwrap(), file);
    }
}
