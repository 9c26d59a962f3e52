//! The operator's verbs that speak to the admin API only, and the client of that API.
//!
//! Used by the program `cloud-hub`, which adds the verbs that work on a hub's own files. Deliberately absent: the hub itself;
//! its config and state folder are reached through [`Locate`].

pub mod audit;
pub mod calibration;
pub mod client;
pub mod context;
pub mod device;
pub mod model;
pub mod rollout;
pub mod show;
pub mod status;
pub mod token;

use std::path::{Path, PathBuf};

use clap::Args;
use console::{CliError, Output};

pub use client::Client;
pub use context::Context;

/// Function that, on the hub's own machine, waits for a hub that is starting and sets the port that it has bound. It gets
/// the path of the context file.
pub type Locate = fn(&Path, &mut Context) -> Result<(), CliError>;

/// Options of every verb that speaks to a hub.
#[derive(Debug, Args)]
pub struct Operate {
    /// The operator's context file, as `cloud-hub init` wrote it [default: ~/.config/sanderling/operator.toml, or on the
    /// hub's machine /etc/sanderling/operator.toml].
    #[arg(long, value_name = "FILE", env = "SANDERLING_OPERATOR")]
    context: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Operate {
    /// Creates a client for the hub of the context file.
    ///
    /// # Errors
    /// When there is no context, or it is malformed.
    pub fn client(&self, locate: Locate) -> Result<Client, CliError> {
        Client::new(Context::load(self.context.as_deref(), locate)?)
    }

    /// Returns the form of the output.
    #[must_use]
    pub fn output(&self) -> Output {
        Output::from_json_flag(self.json)
    }
}
