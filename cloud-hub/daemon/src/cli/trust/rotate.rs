//! `cloud-hub trust rotate`: other keys in place of the present ones, safe against a kill at any moment.
//!
//! The new offline key is stored as `ROLE.next.key` before anything is signed. Once the root that names it is in force the
//! old file becomes `….retired-N` and the new one takes its place; a run that was cut off is finished by the next one.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use console::{CliError, ExitKind, OrExit};
use jiff::Timestamp;
use model_tools::sign::{Authority, Change, KeyFile, KeyPair, PublicKey, Role, Roles, Signed};

use super::finish::{self, Finished};
use super::keys::{self, KeyArgs, Keyring};
use super::site::{Site, SiteArgs};
use super::{InForce, OfflineRole, OutArgs, in_force};

#[derive(Debug, Args)]
pub(in crate::cli) struct RotateArgs {
    /// Keys to replace.
    which: Which,
    /// Public key that is replaced (64 hex digits or a .pub file); needed where the role has several.
    #[arg(long, value_name = "KEY")]
    replace: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    #[command(flatten)]
    out: OutArgs,
    #[command(flatten)]
    site: SiteArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The key of the root.
    Root,
    /// The key of the list of versions, and the hub's own.
    Targets,
    /// The hub's own keys, which sign snapshot and timestamp.
    Online,
}

pub(super) fn run(args: &RotateArgs) -> Result<(), CliError> {
    let (site, keys) = (args.site.open()?, args.keys.open()?);
    let in_force = in_force(&site, &keys)?;
    match args.which {
        Which::Online => rotate_online(args, &site, &keys, in_force),
        Which::Root => rotate_offline(args, &site, &keys, in_force, OfflineRole::Root),
        Which::Targets => rotate_offline(args, &site, &keys, in_force, OfflineRole::Targets),
    }
}

fn rotate_online(args: &RotateArgs, site: &Site, keys: &Keyring, in_force: InForce) -> Result<(), CliError> {
    let InForce { root, targets, mut roles } = in_force;
    name_new_online_keys(site, &mut roles)?;
    let change = Change::of_roles(&root, &targets, &roles, false, Timestamp::now()).or_exit(ExitKind::Refused)?;
    finish::finish(site, change, keys, args.out.out.as_deref(), args.site.output()).map(drop)
}

/// Has the hub make new keys and puts their public halves into the roles.
fn name_new_online_keys(site: &Site, roles: &mut Roles) -> Result<(), CliError> {
    let next = site.next_online_keys()?;
    let key = |text: &str| text.parse::<PublicKey>().or_exit(ExitKind::Refused);
    roles.snapshot = Authority::of(key(&next.snapshot)?);
    roles.timestamp = Authority::of(key(&next.timestamp)?);
    Ok(())
}

fn rotate_offline(
    args: &RotateArgs,
    site: &Site,
    keys: &Keyring,
    in_force: InForce,
    which: OfflineRole,
) -> Result<(), CliError> {
    let InForce { root, targets, mut roles } = in_force;
    let Some(folder) = keys.folder() else {
        return Err(CliError::new(ExitKind::Usage, "the new key needs a folder").hint("give --keys DIR"));
    };
    let role = which.role();
    let next_path = folder.join(format!("{}.next.key", role.as_str()));
    let version = Signed::read(Role::Root, &root).or_exit(ExitKind::Refused)?.version;
    // The run before was cut off after its root came into force.
    if next_path.exists() && roles.of(role).keys.contains(&args.keys.open_file(&next_path)?.public()) {
        let place = folder.join(format!("{}.key", role.as_str()));
        let is_old = keys::public_of(&place).is_some_and(|public| !roles.of(role).keys.contains(&public));
        retire(folder, role, &next_path, Some(place.as_path()).filter(|_| is_old), version)?;
        console::print_line(&format!("the rotation of the {} key was finished: it is in force", role.as_str()))?;
        return Ok(());
    }
    let replaced = replaced_key(args, roles.of(role))?;
    let old = keys.signers(&[replaced])?.into_iter().next().map(|(path, _)| path);
    let next = next_key(&next_path, old.as_deref(), keys, args)?;
    let authority = match which {
        OfflineRole::Root => &mut roles.root,
        OfflineRole::Targets => &mut roles.targets,
    };
    if let Some(key) = authority.keys.iter_mut().find(|key| **key == replaced) {
        *key = next.public();
    }
    if which == OfflineRole::Targets {
        // Devices keep the version of the list in the snapshot: a thief who ran it away is shaken off with these keys.
        name_new_online_keys(site, &mut roles)?;
    }
    let change = Change::of_roles(&root, &targets, &roles, false, Timestamp::now()).or_exit(ExitKind::Refused)?;
    // The folder was listed before the new key was in it.
    let keys = args.keys.open()?;
    if finish::finish(site, change, &keys, args.out.out.as_deref(), args.site.output())? == Finished::InForce {
        retire(folder, role, &next_path, old.as_deref(), version.saturating_add(1))?;
    }
    Ok(())
}

/// The key that is replaced: the only one, or the one that was named.
fn replaced_key(args: &RotateArgs, authority: &Authority) -> Result<PublicKey, CliError> {
    match (&args.replace, authority.keys.as_slice()) {
        (Some(named), known) => {
            let key = keys::public_key(named)?;
            if known.contains(&key) {
                return Ok(key);
            }
            Err(CliError::new(ExitKind::NotFound, format!("key {key} is none of the role's"))
                .hint("see the keys of each role: cloud-hub trust status"))
        }
        (None, [only]) => Ok(*only),
        (None, several) => Err(CliError::new(ExitKind::Usage, format!("the role has {} keys", several.len()))
            .hint("name the one that is replaced with --replace KEY; cloud-hub trust status --json shows them")),
    }
}

/// The new key: made now, or by a run that was cut off.
fn next_key(path: &Path, old: Option<&Path>, keys: &Keyring, args: &RotateArgs) -> Result<KeyPair, CliError> {
    if path.exists() {
        return match KeyFile::read(path).or_exit(ExitKind::Storage)? {
            KeyFile::Plain(key) => Ok(key),
            KeyFile::Encrypted(_) => args.keys.open_file(path),
        };
    }
    let passphrase = old.map(|old| keys.passphrase_like(old)).transpose()?.flatten();
    let key = KeyPair::generate().or_exit(ExitKind::Failed)?;
    keys::save(&key, path, passphrase.as_ref())?;
    Ok(key)
}

/// Puts the new key in the place of the old one, which is kept under another name.
fn retire(folder: &Path, role: Role, next: &Path, old: Option<&Path>, version: u64) -> Result<(), CliError> {
    let renamed = |from: &Path, to: &Path| match std::fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(CliError::new(ExitKind::Storage, error)),
        Ok(()) | Err(_) => Ok(()),
    };
    let usual = folder.join(format!("{}.key", role.as_str()));
    let place = match old.filter(|old| old.starts_with(folder)) {
        Some(old) => old.to_owned(),
        None if usual.exists() => folder.join(format!("{}-{version}.key", role.as_str())),
        None => usual,
    };
    // The hint first: a key whose hint names another one would be passed over.
    for ending in ["pub", "key"] {
        let place = place.with_extension(ending);
        let retired = PathBuf::from(format!("{}.retired-{version}", place.display()));
        if !retired.exists() {
            renamed(&place, &retired)?;
        }
        renamed(&next.with_extension(ending), &place)?;
    }
    store::files::sync_dir(folder).or_exit(ExitKind::Storage)
}
