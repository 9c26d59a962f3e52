//! Preparation changes how a model says something, not what it says.

mod support;

use compress::prepare;
use onnx_graph::Values;
use onnx_graph::proto::{NodeProto, TensorProto};
use support::{cosine, model, noise, noisy, run, runtime, value};

#[test]
fn sums_products_and_activations_are_put_together_and_answers_stay() {
    let Some(engine) = runtime() else { return };
    let scalar = |name: &str, number: f32| TensorProto::of_floats(name, &[], &[number]);
    let written_out = model(
        vec![
            NodeProto::new("Conv", "conv", &["x", "w"], &["a"]),
            NodeProto::new("Add", "bias", &["a", "added"], &["b"]),
            NodeProto::new("Mul", "scale", &["b", "factor"], &["c"]),
            NodeProto::new("Div", "g1", &["c", "root"], &["g1"]),
            NodeProto::new("Erf", "g2", &["g1"], &["g2"]),
            NodeProto::new("Add", "g3", &["g2", "one"], &["g3"]),
            NodeProto::new("Mul", "g4", &["c", "g3"], &["g4"]),
            NodeProto::new("Mul", "g5", &["g4", "half"], &["d"]),
            NodeProto::new("Add", "h1", &["d", "three"], &["h1"]),
            NodeProto::new("Clip", "h2", &["h1", "zero", "six"], &["h2"]),
            NodeProto::new("Mul", "h3", &["h2", "d"], &["h3"]),
            NodeProto::new("Div", "h4", &["h3", "six"], &["y"]),
        ],
        vec![
            noisy("w", 1, &[4, 4, 3, 3]),
            noisy("added", 2, &[1, 4, 1, 1]),
            noisy("factor", 3, &[4, 1, 1]),
            scalar("root", std::f32::consts::SQRT_2),
            scalar("one", 1.0),
            scalar("half", 0.5),
            scalar("three", 3.0),
            scalar("zero", 0.0),
            scalar("six", 6.0),
        ],
        vec![value("x", &[-1, 4, 6, 6])],
        vec![value("y", &[-1, 4, 4, 4])],
    );
    let prepared = prepare(&written_out).unwrap();
    let operators: Vec<&str> = prepared.graph.nodes.iter().map(|node| node.op_type()).collect();
    assert_eq!(operators, ["Conv", "Gelu", "HardSwish"]);
    let answer = |model| run(&engine, model, &[("x", vec![3, 4, 6, 6], noise(5, 432))]).remove(0);
    let (before, after) = (answer(&written_out), answer(&prepared));
    assert!(cosine(&before, &after) > 0.999_999_9);
}
