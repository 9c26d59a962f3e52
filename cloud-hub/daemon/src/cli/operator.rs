//! `cloud-hub operator`: creates, lists, renews and revokes operators; with `--config` also after every token has expired.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use console::{CliError, ExitKind, OrExit};
use hub_cli::{Client, Context};

use super::Operate;
use super::locate::own_hub;
use super::machine::{self, Reached};
use crate::api::endpoint::NoBody;
use crate::api::endpoints::{CreateOperator, ListOperators, RevokeOperator};
use crate::api::{OperatorList, OperatorRequest, OperatorRevoked, PAGE_MAX, PageQuery, Role};
use crate::app::operators::{Caller, Operators, expiry};
use crate::clock;
use crate::storage::folder::Folder;

#[derive(Debug, Subcommand)]
pub(super) enum OperatorVerb {
    /// Make a new operator with a role and write its token into a context file.
    #[command(after_help = "\
Examples:
  cloud-hub operator create ci --role releaser --ttl-days 30 --out ci-operator.toml
  cloud-hub operator create wall --role viewer --out wall-operator.toml
  cloud-hub operator create me --config /etc/sanderling/hub.toml --out ~/.config/sanderling/operator.toml

With --config it works on the hub's own machine, running or stopped, and needs no token.")]
    Create(CreateArgs),
    /// Renew an operator's token, before it ends or after
    #[command(after_help = "\
Examples:
  cloud-hub operator renew                                        # the token of the context file that is used
  cloud-hub operator renew ci --out ci-operator.toml
  sudo cloud-hub operator renew --config /etc/sanderling/hub.toml # after it has ended, on the hub's machine

Writes the new token into the context file. The earlier token goes on working for a day, so that other copies of the file
can be replaced. `operator list`, `status` and `doctor` warn from 60 days before a token ends; tokens for less than
180 days warn in the last third of their life.")]
    Renew(super::renew::RenewArgs),
    /// List operators and when each was last used
    #[command(
        after_help = "Examples:\n  cloud-hub operator list\n  cloud-hub operator list --config /etc/sanderling/hub.toml"
    )]
    List(ListArgs),
    /// Revoke every token of an operator; its next call is refused
    #[command(
        after_help = "Examples:\n  cloud-hub operator revoke ci\n  cloud-hub operator revoke ci --config /etc/sanderling/hub.toml"
    )]
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Config of the hub on this machine, running or stopped: needs no token
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    operate: Operate,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// Name of the operator, as `cloud-hub operator list` shows it
    name: String,
    /// Config of the hub on this machine, running or stopped: needs no token
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    operate: Operate,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Name of the operator, as in the hub's logs; no two operators have the same.
    name: String,
    /// Rights: viewer reads, releaser also publishes versions, operator also manages devices, admin does everything.
    #[arg(long, default_value_t = Role::Admin, value_name = "ROLE")]
    role: Role,
    /// Life of the token in days.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    ttl_days: u32,
    /// The context file to write; it must not exist yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Config of the hub on this machine, running or stopped: needs no token.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Context of an operator whose token is still good [default: ~/.config/sanderling/operator.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_OPERATOR")]
    context: Option<PathBuf>,
}

pub(super) fn run(verb: &OperatorVerb) -> Result<(), CliError> {
    match verb {
        OperatorVerb::Create(args) => create(args),
        OperatorVerb::Renew(args) => super::renew::run(args),
        OperatorVerb::List(args) => list(args),
        OperatorVerb::Revoke(args) => revoke(args),
    }
}

fn list(args: &ListArgs) -> Result<(), CliError> {
    let list = match &args.config {
        Some(config) => match machine::reach(&super::config::read(config)?)? {
            Reached::Running(client) => read_list(&client)?,
            Reached::Stopped(folder) => {
                let list = async |store| Operators::new(store).list(clock::unix_ms()).await;
                OperatorList { operators: super::init::with_store(&folder, list)?, next: None }
            }
        },
        None => read_list(&args.operate.client(own_hub)?)?,
    };
    Ok(args.operate.output().print(&list, shown)?)
}

