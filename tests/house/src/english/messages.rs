//! Reads the texts of a source file that users see: error messages, and the help of the command line.

use super::comments;

/// House metaphors and riddles that help and error texts must not use, each with the standard term.
///
/// From `house-style.md`, "Plain English", points 3 and 4.
pub const BANNED: [(&str, &str); 35] = [
    ("door", "server or endpoint"),
    ("doors", "servers or endpoints"),
    ("seat", "connection guard"),
    ("seats", "connection guards"),
    ("island", "partition or host node"),
    ("islands", "partitions or host nodes"),
    ("tell", "report or notify"),
    ("tells", "reports or notifies"),
    ("told", "reported, notified or requested"),
    ("fact", "value info"),
    ("facts", "value info"),
    ("lie", "is stored or is located"),
    ("lies", "is stored or is located"),
    ("lay", "was stored or was located"),
    ("stand", "is listed, is or means"),
    ("stands", "is listed, is or means"),
    ("stood", "was"),
    ("hands out", "returns or creates"),
    ("handed out", "returned or created"),
    ("no-answer", "error"),
    ("unanswered", "without a response"),
    ("answered", "responded or returned"),
    ("question", "request"),
    ("questions", "requests"),
    ("so many", "the number of"),
    ("so much", "the amount of"),
    ("says nothing", "is empty or malformed"),
    ("whoever", "the caller or the user"),
    ("nobody", "no user or no process"),
    ("somebody", "a user or a process"),
    ("meanwhile", "while …"),
    ("beforehand", "before …"),
    ("of ours", "of Sanderling"),
    ("by itself", "automatically"),
    ("anew", "again"),
];

/// Starts of the calls and attributes whose text literals are error messages or help.
const STARTS: [&str; 9] = [
    "#[error(",
    "bail!(",
    "anyhow!(",
    "ensure!(",
    ".context(",
    ".with_context(",
    "Err(format!(",
    "Err(\"",
    "help = \"",
];

/// Derives whose items' doc comments are printed by `--help`.
const CLAP: [&str; 4] = ["Parser", "Args", "Subcommand", "ValueEnum"];

/// A text that users see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Number of the line where the call, attribute or comment begins, from 1.
    pub line: usize,
    /// Text as written in the source, with its placeholders.
    pub text: String,
}

/// Returns the banned words of a text, each once, with the standard term.
///
/// A dot inside a word makes it a name, like the config key `door.http`, which a text must give as the file has it.
#[must_use]
pub fn banned(text: &str) -> Vec<(&'static str, &'static str)> {
    let words = |text: &str| -> Vec<String> {
        let is_end = |c: char| !c.is_alphanumeric() && !matches!(c, '-' | '_' | '.');
        let words = text.split(is_end).map(|word| word.trim_matches('.'));
        words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
    };
    let given = words(text);
    let is_in = |wanted: &str| given.windows(words(wanted).len()).any(|part| *part == *words(wanted));
    BANNED.into_iter().filter(|(word, _)| is_in(word)).collect()
}

/// Returns the error messages of a source file, and the doc comments that clap prints.
#[must_use]
pub fn messages(text: &str) -> Vec<Message> {
    let mut found = errors(text);
    found.extend(help(text));
    found
}

fn errors(text: &str) -> Vec<Message> {
    let mut found = Vec::new();
    for start in STARTS {
        for (at, _) in text.match_indices(start) {
            let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
            let rest = text.get(at + start.len()..).unwrap_or_default();
            let text = if start.ends_with('(') { literals(rest) } else { Some(literal(&mut rest.chars())) };
            found.extend(text.map(|text| Message { line, text }));
        }
    }
    found
}

/// Returns the text literals up to the parenthesis that closes the call, joined; `None` where there are none.
fn literals(rest: &str) -> Option<String> {
    let mut found = String::new();
    let mut depth = 0_usize;
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                found.push_str(&literal(&mut chars));
                found.push('\n');
            }
            '(' => depth += 1,
            ')' if depth == 0 => break,
            ')' => depth -= 1,
            _ => {}
        }
    }
    let found = found.trim_end().replace('\n', " / ");
    (!found.is_empty()).then_some(found)
}

