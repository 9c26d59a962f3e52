//! Explains the place of one request in plain words, with the figures of its record.
//!
//! Fed by `edge-agent policy explain`. Words that a later version of the agent wrote are shown as they are.

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;
use types::Reason;

use crate::records::v1::{AmendmentRecord, AuditRecord, EndRecord, FormRecord, HubRecord, RequestRecord};

/// Explanation of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Answer of the request: place, version, engine.
    pub outcome: String,
    /// Reasons for the place, in the order of the decision.
    pub because: Vec<String>,
    /// Conditions under which another place would have answered.
    pub otherwise: Vec<String>,
    /// Bytes that were sent to the hub, or that none were.
    pub left: Vec<String>,
    /// Guarantee behind the threshold.
    pub guarantee: String,
    /// Durations of the parts.
    pub times: Vec<String>,
}

/// Explains a request from its record, those of its audits, and those of its sendings from the outbox.
#[must_use]
pub fn explain(request: &RequestRecord, audits: &[AuditRecord], later: &[AmendmentRecord]) -> Explanation {
    let (because, otherwise) = match &request.end {
        EndRecord::Answered { place, reason, .. } => answered(request, place, reason),
        EndRecord::Failed { code, device, hub } => failed(request, code, device.as_deref(), hub.as_deref()),
        EndRecord::Cancelled => (vec!["The client went away before there was an answer.".to_owned()], Vec::new()),
    };
    Explanation {
        outcome: outcome(request),
        because,
        otherwise,
        left: left(request, audits, later),
        guarantee: guarantee(request),
        times: times(request),
    }
}

fn outcome(request: &RequestRecord) -> String {
    match &request.end {
        EndRecord::Answered { place, is_final, form, .. } => {
            let provisional = if *is_final { "" } else { " (provisional: a later answer replaces it)" };
            let FormRecord { version, variant, engine, provider, .. } = form;
            format!(
                "answered by the {place}{provisional}: version {version}, variant {variant}, {engine} on {provider}"
            )
        }
        EndRecord::Failed { code, .. } => format!("not answered: {code}"),
        EndRecord::Cancelled => "not answered: the client withdrew the request".to_owned(),
    }
}

type Sentences = Vec<String>;

fn answered(request: &RequestRecord, place: &str, reason: &str) -> (Sentences, Sentences) {
    let mode = &request.policy.mode;
    match (place, reason) {
        (_, "policy") => by_policy(request, place),
        (_, "confident") => {
            let (score, threshold) = scores(request);
            let because = format!("The device kept its answer: its score {score} reached the threshold {threshold}.");
            (
                vec![because],
                vec![format!("With a score below {threshold} the hub would have been asked{}.", if_online(request))],
            )
        }
        ("hub", "low-confidence") => {
            let (score, threshold) = scores(request);
            let because = format!(
                "The device's answer has the score {score}, below the threshold {threshold}: policy {mode} asked the hub."
            );
            let otherwise = format!(
                "With a score of at least {threshold}, or with the policy prefer-device or only-device, the device's answer \
                 would have been given."
            );
            (vec![because], vec![otherwise])
        }
        ("hub", "not-calibrated") => {
            let because =
                format!("The device's variant has no threshold, so policy {mode} leaves every answer to the hub.");
            let otherwise = "With a threshold in the manifest (`cloud-hub model calibrate`), or with the policy prefer-device, the \
                             device could have answered.";
            (vec![because], vec![otherwise.to_owned()])
        }
        ("hub", "no-score") => {
            let because = "The device's answer has no score (a NaN, no classes, or no rule for scores in the manifest), so \
                           the hub was asked.";
            (
                vec![because.to_owned()],
                vec!["With a score at or above the threshold the device would have answered.".to_owned()],
            )
        }
        ("hub", "hedged") => {
            let delay = request.policy.hedge_us.map_or_else(|| "the hedge delay".to_owned(), time);
            let because =
                format!("The device had not answered after {delay}, so the hub was asked too, and it was first.");
            let otherwise = format!("With an answer of the device within {delay} the hub would not have been asked.");
            (vec![because], vec![otherwise])
        }
        ("hub", "no-local-model") => (
            vec!["No version of the model was ready on the device.".to_owned()],
            vec![
                "With a version that runs on the device (`edge-agent status`) it would have been asked first."
                    .to_owned(),
            ],
        ),
        ("hub", "device-busy") => (
            vec!["The queue of the device's session was full.".to_owned()],
            vec!["With fewer requests at once, or a longer engine.queue, the device would have run it.".to_owned()],
        ),
        ("hub", "device-failed") => {
            let why = request.device.as_ref().and_then(|device| device.failure.as_deref()).unwrap_or("failed");
            (
                vec![format!("The device had no answer: {}.", device_failure(why))],
                vec!["Without that failure the device's answer would have been judged first.".to_owned()],
            )
        }
        (_, "hub-unreachable" | "hub-failed" | "hub-too-late") => without_hub(request, reason),
        (place, code) => match Reason::ALL.into_iter().find(|reason| reason.as_str() == code) {
            Some(reason) => (vec![format!("The {place} answered: {}.", reason.sentence())], otherwise(reason)),
            None => (vec![format!("The {place} answered for the reason {code}.")], Vec::new()),
        },
    }
}

