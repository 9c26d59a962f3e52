//! Checks source files: their headers and lengths, and that cores do no I/O.

/// Maximum length of a source file in lines. The aim is 500; a longer file should be split.
pub const LINES_MAX: usize = 600;

/// Items that a core must not name, each with the alternative.
///
/// IP addresses are data, so only the parts of `std::net` that open sockets or resolve names are forbidden.
const FORBIDDEN_IN_CORES: [(&str, &str); 17] = [
    ("std::fs", "answer with what is to be written; the shell writes it"),
    ("std::net::TcpStream", "the shell owns sockets"),
    ("std::net::TcpListener", "the shell owns sockets"),
    ("std::net::UdpSocket", "the shell owns sockets"),
    ("std::net::ToSocketAddrs", "the shell resolves names"),
    ("std::thread", "the shell owns threads"),
    ("std::process", "the shell owns processes"),
    ("std::env", "take it as an argument"),
    ("std::io::stdin", "the shell reads"),
    ("Instant::now", "take the time as an argument"),
    ("SystemTime::now", "take the time as an argument"),
    ("rand::rng", "take the randomness as an argument"),
    ("thread_rng", "take the randomness as an argument"),
    ("OsRng", "take the randomness as an argument"),
    ("getrandom", "take the randomness as an argument"),
    ("tokio::", "the shell owns tasks and timers"),
    ("println!", "the shell speaks to people"),
];

/// Returns a sentence if a source file has no header or is too long.
#[must_use]
pub fn shape(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    if !text.starts_with("//!") {
        violations.push(format!("{path} does not begin with `//!`: say what the module is for and who feeds it"));
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        violations.push(format!("{path} has {lines} lines, at most {LINES_MAX}: split it by noun"));
    }
    violations
}

/// Returns a sentence for each forbidden item that a core's source names, outside of its tests.
#[must_use]
pub fn impurities(path: &str, text: &str) -> Vec<String> {
    let code = without_tests(&without_comments_and_texts(text));
    let mut violations = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for (forbidden, instead) in FORBIDDEN_IN_CORES {
            if names(line, forbidden) {
                violations.push(format!("{path}:{}: a core names `{forbidden}`: {instead}", number + 1));
            }
        }
    }
    for imported in imports(&code) {
        let found = FORBIDDEN_IN_CORES.iter().find(|(forbidden, _)| {
            imported
                .strip_prefix(forbidden.trim_end_matches(':'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        if let Some((forbidden, instead)) = found {
            let sentence = format!("{path}: a core imports `{imported}`, so it names `{forbidden}`: {instead}");
            // A path written out in full was found above.
            if !code.contains(&imported) {
                violations.push(sentence);
            }
        }
    }
    violations
}

/// Whether a line names a path, and not one that only begins or ends like it.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let after = line.get(at + path.len()..).and_then(|after| after.chars().next());
        let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_word(before) && (path.ends_with(':') || path.ends_with('!') || !is_word(after))
    })
}

/// Blanks comments, texts and characters, and keeps the lines.
fn without_comments_and_texts(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let rest = chars.get(at..).unwrap_or_default();
        let length = match (c, rest.get(1)) {
            ('/', Some('/')) => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ('/', Some('*')) => block_comment(rest),
            ('"', _) => text_literal(rest, 0),
            ('r', Some('"' | '#')) if !code.ends_with(|c: char| c.is_alphanumeric() || c == '_') => raw_text(rest),
            ('\'', _) => character(rest),
            _ => 0,
        };
        if length == 0 {
            code.push(c);
            at += 1;
        } else {
            code.extend(rest.iter().take(length).map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at += length;
        }
    }
    code
}

fn block_comment(rest: &[char]) -> usize {
    let end = rest.windows(2).skip(2).position(|pair| pair == ['*', '/']);
    end.map_or(rest.len(), |end| end + 4)
}

