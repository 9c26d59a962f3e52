//! Tests of a worker with the fake engine.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use types::{Mismatch, NamedTensor, Signature, Tensor};

use super::{InferError, SessionHandle, SessionWorker, WorkerOptions};
use crate::fake::{FakeEngine, Gate};
use crate::session::{Engine, LoadOptions, ModelBytes, RunControl, RunError, Session};

fn session(engine: &FakeEngine) -> Box<dyn Session> {
    engine.load(ModelBytes::from(b"10".to_vec()), &LoadOptions::default()).unwrap()
}

/// A worker whose session waits at a gate.
fn gated(queue: usize) -> (SessionHandle, Gate) {
    let gate = Gate::default();
    let engine = FakeEngine::new(1).gated(gate.clone());
    let options = WorkerOptions { queue, ..WorkerOptions::default() };
    (SessionWorker::start(session(&engine), &options).unwrap(), gate)
}

fn row(value: f32) -> Vec<NamedTensor> {
    vec![NamedTensor { name: "x".into(), tensor: Tensor::from_f32(vec![1, 1], &[value]).unwrap() }]
}

/// Asks and gives the answer less what was asked: 10, whatever the number.
async fn ask(worker: SessionHandle, value: f32) -> Result<f32, InferError> {
    let outcome = worker.infer(row(value), vec![], None).await?;
    Ok(outcome.outputs[0].tensor.to_f32().unwrap()[0] - value)
}

/// Waits until that many requests wait.
async fn until_waiting(worker: &SessionHandle, count: usize) {
    while worker.waiting() != count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_request_gets_its_own_answer() {
    let engine = FakeEngine::new(1);
    let sessions = (0..3).map(|_| session(&engine)).collect();
    let worker = SessionWorker::start_pool(sessions, &WorkerOptions::default()).unwrap();
    let mut asked: JoinSet<_> = (0..20_u8).map(|at| ask(worker.clone(), f32::from(at))).collect();
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), 10.0);
    }
}

#[tokio::test]
async fn a_full_queue_says_busy_and_takes_the_next_once_there_is_room() {
    let (worker, gate) = gated(1);
    let mut asked = JoinSet::new();
    asked.spawn(ask(worker.clone(), 1.0));
    tokio::task::yield_now().await;
    gate.wait_for_arrivals(1);
    asked.spawn(ask(worker.clone(), 2.0));
    until_waiting(&worker, 1).await;
    assert!(matches!(ask(worker.clone(), 3.0).await, Err(InferError::Busy { waiting: 1 })));
    gate.open();
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), 10.0);
    }
    assert_eq!(ask(worker, 4.0).await.unwrap(), 10.0);
}

#[tokio::test]
async fn an_asker_who_leaves_gives_his_place_to_the_next() {
    let (worker, gate) = gated(1);
    let mut asked = JoinSet::new();
    asked.spawn(ask(worker.clone(), 1.0));
    tokio::task::yield_now().await;
    gate.wait_for_arrivals(1);
    let leaving = asked.spawn(ask(worker.clone(), 2.0));
    until_waiting(&worker, 1).await;
    leaving.abort();
    until_waiting(&worker, 0).await;
    asked.spawn(ask(worker.clone(), 3.0));
    until_waiting(&worker, 1).await;
    gate.open();
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok().map(Result::unwrap));
    }
    assert_eq!(answers, [10.0, 10.0], "and the one who left got none");
}

#[tokio::test]
async fn a_request_that_waits_past_its_deadline_is_told_so_while_another_runs() {
    let (worker, gate) = gated(4);
    let mut asked = JoinSet::new();
    asked.spawn(ask(worker.clone(), 1.0));
    tokio::task::yield_now().await;
    gate.wait_for_arrivals(1);
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    assert!(matches!(worker.infer(row(2.0), vec![], deadline).await, Err(InferError::Deadline)));
    assert_eq!(worker.waiting(), 0, "and no longer takes a place");
    gate.open();
    assert_eq!(asked.join_next().await.unwrap().unwrap().unwrap(), 10.0);
}