/// Reads a text literal to its closing quote. Ignores a line break after a backslash and the spaces after it, and replaces
/// an escaped line break or tab by a space.
fn literal(chars: &mut impl Iterator<Item = char>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => {
                text.extend(chars.next().filter(|c| *c != '\n').map(|c| if matches!(c, 'n' | 't') { ' ' } else { c }))
            }
            _ => text.push(c),
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the first paragraphs of the doc comments inside items that derive one of [`CLAP`].
fn help(text: &str) -> Vec<Message> {
    let bodies = clap_bodies(text);
    let comments = comments(text).into_iter();
    let inside = comments.filter(|comment| bodies.iter().any(|(from, to)| (*from..=*to).contains(&comment.line)));
    inside.map(|comment| Message { line: comment.line, text: comment.sentence }).collect()
}

/// Returns the first and last lines of the items that derive one of [`CLAP`], with the comment before the derive left out.
fn clap_bodies(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut bodies = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let derives = line.trim_start().strip_prefix("#[derive(").unwrap_or_default();
        let mut words = derives.split(|c: char| !c.is_alphanumeric());
        if words.any(|word| CLAP.contains(&word)) {
            let indent = line.len() - line.trim_start().len();
            // rustfmt puts the closing brace under the derive.
            let is_end = |line: &&str| line.starts_with('}') || line.ends_with(';');
            let rest = lines.get(index..).unwrap_or_default().iter();
            let length = rest.map(|line| line.get(indent..).unwrap_or_default()).position(|line| is_end(&line));
            bodies.push((index + 1, index + 1 + length.unwrap_or(0)));
        }
    }
    bodies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_words_are_found_whole_and_in_any_case() {
        assert_eq!(
            banned("The Door is closed, and nobody was told"),
            [
                ("door", "server or endpoint"),
                ("told", "reported, notified or requested"),
                ("nobody", "no user or no process")
            ]
        );
        assert_eq!(banned("so  many"), [("so many", "the number of")]);
        assert_eq!(banned("indoor, standard, so-many, lies_here, untold"), []);
    }

    #[test]
    fn names_with_dots_are_no_words() {
        assert_eq!(banned("set door.http, or [door].http, to a free address"), [("door", "server or endpoint")]);
        assert_eq!(banned("set door.http and metrics.listen. See models.door."), []);
        assert_eq!(banned("Close the door. Or ...door..."), [("door", "server or endpoint")]);
    }

    #[test]
    fn errors_of_every_kind_are_read() {
        let text = r##"
#[error("a {0}")]
#[error("b {} of \
         {}", x.f("c"), 2)]
fn f() { bail!("d \"e\""); anyhow!(error); ensure!(x, "g"); x.with_context(|| format!("h {i}")).context(j)?; let y = "no"; return Err("m n"); }
#[arg(long, help = "k l", value_name = "NO")]
"##;
        let found: Vec<_> = messages(text).into_iter().map(|message| (message.line, message.text)).collect();
        for expected in
            [(2, "a {0}"), (3, "b {} of {} / c"), (5, "d \"e\""), (5, "g"), (5, "h {i}"), (5, "m n"), (6, "k l")]
        {
            assert!(found.contains(&(expected.0, expected.1.to_owned())), "{expected:?}: {found:?}");
        }
        assert_eq!(found.len(), 7, "{found:?}");
    }

    #[test]
    fn escaped_line_breaks_part_words() {
        let text = r#"#[error("Close the door.\n\tThen\tgo \"on\"")]"#;
        let found: Vec<_> = messages(text).into_iter().map(|message| message.text).collect();
        assert_eq!(found, ["Close the door. Then go \"on\""]);
        assert_eq!(banned(&found[0]), [("door", "server or endpoint")]);
    }

    #[test]
    fn the_doc_comments_that_clap_prints_are_help() {
        let text = "\
/// No help.
struct Other {
    /// No help either.
    x: u8,
}
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}
/// No help again.
fn f() {}
";
        let found: Vec<_> = messages(text).into_iter().map(|message| message.text).collect();
        assert_eq!(found, ["Prints JSON."]);
    }
}
