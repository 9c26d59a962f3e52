//! Preprocessing of a model's inputs, as its manifest declares it.
//!
//! Part of the signed manifest, which is a stable format: kinds, fields and names are only ever added. The crate `preprocess`
//! carries it out.

use serde::{Deserialize, Serialize};

use crate::{DType, Dim, TensorSpec};

/// Maximum rows or columns of a size: four times the side of the largest inputs of image models.
pub const SIDE_MAX: u32 = 8_192;

/// Preprocessing of one input. Append only: an agent that does not know a kind refuses the version and keeps its present one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum InputRule {
    /// A JPEG, PNG, WebP or BMP file becomes pixels.
    Picture(PictureRule),
}

/// Steps from a picture file to a tensor, in this order: decode, turn by its EXIF orientation, convert the colours, resize with
/// crop or padding, scale, subtract the mean, divide by the standard deviation, arrange.
///
/// The channels are the dimension of 1 or 3 before or behind rows and columns.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureRule {
    /// Order of the channels; `None` is RGB for three channels and grey for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<Colour>,
    /// Rows and columns of the tensor; `None` takes those of the input, or of the picture where the input leaves them open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[u32; 2]>,
    /// Relation of the picture to that size.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fit: Fit,
    /// Length of the shorter side, in pixels, from which [`Fit::Cover`] crops; `None` is the least that covers the size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shorter_side: Option<u32>,
    /// Sample, 0 to 255, of the border that [`Fit::Contain`] adds; `None` is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<u8>,
    /// Interpolation of the resize.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter: Filter,
    /// Factor of the samples, which are 0 to 255; `None` divides by 255 for floating-point inputs and changes nothing for integers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Subtracted from the scaled samples: one number, or one for each channel of the tensor; empty is 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f32>,
    /// Divides what is left: one number, or one for each channel of the tensor; empty is 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Order of the channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// One channel of luma (ITU-R BT.601).
    Grey,
}

/// Relation of a picture to the size of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// Resizes rows and columns independently.
    #[default]
    Stretch,
    /// Keeps the proportions and cuts off what is outside of the size, the same on both sides.
    Cover,
    /// Keeps the proportions and adds a border, the same on both sides.
    Contain,
    /// Keeps the proportions and adds a border on the right or at the bottom.
    ContainTopLeft,
}

/// Interpolation, computed as Pillow does: when a picture shrinks, all pixels under the filter count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// Mean of the pixels under a box.
    Box,
    /// Linear interpolation.
    #[default]
    Bilinear,
    /// Hamming window.
    Hamming,
    /// Cubic interpolation with `a = -0.5`.
    Bicubic,
    /// Lanczos window of three lobes.
    Lanczos,
}

/// Arrangement of pixels in a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Whether there is a batch dimension in front.
    pub has_batch: bool,
    /// Position of the channels.
    pub channels_at: ChannelsAt,
    /// Number of channels, 1 or 3.
    pub channels: usize,
    /// Rows, where the input fixes them.
    pub rows: Option<usize>,
    /// Columns, where the input fixes them.
    pub columns: Option<usize>,
}

/// Position of the channels beside rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelsAt {
    /// Before the rows.
    First,
    /// Behind the columns.
    Last,
    /// There is no such dimension: one channel.
    Nowhere,
}

