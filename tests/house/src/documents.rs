//! Parses Markdown documents: the commands in their code blocks and the links in their text.

/// A command of this project that a document shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// One of `edge-agent`, `cloud-hub` and `cargo xtask`.
    pub program: &'static str,
    /// Arguments on the line, without quotes.
    pub arguments: Vec<String>,
    /// Line in the document, from 1.
    pub line: usize,
}

/// Programs whose commands are checked, with the words that start them in a shell.
const PROGRAMS: [(&str, &[&str]); 3] =
    [("edge-agent", &["edge-agent"]), ("cloud-hub", &["cloud-hub"]), ("cargo xtask", &["cargo", "xtask"])];

/// Returns the `--help` of a program's verb.
pub type Help<'h> = &'h mut dyn FnMut(&str, &[String]) -> Result<String, String>;

/// Words that end a command in a shell.
const ENDS: [&str; 9] = ["|", "||", "&&", "&", ";", ">", "2>", "<", "#"];

/// Returns the commands of this project in the shell and text blocks of a Markdown document.
#[must_use]
pub fn commands(markdown: &str) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut continued = String::new();
    for (number, line, language) in code_lines(markdown) {
        if !matches!(language, "sh" | "bash" | "text" | "console") {
            continue;
        }
        if let Some(begun) = line.strip_suffix('\\') {
            continued.push_str(begun);
            continue;
        }
        let whole = std::mem::take(&mut continued) + line;
        shown.extend(in_line(&whole).into_iter().map(|(program, arguments)| Shown {
            program,
            arguments,
            line: number,
        }));
    }
    shown
}

/// Returns the lines in code blocks with their number and the language of the block.
fn code_lines(markdown: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut language: Option<&str> = None;
    markdown.lines().enumerate().filter_map(move |(number, line)| {
        if let Some(opening) = line.trim_start().strip_prefix("```") {
            // Only the first word is the language; `sh walk` is a shell block that another test runs.
            language = match language {
                Some(_) => None,
                None => Some(opening.split_whitespace().next().unwrap_or_default()),
            };
            return None;
        }
        language.map(|language| (number + 1, line, language))
    })
}

fn in_line(line: &str) -> Vec<(&'static str, Vec<String>)> {
    // `$(command)` is a separate command.
    let line = line.replace("$(", " ; ").replace([')', '`'], " ; ");
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut found = Vec::new();
    for (at, _) in words.iter().enumerate() {
        let rest = words.get(at..).unwrap_or_default();
        let program = PROGRAMS.iter().find(|(_, begin)| rest.starts_with(begin));
        let Some((program, begin)) = program.filter(|_| begins_a_command(words.get(..at).unwrap_or_default())) else {
            continue;
        };
        let arguments = rest.iter().skip(begin.len()).take_while(|word| !ENDS.contains(word) && !word.starts_with('>'));
        found.push((*program, arguments.map(|word| word.trim_matches(['"', '\'', ';']).to_owned()).collect()));
    }
    found
}

/// Whether a command may follow these words: at the start, after a separator, a prompt, a variable or `sudo`.
fn begins_a_command(before: &[&str]) -> bool {
    let sudo = before.iter().rposition(|word| *word == "sudo");
    let is_sudo = sudo.is_some_and(|at| before.len() - at <= 3);
    match before.last() {
        None => true,
        Some(last) => is_sudo || ENDS.contains(last) || *last == "$" || last.contains('=') || last.ends_with(';'),
    }
}

