//! Boxes of detectors: read from the usual forms of answers, and held against others by mean average precision.
//!
//! Forms: separate outputs of boxes, scores and classes (SSD, torchvision); rows of `x1 y1 x2 y2 score class` (end-to-end
//! YOLO); `cx cy w h` with class scores, by columns (YOLOv8) or rows with an objectness (YOLOv5). Boxes of the last two
//! overlap and are thinned out first.

use types::NamedTensor;

use crate::arithmetic::top1;
use crate::labels::{Label, numbers};
use crate::metrics::{CONFIDENCE, Figure};
use crate::{bootstrap, real};

/// Smallest score of a box; what detectors use where nothing else is said.
const SCORE_LEAST: f64 = 0.05;

/// Smallest score of a box of the reference that another model must find as well.
const SCORE_CERTAIN: f64 = 0.25;

/// Overlap from which on two boxes are the same object; mAP@0.5.
const OVERLAP: f64 = 0.5;

/// Overlap above which the weaker of two boxes of one class goes.
const OVERLAP_MAX: f64 = 0.45;

/// Boxes that all draws of an interval look at together: bounds the interval of a large set to seconds.
const BOXES_DRAWN_MAX: usize = 200_000_000;

/// Fewest draws of an interval; an interval of fewer is not worth showing.
const DRAWS_MIN: usize = 200;

/// Seed of the draws: the same examples give the same interval.
const SEED: u64 = 1;

/// Boxes of one image that are looked at, the strongest; what COCO's evaluation takes is 100.
const BOXES_MAX: usize = 300;

/// One detected or labelled object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Left, top, right, bottom.
    corners: [f64; 4],
    score: f64,
    class: i64,
}

/// Reads the boxes of one answer, strongest first; `None` when its outputs have none of the known forms.
#[must_use]
pub fn read(answers: &[NamedTensor]) -> Option<Vec<Found>> {
    let mut boxes = separate(answers).or_else(|| rows(answers))?;
    boxes.retain(|found| found.score >= SCORE_LEAST && found.corners.iter().all(|corner| corner.is_finite()));
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    boxes.truncate(BOXES_MAX);
    Some(boxes)
}

/// Returns the boxes of a label: rows of `x1 y1 x2 y2 class`, a negative class being padding.
#[must_use]
pub fn of_label(label: &Label) -> Vec<Found> {
    let rows = label.0.chunks_exact(5);
    let found = rows.filter_map(|row| match *row {
        [left, top, right, bottom, class] if class >= 0.0 => {
            Some(Found { corners: [left, top, right, bottom], score: 1.0, class: whole(class) })
        }
        _ => None,
    });
    found.collect()
}

/// Returns the boxes of the reference that another model must find.
#[must_use]
pub fn certain(boxes: &[Found]) -> Vec<Found> {
    boxes.iter().copied().filter(|found| found.score >= SCORE_CERTAIN).collect()
}

fn separate(answers: &[NamedTensor]) -> Option<Vec<Found>> {
    let named = |words: &[&str]| {
        answers.iter().find(|answer| {
            let name = answer.name.to_lowercase();
            words.iter().any(|word| name.contains(word))
        })
    };
    let boxes = named(&["box"])?;
    let scores = named(&["score", "conf", "prob"])?;
    let classes = named(&["label", "class", "cls"]).filter(|classes| classes.name != scores.name);
    let corners = values(boxes);
    let count = corners.len() / 4;
    let scores = values(scores);
    let classes = classes.map(values).filter(|classes| classes.len() == count);
    if count == 0 || !scores.len().is_multiple_of(count) || boxes.tensor.shape().last() != Some(&4) {
        return (boxes.tensor.elements() == 0).then(Vec::new);
    }
    let width = scores.len() / count;
    let found = corners.chunks_exact(4).zip(scores.chunks_exact(width)).enumerate().map(|(at, (corners, scores))| {
        let (best, score) = strongest(scores);
        let class = classes.as_ref().and_then(|classes| classes.get(at)).map_or(best, |&class| whole(class));
        Found { corners: four(corners), score, class }
    });
    Some(found.collect())
}

