//! Shows keys, thresholds and expiry: `cloud-hub trust status`.

use clap::Args;
use console::CliError;

use super::site::SiteArgs;
use crate::api::trust::TrustView;
use crate::clock;

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    site: SiteArgs,
}

pub(super) fn run(args: &StatusArgs) -> Result<(), CliError> {
    let view = args.site.open()?.view()?;
    Ok(args.site.output().print(&view, page)?)
}

fn page(view: &TrustView) -> String {
    let rows = view.roles.iter().map(|role| {
        let keys: Vec<String> = role.keys.iter().map(|key| key.chars().take(12).collect()).collect();
        [
            role.role.clone(),
            role.version.to_string(),
            clock::utc(role.expires_unix_ms),
            role.days_left.to_string(),
            format!("{} of {}", role.threshold, role.keys.len()),
            keys.join(" "),
            role.renewed_by.clone(),
            role.todo.clone().unwrap_or_else(|| "nothing".to_owned()),
        ]
    });
    let table = console::render_table(
        ["role", "version", "expires", "days left", "signers", "keys", "renewed by", "to do"],
        rows,
    );
    let mut lines = vec![table];
    if view.publishing_stopped {
        lines.push("\nNothing can be published until this is mended; devices go on answering.".to_owned());
    }
    if let Some(next) = &view.next_online_keys {
        lines.push(format!(
            "\nNew online keys wait for a root that names them: snapshot {}, timestamp {}",
            next.snapshot, next.timestamp
        ));
    }
    lines.extend(view.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}
