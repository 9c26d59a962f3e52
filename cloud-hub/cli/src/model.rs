//! `cloud-hub model list | status | figures | offer | assign | gc`.

use clap::Args;
use console::CliError;
use hub_api::endpoint::NoBody;
use hub_api::endpoints::{AssignModel, CollectGarbage, ListModels, OfferVersion, ShowFigures, ShowModel};
use hub_api::{
    AssignRequest, FilesView, Garbage, GarbageRequest, ModelFigures, ModelList, ModelView, OfferRequest, PAGE_MAX,
    PageQuery, UnheldView, VariantFiguresView,
};
use service::clock;
use types::{ModelName, Version};

use crate::{Locate, Operate, show};

/// Arguments of `cloud-hub model list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub model status` and `model figures`.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// Name of the model.
    model: ModelName,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub model offer`.
#[derive(Debug, Args)]
pub struct OfferArgs {
    /// Name of the model.
    model: ModelName,
    /// Number of the version.
    version: Version,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub model gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Count the files without removing them.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Arguments of `cloud-hub model assign`.
#[derive(Debug, Args)]
pub struct AssignArgs {
    /// Name of the model.
    model: ModelName,
    /// Devices that follow the model: `all`, or a filter like `site=berlin`.
    #[arg(long, value_name = "FILTER", required_unless_present = "none")]
    filter: Option<String>,
    /// End the assignment.
    #[arg(long, conflicts_with = "filter")]
    none: bool,
    #[command(flatten)]
    operate: Operate,
}

/// Lets devices follow a model beside those of their own configuration.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn assign(args: &AssignArgs, locate: Locate) -> Result<(), CliError> {
    let request = AssignRequest { to: args.filter.clone() };
    let assigned = args.operate.client(locate)?.send::<AssignModel>(&args.model, &request)?;
    Ok(args.operate.output().print(&assigned, |done| {
        let warnings: String = done.warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
        let told = format!("{} connected devices were told", done.told);
        match &done.to {
            Some(to) => format!("{} is assigned to {to}: {} devices now; {told}{warnings}", done.model, done.devices),
            None => format!("{} is assigned to no device; {told}{warnings}", done.model),
        }
    })?)
}

/// Lists all models, page by page.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn list(args: &ListArgs, locate: Locate) -> Result<(), CliError> {
    let client = args.operate.client(locate)?;
    let mut list = ModelList { models: Vec::new(), next: None };
    loop {
        let query = PageQuery { limit: Some(PAGE_MAX), after: list.next.take() };
        let page = client.call::<ListModels>(&(), &query, &NoBody {})?;
        list.models.extend(page.models);
        list.next = page.next;
        if list.next.is_none() {
            break;
        }
    }
    Ok(args.operate.output().print(&list, table)?)
}

/// Shows one model.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn status(args: &OneArgs, locate: Locate) -> Result<(), CliError> {
    let view = args.operate.client(locate)?.get::<ShowModel>(&args.model)?;
    Ok(args.operate.output().print(&view, page)?)
}

/// Shows what devices count and measure of one model's versions.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn figures(args: &OneArgs, locate: Locate) -> Result<(), CliError> {
    let figures = args.operate.client(locate)?.get::<ShowFigures>(&args.model)?;
    Ok(args.operate.output().print(&figures, figures_page)?)
}

/// Offers a version to devices.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn offer(args: &OfferArgs, locate: Locate) -> Result<(), CliError> {
    let request = OfferRequest { version: args.version };
    let offered = args.operate.client(locate)?.send::<OfferVersion>(&args.model, &request)?;
    Ok(args.operate.output().print(&offered, |done| {
        format!("{}/{} is offered; {} connected devices were told", done.model, done.version, done.devices_told)
    })?)
}

/// Removes files that nothing needs.
///
/// # Errors
/// When the hub does not answer, or refuses.
pub fn gc(args: &GcArgs, locate: Locate) -> Result<(), CliError> {
    let request = GarbageRequest { dry_run: args.dry_run };
    let garbage = args.operate.client(locate)?.send::<CollectGarbage>(&(), &request)?;
    Ok(args.operate.output().print(&garbage, garbage_page)?)
}

fn garbage_page(garbage: &Garbage) -> String {
    let done = if garbage.dry_run { "would be removed" } else { "removed" };
    let line = |what: &str, files: &FilesView| format!("{} {what} of {} bytes {done}", files.files, files.bytes);
    let mut lines = vec![line("files of failed pushes", &garbage.orphans), line("deltas", &garbage.deltas)];
    for unheld in &garbage.versions {
        let UnheldView { model, version, files } = unheld;
        lines.push(format!(
            "no device holds {model}/{version}: {} files of {} bytes; remove it: cloud-hub model delete {model} {version}",
            files.files, files.bytes
        ));
    }
    lines.join("\n")
}

fn table(list: &ModelList) -> String {
    let rows = list.models.iter().map(|view| {
        [
            view.model.to_string(),
            number(view.latest),
            number(view.offered),
            view.versions.len().to_string(),
            view.devices.len().to_string(),
        ]
    });
    console::render_table(["model", "latest", "offered", "versions", "devices"], rows)
}

fn number(version: Option<Version>) -> String {
    version.map_or_else(|| "-".to_owned(), |version| version.to_string())
}

fn page(view: &ModelView) -> String {
    let versions = view.versions.iter().map(|version| {
        let state = match (Some(version.version) == view.offered, version.held) {
            (true, _) => "offered",
            (false, true) => "held",
            // A rollout or a pin brings it to some devices.
            (false, false) if view.offered.is_none_or(|offered| version.version > offered) => "released",
            (false, false) => "past",
        };
        [
            version.version.to_string(),
            state.to_owned(),
            clock::utc(version.published_unix_ms),
            show::yes(version.loaded),
            version.variants.join(", "),
            show::short(&version.manifest),
        ]
    });
    let versions =
        console::render_table(["version", "state", "published", "loaded here", "variants", "manifest"], versions);
    let deltas = view.versions.iter().flat_map(|version| {
        version.deltas.iter().map(|delta| {
            [
                version.version.to_string(),
                delta.from.map_or_else(|| "any".to_owned(), |from| from.to_string()),
                delta.variant.clone(),
                delta.file.clone(),
                delta.bytes.to_string(),
                format!("{} %", delta.bytes.saturating_mul(100).checked_div(delta.of_bytes).unwrap_or(100)),
            ]
        })
    });
    let deltas = deltas.collect::<Vec<_>>();
    let devices = view.devices.iter().map(|device| {
        [
            device.device.to_string(),
            (if device.connected { "connected" } else { "away" }).to_owned(),
            show::form(device.active.as_ref()),
            show::running(device.running.as_ref()),
            show::report(device.report.as_ref()),
        ]
    });
    let devices = console::render_table(["device", "state", "active", "runs with", "last report"], devices);
    let mut lines = vec![versions, String::new(), devices];
    if !deltas.is_empty() {
        let headers = ["delta to", "from", "variant", "file", "bytes", "of the file"];
        lines.extend([String::new(), console::render_table(headers, deltas)]);
    }
    let total: u64 = view.answered.iter().map(|count| count.requests).sum();
    if total > 0 {
        let reasons: Vec<String> = view
            .answered
            .iter()
            .map(|count| format!("{} {} ({:.1} %)", count.requests, count.reason, count.share_percent))
            .collect();
        let requests = if total == 1 { "request" } else { "requests" };
        let reasons = reasons.join(", ");
        lines.push(format!("\n{total} {requests} of devices answered here since the hub started: {reasons}"));
    }
    if !view.figures.is_empty() {
        lines.push(format!("\nOver the last day, as devices count:\n{}", show::figures(&view.figures)));
    }
    let offered = number(view.offered);
    lines.extend(view.warnings.iter().map(|warning| format!("\nwarning: version {offered}: {warning}")));
    lines.join("\n")
}

fn figures_page(figures: &ModelFigures) -> String {
    let mut lines = vec![show::figures(&figures.versions)];
    let form = |figures: &VariantFiguresView| {
        format!("{} {} on {}: p95 {:.1} ms", figures.version, figures.variant, figures.engine, figures.p95_ms)
    };
    let measured = figures.measured.iter().flat_map(|measured| {
        let active = measured.active.as_ref().map_or_else(|| "-".to_owned(), form);
        measured.variants.iter().enumerate().map(move |(at, variant)| {
            let chosen = if at == 0 && variant.refused.is_none() { "chosen" } else { "-" };
            [
                measured.device.to_string(),
                form(variant),
                chosen.to_owned(),
                active.clone(),
                format!("{} of {}", variant.agreed, variant.compared),
                variant.refused.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
    });
    let measured: Vec<[String; 6]> = measured.collect();
    if !measured.is_empty() {
        let header = ["device", "measured before the switch", "choice", "beside", "same answers", "refused"];
        lines.push(format!("\n{}", console::render_table(header, measured.into_iter())));
    }
    lines.join("\n")
}
