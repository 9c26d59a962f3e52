"""Writes models with functions of their own into tests/cases/functions, with the answers of ONNX Runtime.

Run again after a change here, in the environment of tools/requirements.txt.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from case_file import write_case

OUT = Path(__file__).parent.parent / "tests/cases/functions"
F, B = TensorProto.FLOAT, TensorProto.BOOL
OWN = "our.functions"
node = helper.make_node


def reference(name: str, kind) -> onnx.AttributeProto:
    """An attribute that stands for one of the function."""
    made = onnx.AttributeProto()
    made.name, made.ref_attr_name, made.type = name, name, kind
    return made


def function(name, inputs, outputs, nodes, attributes=(), defaults=(), opset=17, overload=None, domain=OWN, more=()):
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1), *more]
    made = helper.make_function(domain, name, inputs, outputs, nodes, imports, list(attributes), list(defaults))
    if overload is not None:
        made.overload = overload
    return made


def case(name, nodes, functions, outputs=("y",), feeds=None, infos=None, ir=9, opset=17):
    feeds = feeds or {"x": np.array([[1.0, -2, 3], [0.5, -0.25, -4]], np.float32)}
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    graph = helper.make_graph(nodes, name, inputs, [helper.make_tensor_value_info(n, F, None) for n in outputs])
    model = helper.make_model(graph, functions=functions, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(OWN, 1)])
    model.ir_version = ir
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers = list(zip(outputs, session.run(list(outputs), feeds)))
    write_case(OUT / name, model, list(feeds.items()), answers, "close", 1e-5, 1e-6)


def scaled():
    """y = t * alpha + b; b may be left out; alpha is 2 unless given."""
    constant = node("Constant", [], ["alpha"])
    constant.attribute.append(reference("value_float", onnx.AttributeProto.FLOAT))
    constant.attribute[0].ref_attr_name = "alpha"
    return function("Scaled", ["t"], ["y"], [constant, node("Mul", ["t", "alpha"], ["y"])], defaults=[helper.make_attribute("alpha", 2.0)])


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    call = lambda op, inputs, outputs, name="", **attributes: node(op, inputs, outputs, name=name, domain=OWN, **attributes)
    twice = function("Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["t"]), node("Relu", ["t"], ["b"])])
    case("once", [call("Twice", ["x"], ["y"])], [twice])
    case("names_clash", [node("Neg", ["x"], ["t"]), call("Twice", ["t"], ["a"]), call("Twice", ["a"], ["b"]), node("Add", ["t", "b"], ["y"])], [twice])
    case("attribute_given", [call("Scaled", ["x"], ["y"], alpha=-3.0)], [scaled()])
    case("attribute_default", [call("Scaled", ["x"], ["y"])], [scaled()])
    outer = call("Scaled", ["t"], ["y"])
    outer.attribute.append(reference("alpha", onnx.AttributeProto.FLOAT))
    nested = function("Outer", ["t"], ["y"], [outer], attributes=["alpha"])
    case("attribute_through_two", [call("Outer", ["x"], ["y"], alpha=0.5)], [nested, scaled()])
    case("attribute_left_out_above", [call("Outer", ["x"], ["y"])], [nested, scaled()])
    softmax = node("Softmax", ["t"], ["y"])
    softmax.attribute.append(reference("axis", onnx.AttributeProto.INT))
    case("attribute_axis", [call("Soft", ["x"], ["y"], axis=0)], [function("Soft", ["t"], ["y"], [softmax], attributes=["axis"])])
    case("attribute_axis_left_out", [call("Soft", ["x"], ["y"])], [function("Soft", ["t"], ["y"], [softmax], attributes=["axis"])])
    clip = function("Limit", ["t", "low", "high"], ["y"], [node("Clip", ["t", "low", "high"], ["y"])])
    one = node("Constant", [], ["one"], value_float=1.0)
    case("input_left_out", [one, call("Limit", ["x", "", "one"], ["y"])], [clip])
    case("input_left_out_at_end", [one, call("Limit", ["x", "one"], ["y"])], [clip])
    two = function("Two", ["t"], ["p", "q"], [node("Neg", ["t"], ["p"]), node("Exp", ["p"], ["q"])])
    case("output_unwanted", [call("Two", ["x"], ["", "y"])], [two])
    case("outputs_both", [call("Two", ["x"], ["z", "y"])], [two], outputs=("y", "z"))
    chain = function("Chain", ["t"], ["y"], [call("Twice", ["t"], ["a"]), call("Twice", ["a"], ["b"]), node("Sub", ["b", "t"], ["y"])])
    case("calls_in_a_function", [call("Chain", ["x"], ["t"]), call("Chain", ["t"], ["y"])], [chain, twice])
    # A branch inside a function sees the function's values, and calls another.
    then = helper.make_graph([call("Twice", ["t"], ["r"])], "then", [], [helper.make_tensor_value_info("r", F, None)])
    other = helper.make_graph([node("Neg", ["t"], ["s"])], "else", [], [helper.make_tensor_value_info("s", F, None)])
    zero = node("Constant", [], ["zero"], value_float=0.0)
    total = node("ReduceSum", ["t"], ["sum"], keepdims=0)
    branch = function("Branch", ["t"], ["y"], [zero, total, node("Greater", ["sum", "zero"], ["c"]), node("If", ["c"], ["y"], then_branch=then, else_branch=other)])
    for sign, value in (("taken", 1.0), ("passed", -1.0)):
        case(f"branch_{sign}", [call("Branch", ["x"], ["r"]), call("Branch", ["r"], ["y"])], [branch, twice], feeds={"x": np.array([value, 0.5], np.float32)})
    inner = helper.make_graph([call("Twice", ["x"], ["t"])], "then", [], [helper.make_tensor_value_info("t", F, None)])
    same = helper.make_graph([call("Twice", ["n"], ["t"])], "else", [], [helper.make_tensor_value_info("t", F, None)])
    nodes = [node("Neg", ["x"], ["n"]), node("If", ["c"], ["y"], then_branch=inner, else_branch=same)]
    for flag in (True, False):
        case(f"call_in_a_branch_{flag}".lower(), nodes, [twice], feeds={"x": np.array([1.0, -2], np.float32), "c": np.array(flag)})
    older = function("Older", ["a"], ["b"], [node("Add", ["a", "a"], ["t"]), node("Relu", ["t"], ["b"])], opset=14)
    case("older_operator_set", [call("Older", ["x"], ["y"])], [older])
    # The same name with two bodies.
    minus = function("Act", ["t"], ["y"], [node("Neg", ["t"], ["y"])], overload="minus")
    plus = function("Act", ["t"], ["y"], [node("Abs", ["t"], ["y"])], overload="plus")
    calls = [call("Act", ["x"], ["t"]), call("Act", ["t"], ["y"])]
    calls[0].overload, calls[1].overload = "plus", "minus"
    case("overloads", calls, [minus, plus], ir=10)
    print(len(list(OUT.iterdir())), "cases")


if __name__ == "__main__":
    main()
