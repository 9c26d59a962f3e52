//! PNG pictures as tensors.
//!
//! A picture becomes what image models commonly take: channels first (or last, where the model says so), one channel
//! of luma or three of red, green and blue, scaled to 0..1 for floating-point inputs and left at 0..255 for `UINT8`. A
//! picture of another size than the model's is scaled bilinearly. Further preparation (means, colour order) is the
//! application's, which sends tensors over HTTP.

use std::io::Cursor;
use std::path::Path;

use png::{ColorType, Transformations};
use types::limits::TENSOR_BYTES_MAX;
use types::{DType, Dim, Tensor, TensorSpec};

use super::InputError;

/// Reads a PNG file and shapes it for one input.
pub(super) fn load(path: &Path, bytes: &[u8], spec: &TensorSpec) -> Result<Tensor, InputError> {
    let layout = Layout::of(spec)?;
    let picture = decode(path, bytes)?.with_channels(layout.channels);
    let (width, height) = (layout.width.unwrap_or(picture.width), layout.height.unwrap_or(picture.height));
    let picture = picture.scaled(width, height);
    let values = if layout.channels_last { picture.samples } else { picture.planes() };
    let data = encode(&values, spec.dtype).ok_or_else(|| layout_error(spec, "its elements must be floats or UINT8"))?;
    Tensor::new(spec.dtype, layout.shape(width, height), data.into())
        .map_err(|source| InputError::Tensor { path: path.to_owned(), source })
}

fn layout_error(spec: &TensorSpec, problem: &'static str) -> InputError {
    InputError::NotAPicture { spec: spec.to_string(), problem }
}

/// Position of the channels of an input, and the sizes that it fixes.
struct Layout {
    batch: bool,
    channels_last: bool,
    channels: usize,
    height: Option<usize>,
    width: Option<usize>,
}

impl Layout {
    fn of(spec: &TensorSpec) -> Result<Self, InputError> {
        let dims = spec.shape.as_deref().unwrap_or_default();
        let (batch, dims) = match dims {
            [Dim::Fixed(1) | Dim::Any | Dim::Symbol(_), rest @ ..] if rest.len() == 3 => (true, rest),
            dims if dims.len() == 3 => (false, dims),
            _ => return Err(layout_error(spec, "use --npy, pictures need 3 or 4 dimensions with a batch of 1")),
        };
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Any | Dim::Symbol(_) => None,
        };
        match dims {
            [Dim::Fixed(channels @ (1 | 3)), height, width] => {
                let (height, width) = (size(height), size(width));
                Ok(Self { batch, channels_last: false, channels: *channels, height, width })
            }
            [height, width, Dim::Fixed(channels @ (1 | 3))] => {
                let (height, width) = (size(height), size(width));
                Ok(Self { batch, channels_last: true, channels: *channels, height, width })
            }
            _ => Err(layout_error(spec, "use --npy, pictures need a dimension of 1 or 3 channels first or last")),
        }
    }

    fn shape(&self, width: usize, height: usize) -> Vec<usize> {
        let picture = match self.channels_last {
            false => [self.channels, height, width],
            true => [height, width, self.channels],
        };
        self.batch.then_some(1).into_iter().chain(picture).collect()
    }
}

/// A decoded picture: samples from 0 to 255, row by row, the channels of a pixel side by side.
struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    samples: Vec<f32>,
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Picture, InputError> {
    let failed = |source| InputError::Png { path: path.to_owned(), source };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: TENSOR_BYTES_MAX });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let too_large = || InputError::TooLarge { path: path.to_owned() };
    let length = reader.output_buffer_size().filter(|&length| length <= TENSOR_BYTES_MAX).ok_or_else(too_large)?;
    let mut raw = vec![0; length];
    let frame = reader.next_frame(&mut raw).map_err(failed)?;
    raw.truncate(frame.buffer_size());
    let (stride, channels) = match frame.color_type {
        ColorType::Grayscale => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgb => (3, 3),
        ColorType::Rgba => (4, 3),
        // The transformation above expands palettes.
        ColorType::Indexed => return Err(failed(png::DecodingError::LimitsExceeded)),
    };
    let samples = raw.chunks_exact(stride).flat_map(|pixel| pixel.iter().take(channels)).copied().map(f32::from);
    let size = |size: u32| usize::try_from(size).map_err(|_over| too_large());
    Ok(Picture { width: size(frame.width)?, height: size(frame.height)?, channels, samples: samples.collect() })
}

impl Picture {
    /// Grey from colour by the luma of ITU-R BT.601, as Pillow's `convert("L")`; colour from grey by repetition.
    fn with_channels(self, channels: usize) -> Self {
        let samples = match (self.channels, channels) {
            (3, 1) => self
                .samples
                .as_chunks::<3>()
                .0
                .iter()
                .map(|[red, green, blue]| red.mul_add(0.299, green.mul_add(0.587, blue * 0.114)))
                .collect(),
            (1, 3) => self.samples.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => return self,
        };
        Self { channels, samples, ..self }
    }

