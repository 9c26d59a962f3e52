//! Shares and lines of text, as the verbs for models print and read them.

/// Returns a share in per cent; two decimals below 10 %.
pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let digits = if percent.abs() >= 10.0 { 1 } else { 2 };
    format!("{percent:.digits$} %")
}

/// Joins lines; names in them come from files and must not control the terminal.
pub(super) fn escaped(lines: &[String]) -> String {
    let lines = lines.iter().flat_map(|line| line.lines().chain(line.is_empty().then_some("")));
    lines.map(|line| telemetry::escape_control(line).into_owned()).collect::<Vec<_>>().join("\n")
}

/// Reads a share, `2%` or `0.02`, of which neither nothing nor everything makes sense.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = number(text)?;
    if share > 0.0 && share < 1.0 { Ok(share) } else { Err("must be above 0 and below 1, like 2% or 0.02".to_owned()) }
}

/// Reads a share, `2%` or `0.02`, of which nothing and everything make sense too.
pub(super) fn whole_share(text: &str) -> Result<f64, String> {
    let share = number(text)?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be from 0 to 1, like 2% or 0.02".to_owned()) }
}

fn number(text: &str) -> Result<f64, String> {
    let number = match text.trim().strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.trim().parse(),
    };
    number.map_err(|_not| "is no share: write 2% or 0.02".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_in_both_forms() {
        assert_eq!(share("2%"), Ok(0.02));
        assert_eq!(share("0.02"), Ok(0.02));
        for wrong in ["0", "1", "100%", "-1%", "nan", "two", ""] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
        assert_eq!((whole_share("0"), whole_share("100%"), whole_share("1 %")), (Ok(0.0), Ok(1.0), Ok(0.01)));
        for wrong in ["1.1", "101%", "-1%", "nan", "two", ""] {
            assert!(whole_share(wrong).is_err(), "{wrong}");
        }
    }
}
