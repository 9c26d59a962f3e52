//! What to keep, what to refuse, and what to recommend: pure decisions over measured candidates.

use serde::Serialize;
use types::EngineName;

use super::candidate::{Candidate, Verdict};
use crate::latency::Timing;
use crate::pareto::{Cost, LATENCY_SLACK, beaten_by, worse_in};

/// Which devices a recommendation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceClass {
    /// Devices that run ONNX Runtime on a processor: the fastest there.
    Cpu,
    /// Devices that run the wgpu engine: the fastest there.
    GpuWgpu,
    /// Devices behind a slow link, or with little storage: the smallest.
    Small,
}

impl DeviceClass {
    /// The name in reports and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::GpuWgpu => "gpu-wgpu",
            Self::Small => "small",
        }
    }

    /// The engine whose time decides; `None` when size does.
    const fn engine(self) -> Option<EngineName> {
        match self {
            Self::Cpu => Some(EngineName::Ort),
            Self::GpuWgpu => Some(EngineName::Wgpu),
            Self::Small => None,
        }
    }
}

/// Recommended form for a class of devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recommendation {
    /// The devices.
    pub class: DeviceClass,
    /// Name of the candidate; the reference's when nothing beats it.
    pub candidate: String,
    /// Whether that is the model that was given.
    pub is_reference: bool,
    /// Reason, in one sentence.
    pub reason: String,
}

/// Gives every measured candidate its verdict. The first one is the reference; verdicts that say a candidate is invalid
/// or does not apply stay.
pub fn settle(candidates: &mut [Candidate], loss_max: f64) {
    let measured: Vec<(usize, Cost)> = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| !matches!(candidate.verdict, Verdict::Invalid { .. } | Verdict::NotApplicable { .. }))
        .filter_map(|(at, candidate)| Some((at, candidate.cost()?)))
        .collect();
    let costs: Vec<Cost> = measured.iter().map(|(_, cost)| cost.clone()).collect();
    let engines: Vec<String> = candidates
        .first()
        .map(|reference| reference.runs.iter().map(|run| run.engine.to_string()).collect())
        .unwrap_or_default();
    let names: Vec<String> = candidates.iter().map(|candidate| candidate.name.clone()).collect();
    for ((at, cost), by) in measured.iter().zip(beaten_by(&costs)) {
        let by = by.and_then(|by| measured.get(by)).filter(|_| *at != 0);
        let verdict = match by {
            // The reference is what was given: it is not refused, whatever beats it.
            _ if *at == 0 => Verdict::Reference,
            Some((by, other)) => {
                let by = names.get(*by).cloned().unwrap_or_default();
                Verdict::Beaten { by, reason: worse_in(cost, other, &engines) }
            }
            None if cost.loss <= loss_max => Verdict::Good,
            None => Verdict::Lossy,
        };
        if let Some(candidate) = candidates.get_mut(*at) {
            candidate.verdict = verdict;
        }
    }
}

/// Returns what each class of devices should get, as far as it was measured. Reads the verdicts that [`settle`] gave.
#[must_use]
pub fn recommend(candidates: &[Candidate]) -> Vec<Recommendation> {
    let classes = [DeviceClass::Cpu, DeviceClass::GpuWgpu, DeviceClass::Small];
    classes.into_iter().filter_map(|class| recommend_for(class, candidates)).collect()
}