/// Returns a sentence for each command that a program's help does not know; `help` returns the help of a verb.
///
/// # Errors
/// Fails when the help is not available.
pub fn unknown(commands: &[Shown], path: &str, help: Help<'_>) -> Result<Vec<String>, String> {
    let mut violations = Vec::new();
    for Shown { program, arguments, line } in commands {
        let mut verbs: Vec<String> = Vec::new();
        let mut text = help(program, &verbs)?;
        for argument in arguments {
            let known = crate::help::verbs(&text);
            if argument.len() > 1 && argument.starts_with('-') {
                let flag = argument.split('=').next().unwrap_or_default();
                if !crate::help::has_flag(&text, flag) {
                    let command = [&[(*program).to_owned()], verbs.as_slice()].concat().join(" ");
                    violations.push(format!("{path}:{line}: `{command}` has no `{flag}`"));
                }
            } else if known.contains(argument) {
                verbs.push(argument.clone());
                text = help(program, &verbs)?;
            } else if !known.is_empty() && !argument.is_empty() {
                let command = [&[(*program).to_owned()], verbs.as_slice()].concat().join(" ");
                violations.push(format!("{path}:{line}: `{command}` has no verb `{argument}`"));
                break;
            }
        }
    }
    Ok(violations)
}

/// Returns the targets of links within the project, without anchors: `[text](target)`.
#[must_use]
pub fn links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in markdown.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if in_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// Returns the paths of files and folders that a document names in backticks, like `shared/types`.
///
/// A name counts as a path if it contains a slash and only characters of paths. Code blocks are left out, and so are addresses and
/// names with placeholders.
#[must_use]
pub fn paths(markdown: &str) -> Vec<String> {
    let blocks = markdown.split("```").step_by(2);
    let quoted = blocks.flat_map(|text| text.split('`').skip(1).step_by(2));
    let is_path = |name: &&str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        name.contains('/') && !name.starts_with('/') && name.chars().all(is_part)
    };
    quoted.filter(is_path).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "\
Run `cloud-hub nonsense` in prose, see [the guide](docs/guide.md#top) or [elsewhere](https://example.org).

```sh walk
TOKEN=$(cloud-hub token create --name kitchen --json | grep -o 'sandjoin1_.*')
edge-agent enroll \"$TOKEN\" --config agent.toml   # the once
sudo -u sanderling edge-agent run &
cargo xtask demo --keep
echo edge-agent
```

```toml
edge-agent = 1
```
";

    /// Returns the help of a program with `token create` and `run`.
    fn help(_: &str, verbs: &[String]) -> Result<String, String> {
        let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
        Ok(match verbs[..] {
            [] => "Commands:\n  token  Tokens\n  run    Runs\n\nOptions:\n  -h, --help  Print help\n".to_owned(),
            ["token"] => "Commands:\n  create  Makes one\n".to_owned(),
            _ => "Options:\n      --name <NAME>  The name\n      --json\n".to_owned(),
        })
    }

    #[test]
    fn the_commands_of_shell_blocks_are_found_and_nothing_else() {
        let found = commands(DOCUMENT);
        let lines: Vec<String> =
            found.iter().map(|shown| format!("{} {}", shown.program, shown.arguments.join(" "))).collect();
        let expected = [
            "cloud-hub token create --name kitchen --json",
            "edge-agent enroll $TOKEN --config agent.toml",
            "edge-agent run",
            "cargo xtask demo --keep",
        ];
        assert_eq!(lines, expected);
        assert_eq!(found[0].line, 4);
    }

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        let check = |line: &str| unknown(&commands(&format!("```sh\n{line}\n```\n")), "README.md", &mut help).unwrap();
        assert_eq!(check("cloud-hub token create --name a --json"), Vec::<String>::new());
        assert_eq!(check("cloud-hub token make"), ["README.md:2: `cloud-hub token` has no verb `make`"]);
        assert_eq!(
            check("cloud-hub token create --colour"),
            ["README.md:2: `cloud-hub token create` has no `--colour`"]
        );
        assert_eq!(check("cloud-hub walk"), ["README.md:2: `cloud-hub` has no verb `walk`"]);
    }

    #[test]
    fn links_within_the_project_are_found() {
        assert_eq!(links(DOCUMENT), ["docs/guide.md"]);
    }

    #[test]
    fn paths_in_backticks_are_found_and_nothing_else() {
        let text = "`a/b.rs` and `c/d-e/f_g.toml`, `a::b`, `POST /x/{id}`, `a/<n>`, `/etc/x`, `a b/c`\n```sh\ncp `h/i` j/k\n```\n`l/m`";
        assert_eq!(paths(text), ["a/b.rs", "c/d-e/f_g.toml", "l/m"]);
    }
}
