//! Report of a `doctor` verb: one [`Check`] for each tested part, printed as a table or as JSON.
//!
//! Created by the `doctor` verbs of both daemons; [`finish`] prints the report and returns the first failure as the
//! error of the verb.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{CliError, ExitKind, Output, print_json, print_line};

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The check found no problem.
    Ok,
    /// The daemon works, but the finding needs attention.
    Warning,
    /// The daemon does not work, or not as configured.
    Failed,
}

impl Verdict {
    /// Returns the word printed in the report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// Result of one check of a report.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    check: &'static str,
    result: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
    /// Finding as structured data, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
    #[serde(skip)]
    exit: ExitKind,
}

impl Check {
    /// Creates a check that found no problem.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, result: Verdict::Ok, found: found.into(), advice: None, details: None, exit: ExitKind::Ok }
    }

    /// Creates a check whose finding needs attention; the exit code stays 0.
    pub fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: Verdict::Warning, advice: Some(advice.into()), ..Self::ok(check, found) }
    }

    /// Creates a check that failed; the first failed check of a report determines the exit code.
    pub fn failed(check: &'static str, exit: ExitKind, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: Verdict::Failed, exit, ..Self::warning(check, found, advice) }
    }

    /// Returns the result of the check.
    #[must_use]
    pub const fn result(&self) -> Verdict {
        self.result
    }

    /// Returns whether the check found no problem.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.result == Verdict::Ok
    }

    /// Turns a failure into a warning, because another part provides the function.
    #[must_use]
    pub fn not_fatal(self) -> Self {
        match self.result {
            Verdict::Failed => Self { result: Verdict::Warning, ..self },
            Verdict::Ok | Verdict::Warning => self,
        }
    }

    /// Adds the finding as structured data, for programs.
    #[must_use]
    pub fn with_details(self, details: &impl Serialize) -> Self {
        Self { details: serde_json::to_value(details).ok(), ..self }
    }
}

/// Maximum time of one trial in a child process: opening a library from a slow disk takes seconds.
const TRIAL_WITHIN: Duration = Duration::from_secs(60);

