//! `cloud-hub backup restore`: checks a backup from its first byte to its last, then makes a hub of it.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use console::{CliError, ExitKind, OrExit};
use hub_core::authorise::{DeviceRecord, Standing};
use serde::Serialize;
use store::files::{self, Mode};
use store::{SledStore, Store};
use transport::Ca;
use types::{DeviceId, Digest};

use super::RestoreArgs;
use crate::app::registry::metadata::Metadata;
use crate::cli::init;
use crate::storage::backup::archive::{self, ArchiveError};
use crate::storage::backup::{Contents, Member, RESTORED_FILE, Restored, STORE_FILE, snapshot};
use crate::storage::folder::Folder;

/// Largest file that is read whole: a config, a certificate, a key.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// Disk space that a restore leaves free beside the content of the backup, in bytes: the store and new metadata.
const ROOM_BYTES: u64 = 64 * 1024 * 1024;

/// A device that was revoked when the backup was made.
#[derive(Debug, Serialize)]
struct Revoked {
    device: DeviceId,
    at_unix_ms: u64,
    reason: String,
}

/// Result of the verb, for `--json`.
#[derive(Debug, Serialize)]
struct Made {
    config: PathBuf,
    operator: Option<PathBuf>,
    ca: Digest,
    backup_unix_ms: u64,
    files: usize,
    devices: usize,
    /// Revocations that the backup holds, newest first.
    revoked: Vec<Revoked>,
    damaged: Vec<String>,
}

pub(super) fn run(args: &RestoreArgs) -> Result<(), CliError> {
    let was_there = args.dir.exists();
    if was_there && std::fs::read_dir(&args.dir).map_or(true, |mut entries| entries.next().is_some()) {
        return Err(CliError::new(
            ExitKind::Conflict,
            format!("{} is there already and not empty", args.dir.display()),
        )
        .hint("name a new folder: a hub is never overwritten"));
    }
    let mut file = File::open(&args.file).or_exit_try(ExitKind::Storage, "name the file that `backup create` wrote")?;
    // Once without writing: nothing of a backup that is damaged or hostile reaches the disk.
    let spinner = console::spinner("checking the backup");
    let contents = archive::read(BufReader::new(&file), |_contents, member, content| check_member(member, content));
    let contents = contents.map_err(refused)?;
    check_complete(&contents)?;
    drop(spinner);
    let spinner = console::spinner("restoring");
    let made = file.rewind().or_exit(ExitKind::Storage).and_then(|()| make(args, &file, &contents));
    let made = made.inspect_err(|_error| init::undo(&args.dir, was_there))?;
    drop(spinner);
    Ok(console::Output::from_json_flag(args.json).print(&made, told)?)
}

fn refused(error: ArchiveError) -> CliError {
    let kind = match &error {
        ArchiveError::Io { .. } | ArchiveError::Place { .. } => ExitKind::Storage,
        ArchiveError::NotABackup(_) | ArchiveError::Newer { .. } | ArchiveError::Member { .. } => ExitKind::Refused,
    };
    CliError::new(kind, error).hint("nothing was written; try another copy of the backup")
}

/// The store is the one member whose inside is checked before anything is written.
fn check_member(member: &Member, content: &mut dyn Read) -> io::Result<()> {
    if member.name != STORE_FILE {
        return Ok(());
    }
    let mut content = BufReader::new(content);
    snapshot::read_head(&mut content).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(snapshot::read_entries(&mut content, None)).map(drop).map_err(io::Error::other)
}

fn check_complete(contents: &Contents) -> Result<(), CliError> {
    let needed = ["hub.toml", STORE_FILE, "ca/ca.crt", "ca/ca.key", "trust/metadata/timestamp.json"];
    let missing = needed.iter().find(|name| !contents.members.iter().any(|member| member.name == **name));
    match missing {
        None => Ok(()),
        Some(name) => Err(CliError::new(ExitKind::Refused, format!("the backup holds no {name}"))
            .hint("nothing was written; try another backup")),
    }
}

