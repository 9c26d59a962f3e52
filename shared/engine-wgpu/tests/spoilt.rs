//! A model that asks for nonsense, or for too much, is refused before the driver or the allocator hears of it.
//!
//! Small models, one operator each, whose numbers are spoilt with a seed and that are then really loaded on a device with a
//! small budget. `hostile.rs` spoils many more models, but stops before the device.

mod support;

use engine::precheck::{self, ModelLimits};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{ModelError, WgpuEngine, check};
use rten_onnx::onnx::{AttributeProto, AttributeType, DataType, NodeProto};
use support::{Model, float, int, ints, text};

const F: DataType = DataType::FLOAT;
const L: DataType = DataType::INT64;

/// Small, so that a model that asks for much is seen to be refused, not served.
const BUDGET: u64 = 16 * 1024 * 1024;

/// Numbers that break careless arithmetic.
const EXTREMES: [i64; 16] =
    [0, 1, -1, 2, 3, 7, -2, 255, 65_536, 1 << 31, -(1 << 31), 1 << 32, 1 << 40, 1 << 62, i64::MAX, i64::MIN];

/// A seeded stream of numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end.max(1)
    }

    fn extreme(&mut self) -> i64 {
        EXTREMES[self.below(EXTREMES.len())]
    }
}

fn numbers(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(count: usize) -> Vec<u8> {
    (1_u8..=255).cycle().take(count).flat_map(|value| f32::from(value).to_le_bytes()).collect()
}

/// `x` of this shape, then float weights, then integer parameters; one node.
fn one(
    op: &str,
    x: &[i64],
    params: &[&[i64]],
    weights: &[&[i64]],
    outputs: usize,
    attributes: Vec<AttributeProto>,
) -> Model {
    let mut model = Model::new(18).input("x", F, x);
    let mut inputs = vec!["x".to_owned()];
    for (k, shape) in weights.iter().enumerate() {
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap_or(0);
        model = model.constant(&format!("w{k}"), F, shape, &floats(count));
        inputs.push(format!("w{k}"));
    }
    for (k, values) in params.iter().enumerate() {
        let length = i64::try_from(values.len()).unwrap_or(0);
        model = model.constant(&format!("p{k}"), L, &[length], &numbers(values));
        inputs.push(format!("p{k}"));
    }
    let outputs: Vec<String> = (0..outputs).map(|k| format!("y{k}")).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
    model = model.node_with(op, &inputs, &names, attributes);
    for name in &names {
        model = model.output(name, F, &[]);
    }
    model
}

/// One of each kind of operator whose numbers come from the file.
fn zoo() -> Vec<Model> {
    let image = [1, 4, 6, 6];
    let mut zoo = vec![
        one("Reshape", &[2, 6], &[&[3, -1]], &[], 1, vec![int("allowzero", 0)]),
        one("Flatten", &image, &[], &[], 1, vec![int("axis", 2)]),
        one("Squeeze", &[1, 3], &[&[0]], &[], 1, vec![]),
        one("Unsqueeze", &[3], &[&[0, 2]], &[], 1, vec![]),
        one("Transpose", &[2, 3, 4], &[], &[], 1, vec![ints("perm", &[2, 0, 1])]),
        one("Slice", &[4, 6], &[&[0, 1], &[3, -1], &[0, 1], &[1, 2]], &[], 1, vec![]),
        one("Split", &[6], &[&[2, 4]], &[], 2, vec![int("axis", 0)]),
        one("Split", &[6], &[], &[], 2, vec![int("axis", 0), int("num_outputs", 2)]),
        one("Expand", &[2, 1], &[&[3, 2, 4]], &[], 1, vec![]),
        one("Tile", &[2, 3], &[&[2, 2]], &[], 1, vec![]),
        one("Pad", &[2, 3], &[&[0, 1, 1, 0]], &[], 1, vec![text("mode", "reflect")]),
        one("CenterCropPad", &[2, 3], &[&[5, 1]], &[], 1, vec![ints("axes", &[0, 1])]),
        one("DepthToSpace", &image, &[], &[], 1, vec![int("blocksize", 2)]),
        one("SpaceToDepth", &image, &[], &[], 1, vec![int("blocksize", 2)]),
        one("Concat", &[2, 3], &[], &[&[2, 4]], 1, vec![int("axis", 1)]),
        one("Gather", &[4, 3], &[&[0, -1, 2]], &[], 1, vec![int("axis", 0)]),
        one("GatherElements", &[4], &[&[0, -1, 2]], &[], 1, vec![int("axis", 0)]),
        one("GatherND", &[4, 3], &[&[1, 2]], &[], 1, vec![int("batch_dims", 0)]),
        one("Trilu", &[3, 3], &[&[1]], &[], 1, vec![int("upper", 1)]),
        one("EyeLike", &[3, 3], &[], &[], 1, vec![int("k", 1), int("dtype", 1)]),
        one("TopK", &[2, 6], &[&[3]], &[], 2, vec![int("axis", -1)]),
        one("CumSum", &[2, 6], &[&[1]], &[], 1, vec![int("exclusive", 1)]),
        one("ReduceSum", &[2, 6], &[&[1]], &[], 1, vec![int("keepdims", 1)]),
        one("ArgMax", &[2, 6], &[], &[], 1, vec![int("axis", 1)]),
        one("Softmax", &[2, 6], &[], &[], 1, vec![int("axis", 1)]),
        one("LayerNormalization", &[2, 6], &[], &[&[6], &[6]], 1, vec![int("axis", -1), float("epsilon", 1e-5)]),
        one("Conv", &image, &[], &[&[4, 2, 3, 3], &[4]], 1, convolution(2)),
        one("ConvTranspose", &image, &[], &[&[4, 2, 3, 3], &[4]], 1, convolution(2)),
        one("MaxPool", &image, &[], &[], 1, pool()),
        one("AveragePool", &image, &[], &[], 1, pool()),
        one("MatMul", &[2, 6], &[], &[&[6, 3]], 1, vec![]),
        one("Gemm", &[2, 6], &[], &[&[6, 3], &[3]], 1, vec![int("transA", 0), int("transB", 0)]),
        one("Resize", &image, &[], &[&[0], &[4]], 1, vec![text("mode", "linear")]),
        one("LRN", &image, &[], &[], 1, vec![int("size", 3)]),
        one("InstanceNormalization", &image, &[], &[&[4], &[4]], 1, vec![]),
        one("GroupNormalization", &image, &[], &[&[2], &[2]], 1, vec![int("num_groups", 2)]),
        one("LSTM", &[3, 2, 4], &[], &[&[1, 20, 4], &[1, 20, 5]], 2, vec![int("hidden_size", 5)]),
        one("GRU", &[3, 2, 4], &[], &[&[1, 15, 4], &[1, 15, 5]], 2, vec![int("hidden_size", 5)]),
        one("Einsum", &[2, 3], &[], &[&[3, 4]], 1, vec![text("equation", "ij,jk->ik")]),
        one("Cast", &[4], &[], &[], 1, vec![int("to", 7)]),
        one("PRelu", &image, &[], &[&[4, 1, 1]], 1, vec![]),
        one("BatchNormalization", &image, &[], &[&[4], &[4], &[4], &[4]], 1, vec![]),
    ];
    zoo.extend(mixed());
    zoo
}

/// Models with more than one type, and one that folds, so that the host's rules meet the same numbers.
fn mixed() -> Vec<Model> {
    vec![
        Model::new(18)
            .input("x", L, &[2])
            .constant("d", L, &[], &numbers(&[3]))
            .constant("v", F, &[2], &floats(2))
            .node_with("OneHot", &["x", "d", "v"], &["y"], vec![int("axis", -1)])
            .output("y", F, &[]),
        Model::new(18)
            .input("x", F, &[2, 4])
            .constant("i", L, &[1, 2], &numbers(&[0, 1]))
            .constant("u", F, &[1, 2], &floats(2))
            .node_with("ScatterElements", &["x", "i", "u"], &["y"], vec![int("axis", 1), text("reduction", "add")])
            .output("y", F, &[]),
        Model::new(18)
            .input("x", F, &[4, 2])
            .constant("i", L, &[2, 1], &numbers(&[0, 3]))
            .constant("u", F, &[2, 2], &floats(4))
            .node("ScatterND", &["x", "i", "u"], &["y"])
            .output("y", F, &[]),
        Model::new(18)
            .input("x", F, &[2])
            .constant("start", L, &[], &numbers(&[0]))
            .constant("limit", L, &[], &numbers(&[9]))
            .constant("step", L, &[], &numbers(&[2]))
            .constant("shape", L, &[2], &numbers(&[5, 1]))
            .node("Range", &["start", "limit", "step"], &["r"])
            .node("Reshape", &["r", "shape"], &["column"])
            .node("Tile", &["column", "shape"], &["tiled"])
            .node("NonZero", &["tiled"], &["places"])
            .node("ConstantOfShape", &["shape"], &["zeros"])
            .node_with("Concat", &["zeros", "zeros"], &["both"], vec![int("axis", 0)])
            .node("Identity", &["both"], &["y"])
            .output("y", F, &[])
            .output("places", L, &[]),
        Model::new(18)
            .input("x", F, &[1, 4, 4])
            .input("s", F, &[1, 1, 4])
            .constant("most", L, &[1], &numbers(&[2]))
            .node_with("NonMaxSuppression", &["x", "s", "most"], &["y"], vec![int("center_point_box", 0)])
            .output("y", L, &[]),
    ]
}

fn convolution(group: i64) -> Vec<AttributeProto> {
    vec![
        int("group", group),
        ints("strides", &[1, 2]),
        ints("pads", &[1, 1, 0, 0]),
        ints("dilations", &[1, 1]),
        ints("kernel_shape", &[3, 3]),
    ]
}

fn pool() -> Vec<AttributeProto> {
    vec![ints("kernel_shape", &[3, 2]), ints("strides", &[2, 1]), ints("pads", &[1, 0, 1, 0]), int("ceil_mode", 1)]
}

/// Changes one thing.
fn spoil(model: &mut Model, dice: &mut Dice) {
    let choice = dice.below(9);
    if choice == 0 {
        model.set_opset(1 + i64::try_from(dice.below(30)).unwrap_or(0));
        return;
    }
    let graph = model.graph_mut();
    let (tensor, info, node) =
        (dice.below(graph.initializer.len()), dice.below(graph.input.len()), dice.below(graph.node.len()));
    let kind = graph.input[info].r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut());
    match (choice, graph.initializer.get_mut(tensor), kind) {
        (1 | 2, Some(tensor), _) if tensor.data_type == Some(L) => {
            let count = tensor.dims.iter().try_fold(1_i64, |all, &size| all.checked_mul(size));
            let values: Vec<i64> = (0..count.unwrap_or(0).clamp(0, 64)).map(|_| dice.extreme()).collect();
            tensor.raw_data = Some(numbers(&values).into());
        }
        (3, Some(tensor), _) => {
            let (size, at) = (dice.extreme(), dice.below(tensor.dims.len() + 1));
            match tensor.dims.get_mut(at) {
                Some(dim) => *dim = size,
                None => tensor.dims.push(size),
            }
            let count = tensor.dims.iter().try_fold(1_i64, |all, &size| all.checked_mul(size)).unwrap_or(0);
            let width = if tensor.data_type == Some(L) { 8 } else { 4 };
            let bytes = vec![0_u8; usize::try_from(count.clamp(0, 4096)).unwrap_or(0) * width];
            tensor.raw_data = Some(bytes.into());
        }
        (4, _, Some(kind)) => {
            let dims = kind.shape.as_mut().map(|shape| &mut shape.dim);
            match (dice.below(4), dims) {
                (0, Some(dims)) => dims.clear(),
                (1, Some(dims)) => dims.extend(dims.clone()),
                (_, Some(dims)) => {
                    let at = dice.below(dims.len());
                    dims.get_mut(at).into_iter().for_each(|dim| dim.dim_value = Some(dice.extreme()));
                }
                (_, None) => {}
            }
        }
        (5, _, Some(kind)) => {
            let kinds = [F, L, DataType::INT8, DataType::BOOL, DataType::UINT8, DataType::FLOAT16, DataType::INT32];
            kind.elem_type = Some(kinds[dice.below(kinds.len())]);
        }
        (6, ..) => spoil_inputs(&mut graph.node[node], dice),
        _ => spoil_attribute(&mut graph.node[node], dice),
    }
}

