//! Tables of `docs/compress.md`.

use super::{KNOBS, PASSES, Values};

/// Returns the table of forms, in Markdown.
#[must_use]
pub fn passes_table() -> String {
    let mut page = "| form | meaning | where it pays |\n|---|---|---|\n".to_owned();
    for pass in PASSES {
        page.push_str(&format!("| `{}` | {} | {} |\n", pass.name, pass.about, pass.pays));
    }
    page
}

/// Returns the table of options with the forms that each applies to, in Markdown.
#[must_use]
pub fn options_table() -> String {
    let mut page = "| option | applies to | effect |\n|---|---|---|\n".to_owned();
    for knob in KNOBS {
        let value = match &knob.values {
            Values::Flag(_) => String::new(),
            Values::OneOf(_, choices) => {
                let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
                format!(" {}", names.join("\\|"))
            }
            Values::Text(placeholder, _) => format!(" {placeholder}"),
        };
        let default = knob.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let passes: Vec<String> = knob.passes().map(|name| format!("`{name}`")).collect();
        page.push_str(&format!("| `--{}{value}` | {} | {}{default} |\n", knob.name, passes.join(", "), knob.help));
    }
    page
}
