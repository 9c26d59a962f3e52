//! Parses clap's `--help` of a command: its verbs and its flags.

/// Returns the verbs under `Commands:`.
#[must_use]
pub fn verbs(help: &str) -> Vec<String> {
    let section = help.lines().skip_while(|line| line.trim_end() != "Commands:").skip(1);
    // A section ends at a line without indentation; descriptions are indented more than verbs.
    let lines = section.take_while(|line| line.is_empty() || line.starts_with(' '));
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Whether a flag like `--json` or `-v` is among the options.
#[must_use]
pub fn has_flag(help: &str, flag: &str) -> bool {
    let options = help.lines().filter(|line| line.trim_start().starts_with('-'));
    let words = options.flat_map(|line| line.split([' ', ',', '=', '[', ']']));
    words.into_iter().any(|word| word.trim_end_matches("...") == flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Does things.

Usage: hub [OPTIONS] <COMMAND>

Commands:
  token   Makes tokens
          and shows them
  device  Shows devices

Options:
  -v, --verbose...     More
      --json           As JSON
      --config <FILE>  The file

Examples:
  hub token create --fake
";

    #[test]
    fn verbs_and_flags_are_told_from_descriptions_and_examples() {
        assert_eq!(verbs(HELP), ["token", "device"]);
        for known in ["-v", "--verbose", "--json", "--config"] {
            assert!(has_flag(HELP, known), "{known}");
        }
        assert!(!has_flag(HELP, "--fake") && !has_flag(HELP, "--js"));
    }
}