fn make(args: &RestoreArgs, file: &File, contents: &Contents) -> Result<Made, CliError> {
    files::create_dir(&args.dir).or_exit(ExitKind::Storage)?;
    let needed: u64 = contents.members.iter().map(|member| member.bytes).fold(ROOM_BYTES, u64::saturating_add);
    let free = files::free_bytes(&args.dir).or_exit(ExitKind::Storage)?;
    if free < needed {
        let problem = format!("{} has {free} bytes free, the restored hub needs {needed}", args.dir.display());
        return Err(
            CliError::new(ExitKind::Storage, problem).hint("nothing was left behind; name a folder on a larger disk")
        );
    }
    let folder = Folder::new(&args.dir);
    let placed = archive::read(BufReader::new(file), |_contents, member, content| {
        if member.name == STORE_FILE { Ok(()) } else { place(&args.dir, member, content) }
    });
    let placed = placed.map_err(refused)?;
    if placed != *contents {
        return Err(
            CliError::new(ExitKind::Refused, "the backup changed while it was read").hint("nothing was left behind")
        );
    }
    for needed in [folder.blobs(), folder.metadata(), folder.online_keys()] {
        files::create_dir(&needed).or_exit(ExitKind::Storage)?;
    }
    let config = args.dir.join("hub.toml");
    move_config(&config, &args.dir)?;
    let ca = load_ca(&folder, contents)?;
    let (devices, revoked) = fill_store(file, &folder)?;
    let metadata = Metadata::open(folder.clone()).and_then(|metadata| metadata.current());
    metadata.map(drop).or_exit_try(ExitKind::Refused, "nothing was left behind; try another backup")?;
    let mark = Restored { backup_unix_s: contents.created_unix_s, restored_unix_s: crate::clock::unix_s() };
    // Two numbers always serialise.
    let text = serde_json::to_vec_pretty(&mark).unwrap_or_default();
    files::write_atomic(&args.dir.join(RESTORED_FILE), &text, Mode::Private).or_exit(ExitKind::Storage)?;
    let shown = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let operator = args.dir.join("operator.toml");
    Ok(Made {
        config: shown(config),
        operator: operator.exists().then(|| shown(operator)),
        ca,
        backup_unix_ms: contents.created_unix_s.saturating_mul(1000),
        files: contents.members.len(),
        devices,
        revoked,
        damaged: contents.damaged.clone(),
    })
}

/// Writes one member to its place. The name was checked: it is a plain path below the folder.
fn place(dir: &Path, member: &Member, content: &mut dyn Read) -> io::Result<()> {
    let path = dir.join(&member.name);
    let parent = path.parent().unwrap_or(dir);
    files::create_dir(parent).map_err(io::Error::other)?;
    let mode = if member.private { 0o600 } else { 0o644 };
    // New in any case: neither a file nor a link is written through.
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
    io::copy(content, &mut file)?;
    file.sync_all()?;
    files::sync_dir(parent).map_err(io::Error::other)
}

