//! Evaluates licence expressions against the licences that `deny.toml` allows.

/// Whether an SPDX expression (or the older `MIT/Apache-2.0`) allows use under the given licences alone.
///
/// `OR` needs one side, `AND` both; `AND` binds tighter. A licence `WITH` an exception is one of its own.
#[must_use]
pub fn is_satisfied(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_whitespace().peekable();
    let holds = any(&mut words, allowed);
    holds && words.next().is_none()
}

type Words<'w> = std::iter::Peekable<std::str::SplitWhitespace<'w>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut holds = all(words, allowed);
    while words.next_if(|word| word.eq_ignore_ascii_case("or")).is_some() {
        // Both sides are parsed, whichever is satisfied.
        holds |= all(words, allowed);
    }
    holds
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut holds = one(words, allowed);
    while words.next_if(|word| word.eq_ignore_ascii_case("and")).is_some() {
        holds &= one(words, allowed);
    }
    holds
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let Some(word) = words.next() else { return false };
    if word == "(" {
        let holds = any(words, allowed);
        return words.next() == Some(")") && holds;
    }
    let mut licence = word.to_owned();
    if words.next_if(|word| word.eq_ignore_ascii_case("with")).is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_that_is_not_allowed_is_found_behind_and_and_or() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        for fine in
            ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "ISC AND (GPL-3.0 OR MIT)", "Apache-2.0 WITH LLVM-exception"]
        {
            assert!(is_satisfied(fine, &allowed), "{fine}");
        }
        for wrong in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT OR ISC) AND Zlib", "MIT ISC", "", "(MIT"] {
            assert!(!is_satisfied(wrong, &allowed), "{wrong}");
        }
    }
}
