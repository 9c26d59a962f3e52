//! Fuzz target: the body of a delta between model files. The same function runs on the stable compiler as a property, in
//! `models/tools/tests/delta.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(broken) = bundle::delta::fuzz_body(data) {
        panic!("{broken}");
    }
});
