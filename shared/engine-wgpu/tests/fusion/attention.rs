//! Attention that exporters write out, as two products and a softmax.

use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use rten_onnx::onnx::DataType;

use crate::oracle::{Case, Random, int, ints};
use crate::support::{Model, engine, ints as ints_of};
use crate::{fuses, operators};

/// How exporters write attention: heads moved in front, both operands or the scores scaled, a mask, a guard, heads moved back.
fn written_out_attention(sizes: [usize; 5], halves: bool, guard: bool, mask: &[usize]) -> Case {
    let [batch, queries, keys, heads, size] = sizes;
    let random = &mut Random::new(21);
    let mut floats = |count: usize| random.floats(count, 1.0);
    let (q, kv) = (batch * queries * heads * size, batch * keys * heads * size);
    // Some keys are barred, the first row of a guarded mask as a whole.
    let bar = |at: usize| if at.is_multiple_of(3) || (guard && at < keys) { f32::NEG_INFINITY } else { 0.25 };
    let barred: Vec<f32> = (0..mask.iter().product()).map(bar).collect();
    let mut case = Case::new(17)
        .floats(false, "q", &[batch, queries, heads, size], &floats(q))
        .floats(false, "k", &[batch, keys, heads, size], &floats(kv))
        .floats(false, "v", &[batch, keys, heads, size], &floats(kv))
        .floats(false, "mask", mask, &barred)
        .floats(true, "root", &[1], &[0.6])
        .floats(true, "divisor", &[], &[1.7])
        .floats(true, "zero", &[], &[0.0])
        .node("Transpose", &["q"], &["qh"], vec![ints("perm", &[0, 2, 1, 3])])
        .node("Transpose", &["k"], &["kh"], vec![ints("perm", &[0, 2, 3, 1])])
        .node("Transpose", &["v"], &["vh"], vec![ints("perm", &[0, 2, 1, 3])]);
    case = if halves {
        case.node("Mul", &["qh", "root"], &["qs"], vec![]).node("Mul", &["root", "kh"], &["ks"], vec![]).node(
            "MatMul",
            &["qs", "ks"],
            &["scores"],
            vec![],
        )
    } else {
        case.node("MatMul", &["qh", "kh"], &["raw"], vec![]).node("Div", &["raw", "divisor"], &["scores"], vec![])
    };
    case = case.node("Add", &["scores", "mask"], &["masked"], vec![]).node(
        "Softmax",
        &["masked"],
        &["p"],
        vec![int("axis", 3)],
    );
    if guard {
        case = case.node("IsNaN", &["p"], &["nan"], vec![]).node("Where", &["nan", "zero", "p"], &["sure"], vec![]);
    }
    case.node("MatMul", &[if guard { "sure" } else { "p" }, "vh"], &["mixed"], vec![])
        .node("Transpose", &["mixed"], &["y"], vec![ints("perm", &[0, 2, 1, 3])])
        .output("y", DataType::FLOAT)
}

#[test]
fn attention_written_out_is_two_products_and_a_softmax() {
    let Some(wgpu) = engine() else { return };
    // The kernels of real GPUs too: tiles and rows by whole workgroups.
    let tiles = AdapterChoice { allow_software: true, workgroup_tiles: Some(true), ..AdapterChoice::for_tests() };
    let tiles = WgpuEngine::open(&tiles, BUDGET_BYTES, None).unwrap();
    for sizes in [[2, 5, 7, 3, 8], [1, 1, 9, 2, 4], [1, 33, 33, 2, 16], [3, 4, 6, 1, 5], [1, 70, 300, 1, 32]] {
        let [batch, queries, keys, heads, _size] = sizes;
        for mask in [vec![batch, 1, 1, keys], vec![queries, keys], vec![batch, heads, queries, keys], vec![keys]] {
            for (halves, guard) in [(true, false), (false, true)] {
                let case = written_out_attention(sizes, halves, guard, &mask);
                let softmax = if guard { "sanderling::Softmax" } else { "Softmax" };
                fuses(&wgpu, &case, 1e-5, &["Transpose", "sanderling::MatMul", softmax, "sanderling::MatMul"]);
                case.agrees_about(&tiles, 1e-5, "by workgroup tiles");
            }
        }
    }
}

#[test]
fn what_only_looks_like_attention_is_left_alone() {
    let Some(wgpu) = engine() else { return };
    let random = &mut Random::new(22);
    // A factor for each column, an addend that makes the product larger, another move, and a product that somebody asks for.
    let case = Case::new(17)
        .floats(false, "a", &[1, 2, 3, 4], &random.floats(24, 1.0))
        .floats(false, "b", &[1, 2, 4, 3], &random.floats(24, 1.0))
        .floats(true, "columns", &[3], &random.floats(3, 1.0))
        .floats(false, "larger", &[2, 1, 3, 3], &random.floats(18, 1.0))
        .node("MatMul", &["a", "b"], &["m"], vec![])
        .node("Mul", &["m", "columns"], &["scaled"], vec![])
        .node("MatMul", &["a", "b"], &["n"], vec![])
        .node("Add", &["n", "larger"], &["sum"], vec![])
        .node("MatMul", &["a", "b"], &["o"], vec![])
        .node("Transpose", &["o"], &["moved"], vec![ints("perm", &[0, 1, 3, 2])])
        .node("MatMul", &["a", "b"], &["asked"], vec![])
        .node("Transpose", &["asked"], &["turned"], vec![ints("perm", &[0, 2, 1, 3])])
        .output("scaled", DataType::FLOAT)
        .output("sum", DataType::FLOAT)
        .output("moved", DataType::FLOAT)
        .output("asked", DataType::FLOAT)
        .output("turned", DataType::FLOAT);
    let left = ["MatMul", "Mul", "MatMul", "Add", "MatMul", "Transpose", "MatMul", "Transpose"];
    fuses(&wgpu, &case, 1e-5, &left);
}

#[test]
fn a_batch_of_attentions_of_any_size_is_fused_like_one_of_a_fixed_size() {
    // At the sizes that the passes imagine, its scores are more bytes than any tensor may have.
    let perm = |order: &[i64]| vec![ints_of("perm", order)];
    let weights: Vec<u8> = Random::new(23).floats(32 * 32, 0.5).iter().flat_map(|value| value.to_le_bytes()).collect();
    let model = Model::new(17)
        .input("x", DataType::FLOAT, &[-1, -1, 12, 32])
        .constant("w", DataType::FLOAT, &[32, 32], &weights)
        .constant("bias", DataType::FLOAT, &[32], &weights[..32 * 4])
        .node_with("Transpose", &["x"], &["q"], perm(&[0, 2, 1, 3]))
        .node_with("Transpose", &["x"], &["k"], perm(&[0, 2, 3, 1]))
        .node("MatMul", &["q", "k"], &["scores"])
        .node("Softmax", &["scores"], &["p"])
        .node("MatMul", &["p", "q"], &["mixed"])
        .node_with("Transpose", &["mixed"], &["back"], perm(&[0, 2, 1, 3]))
        .node("MatMul", &["back", "w"], &["product"])
        .node("Add", &["product", "bias"], &["y"])
        .output("y", DataType::FLOAT, &[-1, -1, 12, 32])
        .bytes();
    let left = ["Transpose", "sanderling::MatMul", "Softmax", "sanderling::MatMul", "sanderling::MatMul"];
    assert_eq!(operators(&model), left);
}
