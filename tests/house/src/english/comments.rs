//! Reads the doc comments of a source file: their first sentences, and the items that they are about.

/// A run of `///` or `//!` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comment {
    /// Number of its first line, from 1.
    pub line: usize,
    /// First sentence, on one line.
    pub sentence: String,
    /// Whether the item is a `bool`, or a function that returns one.
    pub is_bool: bool,
}

impl Comment {
    /// Returns whether the sentence opens with one of these words. `whether` is allowed for a `bool`.
    #[must_use]
    pub fn asks(&self, question_words: &[&str]) -> bool {
        let first = self.sentence.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty());
        let first = first.unwrap_or_default().to_lowercase();
        question_words.contains(&&*first) && !(self.is_bool && first == "whether")
    }

    /// Returns the number of words of the sentence.
    #[must_use]
    pub fn words(&self) -> usize {
        self.sentence.split_whitespace().count()
    }
}

/// Maximum number of lines that are read of an item to find its type; a signature with more parameters is too long anyway.
const ITEM_LINES_MAX: usize = 16;

/// Returns the doc comments of a source file.
#[must_use]
pub fn comments(text: &str) -> Vec<Comment> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(mark) = lines.get(at).and_then(|line| mark(line)) {
        let rest = lines.get(at..).unwrap_or_default();
        let length = rest.iter().take_while(|line| self::mark(line) == Some(mark)).count();
        if !mark.is_empty() {
            let (comment, item) = rest.split_at(length);
            let is_bool = mark == "///" && is_bool(item);
            found.push(Comment { line: at + 1, sentence: first_sentence(comment, mark), is_bool });
        }
        at += length;
    }
    found
}

/// Returns `///` or `//!` for a line of a doc comment, an empty text for every other line.
fn mark(line: &str) -> Option<&'static str> {
    let line = line.trim_start();
    let marks = ["///", "//!"].into_iter();
    Some(marks.into_iter().find(|mark| line.starts_with(mark) && !line.starts_with("////")).unwrap_or_default())
}

/// Returns the text up to the first period that a space or the end of the paragraph follows.
fn first_sentence(comment: &[&str], mark: &str) -> String {
    let lines = comment.iter().map(|line| line.trim_start().trim_start_matches(mark).trim());
    let paragraph: Vec<&str> = lines.skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph.find(". ").map_or(paragraph.len(), |end| end + 1);
    paragraph.get(..end).unwrap_or(&paragraph).to_owned()
}

/// Returns whether the item that follows a comment is a field of type `bool` or a function that returns one.
fn is_bool(item: &[&str]) -> bool {
    let lines = item.iter().map(|line| line.trim()).skip_while(|line| line.starts_with("#["));
    let mut signature = String::new();
    for line in lines.take(ITEM_LINES_MAX) {
        signature.push_str(line);
        signature.push(' ');
        let is_function = signature.contains("fn ");
        if line.contains(['{', ';']) || (!is_function && line.ends_with(',')) {
            break;
        }
    }
    let kind = match signature.split_once("fn ") {
        Some((_, function)) => function.rsplit_once("->").map(|(_, kind)| kind),
        None => signature.split_once(':').map(|(_, kind)| kind),
    };
    kind.is_some_and(|kind| kind.split(|c: char| !c.is_alphanumeric()).any(|word| word == "bool"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_of_lines_is_one_comment() {
        let text = "//! A.\n//! B.\n\n/// C\n/// d.\n///\n/// e.\nfn f() {\n    // no\n    //// no\n    let x = 1; /// no\n}\n";
        let found: Vec<_> = comments(text).into_iter().map(|comment| (comment.line, comment.sentence)).collect();
        assert_eq!(found, [(1, "A.".to_owned()), (4, "C d.".to_owned())]);
    }

    #[test]
    fn a_period_inside_a_word_ends_no_sentence() {
        let found = comments("/// Reads `agent.toml` of version 1.2 and checks it. Then stops.\nfn f() {}\n");
        assert_eq!(found[0].sentence, "Reads `agent.toml` of version 1.2 and checks it.");
    }
}
