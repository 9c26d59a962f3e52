//! Chooses the deltas to make for a version: from the files of the versions that devices hold, those of most devices first.

use std::collections::BTreeMap;

use bundle::{FileRef, Manifest, Variant};
use types::{ModelName, Place, VariantName, Version};

use super::{FILE_BYTES_MIN, Pair};
use crate::app::registry::Registry;

/// Maximum number of versions from which deltas are made in advance; others are made when a device asks.
const BASES_MAX: usize = 8;

/// Returns the pairs for a version, most wanted first: deltas from the held variants, then the compressed files.
pub(super) fn pairs(
    registry: &Registry,
    model: &ModelName,
    version: Version,
    held: &BTreeMap<(Version, VariantName), u64>,
) -> Vec<Pair> {
    let Some(manifest) = registry.manifest(model, version) else { return Vec::new() };
    let mut held: Vec<_> = held.iter().filter(|((other, _variant), _count)| *other != version).collect();
    // The version with the higher number wins a tie: it is the more likely base tomorrow.
    held.sort_by_key(|((other, _variant), count)| (std::cmp::Reverse(**count), std::cmp::Reverse(*other)));
    let mut found = Vec::new();
    for ((other, name), _count) in held.into_iter().take(BASES_MAX) {
        let Some(other) = registry.manifest(model, *other) else { continue };
        let (Some(base), Some(target)) = (other.variant(name), named(&manifest, name)) else { continue };
        found.extend(between(base, target));
    }
    let files = manifest.variants_for(Place::Device).flat_map(Variant::files).filter(|file| is_large(file));
    found.extend(files.map(|file| Pair { base: None, target: file.digest }));
    let mut seen = std::collections::HashSet::new();
    found.retain(|pair| seen.insert(*pair));
    found
}

/// Returns the variant for devices with this name.
fn named<'a>(manifest: &'a Manifest, name: &VariantName) -> Option<&'a Variant> {
    manifest.variants_for(Place::Device).find(|variant| variant.name == *name)
}

/// Returns the pairs of the files that take the same part in two variants and differ.
fn between<'a>(base: &'a Variant, target: &'a Variant) -> impl Iterator<Item = Pair> + use<'a> {
    let golden = base.golden.as_ref().zip(target.golden.as_ref());
    let pairs = std::iter::once((&base.file, &target.file)).chain(golden);
    let pairs = pairs.filter(|(base, target)| base.digest != target.digest && is_large(target));
    pairs.map(|(base, target)| Pair { base: Some(base.digest), target: target.digest })
}

fn is_large(file: &FileRef) -> bool {
    file.size >= FILE_BYTES_MIN
}
