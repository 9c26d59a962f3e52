//! What is inferred of types and shapes is what Python's onnx infers, wherever both know.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may do what tests may")]

mod support;

use std::collections::{HashMap, HashSet};

use onnx_graph::check::{Malformed, check};
use onnx_graph::infer::{Dim, infer};
use onnx_graph::proto::{ModelProto, NodeProto, TensorProto};
use onnx_graph::{Graph, Model, Values};
use support::{Case, judged, node_cases, read, real_models};

/// How many dimensions both know, and how many only Python's onnx knows.
#[derive(Default, Debug)]
struct Count {
    same: usize,
    only_theirs: usize,
    values: usize,
    values_unknown: Vec<String>,
}

/// Compares line by line; gives what contradicts.
fn compare(case: &Case, line: &str, count: &mut Count) -> Vec<String> {
    let (name, model) = (&case.name, read(case));
    let types = infer(&model, &HashMap::new());
    let made: HashSet<&String> = model.graph.nodes.iter().flat_map(|node| &node.output).collect();
    let mut wrong = Vec::new();
    for value in line.split('\t').filter(|value| !value.is_empty()) {
        let fields: Vec<&str> = value.split('\u{1f}').collect();
        let &[value, element, dims] = fields.as_slice() else { panic!("{name}: {line}") };
        // Some files declare values that they no longer have.
        if !made.contains(&value.to_owned()) {
            continue;
        }
        count.values += 1;
        let Some(ours) = types.of(value) else {
            count.values_unknown.push(value.to_owned());
            continue;
        };
        let element: i32 = element.parse().unwrap();
        if element != 0 && ours.element as i32 != 0 && element != ours.element as i32 {
            wrong.push(format!("{name}: {value} is {:?}, not {element}", ours.element));
        }
        let Some(shape) = ours.shape.as_ref().filter(|_| dims != "*") else { continue };
        let theirs: Vec<&str> = dims.split(',').filter(|dim| !dim.is_empty()).collect();
        if theirs.len() != shape.len() {
            wrong.push(format!("{name}: {value} has {shape:?}, not {theirs:?}"));
            continue;
        }
        for (ours, theirs) in shape.iter().zip(&theirs) {
            match (ours, theirs.parse::<i64>()) {
                (Dim::Known(ours), Ok(theirs)) if *ours == theirs => count.same += 1,
                (Dim::Known(_), Ok(_)) => wrong.push(format!("{name}: {value} has {shape:?}, not {dims}")),
                (_, Ok(_)) => count.only_theirs += 1,
                _ => {}
            }
        }
    }
    wrong
}

fn agree(cases: &[Case]) -> Option<Count> {
    let given: Vec<_> = cases.iter().map(|case| (case.name.clone(), case.model.to_vec())).collect();
    let lines = judged("shapes", &given)?;
    let (mut count, mut wrong) = (Count::default(), Vec::new());
    for (case, line) in cases.iter().zip(lines) {
        // What Python's onnx refuses has no shapes to compare.
        if !line.starts_with("error: ") {
            wrong.extend(compare(case, &line, &mut count));
        }
    }
    assert!(wrong.is_empty(), "{} contradictions:\n{}", wrong.len(), wrong.join("\n"));
    Some(count)
}

#[test]
fn shapes_of_real_models_are_those_of_pythons_onnx() {
    let Some(count) = agree(&real_models()) else { return };
    println!("{} dims the same, {} only theirs, {} values", count.same, count.only_theirs, count.values);
    println!(
        "{} of no type: {:?}",
        count.values_unknown.len(),
        count.values_unknown.iter().take(40).collect::<Vec<_>>()
    );
    assert!(count.only_theirs * 20 < count.same, "too little is known: {} of {}", count.same, count.only_theirs);
}

#[test]
fn shapes_of_node_cases_are_those_of_pythons_onnx() {
    // What the cases declare of their outputs is right, and taken for granted in values in between only.
    let Some(count) = agree(&node_cases()) else { return };
    println!("{} dims the same, {} only theirs, {} values", count.same, count.only_theirs, count.values);
}

