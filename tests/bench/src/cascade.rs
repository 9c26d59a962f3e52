//! The promise of a calibration on real models, and what a cascade defers: the digits of the catalog, and their full models.
//!
//! The 2,000 test digits are taken as the whole population, so that the true risk of a threshold is known. Calibration sets of 1,000
//! examples are drawn from them with replacement.

use anyhow::{Context as _, Result, ensure};
use bench::row::{Bar, Row};
use bench::sample::Sample;
use bundle::{ScoreFrom, ScoreKind, ScoreRule, confidence};
use engine::{Engine as _, LibrarySearch, LoadOptions, ModelBytes, OrtEngine, RunControl};
use evaluate::calibrate::{Choice, Options, calibrate};
use evaluate::candidates::{Answers, scored};
use evaluate::threshold::{Promise, Scored, hindsight};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use testkit::Digits;
use testkit::digits::catalog;
use types::{DType, NamedTensor, Tensor};

/// Calibration sets of each figure.
const SETS: u32 = 1000;

/// Examples of a calibration set.
const EXAMPLES: usize = 1000;

/// Largest shares of answers that may be kept and differ.
const ALPHAS: [f64; 3] = [0.01, 0.02, 0.05];

/// Probability with which a promise may be broken.
const DELTA: f64 = 0.05;

/// Maximum of the share that hindsight keeps over the share that is kept: 0.9 of hindsight.
const SHORTFALL_MAX: f64 = 1.0 / 0.9;

/// Maximum of what a quantized variant defers, in times of what the fp32 variant defers.
const INT8_SHARE: f64 = 1.2;

/// Goal for what our score defers, in times of what the largest class probability defers at the same accuracy.
const DEFERRED_SHARE: f64 = 0.5;

/// Accuracy that a cascade may lose against the full model in the comparison of what is deferred.
const ACCURACY_LOST: f64 = 0.005;

/// A probability that is often used as a threshold without a calibration.
const RAW_THRESHOLD: f32 = 0.9;

/// Answers of one device variant to the population.
struct Population {
    outputs: Vec<Tensor>,
    classes: Vec<usize>,
    full: Vec<usize>,
    labels: Vec<usize>,
}

/// Measures all models whose figures contain `only`.
pub(crate) fn rows(only: &str) -> Result<Vec<Row>> {
    let engine = OrtEngine::open(&LibrarySearch::default()).context("open ONNX Runtime")?;
    let mut rows = Vec::new();
    for version in ["v1", "v2"] {
        let mut deferred = Vec::new();
        for variant in ["int8-qdq", "fp32"] {
            let name = format!("digits-{version}/{variant}");
            if !format!("cascade_{name}").contains(only) && !only.is_empty() {
                continue;
            }
            eprintln!("measuring {name}");
            let population = Population::of(&engine, version, variant)?;
            let mut shares = Vec::new();
            for alpha in ALPHAS {
                let found = promise(&population, alpha);
                rows.extend(found.rows(&name, alpha));
                shares.push(1.0 - found.coverage);
            }
            rows.extend(at_full_accuracy(&population, &name));
            deferred.push(shares);
        }
        if let [int8, fp32] = deferred.as_slice() {
            for ((int8, fp32), alpha) in int8.iter().zip(fp32).zip(ALPHAS) {
                let (bar, figure) = (Some(Bar::Share(INT8_SHARE)), format!("cascade_int8/digits-{version}/{alpha}"));
                let row = Row::empty(&figure, "%", Some("fp32 deferred"), bar);
                rows.push(row.measured(bar, &Sample::exact(100.0 * int8), Some(&Sample::exact(100.0 * fp32))));
            }
        }
    }
    Ok(rows)
}

fn rule() -> ScoreRule {
    ScoreRule::new(ScoreKind::Top1Probability, "logits", ScoreFrom::Logits)
}

impl Population {
    fn of(engine: &OrtEngine, version: &str, variant: &str) -> Result<Self> {
        let digits = Digits::load()?;
        let answer = |file: &str| -> Result<Vec<Tensor>> {
            let model = std::fs::read(catalog().join(version).join(file))?;
            let mut session = engine.load(ModelBytes::from(model), &LoadOptions::default())?;
            let run = |index: usize| -> Result<Tensor> {
                let data = digits.input(index).bytes;
                let tensor = Tensor::new(DType::F32, vec![1, 1, 28, 28], data.into())?;
                let inputs = [NamedTensor { name: "image".into(), tensor }];
                let answers = session.run(&inputs, &[], &RunControl::default())?;
                Ok(answers.into_iter().next().context("there is no output")?.tensor)
            };
            (0..digits.len()).map(run).collect()
        };
        let classes = |outputs: &[Tensor]| -> Result<Vec<usize>> {
            let top = |output: &Tensor| Ok(confidence::rows(output, &rule())?.first().context("there is no row")?.top);
            outputs.iter().map(top).collect()
        };
        let outputs = answer(&format!("{variant}.onnx"))?;
        let full = classes(&answer("full.onnx")?)?;
        ensure!(full.len() == outputs.len(), "the models answer different examples");
        let labels = (0..digits.len()).map(|index| usize::from(digits.label(index))).collect();
        Ok(Self { classes: classes(&outputs)?, outputs, full, labels })
    }

