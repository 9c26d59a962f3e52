//! Charts as SVG: lines, bands and markers over two axes of shares.
//!
//! Fed with values between 0 and 1; feeds [`crate::document`]. Colours are CSS classes of the page (`series-0` to `series-5`), so that one
//! chart is readable on a light and on a dark page. A chart has no script, no style attribute and no link; every text is escaped.

use crate::document::escaped;
use crate::real;

/// Number of colours; further series repeat them.
pub const COLOURS: usize = 6;

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 14.0;
const RIGHT: f64 = 24.0;
const FOOT: f64 = 46.0;
/// Height of a line of the legend.
const LINE: f64 = 18.0;
/// Number of intervals between grid lines of an axis.
const STEPS: u8 = 5;
/// Least span of an axis, so that equal values are not stretched to the whole height.
const SPAN_MIN: f64 = 0.02;

/// Axis of shares.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    const WHOLE: Self = Self { low: 0.0, high: 1.0 };

    /// Returns the axis that shows all values, widened to round per cents.
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((1.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Self::WHOLE;
        }
        let span = (high - low).max(SPAN_MIN);
        let step = if span > 0.25 { 0.1 } else { 0.01 };
        let low = (((low - span * 0.05) / step).floor() * step).clamp(0.0, 1.0);
        let high = (((high + span * 0.05) / step).ceil() * step).clamp(0.0, 1.0);
        Self { low, high: high.max(low + SPAN_MIN) }
    }

    fn place(self, value: f64) -> f64 {
        let place = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        if place.is_nan() { 0.0 } else { place }
    }
}

/// Point of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Position on the horizontal axis.
    pub x: f64,
    /// Position on the vertical axis.
    pub y: f64,
    /// Ends of the interval of `y`.
    pub interval: Option<(f64, f64)>,
}

/// Points of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Points by increasing `x`.
    pub marks: Vec<Mark>,
    /// Whether the points are joined by a line, with their intervals as a band; otherwise they are markers with bars.
    pub is_line: bool,
    /// A single emphasised point with its description.
    pub highlight: Option<(Mark, String)>,
}

/// Chart of some series.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Description of the chart for readers who do not see it.
    pub title: String,
    /// Title of the horizontal axis, which is from 0 to 1.
    pub across: String,
    /// Title of the vertical axis.
    pub upwards: String,
    /// Series; each has a colour.
    pub series: Vec<Series>,
    /// Whether equal values of both axes are joined by a line, and the vertical axis is from 0 to 1, too.
    pub has_diagonal: bool,
}

