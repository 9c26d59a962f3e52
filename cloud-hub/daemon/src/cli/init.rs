//! `cloud-hub init`: everything a new hub needs, and the keys that must not stay on it.

mod places;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use console::{CliError, ExitKind, OrExit};
use hub_cli::Context;
use jiff::Timestamp;
use model_tools::sign::{InitialKeys, Passphrase, init_repository};
use serde::Serialize;
use store::files::{self, FileError, Mode};
use store::{SledStore, Store};
use transport::Ca;
use types::{Digest, host};

use super::trust::keys::NewPassphrase;
use crate::api::Role;
use crate::app::operators::{Caller, Operators};
use crate::app::registry::metadata::{SNAPSHOT_KEY, TIMESTAMP_KEY};
use crate::config::HubConfig;
use crate::config::reach;
use crate::storage::folder::Folder;

use places::Places;
pub(super) use places::{CONFIG_FILE, OPERATOR_FILE};

/// File names in the folder of offline keys.
const ROOT_KEY: &str = "root.key";
const TARGETS_KEY: &str = "targets.key";
/// The root the keys were made with, so that a push can tell a foreign hub.
pub(super) const ROOT_JSON: &str = "root.json";

/// Life of the first operator token, in days. A new one: `cloud-hub operator create`.
const FIRST_OPERATOR_DAYS: u32 = 365;

const KEYS_README: &str = "\
OFFLINE KEYS of a Sanderling hub. TAKE THIS FOLDER AWAY FROM THE HUB'S MACHINE.

root.key     says which keys count. Needed once a year and after a break-in. Keep it in a safe, with a copy.
targets.key  signs model versions: `cloud-hub model push DIR --keys THIS_FOLDER`. Keep it where models are released.
*.pub        public: the other halves of these keys.
root.json    public: the trust root these keys belong to.

Once a year, before the date that `cloud-hub trust status` shows: `cloud-hub trust renew --keys THIS_FOLDER`.

Whoever has the hub but not these keys can hold updates back, and nothing more.
Whoever has targets.key can make every device install a model. Whoever loses both starts over: every device enrols anew.
";

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("place").required(true).args(["dir", "system"]))]
#[command(after_help = "\
Examples:
  cloud-hub init --dir hub --keys offline-keys --name hub.example
  sudo cloud-hub init --system --keys /media/usb/keys --name hub.example