impl Layout {
    /// Returns the arrangement of an input for pictures.
    ///
    /// # Errors
    /// Returns the reason why the input cannot take a picture.
    pub fn of(spec: &TensorSpec) -> Result<Self, &'static str> {
        if !matches!(spec.dtype, DType::U8 | DType::F16 | DType::F32 | DType::F64) {
            return Err("pictures need an input of FP32, FP16, FP64 or UINT8");
        }
        let needs = "pictures need rows, columns and a dimension of 1 or 3 channels, with at most a batch before them";
        let dims = spec.shape.as_deref().ok_or(needs)?;
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Symbol(_) | Dim::Any => None,
        };
        let is_batch = |dim: &Dim| matches!(dim, Dim::Fixed(1) | Dim::Symbol(_) | Dim::Any);
        let channels = |dim: &Dim| fixed(dim).filter(|size| [1, 3].contains(size));
        let (has_batch, rest) = match dims {
            [first, rest @ ..] if rest.len() == 3 && is_batch(first) => (true, rest),
            dims => (false, dims),
        };
        let (channels_at, channels, [rows, columns]) = match rest {
            [first, rows, columns] if channels(first).is_some() => {
                (ChannelsAt::First, channels(first), [rows, columns])
            }
            [rows, columns, last] if channels(last).is_some() => (ChannelsAt::Last, channels(last), [rows, columns]),
            // Rows and columns behind a batch, or alone.
            [first, rows, columns] if is_batch(first) => {
                return Ok(Self {
                    has_batch: true,
                    channels_at: ChannelsAt::Nowhere,
                    channels: 1,
                    rows: fixed(rows),
                    columns: fixed(columns),
                });
            }
            [rows, columns] if fixed(rows).is_some() => (ChannelsAt::Nowhere, Some(1), [rows, columns]),
            _ => return Err(needs),
        };
        let channels = channels.ok_or(needs)?;
        Ok(Self { has_batch, channels_at, channels, rows: fixed(rows), columns: fixed(columns) })
    }
}

impl InputRule {
    /// Returns the mistakes of this rule for an input, each with the field in which it is.
    #[must_use]
    pub fn mistakes(&self, input: &TensorSpec) -> Vec<(&'static str, String)> {
        match self {
            Self::Picture(rule) => rule.mistakes(input),
        }
    }
}

