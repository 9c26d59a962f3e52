//! Models that nobody honest wrote: whatever the bytes, loading answers with an error or a model, and never panics.
//!
//! The same entry is the fuzz target `load_model` in tests/fuzz. Here it is fed with spoilt copies of real models: bytes changed at
//! random, and models that still parse but whose sizes, attributes, types and wires are wrong. A failing seed is printed;
//! `HOSTILE_SEED=n` runs it alone, `HOSTILE_ROUNDS=n` more of them.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "helpers of tests may do what tests may")]

mod conformance;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use engine::precheck::{self, ModelLimits};
use rten_onnx::onnx::{DataType, ModelProto};

/// Spoilt models per run of the suite.
const ROUNDS: u64 = 4_000;

/// Numbers that break arithmetic.
const NASTY: [i64; 14] = [0, -1, 1, 2, 3, -2, 7, 64, 1 << 16, 1 << 31, -(1 << 31), 1 << 40, i64::MAX, i64::MIN];

/// Random numbers with a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }

    fn nasty(&mut self) -> i64 {
        NASTY[self.below(NASTY.len())]
    }
}

/// How far a model came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    PreCheck,
    Reader,
    Refusal,
    Readiness,
}

/// What a daemon does with a file before any device sees it.
fn look_at(model: &[u8]) -> Reached {
    if precheck::check(model, &ModelLimits::default()).is_err() {
        return Reached::PreCheck;
    }
    match engine_wgpu::check(model) {
        Err(_malformed) => Reached::Reader,
        Ok(report) if report.can_run() => Reached::Readiness,
        Ok(_refused) => Reached::Refusal,
    }
}

/// Models to spoil: those of the catalog and, where they were generated, of the ONNX suite.
fn originals() -> Vec<PathBuf> {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into()));
    let catalog = here.join("../../models/catalog/digits");
    let mut found: Vec<PathBuf> = ["v1", "v2"]
        .iter()
        .flat_map(|version| fs::read_dir(catalog.join(version)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    found.retain(|path| path.extension().is_some_and(|kind| kind == "onnx"));
    let cached = ["onnx-node/1.23.2", "ort-cases/1.32.0"].map(|suite| conformance::case::cache().join(suite));
    let committed = ["classical", "contrib", "functions", "loops"].map(|suite| here.join("tests/cases").join(suite));
    for folder in cached.into_iter().chain(committed) {
        let entries = fs::read_dir(folder).into_iter().flatten();
        found.extend(entries.map(|entry| entry.unwrap().path().join("model.onnx")).filter(|path| path.is_file()));
    }
    found.sort();
    found
}

fn spoil_bytes(dice: &mut Dice, model: &mut Vec<u8>) {
    for _change in 0..=dice.below(8) {
        if model.is_empty() {
            return;
        }
        let at = dice.below(model.len());
        match dice.below(4) {
            0 => model.truncate(at),
            1 => model.insert(at, dice.below(256) as u8),
            _ => model[at] = dice.below(256) as u8,
        }
    }
}

/// Changes a model that still parses.
fn spoil_meaning(dice: &mut Dice, model: &mut ModelProto) {
    let Some(graph) = model.graph.as_mut() else { return };
    for _change in 0..=dice.below(3) {
        let (nodes, tensors, inputs) = (graph.node.len(), graph.initializer.len(), graph.input.len());
        match dice.below(8) {
            0 | 1 if nodes > 0 => {
                let node = &mut graph.node[dice.below(nodes)];
                if node.attribute.is_empty() {
                    continue;
                }
                let at = dice.below(node.attribute.len());
                let attribute = &mut node.attribute[at];
                if attribute.ints.is_empty() {
                    attribute.i = Some(dice.nasty());
                } else if dice.below(4) == 0 {
                    attribute.ints.push(dice.nasty());
                } else {
                    let at = dice.below(attribute.ints.len());
                    attribute.ints[at] = dice.nasty();
                }
            }
            2 if nodes > 0 => {
                let at = dice.below(nodes);
                let node = &mut graph.node[at];
                let gone = dice.below(node.attribute.len());
                if gone < node.attribute.len() {
                    node.attribute.remove(gone);
                }
            }
            3 if nodes > 0 => {
                // A wire that goes elsewhere, or nowhere.
                let names: Vec<String> = graph.input.iter().filter_map(|value| value.name.clone()).collect();
                let at = dice.below(nodes);
                let wires = &mut graph.node[at].input;
                let place = dice.below(wires.len());
                if let (Some(wire), false) = (wires.get_mut(place), names.is_empty()) {
                    *wire = if dice.below(3) == 0 { String::new() } else { names[dice.below(names.len())].clone() };
                }
            }
            4 if tensors > 0 => {
                let at = dice.below(tensors);
                let tensor = &mut graph.initializer[at];
                if dice.below(2) == 0 || tensor.dims.is_empty() {
                    tensor.data_type = Some(DataType(dice.below(30) as i32));
                } else {
                    // The same bytes in another shape.
                    let product: i64 = tensor.dims.iter().product();
                    tensor.dims = if dice.below(2) == 0 { vec![product] } else { vec![1, product, 1] };
                }
            }
            5 if tensors > 0 => {
                // Shapes, axes and counts often are constants.
                let at = dice.below(tensors);
                let tensor = &mut graph.initializer[at];
                if tensor.data_type == Some(DataType::INT64) {
                    let value = dice.nasty();
                    if let Some(bytes) = &tensor.raw_data {
                        let mut bytes = bytes.borrow_mut();
                        let count = bytes.len() / 8;
                        let from = dice.below(count) * 8;
                        if let Some(place) = bytes.get_mut(from..from + 8) {
                            place.copy_from_slice(&value.to_le_bytes());
                        }
                    }
                }
            }
            _ if inputs > 0 => {
                let at = dice.below(inputs);
                let kind = graph.input[at].r#type.as_mut().and_then(|kind| kind.tensor_type.as_mut());
                let Some(kind) = kind else { continue };
                if dice.below(3) == 0 {
                    kind.elem_type = Some(DataType(dice.below(24) as i32));
                } else if let Some(shape) = &mut kind.shape {
                    let at = dice.below(shape.dim.len() + 1);
                    match shape.dim.get_mut(at) {
                        Some(dim) => dim.dim_value = Some(dice.nasty()),
                        None => drop(shape.dim.pop()),
                    }
                }
            }
            _ => {}
        }
    }
}

/// One spoilt model.
fn spoilt(seed: u64, originals: &[PathBuf]) -> (PathBuf, Vec<u8>) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    dice.below(2);
    let path = originals[dice.below(originals.len())].clone();
    let mut bytes = fs::read(&path).unwrap();
    if dice.below(3) == 0 {
        spoil_bytes(&mut dice, &mut bytes);
    } else if let Ok(mut model) = ModelProto::parse_buf(&bytes) {
        // Inputs become constants now and then, so that shapes and axes are among what is spoilt.
        let case =
            (dice.below(2) == 0).then(|| path.parent().filter(|folder| folder.join("case.tsv").is_file())).flatten();
        if let Some((frozen, _given)) =
            case.and_then(|folder| conformance::case::Case::read(folder).formed(conformance::case::Form::FirstOnly))
            && let Ok(frozen) = ModelProto::parse_buf(&frozen)
        {
            model = frozen;
        }
        spoil_meaning(&mut dice, &mut model);
        bytes = model.write_buf().unwrap();
    }
    (path, bytes)
}

