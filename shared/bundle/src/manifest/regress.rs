//! Warnings for an operator before a version replaces another.
//!
//! Called by the hub at a push with the new manifest and that of the active version. None of these is a fault of the
//! format: a worse version can be intended, which `--force` confirms. [`worse`] refuses a push without `--force`, [`lints`] and
//! [`looser`] refuse one with `--strict`, and [`warnings`] and [`looser`] are shown.

use types::{Dim, Place, TensorSpec};

use super::{Manifest, ScoreKind, ScoreRule, Variant};

/// Returns the regressions of `new` against `old`, the version that devices follow now. Empty if nothing got worse.
#[must_use]
pub fn worse(old: &Manifest, new: &Manifest) -> Vec<String> {
    let version = old.version;
    let mut found = Vec::new();
    if old.score.is_some() && new.score.is_none() {
        found.push(format!("it has no score rule, version {version} has one: {DEFERS}"));
    }
    for variant in new.variants_for(Place::Device) {
        let before = before(old, variant);
        if variant.threshold.is_none() && before.iter().any(|old| old.threshold.is_some()) {
            found.push(format!("variant {} has no threshold, version {version} has one: {DEFERS}", variant.name));
        }
    }
    for variant in &new.variants {
        if variant.golden.is_none() && before(old, variant).iter().any(|old| old.golden.is_some()) {
            let name = &variant.name;
            found.push(format!(
                "variant {name} has no golden inputs, version {version} has: a variant with wrong outputs would be served"
            ));
        }
    }
    if !old.labels.is_empty() && old.labels != new.labels {
        found.push(labels(old, new));
    }
    let class = |manifest: &Manifest| manifest.policy.as_ref().and_then(|policy| policy.privacy).unwrap_or_default();
    if class(new) < class(old) {
        let (now, before) = (class(new).as_str(), class(old).as_str());
        found.push(format!(
            "the privacy class is {now}, version {version} has {before}: inputs that stayed on the device may leave it"
        ));
    }
    found.extend(signature("input", &old.inputs, &new.inputs, version));
    found.extend(signature("output", &old.outputs, &new.outputs, version));
    found
}

/// Returns promises that `new` states more loosely than `old`, the version that devices follow now: a larger bound of the share that is
/// kept and differs from the full model, a lower confidence, or no bound at all.
#[must_use]
pub fn looser(old: &Manifest, new: &Manifest) -> Vec<String> {
    let version = old.version;
    let mut found = Vec::new();
    for variant in new.variants_for(Place::Device).filter(|variant| variant.threshold.is_some()) {
        let strictest = before(old, variant).into_iter().filter_map(bound).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((old_bound, old_confidence)) = strictest else { continue };
        let name = &variant.name;
        match bound(variant) {
            None => found.push(format!(
                "variant {name} has a threshold and no calibration that states its bound, version {version} states {}: cloud-hub model calibrate",
                percent(old_bound)
            )),
            Some((bound, _)) if bound > old_bound + BOUND_SLACK => found.push(format!(
                "variant {name} keeps at most {} differing answers, version {version} at most {}",
                percent(bound),
                percent(old_bound)
            )),
            Some((_, confidence)) if confidence < old_confidence => found.push(format!(
                "the bound of variant {name} holds with {} confidence, that of version {version} with {}",
                percent(confidence),
                percent(old_confidence)
            )),
            Some(_) => {}
        }
    }
    found
}

/// Returns the upper bound of the share that a variant keeps and answers otherwise than the full model, and its confidence; `None` without a
/// threshold or a calibration that reaches it.
fn bound(variant: &Variant) -> Option<(f32, f32)> {
    let (threshold, calibration) = (variant.threshold?, variant.calibration.as_ref()?);
    // Strictest first: a point that keeps at least as much bounds what this threshold keeps.
    let point = calibration.curve.iter().find(|point| point.threshold <= threshold)?;
    Some((point.bound, calibration.confidence))
}

