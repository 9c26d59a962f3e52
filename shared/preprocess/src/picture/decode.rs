//! Decoding of picture files into 8-bit pixels, turned upright.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits};

use super::Pixels;

/// Maximum size of a picture file in bytes: a photo of the largest cameras takes some 30 MB.
pub const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Maximum number of pixels of a picture. Cameras of phones take 50 million; decoded, as many take 150 MB as RGB.
pub const PIXELS_MAX: u64 = 50_000_000;

/// Maximum rows or columns of a picture, which is that of JPEG. The weights of a resize take memory in proportion to it.
pub const SIDE_MAX: u32 = 65_535;

/// Maximum bytes that a decoder may allocate: twice the pixels of the largest picture in 16 bits and four channels.
const DECODER_BYTES_MAX: u64 = 2 * 8 * PIXELS_MAX;

/// Error: a file cannot become the input of a model.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The file has no bytes.
    #[error("the file is empty: send a JPEG, PNG, WebP or BMP file")]
    Empty,
    /// The file exceeds [`FILE_BYTES_MAX`].
    #[error("a file of {bytes} bytes is over the limit of {FILE_BYTES_MAX}")]
    LargeFile {
        /// Size of the file.
        bytes: usize,
    },
    /// The file is of a kind that is not read.
    #[error("the file is {0}, not a JPEG, PNG, WebP or BMP picture")]
    Kind(&'static str),
    /// The picture has more than [`PIXELS_MAX`] pixels, or a side over [`SIDE_MAX`].
    #[error(
        "a picture of {columns} x {rows} pixels is over the limit of {PIXELS_MAX} pixels, or {SIDE_MAX} on a side: make it smaller"
    )]
    LargePicture {
        /// Columns of the picture.
        columns: u32,
        /// Rows of the picture.
        rows: u32,
    },
    /// The picture is so narrow that it has more than [`PIXELS_MAX`] pixels on the way to the size of the tensor.
    #[error(
        "a picture of {columns} x {rows} pixels is too narrow: its resize takes over {PIXELS_MAX} pixels; crop it first"
    )]
    Narrow {
        /// Columns of the picture.
        columns: usize,
        /// Rows of the picture.
        rows: usize,
    },
    /// The picture has no pixels.
    #[error("the picture has no pixels")]
    NoPixels,
    /// The WebP file has several frames.
    #[error("the WebP file is an animation: send one picture of it")]
    Animation,
    /// The file is damaged, or uses a feature that the decoder lacks.
    #[error("the {format} picture cannot be decoded")]
    Decode {
        /// Format by the first bytes of the file.
        format: &'static str,
        /// Error of the decoder.
        #[source]
        source: ImageError,
    },
    /// The input cannot take a picture.
    #[error("{0}")]
    Input(&'static str),
    /// The tensor would exceed the limit for tensors.
    #[error("the picture makes a tensor of {bytes} bytes, over the limit of {}", types::limits::TENSOR_BYTES_MAX)]
    LargeTensor {
        /// Size of the tensor.
        bytes: usize,
    },
    /// The tensor is malformed.
    #[error("make the tensor")]
    Tensor(#[source] types::TensorError),
}

/// First bytes of files that people send by mistake, and what they are.
const OTHER_KINDS: [(&[u8], &str); 9] = [
    (b"GIF8", "a GIF"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"<", "a text in HTML, XML or SVG"),
    (b"{", "a JSON text"),
];

/// Decodes a picture file. Transparency is dropped, as Pillow's `convert("RGB")` does; 16-bit samples keep their upper byte.
pub(super) fn decode(file: &[u8]) -> Result<Pixels, PictureError> {
    if file.is_empty() {
        return Err(PictureError::Empty);
    }
    if file.len() > FILE_BYTES_MAX {
        return Err(PictureError::LargeFile { bytes: file.len() });
    }
    let format = image::guess_format(file).ok();
    let name = match format {
        Some(ImageFormat::Jpeg) => "JPEG",
        Some(ImageFormat::Png) => "PNG",
        Some(ImageFormat::WebP) => "WebP",
        Some(ImageFormat::Bmp) => "BMP",
        Some(_) | None => return Err(PictureError::Kind(kind(file))),
    };
    let failed = |source| PictureError::Decode { format: name, source };
    let (image, orientation) = match format {
        Some(ImageFormat::Jpeg) => read(JpegDecoder::new(Cursor::new(file)).map_err(failed)?, failed),
        Some(ImageFormat::Png) => read(PngDecoder::with_limits(Cursor::new(file), limits()).map_err(failed)?, failed),
        Some(ImageFormat::WebP) => {
            let decoder = WebPDecoder::new(Cursor::new(file)).map_err(failed)?;
            if decoder.has_animation() {
                return Err(PictureError::Animation);
            }
            read(decoder, failed)
        }
        Some(_) | None => read(BmpDecoder::new(Cursor::new(file)).map_err(failed)?, failed),
    }?;
    let mut image = upper_bytes(image);
    image.apply_orientation(orientation);
    let side = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
    let (columns, rows) = (side(image.width()), side(image.height()));
    let is_grey = !image.color().has_color();
    let (channels, samples) = match is_grey {
        true => (1, image.into_luma8().into_raw()),
        false => (3, image.into_rgb8().into_raw()),
    };
    Ok(Pixels { rows, columns, channels, samples })
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    limits
}

fn kind(file: &[u8]) -> &'static str {
    let known = OTHER_KINDS.iter().find(|(first, _)| file.starts_with(first));
    known.map_or("of an unknown kind", |(_, kind)| kind)
}

/// Reads the pixels of a file whose header was read.
fn read(
    mut decoder: impl ImageDecoder,
    failed: impl Fn(ImageError) -> PictureError,
) -> Result<(DynamicImage, Orientation), PictureError> {
    let (columns, rows) = decoder.dimensions();
    if u64::from(columns) * u64::from(rows) > PIXELS_MAX || columns.max(rows) > SIDE_MAX {
        return Err(PictureError::LargePicture { columns, rows });
    }
    if columns == 0 || rows == 0 {
        return Err(PictureError::NoPixels);
    }
    decoder.set_limits(limits()).map_err(&failed)?;
    // A broken EXIF block is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder).map_err(failed)?, orientation))
}

/// The upper byte of each sample, where samples have 16 bits.
fn upper_bytes(image: DynamicImage) -> DynamicImage {
    let upper = |sample: u16| sample.to_be_bytes()[0];
    let (columns, rows) = (image.width(), image.height());
    let made = match image {
        DynamicImage::ImageLuma16(pixels) => {
            let samples = pixels.into_raw().into_iter().map(upper).collect();
            image::GrayImage::from_raw(columns, rows, samples).map(DynamicImage::ImageLuma8)
        }
        DynamicImage::ImageLumaA16(pixels) => {
            let samples = pixels.into_raw().into_iter().map(upper).collect();
            image::GrayAlphaImage::from_raw(columns, rows, samples).map(DynamicImage::ImageLumaA8)
        }
        DynamicImage::ImageRgb16(pixels) => {
            let samples = pixels.into_raw().into_iter().map(upper).collect();
            image::RgbImage::from_raw(columns, rows, samples).map(DynamicImage::ImageRgb8)
        }
        DynamicImage::ImageRgba16(pixels) => {
            let samples = pixels.into_raw().into_iter().map(upper).collect();
            image::RgbaImage::from_raw(columns, rows, samples).map(DynamicImage::ImageRgba8)
        }
        other => Some(other),
    };
    // The number of samples does not change, so there is always an image.
    made.unwrap_or_default()
}