With --system it fills in the config that the installed service reads (/etc/sanderling/hub.toml), makes the hub in the
hub.state_dir of that config, for the user of the service, and writes operator.toml beside the config, for root.
Afterwards take the folder of keys away; the hub never needs it.")]
pub(super) struct InitArgs {
    /// Folder of the new hub: its state, hub.toml and operator.toml. Must be absent or empty.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Make the hub of the installed service, with its config in /etc/sanderling, in place of --dir.
    #[arg(long)]
    system: bool,
    /// Folder for the offline keys, outside the hub's folder. Must be absent or empty.
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Host name or IP address by which devices reach the hub, for its certificate and for join tokens. Repeat it for
    /// further names; devices check the first.
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// Address that devices dial, if it is not the name with the port of --listen.
    #[arg(long, value_name = "HOST:PORT")]
    public: Vec<String>,
    /// UDP address for devices; port 0 takes a free one [default: 0.0.0.0:4433].
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// TCP address for operators; port 0 takes a free one [default: 127.0.0.1:8443].
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<SocketAddr>,
    /// TCP address for Prometheus; port 0 takes a free one [default: 127.0.0.1:9002].
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    passphrase: NewPassphrase,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Result of the verb, for `--json`.
#[derive(Debug, Serialize)]
struct Made {
    config: PathBuf,
    state_dir: PathBuf,
    operator: PathBuf,
    keys: PathBuf,
    ca: Digest,
    /// Addresses that no device can reach.
    warnings: Vec<String>,
    #[serde(skip)]
    is_system: bool,
}

pub(super) fn run(args: &InitArgs) -> Result<(), CliError> {
    check(args)?;
    let places = Places::plan(args)?;
    check_folders(args, &places)?;
    let passphrase = args.passphrase.read("the offline keys")?;
    let was_there = [&places.state, &args.keys].map(|folder| folder.exists());
    let made = make(args, &places, passphrase.as_ref()).inspect_err(|_error| {
        // Both were absent or empty: nothing but our own half-made files is taken away.
        for (folder, was_there) in [&places.state, &args.keys].into_iter().zip(was_there) {
            undo(folder, was_there);
        }
        if places.is_system {
            drop(std::fs::remove_file(&places.operator));
        }
    });
    let hint = "is there room on the disk, and may this user write there? nothing was left behind";
    let made = made.map_err(|error| match error.kind {
        ExitKind::Storage if error.hint.is_none() => error.hint(hint),
        _ => error,
    })?;
    for warning in &made.warnings {
        console::warn(warning);
    }
    console::Output::from_json_flag(args.json).print(&made, told)?;
    Ok(())
}

fn told(made: &Made) -> String {
    let (config, operator) = (made.config.display(), made.operator.display());
    let is_packaged = made.is_system && made.config.starts_with("/etc");
    let start = match is_packaged {
        true => "sudo systemctl enable --now sanderling-hub".to_owned(),
        false => format!("cloud-hub serve --config {config}"),
    };
    let (operate, sudo) = match is_packaged {
        true => (format!("sudo cloud-hub status, or elsewhere with a copy of {operator}"), "sudo "),
        false => (format!("export SANDERLING_OPERATOR={operator}"), ""),
    };
    format!(
        "The hub is made. CA {ca}\n\n\
         1. Take this folder away, it must not stay on the hub: {keys}\n\
         2. Start the hub:            {start}\n\
         3. Operate it:               {operate}\n\
         4. Let a device join:        {sudo}cloud-hub token create --name kitchen",
        ca = made.ca,
        keys = made.keys.display(),
    )
}

/// Checks what the command line says by itself.
fn check(args: &InitArgs) -> Result<(), CliError> {
    if let Some(name) = args.name.iter().find(|name| !host::is_host(name)) {
        let problem = format!("--name {name:?} is neither a host name nor an IP address");
        return Err(
            CliError::new(ExitKind::Usage, problem).hint("write it without a port, like hub.example or 192.0.2.7")
        );
    }
    if let Some(address) = args.public.iter().find(|address| host::port(address).is_none()) {
        let problem = format!("--public {address:?} is not host:port");
        return Err(CliError::new(ExitKind::Usage, problem).hint("write it like hub.example:4433"));
    }
    Ok(())
}

fn check_folders(args: &InitArgs, places: &Places) -> Result<(), CliError> {
    let absolute = |path: &Path| std::path::absolute(path).or_exit(ExitKind::Usage);
    if absolute(&args.keys)?.starts_with(absolute(&places.state)?) {
        return Err(CliError::new(ExitKind::Usage, "the offline keys must not be in the hub's own folder")
            .hint("give --keys a folder that you can take away, like /media/usb/keys"));
    }
    for folder in [&places.state, &args.keys] {
        let occupied =
            folder.exists() && std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_some());
        if occupied {
            let problem = format!("{} is there already and not empty", folder.display());
            return Err(CliError::new(ExitKind::Conflict, problem)
                .hint("name a new folder: a hub and its keys are never overwritten"));
        }
    }
    Ok(())
}

fn make(args: &InitArgs, places: &Places, passphrase: Option<&Passphrase>) -> Result<Made, CliError> {
    let folder = Folder::new(&places.state);
    let storage = |error: FileError| CliError::new(ExitKind::Storage, error);
    places.make_folders()?;
    for made in [&args.keys, &folder.blobs(), &folder.online_keys(), &folder.metadata()] {
        files::create_dir(made).map_err(storage)?;
    }
    let ca = make_ca(&places.config, &folder)?;
    make_trust(args, &folder, passphrase)?;
    let created = with_store(&folder, async |store| {
        let operators = Operators::new(store);
        operators.create(&Caller::machine(), "init", Role::Admin, FIRST_OPERATOR_DAYS, crate::clock::unix_ms()).await
    })?;
    let context = Context { url: admin_url(&places.config), token: created.token, ca: ca.cert_pem() };
    context.write(&places.operator).map_err(storage)?;
    files::write_atomic(&places.config_file, places.config_text.as_bytes(), Mode::Shared).map_err(storage)?;
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_else(|_unknown| path.to_owned());
    Ok(Made {
        config: shown(&places.config_file),
        state_dir: shown(&places.state),
        operator: shown(&places.operator),
        keys: shown(&args.keys),
        ca: ca.fingerprint(),
        warnings: reach::unreachable(&places.config, places.config.gateway.listen.port()),
        is_system: places.is_system,
    })
}

