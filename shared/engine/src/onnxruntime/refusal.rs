//! Tells a request that the model's operators cannot compute from an engine that failed.
//!
//! Fed by [`super::session`] with the code and message of a failed run. A version serves only after it has answered its
//! golden inputs, so an operator that fails on one request objects to the values or sizes of that request, unless it ran out
//! of memory or its accelerator failed.

use ort::ErrorCode;

/// Longest problem that is repeated to a client, in bytes.
const PROBLEM_BYTES_MAX: usize = 300;

/// Start of the messages about a failed node, of every code.
const OF_A_NODE: &str = "Non-zero status code returned while running ";

/// Parts of messages about the machine, not the request: memory that could not be had, and accelerators that failed.
const OF_THE_MACHINE: [&str; 9] =
    ["bad_alloc", "allocate", "out of memory", "OutOfMemory", "CUDA", "CUDNN", "CUBLAS", "TensorRT", "OpenVINO"];

/// Returns what a request did wrong, as a sentence for its sender; `None` where the engine is at fault.
pub(super) fn of_run(code: ErrorCode, message: &str) -> Option<String> {
    let is_of_a_node = message.contains(OF_A_NODE);
    let is_of_the_request = match code {
        ErrorCode::InvalidArgument => true,
        ErrorCode::GenericFailure | ErrorCode::RuntimeException | ErrorCode::NotImplemented => is_of_a_node,
        _ => false,
    };
    if !is_of_the_request || OF_THE_MACHINE.iter().any(|part| message.contains(part)) {
        return None;
    }
    let problem = status_message(message);
    let problem = match node(message) {
        Some((operator, "")) => format!("operator {operator}: {problem}"),
        Some((operator, name)) => format!("operator {operator} of node {name:?}: {problem}"),
        None => problem.to_owned(),
    };
    let end = problem.floor_char_boundary(PROBLEM_BYTES_MAX);
    Some(problem.get(..end).unwrap_or_default().to_owned())
}

/// Returns operator and name of the node that failed.
fn node(message: &str) -> Option<(&str, &str)> {
    let (operator, rest) = message.split_once(OF_A_NODE)?.1.split_once(" node")?;
    let name = rest.split_once("Name:'").and_then(|(_, rest)| rest.split_once('\'')).map_or("", |(name, _)| name);
    Some((operator, name))
}

/// Returns the operator's own words: without the place in ONNX Runtime's source, and without the stack below.
fn status_message(message: &str) -> &str {
    let said = message.split_once("Status Message:").map_or(message, |(_, said)| said).trim();
    let line = said.lines().next().unwrap_or_default();
    // "/onnxruntime_src/onnxruntime/core/…/gather.cc:124 …"
    match line.split_once(' ') {
        Some((place, rest)) if place.contains('/') && place.contains(':') => rest.trim(),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_says_of_the_input_is_kept_and_the_rest_is_dropped() {
        let gather = "Non-zero status code returned while running Gather node. Name:'pick' Status Message: indices element \
                      out of data bounds, idx=5 must be within the inclusive range [-5,4]";
        let expected = "operator Gather of node \"pick\": indices element out of data bounds, idx=5 must be within the \
                        inclusive range [-5,4]";
        assert_eq!(of_run(ErrorCode::InvalidArgument, gather).unwrap(), expected);
        let add = "Non-zero status code returned while running Add node. Name:'' Status Message: \
                   /onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:560 axis == 1 was false. Attempting to \
                   broadcast an axis by a dimension other than 1. 2 by 3\n\nStacktrace:\nsecret";
        let said = of_run(ErrorCode::RuntimeException, add).unwrap();
        assert!(said.starts_with("operator Add: axis == 1 was false") && said.ends_with("2 by 3"), "{said}");
    }

    #[test]
    fn a_machine_that_fails_is_no_fault_of_the_request() {
        let node = |message: &str| format!("{OF_A_NODE}Conv node. Name:'c' Status Message: {message}");
        for message in ["std::bad_alloc", "Failed to allocate memory for requested buffer of size 9", "CUDA failure 2"]
        {
            assert_eq!(of_run(ErrorCode::RuntimeException, &node(message)), None, "{message}");
        }
        assert_eq!(of_run(ErrorCode::GenericFailure, "the session is gone"), None);
        assert_eq!(of_run(ErrorCode::EngineError, &node("x")), None);
    }

    #[test]
    fn a_long_message_is_cut() {
        let said = of_run(ErrorCode::InvalidArgument, &"é".repeat(1000)).unwrap();
        assert!(said.len() <= PROBLEM_BYTES_MAX && said.starts_with('é'));
    }
}