#[test]
fn named_dimensions_take_the_numbers_they_are_given() {
    let Some(case) = real_models().into_iter().find(|case| case.name == "minilm_2x33") else { return };
    let model = read(&case);
    let named: Vec<String> = model.graph.inputs.iter().map(|input| input.name().to_owned()).collect();
    let open = infer(&model, &HashMap::new());
    let names: Vec<Dim> = open.shape(&named[0]).unwrap().to_vec();
    let [Dim::Named(batch), Dim::Named(length)] = names.as_slice() else { panic!("{names:?}") };
    let sizes = HashMap::from([(batch.clone(), 2), (length.clone(), 33)]);
    let types = infer(&model, &sizes);
    let output = model.graph.outputs[0].name();
    assert_eq!(types.of(output).unwrap().sizes().unwrap(), [2, 33, 384]);
}

#[test]
fn every_model_that_pythons_checker_accepts_is_accepted() {
    let mut cases = node_cases();
    cases.extend(real_models());
    let given: Vec<_> = cases.iter().map(|case| (case.name.clone(), case.model.to_vec())).collect();
    let Some(verdicts) = judged("check", &given) else { return };
    let mut wrong = Vec::new();
    for (case, theirs) in cases.iter().zip(verdicts) {
        if let (Err(error), true) = (check(&read(case)), theirs == "ok") {
            wrong.push(format!("{}: {error}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn model(nodes: Vec<NodeProto>) -> Model {
    let graph = Graph {
        nodes,
        inputs: vec![support::float_value("x", &[2])],
        outputs: vec![support::float_value("y", &[2])],
        ..Graph::default()
    };
    let mut model = Model { graph, rest: ModelProto { ir_version: Some(8), ..ModelProto::default() } };
    model.import("", 17);
    model
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto::new(operator, "n", inputs, outputs)
}

#[test]
fn malformed_graphs_are_refused_for_what_is_wrong_with_them() {
    use Malformed::{Arity, Cycle, Import, MadeTwice, NotMade, Operator, OutputNotMade, Weight};
    let refused = |model: &Model| check(model).unwrap_err();
    assert_eq!(check(&model(vec![node("Relu", &["x"], &["y"])])), Ok(()));
    assert!(matches!(refused(&model(vec![])), OutputNotMade { .. }));
    let twice = vec![node("Relu", &["x"], &["y"]), node("Relu", &["x"], &["y"])];
    assert!(matches!(refused(&model(twice)), MadeTwice { .. }));
    assert!(matches!(refused(&model(vec![node("Relu", &["z"], &["y"])])), NotMade { .. }));
    let circle = vec![node("Add", &["x", "y"], &["a"]), node("Relu", &["a"], &["y"])];
    assert!(matches!(refused(&model(circle)), Cycle(_)));
    assert!(matches!(refused(&model(vec![node("Add", &["x"], &["y"])])), Arity { what: "inputs", .. }));
    assert!(matches!(refused(&model(vec![node("Add", &["x", ""], &["y"])])), Arity { what: "inputs", .. }));
    assert!(matches!(refused(&model(vec![node("Relu", &["x"], &["y", "z"])])), Arity { what: "outputs", .. }));
    assert!(matches!(refused(&model(vec![node("Rélu", &["x"], &["y"])])), Operator { .. }));
    assert!(matches!(refused(&model(vec![node("Gelu", &["x"], &["y"])])), Operator { .. }));
    let foreign = node("Gelu", &["x"], &["y"]).in_domain("com.microsoft");
    assert!(matches!(refused(&model(vec![foreign])), Import { times: 0, .. }));
    let mut short = model(vec![node("Relu", &["x"], &["y"])]);
    short.graph.add_initializer(TensorProto::of_floats("w", &[3], &[1.0]));
    assert!(matches!(refused(&short), Weight(_)));
}