fn percent(share: f32) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// Returns properties of a version that its author may not expect, whatever serves now.
#[must_use]
pub fn warnings(manifest: &Manifest) -> Vec<String> {
    let mut found = lints(manifest);
    let is_newer =
        |rule: &ScoreRule| rule.axis.is_some() || rule.temperature.is_some() || rule.kind != ScoreKind::Top1Probability;
    let newer = manifest.score.as_ref().is_some_and(is_newer)
        || manifest.variants.iter().any(|variant| variant.score.is_some());
    if newer {
        found
            .push("agents of 0.1.0 do not know this [score], refuse the version and keep the one they have".to_owned());
    }
    if manifest.policy.is_some() {
        let text = "agents of 0.1.0 do not know [policy], refuse the version and keep the one they have";
        found.push(text.to_owned());
    }
    let has_rules = |variant: &Variant| !variant.preprocess.is_empty();
    if !manifest.preprocess.is_empty() || manifest.variants.iter().any(has_rules) {
        let text = "agents of 0.1.0 do not know [preprocess], refuse the version and keep the one they have";
        found.push(text.to_owned());
    }
    found
}

/// Returns what a version lacks that its author can add: a score, thresholds, golden inputs.
#[must_use]
pub fn lints(manifest: &Manifest) -> Vec<String> {
    let mut found = Vec::new();
    let device: Vec<&Variant> = manifest.variants_for(Place::Device).collect();
    if manifest.score.is_none() && !device.is_empty() {
        found.push(format!("model.toml has no [score]: {DEFERS}"));
    } else {
        for variant in &device {
            if variant.threshold.is_none() {
                found.push(format!("variant {} has no threshold: {DEFERS}", variant.name));
            }
        }
    }
    for variant in &manifest.variants {
        if variant.golden.is_none() {
            found.push(format!("variant {} has no golden inputs: its outputs cannot be checked", variant.name));
        }
    }
    found
}

/// Increase of a bound that is not worth a warning: two draws of examples for one α differ by more than that only if the variant is worse.
const BOUND_SLACK: f32 = 0.001;

const DEFERS: &str = "under the policy cascade every request goes to the hub";

/// Returns the old variant with the same name and host; all old variants of that host if the name is new.
fn before<'a>(old: &'a Manifest, variant: &Variant) -> Vec<&'a Variant> {
    let of_place: Vec<&Variant> = old.variants_for(variant.runs_on).collect();
    match of_place.iter().find(|old| old.name == variant.name) {
        Some(same) => vec![same],
        None => of_place,
    }
}

fn labels(old: &Manifest, new: &Manifest) -> String {
    let version = old.version;
    if old.labels.len() != new.labels.len() {
        let (before, now) = (old.labels.len(), new.labels.len());
        return format!("`labels` names {now} classes, those of version {version} {before}");
    }
    let changed = old.labels.iter().zip(&new.labels).position(|(old, new)| old != new).unwrap_or(0);
    let name = |labels: &[String]| labels.get(changed).cloned().unwrap_or_default();
    format!(
        "class {changed} is called {:?}, in version {version} {:?}: applications would misread responses",
        name(&new.labels),
        name(&old.labels)
    )
}

fn signature(kind: &str, old: &[TensorSpec], new: &[TensorSpec], version: types::Version) -> Vec<String> {
    let mut found = Vec::new();
    for spec in old {
        match new.iter().find(|one| one.name == spec.name) {
            None => found.push(format!("it has no {kind} {spec}, version {version} has")),
            Some(one) if !alike(spec, one) => {
                found.push(format!(
                    "{kind} {one} is {spec} in version {version}: requests of applications would be refused"
                ));
            }
            Some(_) => {}
        }
    }
    // A further output is harmless; a further input is missing in every present request.
    if kind == "input" {
        let added = new.iter().filter(|one| !old.iter().any(|spec| spec.name == one.name));
        found.extend(added.map(|one| format!("it needs the {kind} {one}, version {version} does not")));
    }
    found
}

/// Returns whether the same tensors match both. The names of dimensions are free text.
fn alike(old: &TensorSpec, new: &TensorSpec) -> bool {
    let dims = |old: &[Dim], new: &[Dim]| {
        old.len() == new.len()
            && old.iter().zip(new).all(|pair| match pair {
                (Dim::Fixed(old), Dim::Fixed(new)) => old == new,
                // A size that was free and is fixed now refuses some present requests.
                (Dim::Symbol(_), Dim::Fixed(_)) => false,
                (Dim::Any, Dim::Fixed(_)) | (_, Dim::Symbol(_) | Dim::Any) => true,
            })
    };
    old.dtype == new.dtype
        && match (&old.shape, &new.shape) {
            (Some(old), Some(new)) => dims(old, new),
            (None, _) | (_, None) => true,
        }
}
