//! Measures the English of this workspace: the first sentences of doc comments, and the words of help and error texts.
//!
//! Fed with the sources by `tests/english.rs`, which compares the numbers with [`LIMITS`], and by the command
//! `cargo run -p house --bin english [PATH]`, which lists the offenders.

use std::collections::BTreeMap;
use std::fmt;

mod comments;
mod messages;

pub use comments::{Comment, comments};
pub use messages::{BANNED, Message, banned, messages};

/// Maximum share of doc comments that open with a question word, and of those that are short, in percent.
///
/// The codebases that we measured ourselves against have 0 to 6 % and 4 to 8 %.
pub const SHARE_MAX: f64 = 6.0;

/// Number of offenders of one kind that a crate may have whatever their share, so that one comment does not fail a small crate.
pub const OFFENDERS_FREE: usize = 2;

/// Maximum number of words of a short first sentence.
pub const SHORT_WORDS_MAX: usize = 3;

/// First words that make a doc comment a riddle: the reader learns what is asked, not what the item is.
const QUESTION_WORDS: [&str; 7] = ["what", "how", "who", "where", "why", "when", "whether"];

/// One fault of the English of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offender {
    /// Path of the file, relative to the root of the checkout.
    pub path: String,
    /// Number of the line, from 1.
    pub line: usize,
    /// Rule that the text breaks.
    pub fault: Fault,
    /// Text that breaks the rule: the first sentence of a comment, or a whole message.
    pub text: String,
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, fault, text } = self;
        write!(f, "{path}:{line}: {fault}: {text}")
    }
}

/// Kinds of faults that are counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A doc comment opens with a question word.
    Question,
    /// The first sentence of a doc comment has at most [`SHORT_WORDS_MAX`] words.
    Short,
    /// A help or error text uses a word of [`BANNED`].
    Banned {
        /// The word or words found.
        word: &'static str,
        /// Standard term to use instead.
        instead: &'static str,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Question => f.write_str("opens with a question word"),
            Self::Short => write!(f, "at most {SHORT_WORDS_MAX} words"),
            Self::Banned { word, instead } => write!(f, "`{word}` (write {instead})"),
        }
    }
}

/// Counts of one crate, or of all crates together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of doc comments.
    pub comments: usize,
    /// Number of doc comments that open with a question word.
    pub questions: usize,
    /// Number of doc comments with a short first sentence.
    pub shorts: usize,
    /// Number of banned words in help and error texts.
    pub banned: usize,
}

impl Counts {
    /// Adds the doc comments and the faults of a file.
    pub fn add(&mut self, comments: usize, offenders: &[Offender]) {
        self.comments += comments;
        for offender in offenders {
            match offender.fault {
                Fault::Question => self.questions += 1,
                Fault::Short => self.shorts += 1,
                Fault::Banned { .. } => self.banned += 1,
            }
        }
    }

    /// Adds the counts of another crate.
    pub fn merge(&mut self, other: Self) {
        self.comments += other.comments;
        self.questions += other.questions;
        self.shorts += other.shorts;
        self.banned += other.banned;
    }

    /// Returns a sentence for each limit that the counts exceed.
    #[must_use]
    pub fn excess(&self, limits: Limits) -> Vec<String> {
        let mut excess = Vec::new();
        for (count, limit, fault) in
            [(self.questions, limits.questions, Fault::Question), (self.shorts, limits.shorts, Fault::Short)]
        {
            let share = share(count, self.comments);
            if share > limit && count > OFFENDERS_FREE {
                excess.push(format!(
                    "{count} of {} doc comments ({share:.1} %) {fault}, maximum {limit} %",
                    self.comments
                ));
            }
        }
        if self.banned > limits.banned {
            excess.push(format!("{} banned words in help and error texts, maximum {}", self.banned, limits.banned));
        }
        excess
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { comments, questions, shorts, banned } = *self;
        let (of_questions, of_shorts) = (share(questions, comments), share(shorts, comments));
        write!(f, "{comments:5} {questions:5} {of_questions:5.1} % {shorts:5} {of_shorts:5.1} % {banned:5}")
    }
}

/// Maximum of each count for one crate.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum share of doc comments that open with a question word, in percent.
    pub questions: f64,
    /// Maximum share of doc comments with a short first sentence, in percent.
    pub shorts: f64,
    /// Maximum number of banned words in help and error texts.
    pub banned: usize,
}

/// Limits that every crate must meet.
pub const LIMITS: Limits = Limits { questions: SHARE_MAX, shorts: SHARE_MAX, banned: 0 };

