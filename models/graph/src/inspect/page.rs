//! The inspection as one HTML file with a drawing, for a browser and for a mail.
//!
//! Names come from the model and may hold anything: the template escapes whatever it writes.

use askama::Template;

use super::Inspection;
use crate::infer::Dim;

/// Most bars of the drawing; what is smaller is in the table.
const BARS_MAX: usize = 10;

/// Width of the longest bar and height of a row, in units of the drawing.
const BAR_WIDTH: u64 = 520;
const ROW_HEIGHT: usize = 26;

/// Most letters of a name in the drawing.
const LABEL_MAX: usize = 28;

#[derive(Template)]
#[template(path = "inspect.html")]
struct Page<'page> {
    name: &'page str,
    told: &'page Inspection,
    bars: Vec<Bar>,
    height: usize,
}

/// Bytes and arithmetic of one operator.
struct Bar {
    y: usize,
    label: String,
    bytes_width: u64,
    macs_width: u64,
    text: String,
}

impl Page<'_> {
    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn size(&self, bytes: &u64) -> String {
        size(*bytes)
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn number(&self, number: &u64) -> String {
        number_of(*number)
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn shape(&self, shape: &Option<Vec<Dim>>) -> String {
        match shape {
            Some(dims) => dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × "),
            None => "?".to_owned(),
        }
    }

    #[expect(clippy::unused_self, reason = "templates call methods")]
    fn dims(&self, dims: &[i64]) -> String {
        dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ")
    }
}

/// The page; `name` is what the model is called.
///
/// # Errors
/// When the template cannot be written out.
pub fn page(name: &str, told: &Inspection) -> Result<String, askama::Error> {
    let bars = bars(told);
    let height = bars.len() * ROW_HEIGHT;
    Page { name, told, bars, height }.render()
}

fn bars(told: &Inspection) -> Vec<Bar> {
    let largest = |of: fn(&super::Operator) -> u64| told.operators.iter().map(of).max().unwrap_or(0);
    let (most_bytes, most_macs) = (largest(|told| told.bytes), largest(|told| told.macs));
    let width =
        |part: u64, most: u64| u64::try_from(u128::from(part) * u128::from(BAR_WIDTH) / u128::from(most.max(1)));
    let bar = |(row, told): (usize, &super::Operator)| Bar {
        y: row * ROW_HEIGHT,
        label: told.operator.chars().take(LABEL_MAX).collect(),
        bytes_width: width(told.bytes, most_bytes).unwrap_or(0),
        macs_width: width(told.macs, most_macs).unwrap_or(0),
        text: format!("{}, {} MAC", size(told.bytes), number_of(told.macs)),
    };
    let matters = told.operators.iter().filter(|told| told.bytes > 0 || told.macs > 0);
    matters.take(BARS_MAX).enumerate().map(bar).collect()
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// A count as people read it.
fn number_of(number: u64) -> String {
    scaled(number, 1000, &["", "k", "M", "G", "T", "P"])
}

fn scaled(number: u64, step: u64, units: &[&str]) -> String {
    let mut divisor = 1_u64;
    let mut unit = 0;
    while number / divisor >= step && unit + 1 < units.len() {
        divisor *= step;
        unit += 1;
    }
    let whole = number / divisor;
    let tenth = number % divisor * 10 / divisor;
    let figure = if unit == 0 || whole >= 100 { whole.to_string() } else { format!("{whole}.{tenth}") };
    format!("{figure} {}", units.get(unit).unwrap_or(&"")).trim_end().to_owned()
}