/// Reads the whole list, page by page.
pub(super) fn read_list(client: &Client) -> Result<OperatorList, CliError> {
    let mut list = OperatorList { operators: Vec::new(), next: None };
    loop {
        let query = PageQuery { limit: Some(PAGE_MAX), after: list.next.take() };
        let page = client.call::<ListOperators>(&(), &query, &NoBody {})?;
        list.operators.extend(page.operators);
        list.next = page.next;
        if list.next.is_none() {
            return Ok(list);
        }
    }
}

fn shown(list: &OperatorList) -> String {
    let now = clock::unix_ms();
    let rows = list.operators.iter().map(|operator| {
        let used = operator.last_used_unix_ms.map_or_else(|| "never".to_owned(), |used| clock::ago(used, now));
        let left = match operator.expires_unix_ms.checked_sub(now) {
            Some(left) if left > 0 => expiry::time_left(left),
            Some(_) | None => "expired".to_owned(),
        };
        let expires = format!("{} ({left})", clock::utc(operator.expires_unix_ms));
        vec![operator.name.clone(), operator.role.to_string(), clock::utc(operator.created_unix_ms), expires, used]
    });
    let mut text = console::render_table(["OPERATOR", "ROLE", "CREATED", "EXPIRES", "LAST USED"], rows);
    for warning in list.operators.iter().filter_map(|operator| operator.warning.as_ref()) {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

fn revoke(args: &RevokeArgs) -> Result<(), CliError> {
    let revoked = match &args.config {
        Some(config) => match machine::reach(&super::config::read(config)?)? {
            Reached::Running(client) => client.get::<RevokeOperator>(&args.name)?,
            Reached::Stopped(folder) => super::init::with_store(&folder, async |store| {
                // On the hub's own machine nobody is locked out: a new operator is made without a token.
                Operators::new(store).revoke(&Caller::machine(), &args.name, clock::unix_ms()).await
            })?,
        },
        None => args.operate.client(own_hub)?.get::<RevokeOperator>(&args.name)?,
    };
    let told = |revoked: &OperatorRevoked| format!("operator {:?} is revoked, {} tokens", revoked.name, revoked.tokens);
    Ok(args.operate.output().print(&revoked, told)?)
}

fn create(args: &CreateArgs) -> Result<(), CliError> {
    if args.out.exists() {
        return Err(CliError::new(ExitKind::Conflict, format!("{} exists already", args.out.display()))
            .hint("take it away, or name another file with --out"));
    }
    let context = match &args.config {
        Some(config) => create_offline(args, config)?,
        None => create_online(args)?,
    };
    context.write(&args.out).or_exit(ExitKind::Storage)?;
    console::print_line(&format!("operator {:?} ({}) may use {}", args.name, args.role, args.out.display()))?;
    Ok(())
}

/// Returns the request for the arguments.
fn request(args: &CreateArgs) -> OperatorRequest {
    OperatorRequest { name: args.name.clone(), ttl_days: args.ttl_days, role: args.role }
}

fn create_online(args: &CreateArgs) -> Result<Context, CliError> {
    let own = Context::load(args.context.as_deref(), own_hub)?;
    let created = Client::new(own.clone())?.send::<CreateOperator>(&(), &request(args))?;
    Ok(Context { token: created.token, ..own })
}

fn create_offline(args: &CreateArgs, config: &std::path::Path) -> Result<Context, CliError> {
    let config = super::config::read(config)?;
    let ca = machine::certificate(&Folder::new(&config.hub.state_dir))?;
    let created = match machine::reach(&config)? {
        Reached::Running(client) => client.send::<CreateOperator>(&(), &request(args))?,
        Reached::Stopped(folder) => super::init::with_store(&folder, async |store| {
            let operators = Operators::new(store);
            operators.create(&Caller::machine(), &args.name, args.role, args.ttl_days, clock::unix_ms()).await
        })?,
    };
    Ok(Context { url: super::init::admin_url(&config), token: created.token, ca })
}
