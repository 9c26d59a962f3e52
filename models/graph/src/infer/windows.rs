//! Convolutions and pools: what slides a window over space.

use super::{Dim, Step, TensorType};
use crate::attribute::Attributes;
use crate::tensor::ElementType;

pub(super) fn infer(step: &Step<'_>) -> Option<Vec<TensorType>> {
    let with =
        |element, found: Option<TensorType>| Some(vec![TensorType { element, ..found.unwrap_or(TensorType::UNKNOWN) }]);
    match step.node.op_type() {
        "Conv" => with(step.element(0), conv(step, 0, 1)),
        "ConvInteger" => with(ElementType::Int32, conv(step, 0, 1)),
        "QLinearConv" => with(step.element(7), conv(step, 0, 3)),
        "ConvTranspose" => with(step.element(0), conv_transpose(step)),
        "MaxPool" => {
            let pooled = pool(step).unwrap_or(step.typed_like_first(None));
            let indices = TensorType { element: ElementType::Int64, ..pooled.clone() };
            Some(vec![pooled, indices])
        }
        "AveragePool" | "LpPool" => with(step.element(0), pool(step)),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
            let shape = step.shape(0).filter(|shape| shape.len() >= 2).map(|shape| {
                let lead = shape.iter().take(2).cloned();
                lead.chain(shape.iter().skip(2).map(|_| Dim::Known(1))).collect()
            });
            Some(vec![step.typed_like_first(shape)])
        }
        _ => None,
    }
}

pub(super) fn conv(step: &Step<'_>, input: usize, weight: usize) -> Option<TensorType> {
    let [batch, _channels, space @ ..] = step.shape(input)? else { return None };
    let [made, _within, kernel @ ..] = step.shape(weight)? else { return None };
    let window = Window::of(step, kernel.to_vec())?;
    if kernel.len() != space.len() {
        return None;
    }
    let sizes = space.iter().enumerate().map(|(axis, size)| window.slide(axis, size));
    Some(TensorType::new(step.element(input), [batch.clone(), made.clone()].into_iter().chain(sizes).collect()))
}

fn pool(step: &Step<'_>) -> Option<TensorType> {
    let [batch, channels, space @ ..] = step.shape(0)? else { return None };
    let kernel: Vec<Dim> = step.node.attr_ints("kernel_shape")?.iter().map(|&size| Dim::Known(size)).collect();
    if kernel.len() != space.len() {
        return None;
    }
    let window = Window::of(step, kernel)?;
    let sizes = space.iter().enumerate().map(|(axis, size)| window.slide(axis, size));
    Some(TensorType::new(step.element(0), [batch.clone(), channels.clone()].into_iter().chain(sizes).collect()))
}

fn conv_transpose(step: &Step<'_>) -> Option<TensorType> {
    let [batch, _channels, space @ ..] = step.shape(0)? else { return None };
    let [_taken, within, kernel @ ..] = step.shape(1)? else { return None };
    if kernel.len() != space.len() {
        return None;
    }
    let group = step.int("group").unwrap_or(1);
    let window = Window::of(step, kernel.to_vec())?;
    let given = step.node.attr_ints("output_shape").map(|sizes| {
        // Some writers tell batch and channels too.
        sizes.iter().skip(sizes.len().saturating_sub(space.len())).map(|&size| Dim::Known(size)).collect::<Vec<_>>()
    });
    let extra = step.node.attr_ints("output_padding").unwrap_or(&[]);
    let sizes = given.filter(|sizes| sizes.len() == space.len()).unwrap_or_else(|| {
        let one = |(axis, size)| window.spread(axis, size, extra.get(axis).copied().unwrap_or(0));
        space.iter().enumerate().map(one).collect()
    });
    let channels = super::times(within, &Dim::Known(group));
    Some(TensorType::new(step.element(0), [batch.clone(), channels].into_iter().chain(sizes).collect()))
}

/// Movement of a window: kernel, strides, dilations and pads.
struct Window {
    kernel: Vec<Dim>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
    is_same: bool,
    rounds_up: bool,
    /// The last window that begins in the padding after the end is left out; pools only.
    is_pool: bool,
}

impl Window {
    fn of(step: &Step<'_>, kernel: Vec<Dim>) -> Option<Self> {
        let rank = kernel.len();
        let list = |name, count, default| match step.node.attr_ints(name) {
            Some(list) => (list.len() == count).then(|| list.to_vec()),
            None => Some(vec![default; count]),
        };
        let auto = step.node.attr_str("auto_pad").unwrap_or("NOTSET");
        let pads = if auto == "NOTSET" { list("pads", 2 * rank, 0)? } else { vec![0; 2 * rank] };
        let (strides, dilations) = (list("strides", rank, 1)?, list("dilations", rank, 1)?);
        let is_sound = strides.iter().chain(&dilations).all(|&step| step > 0);
        let rounds_up = step.int("ceil_mode").unwrap_or(0) != 0;
        let is_pool = step.node.op_type().ends_with("Pool");
        let is_same = auto.starts_with("SAME");
        is_sound.then_some(Self { kernel, strides, dilations, pads, is_same, rounds_up, is_pool })
    }

    /// Padding before and after, and the extent of the kernel.
    fn extents(&self, axis: usize) -> Option<(i64, i64)> {
        let pads = self.pads.get(axis)?.checked_add(*self.pads.get(axis + self.kernel.len())?)?;
        let kernel =
            self.kernel.get(axis)?.known()?.checked_sub(1)?.checked_mul(*self.dilations.get(axis)?)?.checked_add(1)?;
        Some((pads, kernel))
    }

    fn slide(&self, axis: usize, size: &Dim) -> Dim {
        self.slid(axis, size).map_or(Dim::Unknown, Dim::Known)
    }

    fn slid(&self, axis: usize, size: &Dim) -> Option<i64> {
        let (size, stride) = (size.known()?, *self.strides.get(axis)?);
        if self.is_same {
            return Some(size.checked_add(stride - 1)? / stride);
        }
        let (pads, kernel) = self.extents(axis)?;
        let room = size.checked_add(pads)?.checked_sub(kernel)?;
        if room < 0 {
            return None;
        }
        let mut count = room / stride + 1;
        if self.rounds_up && room % stride != 0 {
            let starts_inside = count.checked_mul(stride)? < size.checked_add(*self.pads.get(axis)?)?;
            count += i64::from(starts_inside || !self.is_pool);
        }
        Some(count)
    }

    /// The other direction: what a transposed convolution makes.
    fn spread(&self, axis: usize, size: &Dim, extra: i64) -> Dim {
        let made = || {
            let (size, stride) = (size.known()?, *self.strides.get(axis)?);
            if self.is_same {
                return size.checked_mul(stride);
            }
            let (pads, kernel) = self.extents(axis)?;
            let made =
                stride.checked_mul(size.checked_sub(1)?)?.checked_add(extra)?.checked_add(kernel)?.checked_sub(pads)?;
            (made >= 0).then_some(made)
        };
        made().map_or(Dim::Unknown, Dim::Known)
    }
}
