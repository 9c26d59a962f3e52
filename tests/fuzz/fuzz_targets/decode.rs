//! Fuzz target: the decoder of every message and of the join token. The same function runs on the stable compiler as
//! properties, in `shared/protocol/tests/bounds.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(broken) = protocol::fuzz_decode(data) {
        panic!("{broken}");
    }
});