fn rows(answers: &[NamedTensor]) -> Option<Vec<Found>> {
    let answer = answers.iter().max_by_key(|answer| answer.tensor.elements())?;
    let shape: Vec<usize> = answer.tensor.shape().iter().copied().filter(|&dim| dim != 1).collect();
    let data = values(answer);
    match shape.as_slice() {
        // One box in a row, `x1 y1 x2 y2 score class`.
        &[_, 6] | &[6] => {
            let row = |row: &[f64]| match *row {
                [left, top, right, bottom, score, class] => {
                    Some(Found { corners: [left, top, right, bottom], score, class: whole(class) })
                }
                _ => None,
            };
            Some(data.chunks_exact(6).filter_map(row).collect())
        }
        // `cx cy w h` and a score for each class, one box in a column.
        &[features, count] if features >= 5 && count > features => {
            let at = |feature: usize, place: usize| data.get(feature * count + place).copied().unwrap_or(0.0);
            let column = |place: usize| {
                let scores: Vec<f64> = (4..features).map(|feature| at(feature, place)).collect();
                let (class, score) = strongest(&scores);
                Found { corners: around([at(0, place), at(1, place), at(2, place), at(3, place)]), score, class }
            };
            Some(thinned((0..count).map(column).collect()))
        }
        // `cx cy w h objectness` and a score for each class, one box in a row.
        &[_, features] if features >= 6 => {
            let row = |row: &[f64]| {
                let (head, scores) = row.split_at_checked(5)?;
                let (class, score) = strongest(scores);
                Some(Found { corners: around(four(head)), score: score * head.last()?, class })
            };
            Some(thinned(data.chunks_exact(features).filter_map(row).collect()))
        }
        _ => None,
    }
}

fn values(answer: &NamedTensor) -> Vec<f64> {
    numbers(answer.tensor.dtype(), answer.tensor.data()).unwrap_or_default()
}

#[expect(clippy::cast_possible_truncation, reason = "class numbers are whole and small")]
fn whole(class: f64) -> i64 {
    class.round() as i64
}

fn strongest(scores: &[f64]) -> (i64, f64) {
    let best = top1(scores).unwrap_or(0);
    (i64::try_from(best).unwrap_or(0), scores.get(best).copied().unwrap_or(0.0))
}

fn four(values: &[f64]) -> [f64; 4] {
    values.first_chunk::<4>().copied().unwrap_or_default()
}

/// Corners of a box that is given by its centre and size.
fn around([x, y, width, height]: [f64; 4]) -> [f64; 4] {
    [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]
}

/// Boxes that no stronger one of their class overlaps (non-maximum suppression).
fn thinned(mut boxes: Vec<Found>) -> Vec<Found> {
    boxes.retain(|found| found.score >= SCORE_LEAST);
    boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Found> = Vec::new();
    for found in boxes {
        let hidden = kept.iter().any(|other| other.class == found.class && overlap(other, &found) > OVERLAP_MAX);
        if !hidden && kept.len() < BOXES_MAX {
            kept.push(found);
        }
    }
    kept
}