fn recommend_for(class: DeviceClass, candidates: &[Candidate]) -> Option<Recommendation> {
    let (reference, others) = candidates.split_first()?;
    let best = match class.engine() {
        Some(engine) => {
            reference.on(engine)?.timing?;
            fastest(engine, others)
        }
        None => smallest(reference, others),
    };
    let Some(best) = best else {
        let (candidate, reason) = (reference.name.clone(), nothing_beats(class, reference, others));
        return Some(Recommendation { class, candidate, is_reference: true, reason });
    };
    let reason = match class.engine().and_then(|engine| Some((engine, best.on(engine)?.timing?))) {
        Some((engine, timing)) => {
            let (ratio, low, high) = (timing.ratio, timing.ratio_low, timing.ratio_high);
            let time = format!("takes {ratio:.2} of the reference's time ({low:.2} to {high:.2})");
            match alike(engine, best, others).as_slice() {
                [] => time,
                alike => {
                    let names = alike.join(", ");
                    format!("{time}; its time cannot be told apart from that of {names}, and it loses no more")
                }
            }
        }
        None => format!("{} of the reference's size after zstd", share(best.bytes_zstd, reference.bytes_zstd)),
    };
    Some(Recommendation { class, candidate: best.name.clone(), is_reference: false, reason })
}

fn timing(candidate: &Candidate, engine: EngineName) -> Option<Timing> {
    candidate.on(engine).and_then(|run| run.timing)
}

/// Returns whether it may be recommended and is surely faster than the reference.
fn is_faster(candidate: &Candidate, engine: EngineName) -> bool {
    let timing = timing(candidate, engine);
    candidate.is_eligible() && timing.is_some_and(|timing| timing.is_faster() && timing.ratio < 1.0 - LATENCY_SLACK)
}

/// Of the forms that are surely faster than the reference, and whose times cannot be told apart from the fastest one's,
/// the one that loses least; of equals the smallest.
fn fastest(engine: EngineName, others: &[Candidate]) -> Option<&Candidate> {
    let faster = || others.iter().filter(|candidate| is_faster(candidate, engine));
    let ratio = |candidate: &Candidate| timing(candidate, engine).map_or(f64::INFINITY, |timing| timing.ratio);
    let first = faster().min_by(|a, b| ratio(a).total_cmp(&ratio(b)))?;
    let loss = |candidate: &Candidate| candidate.loss.unwrap_or(f64::INFINITY);
    faster()
        .filter(|candidate| are_alike(engine, first, candidate))
        .min_by(|a, b| loss(a).total_cmp(&loss(b)).then(a.bytes_zstd.cmp(&b.bytes_zstd)))
}

/// Returns whether the times of two forms cannot be told apart: their intervals meet, or both are within the slack.
fn are_alike(engine: EngineName, one: &Candidate, other: &Candidate) -> bool {
    match (timing(one, engine), timing(other, engine)) {
        (Some(one), Some(other)) => {
            let (less, more) = (one.ratio.min(other.ratio), one.ratio.max(other.ratio));
            one.overlaps(&other) || less >= more * (1.0 - LATENCY_SLACK)
        }
        (Some(_) | None, _) => false,
    }
}

/// Names of the other forms whose times cannot be told apart from that of the recommended one.
fn alike(engine: EngineName, best: &Candidate, others: &[Candidate]) -> Vec<String> {
    let others = others.iter().filter(|other| other.name != best.name && is_faster(other, engine));
    others.filter(|other| are_alike(engine, best, other)).map(|other| other.name.clone()).collect()
}

fn smallest<'a>(reference: &Candidate, others: &'a [Candidate]) -> Option<&'a Candidate> {
    let smaller = |candidate: &&Candidate| candidate.is_eligible() && candidate.bytes_zstd < reference.bytes_zstd;
    others.iter().filter(smaller).min_by_key(|candidate| candidate.bytes_zstd)
}

