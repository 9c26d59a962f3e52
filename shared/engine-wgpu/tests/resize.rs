//! Random nodes Resize against ONNX Runtime: scales and sizes, subsets and orders of axes, aspect ratio policies, regions and
//! antialiasing, of operator sets 10 to 21.
//!
//! `RESIZE_SEEDS=FROM..TO` runs other seeds than the default ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests may do what tests may")]

mod oracle;

use std::ops::Range;

use engine::{Engine, LoadOptions, ModelBytes, RunControl, Session};
use engine_wgpu::gpu::AdapterChoice;
use engine_wgpu::{BUDGET_BYTES, WgpuEngine};
use oracle::{Case, Random, float, int, ints_signed, runtime, text};
use rten_onnx::onnx::{AttributeProto, DataType};
use types::{DType, Tensor};

/// Seeds of the ordinary suite.
const SEEDS: Range<u64> = 0..200;

/// Seeds of the long suite.
const SEEDS_LONG: Range<u64> = 1000..4000;

/// Share of the nodes that ONNX Runtime may refuse, in percent: it interpolates along few axes.
const REFUSED_PERCENT_MAX: usize = 40;

/// Largest difference of an interpolated value, as a share of the largest value.
const TOLERANCE: f32 = 1e-4;

/// Node that is being drawn.
struct Drawing {
    random: Random,
    opset: i64,
    shape: Vec<usize>,
    /// Axes in the order in which the node names them, and whether each stays as it is.
    axes: Vec<(usize, bool)>,
    has_axes: bool,
    attributes: Vec<AttributeProto>,
}

fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap()
}

