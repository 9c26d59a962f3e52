//! Load of digits on an agent's HTTP server: a sweep over the test set, or steady load until stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::digits::top1;
use crate::{Client, Digits, InferOptions};

/// One request and its result.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Place of the digit in the test set.
    pub index: usize,
    /// Time of sending.
    pub sent: Instant,
    /// Duration until the whole response was received.
    pub took: Duration,
    /// Response, or the text of the error.
    pub outcome: Result<Seen, String>,
}

/// Content of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Version that served the request.
    pub version: u64,
    /// Host that served: `device` or `hub`.
    pub place: String,
    /// Reason for the choice of the host.
    pub reason: String,
    /// Variant that served the request.
    pub variant: String,
    /// Top class of the response.
    pub top1: Option<u8>,
    /// Whether the top class is the true one.
    pub right: bool,
    /// Largest share of wrong answers that the response promises; `None` where nothing is certified.
    pub alpha: Option<f64>,
}

/// Sends one digit and returns its sample.
#[must_use]
pub fn ask_one(client: &Client, digits: &Digits, index: usize, ask: &InferOptions) -> Sample {
    let input = [digits.input(index)];
    let sent = Instant::now();
    let reply = client.infer("digits", &input, ask).and_then(crate::Reply::ok);
    let took = sent.elapsed();
    let outcome = reply.map_err(|error| format!("{error:#}")).map(|reply| Seen {
        version: reply.version(),
        place: reply.parameter("place"),
        reason: reply.parameter("reason"),
        variant: reply.parameter("variant"),
        top1: top1(&reply.output),
        right: top1(&reply.output) == Some(digits.label(index)),
        alpha: reply.json["parameters"]["alpha"].as_f64(),
    });
    Sample { index, sent, took, outcome }
}

/// Sends the first `count` digits, one at a time over each of `clients`, and returns the samples in no particular
/// order.
///
/// `clients` may contain clients of the same server, for more concurrent requests. `done` is called after each
/// response.
///
/// # Errors
/// Fails if a thread panicked.
pub fn sweep(
    clients: &[Client],
    digits: &Arc<Digits>,
    ask: &InferOptions,
    count: usize,
    done: impl Fn() + Clone + Send + 'static,
) -> Result<Vec<Sample>> {
    let next = Arc::new(AtomicUsize::new(0));
    let threads: Vec<JoinHandle<Vec<Sample>>> = clients
        .iter()
        .map(|client| {
            let (client, digits, ask, next) = (client.clone(), Arc::clone(digits), ask.clone(), Arc::clone(&next));
            let done = done.clone();
            thread::spawn(move || {
                let indices = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
                let indices = indices.take_while(|&index| index < count);
                let asked = indices.map(|index| ask_one(&client, &digits, index, &ask));
                asked.inspect(|_sample| done()).collect()
            })
        })
        .collect();
    join(threads)
}

fn join(threads: Vec<JoinHandle<Vec<Sample>>>) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for thread in threads {
        samples.extend(thread.join().map_err(|_panic| anyhow!("a thread of the load panicked"))?);
    }
    Ok(samples)
}

/// Load that continues until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    /// Starts `clients` threads that send a request, pause, and repeat.
    #[must_use]
    pub fn start(client: &Client, digits: &Arc<Digits>, ask: &InferOptions, clients: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..clients)
            .map(|_| {
                let (client, digits, ask) = (client.clone(), Arc::clone(digits), ask.clone());
                let (stop, sent, failed) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&failed));
                thread::spawn(move || {
                    let mut samples = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let sample = ask_one(&client, &digits, sent.fetch_add(1, Ordering::Relaxed), &ask);
                        failed.fetch_add(usize::from(sample.outcome.is_err()), Ordering::Relaxed);
                        samples.push(sample);
                        thread::sleep(pause);
                    }
                    samples
                })
            })
            .collect();
        Self { stop, sent, failed, threads }
    }

    /// Returns the number of requests sent so far.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the number of requests that failed so far.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// Stops the load and returns every sample in the order of sending.
    ///
    /// # Errors
    /// Fails if a thread panicked.
    pub fn finish(self) -> Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut samples = join(self.threads)?;
        samples.sort_by_key(|sample| sample.sent);
        Ok(samples)
    }
}

/// Statistics of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Number of requests sent.
    pub requests: usize,
    /// Number of requests without a successful response.
    pub failed: usize,
    /// Share of responses with the true class.
    pub accuracy: f64,
    /// Share of responses from the hub.
    pub from_hub: f64,
    /// Median time to the whole response.
    pub p50: Duration,
    /// 99th percentile of the time to the whole response.
    pub p99: Duration,
    /// Text of the first failure, if there was one.
    pub first_failure: Option<String>,
}

impl Summary {
    /// Computes the statistics of samples.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        let answers: Vec<&Seen> = samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()).collect();
        let mut times: Vec<Duration> =
            samples.iter().filter(|sample| sample.outcome.is_ok()).map(|sample| sample.took).collect();
        times.sort();
        Self {
            requests: samples.len(),
            failed: samples.len() - answers.len(),
            accuracy: share(answers.iter().filter(|seen| seen.right).count(), answers.len()),
            from_hub: share(answers.iter().filter(|seen| seen.place == "hub").count(), answers.len()),
            p50: quantile(&times, 50),
            p99: quantile(&times, 99),
            first_failure: samples.iter().find_map(|sample| sample.outcome.as_ref().err().cloned()),
        }
    }
}

/// Returns the share of the requests for digits from `first` on that a device answered otherwise than the full model, whose
/// answers are `full`.
#[must_use]
pub fn kept_and_different(samples: &[Sample], full: &[Sample], first: usize) -> f64 {
    let answer = |sample: &Sample| sample.outcome.as_ref().ok().and_then(|seen| seen.top1);
    let full: HashMap<usize, Option<u8>> = full.iter().map(|sample| (sample.index, answer(sample))).collect();
    let counted: Vec<&Sample> = samples.iter().filter(|sample| sample.index >= first).collect();
    let differs = |sample: &&&Sample| {
        sample.outcome.as_ref().is_ok_and(|seen| seen.place == "device")
            && full.get(&sample.index) != Some(&answer(sample))
    };
    share(counted.iter().filter(differs).count(), counted.len())
}

/// Returns the time that `percent` of 100 sorted times do not exceed (nearest rank).
fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn share(part: usize, whole: usize) -> f64 {
    let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    if whole == 0 { 0.0 } else { float(part) / float(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 50), Duration::from_millis(50));
        assert_eq!(quantile(&times, 99), Duration::from_millis(99));
        assert_eq!(quantile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(quantile(&[], 99), Duration::ZERO);
    }
}
