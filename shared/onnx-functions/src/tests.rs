//! Models that a hostile or careless author writes.

use crate::message::{Fields, Writer};
use crate::scope::{graph, node};
use crate::{CALL_DEPTH_MAX, InlineError, Limits, inlined, model};

const OWN: &[u8] = b"own";

fn node_of(domain: &[u8], op: &[u8], inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let mut message = Writer::default();
    inputs.iter().for_each(|name| message.bytes(node::INPUT, name.as_bytes()));
    outputs.iter().for_each(|name| message.bytes(node::OUTPUT, name.as_bytes()));
    message.bytes(node::OP_TYPE, op);
    message.bytes(node::DOMAIN, domain);
    message.into_bytes()
}

fn call(function: &str) -> Vec<u8> {
    node_of(OWN, function.as_bytes(), &["x"], &["y"])
}

/// A function of one input and one output.
fn function(name: &str, opset: i64, nodes: &[Vec<u8>]) -> Vec<u8> {
    let mut message = Writer::default();
    message.bytes(1, name.as_bytes());
    message.bytes(10, OWN);
    message.bytes(4, b"x");
    message.bytes(5, b"y");
    nodes.iter().for_each(|node| message.bytes(7, node));
    message.bytes(9, &crate::opsets::written(b"", opset));
    message.into_bytes()
}

fn file(nodes: &[Vec<u8>], functions: &[Vec<u8>]) -> Vec<u8> {
    let mut inner = Writer::default();
    nodes.iter().for_each(|node| inner.bytes(graph::NODE, node));
    let mut message = Writer::default();
    message.bytes(model::OPSET_IMPORT, &crate::opsets::written(b"", 17));
    message.bytes(model::GRAPH, &inner.into_bytes());
    functions.iter().for_each(|function| message.bytes(model::FUNCTION, function));
    message.into_bytes()
}

fn refusal(nodes: &[Vec<u8>], functions: &[Vec<u8>]) -> InlineError {
    inlined(&file(nodes, functions), &Limits::default()).unwrap_err()
}

/// Names of the operators of the main graph.
fn operators(model: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let main = crate::scope::field(model, model::GRAPH).unwrap();
    let mut fields = Fields::of(main);
    while let Some((number, value)) = fields.next().unwrap() {
        if number == graph::NODE {
            let op = crate::scope::field(value.bytes().unwrap(), node::OP_TYPE).unwrap();
            found.push(String::from_utf8_lossy(op).into_owned());
        }
    }
    found
}

#[test]
fn a_model_without_functions_is_left_alone() {
    assert_eq!(inlined(&file(&[node_of(b"", b"Relu", &["x"], &["y"])], &[]), &Limits::default()), Ok(None));
}

#[test]
fn a_call_becomes_the_nodes_of_its_body() {
    let body = [node_of(b"", b"Neg", &["x"], &["t"]), node_of(b"", b"Relu", &["t"], &["y"])];
    let made = inlined(&file(&[call("F")], &[function("F", 17, &body)]), &Limits::default()).unwrap().unwrap();
    assert_eq!(operators(&made), ["Neg", "Relu"]);
    assert_eq!(inlined(&made, &Limits::default()), Ok(None), "no function is left");
}

#[test]
fn an_output_that_is_an_input_is_handed_on() {
    let mut empty = Writer::default();
    for (number, bytes) in [(1, &b"F"[..]), (10, OWN), (4, b"x"), (5, b"x")] {
        empty.bytes(number, bytes);
    }
    let made = inlined(&file(&[call("F")], &[empty.into_bytes()]), &Limits::default()).unwrap().unwrap();
    assert_eq!(operators(&made), ["Identity"]);
}

#[test]
fn a_function_that_calls_itself_is_refused() {
    let itself = function("F", 17, &[call("F")]);
    assert_eq!(refusal(&[call("F")], &[itself]), InlineError::Recursion { function: "F".into() });
    let (f, g) = (function("F", 17, &[call("G")]), function("G", 17, &[call("F")]));
    assert_eq!(refusal(&[call("F")], &[f, g]), InlineError::Recursion { function: "F".into() });
}

#[test]
fn functions_that_multiply_are_stopped_at_the_limits() {
    // Ten functions, each of which calls the next ten times.
    let level = |at: usize| {
        let next = if at == 9 { node_of(b"", b"Relu", &["x"], &["y"]) } else { call(&format!("F{}", at + 1)) };
        function(&format!("F{at}"), 17, &vec![next; 10])
    };
    let functions: Vec<Vec<u8>> = (0..10).map(level).collect();
    assert_eq!(refusal(&[call("F0")], &functions), InlineError::Nodes { limit: Limits::default().nodes });
    let limits = Limits { added_bytes: 1000, ..Limits::default() };
    let error = inlined(&file(&[call("F0")], &functions), &limits).unwrap_err();
    assert_eq!(error, InlineError::Bytes { limit: 1000 });
}

#[test]
fn a_long_chain_of_calls_is_refused() {
    let level = |at: usize| function(&format!("F{at}"), 17, &[call(&format!("F{}", at + 1))]);
    let functions: Vec<Vec<u8>> = (0..=CALL_DEPTH_MAX).map(level).collect();
    assert_eq!(refusal(&[call("F0")], &functions), InlineError::CallDepth);
}

#[test]
fn two_functions_of_one_name_and_calls_with_too_many_values_are_refused() {
    let f = || function("F", 17, &[node_of(b"", b"Relu", &["x"], &["y"])]);
    assert!(matches!(refusal(&[call("F")], &[f(), f()]), InlineError::Twice { .. }));
    let wide = node_of(OWN, b"F", &["a", "b"], &["y"]);
    assert!(matches!(refusal(&[wide], &[f()]), InlineError::Arity { what: "inputs", given: 2, known: 1, .. }));
    let tall = node_of(OWN, b"F", &["a"], &["y", "z"]);
    assert!(matches!(refusal(&[tall], &[f()]), InlineError::Arity { what: "outputs", given: 2, known: 1, .. }));
}

#[test]
fn a_body_of_another_operator_set_is_inlined_only_where_it_means_the_same() {
    let body = |op: &[u8]| function("F", 11, &[node_of(b"", op, &["x"], &["y"])]);
    assert!(inlined(&file(&[call("F")], &[body(b"Relu")]), &Limits::default()).is_ok());
    let error = refusal(&[call("F")], &[body(b"Softmax")]);
    assert!(matches!(error, InlineError::Opset { own: 11, model: 17, .. }), "{error}");
}

#[test]
fn no_spoilt_copy_of_a_model_panics() {
    let body = [node_of(b"", b"Neg", &["x"], &["t"]), node_of(b"", b"Relu", &["t"], &["y"])];
    let whole = file(&[call("F"), call("G")], &[function("F", 17, &body), function("G", 17, &[call("F")])]);
    for at in 0..whole.len() {
        drop(inlined(&whole[..at], &Limits::default()));
        for bit in 0..8 {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1 << bit;
            drop(inlined(&spoilt, &Limits::default()));
        }
    }
}