fn spoil_inputs(node: &mut NodeProto, dice: &mut Dice) {
    if node.input.is_empty() {
        return;
    }
    let (a, b) = (dice.below(node.input.len()), dice.below(node.input.len()));
    match dice.below(4) {
        0 => node.input.swap(a, b),
        1 => node.input[a] = String::new(),
        2 => node.input.truncate(a),
        _ => node.input[a] = node.input[b].clone(),
    }
}

fn spoil_attribute(node: &mut NodeProto, dice: &mut Dice) {
    if node.attribute.is_empty() {
        return;
    }
    let at = dice.below(node.attribute.len());
    let attribute = &mut node.attribute[at];
    match (attribute.r#type, dice.below(5)) {
        (_, 0) => {
            node.attribute.remove(at);
        }
        (Some(AttributeType::INTS), 1) => attribute.ints.push(dice.extreme()),
        (Some(AttributeType::INTS), 2) => attribute.ints.truncate(1),
        (Some(AttributeType::INTS), _) => {
            let at = dice.below(attribute.ints.len());
            attribute.ints.get_mut(at).into_iter().for_each(|value| *value = dice.extreme());
        }
        (Some(AttributeType::INT), 1) => *attribute = text(&attribute.name.clone().unwrap_or_default(), "no"),
        (Some(AttributeType::INT), _) => attribute.i = Some(dice.extreme()),
        (Some(AttributeType::FLOAT), _) => attribute.f = Some(f32::NAN),
        (_, _) => attribute.s = Some("wrap".into()),
    }
}

