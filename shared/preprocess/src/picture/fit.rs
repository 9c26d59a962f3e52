//! Brings a picture to the size of the tensor: stretched, cropped or padded.

use types::preprocess::{Filter, Fit, PictureRule};

use super::Pixels;
use super::decode::{PIXELS_MAX, PictureError};
use super::resize::resize;

/// Returns the picture with these rows and columns.
///
/// # Errors
/// [`PictureError::Narrow`] when the picture would be over the limit for pictures on the way to that size.
pub(super) fn fit(pixels: Pixels, rule: &PictureRule, rows: usize, columns: usize) -> Result<Pixels, PictureError> {
    Ok(match rule.fit {
        Fit::Stretch => resized(pixels, rows, columns, rule.filter)?,
        Fit::Cover => {
            let shorter = rule.shorter_side.and_then(|side| usize::try_from(side).ok());
            let (high, wide) = covering(&pixels, rows, columns, shorter);
            let pixels = resized(pixels, high, wide, rule.filter)?;
            let (top, left) = (high.saturating_sub(rows) / 2, wide.saturating_sub(columns) / 2);
            crop(&pixels, top, left, rows, columns)
        }
        Fit::Contain | Fit::ContainTopLeft => {
            let (high, wide) = contained(&pixels, rows, columns);
            let pixels = resized(pixels, high, wide, rule.filter)?;
            let place = match rule.fit {
                Fit::ContainTopLeft => (0, 0),
                Fit::Stretch | Fit::Cover | Fit::Contain => ((rows - high) / 2, (columns - wide) / 2),
            };
            pad(&pixels, place, rows, columns, rule.pad.unwrap_or(0))
        }
    })
}

/// Resizes, unless the result or the picture between the two passes (all rows, the new columns) is over the limit for pictures.
fn resized(pixels: Pixels, rows: usize, columns: usize, filter: Filter) -> Result<Pixels, PictureError> {
    let most = columns.saturating_mul(rows.max(pixels.rows));
    if u64::try_from(most).is_ok_and(|count| count > PIXELS_MAX) {
        return Err(PictureError::Narrow { columns: pixels.columns, rows: pixels.rows });
    }
    Ok(resize(pixels, rows, columns, filter))
}

/// Rows and columns of the same proportions whose shorter side is `shorter`, or that cover the size. The longer side is rounded down,
/// as torchvision and Hugging Face do.
fn covering(pixels: &Pixels, rows: usize, columns: usize, shorter: Option<usize>) -> (usize, usize) {
    let Some(shorter) = shorter else {
        // The side that decides is the one that needs the larger factor: rows / pixels.rows or columns / pixels.columns.
        return match rows * pixels.columns >= columns * pixels.rows {
            true => (rows, (pixels.columns * rows / pixels.rows).max(columns)),
            false => ((pixels.rows * columns / pixels.columns).max(rows), columns),
        };
    };
    match pixels.rows <= pixels.columns {
        true => (shorter, (pixels.columns * shorter / pixels.rows).max(shorter)),
        false => ((pixels.rows * shorter / pixels.columns).max(shorter), shorter),
    }
}

/// Rows and columns of the same proportions that fit into the size, rounded to the nearest.
fn contained(pixels: &Pixels, rows: usize, columns: usize) -> (usize, usize) {
    let rounded = |of: usize, times: usize, over: usize| (2 * of * times + over) / (2 * over).max(1);
    match rows * pixels.columns <= columns * pixels.rows {
        true => (rows, rounded(pixels.columns, rows, pixels.rows).clamp(1, columns)),
        false => (rounded(pixels.rows, columns, pixels.columns).clamp(1, rows), columns),
    }
}

fn crop(pixels: &Pixels, top: usize, left: usize, rows: usize, columns: usize) -> Pixels {
    let (channels, stride) = (pixels.channels, pixels.columns * pixels.channels);
    let lines = pixels.samples.chunks_exact(stride.max(1)).skip(top).take(rows);
    let part = |line: &[u8]| line.get(left * channels..(left + columns) * channels).unwrap_or_default().to_vec();
    Pixels { rows, columns, channels, samples: lines.flat_map(part).collect() }
}

fn pad(pixels: &Pixels, (top, left): (usize, usize), rows: usize, columns: usize, border: u8) -> Pixels {
    let channels = pixels.channels;
    let mut samples = vec![border; rows * columns * channels];
    let lines = pixels.samples.chunks_exact((pixels.columns * channels).max(1));
    for (line, target) in lines.zip(samples.chunks_exact_mut((columns * channels).max(1)).skip(top)) {
        if let Some(target) = target.get_mut(left * channels..left * channels + line.len()) {
            target.copy_from_slice(line);
        }
    }
    Pixels { rows, columns, channels, samples }
}
