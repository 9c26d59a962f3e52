//! Dynamic int8: what it costs, what ONNX Runtime and our engine make of it, and the way back.

use compress::dynamic_int8::{Options, quantize};
use compress::{CompressError, dequantize};
use onnx_graph::Model;
use onnx_graph::Values;
use onnx_graph::proto::{NodeProto, TensorProto};

use crate::{digits, hostile, judge, minilm};

fn count(model: &Model, operator: &str) -> usize {
    model.graph.nodes.iter().filter(|node| node.op_type() == operator).count()
}

#[test]
fn minilm_keeps_its_embeddings_at_a_quarter_of_the_size() {
    let (Some(engine), Some(full)) = (judge::runtime(), minilm::full()) else { return };
    let judging = &minilm::requests()[..20];
    let wanted = minilm::embeddings(&judge::answers(&engine, &full, judging));
    // One scale for a whole matrix is what its largest weight makes of it.
    for (signed, per_channel, floor) in
        [(true, true, 0.985), (true, false, 0.93), (false, true, 0.985), (false, false, 0.93)]
    {
        let options = Options { signed, per_channel, ..Options::default() };
        let (made, report) = quantize(&full, &options).unwrap();
        judge::check(&made);
        assert_eq!(count(&made, "MatMulInteger"), 36, "{:?}", report.skipped);
        // Query, key and value take the same input: four quantizers for six products.
        assert_eq!(count(&made, "DynamicQuantizeLinear"), 24);
        let found = minilm::embeddings(&judge::answers(&engine, &made, judging));
        let least = judge::least_cosine(&wanted, &found);
        let bytes = made.to_bytes().unwrap().len();
        println!("signed {signed} per channel {per_channel}: least {least:.5}, {bytes} bytes");
        assert!(least > floor, "{least}");
        assert!(bytes * 100 < full.to_bytes().unwrap().len() * 27);
    }
}

#[test]
fn dynamic_minilm_runs_on_wgpu_alike_and_comes_back_to_floats() {
    let (Some(engine), Some(full)) = (judge::runtime(), minilm::full()) else { return };
    let (made, _report) = quantize(&full, &Options { embeddings: false, ..Options::default() }).unwrap();
    let requests = &minilm::short();
    let wanted = minilm::embeddings(&judge::answers(&engine, &made, requests));
    if let Some(found) = judge::on_wgpu(&made, requests) {
        assert!(judge::least_cosine(&wanted, &minilm::embeddings(&found)) > 0.999);
    }
    let (back, _report) = dequantize(&made).unwrap();
    judge::check(&back);
    assert_eq!(
        (count(&back, "MatMulInteger"), count(&back, "DynamicQuantizeLinear"), count(&back, "MatMul")),
        (0, 0, 48)
    );
    let floats = minilm::embeddings(&judge::answers(&engine, &full, requests));
    assert!(judge::least_cosine(&floats, &minilm::embeddings(&judge::answers(&engine, &back, requests))) > 0.999);
}

#[test]
fn convolutions_of_the_digits_are_computed_on_integers() {
    let Some(engine) = judge::runtime() else { return };
    let full = digits::model("v1/full.onnx");
    let (requests, labels) = digits::requests();
    let before = digits::accuracy(&judge::answers(&engine, &full, &requests), &labels);
    for signed in [true, false] {
        // ONNX Runtime's ConvInteger takes u8 activations, and weights of either sign.
        let options = Options { signed, convolutions: true, ..Options::default() };
        let (made, report) = quantize(&full, &options).unwrap();
        judge::check(&made);
        assert_eq!((report.changed.len(), count(&made, "ConvInteger")), (6, 4));
        let found = judge::answers(&engine, &made, &requests[..5]);
        let after = digits::accuracy(&found, &labels[..500]);
        println!("signed {signed}: {before} to {after}");
        assert!(after > before - 0.01);
        if let Some(on_wgpu) = judge::on_wgpu(&made, &digits::few()) {
            let ort = judge::firsts(&judge::answers(&engine, &made, &digits::few()));
            assert!(judge::least_cosine(&ort, &judge::firsts(&on_wgpu)) > 0.999);
        }
        let (back, _report) = dequantize(&made).unwrap();
        assert_eq!((count(&back, "Conv"), count(&back, "ConvInteger")), (4, 0));
        judge::answers(&engine, &back, &requests[..1]);
    }
}

#[test]
fn an_lstm_is_quantized_by_gates() {
    let Some(engine) = judge::runtime() else { return };
    let tensor = |name: &str, shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|at| ((at * 53 % 127) as f32 - 63.0) / 150.0).collect();
        TensorProto::of_floats(name, shape, &values)
    };
    let nodes = vec![
        NodeProto::new("LSTM", "lstm", &["x", "w", "r", "b"], &["y"])
            .with(onnx_graph::proto::AttributeProto::int("hidden_size", 16))
            .with(onnx_graph::proto::AttributeProto::text("direction", "bidirectional")),
    ];
    let weights = vec![tensor("w", &[2, 64, 12]), tensor("r", &[2, 64, 16]), tensor("b", &[2, 128])];
    let model = hostile::with_rank(hostile::model(nodes, weights), &[5, 1, 12], 4);
    let values: Vec<f32> = (0..60).map(|at| ((at * 17 % 41) as f32 - 20.0) / 20.0).collect();
    let request = types::Tensor::from_f32(vec![5, 1, 12], &values).unwrap();
    let requests = [vec![types::NamedTensor { name: "x".into(), tensor: request }]];
    let wanted = judge::firsts(&judge::answers(&engine, &model, &requests));
    for (signed, per_channel) in [(true, true), (true, false), (false, false)] {
        let (made, _report) = quantize(&model, &Options { signed, per_channel, ..Options::default() }).unwrap();
        assert_eq!(count(&made, "DynamicQuantizeLSTM"), 1);
        judge::check(&made);
        let found = judge::firsts(&judge::answers(&engine, &made, &requests));
        let least = judge::least_cosine(&wanted, &found);
        println!("signed {signed} per channel {per_channel}: {least}");
        assert!(least > 0.999);
    }
}

#[test]
fn an_operator_set_before_dynamic_quantization_is_refused() {
    let mut model = digits::model("v1/full.onnx");
    model.import("", 10);
    assert!(matches!(quantize(&model, &Options::default()), Err(CompressError::Option { .. })));
}