/// Runs this program with other arguments, as another user if one is given; returns its standard output.
///
/// For checks that must run as the user of the daemon, and for checks that may crash the process.
///
/// # Errors
/// Returns the error output of the child process, or a description of its exit status.
pub fn try_in_child(user: Option<(u32, u32)>, arguments: &[&OsStr]) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some((user, group)) = user {
        command.uid(user).gid(group);
    }
    let mut child = command.spawn().map_err(|error| format!("start a trial: {error}"))?;
    let began = Instant::now();
    // Its output is shorter than a pipe's buffer, so it never blocks.
    while child.try_wait().is_ok_and(|ended| ended.is_none()) {
        if began.elapsed() > TRIAL_WITHIN {
            drop(child.kill());
            drop(child.wait());
            return Err(format!("it did not finish within {} s", TRIAL_WITHIN.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().map_err(|error| format!("wait for a trial: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines = said.lines().map(|line| line.trim().trim_start_matches("error: ").trim_start_matches("caused by: "));
    let said = lines.filter(|line| !line.is_empty() && !line.starts_with("try: ")).collect::<Vec<_>>().join(": ");
    match output.status.signal() {
        Some(signal) if said.is_empty() => Err(format!("the process that tried it was ended by signal {signal}")),
        Some(signal) => Err(format!("the process that tried it was ended by signal {signal}: {said}")),
        None => Err(said),
    }
}

/// Describes the fault of a shared library that could not be opened: the machine that it is made for, or the given
/// problem. Names the file.
#[must_use]
pub fn unusable_library(file: Option<&Path>, problem: String) -> String {
    let Some(file) = file else { return problem };
    let name = file.display().to_string();
    match made_for(file) {
        Some(other) => format!("{name} {other}"),
        None if problem.contains(&name) => problem,
        None => format!("{name}: {problem}"),
    }
}

/// Returns a description of the machine that a shared library is made for; `None` if it is made for this machine or
/// cannot be read.
#[must_use]
pub fn made_for(library: &Path) -> Option<String> {
    const HEADER_BYTES: usize = 20;
    let mut header = [0; HEADER_BYTES];
    File::open(library).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    let [0x7f, b'E', b'L', b'F', class, order, .., low, high] = header else {
        return Some("is not a shared library".to_owned());
    };
    let machine = if order == 2 { u16::from_be_bytes([low, high]) } else { u16::from_le_bytes([low, high]) };
    // Numbers of e_machine in the System V ABI.
    let name = match (machine, class) {
        (0x03, _) => "x86 (32 bits)",
        (0x28, _) => "arm (32 bits)",
        (0x3e, _) => "x86_64",
        (0xb7, _) => "aarch64",
        (0xf3, 1) => "riscv32",
        (0xf3, _) => "riscv64",
        (_, _) => "another kind of processor",
    };
    (name != std::env::consts::ARCH)
        .then(|| format!("is made for {name}, and this machine is {}", std::env::consts::ARCH))
}

/// Prints the report: as text with one paragraph for each check that needs attention, or complete as JSON.
///
/// # Errors
/// Fails with the first check that failed, as the error of the verb, or if standard output cannot be written.
pub fn finish(checks: &[Check], output: Output) -> Result<(), CliError> {
    let printed = match output {
        Output::Json => print_json(&checks),
        Output::Table => print_line(&text(checks)),
    };
    printed.map_err(|error| CliError::new(ExitKind::Storage, error))?;
    match checks.iter().find(|check| check.result == Verdict::Failed) {
        None => Ok(()),
        Some(check) => {
            let error = CliError::new(check.exit, format!("{}: {}", check.check, check.found));
            Err(check.advice.iter().fold(error, |error, advice| error.hint(advice)))
        }
    }
}

/// Formats the report: columns for result and check, then the finding, and the advice on a line of its own.
fn text(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.check.len()).max().unwrap_or_default();
    let safe = |text: &str| telemetry::escape_control(text).into_owned();
    let mut lines = Vec::new();
    for check in checks {
        let mut found = check.found.lines();
        let first = found.next().unwrap_or_default();
        lines.push(format!("{:8} {:width$}  {}", check.result.as_str(), check.check, safe(first)));
        let indent = " ".repeat(width + 11);
        lines.extend(found.map(|line| format!("{indent}{}", safe(line))));
        lines.extend(check.advice.iter().map(|advice| format!("{indent}try: {}", safe(advice))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_the_error_of_the_verb_and_warnings_are_not() {
        let checks = [
            Check::ok("config", "agent.toml"),
            Check::warning("updates", "are off", "set updates.enabled"),
            Check::failed("port", ExitKind::Conflict, "127.0.0.1:8000 is held by nginx", "stop it"),
            Check::failed("hub", ExitKind::Unavailable, "no answer", "start it"),
        ];
        assert!(finish(&checks[..2], Output::Table).is_ok());
        let error = finish(&checks, Output::Table).unwrap_err();
        assert_eq!(error.kind, ExitKind::Conflict);
        assert_eq!(error.hint.as_deref(), Some("stop it"));
        assert_eq!(checks[3].clone().not_fatal().result(), Verdict::Warning);
    }

    #[test]
    fn a_library_for_another_machine_is_told_apart_from_ours_and_from_no_library() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lib.so");
        let mut header = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\0\0";
        for (machine, name) in [(0x28_u8, "arm (32 bits)"), (0xf3, "riscv64"), (0x15, "another kind")] {
            header[18] = machine;
            std::fs::write(&file, header).unwrap();
            let told = made_for(&file).unwrap();
            assert!(told.contains(name) && told.contains(std::env::consts::ARCH), "{told}");
        }
        std::fs::write(&file, "not a library at all, whatever it is called").unwrap();
        assert_eq!(made_for(&file).as_deref(), Some("is not a shared library"));
        assert_eq!(made_for(&std::env::current_exe().unwrap()), None);
        assert_eq!(made_for(&folder.path().join("absent")), None);
    }

    #[test]
    fn each_line_of_a_finding_stays_in_its_column_and_cannot_steer_the_terminal() {
        let check = Check::failed("config", ExitKind::Config, "a.toml: x\na.toml: y\u{1b}[2J", "mend it");
        let expected =
            "failed   config  a.toml: x\n                 a.toml: y\\u{1b}[2J\n                 try: mend it";
        assert_eq!(text(&[check]), expected);
    }
}
