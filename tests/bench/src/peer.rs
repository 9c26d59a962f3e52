//! Foreign programs to compare with: built once into the cache, then controlled line by line (see `peers/serve.rs`).

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use testkit::binaries::{cache, workspace};

/// Source files of a peer, below `peers/`; their digest names its binary.
const SOURCES: [&str; 3] = ["Cargo.toml", "Cargo.lock", "src/main.rs"];

/// Number of hexadecimal digits of the digest in a binary's name.
const DIGEST_DIGITS: usize = 16;

/// A running peer process.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Returns the peer's binary, built if this source has not been built on this machine before. burn takes 17 minutes of
/// CPU time.
///
/// # Errors
/// Fails when cargo cannot build it: no network the first time, or no space.
pub fn built(name: &str) -> Result<PathBuf> {
    let peers = workspace().join("tests/bench/peers");
    let source = peers.join(name);
    let store = cache()?.join("peers");
    let binary = store.join(format!("{name}-{}", digest(&peers, name)?));
    if binary.is_file() {
        return Ok(binary);
    }
    eprintln!("building the peer {name} in {}, once; this takes minutes", store.display());
    let target = store.join(format!("target-{name}"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet"]).current_dir(source).env("CARGO_TARGET_DIR", &target);
    let status = cargo.status().context("run cargo build")?;
    ensure!(status.success(), "the peer {name} does not build: see cargo's output above");
    // Appears complete or not at all.
    let fresh = store.join(format!(".{name}-{}", std::process::id()));
    fs::copy(target.join("release").join(format!("peer-{name}")), &fresh).context("keep the peer's binary")?;
    fs::rename(&fresh, &binary).with_context(|| format!("move into place as {}", binary.display()))?;
    Ok(binary)
}

fn digest(peers: &Path, name: &str) -> Result<String> {
    let files = SOURCES.iter().map(|file| peers.join(name).join(file)).chain([peers.join("serve.rs")]);
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    let digest = hex::encode(hasher.finalize());
    Ok(digest.get(..DIGEST_DIGITS).unwrap_or(&digest).to_owned())
}

impl Peer {
    /// Starts the peer and waits until it is warm.
    ///
    /// # Errors
    /// Fails if it ends before that; its error is on stderr.
    pub fn start(program: &Path, arguments: &[&OsStr]) -> Result<Self> {
        let mut command = Command::new(program);
        let child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("start {}", program.display()))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.context("a peer without pipes")?;
        let mut peer = Self { child, input, output: BufReader::new(output) };
        let said = peer.line()?;
        ensure!(said.starts_with("ready"), "the peer said {said:?} instead of ready");
        Ok(peer)
    }

    /// Runs one iteration; returns the milliseconds that the peer measured.
    ///
    /// # Errors
    /// Fails if it has ended or its response is malformed.
    pub fn run(&mut self) -> Result<f64> {
        let said = self.ask("run")?;
        said.parse().with_context(|| format!("the peer said {said:?} instead of its milliseconds"))
    }

    /// Returns the peer's result.
    ///
    /// # Errors
    /// Fails when it has ended or its file cannot be read.
    pub fn output(&mut self) -> Result<Vec<f32>> {
        let file = tempfile::NamedTempFile::new().context("make a file for the peer's result")?;
        self.ask(&format!("dump {}", file.path().display()))?;
        let bytes = fs::read(file.path()).context("read the peer's result")?;
        let (words, _rest) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|&word| f32::from_le_bytes(word)).collect())
    }

    /// Resumes the peer, sends one request, and suspends it again: burn's threads poll for work some hundred times a
    /// second, and would take a tenth of a core from the next contestant.
    fn ask(&mut self, request: &str) -> Result<String> {
        self.signal(Signal::CONT)?;
        let said = self.say(request);
        self.signal(Signal::STOP)?;
        said
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a peer without a number")?;
        kill_process(process, signal).context("stop or wake the peer")
    }

    fn say(&mut self, request: &str) -> Result<String> {
        writeln!(self.input, "{request}").and_then(|()| self.input.flush()).context("write to the peer")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).context("read from the peer")?;
        ensure!(count > 0, "the peer has ended; see its output above");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Returns the largest difference of two results divided by the largest magnitude of the second.
///
/// # Errors
/// Fails if their lengths differ, or the difference exceeds `tolerance`: then one of the two is wrong.
pub fn agree(ours: &[f32], theirs: &[f32], tolerance: f32) -> Result<f32> {
    ensure!(ours.len() == theirs.len(), "results of {} and {} values were compared", ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    ensure!(largest.is_finite() && largest > 0.0, "a result that contains only zeros, or NaN");
    let mut furthest = 0.0_f32;
    for (ours, theirs) in ours.iter().zip(theirs) {
        let difference = (ours - theirs).abs() / largest;
        ensure!(difference <= tolerance, "the results differ: {ours} here, {theirs} there");
        furthest = furthest.max(difference);
    }
    Ok(furthest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_did_other_work_is_no_peer() {
        assert!(agree(&[1.0, 2.0], &[1.0, 2.000_001], 1e-5).is_ok());
        assert!(agree(&[1.0, 2.0], &[1.0, 2.1], 1e-5).is_err());
        assert!(agree(&[1.0, 2.0], &[1.0], 1e-5).is_err());
        assert!(agree(&[0.0, 0.0], &[0.0, 0.0], 1e-5).is_err(), "zeros agree with anything that did nothing");
        assert!(agree(&[f32::NAN], &[1.0], 1e-5).is_err());
    }

    #[test]
    fn another_source_is_another_binary() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for file in SOURCES {
            write(&format!("p/{file}"), "one");
        }
        write("serve.rs", "one");
        let first = digest(folder.path(), "p").unwrap();
        write("serve.rs", "two");
        assert_ne!(digest(folder.path(), "p").unwrap(), first);
        assert!(digest(folder.path(), "q").is_err());
    }

    #[test]
    fn a_peer_answers_in_its_own_time() {
        let script = "echo ready here; while read line rest; do case $line in run) echo 1.5;; \
                      dump) printf '\\000\\000\\200\\077' > $rest; echo 1;; esac; done";
        let arguments = ["-c".as_ref(), script.as_ref()];
        let mut peer = Peer::start(Path::new("/bin/sh"), &arguments).unwrap();
        assert_eq!(peer.run().unwrap(), 1.5);
        assert_eq!(peer.output().unwrap(), [1.0]);
    }

    #[test]
    fn a_peer_that_dies_at_once_is_an_error() {
        let arguments = ["-c".as_ref(), "exit 1".as_ref()];
        assert!(Peer::start(Path::new("/bin/sh"), &arguments).unwrap_err().to_string().contains("has ended"));
    }
}
