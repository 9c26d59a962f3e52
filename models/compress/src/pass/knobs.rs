//! Options of the passes: name, help, the values that they take, and the setting that each value changes.

use super::Settings;
use crate::auto::{Calibration, GPTQ};
use crate::prune::magnitude::Pattern;
use crate::quality::Measure;
use crate::static_int8::Activations;
use crate::weight_only;

/// Option of one or several passes.
#[derive(Debug)]
pub struct Knob {
    /// Name on the command line, without dashes.
    pub name: &'static str,
    /// Effect of the option, in one or two sentences without the final full stop.
    pub help: &'static str,
    /// Values that it takes.
    pub values: Values,
    /// Value that is in force when the option is absent, as text; `None` where the help says it, and for flags.
    pub default: Option<&'static str>,
    /// Name of the option that excludes this one.
    pub conflicts_with: Option<&'static str>,
}

/// Values of an option.
#[derive(Debug)]
pub enum Values {
    /// None: the option is there or not.
    Flag(fn(&mut Settings)),
    /// One of several names: its placeholder, and the names.
    OneOf(&'static str, &'static [Choice]),
    /// Text with a form of its own: its placeholder, and its reader.
    Text(&'static str, fn(&mut Settings, &str) -> Result<(), String>),
}

/// Named value of an option.
#[derive(Debug)]
pub struct Choice {
    /// Name on the command line.
    pub name: &'static str,
    /// Meaning, in a clause.
    pub about: &'static str,
    /// Changes the setting to this value.
    pub set: fn(&mut Settings),
}

/// All options, in the order of the help.
pub const KNOBS: &[Knob] = &[
    Knob {
        name: "calibration",
        help: "Method that reads ranges of activations from the examples",
        values: Values::OneOf(
            "METHOD",
            &[
                choice("minmax", "From the least to the greatest value seen", |to| {
                    to.calibration = Calibration::Minmax
                }),
                choice("moving-average", "Least and greatest of each batch, averaged", |to| {
                    to.calibration = Calibration::MovingAverage;
                }),
                choice("percentile", "The range that holds 99.99 % of the values", |to| {
                    to.calibration = Calibration::Percentile;
                }),
                choice("entropy", "The cut that keeps most of the distribution", |to| {
                    to.calibration = Calibration::Entropy
                }),
                choice("mse", "The cut with the least squared error", |to| to.calibration = Calibration::Mse),
            ],
        ),
        default: Some("minmax"),
        conflicts_with: None,
    },
    Knob {
        name: "activations",
        help: "Integers of activations: x86 multiplies u8 fastest, many accelerators want s8",
        values: Values::OneOf(
            "INTEGERS",
            &[
                choice("u8", "0 to 255", |to| to.activations = Activations::U8),
                choice("s8", "-128 to 127", |to| to.activations = Activations::S8),
            ],
        ),
        default: Some("u8"),
        conflicts_with: None,
    },
    Knob {
        name: "symmetric",
        help: "Keep ranges even around zero: of activations for the int8 forms, of weights (no zero points) for the weight forms",
        values: Values::Flag(|to| to.symmetric = true),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "rounding",
        help: "Method that chooses the codes of weights [default: gptq for 4 bits, else rtn]",
        values: Values::OneOf(
            "METHOD",
            &[
                choice("rtn", "To the nearest level of the best scale", |to| {
                    to.rounding = Some(weight_only::Method::Rtn)
                }),
                choice("hqq", "Half-quadratic: zero points that tolerate outliers", |to| {
                    to.rounding = Some(weight_only::Method::Hqq);
                }),
                choice("gptq", "Errors compensate each other on the calibration examples", |to| {
                    to.rounding = Some(GPTQ)
                }),
            ],
        ),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "block-size",
        help: "Number of weights that share a scale: 16, 32, 64, 128 or 256",
        values: Values::Text("COUNT", block_size),
        default: Some("32"),
        conflicts_with: None,
    },
    Knob {
        name: "weights-as-qdq",
        help: "Write DequantizeLinear and MatMul instead of MatMulNBits, for engines without ONNX Runtime's own operators",
        values: Values::Flag(|to| to.qdq = true),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "per-channel",
        help: "Give each output channel of a weight its own scale; this is the default",
        values: Values::Flag(|to| to.per_channel = true),
        default: None,
        conflicts_with: Some("per-tensor"),
    },
    Knob {
        name: "per-tensor",
        help: "Give each weight one scale: smaller by a few bytes, and the loss is often several times larger",
        values: Values::Flag(|to| to.per_channel = false),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "reduce-range",
        help: "Use 7 bits of each weight: x86 processors without VNNI saturate with 8",
        values: Values::Flag(|to| to.reduce_range = true),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "equalize",
        help: "Move scale from large channels to neighbours that tolerate it before rounding (cross-layer equalization of \
               convolutions, SmoothQuant after layer normalizations)",
        values: Values::Flag(|to| to.equalize = true),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "correct-bias",
        help: "Subtract from biases the mean error that rounding adds",
        values: Values::Flag(|to| to.correct_bias = true),
        default: None,
        conflicts_with: None,
    },
    Knob {
        name: "pattern",
        help: "N:M structured sparsity: zero N of every M consecutive weights along the input dimension (for example 2:4)",
        values: Values::Text("ZEROS:GROUP", pattern),
        default: None,
        conflicts_with: Some("sparsity"),
    },
    Knob {
        name: "sparsity",
        help: "Share of the weights (or channels) that are removed",
        values: Values::Text("SHARE", sparsity),
        default: Some("0.5"),
        conflicts_with: None,
    },
    Knob {
        name: "rank-by",
        help: "Measure of the sensitivity of layers [default: kl for classes, else mse]",
        values: Values::OneOf(
            "MEASURE",
            &[
                choice("mse", "Mean squared error of the answers", |to| to.rank_by = Some(Measure::Error)),
                choice("kl", "Kullback-Leibler divergence of the class probabilities", |to| {
                    to.rank_by = Some(Measure::Divergence);
                }),
                choice("accuracy", "Accuracy lost on labelled examples", |to| to.rank_by = Some(Measure::Accuracy)),
            ],
        ),
        default: None,
        conflicts_with: None,
    },
];

const fn choice(name: &'static str, about: &'static str, set: fn(&mut Settings)) -> Choice {
    Choice { name, about, set }
}

impl Knob {
    /// Names of the passes that it applies to.
    pub fn passes(&self) -> impl Iterator<Item = &'static str> + '_ {
        super::PASSES.iter().filter(|pass| pass.options.contains(&self.name)).map(|pass| pass.name)
    }

