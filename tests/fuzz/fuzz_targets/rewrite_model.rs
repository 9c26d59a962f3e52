//! Fuzz target: the steps of the compression tool with a model file: reading, checking, shape inference, every rewrite,
//! conversion, inspection, writing. The same entry runs on the stable compiler with damaged copies of real models and
//! with the ONNX node cases, in `models/graph/tests/robustness.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Err(broken) = onnx_graph::exercise::exercise(data.to_vec().into()) {
        panic!("{broken}");
    }
});