/// Makes the config name the new folder, and reads it back.
fn move_config(path: &Path, dir: &Path) -> Result<(), CliError> {
    let bytes = files::read_bounded(path, TEXT_BYTES_MAX).or_exit(ExitKind::Storage)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let line = "state_dir = \".\"";
    let is_state_dir = |text: &&str| {
        text.trim_start().strip_prefix("state_dir").is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let moved = match text.lines().find(is_state_dir) {
        Some(found) => text.replacen(found, line, 1),
        None if text.lines().any(|text| text.trim() == "[hub]") => text.replacen("[hub]", &format!("[hub]\n{line}"), 1),
        None => format!("{text}\n[hub]\n{line}\n"),
    };
    let moved = if moved.ends_with('\n') { moved } else { format!("{moved}\n") };
    files::write_atomic(path, moved.as_bytes(), Mode::Shared).or_exit(ExitKind::Storage)?;
    let config = crate::cli::config::read(path)?;
    if std::path::absolute(&config.hub.state_dir).ok() != std::path::absolute(dir).ok() {
        let problem = format!("hub.toml of the backup names the folder {}", config.hub.state_dir.display());
        return Err(CliError::new(ExitKind::Config, problem)
            .hint("nothing was left behind; its hub.state_dir must be one line of its own"));
    }
    Ok(())
}

fn load_ca(folder: &Folder, contents: &Contents) -> Result<Digest, CliError> {
    let read = |path: PathBuf| -> Result<String, CliError> {
        let bytes = files::read_bounded(&path, TEXT_BYTES_MAX).or_exit(ExitKind::Storage)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let ca = Ca::load(&read(folder.ca_certificate())?, &read(folder.ca_key())?).or_exit(ExitKind::Refused)?;
    if ca.fingerprint() == contents.ca {
        Ok(contents.ca)
    } else {
        Err(CliError::new(ExitKind::Refused, "the CA in the backup is not the one that its list of contents names")
            .hint("nothing was left behind; try another copy of the backup"))
    }
}

/// Fills a new store, and lists what the operator must know of the devices in it.
fn fill_store(mut file: &File, folder: &Folder) -> Result<(usize, Vec<Revoked>), CliError> {
    let (store, _state) = SledStore::open(&folder.store()).or_exit(ExitKind::Storage)?;
    let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(store);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(ExitKind::Failed)?;
    file.rewind().or_exit(ExitKind::Storage)?;
    let filled = archive::read(BufReader::new(file), |_contents, member, content| {
        if member.name != STORE_FILE {
            return Ok(());
        }
        let mut content = BufReader::new(content);
        snapshot::read_head(&mut content).map_err(io::Error::other)?;
        let entries = runtime.block_on(snapshot::read_entries(&mut content, Some(store.as_ref())));
        entries.map(drop).map_err(io::Error::other)
    });
    filled.map_err(refused)?;
    let table = crate::app::fleet::device_table(store);
    let records = runtime.block_on(table.list()).or_exit(ExitKind::Storage)?.records;
    let mut revoked: Vec<Revoked> = records.iter().filter_map(|(_name, record)| revocation(record)).collect();
    revoked.sort_by_key(|revoked| std::cmp::Reverse(revoked.at_unix_ms));
    Ok((records.len(), revoked))
}

fn revocation(record: &DeviceRecord) -> Option<Revoked> {
    match &record.standing {
        Standing::Good => None,
        Standing::Revoked { at_unix_s, why } => {
            Some(Revoked { device: record.id.clone(), at_unix_ms: at_unix_s.saturating_mul(1000), reason: why.clone() })
        }
    }
}

fn told(made: &Made) -> String {
    let at = crate::clock::utc(made.backup_unix_ms);
    let mut lines = vec![
        format!("The hub of {at} is restored: CA {}, {} files, {} devices.", made.ca, made.files, made.devices),
        String::new(),
        format!("1. Start it:     cloud-hub serve --config {}", made.config.display()),
    ];
    lines.push(match &made.operator {
        Some(operator) => format!("2. Operate it:   export SANDERLING_OPERATOR={}", operator.display()),
        None => "2. Operate it with the operator.toml that you have.".to_owned(),
    });
    lines.push(format!(
        "3. Push again the versions that were published since {at}. Until then devices that have seen a later list of \
         versions take no update; where nothing was published, sign the list anew: cloud-hub trust renew --targets --keys DIR"
    ));
    lines.push(
        "4. Devices that were enrolled since then are not known: cloud-hub device readmit --all lets them in."
            .to_owned(),
    );
    lines.push(format!(
        "5. REVOKED SINCE {at}: devices that were revoked later are NOT revoked in this backup. Revoke them again now: \
         cloud-hub device revoke NAME"
    ));
    if made.revoked.is_empty() {
        lines.push("   No device was revoked when the backup was made.".to_owned());
    } else {
        lines.push("   Revoked in this backup, newest first:".to_owned());
        let revoked = made.revoked.iter().map(|revoked| {
            format!("   {}  {}  {}", crate::clock::utc(revoked.at_unix_ms), revoked.device, revoked.reason)
        });
        lines.extend(revoked);
    }
    lines.extend(made.damaged.iter().map(|name| format!("not in the backup, because it was damaged: {name}")));
    lines.join("\n")
}
