//! Line protocol between the benchmark and a peer, so that the two can take turns.
//!
//! The peer prints `ready NAME OF ADAPTER` once it is warm. Then each input line is one request: `run` for one timed
//! iteration, to which it responds with the milliseconds; `dump FILE` for the result, written as little-endian f32, to
//! which it responds with the number of values. It ends when its input ends.

use std::io::{BufRead, Write};
use std::time::Instant;

/// Number of iterations before `ready`: drivers compile on the first, allocators settle on the second.
const WARM_UP: usize = 3;

/// Operation that a peer measures.
pub trait Subject {
    /// Runs one iteration and waits for its end.
    fn run(&mut self);
    /// Returns the result of an iteration.
    fn output(&mut self) -> Vec<f32>;
}

/// Returns numbers that are neither zero nor equal; the benchmark uses the same.
#[allow(dead_code, reason = "a peer that runs a model reads its input from a file")]
pub fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919) % 2003) as f32 / 2003.0 - 0.5).collect()
}

/// Serves requests until the input ends.
pub fn serve(adapter: &str, subject: &mut dyn Subject) -> std::io::Result<()> {
    for _iteration in 0..WARM_UP {
        subject.run();
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready {adapter}")?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("run", _) => {
                let begin = Instant::now();
                subject.run();
                writeln!(out, "{:.6}", begin.elapsed().as_secs_f64() * 1e3)?;
            }
            ("dump", file) => {
                let values = subject.output();
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                std::fs::write(file, bytes)?;
                writeln!(out, "{}", values.len())?;
            }
            _ => writeln!(out, "what is {line:?}?")?,
        }
        out.flush()?;
    }
    Ok(())
}