impl Drawing {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let opset = random.pick(&[10, 11, 13, 18, 19, 21]);
        let rank = random.between(1, 5);
        let shape: Vec<usize> = (0..rank).map(|_| random.between(1, 7)).collect();
        let mut axes: Vec<usize> = (0..rank).collect();
        let has_axes = opset >= 18 && random.below(4) > 0;
        if has_axes {
            (1..rank).rev().for_each(|at| axes.swap(at, random.below(at + 1)));
            axes.truncate(random.between(1, rank));
        }
        // The last two change, the others mostly not: ONNX Runtime interpolates along few.
        let axes = axes.into_iter().map(|axis| (axis, axis + 2 < rank && random.below(8) > 0)).collect();
        Self { random, opset, shape, axes, has_axes, attributes: Vec::new() }
    }

    /// Draws the interpolation, and returns whether it is `nearest` and whether a region is read.
    fn mode(&mut self) -> (bool, bool) {
        let mode =
            self.random.pick(if self.opset < 11 { &["nearest", "linear"] } else { &["nearest", "linear", "cubic"] });
        self.attributes.push(text("mode", mode));
        if self.opset < 11 {
            return (mode == "nearest", false);
        }
        let all = [
            "half_pixel",
            "pytorch_half_pixel",
            "align_corners",
            "asymmetric",
            "tf_crop_and_resize",
            "half_pixel_symmetric",
        ];
        let coordinates = self.random.pick(if self.opset < 19 { &all[..5] } else { &all });
        self.attributes.push(text("coordinate_transformation_mode", coordinates));
        if mode == "nearest" {
            let ways = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];
            self.attributes.push(text("nearest_mode", self.random.pick(&ways)));
        } else if self.opset >= 18 && self.random.below(3) == 0 {
            self.attributes.push(int("antialias", 1));
        }
        if mode == "cubic" {
            self.attributes.push(float("cubic_coeff_a", self.random.pick(&[-0.5, -0.75])));
            self.attributes.push(int("exclude_outside", signed(self.random.below(2))));
        }
        let is_cropped = coordinates == "tf_crop_and_resize";
        if is_cropped {
            self.attributes.push(float("extrapolation_value", 0.5));
        }
        (mode == "nearest", is_cropped)
    }

    fn sizes(&mut self) -> Vec<usize> {
        let (random, shape) = (&mut self.random, &self.shape);
        self.axes.iter().map(|&(axis, stays)| if stays { shape[axis] } else { random.between(1, 13) }).collect()
    }

    fn scales(&mut self) -> Vec<f32> {
        let (random, shape) = (&mut self.random, &self.shape);
        let scale = |&(axis, stays): &(usize, bool)| {
            let scale = random.pick(&[0.3, 0.5, 0.6, 0.75, 1.0, 1.3, 1.5, 2.0, 2.4, 3.0]);
            let empties = f32::from(u8::try_from(shape[axis]).unwrap()) * scale < 1.0;
            if stays || empties { 1.0 } else { scale }
        };
        self.axes.iter().map(scale).collect()
    }

    /// Draws a region for each axis that changes: ONNX Runtime crops no others.
    fn region(&mut self, changes: impl Fn(usize) -> bool) -> Vec<f32> {
        let (begins, ends): (Vec<f32>, Vec<f32>) = (0..self.axes.len())
            .map(|place| {
                let drawn = (self.random.float() * 0.3 + 0.2, self.random.float() * 0.3 + 0.9);
                if changes(place) { drawn } else { (0.0, 1.0) }
            })
            .unzip();
        [begins, ends].concat()
    }

    /// Finishes the node; returns the model with its request, and what it is in words.
    fn finish(mut self, seed: u64) -> (Case, String) {
        let (is_nearest, is_cropped) = self.mode();
        let by_sizes = self.opset >= 11 && self.random.below(2) == 0;
        let sizes = if by_sizes { self.sizes() } else { Vec::new() };
        let scales = if by_sizes { Vec::new() } else { self.scales() };
        let mut may_be_negative = true;
        if by_sizes && self.opset >= 18 && !is_cropped && self.random.below(2) == 0 {
            let policy = self.random.pick(&["stretch", "not_larger", "not_smaller"]);
            self.attributes.push(text("keep_aspect_ratio_policy", policy));
            // ONNX Runtime ignores negative axes here, against the text of the operator.
            may_be_negative = policy == "stretch";
        }
        if self.has_axes {
            let (rank, random) = (signed(self.shape.len()), &mut self.random);
            let named = self
                .axes
                .iter()
                .map(|&(axis, _)| signed(axis) - if may_be_negative && random.below(3) == 0 { rank } else { 0 });
            let named: Vec<i64> = named.collect();
            self.attributes.push(ints_signed("axes", &named));
        }
        let region = if is_cropped {
            let (axes, shape) = (self.axes.clone(), self.shape.clone());
            self.region(|place| {
                let (axis, _) = axes[place];
                let length = shape[axis];
                // ONNX Runtime resizes the second of four axes as if it came last but one, and then crops wrongly.
                if shape.len() == 4 && axis == 1 {
                    return false;
                }
                let scaled = |scale: &f32| scale * f32::from(u8::try_from(length).unwrap());
                match sizes.get(place) {
                    Some(&size) => size != length,
                    None => scaled(&scales[place]).floor() != scaled(&1.0),
                }
            })
        } else {
            Vec::new()
        };
        let mut listing = format!(
            "seed {seed}: opset {} of {:?} along {:?}, scales {scales:?} sizes {sizes:?} region {region:?}",
            self.opset, self.shape, self.axes
        );
        for attribute in &self.attributes {
            let text = attribute.s.as_ref().map(|text| String::from_utf8_lossy(text.as_ref()).into_owned());
            let (name, number) = (attribute.name.as_deref().unwrap_or_default(), attribute.f.map(f64::from));
            listing += &format!(" {name}={}{:?}{:?}", text.unwrap_or_default(), number, attribute.ints);
        }
        (self.write(is_nearest, &region, &scales, &sizes), listing)
    }

    fn write(mut self, is_nearest: bool, region: &[f32], scales: &[f32], sizes: &[usize]) -> Case {
        let integers = [DataType::FLOAT, DataType::UINT8, DataType::INT32];
        let dtype = if is_nearest && self.opset > 10 { self.random.pick(&integers) } else { DataType::FLOAT };
        let count: usize = self.shape.iter().product();
        let bytes = match dtype {
            DataType::FLOAT => self.random.floats(count, 2.0).iter().flat_map(|value| value.to_le_bytes()).collect(),
            DataType::INT32 => (0..count).flat_map(|_| i32::from(self.random.bytes(1)[0]).to_le_bytes()).collect(),
            _ => self.random.bytes(count),
        };
        let case = Case::new(self.opset).input("x", dtype, &self.shape, &bytes);
        let case = case.floats(true, "roi", &[region.len()], region).floats(true, "scales", &[scales.len()], scales);
        let bytes: Vec<u8> = sizes.iter().flat_map(|&size| signed(size).to_le_bytes()).collect();
        let case = case.constant("sizes", DataType::INT64, &[sizes.len()], &bytes);
        // Until operator set 13 an input that is not used is an empty tensor.
        let optional = |name, is_used| if is_used || self.opset < 13 { name } else { "" };
        let by_sizes = [optional("roi", !region.is_empty()), optional("scales", false), "sizes"];
        let by_scales = [optional("roi", !region.is_empty()), "scales"];
        let given: &[&str] = match (self.opset, sizes) {
            (..11, _) => &["scales"],
            (_, []) => &by_scales,
            (_, _) => &by_sizes,
        };
        let inputs = [&["x"], given].concat();
        case.node("Resize", &inputs, &["y"], self.attributes).output("y", dtype)
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    match tensor.dtype() {
        DType::F32 => tensor.to_f32().unwrap(),
        _ => oracle::integers(tensor).iter().map(|&value| f32::from(i16::try_from(value).unwrap())).collect(),
    }
}

