//! `preprocessor_config.json` of Hugging Face: the steps from a picture to the input of its model.
//!
//! Fed by [`super::import`] with the text; gives the rule of `[preprocess]`, or the reason why no rule does the same.

use serde_json::Value;
use types::preprocess::{Filter, Fit, PictureRule};

/// Reads the steps of an image processor.
///
/// # Errors
/// A sentence that names the step that `[preprocess]` does not have.
pub(super) fn rule(text: &str) -> Result<PictureRule, String> {
    let json: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let does = |step: &str, default: bool| json.get(step).and_then(Value::as_bool).unwrap_or(default);
    for step in ["do_pad", "do_flip_channel_order", "do_reduce_labels", "do_thumbnail", "do_align_long_axis"] {
        if does(step, false) {
            return Err(format!("it has the step {step}"));
        }
    }
    if json.get("crop_pct").is_some_and(|share| share.as_f64() != Some(1.0)) {
        return Err("it has crop_pct".to_owned());
    }
    let mut rule = PictureRule { filter: filter(&json)?, ..PictureRule::default() };
    let size =
        if does("do_resize", true) { json.get("size").map(|size| sides(size, "size")).transpose()? } else { None };
    let crop = does("do_center_crop", false);
    let crop = if crop { json.get("crop_size").map(|size| sides(size, "crop_size")).transpose()? } else { None };
    match (size, crop) {
        (Some(Sides::Both(size) | Sides::One(size)), Some(crop)) if crop.both() == size => rule.size = Some(size),
        (Some(Sides::Shortest(shorter) | Sides::One([shorter, _])), Some(crop)) => {
            rule.fit = Fit::Cover;
            rule.shorter_side = Some(shorter);
            rule.size = Some(crop.both());
        }
        (Some(Sides::Both(size) | Sides::One(size)), None) => rule.size = Some(size),
        (Some(Sides::Shortest(_)), None) => return Err("it resizes the shortest edge and crops nothing".to_owned()),
        (Some(Sides::Both(_)), Some(_)) => return Err("it resizes to rows and columns, then crops".to_owned()),
        (None, Some(_)) => return Err("it crops without a resize".to_owned()),
        (None, None) => {}
    }
    let factor = json.get("rescale_factor").and_then(Value::as_f64).unwrap_or(1.0 / 255.0);
    rule.scale = Some(if does("do_rescale", true) { float(factor) } else { 1.0 });
    if does("do_normalize", true) {
        rule.mean = numbers(&json, "image_mean")?;
        rule.std = numbers(&json, "image_std")?;
    }
    Ok(rule)
}

/// A size as Hugging Face writes it.
#[derive(Clone, Copy)]
enum Sides {
    /// `{"height": …, "width": …}`.
    Both([u32; 2]),
    /// `{"shortest_edge": …}`.
    Shortest(u32),
    /// One number: a square without a crop, the shortest edge before one.
    One([u32; 2]),
}

impl Sides {
    fn both(self) -> [u32; 2] {
        match self {
            Self::Both(size) | Self::One(size) => size,
            Self::Shortest(side) => [side, side],
        }
    }
}

fn sides(size: &Value, field: &str) -> Result<Sides, String> {
    let number = |value: &Value| value.as_u64().and_then(|side| u32::try_from(side).ok());
    let of = |name: &str| size.get(name).and_then(number);
    match (number(size), of("height"), of("width"), of("shortest_edge")) {
        (Some(side), ..) => Ok(Sides::One([side, side])),
        (None, Some(rows), Some(columns), _) => Ok(Sides::Both([rows, columns])),
        (None, _, _, Some(side)) if size.get("longest_edge").is_none() => Ok(Sides::Shortest(side)),
        _ => Err(format!("its {field} is {size}")),
    }
}

/// Numbers of Pillow's filters.
fn filter(json: &Value) -> Result<Filter, String> {
    match json.get("resample").map(Value::as_u64) {
        None => Ok(Filter::Bilinear),
        Some(Some(0)) => Ok(Filter::Nearest),
        Some(Some(1)) => Ok(Filter::Lanczos),
        Some(Some(2)) => Ok(Filter::Bilinear),
        Some(Some(3)) => Ok(Filter::Bicubic),
        Some(Some(4)) => Ok(Filter::Box),
        Some(Some(5)) => Ok(Filter::Hamming),
        Some(_) => Err("its resample is no filter of Pillow".to_owned()),
    }
}

fn numbers(json: &Value, field: &str) -> Result<Vec<f32>, String> {
    let Some(values) = json.get(field) else { return Ok(Vec::new()) };
    let list: Vec<f64> = match values {
        Value::Array(values) => values.iter().filter_map(Value::as_f64).collect(),
        one => one.as_f64().into_iter().collect(),
    };
    if list.is_empty() || list.len() > 3 {
        return Err(format!("its {field} is {values}"));
    }
    Ok(list.into_iter().map(float).collect())
}

#[expect(clippy::cast_possible_truncation, reason = "the tensor has f32")]
fn float(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_processors_become_rules_or_reasons() {
        let vit = rule(
            r#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2, "size": 224}"#,
        );
        let vit = vit.unwrap();
        assert_eq!(
            (vit.fit, vit.size, vit.filter, vit.mean.len()),
            (Fit::Stretch, Some([224, 224]), Filter::Bilinear, 3)
        );
        assert_eq!(vit.scale, Some(1.0 / 255.0));
        let clip = rule(
            r#"{"crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_normalize": true, "do_rescale": true,
                "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
                "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256}}"#,
        );
        let clip = clip.unwrap();
        assert_eq!((clip.fit, clip.shorter_side, clip.size), (Fit::Cover, Some(256), Some([224, 224])));
        assert_eq!(clip.filter, Filter::Bicubic);
        let plain = rule(r#"{"do_resize": false, "do_rescale": false, "do_normalize": false}"#).unwrap();
        assert_eq!((plain.size, plain.scale, plain.mean.is_empty()), (None, Some(1.0), true));
        for (text, reason) in [
            (r#"{"size": {"shortest_edge": 384}, "crop_pct": 0.875}"#, "crop_pct"),
            (r#"{"size": {"shortest_edge": 800, "longest_edge": 1333}}"#, "its size is"),
            (r#"{"size": {"shortest_edge": 256}}"#, "crops nothing"),
            (r#"{"do_pad": true}"#, "do_pad"),
            (r#"{"resample": 9}"#, "resample"),
            (r#"{"do_center_crop": true, "crop_size": 5, "do_resize": false}"#, "without a resize"),
            (r#"{"image_mean": "x"}"#, "image_mean"),
            ("[", "EOF"),
        ] {
            let told = rule(text).unwrap_err();
            assert!(told.contains(reason), "{told}");
        }
    }
}
