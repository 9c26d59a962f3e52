//! Forms of a version: its variants for devices and the engines that run them. Chooses the variants to fetch, and keeps the
//! choice that was measured.
//!
//! Used by [`super::jobs`] and [`super::measure`]. The first variant of the manifest that runs here and fits into the memory is
//! taken, unless the owner names one. Where variants of different precision run here, the device measures them once for each model
//! ([`Choice`]) and takes the same one of later versions, as long as these have the same variants and the device the same engines.

use std::path::Path;
use std::sync::PoisonError;

use bundle::manifest::Precision;
use bundle::{Bundle, Manifest, Variant, Verified};
use edge_core::update::{Failure, FailureKind};
use store::files::{self, FileError};
use types::{EngineName, Place, VariantName};

use super::load::Wanted;
use super::task::UpdaterParts;
use super::{admission, disk, gate, trouble};
use crate::crash::{CrashPoint, crash_at};
use crate::state::MANIFEST_FILE;

/// Form of a model's versions that a measurement has chosen on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Variants for devices that could run here, in the order of the manifest.
    pub(crate) among: Vec<(VariantName, Precision)>,
    /// Engines of the configuration then.
    pub(crate) engines: Vec<EngineName>,
    /// Variant that was chosen.
    pub(crate) variant: VariantName,
    /// Engine that was chosen; `None` where the order of the configuration decides.
    pub(crate) engine: Option<EngineName>,
}

/// Variant of a version to take, and others to measure it against.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chosen {
    pub(super) variant: Variant,
    pub(super) others: Vec<Variant>,
}

impl UpdaterParts {
    /// Returns the engines to try for a version: the owner's choice first, then the measured one, then the configured order.
    pub(super) fn wanted(&self) -> Wanted {
        let measured = self.choice().filter(|_| self.shared.updates.measure_engines).and_then(|choice| choice.engine);
        Wanted { preferred: self.model.table.engine.or(measured), ..Wanted::default() }
    }

    /// Returns the measured choice, if it was made among the engines of today.
    fn choice(&self) -> Option<Choice> {
        let choice = self.choice.read().unwrap_or_else(PoisonError::into_inner).clone();
        choice.filter(|choice| choice.engines == self.engines())
    }

    fn engines(&self) -> Vec<EngineName> {
        self.shared.engines.status().into_iter().map(|status| status.engine).collect()
    }

    fn runs(&self, variant: &Variant) -> bool {
        Wanted::default().among(&self.shared.engines, &variant.engines).next().is_some()
            || self.wanted().among(&self.shared.engines, &variant.engines).next().is_some()
    }
}

/// Chooses the variant of a version: the owner's, the one that was measured before, or the first that is made for devices and
/// that an engine here can run. `measures` says that others may be fetched to measure it against.
pub(super) async fn choose(parts: &UpdaterParts, manifest: &Manifest, measures: bool) -> Result<Chosen, Failure> {
    if let Some(name) = &parts.model.table.variant {
        let named = manifest.variant(name).filter(|variant| parts.runs(variant));
        let variant = named.ok_or_else(|| no_variant(parts, manifest))?.clone();
        admission::can_ever_fit(parts, &variant)?;
        return Ok(Chosen { variant, others: Vec::new() });
    }
    let fitting = fitting(parts, manifest);
    let Some(first) = fitting.first().copied() else {
        // The reason why the first one that runs here does not fit; else that none runs here.
        let running = manifest.variants_for(Place::Device).find(|variant| parts.runs(variant));
        running.map_or(Ok(()), |variant| admission::can_ever_fit(parts, variant))?;
        return Err(no_variant(parts, manifest));
    };
    if let Some(choice) = parts.choice().filter(|choice| choice.among == names(&fitting)) {
        let chosen = fitting.iter().find(|variant| variant.name == choice.variant).unwrap_or(&first);
        return Ok(Chosen { variant: (*chosen).clone(), others: Vec::new() });
    }
    let updates = &parts.shared.updates;
    let most = if measures && updates.measure { updates.measure_variants } else { 1 };
    let others = others(&fitting, most, updates.measure_variants_bytes_max);
    let others = match others.is_empty() || !gate::is_metered(updates.link).await {
        true => others,
        false => {
            tracing::info!(model = %parts.model.name, "the link is metered: only the first variant is fetched");
            Vec::new()
        }
    };
    Ok(Chosen { variant: first.clone(), others })
}

fn fitting<'a>(parts: &UpdaterParts, manifest: &'a Manifest) -> Vec<&'a Variant> {
    let fits = |variant: &&Variant| parts.runs(variant) && admission::can_ever_fit(parts, variant).is_ok();
    manifest.variants_for(Place::Device).filter(fits).collect()
}

fn names(fitting: &[&Variant]) -> Vec<(VariantName, Precision)> {
    fitting.iter().map(|variant| (variant.name.clone(), variant.precision)).collect()
}

/// Returns the variants to measure the first one against, `most` with that one: of a precision of their own, calibrated where
/// the first one is, and together of at most `bytes_max` bytes.
fn others(fitting: &[&Variant], most: usize, bytes_max: u64) -> Vec<Variant> {
    let Some((first, rest)) = fitting.split_first() else { return Vec::new() };
    let mut taken = vec![*first];
    let mut bytes = 0_u64;
    for variant in rest {
        let is_new = taken.iter().all(|taken| taken.precision != variant.precision);
        let is_calibrated = first.threshold.is_none() || variant.threshold.is_some();
        let size = variant.files().fold(bytes, |sum, file| sum.saturating_add(file.size));
        if taken.len() < most && is_new && is_calibrated && size <= bytes_max {
            bytes = size;
            taken.push(variant);
        }
    }
    taken.into_iter().skip(1).cloned().collect()
}

