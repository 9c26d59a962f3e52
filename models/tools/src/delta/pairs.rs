//! Pairs each array of the new file with the array of the base that it is most like.
//!
//! First by name, dimensions and type; then, for renamed and reordered tensors, by equal content; last by dimensions and type in order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;

use bundle::delta::element::Kind;
use types::Digest;

use super::arrays::Array;
use super::chunk;

/// Array of the new file and where its base begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// Type of the elements.
    pub(super) kind: Kind,
    /// Bytes in the new file.
    pub(super) new: Range<usize>,
    /// Begin in the base file of as many bytes; `None` without a base.
    pub(super) base: Option<usize>,
}

/// Pairs all arrays of the new file, in their order.
pub(super) fn pair(base: &[u8], olds: &[Array], new: &[u8], news: &[Array]) -> Vec<Pair> {
    let mut named: HashMap<_, VecDeque<usize>> = HashMap::new();
    let mut alike: HashMap<_, VecDeque<usize>> = HashMap::new();
    for (index, old) in olds.iter().enumerate() {
        named.entry((old.name.as_str(), &old.dims, old.kind, old.range.len())).or_default().push_back(index);
        alike.entry((old.kind, old.range.len())).or_default().push_back(index);
    }
    let mut used = HashSet::new();
    let mut found: Vec<Option<usize>> = vec![None; news.len()];

    for (found, array) in found.iter_mut().zip(news) {
        let same = named.get_mut(&(array.name.as_str(), &array.dims, array.kind, array.range.len()));
        *found = same.and_then(VecDeque::pop_front);
        used.extend(*found);
    }
    // Contents are hashed only of arrays that have no partner yet.
    let mut contents: HashMap<(Kind, Digest), usize> = HashMap::new();
    if found.iter().any(Option::is_none) {
        for (index, old) in olds.iter().enumerate() {
            contents.entry((old.kind, content(base, old))).or_insert(index);
        }
    }
    for (found, array) in found.iter_mut().zip(news).filter(|(found, _)| found.is_none()) {
        *found = contents.get(&(array.kind, content(new, array))).copied();
        used.extend(*found);
    }
    for (found, array) in found.iter_mut().zip(news).filter(|(found, _)| found.is_none()) {
        let same = alike.get_mut(&(array.kind, array.range.len()));
        // Each array of the base is taken off its list once, so that many arrays of one size cost no more than their number.
        *found = same.and_then(|all| std::iter::from_fn(|| all.pop_front()).find(|index| !used.contains(index)));
    }

    let start = |index: usize| olds.get(index).map(|old| old.range.start);
    let pairs = found.into_iter().zip(news).map(|(found, array)| {
        let start = found.and_then(start);
        let bytes = new.get(array.range.clone()).unwrap_or_default();
        let old = start.and_then(|start| base.get(start..start + bytes.len()));
        Pair { kind: chunk::best_kind(array.kind, old, bytes), new: array.range.clone(), base: start }
    });
    pairs.collect()
}

fn content(file: &[u8], array: &Array) -> Digest {
    Digest::of(file.get(array.range.clone()).unwrap_or_default())
}
