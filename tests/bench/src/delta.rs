//! Deltas between model files against zstd, zstd with the old file, xdelta3 and bsdiff: bytes, time to make, time to apply.
//!
//! The peers are the Debian programs; a peer that is not installed leaves its rows without a number. Every delta of ours is applied
//! and compared with the new file. Needs the pairs of `models/tools/tools/delta_pairs.py`.

use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bench::race::{race, timed};
use bench::row::{Bar, Row};
use bench::sample::Sample;
use bundle::delta::{Expected, apply};
use model_tools::delta;
use testkit::tools::DELTA_PAIRS_ENV;
use types::Digest;

/// Largest new file for which bsdiff runs, in bytes: it takes a minute and 17 times its memory for each hundred megabytes.
const BSDIFF_BYTES_MAX: u64 = 30_000_000;

/// Maximum rounds of a time: the slowest peer takes half a minute.
const ROUNDS_MAX: u32 = 3;

/// Maximum time to apply a delta, in times that zstd takes to decompress the new file.
const APPLY_SHARE: f64 = 5.0;

/// Minimum speed of making a delta, in times that of bsdiff.
const MAKE_TIMES: f64 = 10.0;

/// Program that makes deltas.
struct Peer {
    name: &'static str,
    program: &'static str,
    arguments: fn(&Path, &Path, &Path) -> Vec<PathBuf>,
}

const PEERS: [Peer; 4] = [
    Peer {
        name: "zstd -19",
        program: "zstd",
        arguments: |_, new, out| {
            paths(&["-q", "-f", "-19", "--long=27", "--single-thread"], &[new, Path::new("-o"), out])
        },
    },
    Peer {
        name: "zstd -19 --patch-from",
        program: "zstd",
        arguments: |old, new, out| {
            let from = format!("--patch-from={}", old.display());
            paths(&["-q", "-f", "-19", "--long=27", "--single-thread", &from], &[new, Path::new("-o"), out])
        },
    },
    Peer {
        name: "xdelta3 -9",
        program: "xdelta3",
        arguments: |old, new, out| paths(&["-9", "-f", "-e", "-s"], &[old, new, out]),
    },
    Peer { name: BSDIFF, program: "bsdiff", arguments: |old, new, out| paths(&[], &[old, new, out]) },
];

const BSDIFF: &str = "bsdiff";

fn paths(options: &[&str], files: &[&Path]) -> Vec<PathBuf> {
    options.iter().map(PathBuf::from).chain(files.iter().map(|file| file.to_path_buf())).collect()
}

/// Returns the bar on our bytes against a peer for a pair, if there is one.
fn bar(pair: &str, peer: &str) -> Option<Bar> {
    let is_int8 = pair.ends_with("int8") || pair.ends_with("int8-qdq");
    match (peer, pair.contains("-head-"), is_int8) {
        ("zstd -19", _, _) => Some(Bar::Share(1.0)),
        (BSDIFF, false, true) => Some(Bar::Share(0.9)),
        (BSDIFF, true, true) => Some(Bar::Share(0.85)),
        ("zstd -19 --patch-from", false, false) => Some(Bar::Share(0.6)),
        ("zstd -19 --patch-from", true, false) => Some(Bar::Share(0.7)),
        _ => None,
    }
}

/// Measures all pairs whose figures contain `only`.
pub(crate) fn rows(rounds: u32, only: &str) -> Result<Vec<Row>> {
    let folder = std::env::var_os(DELTA_PAIRS_ENV)
        .with_context(|| format!("{DELTA_PAIRS_ENV} is not set: start by cargo xtask bench"))?;
    let mut pairs: Vec<PathBuf> =
        std::fs::read_dir(&folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    pairs.sort();
    let mut rows = Vec::new();
    for pair in pairs {
        let name = pair.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.contains(only) {
            eprintln!("measuring {name}");
            rows.extend(of_pair(&name, &pair, rounds.min(ROUNDS_MAX))?);
        }
    }
    Ok(rows)
}

fn of_pair(name: &str, folder: &Path, rounds: u32) -> Result<Vec<Row>> {
    let (old_file, new_file) = (folder.join("old.onnx"), folder.join("new.onnx"));
    let old = std::fs::read(&old_file).context("read the old file")?;
    let new = std::fs::read(&new_file).context("read the new file")?;
    let scratch = tempfile::tempdir()?;
    let out = scratch.path().join("out");
    let made = delta::make(&old, &new)?;
    let expected = Expected { digest: Digest::of(&new), bytes: new.len() as u64 };
    let ours = Sample::exact(made.bytes.len() as f64);

    let mut rows = Vec::new();
    for peer in &PEERS {
        let bar = bar(name, peer.name);
        let row = Row::empty(&format!("delta_bytes/{name}"), "bytes", Some(peer.name), bar);
        if peer.name == BSDIFF && new.len() as u64 > BSDIFF_BYTES_MAX {
            rows.push(row.missing("the file is too large for bsdiff"));
            continue;
        }
        rows.push(match run(peer.program, (peer.arguments)(&old_file, &new_file, &out)) {
            Ok(_) => row.measured(bar, &ours, Some(&Sample::exact(std::fs::metadata(&out)?.len() as f64))),
            Err(error) => row.missing(format!("{error:#}")),
        });
    }

    let bar = Some(Bar::TimesFaster(MAKE_TIMES));
    let row = Row::empty(&format!("delta_make/{name}"), "ms", Some(BSDIFF), bar);
    let is_small = new.len() as u64 <= BSDIFF_BYTES_MAX;
    rows.push(if is_small && run("bsdiff", (PEERS[3].arguments)(&old_file, &new_file, &out)).is_ok() {
        let [ours, theirs] = race(
            rounds,
            [&mut || Ok(timed(|| Ok(delta::make(&old, &new)?))?.0), &mut || {
                run("bsdiff", (PEERS[3].arguments)(&old_file, &new_file, &out))
            }],
        )?;
        row.measured(bar, &ours, Some(&theirs))
    } else {
        row.missing("bsdiff is not installed, or the file is too large for it")
    });

    let bar = Some(Bar::Share(APPLY_SHARE));
    let row = Row::empty(&format!("delta_apply/{name}"), "ms", Some("zstd, the whole file"), bar);
    let compressed = zstd::bulk::compress(&new, 19)?;
    let [ours, theirs] = race(
        rounds,
        [
            &mut || {
                let mut result = Vec::with_capacity(new.len());
                let (took, ()) =
                    timed(|| Ok(apply(&mut Cursor::new(&old), &mut &*made.bytes, &mut result, &expected)?))?;
                ensure!(result == new, "the delta of {name} brings back another file");
                Ok(took)
            },
            &mut || {
                let mut result = Vec::with_capacity(new.len());
                // A file that arrives whole is hashed too.
                let (took, digest) = timed(|| {
                    zstd::stream::read::Decoder::new(&*compressed)?.read_to_end(&mut result)?;
                    Ok(Digest::of(&result))
                })?;
                ensure!(digest == expected.digest, "zstd brings back another file");
                Ok(took)
            },
        ],
    )?;
    rows.push(row.measured(bar, &ours, Some(&theirs)));
    Ok(rows)
}

/// Runs a program and returns the milliseconds that it took.
fn run(program: &str, arguments: Vec<PathBuf>) -> Result<f64> {
    let (took, status) = timed(|| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        command.status().with_context(|| format!("{program} is not installed"))
    })?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(took)
}