fn no_variant(parts: &UpdaterParts, manifest: &Manifest) -> Failure {
    let engine = |name: &EngineName| name.as_str();
    let forms = manifest.variants.iter().map(|variant| {
        format!("{} (for {})", variant.name, variant.engines.iter().map(engine).collect::<Vec<_>>().join(", "))
    });
    let forms = forms.collect::<Vec<_>>().join(", ");
    let engines = parts.shared.engines.status();
    let states: Vec<String> = engines.iter().map(|status| format!("{} is {}", status.engine, status.state)).collect();
    let states = states.join(", ");
    let detail = match &parts.model.table.variant {
        Some(name) => format!("it has no variant {name} that runs here ({states}): it has {forms}"),
        None => format!("none of its variants for devices runs here ({states}): it has {forms}"),
    };
    // With a GPU that is gone it may run after a restart; otherwise only another version or configuration helps.
    let is_lost = engines.iter().any(|status| parts.shared.engines.lost(status.engine).is_some());
    let kind = if is_lost { FailureKind::EngineLost } else { FailureKind::NoVariant };
    trouble::because(kind, detail)
}

/// Stores the measured choice among the forms of a version, then makes the version's folder that of the chosen variant.
/// A device that is cut off in between chooses the same variant again, from the stored choice. Blocks.
pub(super) fn settle(
    parts: &UpdaterParts,
    bundle: &Bundle<Verified>,
    engine: Option<EngineName>,
) -> Result<(), Failure> {
    let among = names(&fitting(parts, bundle.manifest()));
    let choice = Choice { among, engines: parts.engines(), variant: bundle.variant().name.clone(), engine };
    let stored = tokio::runtime::Handle::current().block_on(parts.choices.put(parts.model.name.as_str(), &choice));
    stored.map_err(|error| trouble::failure(FailureKind::Storage, &error))?;
    *parts.choice.write().unwrap_or_else(PoisonError::into_inner) = Some(choice);
    crash_at(CrashPoint::ChoiceStored);
    disk::pin(bundle).map_err(|error| trouble::of_file(&error))?;
    crash_at(CrashPoint::ChoicePinned);
    remove_others(bundle, &[]).map_err(|error| trouble::of_file(&error))
}

/// Removes the files of a version's folder that belong to none of these variants.
pub(super) fn remove_others(bundle: &Bundle<Verified>, others: &[Bundle<Verified>]) -> Result<(), FileError> {
    let failed = |source| FileError::Io { attempt: "clean folder", path: bundle.folder().to_owned(), source };
    let variants = || std::iter::once(bundle).chain(others).map(Bundle::variant);
    for entry in std::fs::read_dir(bundle.folder()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let is_file = |variant: &Variant| variant.files().any(|file| name == file.name.as_str());
        if name != MANIFEST_FILE && name != disk::PIN_FILE && !variants().any(is_file) {
            files::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Returns the variants among these whose files in a folder are what was signed; the others are passed over.
pub(super) fn proven(
    place: &Path,
    others: &[Variant],
    prove: impl Fn(&Path, &VariantName) -> Result<Bundle<Verified>, bundle::VerifyError>,
) -> Vec<Bundle<Verified>> {
    let prove = |variant: &Variant| match prove(place, &variant.name) {
        Ok(bundle) => Some(bundle),
        Err(error) => {
            tracing::info!(variant = %variant.name, error = telemetry::chain(&error), "a variant is not measured");
            None
        }
    };
    others.iter().filter_map(prove).collect()
}

#[cfg(test)]
mod tests {
    use bundle::FileRef;
    use types::Digest;

    use super::*;

    fn variant(name: &str, precision: Precision, size: u64, threshold: Option<f32>) -> Variant {
        let file = FileRef {
            name: format!("{name}.onnx").parse().unwrap(),
            size,
            digest: Digest::of(name.as_bytes()),
            chunks: Vec::new(),
        };
        Variant {
            name: name.parse().unwrap(),
            runs_on: Place::Device,
            engines: vec![EngineName::Ort],
            precision,
            file,
            golden: None,
            golden_tolerance: None,
            score: None,
            threshold,
            calibration: None,
            preprocess: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn only_variants_of_another_precision_that_are_calibrated_alike_and_small_enough_are_fetched_to_be_measured() {
        let int8 = variant("int8", Precision::Int8, 10, Some(0.9));
        let dynamic = variant("int8-dynamic", Precision::Int8, 10, Some(0.9));
        let fp32 = variant("fp32", Precision::Fp32, 40, Some(0.9));
        let fp16 = variant("fp16", Precision::Fp16, 20, Some(0.9));
        let raw = variant("int4", Precision::Int4, 5, None);
        let names = |fitting: &[&Variant], most, bytes| -> Vec<String> {
            others(fitting, most, bytes).iter().map(|variant| variant.name.to_string()).collect()
        };
        assert_eq!(names(&[&int8, &dynamic, &fp32, &fp16], 2, 1000), ["fp32"]);
        assert_eq!(names(&[&int8, &fp32, &fp16], 4, 1000), ["fp32", "fp16"]);
        assert_eq!(names(&[&int8, &fp32, &fp16], 4, 59), ["fp32"]);
        assert_eq!(names(&[&int8, &fp32, &fp16], 4, 30), ["fp16"], "a smaller one that fits");
        assert_eq!(names(&[&int8, &raw], 4, 1000), [""; 0], "every request would go to the hub");
        assert_eq!(names(&[&raw, &int8], 4, 1000), ["int8"]);
        assert_eq!(names(&[&int8, &fp32], 1, 1000), [""; 0]);
        assert_eq!(names(&[&int8, &dynamic], 4, 1000), [""; 0], "the same format");
        assert_eq!(names(&[], 4, 1000), [""; 0]);
    }
}