/// Says plainly that the model given is the best there is, and what came nearest.
fn nothing_beats(class: DeviceClass, reference: &Candidate, others: &[Candidate]) -> String {
    let what = match class {
        DeviceClass::Cpu | DeviceClass::GpuWgpu => "faster",
        DeviceClass::Small => "smaller",
    };
    let name = &reference.name;
    if !others.iter().any(|other| other.loss.is_some()) {
        return format!("nothing else could be measured: keep {name}");
    }
    if !others.iter().any(Candidate::is_eligible) {
        return format!("nothing tried is within the loss allowed and worth its place: keep {name}");
    }
    let timing = |candidate: &Candidate| candidate.on(class.engine()?)?.timing;
    let nearest = others
        .iter()
        .filter(|candidate| candidate.is_eligible())
        .filter_map(|candidate| Some((timing(candidate)?, &candidate.name)))
        .min_by(|a, b| a.0.ratio.total_cmp(&b.0.ratio));
    match nearest {
        Some((timing, _)) if !timing.is_enough() => format!(
            "too few rounds fit into the time of each form to tell whether anything is {what} than {name}: give \
             --timing-seconds a larger number"
        ),
        Some((timing, nearest)) => {
            let (ratio, low, high) = (timing.ratio, timing.ratio_low, timing.ratio_high);
            let near = format!("{nearest} takes {ratio:.2} of its time ({low:.2} to {high:.2})");
            let is_open = !timing.is_faster() && !timing.is_slower();
            let unsure = if is_open { ", and the two cannot be told apart on this machine" } else { "" };
            format!("nothing within the loss is surely {what} than {name} here; {near}{unsure}")
        }
        None => format!("nothing within the loss is {what} than {name}"),
    }
}

/// A share of a size in percent.
fn share(bytes: u64, of: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "told with three digits")]
    let percent = 100.0 * bytes as f64 / of.max(1) as f64;
    format!("{percent:.1} %")
}

#[cfg(test)]
mod tests {
    use super::super::candidate::EngineRun;
    use super::super::recipe::Form;
    use super::*;
    use crate::Report;

    fn timing(ratio: f64) -> Timing {
        let (ratio_low, ratio_high) = (ratio * 0.99, ratio * 1.01);
        Timing { median_ms: ratio, p10_ms: ratio, p90_ms: ratio, ratio, ratio_low, ratio_high, rounds: 9 }
    }

    fn candidate(name: &str, loss: f64, bytes: u64, ratios: &[Option<f64>]) -> Candidate {
        let engines = [EngineName::Ort, EngineName::Wgpu];
        let runs = engines.into_iter().zip(ratios).map(|(engine, ratio)| EngineRun {
            engine,
            timing: ratio.map(timing),
            problem: ratio.is_none().then(|| "refused".to_owned()),
        });
        Candidate {
            name: name.to_owned(),
            form: Form::Fp32,
            bytes,
            bytes_zstd: bytes,
            quality: None,
            loss: Some(loss),
            runs: runs.collect(),
            verdict: Verdict::Good,
            report: Report::default(),
            model: None,
        }
    }

    fn settled(candidates: &[Candidate]) -> (Vec<Candidate>, Vec<Recommendation>) {
        let mut candidates = candidates.to_vec();
        settle(&mut candidates, 0.01);
        let recommended = recommend(&candidates);
        (candidates, recommended)
    }

    #[test]
    fn each_class_gets_what_is_best_for_it() {
        let (_, recommended) = settled(&[
            candidate("fp32", 0.0, 400, &[Some(1.0), Some(1.0)]),
            candidate("int8-qdq", 0.004, 110, &[Some(0.4), Some(1.3)]),
            candidate("fp16", 0.0, 200, &[Some(1.2), Some(0.7)]),
            candidate("int4-weights", 0.008, 60, &[Some(0.9), Some(0.9)]),
        ]);
        let found: Vec<(&str, &str)> =
            recommended.iter().map(|one| (one.class.as_str(), one.candidate.as_str())).collect();
        assert_eq!(found, [("cpu", "int8-qdq"), ("gpu-wgpu", "fp16"), ("small", "int4-weights")]);
    }

