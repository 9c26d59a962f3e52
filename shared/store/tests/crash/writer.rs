//! A process that writes to a store until it is killed, and the check of its data.
//!
//! The test binary starts itself again as the writer, through a test that does nothing otherwise.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use store::files::{Mode, read_bounded, write_atomic};
use store::{Batch, Opened, SledStore, Store};

/// Environment variables that pass a started writer its folder, its first number and its work.
const FOLDER: &str = "SANDERLING_TEST_STORE_WRITER";
const BEGIN: &str = "SANDERLING_TEST_STORE_BEGIN";
const WORK: &str = "SANDERLING_TEST_STORE_WORK";

/// Work of a writer. Separate, because an fsync of one file includes others on some file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Writes batches to the store.
    Store,
    /// Writes plain files.
    Files,
    /// Writes a batch, then a file.
    Both,
}

impl Work {
    const ALL: [Self; 3] = [Self::Store, Self::Files, Self::Both];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Files => "files",
            Self::Both => "both",
        }
    }
}

/// Number of concurrent writers in one process, so that writes are grouped.
const TASKS: u64 = 4;

/// Number of batches after which an old batch is removed, so that the log is cleaned while it is written.
const KEPT: u64 = 400;

/// Acknowledged writes: task and number.
pub(crate) type Acknowledged = BTreeSet<(u64, u64)>;

/// Runs as the writer process of the tests, not as a test: writes batches of two keys or plain files forever, and
/// reports each one once it is acknowledged. Does nothing in the run of the tests themselves.
#[test]
fn writer_process() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let begin: u64 = std::env::var(BEGIN).unwrap().parse().unwrap();
    let work = std::env::var(WORK).unwrap();
    let work = Work::ALL.into_iter().find(|known| known.as_str() == work).unwrap();
    let store = Arc::new(SledStore::open(&folder.join("store")).unwrap().0);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let (store, folder) = (Arc::clone(&store), folder.clone());
            tasks.spawn(async move {
                for number in (begin + task..).step_by(usize::try_from(TASKS).unwrap()) {
                    if work != Work::Files {
                        store.apply(batch(number)).await.unwrap();
                    }
                    if work != Work::Store {
                        write_atomic(&pointer(&folder, task), &pointer_content(number), Mode::Shared).unwrap();
                    }
                    say(&format!("acknowledged {task} {number}"));
                }
            });
        }
        tasks.join_all().await;
    });
}

/// Writes one line with one system call, so that a killed process leaves no partial line in the pipe.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Returns a batch of two keys that only ever appear together, one of them with a value of several pieces; and the
/// removal of an old pair.
fn batch(number: u64) -> Batch {
    let batch = Batch::new().put(key("a", number), small(number)).put(key("b", number), large(number));
    match number.checked_sub(KEPT) {
        Some(old) => batch.put(key("a", old), "done").delete(key("b", old)),
        None => batch,
    }
}

fn key(side: &str, number: u64) -> Vec<u8> {
    format!("{side}/{number:012}").into_bytes()
}

