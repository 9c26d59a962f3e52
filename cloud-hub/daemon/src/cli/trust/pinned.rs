//! The root that the operator's keys know: a hub that shows another one gets no signature.
//!
//! `root.json` beside the keys is followed root by root to the one that the hub shows, as a device follows them, and is
//! then replaced by it.

use std::path::Path;

use bundle::trust::{ROOT_BYTES_MAX, check_next_root};
use console::{CliError, ExitKind, OrExit};
use model_tools::sign::{Role, Signed};
use store::files::{self, Mode};

use super::site::Site;
use crate::cli::init::ROOT_JSON;

const FOREIGN: &str =
    "the hub shows another trust root than root.json beside the keys: is operator.toml of the right hub?";

/// Fetches the hub's root and checks that it follows from the one beside the keys.
pub(in crate::cli) fn checked_root(site: &Site, keys: Option<&Path>) -> Result<Vec<u8>, CliError> {
    let root = site.file("root.json")?;
    let Some(folder) = keys else { return Ok(root) };
    let path = folder.join(ROOT_JSON);
    let mut known = match files::read_bounded(&path, ROOT_BYTES_MAX) {
        Ok(known) => known,
        // Keys may be kept without it; the signatures on the hub's own list are checked in any case.
        Err(error) if error.is_not_found() => return Ok(root),
        Err(error) => return Err(CliError::new(ExitKind::Storage, error)),
    };
    if known == root {
        return Ok(root);
    }
    let version = |root: &[u8]| Signed::read(Role::Root, root).map(|root| root.version);
    let newest = version(&root).or_exit(ExitKind::Refused)?;
    while version(&known).or_exit(ExitKind::Config)? < newest {
        let next = version(&known).or_exit(ExitKind::Config)?.saturating_add(1);
        let bytes = site.file(&Role::Root.file_name(next))?;
        check_next_root(&known, &bytes).or_exit_try(ExitKind::Refused, FOREIGN)?;
        known = bytes;
    }
    if known != root {
        return Err(
            CliError::new(ExitKind::Refused, "the hub's trust root does not follow from the known one").hint(FOREIGN)
        );
    }
    // The keys may lie on a medium that cannot be written: then the way is only longer the next time.
    drop(files::write_atomic(&path, &root, Mode::Shared));
    Ok(root)
}

/// Says whether the root that a prepared change begins from is the one beside the keys.
pub(super) fn note_root(root: &[u8], keys: Option<&Path>) -> Result<(), CliError> {
    let Some(folder) = keys else { return Ok(()) };
    let Ok(known) = files::read_bounded(&folder.join(ROOT_JSON), ROOT_BYTES_MAX) else { return Ok(()) };
    if known == root || check_next_root(&known, root).is_ok() {
        return Ok(());
    }
    let version = |root: &[u8]| Signed::read(Role::Root, root).map_or(0, |root| root.version);
    if version(&known) >= version(root) {
        return Err(CliError::new(
            ExitKind::Refused,
            "the change begins from another trust root than root.json beside the keys",
        )
        .hint("it is of another hub, or was prepared before the last change: prepare it again"));
    }
    console::print_line(
        "note: root.json beside the keys is several roots older than this change: compare the keys below",
    )?;
    Ok(())
}
