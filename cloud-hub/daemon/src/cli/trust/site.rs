//! The hub whose trust is changed: a running one over its API, or the folder of a stopped one on this machine.

use std::path::PathBuf;

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use hub_cli::{Client, Context};
use jiff::Timestamp;
use store::StateLock;
use tokio::runtime::Runtime;

use crate::api::endpoints::{ChangeTrust, MakeOnlineKeys, ReadMetadata, ShowTrust};
use crate::api::trust::{OnlineKeysView, TrustChange, TrustChanged, TrustView};
use crate::app::registry::metadata::{Metadata, MetadataError, MetadataName};
use crate::cli::locate::own_hub;
use crate::storage::folder::Folder;
use crate::storage::trust_view::read_view;

/// Arguments that name a hub.
#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    /// Config of a stopped hub on this machine, instead of asking a running one; needs no operator token.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The operator's context file, as `cloud-hub init` wrote it [default: ~/.config/sanderling/operator.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_OPERATOR")]
    context: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl SiteArgs {
    /// Opens the hub, running or stopped.
    pub(super) fn open(&self) -> Result<Site, CliError> {
        let Some(config) = &self.config else {
            return Ok(Site::Api(Box::new(Client::new(Context::load(self.context.as_deref(), own_hub)?)?)));
        };
        let config = crate::cli::config::read(config)?;
        let folder = Folder::new(&config.hub.state_dir);
        if !folder.metadata().is_dir() {
            let problem = format!("there is no hub in {}", folder.root().display());
            return Err(CliError::new(ExitKind::NotFound, problem).hint("correct hub.state_dir in the config file"));
        }
        let lock = folder.lock().map_err(|error| {
            let kind = if error.is_held() { ExitKind::Conflict } else { ExitKind::Storage };
            CliError::new(kind, error).hint("the hub runs: leave out --config to ask it over its API")
        })?;
        let metadata = Metadata::open(folder).map_err(explain)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().or_exit(ExitKind::Failed)?;
        Ok(Site::Folder { metadata: Box::new(metadata), runtime: Box::new(runtime), _lock: lock })
    }

    /// Form of the output.
    pub(super) fn output(&self) -> Output {
        Output::from_json_flag(self.json)
    }
}

/// A hub whose trust is changed, running or stopped.
pub(in crate::cli) enum Site {
    /// A running hub, through its API.
    Api(Box<Client>),
    /// The folder of a stopped one.
    Folder {
        metadata: Box<Metadata>,
        runtime: Box<Runtime>,
        /// Held until the change is made.
        _lock: StateLock,
    },
}

impl Site {
    /// Reads a metadata file by name.
    pub(super) fn file(&self, name: &str) -> Result<Vec<u8>, CliError> {
        match self {
            Self::Api(client) => client.read::<ReadMetadata>(&name.to_owned()),
            Self::Folder { metadata, .. } => {
                let parsed: MetadataName = name.parse().or_exit(ExitKind::Usage)?;
                let bytes = metadata.get(&parsed).map_err(explain)?;
                let missing = || CliError::new(ExitKind::NotFound, format!("the hub has no metadata {name}"));
                Ok(bytes.ok_or_else(missing)?.to_vec())
            }
        }
    }

    /// Reads who may sign what and until when.
    pub(super) fn view(&self) -> Result<TrustView, CliError> {
        match self {
            Self::Api(client) => client.get::<ShowTrust>(&()),
            Self::Folder { metadata, .. } => read_view(metadata, Vec::new(), Timestamp::now()).map_err(explain),
        }
    }

    /// Has the hub make the online keys that the next root names.
    pub(super) fn next_online_keys(&self) -> Result<OnlineKeysView, CliError> {
        match self {
            Self::Api(client) => client.get::<MakeOnlineKeys>(&()),
            Self::Folder { metadata, .. } => Ok(metadata.next_online_keys().map_err(explain)?.into()),
        }
    }

    /// Publishes a change of trust.
    pub(super) fn change(&self, change: &TrustChange) -> Result<TrustChanged, CliError> {
        match self {
            Self::Api(client) => client.send::<ChangeTrust>(&(), change),
            Self::Folder { metadata, runtime, .. } => {
                let (root, targets) = (change.root.as_deref(), change.targets.as_deref());
                let changing = metadata.change(root.map(str::as_bytes), targets.map(str::as_bytes), Timestamp::now());
                runtime.block_on(changing).map(TrustChanged::from).map_err(explain)
            }
        }
    }
}

fn explain(error: MetadataError) -> CliError {
    let kind = match &error {
        MetadataError::NotNext(_) | MetadataError::ForeignOnlineKeys => ExitKind::Conflict,
        MetadataError::Expired { .. } | MetadataError::Refused(_) | MetadataError::Sign(_) => ExitKind::Refused,
        MetadataError::NoOnlineKeys(_) => ExitKind::Refused,
        MetadataError::File(_) | MetadataError::List(_) | MetadataError::Damaged(_) => ExitKind::Storage,
    };
    let command = error.command();
    let error = CliError::new(kind, error);
    match command {
        Some(command) => error.hint(format!("run: {command}")),
        None => error,
    }
}
