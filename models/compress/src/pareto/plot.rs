//! The Pareto front as a picture: one small SVG, made by hand.
//!
//! Loss upwards on a logarithmic axis, once against size and once against time on each engine. Nothing in it is a link
//! or a script, and every name is escaped.

use std::fmt::Write;

/// Losses up to this one are drawn at the foot of the plot: 0.001 % is below what any evaluation set here can show.
const LOSS_LEAST: f64 = 1e-5;

/// Decades of the loss axis, from [`LOSS_LEAST`] up to a loss of 1.
const DECADES: u8 = 5;

/// Longest name that is drawn, in characters.
const NAME_CHARS: usize = 28;

/// Most points that are drawn; more would be a blot.
pub const POINTS_MAX: usize = 200;

const PANEL_WIDTH: f64 = 400.0;
const PANEL_HEIGHT: f64 = 330.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 46.0;
/// Room below and to the right of each panel for axis and names.
const FOOT: f64 = 54.0;
/// Room within a panel below the least loss, so that names there do not lie on the frame.
const FLOOR: f64 = 18.0;
/// Radius of a marker.
const RADIUS: f64 = 4.0;
const GAP: f64 = 128.0;
/// Height of a line of names.
const LINE: f64 = 13.0;
/// Width of a letter, roughly, in the font used.
const LETTER: f64 = 6.3;

/// One candidate in the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Name in the model.
    pub name: String,
    /// Loss, in the measure of the run.
    pub loss: f64,
    /// Its place on each axis, relative to the reference; `None` where it has none.
    pub places: Vec<Option<f64>>,
    /// Whether nothing beats it.
    pub is_on_pareto_front: bool,
}

