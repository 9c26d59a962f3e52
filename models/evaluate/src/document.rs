//! A self-contained HTML page: text, tables, charts and pictures.
//!
//! Fed by `cloud-hub model evaluate --html`. The page loads nothing and runs nothing: its Content-Security-Policy allows its own style sheet
//! (by digest) and pictures in data URIs. It follows the reader's choice of a light or dark appearance.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// Style sheet of the page and its charts.
const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #1c2733; --soft: #5b6875; --rule: #dfe4e9;
  --c0: #1866b4; --c1: #c4511a; --c2: #22813c; --c3: #8a3fb0; --c4: #9a7400; --c5: #b3285e; }
@media (prefers-color-scheme: dark) { :root { --back: #14191f; --text: #e4e9ee; --soft: #9aa7b4; --rule: #303a45;
  --c0: #6cb0f5; --c1: #f0935c; --c2: #6fce88; --c3: #c894ea; --c4: #dcb94a; --c5: #f282ac; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, figcaption, caption { color: var(--soft); } figure { margin: 0; flex: 1 1 30rem; max-width: 44rem; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--rule); vertical-align: middle; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; } caption { text-align: left; padding-bottom: .5rem; }
small { color: var(--soft); white-space: nowrap; }
img { width: 56px; image-rendering: pixelated; display: block; }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; } svg text { fill: var(--soft); }
.grid { stroke: var(--rule); fill: none; } .diagonal { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.line { fill: none; stroke-width: 2; } .band { stroke: none; opacity: .16; } .dot { stroke: var(--back); }
.line.series-0 { stroke: var(--c0); } .band.series-0, .dot.series-0 { fill: var(--c0); }
.line.series-1 { stroke: var(--c1); } .band.series-1, .dot.series-1 { fill: var(--c1); }
.line.series-2 { stroke: var(--c2); } .band.series-2, .dot.series-2 { fill: var(--c2); }
.line.series-3 { stroke: var(--c3); } .band.series-3, .dot.series-3 { fill: var(--c3); }
.line.series-4 { stroke: var(--c4); } .band.series-4, .dot.series-4 { fill: var(--c4); }
.line.series-5 { stroke: var(--c5); } .band.series-5, .dot.series-5 { fill: var(--c5); }
";

/// Cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A value with its interval.
    Interval(String, String),
    /// Picture in a data URI of [`crate::picture::data_uri`].
    Picture(String),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// Page that grows by its parts.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    title: String,
    body: String,
}

impl Document {
    /// Creates a page with a title.
    #[must_use]
    pub fn new(title: &str) -> Self {
        let title = escaped(title);
        Self { body: format!("<h1>{title}</h1>\n"), title }
    }

    /// Adds a heading.
    pub fn heading(&mut self, text: &str) {
        self.body.push_str(&format!("<h2>{}</h2>\n", escaped(text)));
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.body.push_str(&format!("<p>{}</p>\n", escaped(text)));
    }

    /// Adds a table.
    pub fn table(&mut self, caption: &str, headers: &[&str], rows: &[Vec<Cell>]) {
        let headers: String = headers.iter().map(|header| format!("<th>{}</th>", escaped(header))).collect();
        let cell = |cell: &Cell| match cell {
            Cell::Text(text) => format!("<td>{}</td>", escaped(text)),
            Cell::Interval(value, interval) => {
                format!("<td>{}<br><small>{}</small></td>", escaped(value), escaped(interval))
            }
            Cell::Picture(uri) => format!("<td><img src=\"{}\" alt=\"input\"></td>", escaped(uri)),
        };
        let rows: String =
            rows.iter().map(|row| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>())).collect();
        let caption = escaped(caption);
        self.body.push_str(&format!(
            "<div class=\"wide\"><table><caption>{caption}</caption>\n<thead><tr>{headers}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
        ));
    }

    /// Adds charts side by side, each with its caption.
    pub fn charts(&mut self, charts: &[(crate::chart::Chart, &str)]) {
        let figure = |(chart, caption): &(crate::chart::Chart, &str)| {
            format!("<figure>\n{}<figcaption>{}</figcaption></figure>\n", chart.svg(), escaped(caption))
        };
        self.body.push_str(&format!("<div class=\"row\">\n{}</div>\n", charts.iter().map(figure).collect::<String>()));
    }

    /// Returns the page.
    #[must_use]
    pub fn html(&self) -> String {
        let Self { title, body } = self;
        let digest = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
        let policy = format!("default-src 'none'; img-src data:; style-src 'sha256-{digest}'");
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
        )
    }
}

/// Returns a text with the characters that HTML and SVG give a meaning replaced, and control characters made visible.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            letter if letter.is_control() => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_model_becomes_markup() {
        let hostile = "</style><script>alert(1)</script>\" onload='x' \u{1b}[0m";
        let mut page = Document::new(hostile);
        page.heading(hostile);
        page.paragraph(hostile);
        page.table(hostile, &[hostile], &[vec![Cell::Text(hostile.to_owned()), Cell::Picture(hostile.to_owned())]]);
        let html = page.html();
        assert!(
            !html.contains("<script") && !html.contains('\u{1b}') && html.matches("</style>").count() == 1,
            "{html}"
        );
        assert!(!html.contains("onload='") && html.contains("&lt;script&gt;"), "{html}");
    }
}
