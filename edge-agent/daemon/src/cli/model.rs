//! `edge-agent model`: orders of the owner on the version of a model, to the running agent.

use clap::{Args, Subcommand};
use console::{CliError, ExitKind, OrExit, Output};
use types::{ModelName, Version};

use super::Context;
use super::client::order_as_owner;
use crate::control::{OrderBody, OrderTaken};

/// Decides on the version of a model on this device. The owner goes before the hub.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  edge-agent model rollback digits\n  edge-agent model pin digits 6\n  \
                        edge-agent model hold digits         the hub changes nothing until `edge-agent model resume digits`")]
pub struct ModelVerb {
    /// Agent's server; without it the agent on the configured state folder
    #[arg(long, global = true)]
    url: Option<String>,
    /// Order to give
    #[command(subcommand)]
    order: Order,
}

/// Orders of the owner.
#[derive(Debug, Subcommand)]
enum Order {
    /// Leaves the version that serves and serves the one before it; offers of the fleet do not bring it back
    #[command(after_help = "Example: edge-agent model rollback digits")]
    Rollback {
        /// Name of the model
        model: ModelName,
    },
    /// Serves one version until it is unpinned, fetching it where it is not on the device
    #[command(after_help = "Example: edge-agent model pin digits 6")]
    Pin {
        /// Name of the model
        model: ModelName,
        /// Version to serve; the hub must still list it as signed
        #[arg(id = "number", value_name = "VERSION")]
        version: Version,
    },
    /// Ends a pin: offers of the hub are taken again
    #[command(after_help = "Example: edge-agent model unpin digits")]
    Unpin {
        /// Name of the model
        model: ModelName,
    },
    /// Keeps the version that serves, whatever the hub wants
    #[command(after_help = "Example: edge-agent model hold digits")]
    Hold {
        /// Name of the model
        model: ModelName,
    },
    /// Ends a hold: offers of the hub are taken again
    #[command(after_help = "Example: edge-agent model resume digits")]
    Resume {
        /// Name of the model
        model: ModelName,
    },
}

impl ModelVerb {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let (model, order) = match self.order {
            Order::Rollback { model } => (model, OrderBody::Rollback),
            Order::Pin { model, version } => (model, OrderBody::Pin { version }),
            Order::Unpin { model } => (model, OrderBody::Unpin),
            Order::Hold { model } => (model, OrderBody::Hold),
            Order::Resume { model } => (model, OrderBody::Resume),
        };
        let path = format!("/sanderling/v1/models/{model}/order");
        let taken: OrderTaken = order_as_owner(self.url.as_deref(), context, &path, &order)?;
        match context.output {
            Output::Json => console::print_json(&taken).or_exit(ExitKind::Storage),
            Output::Table => console::print_line(&telemetry::escape_control(&taken.effect)).or_exit(ExitKind::Storage),
        }
    }
}
