//! Finds the known name that is most similar to an unknown one.

/// Describes the mistake of an unknown field, with the known names of its table.
pub(crate) fn unknown_field(name: &str, known: &[String]) -> String {
    match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("unknown field, did you mean `{meant}`?"),
        None if known.is_empty() => "unknown field, no field is allowed here".to_owned(),
        None => format!("unknown field, known here: {}", known.join(", ")),
    }
}

/// Returns the known name that is most similar to a wrong one; `None` if none is similar enough.
#[must_use]
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let nearest = known.into_iter().map(|known| (distance(name, known), known)).min();
    // Up to a third of wrong letters is a typo, more is another word.
    nearest.filter(|(distance, known)| *distance <= name.len().max(known.len()).div_ceil(3)).map(|(_, known)| known)
}

/// Returns the Levenshtein distance: the number of insertions, removals and replacements of letters between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_gets_the_list() {
        let known = ["http".to_owned(), "metrics".to_owned()];
        assert_eq!(unknown_field("htpp", &known), "unknown field, did you mean `http`?");
        assert_eq!(unknown_field("metric", &known), "unknown field, did you mean `metrics`?");
        assert_eq!(unknown_field("colour", &known), "unknown field, known here: http, metrics");
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