/// Returns what would have had to differ for a rule of the policy to let the input go to the hub.
fn otherwise(reason: Reason) -> Sentences {
    let said = match reason {
        Reason::NeverLeaves => {
            "Only another privacy class of all layers of the policy would let the input go to the hub."
        }
        Reason::NoConsent => {
            "With consent (`consent` of the request, or of the model in agent.toml) the hub could be asked."
        }
        Reason::MeteredLink => "Over a link that is not metered the hub could be asked.",
        Reason::BatteryLow => "With a charged battery or on mains power the hub could be asked.",
        Reason::OutsideHours => "Within hub_when.hours the hub could be asked.",
        Reason::NoTag => "With one of the tags of hub_when.tags the hub could be asked.",
        Reason::BytesSpent | Reason::CallsSpent => "With a larger budget, or on the next day, the hub could be asked.",
        Reason::EscalationsSpent => "With a larger budget, or a minute later, the hub could be asked.",
        Reason::HubPredictedLate => "With a later deadline, or a faster hub, the hub would have been asked.",
        Reason::DeviceTooLate => "With a later deadline, or a faster device, the device would have answered.",
        Reason::Downloading => "Once the version is installed (`edge-agent status`) the device answers.",
        Reason::Drifted => {
            "Once 1,000 answers fit the calibration again, with a new calibration, or with on_drift = \"answer\" the threshold decides."
        }
        Reason::Cached => {
            "Without `cache` of the model in agent.toml, with another input, or after cache.max_age the request would have been routed."
        }
        Reason::BoundBroken => {
            "Once audits have shown a threshold (`cloud-hub calibration show` at the hub), or with on_refit = \"ignore\", the \
             device can answer."
        }
        Reason::Policy
        | Reason::Confident
        | Reason::LowConfidence
        | Reason::NotCalibrated
        | Reason::NoLocalModel
        | Reason::DeviceBusy
        | Reason::DeviceFailed
        | Reason::HubUnreachable
        | Reason::HubFailed
        | Reason::HubTooLate
        | Reason::NoScore
        | Reason::Hedged => return Vec::new(),
    };
    vec![said.to_owned()]
}

/// Explains the reason `policy`: the mode alone decided, or the input was not allowed to leave.
fn by_policy(request: &RequestRecord, place: &str) -> (Sentences, Sentences) {
    let mode = request.policy.mode.as_ref();
    if let Some(forbidden) =
        forbidden(request).filter(|_| place == "device" && matches!(mode, "cascade" | "prefer-hub"))
    {
        let (score, threshold) = scores(request);
        let mut because = vec![forbidden];
        if request.calibration.as_ref().is_some_and(|calibration| calibration.threshold.is_some()) && mode == "cascade"
        {
            because.push(format!("The device's answer has the score {score}; the threshold is {threshold}."));
        }
        return (because, vec!["With an input that may leave the device the hub could have been asked.".to_owned()]);
    }
    let because = match mode {
        "only-device" => "The policy only-device answers on the device and sends nothing to the hub.",
        "prefer-device" => "The policy prefer-device answers on the device whenever it can.",
        "prefer-hub" => "The policy prefer-hub asks the hub first, and it answered.",
        "only-hub" => "The policy only-hub asks the hub alone.",
        "hedge" => "The policy hedge takes the first acceptable answer, and the device was first.",
        _ => "The policy prefers this place, and nothing prevented it.",
    };
    let otherwise = match mode {
        "only-device" => "With the policy cascade, prefer-hub or only-hub the hub could have answered.".to_owned(),
        "prefer-device" => {
            "If the device had no version ready, a full queue or a failed engine, the hub would have been asked."
                .to_owned()
        }
        "prefer-hub" => "If the hub had been away, failed or too late, the device would have answered.".to_owned(),
        "only-hub" => "With the policy prefer-hub the device would have answered if the hub could not.".to_owned(),
        "hedge" => {
            let delay = request.policy.hedge_us.map_or_else(|| "the hedge delay".to_owned(), time);
            format!("Without an answer of the device within {delay} the hub would have been asked too.")
        }
        _ => return (vec![because.to_owned()], Vec::new()),
    };
    (vec![because.to_owned()], vec![otherwise])
}