#[tokio::test]
async fn a_deadline_stops_a_long_run() {
    let engine = FakeEngine::new(1).taking(Duration::from_secs(3600));
    let worker = SessionWorker::start(session(&engine), &WorkerOptions::default()).unwrap();
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    assert!(matches!(worker.infer(row(1.0), vec![], deadline).await, Err(InferError::Deadline)));
    worker.stop();
    worker.stopped().await;
}

#[tokio::test]
async fn stopping_answers_what_waits_and_refuses_what_comes() {
    let (worker, gate) = gated(4);
    let mut asked: JoinSet<_> = [1.0, 2.0].into_iter().map(|value| ask(worker.clone(), value)).collect();
    tokio::task::yield_now().await;
    gate.wait_for_arrivals(1);
    until_waiting(&worker, 1).await;
    worker.stop();
    assert!(matches!(ask(worker.clone(), 3.0).await, Err(InferError::Stopped)));
    gate.open();
    while let Some(answer) = asked.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), 10.0);
    }
    worker.stopped().await;
}

#[tokio::test]
async fn a_request_that_does_not_fit_takes_no_place() {
    let (worker, _gate) = gated(0);
    let wrong = vec![NamedTensor { name: "z".into(), tensor: Tensor::from_f32(vec![1], &[0.0]).unwrap() }];
    let error = worker.infer(wrong, vec![], None).await.unwrap_err();
    assert!(matches!(error, InferError::Mismatch(Mismatch::Unknown { .. })));
    let error = worker.infer(row(1.0), vec!["z".into()], None).await.unwrap_err();
    assert!(matches!(error, InferError::Mismatch(Mismatch::Unknown { .. })));
}

#[derive(Debug)]
struct Panicking(Signature);

impl Session for Panicking {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "none"
    }

    fn run(&mut self, _: &[NamedTensor], _: &[String], _: &RunControl) -> Result<Vec<NamedTensor>, RunError> {
        panic!("as an engine should not")
    }
}

#[tokio::test]
async fn an_engine_that_panics_costs_one_request_only() {
    let panicking = Box::new(Panicking(Signature::default()));
    let worker = SessionWorker::start(panicking, &WorkerOptions::default()).unwrap();
    for _ in 0..2 {
        assert!(matches!(worker.infer(vec![], vec![], None).await, Err(InferError::Failed(_))));
    }
}

/// Does not look at its cancel flag, as an engine inside of one endless operator.
#[derive(Debug)]
struct Stubborn(Signature, std::sync::mpsc::Receiver<()>);

impl Session for Stubborn {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "Stubborn"
    }

    fn run(&mut self, _: &[NamedTensor], _: &[String], _: &RunControl) -> Result<Vec<NamedTensor>, RunError> {
        self.1.recv().unwrap();
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_session_that_hangs_is_seen_also_when_nobody_waits_for_it_any_more() {
    let (free, hung) = std::sync::mpsc::sync_channel(1);
    let stubborn = Stubborn(session(&FakeEngine::new(1)).signature().clone(), hung);
    let worker = SessionWorker::start(Box::new(stubborn), &WorkerOptions::default()).unwrap();
    assert_eq!(worker.oldest_run(), None);
    let mut asked = JoinSet::new();
    let leaving = asked.spawn(ask(worker.clone(), 1.0));
    while worker.oldest_run().is_none() {
        tokio::task::yield_now().await;
    }
    leaving.abort();
    assert!(asked.join_next().await.unwrap().is_err());
    assert!(worker.oldest_run().is_some_and(|since| since <= Instant::now()), "nobody waits, and it hangs");
    free.send(()).unwrap();
    while worker.oldest_run().is_some() {
        tokio::task::yield_now().await;
    }
}
