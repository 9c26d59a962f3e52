//! Scores to probabilities, in place: softcap, mask, windows, softmax over the keys that are left.

use crate::error::OpError;
use crate::lower::{Arg, Effort, KernelBuilder, Lowering, Operand, Params, linear_groups, steps};
use crate::shape::volume;
use crate::shape::{broadcast, broadcast_strides};

/// Scores of an attention, one row of keys for each query.
#[derive(Debug)]
pub(super) struct Scores {
    /// Batch, query heads, queries, keys.
    pub(super) shape: [usize; 4],
    /// Numbers that are added to the scores, or flags of those that count.
    pub(super) mask: Option<Mask>,
    /// Position of the queries among the keys.
    pub(super) ends: Ends,
    /// Limit that scores approach; 0 for none.
    pub(super) softcap: f32,
    /// True if a query sees no key behind its own.
    pub(super) causal: bool,
    /// Keys that a query sees before and behind its own; `u32::MAX` for all.
    pub(super) windows: [u32; 2],
    /// A score without a value that takes part in the sum.
    pub(super) sink: Option<Sink>,
    /// Tensor that the scores are written to as well, and whether after the softcap instead of after the mask.
    pub(super) shown: Option<(Arg, bool)>,
}

/// A mask whose shape broadcasts to that of the scores.
#[derive(Debug)]
pub(super) struct Mask {
    pub(super) operand: Operand,
    pub(super) is_bool: bool,
}

/// Position of the queries among the keys.
#[derive(Debug)]
pub(super) enum Ends {
    /// So many keys are before the first query.
    Past(usize),
    /// Each sequence of the batch has a length of its own, and its queries are the last of it; keys behind it are left out.
    Lengths {
        /// One integer for each sequence.
        lengths: Operand,
        /// True if the tensor holds the length less one.
        less_one: bool,
        /// True if the queries begin at the first key instead.
        prompt: bool,
    },
}

/// A score without a value, as in "attention sinks".
#[derive(Debug)]
pub(super) enum Sink {
    /// Zero in each row.
    Zero,
    /// One number for each head.
    Heads(Operand),
}

impl Scores {
    /// Launches the kernel over `probabilities`.
    ///
    /// # Errors
    /// When the mask does not fit, or a size is over the device's 32 bits.
    pub(super) fn lower(self, cx: &mut Lowering<'_>, probabilities: Arg) -> Result<(), OpError> {
        let [batch, heads, queries, keys] = self.shape;
        let rows = volume(&[batch, heads, queries])?;
        if rows == 0 || keys == 0 {
            return Ok(());
        }
        let numbers = Params::sizes([("rows", rows), ("heads", heads), ("queries", queries), ("keys", keys)])?;
        let numbers = numbers.float("softcap", self.softcap).word("causal", u32::from(self.causal));
        let mut numbers = numbers.word("left_window", self.windows[0]).word("right_window", self.windows[1]);
        let mut args = Vec::new();
        let mut kernel = KernelBuilder::new("attention_softmax");
        let mut text = String::new();
        if let Some(Mask { operand: mask, is_bool }) = self.mask {
            let full = [batch, heads, queries, mask.shape.last().copied().unwrap_or(1)];
            let fits = !mask.shape.is_empty()
                && full[3] <= keys
                && broadcast(&mask.shape, &full).is_ok_and(|shape| shape == full);
            if !fits {
                return Err(OpError::invalid(format!("a mask of {:?} does not fit scores of {full:?}", mask.shape)));
            }
            let steps = broadcast_strides(&mask.shape, &full);
            numbers.extend(Params::sizes([
                ("mask_batch", steps[0]),
                ("mask_head", steps[1]),
                ("mask_query", steps[2]),
                ("mask_keys", full[3]),
            ])?);
            kernel = kernel.read("mask", mask.repr);
            args.push(mask.arg);
            text.push_str(
                "if (key >= param.mask_keys) { return BARRED; }
    let bias = load_mask(batch * param.mask_batch + head * param.mask_head + query * param.mask_query + key);\n    ",
            );
            text.push_str(if is_bool {
                "if (bias == 0) { return BARRED; }\n    "
            } else {
                "if (bitcast<u32>(bias) == 0xff800000u || is_barred(bias)) { return BARRED; }\n    value += bias;\n    "
            });
        }
        let before = match self.ends {
            Ends::Past(past) => {
                numbers = numbers.size("past", past)?;
                "i32(param.past)".to_owned()
            }
            Ends::Lengths { lengths, less_one, prompt } => {
                kernel = kernel.read("lengths", lengths.repr);
                args.push(lengths.arg);
                let length = if less_one { "(i32(load_lengths(batch)) + 1)" } else { "i32(load_lengths(batch))" };
                text.push_str(&format!("if (i32(key) >= {length}) {{ return BARRED; }}\n    "));
                if prompt { "0".to_owned() } else { format!("{length} - i32(param.queries)") }
            }
        };
        let (largest, first_sum) = match self.sink {
            None => ("BARRED", "0.0"),
            Some(Sink::Zero) => ("0.0", "exp(-largest)"),
            Some(Sink::Heads(operand)) => {
                kernel = kernel.read("sink", operand.repr);
                args.push(operand.arg);
                ("load_sink(head)", "exp(load_sink(head) - largest)")
            }
        };
        kernel = kernel.raw("p", "array<f32>");
        args.push(probabilities);
        let mut store = "";
        if let Some((shown, after_softcap)) = self.shown {
            kernel = kernel.raw("qk", "array<f32>");
            args.push(shown);
            store = if after_softcap {
                "qk[first + key] = score;"
            } else {
                // An infinity may not be written as a constant expression.
                numbers = numbers.float("infinity", f32::NEG_INFINITY);
                "qk[first + key] = select(value, bitcast<f32>(param.infinity), is_barred(value));"
            };
        }
        let threads = if cx.tuning.workgroup_tiles { 64 } else { 8 };
        let scores = format!(
            "let score = softcapped(p[first + key]);
        let value = biased(score, batch, head, query, key);
        {store}
        p[first + key] = value;
        largest = max(largest, value);"
        );
        let sum = "let value = p[first + key];
        var part = 0.0;
        if (!is_barred(value)) { part = exp(value - largest); }
        p[first + key] = part;
        sum += part;";
        let walk = |body: &str| steps("key", "param.keys", keys, body);
        let (walk_scores, rounds) = walk(&scores);
        let text = include_str!("../../wgsl/attention_softmax.wgsl")
            .replace("WALK_SCORES", &walk_scores)
            .replace("WALK_SUM", &walk(sum).0)
            .replace("WALK_SCALE", &walk("p[first + key] = p[first + key] * factor;").0)
            .replace("FIRST_LARGEST", largest)
            .replace("FIRST_SUM", first_sum)
            .replace("BEFORE", &before)
            .replace("MASK", &text)
            .replace("THREADS", &threads.to_string());
        let work = u64::try_from(rows.saturating_mul(keys).saturating_mul(8)).unwrap_or(u64::MAX);
        let effort = Effort::looping(work, rounds.saturating_mul(3));
        cx.dispatch(kernel.text(&text).finish(), args, numbers, linear_groups(rows.div_ceil(threads)), effort);
        Ok(())
    }
}

/// Number of earlier keys that a query of a local window sees, from the attribute of ONNX Runtime that counts its own key too.
pub(super) fn left_window(local_window_size: i64) -> u32 {
    u32::try_from(local_window_size).ok().and_then(|size| size.checked_sub(1)).unwrap_or(u32::MAX)
}
