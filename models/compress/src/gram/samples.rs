//! How a node looks at its input: row by row, or through the window of a convolution.

use onnx_graph::Attributes;
use onnx_graph::proto::NodeProto;

/// Samples that one run adds at most for one view; of more, every n-th is taken.
///
/// A convolution sees each image from hundreds of places that differ little; this bounds the time of one image.
const SAMPLES_PER_RUN_MAX: usize = 2_048;

/// A node's way to look at its input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum View {
    /// Along the last axis, of this length.
    Rows(usize),
    /// Through a two-dimensional window.
    Window(Window),
}

/// The geometry of a convolution over N×C×H×W with one group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Window {
    channels: usize,
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 4],
}

impl View {
    /// The view of a convolution; `None` for groups, other ranks and paddings that depend on the input's size.
    pub(super) fn of_conv(node: &NodeProto, weight: &[usize]) -> Option<Self> {
        let &[_outputs, channels, height, width] = weight else { return None };
        let automatic = node.attr_str("auto_pad").unwrap_or("NOTSET");
        if node.attr_int("group").unwrap_or(1) != 1 || !matches!(automatic, "NOTSET" | "VALID") {
            return None;
        }
        let strides = numbers(node, "strides", [1; 2])?;
        let dilations = numbers(node, "dilations", [1; 2])?;
        let pads = numbers(node, "pads", [0; 4])?;
        let sane = strides.iter().chain(&dilations).all(|&value| value > 0);
        let window = Window { channels, kernel: [height, width], strides, dilations, pads };
        window.side()?;
        sane.then_some(Self::Window(window))
    }

    /// Inputs that one output depends on.
    pub(super) fn side(&self) -> usize {
        match self {
            Self::Rows(length) => *length,
            Self::Window(window) => window.side().unwrap_or(usize::MAX),
        }
    }

    /// For each input its value in every sample; `None` when the value does not have the shape.
    pub(super) fn columns(&self, shape: &[usize], values: &[f32]) -> Option<Vec<Vec<f32>>> {
        match self {
            Self::Rows(length) => rows(*length, shape, values),
            Self::Window(window) => window.columns(shape, values),
        }
    }
}

fn numbers<const N: usize>(node: &NodeProto, name: &str, default: [usize; N]) -> Option<[usize; N]> {
    let Some(given) = node.attr_ints(name) else { return Some(default) };
    let given: Vec<usize> = given.iter().map(|&value| usize::try_from(value)).collect::<Result<_, _>>().ok()?;
    given.try_into().ok()
}

fn rows(length: usize, shape: &[usize], values: &[f32]) -> Option<Vec<Vec<f32>>> {
    if shape.last() != Some(&length) || length == 0 {
        return None;
    }
    let count = values.len() / length;
    let step = count.div_ceil(SAMPLES_PER_RUN_MAX).max(1);
    Some((0..length).map(|at| values.iter().skip(at).step_by(length * step).copied().collect()).collect())
}

impl Window {
    fn side(&self) -> Option<usize> {
        self.channels.checked_mul(self.kernel[0])?.checked_mul(self.kernel[1])
    }

    /// Output places along one axis.
    fn places(&self, axis: usize, length: usize) -> Option<usize> {
        let padded = length.checked_add(self.pads[axis])?.checked_add(self.pads[axis + 2])?;
        let reach = self.dilations[axis].checked_mul(self.kernel[axis].checked_sub(1)?)?.checked_add(1)?;
        Some(padded.checked_sub(reach)? / self.strides[axis] + 1)
    }

    fn columns(&self, shape: &[usize], values: &[f32]) -> Option<Vec<Vec<f32>>> {
        let &[images, channels, height, width] = shape else { return None };
        if channels != self.channels {
            return None;
        }
        let (down, across) = (self.places(0, height)?, self.places(1, width)?);
        let count = images.checked_mul(down)?.checked_mul(across)?;
        let step = count.div_ceil(SAMPLES_PER_RUN_MAX).max(1);
        // An odd step meets every row and column of the image in turn.
        let step = if step > 1 { step | 1 } else { 1 };
        let picked: Vec<usize> = (0..count).step_by(step).collect();
        let mut columns = Vec::with_capacity(self.side()?);
        for channel in 0..channels {
            for y in 0..self.kernel[0] {
                for x in 0..self.kernel[1] {
                    let at = |sample: &usize| {
                        let (image, place) = (sample / (down * across), sample % (down * across));
                        let row = place / across * self.strides[0] + y * self.dilations[0];
                        let column = place % across * self.strides[1] + x * self.dilations[1];
                        let row = row.checked_sub(self.pads[0]).filter(|&row| row < height)?;
                        let column = column.checked_sub(self.pads[1]).filter(|&column| column < width)?;
                        values.get(((image * channels + channel) * height + row) * width + column).copied()
                    };
                    columns.push(picked.iter().map(|sample| at(sample).unwrap_or(0.0)).collect());
                }
            }
        }
        Some(columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnx_graph::proto::AttributeProto;

    #[test]
    fn a_window_sees_what_the_convolution_sees() {
        let node = NodeProto::new("Conv", "", &["x", "w"], &["y"])
            .with(AttributeProto::int_list("pads", &[1, 0, 0, 0]))
            .with(AttributeProto::int_list("strides", &[1, 2]));
        let view = View::of_conv(&node, &[5, 1, 2, 2]).unwrap();
        let image: Vec<f32> = (1_u8..=12).map(f32::from).collect();
        // 3×4 with one row of padding above: 3×2 places.
        let columns = view.columns(&[1, 1, 3, 4], &image).unwrap();
        assert_eq!(columns[0], [0.0, 0.0, 1.0, 3.0, 5.0, 7.0]);
        assert_eq!(columns[3], [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
    }

    #[test]
    fn many_samples_are_thinned() {
        let columns = View::Rows(2).columns(&[10_000, 2], &vec![1.0; 20_000]).unwrap();
        assert_eq!((columns.len(), columns[0].len()), (2, 2_000));
    }
}