impl Chart {
    /// Returns the chart as an `<svg>` element.
    #[must_use]
    pub fn svg(&self) -> String {
        let all =
            self.series.iter().flat_map(|one| one.marks.iter().chain(one.highlight.as_ref().map(|(mark, _)| mark)));
        let values = all.flat_map(|mark| {
            let (low, high) = mark.interval.unwrap_or((mark.y, mark.y));
            [mark.y, low, high]
        });
        let axis = if self.has_diagonal { Axis::WHOLE } else { Axis::around(values) };
        let plot = Plot { axis };
        let height = TOP + HEIGHT + FOOT + LINE * real(self.series.len());
        let width = LEFT + WIDTH + RIGHT;
        let title = escaped(&self.title);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n"
        );
        plot.frame(self, &mut svg);
        for (at, series) in self.series.iter().enumerate() {
            let colour = at % COLOURS;
            if series.is_line {
                plot.line(series, colour, &mut svg)
            } else {
                plot.markers(series, colour, &mut svg)
            }
            plot.legend(series, at, colour, &mut svg);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

struct Plot {
    axis: Axis,
}

impl Plot {
    fn x(&self, value: f64) -> f64 {
        LEFT + WIDTH * Axis::WHOLE.place(value)
    }

    fn y(&self, value: f64) -> f64 {
        TOP + HEIGHT * (1.0 - self.axis.place(value))
    }

    fn frame(&self, chart: &Chart, svg: &mut String) {
        for step in 0..=STEPS {
            let part = f64::from(step) / f64::from(STEPS);
            let (across, value) = (self.x(part), self.axis.low + part * (self.axis.high - self.axis.low));
            let upwards = self.y(value);
            push(
                svg,
                format_args!("<path class=\"grid\" d=\"M{LEFT} {upwards:.1}h{WIDTH}M{across:.1} {TOP}v{HEIGHT}\"/>"),
            );
            let (foot, left) = (TOP + HEIGHT + 16.0, LEFT - 6.0);
            push(
                svg,
                format_args!(
                    "<text x=\"{across:.1}\" y=\"{foot:.1}\" text-anchor=\"middle\">{:.0} %</text>",
                    100.0 * part
                ),
            );
            // Steps of less than a whole per cent need a decimal.
            let step = 100.0 * (self.axis.high - self.axis.low) / f64::from(STEPS);
            let digits = usize::from((step - step.round()).abs() > 1e-6);
            let base = upwards + 4.0;
            push(
                svg,
                format_args!(
                    "<text x=\"{left:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{:.digits$} %</text>",
                    100.0 * value
                ),
            );
        }
        if chart.has_diagonal {
            let (left, right, foot, top) = (self.x(0.0), self.x(1.0), self.y(0.0), self.y(1.0));
            push(svg, format_args!("<path class=\"diagonal\" d=\"M{left:.1} {foot:.1}L{right:.1} {top:.1}\"/>"));
        }
        let (middle, foot) = (LEFT + WIDTH / 2.0, TOP + HEIGHT + 36.0);
        push(
            svg,
            format_args!(
                "<text x=\"{middle:.1}\" y=\"{foot:.1}\" text-anchor=\"middle\">{}</text>",
                escaped(&chart.across)
            ),
        );
        let (side, centre) = (13.0, TOP + HEIGHT / 2.0);
        push(
            svg,
            format_args!(
                "<text x=\"{side}\" y=\"{centre:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 {side} {centre:.1})\">{}</text>",
                escaped(&chart.upwards)
            ),
        );
    }

    fn line(&self, series: &Series, colour: usize, svg: &mut String) {
        let at = |x: f64, y: f64| format!("{:.1} {:.1}", self.x(x), self.y(y));
        let path = |points: Vec<String>| points.join("L");
        let upper = series.marks.iter().filter_map(|mark| Some(at(mark.x, mark.interval?.1)));
        let lower = series.marks.iter().rev().filter_map(|mark| Some(at(mark.x, mark.interval?.0)));
        let band: Vec<String> = upper.chain(lower).collect();
        if !band.is_empty() {
            push(svg, format_args!("<path class=\"band series-{colour}\" d=\"M{}Z\"/>", path(band)));
        }
        let points: Vec<String> = series.marks.iter().map(|mark| at(mark.x, mark.y)).collect();
        if !points.is_empty() {
            push(svg, format_args!("<path class=\"line series-{colour}\" d=\"M{}\"/>", path(points)));
        }
        if let Some((mark, text)) = &series.highlight {
            let (x, y) = (self.x(mark.x), self.y(mark.y));
            push(
                svg,
                format_args!(
                    "<circle class=\"dot series-{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"><title>{}</title></circle>",
                    escaped(text)
                ),
            );
        }
    }

    fn markers(&self, series: &Series, colour: usize, svg: &mut String) {
        for mark in &series.marks {
            let (x, y) = (self.x(mark.x), self.y(mark.y));
            if let Some((low, high)) = mark.interval {
                let (low, high) = (self.y(low), self.y(high));
                push(svg, format_args!("<path class=\"line series-{colour}\" d=\"M{x:.1} {low:.1}V{high:.1}\"/>"));
            }
            let title = format!("{:.1} % stated, {:.1} % right", 100.0 * mark.x, 100.0 * mark.y);
            push(
                svg,
                format_args!(
                    "<circle class=\"dot series-{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{}</title></circle>",
                    escaped(&format!("{}: {title}", series.name))
                ),
            );
        }
    }

    fn legend(&self, series: &Series, at: usize, colour: usize, svg: &mut String) {
        let (left, base) = (self.x(0.0), TOP + HEIGHT + FOOT + LINE * real(at) + 8.0);
        push(
            svg,
            format_args!(
                "<circle class=\"dot series-{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
                left + 5.0,
                base - 4.0
            ),
        );
        let note = series.highlight.as_ref().map_or(String::new(), |(_mark, text)| format!(" (marked: {text})"));
        push(
            svg,
            format_args!(
                "<text x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
                left + 16.0,
                escaped(&format!("{}{note}", series.name))
            ),
        );
    }
}

/// Appends a line.
fn push(svg: &mut String, line: std::fmt::Arguments<'_>) {
    svg.push_str(&line.to_string());
    svg.push('\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chart(marks: Vec<Mark>, name: &str, is_line: bool) -> Chart {
        let highlight = marks.first().map(|mark| (*mark, name.to_owned()));
        let series = vec![Series { name: name.to_owned(), marks, is_line, highlight }];
        Chart {
            title: name.to_owned(),
            across: name.to_owned(),
            upwards: name.to_owned(),
            series,
            has_diagonal: !is_line,
        }
    }

    #[test]
    fn names_in_a_chart_are_text_and_no_markup() {
        let svg = chart(vec![Mark { x: 0.5, y: 0.5, interval: None }], "<script>&\"'", true).svg();
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;&amp;&quot;&#39;"), "{svg}");
    }

    proptest! {
        #[test]
        fn every_mark_is_inside_the_frame_whatever_its_value(
            marks in prop::collection::vec((any::<f64>(), any::<f64>(), any::<bool>()), 0..20), is_line in any::<bool>(),
        ) {
            let marks = marks.into_iter().map(|(x, y, has)| Mark { x, y, interval: has.then_some((y, x)) }).collect();
            let svg = chart(marks, "model", is_line).svg();
            prop_assert!(!svg.contains("\"NaN") && !svg.contains(" NaN"), "{}", svg);
            let drawn: String = svg.split("<title>").map(|part| part.split_once("</title>").map_or(part, |parts| parts.1)).collect();
            for number in drawn.split(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != '-') {
                let number: f64 = number.parse().unwrap_or(0.0);
                prop_assert!((-90.0..=2000.0).contains(&number), "{} in {}", number, svg);
            }
        }
    }
}
