//! Judging by a command of the operator: `--measure 'python3 score.py'`.
//!
//! Each form's answers are written to a `.npz` file ([`compress::answers`]); the command gets its path as the last
//! argument and prints a number, and whether higher or lower is better. docs/compress.md describes both.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use compress::answers::AnswersFile;
use compress::quality::{Custom, Score};
use compress::{CompressError, Label};
use console::{CliError, ExitKind, OrExit};
use rustix::process::{Pid, Signal, kill_process_group};
use types::NamedTensor;

/// Longest run of the command for one form.
const RUN_MAX: Duration = Duration::from_secs(600);

/// Interval between two looks whether the command has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Most bytes of what the command prints that are read, from the end.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;

/// Most characters of the command's errors that are repeated.
const TOLD_MAX: usize = 400;

/// The environment variable with the path of the examples.
const EXAMPLES_VARIABLE: &str = "SANDERLING_EXAMPLES";

/// The environment variable with the path of the answers of the model that was given.
const REFERENCE_VARIABLE: &str = "SANDERLING_REFERENCE";

/// A command that judges, and the folder in which it finds answers.
#[derive(Debug)]
pub(super) struct CommandJudge {
    command: String,
    examples: PathBuf,
    folder: Scratch,
    filling: Option<AnswersFile>,
    /// Whether the reference was judged: its answers stay.
    has_reference: bool,
    /// Longest run of the command for one form.
    run_max: Duration,
}

impl CommandJudge {
    /// Prepares a folder for the answers.
    pub(super) fn new(command: &str, examples: &Path) -> Result<Self, CliError> {
        let folder =
            Scratch::new().or_exit_try(ExitKind::Storage, "set TMPDIR to a folder with room for the answers")?;
        let examples = fs::canonicalize(examples).or_exit(ExitKind::NotFound)?;
        Ok(Self {
            command: command.to_owned(),
            examples,
            folder,
            filling: None,
            has_reference: false,
            run_max: RUN_MAX,
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.0.join(if self.has_reference { "answers.npz" } else { "reference.npz" })
    }

    fn run(&self, answers: &Path) -> Result<Score, String> {
        let (printed, complained) = (self.folder.0.join("stdout"), self.folder.0.join("stderr"));
        let file = |path: &Path| File::create(path).map_err(|error| format!("create {}: {error}", path.display()));
        let child = Command::new("sh")
            .args(["-c", &format!("{} \"$1\"", self.command), "sh"])
            .arg(answers)
            .env(EXAMPLES_VARIABLE, &self.examples)
            .env(REFERENCE_VARIABLE, self.folder.0.join("reference.npz"))
            .stdin(Stdio::null())
            .stdout(file(&printed)?)
            .stderr(file(&complained)?)
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| format!("start sh: {error}"))?;
        let ended = wait(Group(child), self.run_max)?;
        if !ended.success() {
            let error = tail(&complained).unwrap_or_default();
            let error: String =
                error.trim().chars().rev().take(TOLD_MAX).collect::<Vec<_>>().into_iter().rev().collect();
            return Err(format!("{ended}; its standard error ends with: {error}"));
        }
        let printed = tail(&printed).map_err(|error| format!("read what it printed: {error}"))?;
        score(&printed)
    }
}

impl Custom for CommandJudge {
    fn take(&mut self, row: usize, label: Option<&Label>, answers: &[NamedTensor]) -> Result<(), CompressError> {
        let path = self.path();
        let file = self.filling.get_or_insert_with(|| AnswersFile::new(&path));
        file.add(row, label, answers).map_err(|error| not_stored(&error))
    }

    fn finish(&mut self) -> Result<Score, CompressError> {
        let path = self.path();
        let file = self.filling.take().unwrap_or_else(|| AnswersFile::new(&path));
        file.finish().map_err(|error| not_stored(&error))?;
        self.has_reference = true;
        self.run(&path).map_err(|reason| CompressError::Command { reason })
    }
}

fn not_stored(error: &std::io::Error) -> CompressError {
    CompressError::Command { reason: format!("store answers for it: {error}") }
}

/// A child and everything that it started; ended when this value goes.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
                // It may have ended by itself meanwhile.
                let _gone = kill_process_group(group, Signal::KILL);
            }
            let _status = self.0.wait();
        }
    }
}

