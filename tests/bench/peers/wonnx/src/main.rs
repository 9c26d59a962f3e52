//! One model in wonnx: `peer-wonnx MODEL.onnx INPUT_NAME INPUT.f32`, the input as little-endian f32 of the model's shape.

#[path = "../../serve.rs"]
mod serve;

use std::collections::HashMap;

use pollster::block_on;
use serve::{Subject, serve};
use wonnx::Session;

struct Model {
    session: Session,
    name: String,
    input: Vec<f32>,
    output: Vec<f32>,
}

impl Subject for Model {
    fn run(&mut self) {
        let inputs = HashMap::from([(self.name.clone(), self.input.as_slice().into())]);
        let outputs = block_on(self.session.run(&inputs)).expect("wonnx runs the model");
        let first = outputs.into_values().next().expect("a model has an output");
        self.output = first.try_into().expect("a float output");
    }

    fn output(&mut self) -> Vec<f32> {
        self.output.clone()
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, name, input] = arguments.as_slice() else { panic!("MODEL.onnx INPUT_NAME INPUT.f32") };
    let bytes = std::fs::read(input).expect("the input file");
    let input = bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    let session = block_on(Session::from_path(model)).expect("wonnx loads the model");
    let mut model = Model { session, name: name.clone(), input, output: Vec::new() };
    serve("wonnx's default device", &mut model).expect("the benchmark listens");
}
