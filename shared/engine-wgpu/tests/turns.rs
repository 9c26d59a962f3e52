//! A long model and a short one on one device: the short one is answered between the turns of the long one, and a run
//! that nobody wants any more ends between two turns.
#![expect(clippy::unwrap_used, reason = "a test may stop anywhere")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use engine::{CancelFlag, RunControl, RunError, Session};
use engine_wgpu::ModelError;
use rten_onnx::onnx::DataType;
use support::{Model, engine, f32s};

/// Rows and columns of the long model's products; one is 0.27 billion operations, more than a turn begins with.
const WIDE: usize = 512;

/// Products of the long model in a row: some hundred turns, seconds on a software adapter.
const PRODUCTS: usize = 60;

/// Products of a model that no software adapter computes within a second: 160 billion operations.
const TOO_MANY: usize = 600;

fn long(products: usize) -> Vec<u8> {
    let side = i64::try_from(WIDE).unwrap();
    let weights: Vec<u8> =
        (0..WIDE * WIDE).flat_map(|at| (if at % (WIDE + 1) == 0 { 1_f32 } else { 0.0 }).to_le_bytes()).collect();
    let mut model = Model::new(17).input("x", DataType::FLOAT, &[side, side]).constant(
        "w",
        DataType::FLOAT,
        &[side, side],
        &weights,
    );
    for at in 0..products {
        let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("p{at}") };
        let to = if at + 1 == products { "y".to_owned() } else { name(at + 1) };
        model = model.node("MatMul", &[&name(at), "w"], &[&to]);
    }
    model.output("y", DataType::FLOAT, &[side, side]).bytes()
}

fn short() -> Vec<u8> {
    Model::new(17)
        .input("x", DataType::FLOAT, &[1, 8])
        .node("Relu", &["x"], &["y"])
        .output("y", DataType::FLOAT, &[1, 8])
        .bytes()
}

#[test]
fn a_short_model_is_answered_between_the_turns_of_a_long_one() {
    let Some(engine) = engine() else { return };
    let mut long = engine.load_checked(&long(PRODUCTS)).unwrap();
    let mut short = engine.load_checked(&short()).unwrap();
    let x = f32s("x", &[WIDE, WIDE], &vec![1.5; WIDE * WIDE]);
    let (started, starts) = mpsc::sync_channel(1);
    let running = thread::spawn(move || {
        started.send(()).unwrap();
        long.run(&[x], &[], &RunControl::default()).unwrap()
    });
    starts.recv().unwrap();
    // Counts submissions in place of time, so that neither a slow nor a busy machine changes the result.
    let input = [f32s("x", &[1, 8], &[1.0; 8])];
    let before = engine.gpu().submissions();
    let mut during = 0;
    while !running.is_finished() {
        short.run(&input, &[], &RunControl::default()).unwrap();
        during += 1;
    }
    let turns = engine.gpu().submissions() - before - during;
    let outputs = running.join().unwrap();
    assert!(during * 8 >= turns, "{during} short answers in {turns} turns of the long model");
    let values = outputs[0].tensor.to_f32().unwrap();
    assert!(values.iter().all(|&value| value == 1.5), "what runs between does no harm");
}

/// Products of the models that share the device in the test below: some tens of turns each.
const FEW_PRODUCTS: usize = 20;

/// Sessions of the model that would take the device for itself.
const MANY_SESSIONS: usize = 8;

#[test]
fn a_model_with_many_sessions_takes_no_larger_share_than_one_with_one() {
    let Some(engine) = engine() else { return };
    let x = || [f32s("x", &[WIDE, WIDE], &vec![1.5; WIDE * WIDE])];
    let crowded = long(FEW_PRODUCTS);
    let mut sessions: Vec<_> = (0..MANY_SESSIONS).map(|_| engine.load_checked(&crowded).unwrap()).collect();
    let mut other = engine.load_checked(&long(FEW_PRODUCTS + 1)).unwrap();
    let before = engine.gpu().submissions();
    other.run(&x(), &[], &RunControl::default()).unwrap();
    let own = engine.gpu().submissions() - before;
    let done = AtomicBool::new(false);
    let crowd = thread::scope(|scope| {
        for session in &mut sessions {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    session.run(&x(), &[], &RunControl::default()).unwrap();
                }
            });
        }
        while engine.gpu().submissions() < before + own + MANY_SESSIONS {
            thread::yield_now();
        }
        let begun = engine.gpu().submissions();
        other.run(&x(), &[], &RunControl::default()).unwrap();
        let ended = engine.gpu().submissions();
        done.store(true, Ordering::Relaxed);
        (ended - begun).saturating_sub(own)
    });
    // By turn of sessions it would be eight for each turn of the other model.
    assert!(crowd <= own * 4, "{crowd} turns of {MANY_SESSIONS} sessions beside {own} of another model");
}

#[test]
fn a_run_that_is_cancelled_or_late_ends_between_two_turns() {
    let Some(engine) = engine() else { return };
    let mut session = engine.load_checked(&long(PRODUCTS)).unwrap();
    let x = [f32s("x", &[WIDE, WIDE], &vec![1.0; WIDE * WIDE])];
    let submissions = || engine.gpu().submissions();
    let begun = submissions();
    session.run(&x, &[], &RunControl::default()).unwrap();
    let whole = submissions() - begun;
    let cancel = CancelFlag::default();
    cancel.cancel();
    let begun = submissions();
    let cancelled = session.run(&x, &[], &RunControl { cancel, deadline: None });
    assert!(matches!(cancelled, Err(RunError::Cancelled)), "{cancelled:?}");
    let late = session.run(&x, &[], &RunControl { deadline: Some(Instant::now()), ..RunControl::default() });
    assert!(matches!(late, Err(RunError::Deadline)), "{late:?}");
    assert_eq!(submissions() - begun, 2, "one turn each");
    assert!(whole > 2 || !engine.gpu().report().software, "a whole run takes {whole} turns");
    let again = session.run(&x, &[], &RunControl::default()).unwrap();
    assert_eq!(again[0].tensor.to_f32().unwrap()[0], 1.0, "the session is as good as before");
}

#[test]
fn a_model_that_cannot_meet_the_run_limit_is_refused_with_the_number() {
    let Some(engine) = engine() else { return };
    match engine.load_within(&long(TOO_MANY), Some(Duration::ZERO)) {
        Err(ModelError::TooSlow { work, seconds, .. }) => {
            assert!(work >= (TOO_MANY * WIDE * WIDE * WIDE) as u64, "{work}");
            assert!(seconds > 0);
        }
        // A device that does all of it within a second is as fast as any limit in whole seconds asks.
        Ok(_fast) => assert!(!engine.gpu().report().software, "a software adapter takes seconds"),
        Err(other) => panic!("{other:?}"),
    }
    engine.load_within(&long(PRODUCTS), Some(Duration::from_secs(3600))).unwrap();
}