fn spoilt(seed: u64) -> (Vec<u8>, String) {
    let mut dice = Dice(seed);
    let mut zoo = zoo();
    let mut model = zoo.swap_remove(usize::try_from(seed).unwrap_or(0) % zoo.len());
    for _change in 0..=dice.below(3) {
        spoil(&mut model, &mut dice);
    }
    let op = model.graph_mut().node[0].op_type.clone().unwrap_or_default();
    (model.bytes(), op)
}

/// Looks at many spoilt models, and names those at which it panics.
fn on_spoilt(seeds: std::ops::Range<u64>, mut look: impl FnMut(&[u8])) {
    let mut broken = Vec::new();
    for seed in seeds {
        let (bytes, op) = spoilt(seed);
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&bytes)));
        if looked.is_err() {
            broken.push(format!("{op} (seed {seed})"));
        }
    }
    assert!(broken.is_empty(), "panicked at {} models: {}", broken.len(), broken.join(", "));
}

#[test]
fn the_models_that_are_spoilt_were_sound() {
    for mut model in zoo() {
        let op = model.graph_mut().node[0].op_type.clone();
        let report = check(&model.bytes()).unwrap();
        let absent = "this engine does not have the operator";
        let strange = report.unsupported.iter().find(|one| one.reason != absent);
        assert!(strange.is_none(), "{op:?}: {strange:?}");
    }
}

#[test]
fn no_spoilt_model_panics_the_check() {
    on_spoilt(0..6_000, |bytes| {
        if precheck::check(bytes, &ModelLimits::default()).is_ok() {
            let _answer_or_error = check(bytes);
        }
    });
}

#[test]
fn no_spoilt_model_troubles_the_driver_or_takes_more_than_the_budget() {
    let choice = AdapterChoice::for_tests();
    let engine = match WgpuEngine::open(&choice, BUDGET, None) {
        Ok(engine) => engine,
        Err(error) => return println!("skipped: {error}"),
    };
    let mut loaded = 0;
    on_spoilt(100_000..100_700, |bytes| match engine.load_checked(bytes) {
        Ok(session) => {
            loaded += 1;
            let description = session.describe();
            assert!(description.arena_bytes + description.weight_bytes <= BUDGET, "{description:?}");
        }
        Err(ModelError::Gpu(error)) => panic!("the driver was asked for nonsense: {error}"),
        Err(_refused) => {}
    });
    assert!(loaded > 50, "only {loaded} models were mild enough to load");
}