/// Returns the number of doc comments of a source file, and its faults in the order of their lines.
#[must_use]
pub fn offenders(path: &str, text: &str) -> (usize, Vec<Offender>) {
    let all = comments(text);
    let mut found = Vec::new();
    let mut add = |line: usize, fault: Fault, text: &str| {
        found.push(Offender { path: path.to_owned(), line, fault, text: text.to_owned() });
    };
    for comment in &all {
        if comment.asks(&QUESTION_WORDS) {
            add(comment.line, Fault::Question, &comment.sentence);
        }
        if comment.words() <= SHORT_WORDS_MAX {
            add(comment.line, Fault::Short, &comment.sentence);
        }
    }
    // Texts of tests are for developers.
    for message in messages(text).into_iter().filter(|_| !path.starts_with("tests/")) {
        for (word, instead) in banned(&message.text) {
            add(message.line, Fault::Banned { word, instead }, &message.text);
        }
    }
    found.sort();
    (all.len(), found)
}

/// Counts the faults of each crate, named by its folder, over source files given by path and text.
#[must_use]
pub fn by_crate(sources: &[(String, String)], folders: &[String]) -> BTreeMap<String, Counts> {
    let mut crates: BTreeMap<String, Counts> = BTreeMap::new();
    for (path, text) in sources {
        let (comments, found) = offenders(path, text);
        crates.entry(crate_of(path, folders)).or_default().add(comments, &found);
    }
    crates
}

/// Returns the innermost folder with a manifest that a file is in, or `.` for the root.
fn crate_of(path: &str, folders: &[String]) -> String {
    let around =
        folders.iter().filter(|folder| path.strip_prefix(&***folder).is_some_and(|rest| rest.starts_with('/')));
    around.max_by_key(|folder| folder.len()).map_or_else(|| ".".to_owned(), Clone::clone)
}

#[expect(clippy::cast_precision_loss, reason = "counts of comments stay far below 2^52")]
fn share(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { 100.0 * count as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<(usize, Fault)> {
        offenders("a.rs", text).1.into_iter().map(|offender| (offender.line, offender.fault)).collect()
    }

    #[test]
    fn riddles_and_labels_are_found_with_their_lines() {
        assert_eq!(faults("//! Reads the files of a bundle.\n"), []);
        assert_eq!(
            faults("//! What a bundle is made of.\n\n/// Its name.\nname: String,\n"),
            [(1, Fault::Question), (3, Fault::Short)]
        );
        assert_eq!(faults("/// Why.\nreason: String,\n"), [(1, Fault::Question), (1, Fault::Short)]);
        // The first sentence counts, wherever its lines break.
        assert_eq!(faults("/// Reads\n/// the whole file.\nfn read() {}\n"), []);
        assert_eq!(
            faults("/// Its name. Chosen by the operator when the device joins.\nname: String,\n"),
            [(1, Fault::Short)]
        );
    }

    #[test]
    fn only_a_bool_may_say_whether() {
        for is_question in [
            "/// Whether the hub is reachable.\nhub: State,\n",
            "/// Whether the hub is reachable.\nfn hub(&self) -> State {\n",
        ] {
            assert_eq!(faults(is_question), [(1, Fault::Question)], "{is_question}");
        }
        for is_fine in [
            "/// Whether the hub is reachable.\n#[serde(default)]\npub is_reachable: bool,\n",
            "/// Whether the hub is reachable.\npub fn is_reachable(\n    &self,\n    now: Instant,\n) -> bool {\n",
        ] {
            assert_eq!(faults(is_fine), [], "{is_fine}");
        }
        assert_eq!(faults("/// When the hub was seen last.\npub is_reachable: bool,\n"), [(1, Fault::Question)]);
    }

    #[test]
    fn a_crate_is_judged_by_its_share_and_a_small_one_by_its_count() {
        let of = |comments, questions, banned| Counts { comments, questions, shorts: 0, banned };
        assert!(of(10, 2, 0).excess(LIMITS).is_empty());
        assert!(of(100, 6, 0).excess(LIMITS).is_empty());
        assert_eq!(
            of(100, 7, 1).excess(LIMITS),
            [
                "7 of 100 doc comments (7.0 %) opens with a question word, maximum 6 %",
                "1 banned words in help and error texts, maximum 0"
            ]
        );
    }

    #[test]
    fn a_file_counts_for_the_innermost_crate() {
        let folders = ["tests".to_owned(), "tests/bench".to_owned()];
        assert_eq!(crate_of("tests/bench/src/lib.rs", &folders), "tests/bench");
        assert_eq!(crate_of("tests/benches.rs", &folders), "tests");
        assert_eq!(crate_of("build.rs", &folders), ".");
    }
}
