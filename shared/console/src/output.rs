//! Result of a verb: a table for people, JSON for programs, or a completion script for shells.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// Form in which a verb prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// One JSON document, for programs.
    Json,
}

impl Output {
    /// Returns the form that a `--json` flag selects.
    #[must_use]
    pub const fn from_json_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::Table }
    }

    /// Prints the value as JSON, or the text that `human` returns for it.
    ///
    /// # Errors
    /// Fails if standard output cannot be written or the value cannot be serialised.
    pub fn print<T: Serialize>(self, value: &T, human: impl FnOnce(&T) -> String) -> io::Result<()> {
        match self {
            Self::Json => print_json(value),
            Self::Table => print_line(&human(value)),
        }
    }
}

/// Prints one or more lines to standard output.
///
/// A closed pipe (`| head`) is not an error.
///
/// # Errors
/// Fails if standard output cannot be written.
pub fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints a value as indented JSON with a final newline.
///
/// # Errors
/// Fails if standard output cannot be written or the value cannot be serialised (a map with keys that are not strings).
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string_pretty(value)?)
}

/// Prints a table; see [`render_table`].
///
/// # Errors
/// Fails if standard output cannot be written.
pub fn table<H, R, C>(headers: H, rows: R) -> io::Result<()>
where
    H: IntoIterator<Item: Into<String>>,
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item: Into<String>>,
{
    print_line(&render_table(headers, rows))
}

/// Formats columns under upper-case headers, without rules, so that people and `awk` can read them.
///
/// Control characters are escaped, because cells may contain names that a peer chose.
#[must_use]
pub fn render_table<H, R, C>(headers: H, rows: R) -> String
where
    H: IntoIterator<Item: Into<String>>,
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item: Into<String>>,
{
    render_table_within(headers, rows, None)
}

/// Lays out a table within a width in columns: long cells are wrapped. Without a width it is that of the terminal, or, where
/// standard output is none, as wide as its content.
fn render_table_within<H, R, C>(headers: H, rows: R, width: Option<u16>) -> String
where
    H: IntoIterator<Item: Into<String>>,
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item: Into<String>>,
{
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    table.set_header(headers.into_iter().map(|header| header.into().to_uppercase()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| safe(cell.into())).collect::<Vec<_>>());
    }
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn safe(cell: String) -> String {
    telemetry::escape_control(&cell).into_owned()
}

/// Prints the completion script of a command for a shell.
///
/// # Errors
/// Fails if standard output cannot be written.
pub fn completions<C: CommandFactory>(shell: Shell) -> io::Result<()> {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    // Written to memory first: clap_complete panics on a failing writer, and a closed pipe must not cause a panic.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print_line(String::from_utf8_lossy(&script).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_has_no_rules() {
        let text = render_table(["model", "version"], [["digits", "2"], ["speech-commands", "11"]]);
        assert_eq!(text, "MODEL            VERSION\ndigits           2\nspeech-commands  11");
    }

    #[test]
    fn a_table_without_rows_still_says_its_columns() {
        assert_eq!(render_table(["device"], Vec::<Vec<String>>::new()), "DEVICE");
    }

    #[test]
    fn a_table_fits_the_width_of_the_terminal_and_loses_nothing() {
        let headers = ["device", "state", "seen", "agent", "serves", "labels"];
        let long = "certificate expired, may renew until 2026-12-24 00:00:00Z";
        let rows = [["kitchen-camera-17", long, "5s ago", "0.1.0", "digits/2 int8-qdq", "site=berlin floor=2"]];
        for width in [40, 80, 120] {
            let text = render_table_within(headers, rows, Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{width}:\n{text}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            assert_eq!(letters(&text), letters(&headers.concat()) + letters(&rows[0].concat()), "{width}:\n{text}");
        }
    }

    #[test]
    fn a_cell_cannot_break_the_line_or_steer_the_terminal() {
        let text = render_table(["name"], [["a\nb\u{1b}[31m\u{9b}2J"]]);
        assert_eq!(text.lines().count(), 2, "{text:?}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}