    /// Bilinear, sample positions at pixel centres; the same picture when the size does not change.
    fn scaled(self, width: usize, height: usize) -> Self {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let columns: Vec<_> = (0..width).map(|x| Between::new(x, width, self.width)).collect();
        let mut samples = Vec::with_capacity(width.saturating_mul(height).saturating_mul(self.channels));
        for row in (0..height).map(|y| Between::new(y, height, self.height)) {
            for column in &columns {
                for channel in 0..self.channels {
                    let top = column.mix(self.at(column.low, row.low, channel), self.at(column.high, row.low, channel));
                    let low =
                        column.mix(self.at(column.low, row.high, channel), self.at(column.high, row.high, channel));
                    samples.push(row.mix(top, low));
                }
            }
        }
        Self { width, height, channels: self.channels, samples }
    }

    fn at(&self, x: usize, y: usize, channel: usize) -> f32 {
        self.samples.get((y * self.width + x) * self.channels + channel).copied().unwrap_or_default()
    }

    /// The samples channel by channel.
    fn planes(&self) -> Vec<f32> {
        (0..self.channels)
            .flat_map(|channel| self.samples.iter().skip(channel).step_by(self.channels.max(1)))
            .copied()
            .collect()
    }
}

/// A position between two neighbouring samples of one axis.
struct Between {
    low: usize,
    high: usize,
    share_of_high: f32,
}

impl Between {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positions are within a picture of at most 2^26 samples and clamped to it"
    )]
    fn new(target: usize, targets: usize, sources: usize) -> Self {
        let last = sources.saturating_sub(1);
        let position = ((target as f32 + 0.5) * sources as f32 / targets as f32 - 0.5).clamp(0.0, last as f32);
        let low = position.floor() as usize;
        Self { low, high: (low + 1).min(last), share_of_high: position - position.floor() }
    }

    fn mix(&self, low: f32, high: f32) -> f32 {
        (high - low).mul_add(self.share_of_high, low)
    }
}

/// Samples as elements: floats from 0 to 1, or bytes; `None` for types that hold neither.
fn encode(samples: &[f32], dtype: DType) -> Option<Vec<u8>> {
    let unit = samples.iter().map(|sample| sample / 255.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded samples are 0 to 255")]
    let bytes = match dtype {
        DType::F32 => unit.flat_map(f32::to_le_bytes).collect(),
        DType::F64 => unit.map(f64::from).flat_map(f64::to_le_bytes).collect(),
        DType::F16 => unit.map(half::f16::from_f32).flat_map(half::f16::to_le_bytes).collect(),
        DType::Bf16 => unit.map(half::bf16::from_f32).flat_map(half::bf16::to_le_bytes).collect(),
        DType::U8 => samples.iter().map(|sample| sample.round().clamp(0.0, 255.0) as u8).collect(),
        DType::Bool
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::Bytes => return None,
    };
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_of(width: u32, height: u32, color: ColorType, samples: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(color);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header().unwrap().write_image_data(samples).unwrap();
        file
    }

    fn spec(dtype: DType, shape: &[usize]) -> TensorSpec {
        let shape = shape.iter().map(|&size| if size == 0 { Dim::Any } else { Dim::Fixed(size) }).collect();
        TensorSpec { name: "image".into(), dtype, shape: Some(shape) }
    }

    fn load_png(file: &[u8], spec: &TensorSpec) -> Result<Tensor, InputError> {
        load(Path::new("x.png"), file, spec)
    }

    #[test]
    fn a_grey_picture_becomes_one_channel_from_0_to_1() {
        let file = png_of(2, 1, ColorType::Grayscale, &[0, 255]);
        let tensor = load_png(&file, &spec(DType::F32, &[0, 1, 1, 2])).unwrap();
        assert_eq!(tensor, Tensor::from_f32(vec![1, 1, 1, 2], &[0.0, 1.0]).unwrap());
    }

    #[test]
    fn colours_are_laid_out_as_the_model_takes_them() {
        let file = png_of(2, 1, ColorType::Rgba, &[1, 2, 3, 255, 4, 5, 6, 255]);
        let bytes = |shape: &[usize]| load_png(&file, &spec(DType::U8, shape)).unwrap().data().to_vec();
        assert_eq!(bytes(&[1, 3, 1, 2]), [1, 4, 2, 5, 3, 6]);
        assert_eq!(bytes(&[0, 2, 3]), [1, 2, 3, 4, 5, 6], "channels last, no batch");
        assert_eq!(bytes(&[1, 1, 1, 2]), [2, 5], "luma");
    }

    #[test]
    fn a_picture_of_another_size_is_scaled() {
        let file = png_of(4, 2, ColorType::Grayscale, &[0, 0, 200, 200, 0, 0, 200, 200]);
        let half = load_png(&file, &spec(DType::U8, &[1, 1, 1, 2])).unwrap();
        assert_eq!(half.data().as_ref(), [0, 200]);
        let kept = load_png(&file, &spec(DType::U8, &[1, 1, 0, 0])).unwrap();
        assert_eq!(kept.shape(), [1, 1, 2, 4], "a model of any size takes the picture's");
    }

    #[test]
    fn what_is_no_picture_is_refused_with_the_expected() {
        let file = png_of(1, 1, ColorType::Grayscale, &[0]);
        let error = load_png(&file, &spec(DType::F32, &[1, 10])).unwrap_err().to_string();
        assert!(error.contains("FP32[1,10]") && error.contains("--npy"), "{error}");
        assert!(load_png(&file, &spec(DType::I64, &[1, 1, 1, 1])).is_err());
        assert!(load_png(b"\x89PNG\r\n\x1a\nrubbish", &spec(DType::F32, &[1, 1, 1, 1])).is_err());
    }
}
