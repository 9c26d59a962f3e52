"""Writes models whose Loop or Scan the host runs into tests/cases/loops, with the answers of ONNX Runtime.

Run again after a change here, in the environment of tools/requirements.txt.
"""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from case_file import write_case

OUT = Path(__file__).parent.parent / "tests/cases/loops"
F, I, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node, info = helper.make_node, helper.make_tensor_value_info


def case(name, nodes, feeds, outputs, opset=17):
    inputs = [info(n, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim) for n, a in feeds.items()]
    graph = helper.make_graph(nodes, name, inputs, [info(n, kind, None) for n, kind in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8 if opset > 8 else 3
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers = list(zip([n for n, _ in outputs], session.run(None, feeds)))
    write_case(OUT / name, model, list(feeds.items()), answers, "close", 1e-5, 1e-6)


def body(name, nodes, inputs, outputs):
    return helper.make_graph(nodes, name, [info(n, kind, shape) for n, kind, shape in inputs], [info(n, kind, shape) for n, kind, shape in outputs])


HEAD = [("i", I, []), ("c", B, [])]
x = np.array([1.0, -2, 3], np.float32)


def integer(value):
    return np.array(value, np.int64)


def double_it(extra=(), more=()):
    """state = state + state, for as long as it goes; the states are stacked."""
    nodes = [node("Identity", ["c"], ["c2"]), node("Add", ["s", "s"], ["s2"]), node("Identity", ["s2"], ["row"]), *extra]
    return body("body", nodes, [*HEAD, ("s", F, [None])], [("c2", B, []), ("s2", F, [None]), ("row", F, [None]), *more])


def loops():
    for count in (0, 1, 5):
        case(f"count_{count}", [node("Loop", ["m", "", "x"], ["y", "rows"], body=double_it())], {"m": integer(count), "x": x}, [("y", F), ("rows", F)])
    case("condition_false_at_start", [node("Loop", ["m", "go", "x"], ["y", "rows"], body=double_it())], {"m": integer(4), "go": np.array(False), "x": x}, [("y", F), ("rows", F)])
    # While the sum is under a limit, without a count.
    limit = node("Constant", [], ["limit"], value_float=100.0)
    grow = body("grow", [node("Add", ["s", "s"], ["s2"]), node("ReduceSum", ["s2"], ["sum"], keepdims=0), node("Less", ["sum", "limit"], ["c2"])],
                [*HEAD, ("s", F, [None])], [("c2", B, []), ("s2", F, [None])])
    yes = node("Constant", [], ["yes"], value=helper.make_tensor("t", B, [], [True]))
    case("while", [limit, yes, node("Loop", ["", "yes", "x"], ["y"], body=grow)], {"x": np.abs(x)}, [("y", F)])
    # Captures from outside, a constant that leaves the loop, and the number of the iteration in arithmetic.
    capture = body("capture", [node("Identity", ["c"], ["c2"]), node("Cast", ["i"], ["f"], to=F), node("Mul", ["w", "f"], ["wf"]), node("Add", ["s", "wf"], ["s2"]),
                               node("Constant", [], ["k"], value_float=2.5)], [*HEAD, ("s", F, [None])], [("c2", B, []), ("s2", F, [None]), ("k", F, [])])
    case("captures", [node("Exp", ["x"], ["w"]), node("Loop", ["m", "", "x"], ["y", "k"], body=capture), node("Neg", ["y"], ["z"])], {"m": integer(3), "x": x}, [("z", F), ("k", F)])
    # The number of the iteration decides what is sliced and gathered.
    one = node("Constant", [], ["one"], value=helper.make_tensor("t", I, [1], [1]))
    slices = body("slices", [node("Identity", ["c"], ["c2"]), node("Unsqueeze", ["i", "axis0"], ["start"]), node("Add", ["start", "one"], ["end"]),
                             node("Slice", ["x", "start", "end"], ["part"]), node("Add", ["s", "part"], ["s2"]), node("Gather", ["x", "i"], ["item"])],
                  [*HEAD, ("s", F, [1])], [("c2", B, []), ("s2", F, [1]), ("item", F, [])])
    axis0 = node("Constant", [], ["axis0"], value=helper.make_tensor("t", I, [1], [0]))
    first = node("Slice", ["x", "axis0", "one"], ["first"])
    case("slices", [one, axis0, first, node("Loop", ["m", "", "first"], ["y", "items"], body=slices)], {"m": integer(3), "x": x}, [("y", F), ("items", F)])
    # A state that grows, and one that is an integer counter.
    grows = body("grows", [node("Identity", ["c"], ["c2"]), node("Concat", ["s", "x"], ["s2"], axis=0), node("Add", ["n", "one1"], ["n2"])],
                 [*HEAD, ("s", F, [None]), ("n", I, [])], [("c2", B, []), ("s2", F, [None]), ("n2", I, [])])
    one1 = node("Constant", [], ["one1"], value=helper.make_tensor("t", I, [], [1]))
    case("growing_state", [one1, node("Loop", ["m", "", "x", "m"], ["y", "n"], body=grows)], {"m": integer(3), "x": x}, [("y", F), ("n", I)])
    # A loop in a loop, and a branch in a loop.
    inner = body("inner", [node("Identity", ["ci"], ["ci2"]), node("Add", ["t", "x"], ["t2"])], [("j", I, []), ("ci", B, []), ("t", F, [None])], [("ci2", B, []), ("t2", F, [None])])
    outer = body("outer", [node("Identity", ["c"], ["c2"]), node("Loop", ["i", "", "s"], ["s2"], body=inner)], [*HEAD, ("s", F, [None])], [("c2", B, []), ("s2", F, [None])])
    case("loop_in_loop", [node("Loop", ["m", "", "x"], ["y"], body=outer)], {"m": integer(4), "x": x}, [("y", F)])
    then = body("then", [node("Neg", ["s"], ["r"])], [], [("r", F, [None])])
    other = body("other", [node("Add", ["s", "x"], ["q"])], [], [("q", F, [None])])
    choose = body("choose", [node("Identity", ["c"], ["c2"]), node("ReduceSum", ["s"], ["sum"], keepdims=0), node("Greater", ["sum", "three"], ["big"]),
                             node("If", ["big"], ["s2"], then_branch=then, else_branch=other)], [*HEAD, ("s", F, [None])], [("c2", B, []), ("s2", F, [None])])
    three = node("Constant", [], ["three"], value_float=3.0)
    case("branch_in_loop", [three, node("Loop", ["m", "", "x"], ["y"], body=choose)], {"m": integer(6), "x": x}, [("y", F)])
    # A host node in a loop: how much is found differs from round to round.
    found = body("found", [node("Identity", ["c"], ["c2"]), node("Cast", ["i"], ["f"], to=F), node("Sub", ["s", "f"], ["d"]), node("Relu", ["d"], ["r"]),
                           node("NonZero", ["r"], ["nz"]), node("Shape", ["nz"], ["sh"]), node("ReduceSum", ["sh"], ["total"], keepdims=0), node("Add", ["n", "total"], ["n2"]), node("Identity", ["s"], ["s2"])],
                 [*HEAD, ("s", F, [None]), ("n", I, [])], [("c2", B, []), ("s2", F, [None]), ("n2", I, [])])
    case("host_node_in_loop", [node("Loop", ["m", "", "x", "m"], ["y", "n"], body=found)], {"m": integer(3), "x": np.abs(x)}, [("n", I)])
    # What follows the loop depends on the shape of what it made.
    case("behind", [node("Loop", ["m", "", "x"], ["y", "rows"], body=double_it()), node("Shape", ["rows"], ["shape"]), node("Expand", ["y", "shape"], ["wide"]), node("Add", ["wide", "rows"], ["z"])],
         {"m": integer(4), "x": x}, [("z", F)])


def scans():
    step = body("step", [node("Add", ["s", "v"], ["s2"]), node("Mul", ["s2", "v"], ["o"])], [("s", F, [2]), ("v", F, [2])], [("s2", F, [2]), ("o", F, [2])])
    v = np.arange(6, dtype=np.float32).reshape(3, 2)
    s = np.array([0.5, -1], np.float32)
    case("scan_sum", [node("Scan", ["s", "v"], ["y", "o"], body=step, num_scan_inputs=1)], {"s": s, "v": v}, [("y", F), ("o", F)])
    case("scan_backwards", [node("Scan", ["s", "v"], ["y", "o"], body=step, num_scan_inputs=1, scan_input_directions=[1], scan_output_directions=[1])], {"s": s, "v": v}, [("y", F), ("o", F)])
    case("scan_axes", [node("Scan", ["s", "v"], ["y", "o"], body=step, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[-1])], {"s": s, "v": v.T.copy()}, [("y", F), ("o", F)])
    pair = body("pair", [node("Sub", ["b", "row"], ["d"]), node("ReduceSumSquare", ["d"], ["o"], axes=[1], keepdims=0), node("Identity", ["b"], ["b2"])], [("b", F, [None, None]), ("row", F, [None])], [("b2", F, [None, None]), ("o", F, [None])])
    case("scan_distances", [node("Scan", ["b", "a"], ["bb", "y"], body=pair, num_scan_inputs=1)], {"b": v, "a": np.flip(v, 0).copy()}, [("y", F)], 13)
    two = body("two", [node("Mul", ["p", "q"], ["o"])], [("p", F, [None]), ("q", F, [None])], [("o", F, [None])])
    case("scan_two", [node("Scan", ["v", "w"], ["o"], body=two, num_scan_inputs=2, scan_input_directions=[0, 1])], {"v": v, "w": v + 1}, [("o", F)])
    batched(v)


def batched(v):
    """Scan before operator set 9, over sequences of a batch."""
    step = body("step", [node("Add", ["s", "v"], ["s2"]), node("Mul", ["s2", "v"], ["o"])], [("s", F, [2]), ("v", F, [2])], [("s2", F, [2]), ("o", F, [2])])
    sequences, states = np.stack([v, v + 1, -v]), np.array([[0.5, -1], [0, 2], [3, 3]], np.float32)
    feeds = {"s": states, "v": sequences}
    case("scan_batch", [node("Scan", ["", "s", "v"], ["y", "o"], body=step, num_scan_inputs=1)], feeds, [("y", F), ("o", F)], 8)
    case("scan_batch_backwards", [node("Scan", ["", "s", "v"], ["y", "o"], body=step, num_scan_inputs=1, directions=[1])], feeds, [("y", F), ("o", F)], 8)
    case("scan_batch_behind", [node("Exp", ["s"], ["e"]), node("Scan", ["", "e", "v"], ["y", "o"], body=step, num_scan_inputs=1), node("Neg", ["o"], ["z"])], feeds, [("z", F)], 8)
    inner = body("inner", [node("Mul", ["v", "w"], ["o"])], [("v", F, [2])], [("o", F, [2])])
    case("scan_batch_captures", [node("Scan", ["", "v"], ["o"], body=inner, num_scan_inputs=1)], {"v": sequences, "w": np.array([2.0, -3], np.float32)}, [("o", F)], 8)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    loops()
    scans()
    print(len(list(OUT.iterdir())), "cases")
