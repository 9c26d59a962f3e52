//! Kernels as a driver would get them, parsed and validated without a device.

use std::collections::HashSet;

use wgpu::naga;

use crate::gpu::{PipelineKey, Place, source};
use crate::lower::{Arg, Dispatch};

/// Looks at each kernel once, however often it is launched.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    seen: HashSet<PipelineKey>,
}

impl Kernels {
    /// Says what is wrong with the kernel of a launch, if anything is; nothing the second time.
    pub(super) fn fault(&mut self, dispatch: &Dispatch, part_words: u64) -> Option<String> {
        let place = |arg: &Arg| Place { read_only: matches!(arg, Arg::Weight(_) | Arg::Known(_)), parts: 1 };
        let places = dispatch.args.iter().map(place).collect();
        let key = PipelineKey { kernel: std::sync::Arc::clone(&dispatch.kernel), places };
        if self.seen.contains(&key) {
            return None;
        }
        let found = validate(&source(&key, part_words));
        let bindings = key.kernel.bindings.len();
        self.seen.insert(key);
        let why = match found {
            Err(why) => why,
            Ok(()) if bindings > BINDINGS_MAX => format!("it has {bindings} bindings, every device has {BINDINGS_MAX}"),
            Ok(()) => return None,
        };
        Some(format!(
            "an error of this engine, please report it: its kernel {:?} is invalid: {why}",
            dispatch.kernel.label
        ))
    }
}

/// Storage buffers that every device of WebGPU binds at once.
const BINDINGS_MAX: usize = 8;

fn validate(text: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|error| error.message().to_owned())?;
    let (flags, capabilities) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
    let mut validator = naga::valid::Validator::new(flags, capabilities);
    validator.validate(&module).map(|_info| ()).map_err(|error| crate::error::chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_calls_what_is_not_there_is_refused() {
        assert_eq!(validate("@compute @workgroup_size(1) fn main() { var x = 1.0; x = exp(x); }"), Ok(()));
        let why = validate("@compute @workgroup_size(1) fn main() { var x = 1.0; x = erf_of(x); }").unwrap_err();
        assert!(why.contains("erf_of"), "{why}");
        assert!(validate("@compute @workgroup_size(1) fn main() { var x = 1.0; x = 1u; }").is_err(), "types");
    }
}