/// Draws the candidates against each of the `axes` (their titles), with a line at the greatest loss allowed.
#[must_use]
pub fn svg(title: &str, axes: &[String], points: &[Point], loss_max: f64) -> String {
    let panels = axes.len().max(1);
    let width = LEFT + (PANEL_WIDTH + GAP) * f64::from(u32::try_from(panels).unwrap_or(1));
    let height = TOP + PANEL_HEIGHT + FOOT;
    let mut picture = String::new();
    let mut line = |text: String| {
        picture.push_str(&text);
        picture.push('\n');
    };
    line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" width="{width:.0}" height="{height:.0}" font-family="sans-serif" font-size="11">"#
    ));
    line(r#"<rect width="100%" height="100%" fill="white"/>"#.to_owned());
    line(format!(r#"<text x="{LEFT}" y="20" font-size="14">{}</text>"#, escaped(title)));
    let shown = points.get(..points.len().min(POINTS_MAX)).unwrap_or_default();
    for (at, axis) in axes.iter().enumerate() {
        let panel = Panel::new(at, shown);
        line(panel.frame(axis, loss_max));
        line(panel.points(shown));
    }
    line("</svg>".to_owned());
    picture
}

/// One set of axes.
struct Panel {
    at: usize,
    left: f64,
    /// Where the horizontal axis ends.
    most: f64,
}

impl Panel {
    fn new(at: usize, points: &[Point]) -> Self {
        let places = points.iter().filter_map(|point| point.places.get(at).copied().flatten());
        let most = places.filter(|place| place.is_finite()).fold(1.0, f64::max);
        let left = LEFT + (PANEL_WIDTH + GAP) * f64::from(u32::try_from(at).unwrap_or(0));
        Self { at, left, most: nice(most * 1.05) }
    }

    fn x(&self, place: f64) -> f64 {
        self.left + PANEL_WIDTH * (place / self.most).clamp(0.0, 1.0)
    }

    /// Returns where a name beside a marker begins: to its right if that stays clear of the next panel, else to its left.
    fn beside(&self, across: f64, name: &str) -> f64 {
        let room = self.left + PANEL_WIDTH + GAP - LEFT;
        let right = across + 2.0 * RADIUS;
        if right + width(name) <= room { right } else { across - 2.0 * RADIUS - width(name) }
    }

    fn frame(&self, axis: &str, loss_max: f64) -> String {
        let (left, foot) = (self.left, TOP + PANEL_HEIGHT);
        let mut drawn = format!(
            r##"<rect x="{left:.1}" y="{TOP}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}" fill="none" stroke="#888"/>"##
        );
        for decade in 0..=DECADES {
            let loss = LOSS_LEAST * 10_f64.powi(i32::from(decade));
            let height = y(loss);
            let label = if decade == 0 { "none".to_owned() } else { percent(loss) };
            push(&mut drawn, format_args!(r##"<path d="M{left:.1} {height:.1}h{PANEL_WIDTH}" stroke="#eee"/>"##));
            let place = (left - 6.0, height + 4.0);
            push(
                &mut drawn,
                format_args!(r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#, place.0, place.1),
            );
        }
        for quarter in 0..=4_u8 {
            let place = self.most * f64::from(quarter) / 4.0;
            let (across, below) = (self.x(place), foot + 16.0);
            push(
                &mut drawn,
                format_args!(r#"<text x="{across:.1}" y="{below:.1}" text-anchor="middle">{}</text>"#, percent(place)),
            );
        }
        let (middle, below) = (left + PANEL_WIDTH / 2.0, foot + 36.0);
        push(
            &mut drawn,
            format_args!(r#"<text x="{middle:.1}" y="{below:.1}" text-anchor="middle">{}</text>"#, escaped(axis)),
        );
        push(&mut drawn, format_args!(r#"<text x="{left:.1}" y="{:.1}">loss</text>"#, TOP - 8.0));
        let (height, reference) = (y(loss_max), self.x(1.0));
        push(
            &mut drawn,
            format_args!(
                r##"<path d="M{left:.1} {height:.1}h{PANEL_WIDTH}" stroke="#c33" stroke-dasharray="5 4"/>
<path d="M{reference:.1} {TOP}v{PANEL_HEIGHT}" stroke="#bbb" stroke-dasharray="2 3"/>"##
            ),
        );
        drawn
    }

    fn points(&self, points: &[Point]) -> String {
        let mut drawn = String::new();
        let place = |point: &Point| point.places.get(self.at).copied().flatten().filter(|place| place.is_finite());
        let shown = || points.iter().filter_map(|point| Some((point, place(point)?)));
        // Names lie neither on each other nor on markers.
        let mut taken: Vec<(f64, f64, f64)> =
            shown().map(|(point, place)| (self.x(place) - RADIUS, 2.0 * RADIUS, y(point.loss) + RADIUS)).collect();
        // Those on the Pareto front lie on top, and their names nearest.
        let (best, beaten): (Vec<_>, Vec<_>) = shown().partition(|(point, _)| point.is_on_pareto_front);
        for (point, place) in beaten.iter().chain(&best) {
            let (across, height) = (self.x(*place), y(point.loss));
            let fill = if point.is_on_pareto_front { "#16c" } else { "white" };
            let (name, loss, place) = (escaped(&point.name), percent(point.loss), percent(*place));
            push(
                &mut drawn,
                format_args!(
                    r##"<circle cx="{across:.1}" cy="{height:.1}" r="{RADIUS}" fill="{fill}" stroke="#16c"><title>{name}: loss {loss}, {place}</title></circle>"##
                ),
            );
        }
        for (point, place) in best.iter().chain(&beaten) {
            let (across, height) = (self.x(*place), y(point.loss));
            let name = shortened(&point.name);
            let left = self.beside(across, &name);
            let base = free_line(&mut taken, left, height + RADIUS, &name);
            let (fill, name) = (if point.is_on_pareto_front { "#000" } else { "#888" }, escaped(&name));
            push(&mut drawn, format_args!(r#"<text x="{left:.1}" y="{base:.1}" fill="{fill}">{name}</text>"#));
        }
        drawn
    }
}

/// Width of a name, roughly.
fn width(name: &str) -> f64 {
    LETTER * f64::from(u32::try_from(name.chars().count()).unwrap_or(0))
}

/// The base line of a name, moved up until it lies on no other name; noted for the names to come.
fn free_line(taken: &mut Vec<(f64, f64, f64)>, left: f64, wanted: f64, name: &str) -> f64 {
    let width = width(name);
    let mut base = wanted;
    let overlaps = |base: f64, taken: &[(f64, f64, f64)]| {
        taken.iter().any(|&(other, other_width, other_base)| {
            (base - other_base).abs() < LINE && left < other + other_width && other < left + width
        })
    };
    while overlaps(base, taken) && base > TOP {
        base -= LINE;
    }
    taken.push((left, width, base));
    base
}

/// Returns where a loss stands; one that is no number, or above 1, stands at the top.
fn y(loss: f64) -> f64 {
    let loss = if loss.is_nan() { 1.0 } else { loss.clamp(LOSS_LEAST, 1.0) };
    TOP + (PANEL_HEIGHT - FLOOR) * (-loss.log10() / f64::from(DECADES))
}

/// The next number up whose quarters read well.
fn nice(most: f64) -> f64 {
    let step = 10_f64.powf(most.max(0.1).log10().floor());
    [1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0]
        .map(|times| times * step)
        .into_iter()
        .find(|&end| end >= most)
        .unwrap_or(most)
}

/// A share as percent with as many digits as it needs.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let digits = if percent.abs() >= 10.0 || percent == 0.0 {
        0
    } else if percent.abs() >= 0.95 {
        1
    } else {
        3
    };
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_CHARS {
        return name.to_owned();
    }
    name.chars().take(NAME_CHARS - 1).chain(['…']).collect()
}

/// Text that cannot end its element; control characters, which XML does not allow, become question marks.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML forbids these two beside the control characters.
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => safe.push('?'),
            letter => safe.push(letter),
        }
    }
    safe
}

fn push(drawn: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _written: std::fmt::Result = writeln!(drawn, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, loss: f64, place: Option<f64>) -> Point {
        Point { name: name.to_owned(), loss, places: vec![place, Some(1.0)], is_on_pareto_front: true }
    }

    #[test]
    fn a_name_cannot_leave_its_text() {
        let hostile = point("</text><script>alert('x')</script>&\u{1b}\u{0}", 0.1, Some(0.5));
        let drawn = svg("a <b> & \"c\"", &["size".to_owned(), "<time>".to_owned()], &[hostile], 0.01);
        assert!(!drawn.contains("<script") && !drawn.contains("<b>") && !drawn.contains("<time>"), "{drawn}");
        assert!(drawn.chars().all(|letter| letter == '\n' || !letter.is_control()));
        assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
    }

    #[test]
    fn figures_of_any_kind_stay_inside_the_picture() {
        let losses = [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, 0.5];
        let places = [Some(f64::NAN), Some(f64::INFINITY), Some(-3.0), None, Some(1e12), Some(0.0)];
        let points: Vec<Point> = losses.iter().zip(places).map(|(&loss, place)| point("x", loss, place)).collect();
        let drawn = svg("t", &["size".to_owned()], &points, f64::NAN);
        assert!(!drawn.contains("NaN") || drawn.contains("loss NaN"), "{drawn}");
        for place in drawn.split("cx=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let across: f64 = place.parse().unwrap();
            assert!((LEFT..=LEFT + PANEL_WIDTH).contains(&across), "{across}");
        }
    }

    #[test]
    fn names_do_not_lie_on_each_other() {
        let points: Vec<Point> = (0..6).map(|number| point(&format!("int8-qdq {number}"), 0.01, Some(0.5))).collect();
        let drawn = svg("t", &["size".to_owned()], &points, 0.01);
        let names = drawn.lines().filter(|line| line.contains(">int8-qdq") && line.starts_with("<text"));
        let lines: std::collections::BTreeSet<&str> =
            names.filter_map(|name| name.split("y=\"").nth(1)?.split('"').next()).collect();
        assert_eq!(lines.len(), 6, "{drawn}");
    }

    #[test]
    fn percent_reads_well() {
        let read = [0.0, 1e-5, 0.0012, 0.01, 0.25, 1.0, 1.8].map(percent);
        assert_eq!(read, ["0 %", "0.001 %", "0.12 %", "1 %", "25 %", "100 %", "180 %"]);
    }
}
