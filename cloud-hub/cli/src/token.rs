//! `cloud-hub token create`: lets one device join.

use clap::{Args, Subcommand};
use console::{CliError, ExitKind};
use types::DeviceId;

use hub_api::endpoints::CreateToken;
use hub_api::{TOKEN_TTL_S_MAX, TokenCreated, TokenRequest};
use service::clock;

use crate::{Locate, Operate, show};

/// Verbs of `cloud-hub token`.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a join token: one device may enrol with it, once, within its life.
    #[command(after_help = "\
Examples:
  cloud-hub token create --name kitchen
  cloud-hub token create --ttl 10m --json

The token carries the hub's address and the fingerprint of its CA, and a secret: hand it over like a password.")]
    Create(CreateArgs),
}

/// Arguments of `cloud-hub token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the device that will join; without it the hub makes one up.
    #[arg(long, value_name = "DEVICE")]
    name: Option<DeviceId>,
    /// Life of the token, at most 1h.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = show::parse_duration)]
    ttl: std::time::Duration,
    /// Let a device that is on record enrol again under its name; its old certificate is then invalid.
    #[arg(long, requires = "name")]
    replace: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Runs a verb and prints its result.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn run(verb: &TokenVerb, locate: Locate) -> Result<(), CliError> {
    let TokenVerb::Create(args) = verb;
    let ttl_s = args.ttl.as_secs();
    if !(1..=TOKEN_TTL_S_MAX).contains(&ttl_s) {
        return Err(CliError::new(ExitKind::Usage, "a join token is good for 1s to 1h").hint("use --ttl 1h or less"));
    }
    let request = TokenRequest { device: args.name.clone(), replace: args.replace, ttl_s: Some(ttl_s) };
    let created = args.operate.client(locate)?.send::<CreateToken>(&(), &request)?;
    for warning in &created.warnings {
        console::warn(warning);
    }
    Ok(args.operate.output().print(&created, told)?)
}

fn told(created: &TokenCreated) -> String {
    format!(
        "device   {}\nexpires  {}\n\nOn the device, once:\n\n  edge-agent enroll {}\n",
        created.device,
        clock::utc(created.expires_unix_ms),
        created.token
    )
}
