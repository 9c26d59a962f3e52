//! Changes one field of a TOML text and keeps the rest, including comments.
//!
//! Used by `cloud-hub init`, which completes a file that an operator may have edited before.

use toml::de::{DeTable, DeValue};

/// Sets `table.field` to a value, which is also TOML (a text with its quotes).
///
/// Returns the new text, or `None` if the file cannot be changed in this way: it is not TOML, or the table is written
/// inline.
#[must_use]
pub fn set_field(text: &str, table: &str, field: &str, value: &str) -> Option<String> {
    let document = DeTable::parse(text).ok()?;
    let Some((key, found)) = document.get_ref().get_key_value(table) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Some(format!("{text}{gap}\n[{table}]\n{field} = {value}\n"));
    };
    let DeValue::Table(fields) = found.get_ref() else { return None };
    if let Some(old) = fields.get(field) {
        let span = old.span();
        return Some(format!("{}{value}{}", text.get(..span.start)?, text.get(span.end..)?));
    }
    let header = key.span();
    let line = text.get(..header.start)?.rfind('\n').map_or(0, |at| at + 1);
    let line_end = text.get(header.end..)?.find('\n').map_or(text.len(), |at| header.end + at + 1);
    if !text.get(line..)?.trim_start().starts_with('[') {
        return None;
    }
    let gap = if text.get(..line_end)?.ends_with('\n') { "" } else { "\n" };
    Some(format!("{}{gap}{field} = {value}\n{}", text.get(..line_end)?, text.get(line_end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_replaced_and_comments_stay() {
        let text = "# mine\n[hub]\nnames = [\n  \"old\", # the first\n]\nstop_grace = \"1s\"\n";
        let new = set_field(text, "hub", "names", "[\"new\"]").unwrap();
        assert_eq!(new, "# mine\n[hub]\nnames = [\"new\"]\nstop_grace = \"1s\"\n");
    }

    #[test]
    fn a_field_or_table_that_is_missing_is_added_where_it_belongs() {
        let text = "[hub] # here\nstop_grace = \"1s\"\n\n[log]\n";
        let new = set_field(text, "hub", "names", "[\"a\"]").unwrap();
        assert_eq!(new, "[hub] # here\nnames = [\"a\"]\nstop_grace = \"1s\"\n\n[log]\n");
        assert_eq!(set_field("[hub]", "hub", "names", "1").unwrap(), "[hub]\nnames = 1\n");
        assert_eq!(set_field("a = 1", "hub", "names", "2").unwrap(), "a = 1\n\n[hub]\nnames = 2\n");
        assert_eq!(set_field("", "hub", "names", "2").unwrap(), "\n[hub]\nnames = 2\n");
    }

    #[test]
    fn what_cannot_be_changed_safely_is_left_alone() {
        for text in ["hub = { names = 1", "hub = { stop_grace = 1 }\n", "hub = 5\n", "hub.stop_grace = 1\n"] {
            assert_eq!(set_field(text, "hub", "names", "2"), None, "{text}");
        }
        // An inline table that already has the field can be changed.
        assert_eq!(set_field("hub = { names = 1 }", "hub", "names", "2").unwrap(), "hub = { names = 2 }");
    }
}
