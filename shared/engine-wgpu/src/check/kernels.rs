//! Kernels as a driver would get them, parsed and validated without a device.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use wgpu::naga;

use crate::gpu::{PipelineKey, Place, source};
use crate::lower::{Arg, Dispatch};

/// Storage buffers that every device of WebGPU binds at once.
const BINDINGS_MAX: usize = 8;

/// Valid kernels that are remembered: models share most of theirs, and a hub checks many.
const REMEMBERED_MAX: usize = 16 * 1024;

/// Hashes of the kernels that were found valid, of 64 bits with a key of this process.
static VALID: LazyLock<(RandomState, Mutex<HashSet<u64>>)> = LazyLock::new(Default::default);

/// Says what is wrong with the kernel of a launch, if anything is.
pub(super) fn fault(dispatch: &Dispatch, part_words: u64) -> Option<String> {
    let place = |arg: &Arg| Place { read_only: matches!(arg, Arg::Weight(_) | Arg::Known(_)), parts: 1 };
    let places = dispatch.args.iter().map(place).collect();
    let key = PipelineKey { kernel: Arc::clone(&dispatch.kernel), places };
    let (hasher, valid) = &*VALID;
    let hash = hasher.hash_one(&key);
    if valid.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash) {
        return None;
    }
    let bindings = key.kernel.bindings.len();
    let why = match validate(&source(&key, part_words)) {
        Err(why) => why,
        Ok(()) if bindings > BINDINGS_MAX => format!("it has {bindings} bindings, every device has {BINDINGS_MAX}"),
        Ok(()) => {
            let mut valid = valid.lock().unwrap_or_else(PoisonError::into_inner);
            if valid.len() >= REMEMBERED_MAX {
                valid.clear();
            }
            valid.insert(hash);
            return None;
        }
    };
    let label = key.kernel.label;
    Some(format!("an error of this engine, please report it: its kernel {label:?} is invalid: {why}"))
}

fn validate(text: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.message().to_owned())?;
    // Kernels with subgroups are made only where the device has them.
    let (flags, capabilities) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::SUBGROUP);
    let mut validator = naga::valid::Validator::new(flags, capabilities);
    validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    validator.validate(&module).map(|_info| ()).map_err(|error| telemetry::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_with_subgroups_is_valid() {
        assert_eq!(validate("@compute @workgroup_size(8) fn main() { var x = 1.0; x = subgroupAdd(x); }"), Ok(()));
        assert_eq!(
            validate("@compute @workgroup_size(8) fn main() { var x = 1.0; x = subgroupBroadcastFirst(x); }"),
            Ok(())
        );
    }

    #[test]
    fn a_kernel_that_calls_what_is_not_there_is_refused() {
        assert_eq!(validate("@compute @workgroup_size(1) fn main() { var x = 1.0; x = exp(x); }"), Ok(()));
        let why = validate("@compute @workgroup_size(1) fn main() { var x = 1.0; x = erf_of(x); }").unwrap_err();
        assert!(why.contains("erf_of"), "{why}");
        assert!(validate("@compute @workgroup_size(1) fn main() { var x = 1.0; x = 1u; }").is_err(), "types");
    }
}