/// Spoilt models that a device sees.
const LOADS: usize = 150;

#[test]
fn a_spoilt_model_that_passes_every_check_does_not_make_the_device_panic() {
    let engine = match conformance::suite::open() {
        Ok(engine) => engine,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let originals = originals();
    let ready = (ROUNDS..).filter_map(|seed| {
        let (path, bytes) = spoilt(seed, &originals);
        (look_at(&bytes) == Reached::Readiness).then_some((seed, path, bytes))
    });
    let mut failed = Vec::new();
    for (seed, path, bytes) in ready.take(LOADS) {
        if catch_unwind(AssertUnwindSafe(|| engine.load_checked(&bytes).is_ok())).is_err() {
            println!("seed {seed}: {}", path.display());
            failed.push(seed);
        }
        assert_eq!(engine.gpu().lost(), None, "seed {seed}: {} took the device away", path.display());
    }
    assert!(failed.is_empty(), "{} seeds panicked: {failed:?}", failed.len());
}

#[test]
fn no_spoilt_model_makes_the_engine_panic() {
    let originals = originals();
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = number("HOSTILE_SEED").map_or(0..number("HOSTILE_ROUNDS").unwrap_or(ROUNDS), |seed| seed..seed + 1);
    let mut failed = Vec::new();
    let mut reached = BTreeMap::<Reached, usize>::new();
    for seed in seeds {
        let (path, bytes) = spoilt(seed, &originals);
        if let Ok(stage) = catch_unwind(AssertUnwindSafe(|| look_at(&bytes))) {
            *reached.entry(stage).or_default() += 1;
        } else {
            println!("seed {seed}: {}", path.display());
            failed.push(seed);
        }
    }
    println!("{reached:?}");
    assert!(failed.is_empty(), "{} seeds panicked: {failed:?}", failed.len());
}

/// One field of a message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    [&[number << 3 | 2, length], content].concat()
}

#[test]
fn lengths_and_numbers_that_lie_in_a_messages_depth_are_refused_at_once() {
    // Found by fuzzing: in messages that the precheck does not look into, the parser trusted what it was told.
    let endless = [0xff; 12];
    // 2^64 - 9: added to the place where it stands it comes before it. And 2^40: a string that no file has.
    let backwards = [0xf7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    let lies: [(&str, Vec<u8>); 5] = [
        ("an endless number", [&[0x10][..], &endless].concat()),
        ("an endless tag", endless.to_vec()),
        ("an unknown field that leads back", [&[0x7a][..], &backwards].concat()),
        ("a string that leads back", [&[0x0a][..], &backwards].concat()),
        ("a string of a tebibyte", [&[0x0a][..], &huge].concat()),
    ];
    let graph = field(7, &field(2, b"empty"));
    for (what, lie) in lies {
        // A remark of the model (14), and behind it what an endless number may run into.
        let model = [graph.clone(), field(14, &lie), field(2, &[0xff; 40])].concat();
        assert!(engine_wgpu::read::read(&model).is_err(), "{what} in a remark");
        // The length of a dimension's name: graph, input, type, tensor, shape, dimension.
        let shape = field(2, &field(1, &lie));
        let input = field(11, &[field(1, b"x"), field(2, &field(1, &[vec![0x08, 1], shape].concat()))].concat());
        let model = field(7, &[field(2, b"empty"), input].concat());
        // Whether it is an error or nothing there: it comes back, and soon.
        let _refused = engine_wgpu::read::read(&model);
    }
}