fn small(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn large(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(usize::try_from(number * 37 % 1500).unwrap())
}

fn pointer(folder: &Path, task: u64) -> PathBuf {
    folder.join(format!("pointer-{task}"))
}

fn pointer_content(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(100)
}

/// A writer process and its acknowledged writes so far.
pub(crate) struct Writer {
    child: Child,
    lines: Receiver<String>,
    acknowledged: Acknowledged,
}

impl Writer {
    pub(crate) fn start(folder: &Path, begin: u64, work: Work) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["writer::writer_process", "--exact", "--nocapture"]);
        command.env(FOLDER, folder).env(BEGIN, begin.to_string()).env(WORK, work.as_str());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = File::from(OwnedFd::from(child.stdout.take().unwrap()));
        // More lines than any run of a test writes; the thread ends with the pipe or with the receiver.
        let (sender, lines) = sync_channel(1 << 20);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, acknowledged: Acknowledged::new() }
    }

    /// Waits until `count` more batches are acknowledged.
    pub(crate) fn wait_for(&mut self, count: usize) {
        let goal = self.acknowledged.len() + count;
        while self.acknowledged.len() < goal {
            let line = self.lines.recv().expect("the writer goes on until it is killed");
            self.note(&line);
        }
    }

    fn note(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("acknowledged ") {
            let (task, number) = rest.split_once(' ').unwrap();
            self.acknowledged.insert((task.parse().unwrap(), number.parse().unwrap()));
        }
    }

    /// Kills the process without warning; returns its acknowledged writes.
    pub(crate) fn kill(mut self) -> Acknowledged {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv() {
            self.note(&line);
        }
        std::mem::take(&mut self.acknowledged)
    }

    /// Calls `at_rest` while the process is stopped, with its acknowledged writes at that time.
    pub(crate) fn frozen<T>(&mut self, at_rest: impl FnOnce(&Acknowledged) -> T) -> T {
        use rustix::process::{Pid, Signal, kill_process};
        let process = Pid::from_child(&self.child);
        kill_process(process, Signal::STOP).unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", self.child.id()));
        // The signal is not instantaneous: until the system reports the stop, the process may still acknowledge.
        while !std::fs::read_to_string(&status).unwrap().contains("State:\tT") {
            std::thread::yield_now();
        }
        while let Ok(line) = self.lines.try_recv() {
            self.note(&line);
        }
        let result = at_rest(&self.acknowledged);
        kill_process(process, Signal::CONT).unwrap();
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A failing test must not leave a process behind; one that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Checks the data of a writer: no acknowledged write is missing, no batch is partial. Returns the next number.
pub(crate) fn check(folder: &Path, acknowledged: &Acknowledged, work: Work) -> u64 {
    if work != Work::Store {
        (0..TASKS).for_each(|task| check_pointer(&pointer(folder, task), task, acknowledged));
    }
    if work == Work::Files { 0 } else { check_store(folder, acknowledged) }
}

fn check_store(folder: &Path, acknowledged: &Acknowledged) -> u64 {
    let (store, opened) = SledStore::open(&folder.join("store")).unwrap();
    assert!(opened == Opened::Existing || acknowledged.is_empty(), "{opened:?}");
    let numbers: BTreeSet<u64> = acknowledged.iter().map(|(_, number)| *number).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    // Later writes than the last acknowledged one are present completely or not at all.
    let end = numbers.last().map_or(0, |last| last + 4 * TASKS);
    let there = (0..end).filter(|number| {
        let pair = runtime.block_on(async {
            (store.get(&key("a", *number)).await.unwrap(), store.get(&key("b", *number)).await.unwrap())
        });
        let is_there = is_there(*number, pair.0.as_deref(), pair.1.as_deref());
        assert!(is_there || !numbers.contains(number), "number {number} was acknowledged and is lost");
        is_there
    });
    let next = there.last().map_or(0, |last| last + 1);
    next.next_multiple_of(TASKS)
}

fn is_there(number: u64, a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    match (a, b) {
        (Some(b"done"), None) => true,
        (Some(a), Some(b)) => {
            assert!(a == small(number) && b == large(number), "number {number} is damaged");
            true
        }
        (None, None) => false,
        (a, b) => panic!("number {number} is there by half: {:?} {:?}", a.map(<[u8]>::len), b.map(<[u8]>::len)),
    }
}

/// Checks that the plain file has one complete content, no older than the last acknowledged one.
fn check_pointer(path: &Path, task: u64, acknowledged: &Acknowledged) {
    let last = acknowledged.iter().filter(|(of, _)| *of == task).map(|(_, number)| *number).max();
    let Some(last) = last else { return };
    let content = read_bounded(path, 800).unwrap();
    let number = u64::from_be_bytes(*content.first_chunk().unwrap());
    assert!(content == pointer_content(number), "{} is torn", path.display());
    assert!(number >= last, "{} went back from {last} to {number}", path.display());
}