    /// Changes the settings to a value that is given as text; a flag ignores the text.
    ///
    /// # Errors
    /// One sentence that says what the value may be.
    pub fn set(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        match &self.values {
            Values::Flag(set) => set(settings),
            Values::OneOf(_, choices) => match choices.iter().find(|choice| choice.name == text) {
                Some(choice) => (choice.set)(settings),
                None => {
                    let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
                    return Err(format!("{text:?} is not one of {}", names.join(", ")));
                }
            },
            Values::Text(_, read) => return read(settings, text),
        }
        Ok(())
    }
}

fn block_size(settings: &mut Settings, text: &str) -> Result<(), String> {
    let known = |size: &usize| weight_only::BLOCKS.contains(size);
    settings.block =
        text.parse().ok().filter(known).ok_or_else(|| format!("{text:?} is not 16, 32, 64, 128 or 256"))?;
    Ok(())
}

fn sparsity(settings: &mut Settings, text: &str) -> Result<(), String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    settings.sparsity = share.ok_or_else(|| format!("{text:?} is not a number between 0 and 1; 10 % is 0.1"))?;
    Ok(())
}

fn pattern(settings: &mut Settings, text: &str) -> Result<(), String> {
    let read = || {
        let (zeros, group) = text.split_once(':')?;
        let (zeros, group) = (zeros.parse().ok()?, group.parse().ok()?);
        (0 < zeros && zeros < group).then_some(Pattern::Groups { zeros, group })
    };
    settings.pattern = Some(read().ok_or_else(|| {
        format!("{text:?} is not a pattern N:M with 0 < N < M; 2:4 sets two of every four weights to zero")
    })?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_the_setting_without_options_and_every_choice_is_read() {
        for knob in KNOBS {
            let mut settings = Settings::default();
            if let Some(default) = knob.default {
                knob.set(&mut settings, default).unwrap();
                assert_eq!(settings, Settings::default(), "--{}", knob.name);
            }
            match &knob.values {
                Values::Flag(_) => knob.set(&mut settings, "").unwrap(),
                Values::OneOf(_, choices) => {
                    assert!(choices.iter().all(|choice| knob.set(&mut settings, choice.name).is_ok()));
                    assert!(knob.set(&mut settings, "no such").unwrap_err().contains(choices[0].name));
                }
                Values::Text(..) => assert!(knob.set(&mut settings, "no such").is_err(), "--{}", knob.name),
            }
            assert!(knob.passes().next().is_some(), "--{}", knob.name);
        }
    }

    #[test]
    fn patterns_and_shares_have_bounds() {
        let set = |name: &str, text: &str| {
            let mut settings = Settings::default();
            let knob = KNOBS.iter().find(|knob| knob.name == name).unwrap();
            knob.set(&mut settings, text).map(|()| settings)
        };
        assert_eq!(set("pattern", "2:4").unwrap().pattern, Some(Pattern::Groups { zeros: 2, group: 4 }));
        for wrong in ["0:4", "4:4", "5:4", "2", ":", "-1:4", "2:4:8"] {
            assert!(set("pattern", wrong).is_err(), "{wrong}");
        }
        for wrong in ["-0.1", "1.1", "NaN", "half"] {
            assert!(set("sparsity", wrong).is_err(), "{wrong}");
        }
        assert!(set("block-size", "48").is_err());
    }
}