fn make_ca(config: &HubConfig, folder: &Folder) -> Result<Ca, CliError> {
    let ca = Ca::create(&format!("Sanderling hub {}", config.server_name()))?;
    // A name that no certificate can hold must be found now, not at the first start.
    ca.issue_server(&config.hub.names, transport::Validity::from_now(std::time::Duration::from_secs(1)))
        .map(drop)
        .or_else(|error| if config.hub.names.is_empty() { Ok(()) } else { Err(error) })
        .or_exit(ExitKind::Usage)?;
    let parent = folder.ca_key();
    let parent = parent.parent().unwrap_or(folder.root());
    files::create_dir(parent).or_exit(ExitKind::Storage)?;
    files::write_atomic(&folder.ca_key(), ca.key_pem().as_bytes(), Mode::Private).or_exit(ExitKind::Storage)?;
    files::write_atomic(&folder.ca_certificate(), ca.cert_pem().as_bytes(), Mode::Shared).or_exit(ExitKind::Storage)?;
    Ok(ca)
}

/// Makes the four keys, puts each where it belongs, and signs the empty list of versions.
fn make_trust(args: &InitArgs, folder: &Folder, passphrase: Option<&Passphrase>) -> Result<(), CliError> {
    let keys = InitialKeys::generate()?;
    let repository = init_repository(&keys, Timestamp::now())?;
    for (key, name) in [(&keys.root, ROOT_KEY), (&keys.targets, TARGETS_KEY)] {
        super::trust::keys::save(key, &args.keys.join(name), passphrase)?;
    }
    for (key, path) in [
        (&keys.online.snapshot, folder.online_keys().join(SNAPSHOT_KEY)),
        (&keys.online.timestamp, folder.online_keys().join(TIMESTAMP_KEY)),
    ] {
        key.save(&path).or_exit(ExitKind::Storage)?;
    }
    for file in repository.files() {
        let path = folder.metadata().join(file.file_name());
        files::write_atomic(&path, &file.bytes, Mode::Shared).or_exit(ExitKind::Storage)?;
    }
    let write = |name: &str, bytes: &[u8]| {
        files::write_atomic(&args.keys.join(name), bytes, Mode::Shared).or_exit(ExitKind::Storage)
    };
    write(ROOT_JSON, &repository.root.bytes)?;
    write("README.txt", KEYS_README.as_bytes())
}

/// Takes back what was made in a folder that was absent or empty before.
pub(super) fn undo(folder: &Path, was_there: bool) {
    let taken = if was_there {
        std::fs::read_dir(folder).and_then(|entries| {
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir_all(entry.path())?;
                } else {
                    std::fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        })
    } else {
        std::fs::remove_dir_all(folder)
    };
    // The error that led here is the one to show; the next `init` names the folder if it is still in the way.
    drop(taken);
}

/// Does one thing with the store of a hub that is not running.
pub(super) fn with_store<T, E>(
    folder: &Folder,
    work: impl AsyncFnOnce(Arc<dyn Store>) -> Result<T, E>,
) -> Result<T, CliError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let _lock = folder.lock().map_err(|error| {
        let (kind, hint) = match error.is_held() {
            true => (ExitKind::Conflict, "stop the hub first, or ask it over its API"),
            false => (ExitKind::Storage, super::machine::AS_ITS_USER),
        };
        CliError::new(kind, error).hint(hint)
    })?;
    let (store, _state) = SledStore::open(&folder.store()).or_exit(ExitKind::Storage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(ExitKind::Failed)?;
    let done = runtime.block_on(work(Arc::new(store))).or_exit(ExitKind::Storage);
    // With `sudo` the store's files are root's by now, and the hub would not open them.
    store::owner::give_to_owner(folder.root()).or_exit(ExitKind::Storage)?;
    done
}

/// Returns the URL at which operators reach a hub with this config.
pub(super) fn admin_url(config: &HubConfig) -> String {
    let listen = config.admin.listen;
    let host = if listen.ip().is_unspecified() { config.server_name().to_owned() } else { ip(listen) };
    format!("https://{host}:{}", listen.port())
}

fn ip(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}
