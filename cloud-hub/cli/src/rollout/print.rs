//! Tables and texts of rollouts.

use hub_api::{RolloutCounts, RolloutDetail, RolloutExplanation, RolloutList, RolloutView};
use service::clock;

/// Returns the lines after the creation of a rollout.
pub(super) fn created(view: &RolloutView) -> String {
    format!(
        "rollout {} brings {}/{} to {} in waves {}\nwatch it: cloud-hub rollout show {} --watch",
        view.rollout,
        view.model,
        view.version,
        view.to,
        view.waves.join(", "),
        view.rollout
    )
}

/// Returns one line about the state of a rollout.
pub(super) fn state(view: &RolloutView) -> String {
    let reason = view.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!(
        "rollout {} of {}/{} is {}{reason}; next: {}",
        view.rollout, view.model, view.version, view.state, view.next
    )
}

/// Returns the table of all rollouts.
pub(super) fn table(list: &RolloutList) -> String {
    let rows = list.rollouts.iter().map(|view| {
        [
            view.rollout.to_string(),
            format!("{}/{}", view.model, view.version),
            view.to.clone(),
            view.state.clone(),
            wave(view),
            format!("{} of {}", view.devices.active, view.devices.cohort),
            clock::utc(view.created_unix_ms),
            view.created_by.clone(),
        ]
    });
    console::render_table(["rollout", "version", "to", "state", "wave", "active", "created", "by"], rows)
}

fn wave(view: &RolloutView) -> String {
    let text = view.wave.and_then(|wave| view.waves.get(wave.saturating_sub(1)));
    match (view.wave, text) {
        (Some(wave), Some(text)) => format!("{wave} of {} ({text})", view.waves.len()),
        _ => format!("- of {}", view.waves.len()),
    }
}

/// Returns the page of one rollout with its devices.
pub(super) fn page(detail: &RolloutDetail) -> String {
    let view = &detail.rollout;
    let mut lines = vec![
        format!(
            "rollout {} of {}/{} to {}, created by {}",
            view.rollout, view.model, view.version, view.to, view.created_by
        ),
        format!("waves: {}", view.waves.join(", ")),
        format!("state: {}, wave {}", view.state, wave(view)),
    ];
    lines.extend(view.reason.iter().map(|reason| format!("reason: {reason}")));
    lines.push(format!("next: {}", view.next));
    lines.push(format!("devices: {}", counts(&view.devices)));
    lines.push(String::new());
    let rows = detail.devices.iter().map(|device| {
        [
            device.device.to_string(),
            device.wave.to_string(),
            device.state.clone(),
            device.serves.map_or_else(|| "-".to_owned(), |version| version.to_string()),
            device.detail.clone(),
        ]
    });
    lines.push(console::render_table(["device", "wave", "state", "serves", "reason"], rows));
    if detail.devices_left_out > 0 {
        lines.push(format!("{} more devices", detail.devices_left_out));
    }
    lines.join("\n")
}

fn counts(counts: &RolloutCounts) -> String {
    let RolloutCounts { cohort, admitted, active, working, not_begun, pending, failed, silent, to_return } = *counts;
    let mut parts = vec![format!("{admitted} of {cohort} admitted"), format!("{active} active")];
    for (number, text) in [
        (working, "working"),
        (not_begun, "not begun"),
        (pending, "pending (away)"),
        (failed, "failed"),
        (silent, "silent"),
        (to_return, "to return"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {text}"));
        }
    }
    parts.join(", ")
}

/// Returns every decision with its evidence.
pub(super) fn explanation(explained: &RolloutExplanation) -> String {
    let mut lines = vec![state(&explained.rollout)];
    lines.extend(explained.device.clone());
    lines.extend(explained.now.iter().map(|line| format!("  {line}")));
    for decision in &explained.decisions {
        lines.push(format!("\n{}  {}: {}", clock::utc(decision.at_unix_ms), decision.what, decision.reason));
        lines.extend(decision.evidence.iter().map(|line| format!("  {line}")));
    }
    lines.join("\n")
}
