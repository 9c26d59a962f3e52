//! Pictures as tensors: decode, turn, resize, convert the colours, normalise, arrange.
//!
//! Every step gives the same numbers as Pillow and NumPy, which models were trained with; only the decoding of JPEG differs by a
//! rounding step, as it does between any two decoders.

mod decode;
mod fit;
mod resize;

use types::limits::TENSOR_BYTES_MAX;
use types::preprocess::{ChannelsAt, Colour, Layout, PictureRule};
use types::{DType, Tensor, TensorSpec};

pub use decode::{FILE_BYTES_MAX, PIXELS_MAX, PictureError, SIDE_MAX};

/// Pixels with 8 bits for each sample, row by row, the channels of a pixel side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pixels {
    rows: usize,
    columns: usize,
    /// Number of channels, 1 (grey) or 3 (RGB).
    channels: usize,
    samples: Vec<u8>,
}

/// Turns a picture file into a tensor for one input.
pub(crate) fn tensor(file: &[u8], rule: &PictureRule, input: &TensorSpec) -> Result<Tensor, PictureError> {
    let layout = Layout::of(input).map_err(PictureError::Input)?;
    let side = |given: u32| usize::try_from(given).unwrap_or(usize::MAX);
    let pixels = decode::decode(file)?.with_channels(layout.channels);
    let rows = rule.size.map(|[rows, _]| side(rows)).or(layout.rows).unwrap_or(pixels.rows);
    let columns = rule.size.map(|[_, columns]| side(columns)).or(layout.columns).unwrap_or(pixels.columns);
    let bytes =
        rows.saturating_mul(columns).saturating_mul(layout.channels).saturating_mul(input.dtype.size().unwrap_or(1));
    if bytes > TENSOR_BYTES_MAX {
        return Err(PictureError::LargeTensor { bytes });
    }
    let pixels = fit::fit(pixels, rule, rows, columns)?;
    let pixels = if rule.colour == Some(Colour::Bgr) { pixels.swapped() } else { pixels };
    let samples = arranged(&pixels, layout.channels_at);
    let channel = |at: usize| match layout.channels_at {
        ChannelsAt::First => at / (rows * columns).max(1),
        ChannelsAt::Last => at % layout.channels,
        ChannelsAt::Nowhere => 0,
    };
    let data = encode(&samples, rule, input.dtype, channel);
    Tensor::new(input.dtype, shape(&layout, rows, columns), data.into()).map_err(PictureError::Tensor)
}

impl Pixels {
    /// Grey from colour, with Pillow's integers for ITU-R BT.601 (`convert("L")`); colour from grey by repetition.
    fn with_channels(self, channels: usize) -> Self {
        let samples: Vec<u8> = match (self.channels, channels) {
            (3, 1) => self.samples.as_chunks::<3>().0.iter().map(luma).collect(),
            (1, 3) => self.samples.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => return self,
        };
        Self { channels, samples, ..self }
    }

    /// Red and blue exchanged.
    fn swapped(mut self) -> Self {
        if self.channels == 3 {
            self.samples.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
        }
        self
    }
}

/// Luma of a pixel in 16 fractional bits, rounded.
fn luma(&[red, green, blue]: &[u8; 3]) -> u8 {
    let sum = u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000;
    // The factors sum to 2^16, so that the result is at most 255.
    u8::try_from(sum >> 16).unwrap_or(u8::MAX)
}

/// The samples in the order of the tensor.
fn arranged(pixels: &Pixels, channels_at: ChannelsAt) -> Vec<u8> {
    match channels_at {
        ChannelsAt::First if pixels.channels > 1 => {
            let plane = |channel| pixels.samples.iter().skip(channel).step_by(pixels.channels).copied();
            (0..pixels.channels).flat_map(plane).collect()
        }
        ChannelsAt::First | ChannelsAt::Last | ChannelsAt::Nowhere => pixels.samples.clone(),
    }
}

/// Scales the samples and subtracts and divides, in f32 and in this order. Each sample has one of 256 values for each channel,
/// so they are computed once.
fn encode(samples: &[u8], rule: &PictureRule, dtype: DType, channel: impl Fn(usize) -> usize) -> Vec<u8> {
    let scaled = |sample: u8| rule.scale.map_or(f32::from(sample) / 255.0, |scale| f32::from(sample) * scale);
    let of_channel = |values: &[f32], channel: usize, default: f32| match values {
        [one] => *one,
        values => values.get(channel).copied().unwrap_or(default),
    };
    let table = |channel: usize| -> Vec<f32> {
        let (mean, std) = (of_channel(&rule.mean, channel, 0.0), of_channel(&rule.std, channel, 1.0));
        (0..=u8::MAX).map(|sample| (scaled(sample) - mean) / std).collect()
    };
    let tables = [table(0), table(1), table(2)];
    let value = |(at, sample): (usize, &u8)| {
        let table = tables.get(channel(at));
        table.and_then(|table| table.get(usize::from(*sample))).copied().unwrap_or_default()
    };
    let values = samples.iter().enumerate().map(value);
    match dtype {
        DType::F16 => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
        DType::F32 => values.flat_map(f32::to_le_bytes).collect(),
        DType::F64 => values.flat_map(|value| f64::from(value).to_le_bytes()).collect(),
        // `Layout::of` lets nothing else through but UINT8.
        _ => samples.to_vec(),
    }
}

fn shape(layout: &Layout, rows: usize, columns: usize) -> Vec<usize> {
    let mut shape = if layout.has_batch { vec![1] } else { Vec::new() };
    match layout.channels_at {
        ChannelsAt::First => shape.extend([layout.channels, rows, columns]),
        ChannelsAt::Last => shape.extend([rows, columns, layout.channels]),
        ChannelsAt::Nowhere => shape.extend([rows, columns]),
    }
    shape
}