    #[test]
    fn slower_and_worse_is_refused_with_the_figures() {
        let (candidates, _) = settled(&[
            candidate("fp32", 0.0, 400, &[Some(1.0)]),
            candidate("int8-qdq", 0.002, 100, &[Some(0.5)]),
            candidate("int8-dynamic", 0.006, 110, &[Some(1.8)]),
        ]);
        let Verdict::Beaten { by, reason } = &candidates[2].verdict else { panic!("{:?}", candidates[2].verdict) };
        assert_eq!((by.as_str(), reason.as_str()), ("int8-qdq", "3.6x slower on ort, 3.0x the loss, 1.1x the size"));
    }

    #[test]
    fn when_nothing_beats_the_reference_it_is_said() {
        let (_, recommended) = settled(&[
            candidate("fp32", 0.0, 400, &[Some(1.0)]),
            candidate("int8-qdq", 0.5, 100, &[Some(0.5)]),
            candidate("int8-dynamic", 0.001, 110, &[Some(1.8)]),
        ]);
        assert!(recommended[0].is_reference);
        assert_eq!(
            recommended[0].reason,
            "nothing within the loss is surely faster than fp32 here; int8-dynamic takes 1.80 of its time (1.78 to 1.82)"
        );
        assert_eq!(recommended[1].candidate, "int8-dynamic", "it is still smaller, and within the loss");
    }

    #[test]
    fn a_class_whose_engine_is_not_here_gets_no_recommendation() {
        let (_, recommended) = settled(&[candidate("fp32", 0.0, 400, &[Some(1.0)])]);
        assert!(recommended.iter().all(|one| one.class != DeviceClass::GpuWgpu));
        assert!(recommended.iter().all(|one| one.is_reference));
    }

    #[test]
    fn what_loses_too_much_is_on_the_front_and_never_recommended() {
        let (candidates, recommended) =
            settled(&[candidate("fp32", 0.0, 400, &[Some(1.0)]), candidate("int8-qdq", 0.5, 100, &[Some(0.5)])]);
        assert_eq!(candidates[1].verdict, Verdict::Lossy);
        assert!(recommended.iter().all(|one| one.candidate == "fp32"));
    }

    #[test]
    fn the_noise_of_a_measurement_makes_nothing_faster() {
        let mut near = candidate("fp16", 0.0, 200, &[Some(0.99)]);
        near.runs[0].timing = Some(Timing { ratio_low: 0.9, ratio_high: 1.05, ..timing(0.99) });
        let (_, recommended) = settled(&[candidate("fp32", 0.0, 400, &[Some(1.0)]), near]);
        assert!(recommended[0].is_reference, "{recommended:?}");
    }

    #[test]
    fn of_forms_that_are_as_fast_the_one_that_loses_least_is_recommended() {
        let wide = |name: &str, loss: f64, bytes: u64, ratio: f64| {
            let mut form = candidate(name, loss, bytes, &[Some(ratio)]);
            form.runs[0].timing = Some(Timing { ratio_low: ratio - 0.1, ratio_high: ratio + 0.1, ..timing(ratio) });
            form
        };
        let (_, recommended) = settled(&[
            candidate("fp32", 0.0, 400, &[Some(1.0)]),
            wide("int8-qdq minmax", 0.008, 100, 0.50),
            wide("int8-qdq entropy", 0.002, 110, 0.55),
            wide("fp16", 0.0, 200, 0.80),
        ]);
        assert_eq!(recommended[0].candidate, "int8-qdq entropy", "fp16 is surely slower");
        assert!(recommended[0].reason.contains("cannot be told apart from that of int8-qdq minmax"), "{recommended:?}");
    }

    #[test]
    fn too_few_rounds_tell_nothing() {
        let mut few = candidate("int8-qdq", 0.0, 100, &[Some(0.5)]);
        few.runs[0].timing = Some(Timing { rounds: 2, ..timing(0.5) });
        let (_, recommended) = settled(&[candidate("fp32", 0.0, 400, &[Some(1.0)]), few]);
        assert!(recommended[0].is_reference && recommended[0].reason.contains("--timing-seconds"), "{recommended:?}");
    }
}