/// Returns the length of a text literal that begins after `skip` characters.
fn text_literal(rest: &[char], skip: usize) -> usize {
    let mut is_escaped = false;
    for (index, c) in rest.iter().enumerate().skip(skip + 1) {
        match c {
            '"' if !is_escaped => return index + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    rest.len()
}

/// Returns the length of `r"…"` or `r#"…"#`; 0 for a raw name like `r#type`.
fn raw_text(rest: &[char]) -> usize {
    let hashes = rest.iter().skip(1).take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut closing = vec!['"'];
    closing.resize(1 + hashes, '#');
    let body = rest.get(2 + hashes..).unwrap_or_default();
    let end = body.windows(closing.len()).position(|window| window == closing);
    end.map_or(rest.len(), |end| 2 + hashes + end + closing.len())
}

/// Returns the length of a character literal; 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match (rest.get(1), rest.get(2)) {
        (Some('\\'), _) => rest.iter().skip(3).position(|c| *c == '\'').map_or(0, |end| end + 4),
        (Some(_), Some('\'')) => 3,
        _ => 0,
    }
}

/// Blanks each item after `#[cfg(test)]`, and keeps the lines.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some((before, after)) = rest.split_once(MARK) {
        kept.push_str(before);
        let length = item_length(after);
        let (item, behind) = after.split_at(length);
        kept.extend(item.chars().filter(|c| *c == '\n'));
        rest = behind;
    }
    kept.push_str(rest);
    kept
}

/// Returns the length of an item in bytes: to its `;`, or to the brace that closes its first one.
fn item_length(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Returns the full path of everything that `use` imports.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line_start in code.match_indices("use ").map(|(at, _)| at) {
        let before = code.get(..line_start).and_then(|before| before.chars().next_back());
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let statement = code.get(line_start + 4..).unwrap_or_default().split(';').next().unwrap_or_default();
        let statement: String = statement.split(" as ").map(|part| part.trim_start_matches('_')).collect();
        expand("", &statement.split_whitespace().collect::<String>(), &mut found);
    }
    found
}

/// Expands `a::{b, c::{d}}` to `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, group)) = tree.split_once('{') else {
        found.push(format!("{prefix}{tree}"));
        return;
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let mut depth = 0_i32;
    let branches = group.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for branch in branches.filter(|branch| !branch.is_empty()) {
        expand(&format!("{prefix}{head}"), branch, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_header_and_a_god_file_are_found() {
        assert!(shape("a.rs", "//! Reads.\n").is_empty());
        assert!(shape("a.rs", "use std::fmt;\n//! Reads.\n")[0].contains("does not begin with"));
        let long = format!("//! Long.\n{}", "\n".repeat(LINES_MAX));
        assert!(shape("a.rs", &long)[0].contains("split it by noun"));
    }

    #[test]
    fn a_core_that_looks_at_the_clock_is_found_with_its_line() {
        let found = impurities("core.rs", "//! A core.\nfn now() -> Instant {\n    Instant::now()\n}\n");
        assert_eq!(found, ["core.rs:3: a core names `Instant::now`: take the time as an argument"]);
    }

    #[test]
    fn every_way_out_of_a_core_is_found() {
        let planted = [
            "use std::fs::File;",
            "use std::{collections::BTreeMap, fs::{self, File}};",
            "use std::net::{IpAddr, UdpSocket};",
            "fn f() { std::thread::sleep(d); }",
            "let t = std::time::SystemTime::now();",
            "let r = rand::rng();",
            "tokio::time::sleep(d).await;",
            "use std::env as surroundings;",
            "fn f() { println!(\"x\"); }",
        ];
        for planted in planted {
            assert!(!impurities("core.rs", planted).is_empty(), "{planted}");
        }
    }

    #[test]
    fn comments_texts_tests_and_innocent_names_are_left_alone() {
        let innocent = r##"
            // std::fs is for the shell. /* Instant::now */
            use std::net::{IpAddr, SocketAddr};
            use std::time::Instant;
            const ADVICE: &str = "call Instant::now \" in std::fs";
            const RAW: &str = r#"std::thread "quoted" rand::rng"#;
            fn quote(c: char) -> bool { c == '"' || c == '\'' }
            fn instantly(environment: std_env::Env, at: &'static str) {}
            #[cfg(test)]
            use std::fs;
            #[cfg(test)]
            mod tests {
                fn base() -> Instant { if true { Instant::now() } else { Instant::now() } }
            }
            fn after() {}
        "##;
        assert_eq!(impurities("core.rs", innocent), Vec::<String>::new());
        let after = format!("{innocent}\nfn clock() {{ Instant::now(); }}\n");
        assert_eq!(impurities("core.rs", &after).len(), 1, "what follows the tests is read again");
    }
}
