//! `edge-agent outbox`: the requests that wait for the hub, as their owner sees and removes them.

use clap::{Args, Subcommand};
use console::{CliError, ExitKind, OrExit, Output};
use service::{clock, units};
use types::RequestId;

use super::Context;
use super::client::order_as_owner;
use crate::outbox::http::{Listed, OUTBOX_PATH, OutboxDone, OutboxOrder};

/// Lists or removes requests that wait for the hub, and their answers.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  edge-agent outbox list\n  edge-agent outbox drop 0199c5b2-7d1e-7cc3-98c4-dc0c0c07398f"
)]
pub struct OutboxVerb {
    /// Agent's server; without it the agent on the configured state folder
    #[arg(long, global = true)]
    url: Option<String>,
    /// Order to give
    #[command(subcommand)]
    order: Order,
}

/// Orders of the owner on the outbox.
#[derive(Debug, Subcommand)]
enum Order {
    /// Lists the requests in the order of their arrival, also those that ended in the last week
    #[command(after_help = "Example: edge-agent outbox list --json")]
    List,
    /// Removes a request, or the answer to it; its client gets the state `dropped`
    #[command(after_help = "Example: edge-agent outbox drop 0199c5b2-7d1e-7cc3-98c4-dc0c0c07398f")]
    Drop {
        /// Id of the request
        id: RequestId,
    },
    /// Removes all requests and answers
    #[command(after_help = "Example: edge-agent outbox clear")]
    Clear,
}

impl OutboxVerb {
    pub(super) fn run(self, context: &Context) -> Result<(), CliError> {
        let is_list = matches!(self.order, Order::List);
        let order = match self.order {
            Order::List => OutboxOrder::List,
            Order::Drop { id } => OutboxOrder::Drop { id },
            Order::Clear => OutboxOrder::Clear,
        };
        let done: OutboxDone = order_as_owner(self.url.as_deref(), context, OUTBOX_PATH, &order)?;
        match context.output {
            Output::Json => console::print_json(&done).or_exit(ExitKind::Storage),
            Output::Table if is_list => {
                let headers = ["id", "model", "state", "priority", "class", "size", "reason", "taken", "until"];
                let table = console::render_table(headers, done.requests.iter().map(row));
                console::print_line(&table).or_exit(ExitKind::Storage)
            }
            Output::Table => console::print_line(&format!("{} removed", done.removed)).or_exit(ExitKind::Storage),
        }
    }
}

fn row(listed: &Listed) -> [String; 9] {
    let at = |unix_s: u64| clock::rfc3339(i64::try_from(unix_s).unwrap_or(i64::MAX));
    [
        telemetry::escape_control(listed.id.as_str()).into_owned(),
        listed.model.clone(),
        listed.state.clone(),
        listed.priority.clone(),
        listed.class.clone(),
        units::bytes(listed.bytes),
        listed.reason.clone(),
        at(listed.accepted_unix_s),
        at(listed.expires_unix_s),
    ]
}
