//! Lists the faults of the English of this workspace: `cargo run -p house --bin english [PATH]`.
//!
//! Each line names the file, the line, the rule and the text. A table of the counts per crate follows. PATH is a file or
//! a folder, relative to the root of the checkout.

#![expect(clippy::print_stdout, reason = "a command prints its result")]

use std::process::ExitCode;

use house::english::{self, Counts};
use house::tree;

fn main() -> ExitCode {
    let prefix = std::env::args().nth(1).unwrap_or_default();
    match list(prefix.trim_start_matches("./").trim_end_matches('/')) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn list(prefix: &str) -> Result<(), String> {
    let mut sources = tree::texts(".rs")?;
    sources.retain(|(path, _)| {
        path.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    });
    if sources.is_empty() {
        return Err(format!("{prefix}: no source file of this checkout has this path"));
    }
    for (path, text) in &sources {
        for offender in english::offenders(path, text).1 {
            println!("{offender}");
        }
    }
    println!("{:30} {:>5} {:>13} {:>13} {:>6}", "crate", "docs", "question word", "short", "banned");
    let mut sum = Counts::default();
    for (name, counts) in english::by_crate(&sources, &tree::crates()?) {
        println!("{name:30} {counts}");
        sum.merge(counts);
    }
    println!("{:30} {sum}", "sum");
    Ok(())
}
