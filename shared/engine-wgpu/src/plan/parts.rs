//! What is larger than one binding of the device may be: read through several bindings, written by several launches.
//!
//! A kernel reads it in parts where it goes through `load_NAME(i)`, and an element kernel writes it a part a launch. Kernels
//! that do their own addressing cannot: [`crate::ops`] gives those smaller matrices, or the plan is refused.

use crate::error::OpError;
use crate::lower::PARAMS_MAX;
use crate::lower::{Access, Arg, Dispatch, THREADS, Tuning, linear_groups};

/// Parts of so many words.
fn parts_of(words: u64, tuning: Tuning) -> u32 {
    u32::try_from(words.div_ceil(tuning.part_words).max(1)).unwrap_or(u32::MAX)
}

/// In how many bindings each argument of a launch stands.
///
/// # Errors
/// When the kernel cannot reach one of them, or there are more than the device binds at once.
pub(super) fn bindings(
    dispatch: &Dispatch,
    words: impl Fn(Arg) -> u64,
    tuning: Tuning,
    bindings_max: u32,
) -> Result<Vec<u32>, OpError> {
    let last = dispatch.args.len().saturating_sub(1);
    let mut parts = Vec::with_capacity(dispatch.args.len());
    for (at, (&arg, binding)) in dispatch.args.iter().zip(&dispatch.kernel.bindings).enumerate() {
        let count = parts_of(words(arg), tuning);
        parts.push(match binding.access {
            Access::Elements(_) | Access::Halves => count,
            Access::Raw(_) if count == 1 || (at == last && dispatch.kernel.output.is_some()) => 1,
            Access::Raw(_) => return Err(too_large(words(arg), tuning)),
        });
    }
    let total = parts.iter().copied().fold(0_u32, u32::saturating_add);
    if total > bindings_max {
        return Err(OpError::unsupported(format!(
            "its tensors take {total} buffer bindings of {} bytes, the device has {bindings_max}",
            tuning.part_words * 4
        )));
    }
    Ok(parts)
}

fn too_large(words: u64, tuning: Tuning) -> OpError {
    OpError::unsupported(format!(
        "a tensor of {} bytes is over the {} that its kernel can reach on this device",
        words.saturating_mul(4),
        tuning.part_words * 4
    ))
}

/// Cuts a launch whose output is larger than a binding into one for each part of it.
pub(super) fn cut(dispatch: Dispatch, words: impl Fn(Arg) -> u64, tuning: Tuning) -> Vec<Dispatch> {
    let all = dispatch.args.last().map_or(0, |&arg| words(arg));
    let count = parts_of(all, tuning);
    if count <= 1 || dispatch.kernel.output.is_none() || dispatch.params.len() > PARAMS_MAX {
        return vec![dispatch];
    }
    let share = dispatch.effort.work / u64::from(count);
    let one = |part: u32| {
        let first = u64::from(part) * tuning.part_words;
        let words = (all - first).min(tuning.part_words);
        let groups = usize::try_from(words).unwrap_or(usize::MAX).div_ceil(THREADS as usize);
        let mut piece = Dispatch { part, groups: linear_groups(groups), ..dispatch.clone() };
        piece.effort.work = share;
        piece.params.resize(PARAMS_MAX, 0);
        // Fits: a tensor has at most 2^29 words.
        piece.params.push(u32::try_from(first).unwrap_or(u32::MAX));
        piece
    };
    (0..count).map(one).collect()
}
