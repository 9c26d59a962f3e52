//! `cloud-hub operator renew`: the next token of an operator, before the present one ends or after it has ended.

use std::path::{Path, PathBuf};

use clap::Args;
use console::{CliError, ExitKind, OrExit, Output};
use hub_cli::context::default_path;
use hub_cli::{Client, Context};
use serde::Serialize;

use super::machine::{self, Reached};
use crate::api::endpoints::RenewOperator;
use crate::api::{OperatorCreated, OperatorRenewal, OperatorView};
use crate::app::operators::{Caller, Operators, fingerprint};
use crate::clock;
use crate::config::HubConfig;

#[derive(Debug, Args)]
pub(super) struct RenewArgs {
    /// Name of the operator [default: the one of the context file].
    name: Option<String>,
    /// Days the new token is good for [default: as many as the present one].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
    ttl_days: Option<u32>,
    /// Write a new context file, which must not exist yet, instead of changing the one that is used.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Config of the hub on this machine, running or stopped: needs no token that is still good.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The operator's context file [default: operator.toml beside --config, or
    /// ~/.config/sanderling/operator.toml, or on the hub's machine /etc/sanderling/operator.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_OPERATOR")]
    context: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Result of the verb, for `--json`.
#[derive(Debug, Serialize)]
struct Renewed {
    operator: String,
    file: PathBuf,
    expires_unix_ms: u64,
}

pub(super) fn run(args: &RenewArgs) -> Result<(), CliError> {
    if let Some(out) = args.out.as_deref().filter(|out| out.exists()) {
        return Err(CliError::new(ExitKind::Conflict, format!("{} exists already", out.display()))
            .hint("take it away, or name another file with --out"));
    }
    let config = args.config.as_deref().map(super::config::read).transpose()?;
    let used = args.context.clone().unwrap_or_else(|| used_file(args.config.as_deref()));
    // With --config the file may be missing: then the new one goes where --out says.
    let own = match &config {
        Some(_) => Context::read(&used).ok(),
        None => Some(Context::read(&used)?),
    };
    let way = Way::find(config.as_ref(), args.context.as_deref())?;
    let known = way.list()?;
    let own_name = own.as_ref().and_then(|own| name_of(&known, &own.token));
    let name = args.name.clone().or_else(|| own_name.clone()).ok_or_else(|| nobody(&used, &known))?;
    let file = match &args.out {
        Some(out) => out.clone(),
        None if own_name.as_deref() == Some(name.as_str()) => used,
        None => return Err(not_own(&used, &name)),
    };
    let renewed = way.renew(OperatorRenewal { name: Some(name), ttl_days: args.ttl_days })?;
    let context = match (own, &config) {
        (Some(own), _) => Context { token: renewed.token, ..own },
        (None, Some(config)) => {
            let folder = crate::storage::folder::Folder::new(&config.hub.state_dir);
            Context { url: super::init::admin_url(config), token: renewed.token, ca: machine::certificate(&folder)? }
        }
        // Read above.
        (None, None) => return Err(nobody(&file, &known)),
    };
    context.write(&file).or_exit(ExitKind::Storage)?;
    let done = Renewed { operator: renewed.name, file, expires_unix_ms: renewed.expires_unix_ms };
    Ok(Output::from_json_flag(args.json).print(&done, told)?)
}

fn told(renewed: &Renewed) -> String {
    format!(
        "the token of operator {:?} is good until {} and is in {}\nother copies of the earlier token end within a day: copy the file there",
        renewed.operator,
        clock::utc(renewed.expires_unix_ms),
        renewed.file.display()
    )
}

/// Returns the context file that the verbs use: the one beside the config of the hub, else the user's own.
fn used_file(config: Option<&Path>) -> PathBuf {
    let beside = config.map(|config| config.with_file_name(super::init::OPERATOR_FILE));
    beside.filter(|beside| beside.exists()).unwrap_or_else(default_path)
}

/// Finds whose token this is.
fn name_of(known: &[OperatorView], token: &str) -> Option<String> {
    let wanted = fingerprint(token);
    let found = known.iter().find(|operator| operator.fingerprint.as_deref() == Some(wanted.as_str()));
    found.map(|operator| operator.name.clone())
}

fn nobody(used: &Path, known: &[OperatorView]) -> CliError {
    let mut names: Vec<&str> = known.iter().map(|operator| operator.name.as_str()).collect();
    names.dedup();
    let problem = format!("{} has no token of an operator of this hub", used.display());
    CliError::new(ExitKind::NotFound, problem)
        .hint(format!("name the operator and the file to write: NAME --out FILE (operators: {})", names.join(", ")))
}

fn not_own(used: &Path, name: &str) -> CliError {
    let problem = format!("{} is not the context of operator {name:?}", used.display());
    CliError::new(ExitKind::Usage, problem).hint("name the file to write with --out FILE")
}

/// Access to the records of operators.
enum Way {
    /// Over the admin API.
    Api(Box<Client>),
    /// In the store of a stopped hub.
    Store(crate::storage::folder::Folder),
}

impl Way {
    fn find(config: Option<&HubConfig>, context: Option<&Path>) -> Result<Self, CliError> {
        let Some(config) = config else {
            return Ok(Self::Api(Box::new(Client::new(Context::load(context, super::locate::own_hub)?)?)));
        };
        Ok(match machine::reach(config)? {
            Reached::Running(client) => Self::Api(client),
            Reached::Stopped(folder) => Self::Store(folder),
        })
    }

    fn list(&self) -> Result<Vec<OperatorView>, CliError> {
        match self {
            Self::Api(client) => Ok(super::operator::read_list(client)?.operators),
            Self::Store(folder) => {
                super::init::with_store(folder, async |store| Operators::new(store).list(clock::unix_ms()).await)
            }
        }
    }

    fn renew(&self, renewal: OperatorRenewal) -> Result<OperatorCreated, CliError> {
        match self {
            Self::Api(client) => client.send::<RenewOperator>(&(), &renewal),
            Self::Store(folder) => {
                let name = renewal.name.unwrap_or_default();
                super::init::with_store(folder, async |store| {
                    Operators::new(store).renew(&Caller::machine(), &name, renewal.ttl_days, clock::unix_ms()).await
                })
            }
        }
    }
}