impl PictureRule {
    fn mistakes(&self, input: &TensorSpec) -> Vec<(&'static str, String)> {
        let layout = match Layout::of(input) {
            Ok(layout) => layout,
            Err(problem) => return vec![("kind", problem.to_owned())],
        };
        let mut found = Vec::new();
        let mut add = |field, problem: String| found.push((field, problem));
        match (self.colour, layout.channels) {
            (Some(Colour::Grey), 3) => add("colour", "is grey, but the input has 3 channels".to_owned()),
            (Some(Colour::Rgb | Colour::Bgr), 1) => add("colour", "must be grey: the input has one channel".to_owned()),
            _ => {}
        }
        if let Some([rows, columns]) = self.size {
            if [rows, columns].iter().any(|side| !(1..=SIDE_MAX).contains(side)) {
                add("size", format!("must be two numbers from 1 to {SIDE_MAX}, rows first"));
            }
            let differs =
                |given: u32, fixed: Option<usize>| fixed.is_some_and(|fixed| usize::try_from(given) != Ok(fixed));
            if differs(rows, layout.rows) || differs(columns, layout.columns) {
                add("size", format!("is not the size of the input {input}"));
            }
        }
        let side = |fixed: Option<usize>| fixed.and_then(|side| u32::try_from(side).ok());
        let size = self.size.or(side(layout.rows).zip(side(layout.columns)).map(|(rows, columns)| [rows, columns]));
        match (self.fit, self.shorter_side, size) {
            (Fit::Stretch | Fit::Contain | Fit::ContainTopLeft, Some(_), _) => {
                add("shorter_side", "needs fit = \"cover\"".to_owned());
            }
            (Fit::Cover, Some(shorter), Some([rows, columns])) if shorter < rows.max(columns) || shorter > SIDE_MAX => {
                add("shorter_side", format!("must be from {} to {SIDE_MAX}, to cover the size", rows.max(columns)));
            }
            (Fit::Cover | Fit::Contain | Fit::ContainTopLeft, _, None) => {
                add("fit", "needs a size: the input leaves its rows or columns open".to_owned());
            }
            (Fit::Stretch | Fit::Cover | Fit::Contain | Fit::ContainTopLeft, _, _) => {}
        }
        if self.pad.is_some() && !matches!(self.fit, Fit::Contain | Fit::ContainTopLeft) {
            add("pad", "needs fit = \"contain\" or \"contain-top-left\"".to_owned());
        }
        if self.scale.is_some_and(|scale| !scale.is_finite() || scale == 0.0) {
            add("scale", "must be a finite number other than 0".to_owned());
        }
        for (field, values) in [("mean", &self.mean), ("std", &self.std)] {
            if !values.is_empty() && values.len() != 1 && values.len() != layout.channels {
                add(
                    field,
                    format!("has {} numbers: give one, or one for each of {} channels", values.len(), layout.channels),
                );
            }
            if values.iter().any(|value| !value.is_finite() || (field == "std" && *value == 0.0)) {
                add(field, "must have finite numbers, and std none that is 0".to_owned());
            }
        }
        let changes = self.scale.is_some() || !self.mean.is_empty() || !self.std.is_empty();
        if input.dtype == DType::U8 && changes {
            add("scale", "an input of UINT8 takes the samples as they are: leave scale, mean and std out".to_owned());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(dtype: DType, dims: &[Option<usize>]) -> TensorSpec {
        let shape = dims.iter().map(|dim| dim.map_or(Dim::Any, Dim::Fixed)).collect();
        TensorSpec { name: "image".to_owned(), dtype, shape: Some(shape) }
    }

    #[test]
    fn inputs_for_pictures_have_channels_first_or_last_or_none() {
        let of = |dims: &[Option<usize>]| {
            Layout::of(&input(DType::F32, dims)).map(|one| (one.has_batch, one.channels_at, one.channels))
        };
        assert_eq!(of(&[None, Some(3), Some(8), Some(9)]), Ok((true, ChannelsAt::First, 3)));
        assert_eq!(of(&[Some(1), None, None, Some(1)]), Ok((true, ChannelsAt::Last, 1)));
        assert_eq!(of(&[Some(3), Some(8), Some(9)]), Ok((false, ChannelsAt::First, 3)));
        assert_eq!(of(&[Some(8), Some(9), Some(3)]), Ok((false, ChannelsAt::Last, 3)));
        assert_eq!(of(&[None, Some(28), Some(28)]), Ok((true, ChannelsAt::Nowhere, 1)));
        assert_eq!(of(&[Some(28), Some(28)]), Ok((false, ChannelsAt::Nowhere, 1)));
        for wrong in [
            &[None, Some(4), Some(8), Some(9)][..],
            &[Some(2), Some(3), Some(8), Some(9)],
            &[Some(784)],
            &[None, Some(784)],
            &[],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        assert!(Layout::of(&input(DType::I64, &[Some(28), Some(28)])).is_err());
    }

    #[test]
    fn all_mistakes_of_a_rule_are_found_with_their_fields() {
        let fields = |rule: &PictureRule, dtype, dims: &[Option<usize>]| -> Vec<&'static str> {
            rule.mistakes(&input(dtype, dims)).into_iter().map(|(field, _problem)| field).collect()
        };
        let square = [None, Some(3), Some(224), Some(224)];
        let right = PictureRule {
            fit: Fit::Cover,
            shorter_side: Some(256),
            mean: vec![0.5; 3],
            std: vec![0.5],
            ..PictureRule::default()
        };
        assert!(fields(&right, DType::F32, &square).is_empty());
        let wrong = PictureRule {
            colour: Some(Colour::Grey),
            size: Some([0, 9_000]),
            fit: Fit::Stretch,
            shorter_side: Some(10),
            pad: Some(1),
            filter: Filter::Box,
            scale: Some(0.0),
            mean: vec![f32::NAN; 2],
            std: vec![0.0],
        };
        let all = ["colour", "size", "size", "shorter_side", "pad", "scale", "mean", "mean", "std"];
        assert_eq!(fields(&wrong, DType::F32, &square), all);
        assert_eq!(
            fields(&PictureRule { shorter_side: Some(200), ..right.clone() }, DType::F32, &square),
            ["shorter_side"]
        );
        assert_eq!(fields(&PictureRule { scale: Some(1.0), ..PictureRule::default() }, DType::U8, &square), ["scale"]);
        let open = [None, Some(3), None, None];
        assert_eq!(fields(&PictureRule { fit: Fit::Contain, ..PictureRule::default() }, DType::F32, &open), ["fit"]);
        assert_eq!(fields(&PictureRule::default(), DType::F32, &[Some(784)]), ["kind"]);
    }
}
