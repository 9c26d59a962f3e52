//! Fuzz target: the steps of a daemon with a model file before any device is used: the pre-check, the reader, the
//! passes, shape inference and a lowering without a device. The same entry runs on the stable compiler with damaged
//! copies of real models, in `shared/engine-wgpu/tests/hostile.rs`.
#![no_main]

use engine::precheck::{self, ModelLimits};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if precheck::check(data, &ModelLimits::default()).is_ok() {
        let _verdict = engine_wgpu::check(data);
    }
});
