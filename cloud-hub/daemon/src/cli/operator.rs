//! `cloud-hub operator create`: lets one more person, or a job, operate the hub; also the way back in after a token expired.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use console::{CliError, ExitKind, OrExit};

use super::Context;
use crate::api::{OperatorCreated, OperatorRequest};
use crate::operators::Operators;
use crate::state::Folder;

#[derive(Debug, Subcommand)]
pub(super) enum OperatorVerb {
    /// Make a new operator token and write it into a context file.
    #[command(after_help = "\
Examples:
  cloud-hub operator create ci --ttl-days 30 --out ci-operator.toml
  cloud-hub operator create me --config /etc/sanderling/hub.toml --out ~/.config/sanderling/operator.toml

With --config it works on the stopped hub's own folder and needs no token: the way back in after one expired.")]
    Create(CreateArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Who it is for, as the hub's log will name them.
    name: String,
    /// Days it is good for.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    ttl_days: u32,
    /// The context file to write; it must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Config of the stopped hub on this machine, instead of asking a running one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Context of an operator whose token is still good [default: ~/.config/sanderling/operator.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_OPERATOR")]
    context: Option<PathBuf>,
}

pub(super) fn run(verb: &OperatorVerb) -> Result<(), CliError> {
    let OperatorVerb::Create(args) = verb;
    if args.out.exists() {
        return Err(CliError::new(ExitKind::Conflict, format!("{} exists already", args.out.display()))
            .hint("take it away, or name another file with --out"));
    }
    let context = match &args.config {
        Some(config) => create_offline(args, config)?,
        None => create_online(args)?,
    };
    context.write(&args.out).or_exit(ExitKind::Storage)?;
    console::print_line(&format!("operator {:?} may use {}", args.name, args.out.display()))?;
    Ok(())
}

fn create_online(args: &CreateArgs) -> Result<Context, CliError> {
    let own = Context::load(args.context.as_deref())?;
    let request = OperatorRequest { name: args.name.clone(), ttl_days: args.ttl_days };
    let created: OperatorCreated = super::client::Client::new(own.clone())?.post("/operators", &request)?;
    Ok(Context { token: created.token, ..own })
}

fn create_offline(args: &CreateArgs, config: &std::path::Path) -> Result<Context, CliError> {
    let config = super::config::read(config)?;
    let folder = Folder::new(&config.hub.state_dir);
    let ca = std::fs::read_to_string(folder.ca_certificate())
        .or_exit_try(ExitKind::Storage, "is state_dir right? a new hub is made with: cloud-hub init")?;
    let created = super::init::with_store(&folder, async |store| {
        Operators::new(store).create(&args.name, args.ttl_days, crate::clock::unix_ms()).await
    })?;
    Ok(Context { url: super::init::admin_url(&config), token: created.token, ca })
}