/// Explains an answer of the device that was given because the hub's is missing.
fn without_hub(request: &RequestRecord, reason: &str) -> (Sentences, Sentences) {
    let mut because = Vec::new();
    let mode = request.policy.mode.as_ref();
    let threshold = request.calibration.as_ref().and_then(|calibration| calibration.threshold);
    match (mode, threshold) {
        ("prefer-hub", _) => because.push("The policy prefer-hub wanted the hub's answer.".to_owned()),
        (_, Some(threshold)) => {
            let (score, _) = scores(request);
            because.push(format!(
                "The device's answer has the score {score}, and the threshold is {threshold:.3}: the hub's was wanted."
            ));
        }
        (_, None) => because.push("The device's variant has no threshold, so the hub's answer was wanted.".to_owned()),
    }
    because.push(match (&request.hub, reason) {
        (None, "hub-too-late") => format!("Too little time was left to ask it{}.", deadline(request)),
        (None, _) => "It was not connected.".to_owned(),
        (Some(hub), _) => hub_ended(hub),
    });
    because.push("The device's own answer was given instead.".to_owned());
    let otherwise = match (reason, &request.hub) {
        ("hub-too-late", Some(hub)) => {
            format!("With an answer of the hub within {} it would have been given.", time(hub.wait_us))
        }
        ("hub-too-late", None) => "With a longer deadline the hub would have been asked.".to_owned(),
        ("hub-unreachable", _) => {
            "With a connection to the hub its answer would have been given (`edge-agent doctor`).".to_owned()
        }
        _ => "Without that failure the hub's answer would have been given.".to_owned(),
    };
    (because, vec![otherwise])
}

fn failed(request: &RequestRecord, code: &str, device: Option<&str>, hub: Option<&str>) -> (Sentences, Sentences) {
    let mode = request.policy.mode.as_ref();
    let mut because = vec![format!("The policy was {mode}{}.", deadline(request))];
    because.extend(device.map(|why| format!("The device had no answer: {}.", device_failure(why))));
    because.extend(match (hub, &request.hub) {
        (Some("forbidden"), _) => {
            forbidden(request).or_else(|| Some("The policy keeps the input on the device.".to_owned()))
        }
        (Some("unreachable"), None) => Some("The hub was not connected.".to_owned()),
        (Some("too-late"), None) => Some("Too little time was left to ask the hub.".to_owned()),
        (Some(_), Some(hub)) => Some(hub_ended(hub)),
        (Some(why), None) => Some(format!("The hub had no answer: {}.", hub_failure(why))),
        (None, _) => None,
    });
    let otherwise = match (code, mode) {
        ("bad-input", _) => "Another input, or one that may leave the device, would have been answered.".to_owned(),
        ("deadline-exceeded", _) => "With more time (deadline_ms) there would have been an answer.".to_owned(),
        (_, "only-device") => "With the policy prefer-device or cascade the hub could have answered.".to_owned(),
        (_, "only-hub") => "With the policy prefer-hub the device could have answered.".to_owned(),
        _ => "With one place that works there would have been an answer.".to_owned(),
    };
    (because, vec![otherwise])
}

fn hub_ended(hub: &HubRecord) -> String {
    let HubRecord { outcome, failure, wait_us, took_us, .. } = hub;
    match (outcome.as_ref(), failure.as_deref()) {
        ("failed", Some("too-late")) => {
            format!("The hub did not answer within the {} that it was given.", time(*wait_us))
        }
        ("failed", why) => {
            format!("The hub had no answer after {}: {}.", time(*took_us), hub_failure(why.unwrap_or("failed")))
        }
        ("cancelled", _) => format!("The request to the hub was withdrawn after {}.", time(*took_us)),
        _ => format!("The hub answered after {}.", time(*took_us)),
    }
}

fn device_failure(why: &str) -> String {
    match why {
        "no-model" => "no version of the model was ready",
        "busy" => "the queue of its session was full",
        "failed" => "its engine failed",
        "crashed" => "the request ended its engine, which was started again",
        "quarantined" => "the request had ended its engine before and is not run",
        "too-late" => "the run did not end in time",
        "bad-input" => "the input does not fit the model",
        "refused" => "the model cannot compute this input",
        other => other,
    }
    .to_owned()
}

