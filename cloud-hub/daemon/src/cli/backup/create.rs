//! `cloud-hub backup create`: asks the running hub for a snapshot of its store, or reads the store of a stopped one, and
//! puts it with the other files of the state folder into one file.

use std::fs::File;
use std::io::{BufReader, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use console::{CliError, ExitKind, OrExit};
use serde::Serialize;
use store::files::{self, AtomicFile, Mode};
use store::{SledStore, StateLock};
use transport::Ca;

use super::CreateArgs;
use super::collect::Collected;
use crate::api::endpoints::Backup;
use crate::app::registry::metadata::TIMESTAMP_FILE;
use crate::cli::machine;
use crate::storage::backup::archive::{self, ArchiveError};
use crate::storage::backup::{Contents, FORMAT, FORMAT_VERSION, SNAPSHOT_PREFIX, STORE_FILE, snapshot};
use crate::storage::folder::Folder;
use hub_cli::{Client, Context};

/// Largest PEM file of the CA, in bytes.
const PEM_BYTES_MAX: u64 = 64 * 1024;

/// Result of the verb, for `--json`.
#[derive(Debug, Serialize)]
struct Created {
    file: PathBuf,
    created_unix_ms: u64,
    members: usize,
    bytes: u64,
    /// Files that were damaged already and are not in the backup.
    damaged: Vec<String>,
    /// Files of the state folder that belong to no hub and are not in the backup.
    left_out: Vec<String>,
}

/// The snapshot of the store, deleted when the backup is written.
struct Taken(PathBuf);

impl Drop for Taken {
    fn drop(&mut self) {
        // What stays behind is removed when the hub starts.
        drop(std::fs::remove_file(&self.0));
    }
}

pub(super) fn run(args: &CreateArgs) -> Result<(), CliError> {
    let config = crate::cli::config::read(&args.config)?;
    let folder = Folder::new(&config.hub.state_dir);
    machine::require_hub(&folder)?;
    let is_stdout = args.file == Path::new("-");
    check_place(args, &folder, is_stdout)?;
    // A program that reads the backup may ask for a passphrase on the same terminal.
    let spinner = (!is_stdout).then(|| console::spinner("reading the hub"));
    let (taken, lock) = take_snapshot(args, &folder)?;
    let (contents, collected) = collect(args, &folder, &taken)?;
    drop(spinner);
    let created = Created {
        file: args.file.clone(),
        created_unix_ms: contents.created_unix_s.saturating_mul(1000),
        members: contents.members.len(),
        bytes: contents.members.iter().map(|member| member.bytes).sum(),
        damaged: contents.damaged.clone(),
        left_out: collected.foreign.clone(),
    };
    let written = if is_stdout { to_stdout(&contents, &collected) } else { to_file(&args.file, &contents, &collected) };
    written?;
    drop((taken, lock));
    if is_stdout {
        return damage(&created);
    }
    console::Output::from_json_flag(args.json).print(&created, told)?;
    damage(&created)
}

fn told(created: &Created) -> String {
    let mut text = format!(
        "{} holds this hub: {} files, {} bytes, mode 0600\n\
         It contains the CA's key and the online keys: keep it encrypted. The offline keys are not in it.",
        created.file.display(),
        created.members,
        created.bytes
    );
    for name in &created.left_out {
        text.push_str(&format!("\nleft out, because it belongs to no hub: {name}"));
    }
    text
}

/// A backup of a hub that has lost files already is written, and is not called a success.
fn damage(created: &Created) -> Result<(), CliError> {
    if created.damaged.is_empty() {
        return Ok(());
    }
    let problem = format!("the backup is written without damaged files: {}", created.damaged.join(", "));
    Err(CliError::new(ExitKind::Storage, problem).hint(
        "push the versions again that these files belong to (cloud-hub status names them), then make a new backup",
    ))
}

fn check_place(args: &CreateArgs, folder: &Folder, is_stdout: bool) -> Result<(), CliError> {
    if is_stdout {
        if std::io::stdout().is_terminal() {
            return Err(CliError::new(ExitKind::Usage, "a backup is no text for a terminal")
                .hint("redirect it, for example: cloud-hub backup create - | age -p > hub.backup.age"));
        }
        return Ok(());
    }
    if args.file.exists() {
        return Err(CliError::new(ExitKind::Conflict, format!("{} exists already", args.file.display()))
            .hint("name a new file: a backup is never overwritten"));
    }
    let absolute = |path: &Path| std::path::absolute(path).or_exit(ExitKind::Usage);
    if absolute(&args.file)?.starts_with(absolute(folder.root())?) {
        return Err(CliError::new(ExitKind::Usage, "the backup must not lie in the hub's own folder")
            .hint("name a file elsewhere, best on another machine's disk"));
    }
    Ok(())
}

/// Has the store written to a file. The lock is that of a stopped hub, which must not start meanwhile.
fn take_snapshot(args: &CreateArgs, folder: &Folder) -> Result<(Taken, Option<StateLock>), CliError> {
    match folder.lock() {
        Ok(lock) => Ok((read_stopped(folder)?, Some(lock))),
        Err(error) if error.is_held() => Ok((ask_running(args, folder)?, None)),
        Err(error) => Err(CliError::new(ExitKind::Storage, error)
            .hint("run this as the user that the hub runs as: sudo -u sanderling-hub cloud-hub backup create …")),
    }
}

fn read_stopped(folder: &Folder) -> Result<Taken, CliError> {
    let path = folder.root().join(format!("{SNAPSHOT_PREFIX}{}.snapshot", uuid::Uuid::new_v4()));
    let timestamp = files::read_bounded(&folder.metadata().join(TIMESTAMP_FILE), bundle::trust::TIMESTAMP_BYTES_MAX);
    let timestamp = timestamp.or_exit(ExitKind::Storage)?;
    let (store, _state) = SledStore::open(&folder.store()).or_exit(ExitKind::Storage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(ExitKind::Failed)?;
    let written = runtime.block_on(snapshot::write(&store, &timestamp, crate::clock::unix_s(), &path));
    written.or_exit(ExitKind::Storage)?;
    Ok(Taken(path))
}

fn ask_running(args: &CreateArgs, folder: &Folder) -> Result<Taken, CliError> {
    let client = client(args, folder)?;
    let made = client.get::<Backup>(&())?;
    let is_ours = made.file.starts_with(SNAPSHOT_PREFIX) && !made.file.contains('/');
    let path = folder.root().join(&made.file);
    if !is_ours || !path.exists() {
        return Err(CliError::new(ExitKind::Refused, "the hub that was asked is not the one of this config")
            .hint("give the operator.toml of this hub with --context FILE"));
    }
    Ok(Taken(path))
}

/// Makes a client with the token in the state folder, which is good while the hub runs: a backup that is made every night
/// must not fail after a year. A hub without one is asked with the context.
fn client(args: &CreateArgs, folder: &Folder) -> Result<Client, CliError> {
    if let Ok(client) = machine::running(&crate::cli::config::read(&args.config)?, folder) {
        return Ok(client);
    }
    let own = folder.root().join("operator.toml");
    let context = args.context.clone().or_else(|| own.exists().then_some(own));
    Client::new(Context::load(context.as_deref(), crate::cli::locate::own_hub)?)
}

fn collect(args: &CreateArgs, folder: &Folder, taken: &Taken) -> Result<(Contents, Collected), CliError> {
    let file = File::open(&taken.0).or_exit(ExitKind::Storage)?;
    let head = snapshot::read_head(&mut BufReader::new(file)).or_exit(ExitKind::Storage)?;
    let mut collected = Collected::default();
    // First what must come from the moment of the snapshot, and the config that the hub really reads.
    let as_user = "run this as the user that the hub runs as: sudo -u sanderling-hub cloud-hub backup create …";
    let metadata = format!("trust/metadata/{TIMESTAMP_FILE}");
    let gathered = collected.file("hub.toml", args.config.clone()).and_then(|()| {
        collected.file(STORE_FILE, taken.0.clone())?;
        collected.text(&metadata, head.timestamp.into_bytes());
        collected.folder(folder.root())
    });
    gathered.or_exit_try(ExitKind::Storage, as_user)?;
    let certificate = files::read_bounded(&folder.ca_certificate(), PEM_BYTES_MAX).or_exit(ExitKind::Storage)?;
    let key = files::read_bounded(&folder.ca_key(), PEM_BYTES_MAX).or_exit(ExitKind::Storage)?;
    let ca =
        Ca::load(&String::from_utf8_lossy(&certificate), &String::from_utf8_lossy(&key)).or_exit(ExitKind::Storage)?;
    let contents = Contents {
        format: FORMAT.to_owned(),
        version: FORMAT_VERSION,
        created_unix_s: head.created_unix_s,
        hub_version: env!("CARGO_PKG_VERSION").to_owned(),
        ca: ca.fingerprint(),
        members: collected.members.clone(),
        damaged: collected.damaged.clone(),
    };
    Ok((contents, collected))
}

fn to_file(path: &Path, contents: &Contents, collected: &Collected) -> Result<(), CliError> {
    let file = AtomicFile::create(path, Mode::Private).or_exit(ExitKind::Storage)?;
    let out = std::io::BufWriter::new(file);
    let out = archive::write(out, contents, |member| collected.open(member)).map_err(changed)?;
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).or_exit(ExitKind::Storage)?;
    file.commit().or_exit(ExitKind::Storage)
}

fn to_stdout(contents: &Contents, collected: &Collected) -> Result<(), CliError> {
    let out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut out = archive::write(out, contents, |member| collected.open(member)).map_err(changed)?;
    out.flush().or_exit(ExitKind::Storage)
}

fn changed(error: ArchiveError) -> CliError {
    let hint = match &error {
        ArchiveError::Member { .. } => "a file changed while it was read: make the backup again",
        ArchiveError::Io { .. }
        | ArchiveError::Place { .. }
        | ArchiveError::NotABackup(_)
        | ArchiveError::Newer { .. } => "is there room for the backup? nothing was left behind",
    };
    CliError::new(ExitKind::Storage, error).hint(hint)
}
