//! Fuzz target: the parser of inference requests. The same function runs on the stable compiler as a property, in
//! `shared/serving/src/codec/request/tests.rs`, beside the comparison with a tree of JSON values.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(broken) = serving::codec::fuzz_request(data) {
        panic!("{broken}");
    }
});