fn hub_failure(why: &str) -> String {
    match why {
        "unreachable" => "the connection broke or the hub fell silent",
        "too-late" => "it was not in time",
        "busy" => "its queue was full",
        "unknown-model" => "it does not serve the model or version",
        "bad-input" => "the input does not fit its model",
        "not-authorised" => "it does not serve this device",
        "failed" => "it failed",
        "forbidden" => "the policy keeps the input on the device",
        other => other,
    }
    .to_owned()
}

/// Returns the rule that keeps the input on the device, if there is one.
fn forbidden(request: &RequestRecord) -> Option<String> {
    if request.policy.class == "never-leaves" {
        return Some("The input is of the class never-leaves: nothing of it is sent to the hub.".to_owned());
    }
    let most = request.policy.hub_bytes_max.filter(|&most| request.input.bytes > most)?;
    Some(format!(
        "The input has {} bytes, over the {most} of hub_bytes_max: it stays on the device.",
        request.input.bytes
    ))
}

fn scores(request: &RequestRecord) -> (String, String) {
    let shown = |value: Option<f32>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
    let score = request.device.as_ref().and_then(|device| device.score);
    (shown(score), shown(request.calibration.as_ref().and_then(|calibration| calibration.threshold)))
}

fn if_online(request: &RequestRecord) -> &'static str {
    if request.link_us.is_some() { "" } else { ", had it been connected" }
}

fn deadline(request: &RequestRecord) -> String {
    request.policy.deadline_us.map_or_else(String::new, |left| format!(", with {} left at the start", time(left)))
}

fn left(request: &RequestRecord, audits: &[AuditRecord], later: &[AmendmentRecord]) -> Vec<String> {
    let mut left = Vec::new();
    match (request.hub_bytes, &request.hub) {
        (0, _) if audits.is_empty() && later.is_empty() => {
            left.push("Nothing of the input was sent to the hub.".to_owned())
        }
        (0, _) => left.push("Nothing of the input was sent to the hub for this answer.".to_owned()),
        (bytes, _) => left.push(format!("{bytes} bytes of input were sent to the hub.")),
    }
    left.extend(audits.iter().map(|audit| {
        let agrees = match audit.agrees {
            Some(true) => "both answers agree",
            Some(false) => "the answers differ",
            None => "the answers were not compared",
        };
        format!("{} bytes were sent afterwards for an audit; {agrees}.", audit.hub_bytes)
    }));
    left.extend(later.iter().map(|later| {
        let outcome = match later.outcome.as_ref() {
            "answered" => "the hub answered",
            "sent-back" => "the hub did not answer, and the request went on waiting",
            _failed => "the request has failed",
        };
        format!("{} bytes were sent from the outbox after {} s; {outcome}.", later.hub_bytes, later.waited_s)
    }));
    left
}

fn guarantee(request: &RequestRecord) -> String {
    let Some(calibration) = &request.calibration else {
        return "none: no version was ready on the device".to_owned();
    };
    match (calibration.alpha, calibration.confidence) {
        (Some(alpha), Some(confidence)) => format!(
            "at most {:.2} % of all requests are kept on the device and answered otherwise than by the full model, with \
             {:.0} % confidence{}",
            alpha * 100.0,
            confidence * 100.0,
            if calibration.state.as_ref() == "refitted" { ", by a threshold that the hub refitted from audits" } else { "" }
        ),
        _ if calibration.threshold.is_some() => {
            "none: the threshold has no bound in the manifest, or the scores have left the distribution of its calibration"
                .to_owned()
        }
        _ if calibration.state.as_ref() == "uncertified" => {
            "none: audits broke the promise of the threshold, and no other one is shown yet".to_owned()
        }
        _ => "none: the device's variant is not calibrated".to_owned(),
    }
}

fn times(request: &RequestRecord) -> Vec<String> {
    let mut times = vec![format!("{} in all{}", time(request.total_us), deadline(request))];
    if let Some(device) = &request.device {
        let (queue, compute) = (time(device.queue_us), time(device.compute_us));
        times.push(format!("device: {} ({queue} in the queue, {compute} in the engine)", time(device.took_us)));
    }
    if let Some(hub) = &request.hub {
        let (took, wait) = (time(hub.took_us), time(hub.wait_us));
        let (queue, compute) = (time(hub.queue_us), time(hub.compute_us));
        times.push(format!(
            "hub: {took} of the {wait} that it was given ({queue} in the queue, {compute} in the engine)"
        ));
    }
    times.extend(request.link_us.map(|link| format!("round trip of the connection to the hub: {}", time(link))));
    times
}

fn time(micros: u64) -> String {
    let time = Duration::from_micros(micros);
    if time < Duration::from_secs(1) {
        format!("{:.2} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