    fn scored(&self, rule: &ScoreRule) -> Vec<Scored> {
        let differs = self.differs();
        scored(Answers { outputs: &self.outputs, differs: &differs, classes: &self.full }, rule)
    }

    fn differs(&self) -> Vec<bool> {
        self.classes.iter().zip(&self.full).map(|(device, full)| device != full).collect()
    }
}

/// Outcome of all calibration sets.
struct Outcome {
    broken: u32,
    coverage: f64,
    hindsight: f64,
}

impl Outcome {
    fn rows(&self, name: &str, alpha: f64) -> Vec<Row> {
        let row = |figure: &str, unit: &str, bar: Bar, value: f64| {
            let figure = format!("cascade_{figure}/{name}/{alpha}");
            Row::empty(&figure, unit, None, Some(bar)).measured(Some(bar), &Sample::exact(value), None)
        };
        vec![
            row("broken", "%", Bar::AtMost(100.0 * DELTA), 100.0 * f64::from(self.broken) / f64::from(SETS)),
            row("shortfall", "x", Bar::AtMost(SHORTFALL_MAX), self.hindsight / self.coverage.max(f64::MIN_POSITIVE)),
        ]
    }
}

/// Calibrates on every set, and looks at what its threshold does to the population.
fn promise(population: &Population, alpha: f64) -> Outcome {
    let mut random = StdRng::seed_from_u64(1);
    let differs = population.differs();
    let n = population.outputs.len();
    let mut outcome = Outcome { broken: 0, coverage: 0.0, hindsight: hindsight(&population.scored(&rule()), alpha) };
    for set in 0..SETS {
        let drawn: Vec<usize> = (0..EXAMPLES).map(|_| random.random_range(0..n)).collect();
        let outputs: Vec<Tensor> = drawn.iter().map(|&at| population.outputs[at].clone()).collect();
        let differ: Vec<bool> = drawn.iter().map(|&at| differs[at]).collect();
        let classes: Vec<usize> = drawn.iter().map(|&at| population.full[at]).collect();
        let answers = Answers { outputs: &outputs, differs: &differ, classes: &classes };
        let promise = Promise { alpha, delta: DELTA };
        let found = calibrate(answers, &rule(), Options { promise, choice: Choice::Best, seed: u64::from(set) });
        let Some(point) = found.walk.point() else { continue };
        let kept = population.scored(&found.rule);
        let kept: Vec<&Scored> = kept.iter().filter(|one| one.score >= Some(point.threshold)).collect();
        let risk = kept.iter().filter(|one| one.differs).count() as f64 / n as f64;
        outcome.broken += u32::from(risk > alpha);
        outcome.coverage += kept.len() as f64 / n as f64 / f64::from(SETS);
    }
    outcome
}

/// Compares what is deferred where the cascade is as accurate as the full model, within half a point. The score is chosen on one half of
/// the population, and all thresholds are those of hindsight on the other half.
fn at_full_accuracy(population: &Population, name: &str) -> Vec<Row> {
    let differs = population.differs();
    let half = population.outputs.len() / 2;
    let answers =
        Answers { outputs: &population.outputs[..half], differs: &differs[..half], classes: &population.full[..half] };
    let chosen = evaluate::candidates::rank(answers, &rule(), ACCURACY_LOST).into_iter().next();
    let chosen = chosen.map_or_else(rule, |chosen| chosen.rule);
    let ours = deferred(population, half, &chosen);
    let peer = deferred(population, half, &rule());
    let raw = population.scored(&rule());
    let raw =
        raw[half..].iter().filter(|one| one.score < Some(RAW_THRESHOLD)).count() as f64 / (raw.len() - half) as f64;
    let row = |peer_name: &str, bar: Option<Bar>, peer: f64| {
        let row = Row::empty(&format!("cascade_deferred/{name}"), "%", Some(peer_name), bar);
        row.measured(bar, &Sample::exact(100.0 * ours), Some(&Sample::exact(100.0 * peer)))
    };
    vec![row("best softmax threshold", Some(Bar::Share(DEFERRED_SHARE)), peer), row("softmax 0.9", None, raw)]
}

/// Least share deferred with which the cascade loses at most [`ACCURACY_LOST`] against the full model, from `half` on.
fn deferred(population: &Population, half: usize, rule: &ScoreRule) -> f64 {
    let scored = population.scored(rule);
    let mut order: Vec<usize> = (half..scored.len()).collect();
    let n = order.len() as f64;
    let score = |at: usize| scored[at].score.unwrap_or(0.0);
    order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    let right = |class: &[usize], at: usize| class[at] == population.labels[at];
    let of_full = order.iter().filter(|&&at| right(&population.full, at)).count() as f64;
    let (mut gained, mut best) = (0.0, 0);
    for (kept, &at) in order.iter().enumerate() {
        gained +=
            f64::from(u8::from(right(&population.classes, at))) - f64::from(u8::from(right(&population.full, at)));
        let is_last_of_ties = order.get(kept + 1).is_none_or(|&next| score(next) < score(at));
        if is_last_of_ties && (of_full + gained) / n >= of_full / n - ACCURACY_LOST {
            best = kept + 1;
        }
    }
    1.0 - best as f64 / n
}
