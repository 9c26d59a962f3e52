//! Rows as a table for people, which is also Markdown, and as JSON for programs.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};

use crate::row::Row;

/// Formats rows as a Markdown table, with notes below it.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["figure", "ours", "peer", "unit", "peer is", "ratio", "spread", "bar", "holds"]);
    for row in rows {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), short);
        let spread = row.ratio_spread.or(row.ours_spread);
        let holds = match (row.holds, &row.bar) {
            (Some(true), _) => "yes",
            (Some(false), _) => "NO",
            (None, Some(_)) => "not measured",
            (None, None) => "printed only",
        };
        table.add_row([
            row.figure.clone(),
            number(row.ours),
            number(row.peer),
            row.unit.clone(),
            row.peer_name.clone().unwrap_or_else(|| "-".into()),
            number(row.ratio),
            spread.map_or("-".to_owned(), |[low, high]| format!("{} to {}", short(low), short(high))),
            row.bar.clone().unwrap_or_else(|| "-".into()),
            holds.to_owned(),
        ]);
    }
    for column in [1, 2, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{table}\n");
    let notes = rows.iter().filter_map(|row| Some((row, row.note.as_ref()?)));
    for (at, (row, note)) in notes.enumerate() {
        text.push_str(&format!("{}- {}: {note}\n", if at == 0 { "\n" } else { "" }, row.figure));
    }
    text
}

/// Formats a number with three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes the rows as a JSON array.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn write_json(rows: &[Row], file: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(rows).context("turn the rows into JSON")?;
    text.push('\n');
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Bar;
    use crate::sample::Sample;

    fn rows() -> [Row; 2] {
        let bar = Some(Bar::TimesFaster(1.4));
        let row = |name| Row::empty(name, "ms", Some("burn"), bar);
        [
            row("matmul").measured(bar, &Sample::exact(10.0), Some(&Sample::exact(13.0))),
            row("conv").missing("burn does not build"),
        ]
    }

    #[test]
    fn a_broken_promise_and_a_missing_peer_are_told_apart() {
        let text = table(&rows());
        let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(line("matmul").contains("1.30") && line("matmul").contains("| NO"), "{text}");
        assert!(line("| conv").contains("not measured"), "{text}");
        assert!(text.contains("- conv: burn does not build"), "{text}");
    }

    #[test]
    fn the_json_is_an_array_of_rows() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.json");
        write_json(&rows(), &file).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(value[0]["holds"], serde_json::json!(false));
        assert_eq!(value[1]["holds"], serde_json::Value::Null);
        assert_eq!(value[1]["note"], "burn does not build");
    }
}
