//! Inputs that look like pictures, as PNG files in data URIs.
//!
//! Fed with an input of one example; feeds [`crate::document`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use types::{DType, Tensor};

/// Least width and height of a picture in pixels: smaller tensors are tables of numbers.
const SIDE_MIN: usize = 8;

/// Largest width and height that are drawn; larger pictures are thinned out.
const SIDE_MAX: usize = 128;

/// Largest width and height of a tensor that is taken for a picture.
const TENSOR_SIDE_MAX: usize = 8192;

/// Place of the colours in a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    height: usize,
    width: usize,
    colours: usize,
    /// Whether the colours of a pixel are side by side.
    is_interleaved: bool,
}

impl Layout {
    /// Returns the layout of `[1, C, H, W]`, `[1, H, W, C]` or `[1, H, W]` with one or three colours.
    fn of(shape: &[usize]) -> Option<Self> {
        let is_colour = |count: usize| count == 1 || count == 3;
        let is_side = |side: usize| (SIDE_MIN..=TENSOR_SIDE_MAX).contains(&side);
        let (height, width, colours, is_interleaved) = match *shape {
            [1, colours, height, width] if is_colour(colours) => (height, width, colours, false),
            [1, height, width, colours] if is_colour(colours) => (height, width, colours, true),
            [1, height, width] | [height, width] => (height, width, 1, false),
            _ => return None,
        };
        (is_side(height) && is_side(width)).then_some(Self { height, width, colours, is_interleaved })
    }

    fn index(self, row: usize, column: usize, colour: usize) -> usize {
        if self.is_interleaved {
            (row * self.width + column) * self.colours + colour
        } else {
            (colour * self.height + row) * self.width + column
        }
    }
}

/// Returns a data URI of the picture in a tensor; `None` for tensors of other shapes. The smallest value is black and the largest white,
/// except for bytes, which are shown as they are.
#[must_use]
pub fn data_uri(tensor: &Tensor) -> Option<String> {
    let layout = Layout::of(tensor.shape())?;
    let values: Vec<f32> = match tensor.dtype() {
        DType::U8 => tensor.data().iter().map(|&byte| f32::from(byte)).collect(),
        _ => tensor.to_f32().ok()?,
    };
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = match tensor.dtype() {
        DType::U8 => (0.0, 255.0),
        _ => (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max)),
    };
    let span = if high > low { high - low } else { 1.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
    let byte = |value: f32| (255.0 * ((value - low) / span).clamp(0.0, 1.0)).round() as u8;
    let step = layout.height.max(layout.width).div_ceil(SIDE_MAX);
    let (rows, columns) = (layout.height.div_ceil(step), layout.width.div_ceil(step));
    let mut pixels = Vec::with_capacity(rows * columns * layout.colours);
    for row in (0..layout.height).step_by(step) {
        for column in (0..layout.width).step_by(step) {
            for colour in 0..layout.colours {
                let value = values.get(layout.index(row, column, colour)).copied().unwrap_or(low);
                pixels.push(byte(if value.is_finite() { value } else { low }));
            }
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, u32::try_from(columns).ok()?, u32::try_from(rows).ok()?);
    encoder.set_color(if layout.colours == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale });
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels)).ok()?;
    Some(format!("data:image/png;base64,{}", STANDARD.encode(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(tensor: &Tensor) -> Option<(u32, u32, Vec<u8>)> {
        let uri = data_uri(tensor)?;
        let file = STANDARD.decode(uri.strip_prefix("data:image/png;base64,")?).ok()?;
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().ok()?;
        let mut pixels = vec![0; reader.output_buffer_size()?];
        let info = reader.next_frame(&mut pixels).ok()?;
        Some((info.width, info.height, pixels))
    }

    #[test]
    fn both_orders_of_colours_give_the_same_picture() {
        let planes: Vec<f32> = (0..3_u8).flat_map(|colour| vec![f32::from(colour); 80]).collect();
        let pixels: Vec<f32> = (0..80).flat_map(|_| [0.0, 1.0, 2.0]).collect();
        let planes = decoded(&Tensor::from_f32(vec![1, 3, 8, 10], &planes).unwrap()).unwrap();
        let pixels = decoded(&Tensor::from_f32(vec![1, 8, 10, 3], &pixels).unwrap()).unwrap();
        assert_eq!((planes.0, planes.1, planes.2.get(..3)), (10, 8, Some(&[0, 128, 255][..])));
        assert_eq!(planes, pixels);
    }

    #[test]
    fn large_pictures_are_thinned_out_and_other_tensors_are_none() {
        let large = Tensor::from_f32(vec![1, 1, 300, 200], &vec![f32::NAN; 60_000]).unwrap();
        assert_eq!(decoded(&large).map(|(width, height, _)| (width, height)), Some((67, 100)));
        for shape in [vec![1, 784], vec![1, 2, 28, 28], vec![1, 4, 4], vec![1, 28, 28, 28, 28]] {
            let tensor = Tensor::from_f32(shape.clone(), &vec![0.0; shape.iter().product()]).unwrap();
            assert_eq!(data_uri(&tensor), None, "{shape:?}");
        }
    }
}