/// Returns whether ONNX Runtime runs the node; an error where this engine answers otherwise.
fn compare(case: &Case, wgpu: &WgpuEngine) -> Result<bool, String> {
    let model = case.model();
    let runtime = runtime().ok_or("no runtime")?;
    let Ok(mut session) = runtime.load(ModelBytes::from(model.clone()), &LoadOptions::default()) else {
        return Ok(false);
    };
    let Ok(expected) = session.run(case.inputs(), &[], &RunControl::default()) else { return Ok(false) };
    let mut session = wgpu.load_checked(&model).map_err(|error| format!("not loaded: {error:?}"))?;
    let answer = session.run(case.inputs(), &[], &RunControl::default()).map_err(|error| format!("{error:?}"))?;
    let (expected, answer) = (&expected[0].tensor, &answer[0].tensor);
    if expected.shape() != answer.shape() {
        return Err(format!("shape {:?}, not {:?}", answer.shape(), expected.shape()));
    }
    let (expected, answer) = (values(expected), values(answer));
    let largest = expected.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
    let far = |(a, b): &(&f32, &f32)| (**a - **b).abs() > TOLERANCE * largest || a.is_nan() != b.is_nan();
    let wrong: Vec<_> = expected.iter().zip(&answer).filter(far).collect();
    if wrong.is_empty() {
        return Ok(true);
    }
    Err(format!("{} of {} differ, like {:?}", wrong.len(), expected.len(), &wrong[..wrong.len().min(4)]))
}

fn seeds() -> Range<u64> {
    if let Ok(named) = std::env::var("RESIZE_SEEDS") {
        let (from, to) = named.split_once("..").unwrap();
        return from.parse().unwrap()..to.parse().unwrap();
    }
    if std::env::var_os(testkit::tools::LONG_ENV).is_some() { SEEDS_LONG } else { SEEDS }
}

#[test]
fn random_resizes_answer_as_onnx_runtime_does() {
    if runtime().is_none() {
        return;
    }
    let choice = AdapterChoice { allow_software: true, ..AdapterChoice::default() };
    let wgpu = match WgpuEngine::open(&choice, BUDGET_BYTES, None) {
        Ok(engine) => engine,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let (mut refused, mut wrong, all) = (0, Vec::new(), seeds());
    for seed in all.clone() {
        let (case, listing) = Drawing::new(seed).finish(seed);
        match compare(&case, &wgpu) {
            Ok(true) => {}
            Ok(false) => refused += 1,
            Err(why) => wrong.push(format!("{listing}: {why}")),
        }
    }
    let count = all.count();
    println!("{count} nodes, {refused} refused by ONNX Runtime, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused * 100 <= count * REFUSED_PERCENT_MAX, "ONNX Runtime refuses {refused} of {count}");
}