fn wait(mut group: Group, limit: Duration) -> Result<ExitStatus, String> {
    let until = Instant::now() + limit;
    loop {
        match group.0.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if Instant::now() >= until => {
                return Err(format!("it took longer than {} s", limit.as_secs_f32()));
            }
            Ok(None) => thread::sleep(LOOK),
            Err(error) => return Err(format!("wait for it: {error}")),
        }
    }
}

/// The last part of a file, as text.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads `NUMBER`, `NUMBER higher` or `NUMBER lower` from the last line that is not empty.
fn score(printed: &str) -> Result<Score, String> {
    let last = printed.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let wrong = || {
        let line: String = last.chars().take(TOLD_MAX).collect();
        format!("its last line must be NUMBER, `NUMBER higher` or `NUMBER lower` (which is better), and is {line:?}")
    };
    let mut words = last.split_whitespace();
    let value: f64 = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
    let higher_is_better = match (words.next(), words.next()) {
        (None, _) | (Some("higher"), None) => true,
        (Some("lower"), None) => false,
        (Some(_), _) => return Err(wrong()),
    };
    Ok(Score { value, higher_is_better })
}

/// A folder of this run, removed at its end.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;

        let folder = std::env::temp_dir().join(format!("sanderling-measure-{}", uuid::Uuid::new_v4()));
        // Nobody else may read the answers, or put others there.
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is small, and in the folder for such things.
        let _removed = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_a_number_and_says_which_way_is_better() {
        let read = |text: &str| score(text).map(|score| (score.value, score.higher_is_better));
        assert_eq!(read("loading\n0.25\n\n"), Ok((0.25, true)));
        assert_eq!(read("12.5 lower"), Ok((12.5, false)));
        assert_eq!(read("-3e-2 higher\n"), Ok((-0.03, true)));
        assert!(read("nan").is_ok_and(|(value, _)| value.is_nan()));
        for wrong in ["", "accuracy 0.5", "0.5 better", "0.5 lower is better"] {
            assert!(read(wrong).unwrap_err().contains("NUMBER"), "{wrong:?}");
        }
    }

    #[test]
    fn a_command_judges_answers_or_says_why_not() {
        let examples = Scratch::new().unwrap();
        let judge = |command: &str| CommandJudge::new(command, &examples.0).unwrap().finish();
        assert_eq!(judge("test -s \"$SANDERLING_REFERENCE\" && echo 0.5 lower #").unwrap().value, 0.5);
        let told = |command: &str| judge(command).unwrap_err().to_string();
        assert!(told("echo broken >&2; exit 7; true").contains("broken"));
        assert!(told("/nowhere/score").contains("not found"));
        assert!(told("echo fine #").contains("\"fine\""));
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_what_it_started() {
        let examples = Scratch::new().unwrap();
        let started = examples.0.join("started");
        let command = format!("sleep 3600 & echo $! > {}; wait; echo 1 #", started.display());
        let mut judge = CommandJudge::new(&command, &examples.0).unwrap();
        judge.run_max = Duration::from_millis(500);
        let told = judge.finish().unwrap_err().to_string();
        assert!(told.contains("longer than 0.5 s"), "{told}");
        // The sleeping process is gone, or a zombie that its new parent has not collected. A busy
        // kernel ends a killed process when it next runs, so the test waits for it.
        if let Ok(pid) = fs::read_to_string(&started) {
            let state = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            let ended = |state: &str| state.is_empty() || state.contains(") Z") || state.contains(") X");
            let give_up = Instant::now() + Duration::from_secs(60);
            while !ended(&state()) && Instant::now() < give_up {
                thread::sleep(LOOK);
            }
            assert!(ended(&state()), "{}", state());
        }
    }
}