/// Intersection over union; 1 for equal boxes, also those without an area.
fn overlap(one: &Found, other: &Found) -> f64 {
    if one.corners.map(f64::to_bits) == other.corners.map(f64::to_bits) {
        return 1.0;
    }
    let [left, top, right, bottom] = one.corners;
    let [other_left, other_top, other_right, other_bottom] = other.corners;
    let width = right.min(other_right) - left.max(other_left);
    let height = bottom.min(other_bottom) - top.max(other_top);
    let shared = width.max(0.0) * height.max(0.0);
    let area = |found: &Found| {
        let [left, top, right, bottom] = found.corners;
        (right - left).max(0.0) * (bottom - top).max(0.0)
    };
    let union = area(one) + area(other) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// Returns the mean over the classes of the average precision (area under the precision-recall curve, every point counts) of boxes
/// against the true ones, image by image. 1 when there is nothing to find and nothing was found.
#[must_use]
pub fn mean_precision(images: &[(Vec<Found>, Vec<Found>)]) -> f64 {
    Matched::new(images).mean_precision(&vec![1.0; images.len()]).unwrap_or_else(|| nothing(images))
}

/// Returns the mean average precision with a bootstrap interval over the images; `None` without images.
#[must_use]
pub fn mean_precision_figure(images: &[(Vec<Found>, Vec<Found>)]) -> Option<Figure> {
    let matched = Matched::new(images);
    let value = mean_precision(images);
    let draws = (BOXES_DRAWN_MAX / matched.boxes().max(1)).clamp(DRAWS_MIN, bootstrap::DRAWS);
    let mut weights = vec![0.0; images.len()];
    let interval = bootstrap::interval_of(draws, images.len(), CONFIDENCE, SEED, |drawn| {
        weights.fill(0.0);
        for &image in drawn {
            if let Some(weight) = weights.get_mut(image) {
                *weight += 1.0;
            }
        }
        Some(matched.mean_precision(&weights).unwrap_or(value))
    })?;
    Some(Figure { value, interval, examples: images.len() })
}

/// Precision where there is nothing to find.
fn nothing(images: &[(Vec<Found>, Vec<Found>)]) -> f64 {
    f64::from(u8::from(images.iter().all(|(_, found)| certain(found).is_empty())))
}

/// Boxes that were matched with the true ones, class by class.
struct Matched {
    classes: Vec<MatchedClass>,
}

struct MatchedClass {
    /// True boxes of each image.
    wanted: Vec<f64>,
    /// Image of each box, and whether it is a true one; strongest first.
    hits: Vec<(usize, bool)>,
}

impl Matched {
    fn new(images: &[(Vec<Found>, Vec<Found>)]) -> Self {
        let mut classes: Vec<i64> = images.iter().flat_map(|(truth, _)| truth).map(|found| found.class).collect();
        classes.sort_unstable();
        classes.dedup();
        Self { classes: classes.into_iter().map(|class| MatchedClass::new(images, class)).collect() }
    }

    fn boxes(&self) -> usize {
        self.classes.iter().map(|class| class.hits.len()).sum()
    }

    /// Returns the mean over the classes that have a true box in an image with a weight; `None` when there is none.
    fn mean_precision(&self, weights: &[f64]) -> Option<f64> {
        let found: Vec<f64> = self.classes.iter().filter_map(|class| class.precision(weights)).collect();
        let count = u32::try_from(found.len()).ok().filter(|&count| count > 0)?;
        // Sums of parts of 1 may end a rounding error beside it.
        Some((found.iter().sum::<f64>() / f64::from(count)).clamp(0.0, 1.0))
    }
}

impl MatchedClass {
    fn new(images: &[(Vec<Found>, Vec<Found>)], class: i64) -> Self {
        let mut hits: Vec<(f64, usize, bool)> = Vec::new();
        let mut wanted = Vec::with_capacity(images.len());
        for (image, (truth, found)) in images.iter().enumerate() {
            let truth: Vec<&Found> = truth.iter().filter(|found| found.class == class).collect();
            let mut taken = vec![false; truth.len()];
            wanted.push(real(truth.len()));
            // Strongest first, as they were sorted when read.
            for one in found.iter().filter(|found| found.class == class) {
                let free = truth.iter().enumerate().filter(|(at, _)| taken.get(*at) == Some(&false));
                let best = free.map(|(at, truth)| (at, overlap(truth, one))).max_by(|a, b| a.1.total_cmp(&b.1));
                let hit = best.filter(|(_, overlap)| *overlap >= OVERLAP);
                if let Some(taken) = hit.and_then(|(at, _)| taken.get_mut(at)) {
                    *taken = true;
                }
                hits.push((one.score, image, hit.is_some()));
            }
        }
        hits.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self { wanted, hits: hits.into_iter().map(|(_score, image, hit)| (image, hit)).collect() }
    }

    /// Returns the average precision with a weight for each image; `None` without a true box.
    fn precision(&self, weights: &[f64]) -> Option<f64> {
        let wanted: f64 = self.wanted.iter().zip(weights).map(|(wanted, weight)| wanted * weight).sum();
        if wanted <= 0.0 {
            return None;
        }
        let (mut right, mut seen, mut curve) = (0.0_f64, 0.0_f64, Vec::with_capacity(self.hits.len()));
        for &(image, is_hit) in &self.hits {
            let weight = weights.get(image).copied().unwrap_or(0.0);
            if weight > 0.0 {
                seen += weight;
                right += if is_hit { weight } else { 0.0 };
                curve.push((right / wanted, right / seen));
            }
        }
        // Precision is made to fall with recall, from the end backwards.
        let (mut area, mut best, mut behind) = (0.0, 0.0_f64, None::<f64>);
        for &(recall, precision) in curve.iter().rev() {
            if let Some(next) = behind {
                area += (next - recall) * best;
            }
            best = best.max(precision);
            behind = Some(recall);
        }
        Some(area + behind.unwrap_or(0.0) * best)
    }
}

#[cfg(test)]
mod tests {
    use types::Tensor;

    use super::*;

    fn found(x: f64, score: f64, class: i64) -> Found {
        Found { corners: [x, 0.0, x + 10.0, 10.0], score, class }
    }

    fn tensor(name: &str, shape: &[usize], values: &[f32]) -> NamedTensor {
        NamedTensor { name: name.to_owned(), tensor: Tensor::from_f32(shape.to_vec(), values).unwrap() }
    }

    #[test]
    fn the_average_precision_is_the_area_under_the_curve() {
        let truth = vec![found(0.0, 1.0, 0), found(100.0, 1.0, 0)];
        assert_eq!(mean_precision(&[(truth.clone(), vec![found(0.0, 0.9, 0), found(100.0, 0.8, 0)])]), 1.0);
        assert_eq!(mean_precision(&[(truth.clone(), vec![found(0.0, 0.9, 0)])]), 0.5);
        // A false one first: precision 1/2 at recall 1/2, 2/3 at recall 1; made to fall: 2/3 throughout.
        let late = vec![found(500.0, 0.95, 0), found(0.0, 0.9, 0), found(100.0, 0.8, 0)];
        assert!((mean_precision(&[(truth.clone(), late)]) - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(mean_precision(&[(truth, vec![found(0.0, 0.9, 1)])]), 0.0, "of another class");
        assert_eq!(mean_precision(&[(vec![], vec![])]), 1.0);
    }

    #[test]
    fn the_interval_of_a_mean_precision_is_over_images() {
        // In every other image the object is missed: a share of 0.5 of 200 images.
        let image = |at: usize| {
            (vec![found(0.0, 1.0, 0)], if at.is_multiple_of(2) { vec![found(0.0, 0.9, 0)] } else { vec![] })
        };
        let images: Vec<_> = (0..200).map(image).collect();
        let figure = mean_precision_figure(&images).unwrap();
        assert!((figure.value - 0.5).abs() < 1e-9, "{figure:?}");
        // 1.96 standard errors of 0.035 each.
        assert!((figure.interval.low - 0.43).abs() < 0.02 && (figure.interval.high - 0.57).abs() < 0.02, "{figure:?}");
        assert_eq!(mean_precision_figure(&[]), None);
    }

    #[test]
    fn every_usual_form_of_boxes_is_read() {
        let apart = [
            tensor("boxes", &[1, 2, 4], &[0.0, 0.0, 10.0, 10.0, 50.0, 0.0, 60.0, 10.0]),
            tensor("scores", &[1, 2], &[0.9, 0.01]),
            tensor("labels", &[1, 2], &[3.0, 4.0]),
        ];
        assert_eq!(read(&apart).unwrap(), [found(0.0, f64::from(0.9_f32), 3)]);
        let rows = [tensor("out", &[1, 2, 6], &[0.0, 0.0, 10.0, 10.0, 0.9, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])];
        assert_eq!(read(&rows).unwrap(), [found(0.0, f64::from(0.9_f32), 3)]);
        // Two boxes on top of each other, a third one elsewhere, 2 classes, by columns of 7.
        let mut columns = vec![0.0; 6 * 7];
        for (place, (x, score)) in [(5.0, 0.9), (5.5, 0.8), (55.0, 0.7)].into_iter().enumerate() {
            for (feature, value) in [x, 5.0, 10.0, 10.0, 0.0, score].into_iter().enumerate() {
                columns[feature * 7 + place] = value;
            }
        }
        let read = read(&[tensor("output0", &[1, 6, 7], &columns)]).unwrap();
        assert_eq!(read, [found(0.0, f64::from(0.9_f32), 1), found(50.0, f64::from(0.7_f32), 1)]);
    }
}
